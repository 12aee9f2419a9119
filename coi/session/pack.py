"""Sending a tree of the host as a tar stream.

Headers are tarfile's; data goes from file to stream in pieces, so memory does
not grow with the tree. Links inside the tree are sent as links: every directory
and file is opened from its parent's descriptor without following one. Sparse
files travel as GNU tar's sparse members, whatever their holes.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator

from coi.errors import CoiError, NotFoundError
from coi.session.extract import Tally
from coi.session.tarstream import MAX_PIECES

_CHUNK = 1 << 18
_BLOCK = 512
_NAMED = 100  # files that changed, by name
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO does not block
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # the last two: now a link
_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_source(path: str) -> tuple[int, bool]:
    """Open what is to be sent; a link is followed.

    Returns:
        a descriptor, and whether it is a directory.

    Raises:
        NotFoundError: there is nothing of that name.
        CoiError: it cannot be read, or is neither a file nor a directory.
    """
    try:
        fd = os.open(path, _FILE)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise CoiError(f"cannot read {path}", details=str(error)) from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return fd, stat.S_ISDIR(mode)
    os.close(fd)
    raise CoiError(f"{path} is neither a file nor a directory")


class Packer:
    """Writes members.

    Args:
        write: takes the stream.
        owner: uid and gid of every member.
        tally: counts, and takes what is left out.
    """

    def __init__(
        self, write: Callable[[bytes | memoryview], None], owner: tuple[int, int], tally: Tally
    ) -> None:
        self._write = write
        self._owner = owner
        self._tally = tally
        self._entries = 0

    def end(self, marker: str) -> None:
        """An empty file that says all has been sent, and the archive's end."""
        self._write(self._info(marker, 0o600, 0).tobuf(tarfile.GNU_FORMAT))
        self._write(bytes(2 * _BLOCK))

    def file(self, fd: int, name: str, shown: str) -> None:
        """A regular file; of one that grows, what it held at first.

        Raises:
            OSError: it cannot be read.
        """
        status = os.fstat(fd)
        size = status.st_size
        info = self._info(name, status.st_mode, status.st_mtime)
        pieces = _pieces(fd, size) if status.st_blocks * _BLOCK < size else None
        self._tally.files += 1
        self._tally.size += size
        if pieces is None:
            info.size = size
            self._header(info)
            self._data(fd, [(0, size)], shown)
        else:
            info.size = sum(length for _offset, length in pieces)
            self._sparse_header(info, pieces, size)
            self._data(fd, pieces, shown)

    def tree(self, top: int, name: str, shown: str) -> None:
        """A directory and all in it.

        Raises:
            OSError: something cannot be read; what changes its kind meanwhile is left out.
        """
        self._directory(os.fstat(top), name)
        stack = [(os.dup(top), os.scandir(top), name, shown)]
        try:
            while stack:
                fd, entries, path, label = stack[-1]
                entry = next(entries, None)
                if entry is None:
                    entries.close()
                    os.close(fd)
                    stack.pop()
                    continue
                inner = f"{path}/{entry.name}", f"{label}/{entry.name}"
                try:
                    child = self._entry(fd, entry.name, *inner)
                except OSError as error:
                    if error.errno not in _CHANGED:
                        error.filename = inner[1]
                        raise
                    self._tally.skip(inner[1], "it went away or became something else")
                    continue
                if child is not None:
                    stack.append((child, os.scandir(child), *inner))
        finally:
            for fd, entries, _path, _label in stack:
                entries.close()
                os.close(fd)

    def _entry(self, parent: int, name: str, path: str, shown: str) -> int | None:
        """One member; the descriptor of a directory that is to be entered."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            self._directory(os.fstat(fd), path)
            return fd
        if stat.S_ISLNK(status.st_mode):
            info = self._info(path, 0o777, status.st_mtime)
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent)
            self._tally.files += 1
            self._header(info)
            return None
        if stat.S_ISREG(status.st_mode):
            fd = os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=parent)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    self.file(fd, path, shown)
                    return None
            finally:
                os.close(fd)
        self._tally.skip(shown, _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind"))
        return None

    def _directory(self, status: os.stat_result, name: str) -> None:
        info = self._info(name, status.st_mode, status.st_mtime)
        info.type = tarfile.DIRTYPE
        self._header(info)

    def _info(self, name: str, mode: int, mtime: float) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.mode, info.mtime = stat.S_IMODE(mode), int(mtime)
        info.uid, info.gid = self._owner
        return info

    def _header(self, info: tarfile.TarInfo) -> None:
        self._write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        self._entries += 1
        if self._entries % 256 == 0:
            self._tally.step(self._tally)

    def _sparse_header(
        self, info: tarfile.TarInfo, pieces: list[tuple[int, int]], size: int
    ) -> None:
        """Type S: four pieces in the header, 21 in each block that follows (tar(5))."""
        info.type = tarfile.GNUTYPE_SPARSE
        buf = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        fields = [_number(offset) + _number(length) for offset, length in [*pieces, (size, 0)]]
        head = memoryview(buf)[-_BLOCK:]
        head[386:482] = b"".join(fields[:4]).ljust(96, b"\0")
        head[482] = len(fields) > 4
        head[483:495] = _number(size)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        self._write(bytes(buf))
        for start in range(4, len(fields), 21):
            more = b"\1" if start + 21 < len(fields) else b"\0"
            self._write(
                (b"".join(fields[start : start + 21]).ljust(504, b"\0") + more).ljust(512, b"\0")
            )

    def _data(self, fd: int, pieces: list[tuple[int, int]], shown: str) -> None:
        sent = 0
        for offset, length in pieces:
            end = offset + length
            while offset < end:
                data = os.pread(fd, min(_CHUNK, end - offset), offset)
                if not data:  # it shrank: the header's promise is kept with zeros
                    text = f"{shown} became shorter while it was read; its end is zeros"
                    if len(self._tally.warnings) < _NAMED and text not in self._tally.warnings[-1:]:
                        self._tally.warnings.append(text)
                    data = bytes(min(_CHUNK, end - offset))
                self._write(data)
                offset += len(data)
                self._tally.moved += len(data)
                self._tally.step(self._tally)
            sent += length
        self._write(bytes(-sent % _BLOCK))


def _pieces(fd: int, size: int) -> list[tuple[int, int]] | None:
    """Where a file has data; None when it has no holes, or too many."""
    found = []
    for piece in _data_of(fd, size):
        found.append(piece)
        if len(found) > MAX_PIECES // 10:  # as a list of pairs: ten times the memory
            return None
    return None if found == [(0, size)] else found


def _data_of(fd: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: no data from here on
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if end > start:
            yield start, end - start


def _number(value: int) -> bytes:
    """A field of 12 bytes: octal, or base 256 from 8 GiB on."""
    if value < 8**11:
        return b"%011o\0" % value
    return b"\x80" + value.to_bytes(11, "big")
