"""Small files of coi's own, written whole or not at all, read with suspicion."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def make_private(directory: Path) -> None:
    """Make a directory that its owner alone may enter (0700), and so what is missing above it.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    make_missing(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if stat.S_ISLNK(status.st_mode):
        if status.st_uid not in (os.geteuid(), 0):
            raise PermissionError(errno.EPERM, "a link of another user", str(directory))
        status = directory.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "a directory of another user", str(directory))
    if stat.S_IMODE(status.st_mode) != 0o700:
        directory.chmod(0o700)


def make_missing(directory: Path) -> None:
    """Make a directory where there is none, and what is missing above it, 0700 each.

    Raises:
        OSError: it cannot be made.
    """
    for part in (*reversed(directory.parents), directory):
        if not part.exists():  # mkdir(parents=True) would leave those above open
            part.mkdir(mode=0o700, exist_ok=True)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)


def write_beside(target: Path, data: bytes) -> Path:
    """Write a new file (0600) next to ``target``, synced; its path, ``.<name>.<random>``.

    Raises:
        OSError: nothing is left of it.
    """
    beside = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    return beside


def replace_file(target: Path, data: bytes) -> None:
    """Make ``data`` the whole content of ``target`` (0600), durably.

    Raises:
        OSError: the previous content stands, unless it was the last step that failed:
            to make the change durable.
    """
    beside = write_beside(target, data)
    try:
        beside.replace(target)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed and removed in a directory durable.

    Raises:
        OSError: the disk refused.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path, limit: int) -> bytes | None:
    """At most ``limit`` bytes of a file that this user alone could have written.

    None where there is no such file, where it is no regular file, or where it or its
    directory is another user's or writable by one; links are not followed.
    """
    try:
        if not _ours(path.parent.lstat()):
            return None
        descriptor = os.open(path, _READ)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not _ours(status):
                return None
            return read_all(descriptor, limit)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None


def read_all(descriptor: int, limit: int) -> bytes:
    """What is left to read of a descriptor, at most ``limit`` bytes."""
    chunks: list[bytes] = []
    while limit > 0 and (chunk := os.read(descriptor, limit)):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def _ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
