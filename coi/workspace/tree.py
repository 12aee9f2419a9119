"""A directory that others write to, looked at and changed without following a link.

Every step is taken from the descriptor of the directory before; nothing is opened that could
wait, and nothing outside is ever reached.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Tree:
    """The directory; its paths are relative, with ``/`` between the names.

    Raises:
        OSError: it is not there, or a link.
    """

    def __init__(self, path: Path) -> None:
        self._root = os.open(path, _DIRECTORY)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, bytes] | None]:
        """The descriptor of the directory that ``path`` is in, and its name there; None where
        that is no directory, or behind a link."""
        *names, last = path.split("/")
        level = os.dup(self._root)
        try:
            for name in names:
                try:
                    below = os.open(os.fsencode(name), _DIRECTORY, dir_fd=level)
                except OSError as error:
                    if error.errno not in _NOT_THERE:
                        raise
                    yield None
                    return
                os.close(level)
                level = below
            yield level, os.fsencode(last)
        finally:
            os.close(level)

    def status(self, path: str) -> os.stat_result | None:
        """What is there, None where nothing is, or it is behind a link."""
        with self.parent(path) as place:
            if place is None:
                return None
            try:
                return os.stat(place[1], dir_fd=place[0], follow_symlinks=False)
            except FileNotFoundError:
                return None

    def names(self, path: str, limit: int) -> list[str]:
        """The names in a directory, sorted, at most ``limit`` and one; none where there is none."""
        try:
            with self._open(path, _DIRECTORY) as descriptor:
                found = []
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        found.append(entry.name)
                        if len(found) > limit:
                            break
                return sorted(found)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return []

    def read(self, path: str, limit: int) -> bytes:
        """A regular file's content, at most ``limit`` and one bytes; none of anything else.

        Raises:
            OSError: it is there, and cannot be read.
        """
        try:
            with self._open(path, _FILE) as descriptor:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return b""
                chunks, left = [], limit + 1
                while left > 0 and (chunk := os.read(descriptor, left)):
                    chunks.append(chunk)
                    left -= len(chunk)
                return b"".join(chunks)
        except OSError as error:
            if error.errno not in (*_NOT_THERE, errno.ENXIO):
                raise
            return b""

    def target(self, path: str) -> str:
        """Where a link points, as text."""
        with self.parent(path) as place:
            if place is None:
                return ""
            return os.fsdecode(os.readlink(place[1], dir_fd=place[0]))

    @contextmanager
    def _open(self, path: str, flags: int) -> Iterator[int]:
        with self.parent(path) as place:
            if place is None:
                raise FileNotFoundError(errno.ENOENT, "not there", path)
            descriptor = os.open(place[1], flags, dir_fd=place[0])
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def make_directories(self, path: str) -> None:
        """Make a directory and those on the way that are missing (0755, before the umask).

        Raises:
            OSError: something else is in the way.
        """
        names = path.split("/")
        for depth in range(1, len(names) + 1):
            with self.parent("/".join(names[:depth])) as place:
                if place is None:
                    raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
                with suppress(FileExistsError):
                    os.mkdir(place[1], 0o755, dir_fd=place[0])

    def write(self, path: str, data: bytes, mode: int) -> None:
        """Put a file there, whole, in the place of a file or link that is there.

        Raises:
            OSError: its directory is not there, or a directory is in its place.
        """
        with self.parent(path) as place:
            if place is None:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
            directory, name = place
            beside = b".coi-" + os.urandom(8).hex().encode()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(beside, flags, 0o600, dir_fd=directory)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fchmod(descriptor, mode & 0o777)
                    os.fsync(descriptor)
                os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                with suppress(OSError):
                    os.unlink(beside, dir_fd=directory)
                raise

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link where nothing is."""
        with self.parent(path) as place:
            if place is None:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
            os.symlink(os.fsencode(target), place[1], dir_fd=place[0])

    def move(self, path: str, to: Path) -> None:
        """Move what is there, a link as itself, to a place that is free: on the same file
        system only.

        Raises:
            OSError: it cannot be moved.
        """
        with self.parent(path) as place:
            if place is None:
                raise FileNotFoundError(errno.ENOENT, "not there", path)
            os.rename(place[1], to, src_dir_fd=place[0])

    def rename(self, path: str, name: str) -> None:
        """Give what is there another name in its directory."""
        with self.parent(path) as place:
            if place is None:
                raise FileNotFoundError(errno.ENOENT, "not there", path)
            new = os.fsencode(name)
            os.rename(place[1], new, src_dir_fd=place[0], dst_dir_fd=place[0])

    def unlink(self, path: str) -> None:
        """Remove a file, a link or a special file."""
        with self.parent(path) as place:
            if place is not None:
                os.unlink(place[1], dir_fd=place[0])
