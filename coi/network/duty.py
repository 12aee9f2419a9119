"""What is kept right while instances run behind a policy, and who does it.

A process for each policy, :mod:`coi.network.refresher`, in a session of its own: it outlives
the terminal and the coi that began it. A file says what there is to do, a lock beside it that
somebody does::

    refresh-<key>.json    while any instance is behind the policy, a stopped one too
    refresh-<key>.lock    held by the process; the kernel lets go of it when that dies

The process ends when nothing runs; any coi that sees an instance run whose file has no
holder begins it anew (:func:`take_over`). This module is imported by that process, which is
there for as long as a session: it imports little.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError
from coi.files import read_private, replace_file
from coi.network.lock import locked
from coi.records import path_text, record, texts, typed

if TYPE_CHECKING:
    from coi.network.attachment import Attachment
    from coi.network.fence import Fence

FORMAT = 2
MAX_SIZE = 1 << 20  # bytes of a file

_SWITCHES = ("private", "local_ingress", "metadata", "logged")  # of a policy

# What the process is given of the environment: nothing that may be a secret.
_KEPT = ("HOME", "PATH", "LANG", "TZ", "INCUS_", "XDG_", "PYTHON", "LD_LIBRARY_PATH")


@record(frozen=True)
class Duty:
    """What one process keeps right.

    Attributes:
        minutes: how old an answer gets; 0: any age.
        policy: the fields of a :class:`~coi.network.policy.Policy`.
        hash: the policy's; the name of its answers.
        backend: that was asked for.
        acl: the network ACL of the instances.
        inside: names are in the instances' /etc/hosts.
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
    hash: str
    inside: bool
    log: str

    @property
    def domains(self) -> list[str]:
        """The names of an allowlist."""
        return list(self.policy["domains"])


def keep(fence: Fence, made: Attachment) -> None:
    """See that a process keeps the rules right from now on. No call.

    To be called while :meth:`Fence.using` is held. Where the process cannot be had, the
    rules stay as they are, and the next coi tries again.
    """
    duty = duty_of(fence, made)
    path = _record(fence.scope.directory, fence, made)
    data = (json.dumps({"format": FORMAT, **vars(duty)}, indent=2) + "\n").encode()
    with suppress(OSError):
        if read_private(path, MAX_SIZE) != data:
            replace_file(path, data)
        _begin(path)


def duty_of(fence: Fence, made: Attachment) -> Duty:
    """What there is to keep right for a fence."""
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
        policy.hash,
        fence.hosts(made) is not None,
        str(fence.log or ""),
    )


def take_over(directory: Path, acls: Collection[str]) -> None:
    """Begin the processes that are gone although there is something to do. No call.

    Args:
        directory: ``<coi home>/network``.
        acls: of instances that run.
    """
    with suppress(OSError):
        for path, duty in duties(directory):
            if duty.acl in acls:
                _begin(path)


def attended(directory: Path) -> dict[str, bool]:
    """Network ACLs that are to be kept right, and whether a process does."""
    return {duty.acl: not _free(path) for path, duty in duties(directory)}


def duties(directory: Path) -> Iterator[tuple[Path, Duty]]:
    """What there is to do, and its file."""
    for path in sorted(directory.glob("refresh-*.json")):
        duty = load(path)
        if duty is not None:
            yield path, duty


def forget(directory: Path, acls: Collection[str]) -> None:
    """There is nothing to do any more for some ACLs, which are gone."""
    with suppress(OSError):
        for path, duty in duties(directory):
            if duty.acl in acls:
                path.unlink(missing_ok=True)


def load(path: Path) -> Duty | None:
    """What a file says; None where it is gone or damaged."""
    data = read_private(path, MAX_SIZE)
    try:
        row = json.loads(data or b"")
        if row.pop("format") != FORMAT:
            return None
        return _checked(Duty(**row))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _checked(duty: Duty) -> Duty:
    row, policy = vars(duty), duty.policy
    typed(row, **{**dict.fromkeys(row, str), "minutes": int, "inside": bool, "policy": dict})
    typed(policy, mode=str, **dict.fromkeys(_SWITCHES, bool))
    if set(policy) != {"mode", "domains", "networks", *_SWITCHES}:
        raise ValueError("another coi's policy")
    texts(policy["domains"])
    for network in texts(policy["networks"]):
        IPv4Network(network)
    path_text(duty.hash)
    path_text(duty.log)
    return duty


def _record(directory: Path, fence: Fence, made: Attachment) -> Path:
    from coi.network.attachment import digest

    key = digest([fence.scope.prefix, fence.client.project, fence.backend, made.acl])[:32]
    return directory / f"refresh-{key}.json"


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
    from coi.incus.process import detach

    kept = {key: value for key, value in os.environ.items() if key.startswith(_KEPT)}
    detach([sys.executable, "-m", "coi.network.refresher", str(path)], kept)
