"""Advisory locks between coi processes of one user.

``flock`` on files under ``<coi home>/locks``: the kernel lets go of a lock
when its holder dies, however it dies, so there is nothing stale to break.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coi.errors import CoiError, disk_error
from coi.files import is_at, make_private

_POLL = 0.02  # seconds


_NOTE = 512  # bytes

Stamp = tuple[int, int]


class Lock:
    """One lock file; ``held`` tells whether this object holds it.

    Its holder may write a note into the file, which outlives it: what it was at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it.

        Raises:
            CoiError: its file cannot be made.
        """
        if self._fd is not None:
            return True
        try:
            return self._try()
        except OSError as error:
            raise _error(self.path, error) from error

    def _try(self) -> bool:
        make_private(self.path.parent)
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            if is_at(fd, self.path):
                self._fd = fd
                return True
            os.close(fd)  # its holder removed the file meanwhile: take the new one

    def acquire(self, timeout: float) -> None:
        """Take the lock, waiting up to ``timeout`` seconds.

        Raises:
            CoiError: somebody else kept it.
        """
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() > deadline:
                raise CoiError(
                    "another coi is busy with the same workspace",
                    details=f"lock {self.path.name} was not free within {timeout:.0f} s",
                )
            time.sleep(_POLL)

    def release(self, *, remove: bool = False) -> None:
        """Let go; with ``remove`` the file goes too."""
        if self._fd is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = None

    @property
    def stamp(self) -> Stamp | None:
        """Which file it is, and when its note was last written; None where it is not held."""
        return _stamp(os.fstat(self._fd)) if self._fd is not None else None

    def discard(self) -> None:
        """Take its file away, unless somebody else holds it: what it was for is no more."""
        if self.path.exists() and self.try_acquire():
            self.release(remove=True)

    def write(self, note: str) -> None:
        """Write the note; '' takes it away. Only who holds the lock does."""
        if self._fd is None:
            return
        data = note.encode()
        if len(data) > _NOTE:
            data = b""  # half of it would tell something else
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, data, 0)
        except OSError as error:
            raise _error(self.path, error) from error

    def read(self) -> str:
        """The note of whoever held it last; '' where there is none."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return ""
        try:
            return os.read(fd, _NOTE).decode("utf-8", "replace")
        except OSError:  # a directory
            return ""
        finally:
            os.close(fd)


def stamps(directory: Path) -> dict[str, Stamp]:
    """The stamps of all locks, by the names of their instances. One that a start has held since
    has another: it writes a note."""
    found = {}
    for path in directory.glob("*.lock"):
        with suppress(OSError):
            found[path.stem] = _stamp(path.lstat())
    return found


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_mtime_ns


def _error(path: Path, error: OSError) -> CoiError:
    return disk_error(error) or CoiError(f"cannot lock {path}", details=str(error))


def place_of(directory: Path) -> str:
    """Which directory of locks this is, on this host and on no other: host, inode, path.

    Raises:
        OSError: it is not there.
    """
    return f"{os.uname().nodename}:{directory.stat().st_ino}:{directory}"


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[Lock]:
    """Hold a lock for the length of a ``with`` block."""
    lock = Lock(path)
    lock.acquire(timeout)
    try:
        yield lock
    finally:
        lock.release()
