"""The process that keeps the addresses of an allowlist new while instances use it.

One for each policy, in a session of its own: it outlives the terminal and the coi that
began it. A file says what is to be kept new, a lock beside it that somebody does::

    refresh-<key>.json    removed once no instance runs under the policy
    refresh-<key>.lock    held by the process; the kernel lets go of it when that dies

Any coi that finds a file without a holder begins the process anew (:func:`take_over`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError
from coi.files import read_private, replace_file
from coi.incus.process import detach
from coi.network.lock import Busy, locked

if TYPE_CHECKING:
    from coi.incus.instances import Instances
    from coi.network.answers import Lookup
    from coi.network.attachment import Attachment
    from coi.network.fence import Fence

FORMAT = 1
MAX_SIZE = 1 << 20  # bytes of a file
MAX_LOG = 1 << 20  # bytes of the log
POLL = 5.0  # seconds between looks at the files; no call
LOOK = 60.0  # seconds between looks at the instances; one call
RETRY = 60.0  # seconds after a refresh that failed
ENTER = 10.0  # seconds for an instance to take the names

# What the process is given of the environment: nothing that may be a secret.
_KEPT = ("HOME", "PATH", "LANG", "TZ", "INCUS_", "XDG_", "PYTHON", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Duty:
    """What one process keeps new.

    Attributes:
        minutes: how old an answer gets.
        policy: the fields of a :class:`~coi.network.policy.Policy`.
        backend: that was asked for.
        acl: the network ACL of the instances.
        log: where a line goes for each change and failure.
    """

    prefix: str
    place: str
    project: str
    profile: str
    backend: str
    acl: str
    minutes: int
    policy: dict[str, Any]
    log: str

    @property
    def key(self) -> str:
        """Of the files: the same for the same policy in the same place."""
        parts = (self.prefix, self.project, self.backend, self.acl)
        return sha256("\0".join(parts).encode()).hexdigest()[:8]


def keep_fresh(fence: Fence, made: Attachment) -> None:
    """See that a process keeps the addresses new from now on. No call.

    To be called while :meth:`Fence.using` is held and the instance runs. Where the
    process cannot be had, the addresses stay as they are, and the next coi tries again.
    """
    if not fence.minutes or not fence.policy.domains:
        return
    duty = duty_of(fence, made)
    path = _record(fence.scope.directory, duty.key)
    data = (json.dumps({"format": FORMAT, **vars(duty)}, indent=2) + "\n").encode()
    with suppress(OSError):
        if read_private(path, MAX_SIZE) != data:
            replace_file(path, data)
        _begin(path)


def duty_of(fence: Fence, made: Attachment) -> Duty:
    """What there is to keep new for a fence."""
    policy = fence.policy
    return Duty(
        fence.scope.prefix,
        fence.scope.place,
        fence.client.project,
        fence.profile,
        fence.backend,
        made.acl,
        fence.minutes,
        {**vars(policy), "networks": [str(network) for network in policy.networks]},
        str(fence.log or ""),
    )


def take_over(directory: Path) -> None:
    """Begin the processes that are gone although their file is there. No call.

    Args:
        directory: ``<coi home>/network``.
    """
    with suppress(OSError):
        for path in sorted(directory.glob("refresh-*.json")):
            _begin(path)


def attended(directory: Path) -> dict[str, bool]:
    """Network ACLs that are to be kept new, and whether a process does."""
    found = {}
    for path in sorted(directory.glob("refresh-*.json")):
        duty = _load(path)
        if duty is not None:
            found[duty.acl] = not _free(path)
    return found


def _record(directory: Path, key: str) -> Path:
    return directory / f"refresh-{key}.json"


def _load(path: Path) -> Duty | None:
    data = read_private(path, MAX_SIZE)
    try:
        row = json.loads(data or b"")
        return Duty(**row) if row.pop("format") == FORMAT else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _free(path: Path) -> bool:
    try:
        with locked(path.with_suffix(".lock"), timeout=0.0):
            return True
    except CoiError:
        return False


def _begin(path: Path) -> None:
    """Begin the process, unless it is there; a second one that comes too ends by itself."""
    if not _free(path):
        return
    kept = {key: value for key, value in os.environ.items() if key.startswith(_KEPT)}
    detach([sys.executable, "-m", "coi.network.refresher", str(path)], kept)


# -- the process


def main() -> None:
    """Entry point; the argument is the file."""
    os.umask(0o077)
    with suppress(Busy):
        attend(Path(sys.argv[1]))


def attend(
    path: Path,
    *,
    lookup: Lookup | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Refresh in time until no instance runs under the policy; the file is gone then.

    Raises:
        Busy: another process does.
    """
    with locked(path.with_suffix(".lock"), timeout=0.0):
        looked = time.monotonic()
        not_before = 0.0
        told = Told()
        while True:
            duty = _load(path)
            if duty is None:
                return
            now = time.monotonic()
            due = now >= not_before and _is_due(path.parent, duty)
            if due or now - looked >= LOOK:
                looked = now
                if _ended(path, duty):
                    return
            if due and not refresh(path.parent, duty, lookup):
                not_before = now + RETRY
            told.see_to(path.parent, duty, now)
            sleep(POLL)


