"""Locks between coi processes of one user, about one network.

The kernel lets go of them when their holder dies. The files stay: they are empty, and
as many as there are policies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coi.errors import CoiError
from coi.files import make_private

_POLL = 0.02  # seconds


@contextmanager
def locked(path: Path, *, shared: bool = False, timeout: float = 30.0) -> Iterator[None]:
    """Hold a lock for the length of a ``with`` block.

    Args:
        shared: others may hold it too, shared.
        timeout: seconds to wait.

    Raises:
        CoiError: it is held by another, or cannot be made.
    """
    descriptor = -1
    try:
        try:
            make_private(path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise CoiError("cannot lock a network", details=str(error)) from error
        _take(descriptor, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, timeout)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _take(descriptor: int, path: Path, kind: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy(
                    "another coi is busy with the same network",
                    details=f"lock {path.name} was not free within {timeout:.0f} s",
                ) from None
            time.sleep(_POLL)
        else:
            return


class Busy(CoiError):
    """The lock was held by another."""
