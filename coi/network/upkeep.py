"""What is done for a policy while instances run behind it: by :mod:`coi.network.refresher`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from coi.config.text import printable
from coi.errors import CoiError, RefusedError
from coi.files import make_missing
from coi.incus.client import Client
from coi.incus.instances import Instances
from coi.network import answers, resolvers
from coi.network.attachment import Attachment, Scope
from coi.network.duty import Duty, duties, keep, load
from coi.network.fence import Fence, lock_path
from coi.network.hosts import with_hosts
from coi.network.lock import locked
from coi.network.policy import Policy
from coi.network.refresher import DONE, FAILED, OVER, Task
from coi.network.start import renewed

if TYPE_CHECKING:
    from coi.network.answers import Lookup

MAX_LOG = 1 << 20  # bytes of the log
ENTER = 10.0  # seconds for an instance to take the names
_SAID = 1000  # characters of a line, some of which an instance has said


def do(task: Task, path: Path) -> int:
    """One thing; how it ended."""
    duty = load(path)
    if duty is None:
        return OVER
    if task == "look":
        return look(path, duty)
    done = mend(path.parent, duty) if task == "mend" else tell(path.parent, duty)
    return DONE if done else FAILED


def fence_of(directory: Path, duty: Duty) -> Fence:
    """The fence whose duty it is."""
    row = dict(duty.policy)
    row["domains"] = tuple(row["domains"])
    row["networks"] = tuple(IPv4Network(text) for text in row["networks"])
    client = Client(project=duty.project)  # a fence is of the local daemon
    scope = Scope(duty.prefix, os.getuid(), directory, duty.place)
    last = answers.load(directory, duty.hash)
    return Fence(
        client,
        scope,
        Policy(**row),
        {name: answer.addresses for name, answer in last.items()},
        backend=duty.backend,
        profile=duty.profile,
        minutes=duty.minutes,
        log=Path(duty.log) if duty.log else None,
    )


@contextmanager
def standing(directory: Path, acl: str) -> Iterator[None]:
    """The rules of an ACL have been seen to, and are kept right: an instance may be started
    behind them within the block. One call, two where they had to be mended.

    Raises:
        RefusedError: they do not stand, or nothing is known of them here.
    """
    found = [duty for _, duty in duties(directory) if duty.acl == acl]
    fence = fence_of(directory, found[0]) if found else None
    made = fence.held(acl) if fence else None
    if fence is None or made is None:
        raise RefusedError(
            "cannot enforce the network policy: nothing is known of it here",
            details=f"Its network ACL is {acl}; there is no record of it in {directory}.",
            hint="start it with the COI_HOME that it was made with",
        )
    if made.backend == "bridge":
        resolvers.check(fence.policy, made.network)
    with fence.using(made):
        keep(fence, made)
        fence.verify(made)
        yield


def look(path: Path, duty: Duty) -> int:
    """Whether anything runs behind the policy; if so, whether the profile is as it was.

    The file stays while an instance has the ACL that might be started again. A coi that
    makes one holds :meth:`Fence.using`, as this does meanwhile. One call, or two.
    """
    fence = fence_of(path.parent, duty)
    use = locked(lock_path(fence.scope, duty.acl, "use"), timeout=0.0)
    with suppress(CoiError, OSError):
        with use:
            rows = [r for r in Instances(fence.client).all() if r.coi("network-acl") == duty.acl]
            if not rows:
                path.unlink(missing_ok=True)
            if all(row.stopped for row in rows):
                return OVER
        made = fence.held(duty.acl)
        if made is not None and fence.moved(made):
            fence.forget()
    return DONE  # or Incus does not answer, or somebody is about to use it: look again later


def mend(directory: Path, duty: Duty, lookup: Lookup | None = None) -> bool:
    """Bring the rules up to date with the host's addresses and the names'; whether it is done.

    No call where neither have changed. Answers are kept once they stand: what fails is due
    again.
    """
    fence = fence_of(directory, duty)
    lines: list[str] = []
    try:
        last = answers.load(directory, duty.hash)
        names = answers.stale(duty.domains, last, duty.minutes) if duty.minutes else []
        made = fence.held(duty.acl)
        if not names and (made is None or fence.current(made)):
            return True
        fresh = last
        if names:
            own = fence.host.addresses
            asks = lookup or answers.system_lookup
            fresh = renewed(fence.policy, last, names, own, report=lines.append, lookup=asks)
        if made is None:
            answers.save(directory, duty.hash, fresh)
        else:
            lines += _went_over(fence, made, last, fresh)
        unanswered = answers.stale(duty.domains, fresh, duty.minutes) if duty.minutes else []
        lines += [f"{name} does not resolve; it keeps its last addresses" for name in unanswered]
    except CoiError as error:
        lines.append(f"not refreshed: {error.brief} {error.details}".rstrip())
        return False
    else:
        return not unanswered
    finally:
        _write(duty, lines)


def _went_over(
    fence: Fence, made: Attachment, last: answers.Known, fresh: answers.Known
) -> list[str]:
    """Go over to new answers and to the host's addresses; what has changed."""
    directory, policy = fence.scope.directory, fence.policy.hash

    def keep() -> None:
        if fresh != last:
            answers.save(directory, policy, fresh)

    fence.refresh(made, {name: answer.addresses for name, answer in fresh.items()}, keep)
    lines = [
        f"{name}: {', '.join(map(str, answer.addresses))}"
        for name, answer in fresh.items()
        if name not in last or last[name].addresses != answer.addresses
    ]
    return lines or ([] if fresh != last else ["the host's addresses have changed"])


def tell(directory: Path, duty: Duty) -> bool:
    """Write the names into every instance that runs behind the policy; whether it is done.

    One call, and one for each instance.
    """
    fence = fence_of(directory, duty)
    made = fence.held(duty.acl)
    lines = fence.hosts(made) if made else None
    if lines is None:
        return True
    failed = []
    try:
        instances = Instances(fence.client)
        for row in instances.all():
            if row.running and row.coi("network-acl") == duty.acl:
                failed += _write_hosts(instances, row.name, lines)
    except CoiError as error:
        failed.append(f"the names are not written: {error.brief}")
    _write(duty, failed)
    return not failed


def _write_hosts(instances: Instances, name: str, lines: tuple[str, ...]) -> list[str]:
    """Write the names into one instance; why it failed. What runs there is not trusted."""
    try:
        done = instances.exec(name, with_hosts(lines, "true"), timeout=ENTER, cwd="/")
    except (CoiError, TimeoutError) as error:
        return [f"{name}: its /etc/hosts is not written: {error}"]
    if done.exit_code == 0:
        return []
    return [f"{name}: its /etc/hosts is not written: {done.error_text}"]


def _write(duty: Duty, lines: list[str]) -> None:
    """Add lines to the log, which is begun anew once it is long; each stays one line."""
    if not duty.log or not lines:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    title = f"{duty.acl} ({duty.hash[:8]})"
    with suppress(OSError):
        make_missing(Path(duty.log).parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(duty.log, flags, 0o600), "a", encoding="utf-8") as log:
            if os.fstat(log.fileno()).st_size > MAX_LOG:
                os.ftruncate(log.fileno(), 0)
            log.writelines(f"{now} {title}: {printable(line, _SAID)}\n" for line in lines)