def _is_due(directory: Path, duty: Duty) -> bool:
    from coi.network import answers
    from coi.network.start import stale

    policy = _policy(duty)
    last = answers.load(directory, policy.hash)
    return bool(stale(policy, last, duty.minutes))


def _policy(duty: Duty) -> Any:
    from coi.network.policy import Policy

    row = dict(duty.policy)
    row["domains"] = tuple(row["domains"])
    row["networks"] = tuple(IPv4Network(text) for text in row["networks"])
    return Policy(**row)


def _fence(directory: Path, duty: Duty) -> Fence:
    from coi.incus.client import Client
    from coi.network.attachment import Scope
    from coi.network.fence import Fence

    client = Client(project=duty.project)  # a fence is of the local daemon
    scope = Scope(duty.prefix, os.getuid(), directory, duty.place)
    return Fence(client, scope, _policy(duty), backend=duty.backend, profile=duty.profile)


def _ended(path: Path, duty: Duty) -> bool:
    """Whether no instance runs under the policy, and none is about to: the file is gone then.

    One call. A coi that makes one holds :meth:`Fence.using`, as this does meanwhile.
    """
    from coi.incus.instances import Instances
    from coi.network.fence import lock_path

    fence = _fence(path.parent, duty)
    use = locked(lock_path(fence.scope, duty.acl, "use"), timeout=0.0)
    with suppress(CoiError, OSError), use:
        rows = Instances(fence.client).all()
        if all(row.stopped or row.coi("network-acl") != duty.acl for row in rows):
            path.unlink(missing_ok=True)
            return True
    return False  # Incus does not answer, or somebody is about to use it: look again later


def refresh(directory: Path, duty: Duty, lookup: Lookup | None = None) -> bool:
    """Resolve the names anew and go over to the answers; whether it was done.

    The answers are kept once they stand: a refresh that fails is due again.
    """
    from coi.network import answers
    from coi.network.start import renewed, stale

    fence = _fence(directory, duty)
    lines: list[str] = []
    try:
        last = answers.load(directory, fence.policy.hash)
        fresh = renewed(
            fence.policy,
            last,
            stale(fence.policy, last, duty.minutes),
            fence.host.addresses,
            report=lines.append,
            lookup=lookup or answers.system_lookup,
        )

        def keep() -> None:
            answers.save(directory, fence.policy.hash, fresh)

        made = fence.last()
        if made is None:
            keep()
        else:
            fence.refresh(made, {name: a.addresses for name, a in fresh.items()}, keep)
        for name, answer in fresh.items():
            if name not in last or last[name].addresses != answer.addresses:
                lines.append(f"{name}: {', '.join(map(str, answer.addresses))}")
        unanswered = stale(fence.policy, fresh, duty.minutes)
        lines += [f"{name} does not resolve; it keeps its last addresses" for name in unanswered]
    except CoiError as error:
        lines.append(f"not refreshed: {error.brief} {error.details}".rstrip())
        return False
    else:
        return not unanswered
    finally:
        _write(duty.log, f"{duty.acl} ({fence.policy.hash})", lines)


class Told:
    """What the instances have in their /etc/hosts, where names are kept there."""

    def __init__(self) -> None:
        self._lines: tuple[str, ...] | None = None
        self._not_before = 0.0

    def see_to(self, directory: Path, duty: Duty, now: float) -> None:
        """Write the names into every instance that runs under the policy, where the last
        answers are others than those of before: one call, and one for each instance."""
        from coi.incus.instances import Instances
        from coi.network import answers

        fence = _fence(directory, duty)
        made = fence.last()
        last = answers.load(directory, fence.policy.hash)
        fence.answers = {name: answer.addresses for name, answer in last.items()}
        lines = fence.hosts(made) if made else None
        if lines is None or lines == self._lines or now < self._not_before:
            return
        failed = []
        try:
            instances = Instances(fence.client)
            for row in instances.all():
                if row.running and row.coi("network-acl") == duty.acl:
                    failed += _write_hosts(instances, row.name, lines)
        except CoiError as error:
            failed.append(f"the names are not written: {error.brief}")
        if failed:
            self._not_before = now + RETRY
            _write(duty.log, f"{duty.acl} ({fence.policy.hash})", failed)
        else:
            self._lines = lines


def _write_hosts(instances: Instances, name: str, lines: tuple[str, ...]) -> list[str]:
    """Write the names into one instance; why it failed. What runs there is not trusted."""
    from coi.network.hosts import with_hosts

    try:
        done = instances.exec(name, with_hosts(lines, "true"), timeout=ENTER, cwd="/")
    except (CoiError, TimeoutError) as error:
        return [f"{name}: its /etc/hosts is not written: {error}"]
    if done.exit_code == 0:
        return []
    return [f"{name}: its /etc/hosts is not written: {done.error_text[:200]}"]


def _write(path: str, title: str, lines: list[str]) -> None:
    """Add lines to the log, which is begun anew once it is long."""
    if not path or not lines:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with suppress(OSError):
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8") as log:
            if os.fstat(log.fileno()).st_size > MAX_LOG:
                os.ftruncate(log.fileno(), 0)
            log.writelines(f"{now} {title}: {line}\n" for line in lines)


if __name__ == "__main__":
    main()
