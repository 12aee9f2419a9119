"""Who is inside an instance, as its lock remembers: to go in before the daemon has told.

A start notes it once all is there. What is noted may have become wrong since (the instance
is gone, or another one): whoever goes by it sees what the daemon says meanwhile.
"""

from __future__ import annotations

import re
from pathlib import Path

from coi.records import record
from coi.session.locks import Lock
from coi.workspace.ownership import SessionUser

_NOTE = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([^:/\s]+):(/[^\n]*)")


@record(frozen=True)
class Known:
    """An instance, and the user of the session in it."""

    instance: str
    user: SessionUser


def note(user: SessionUser) -> str:
    """What a lock has of it."""
    return f"{user.uid}:{user.gid}:{user.name}:{user.home}"


def noted(text: str) -> SessionUser | None:
    """The other way; None where a lock has no such note, or not a whole one."""
    match = _NOTE.fullmatch(text)
    if match is None:
        return None
    uid, gid, name, home = match.groups()
    return SessionUser(name, int(uid), int(gid), home)


def recall(locks: Path, instance: str | None) -> Known | None:
    """The instance that is meant, if there is no doubt.

    Args:
        locks: the directory of the locks.
        instance: its name; None where the only one is meant.
    """
    names = [path.stem for path in locks.glob("*.lock")]
    if instance is not None:
        names = [name for name in names if name == instance]
    users = ((name, noted(Lock(locks / f"{name}.lock").read())) for name in names)
    found = [Known(name, user) for name, user in users if user is not None]
    return found[0] if len(found) == 1 else None
