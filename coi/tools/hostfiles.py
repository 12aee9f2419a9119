"""Reading files of the user's home on the host without being led astray.

A path is walked one component at a time through directory descriptors and
no link is followed on the way. Where a component is a link (people keep
their dotfiles in a repository and link to it) the whole path is resolved
once, and the result is walked again, strictly, if it lies inside the home
and the file belongs to the user or to the home's owner. Everything else is
refused with a reason.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePosixPath

LIMIT = 10 << 20  # bytes of one file

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK opening a FIFO would wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class HostFileError(Exception):
    """The file is there but must not or cannot be taken; the text says why."""


def read_below(root: Path, relative: str, *, limit: int = LIMIT) -> bytes | None:
    """The content of a file below ``root``; None when it does not exist.

    Args:
        root: the home, or another directory that the user named.
        relative: path below it, without ``..``.
        limit: bytes; a larger file is refused.

    Raises:
        HostFileError: a link out of ``root``, no regular file, too large, unreadable.
    """
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts:
        raise HostFileError("not a path below the home")
    try:
        try:
            return _read(root, parts, limit, owners=None)
        except _LinkError:
            return _read_linked(root, parts, limit)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None  # a file where the directory would be: nothing there either
    except _LinkError:
        raise HostFileError("it changed while it was read") from None
    except OSError as error:
        raise HostFileError(os.strerror(error.errno or errno.EIO)) from error


class _LinkError(Exception):
    """A component is a symbolic link."""


def _read_linked(root: Path, parts: tuple[str, ...], limit: int) -> bytes:
    top = Path(os.path.realpath(root))
    try:
        resolved = Path(os.path.realpath(root.joinpath(*parts), strict=True))
    except FileNotFoundError:
        raise HostFileError("a link to nothing") from None
    if not resolved.is_relative_to(top):
        raise HostFileError(f"a link out of {root}")
    owners = {os.geteuid(), top.stat().st_uid}
    return _read(top, resolved.relative_to(top).parts, limit, owners=owners)


def _read(root: Path, parts: tuple[str, ...], limit: int, *, owners: set[int] | None) -> bytes:
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = _open(part, _DIRECTORY, directory)
            os.close(directory)
            directory = below
        file = _open(parts[-1], _FILE, directory)
    finally:
        os.close(directory)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise HostFileError("not a regular file")
        if owners is not None and status.st_uid not in owners:
            raise HostFileError("a link to another user's file")
        if status.st_size > limit:
            raise HostFileError(f"larger than {limit >> 20} MiB")
        chunks: list[bytes] = []
        left = limit + 1  # it may grow while it is read
        while left and (chunk := os.read(file, min(left, 1 << 20))):
            chunks.append(chunk)
            left -= len(chunk)
        if not left:
            raise HostFileError(f"larger than {limit >> 20} MiB")
        return b"".join(chunks)
    finally:
        os.close(file)


def _open(name: str, flags: int, directory: int) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        # O_NOFOLLOW on a link: ELOOP, or ENOTDIR together with O_DIRECTORY.
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise _LinkError(name) from error
        if error.errno == errno.ENXIO:  # a socket, or a FIFO opened for writing
            raise HostFileError("not a regular file") from error
        raise
