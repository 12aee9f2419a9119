"""Who is inside an instance, as its lock remembers: to go in before the daemon has told.

A start notes it once all is there, with its own mark. The home inside has the same mark
(:func:`coi.session.inside.attach` looks at it), so nobody gets into what it is not. What the
daemon says counts nevertheless: whoever goes by a note asks it meanwhile.
"""

from __future__ import annotations

import re
from pathlib import Path

from coi.records import record
from coi.session.locks import Lock
from coi.workspace.ownership import SessionUser

_NOTE = re.compile(r"([^:\s]+):([0-9]{1,10}):([0-9]{1,10}):([^:/\s]+):(/[^\n]*)")


@record(frozen=True)
class Known:
    """An instance in which a session runs.

    Attributes:
        user: whom its processes run as.
        start: the mark of the start that began it.
    """

    instance: str
    user: SessionUser
    start: str


def note(user: SessionUser, start: str) -> str:
    """What a lock has of it."""
    return f"{start}:{user.uid}:{user.gid}:{user.name}:{user.home}"


def noted(instance: str, text: str) -> Known | None:
    """The other way; None where a lock has no such note, or not a whole one."""
    match = _NOTE.fullmatch(text)
    if match is None:
        return None
    start, uid, gid, name, home = match.groups()
    return Known(instance, SessionUser(name, int(uid), int(gid), home), start)


def recall(locks: Path, prefix: str, instance: str | None) -> Known | None:
    """The instance that is meant, if there is no doubt.

    Args:
        locks: the directory of the locks.
        prefix: of the names of instances.
        instance: its name; None where the only one is meant. Then a second lock is doubt,
            whatever its note: it may be of a session that an earlier coi has begun.
    """
    names = [path.stem for path in locks.glob("*.lock")]
    if instance is None:
        names = [name for name in names if name.startswith(prefix)]
    else:
        names = [name for name in names if name == instance]
    if len(names) != 1:
        return None
    return noted(names[0], Lock(locks / f"{names[0]}.lock").read())
