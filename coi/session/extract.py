"""Unpacking a tar stream that a hostile container may have written.

Nothing outside the directory that is given is created, changed or opened:

- every directory on the way to a member is opened from its parent's descriptor
  without following links, and every file is created anew (O_EXCL);
- of links only relative symbolic ones are kept, that go up first and only
  then down (``../../a/b``), and not above the top. Such links cannot lead out
  by any chain: each begins in a real directory inside, and never rises above;
- hard links, devices, FIFOs, set-uid bits and owners are left out; a name with
  control characters, ``..`` or too many levels is skipped and reported;
- of two members of one name the first counts.

The tree is built in a private directory, so nobody else moves things meanwhile.
"""

from __future__ import annotations

import errno
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import field

from coi.errors import CoiError
from coi.records import record
from coi.session.tarstream import CheckedInfo, CheckedReader

MAX_ENTRIES = 1_000_000
MAX_DEPTH = 200  # levels of directories: each holds a descriptor open
_CHUNK = 1 << 18
_NAMED = 100  # of what is left out, the first that are named

# Control characters, as text and as bytes that are no UTF-8 (0x9b begins an escape
# sequence on an 8-bit terminal), line separators, and what reverses a line's direction.
_BAD_NAME = re.compile(
    "[\x00-\x1f\x7f-\x9f\udc80-\udc9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
# The file system's refusals of one name, as against those of everything (ENOSPC).
_NAME_REFUSED = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP})


class TooLargeError(CoiError):
    """There is more than the limits allow."""


@record(frozen=True)
class Limits:
    """What a transfer may hold.

    Attributes:
        size: bytes of all files, holes included.
        entries: members of the stream, those left out included.
    """

    size: int
    entries: int = MAX_ENTRIES


@record
class Tally:
    """What passed, and what did not.

    Attributes:
        files: regular files and links.
        size: bytes of the files, holes included.
        moved: bytes of them that came through the stream.
        skipped: (path, reason) of the first hundred left out.
        left_out: how many were left out in all.
        warnings: what was copied, but not as it stood.
        step: called now and then while work goes on.
    """

    files: int = 0
    size: int = 0
    moved: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    left_out: int = 0
    warnings: list[str] = field(default_factory=list)
    step: Callable[[Tally], None] = lambda _tally: None

    def skip(self, path: str, reason: str) -> None:
        """Note that something is left out."""
        self.left_out += 1
        if len(self.skipped) < _NAMED:
            self.skipped.append((path, reason))


def unpack(
    reader: CheckedReader, root: int, name: str, *, limits: Limits, tally: Tally, umask: int
) -> bool:
    """Unpack the archive as ``name`` in a private, empty directory.

    An archive that begins with the directory ``.`` becomes a directory of what
    follows; one that begins with a regular file becomes that file, its own name
    unheeded, and ends there.

    Args:
        root: descriptor of the private directory.
        umask: these bits are off in every mode; the owner may always enter and
            write directories.

    Returns:
        whether it is a directory.

    Raises:
        DamagedStreamError: the stream is no whole, honest archive.
        TooLargeError: more than the limits.
        OSError: the disk refused.
    """
    work = _Unpacking(reader, limits, tally, umask)
    members = reader.each()
    first = next(members, None)
    if first is None:
        raise CoiError("the container sent nothing")
    work.count(first)
    if first.isreg():
        work.file(first, root, name)
        for member in members:
            work.count(member)
            tally.skip(member.name, "a second member, where one file was asked for")
        return False
    if not first.isdir() or _parts(first.name):
        raise CoiError("the container sent neither a file nor a directory")
    os.mkdir(name, 0o700, dir_fd=root)
    top = _open_directory(name, root)
    work.levels.append(("", top))
    try:
        for member in members:
            work.count(member)
            work.place(member)
        work.set_mode(top, first)
    finally:
        for _name, level in work.levels:
            os.close(level)
    return True


class _Unpacking:
    """One archive on its way to disk.

    Attributes:
        levels: the directories from the top to that of the last member, each
            with its descriptor.
    """

    def __init__(self, reader: CheckedReader, limits: Limits, tally: Tally, umask: int) -> None:
        self._reader = reader
        self._limits = limits
        self._tally = tally
        self._umask = umask
        self._entries = 0
        self._claimed = 0  # bytes, of what is left out too
        self.levels: list[tuple[str, int]] = []

    def count(self, member: CheckedInfo) -> None:
        """Hold a member against the limits before anything is made of it."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise TooLargeError(f"there are more than {self._limits.entries} files")
        self._claimed += max(member.size, member.stored)
        if self._claimed > self._limits.size:
            raise TooLargeError(f"there are more than {self._limits.size} bytes")
        if self._entries % 256 == 0:
            self._tally.step(self._tally)

    def place(self, member: CheckedInfo) -> None:
        """Make what a member says, or note why not."""
        try:
            parts = _parts(member.name)
            reason = _refusal(member, parts)
            if not reason and parts:
                reason = self._make(member, parts)
        except OSError as error:
            if error.errno not in _NAME_REFUSED:
                raise
            reason = f"the file system refuses it: {os.strerror(error.errno)}"
        if reason:
            self._tally.skip(member.name, reason)

    def _make(self, member: CheckedInfo, parts: list[str]) -> str:
        """Make a member whose name is good; '' or why it is not made."""
        parent, name = self._enter(parts[:-1]), parts[-1]
        if parent is None:
            return "its directory is something else"
        try:
            if member.isdir():
                return self._directory(member, parent, name)
            if member.issym():
                os.symlink(os.fsencode(member.linkname), os.fsencode(name), dir_fd=parent)
                self._tally.files += 1
            else:
                self.file(member, parent, name)
        except FileExistsError:
            return "named twice"
        return ""

    def _enter(self, parts: list[str]) -> int | None:
        """The descriptor of a directory inside, made where it is missing."""
        same = 0
        while same < len(parts) and same + 1 < len(self.levels):
            if self.levels[same + 1][0] != parts[same]:
                break
            same += 1
        while len(self.levels) > same + 1:
            os.close(self.levels.pop()[1])
        for part in parts[same:]:
            parent = self.levels[-1][1]
            try:
                level = _open_directory(part, parent)
            except FileNotFoundError:
                os.mkdir(os.fsencode(part), 0o700, dir_fd=parent)
                level = _open_directory(part, parent)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    return None
                raise
            self.levels.append((part, level))
        return self.levels[-1][1]

    def _directory(self, member: CheckedInfo, parent: int, name: str) -> str:
        level = self._enter([*(part for part, _fd in self.levels[1:]), name])
        if level is None:
            return "named twice"
        self.set_mode(level, member)
        return ""

    def set_mode(self, directory: int, member: CheckedInfo) -> None:
        """Give a directory the member's mode; its owner may always use it."""
        os.fchmod(directory, member.mode & 0o777 & ~self._umask | 0o700)

    def file(self, member: CheckedInfo, parent: int, name: str) -> None:
        """Write a regular file that is not there yet."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(os.fsencode(name), flags, 0o600, dir_fd=parent)
        try:
            if member.pieces is None:
                self._copy(fd, member.size)
            else:
                for offset, length in zip(member.pieces[::2], member.pieces[1::2], strict=True):
                    os.lseek(fd, offset, os.SEEK_SET)
                    self._copy(fd, length)
                os.ftruncate(fd, member.size)
            os.fchmod(fd, member.mode & 0o777 & ~self._umask)
            os.utime(fd, (member.seconds, member.seconds))
        finally:
            os.close(fd)
        self._tally.files += 1
        self._tally.size += member.size

    def _copy(self, fd: int, size: int) -> None:
        while size:
            data = memoryview(self._reader.data(min(size, _CHUNK)))
            size -= len(data)
            self._tally.moved += len(data)
            while data:
                data = data[os.write(fd, data) :]
            self._tally.step(self._tally)


def _open_directory(name: str, parent: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(os.fsencode(name), flags, dir_fd=parent)


def _parts(name: str) -> list[str]:
    """A member's path in parts, leading ``./`` and doubled slashes left out."""
    return [part for part in name.split("/") if part not in ("", ".")]


def _refusal(member: CheckedInfo, parts: list[str]) -> str:
    """Why a member is left out, '' when it is not."""
    if member.name.startswith("/") or ".." in parts:
        return "its name leads out of the directory"
    if _BAD_NAME.search(member.name):
        return "its name has control characters"
    if len(parts) > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} levels deep"
    if any(len(os.fsencode(part)) > 255 for part in parts):
        return "its name is too long"
    if member.isdir():
        return ""
    if not parts:
        return "it has no name"
    if member.issym():
        return _link_refusal(member.linkname, len(parts) - 1)
    if member.islnk():
        return "a hard link"
    if member.ischr() or member.isblk():
        return "a device"
    if member.isfifo():
        return "a FIFO"
    # What tarfile does not know counts as a regular file for it, as POSIX says.
    return "" if member.type in _REGULAR else "of an unknown type"


_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)


def _link_refusal(target: str, depth: int) -> str:
    """Why a symbolic link is left out; ``depth`` is that of its directory."""
    if target.startswith("/"):
        return f"a link to an absolute path: {target}"
    if not target or _BAD_NAME.search(target) or len(os.fsencode(target)) > 4095:
        return "a link with a bad target"
    parts = _parts(target)
    if any(len(os.fsencode(part)) > 255 for part in parts):
        return "a link with a bad target"
    up = 0
    while up < len(parts) and parts[up] == "..":
        up += 1
    if up > depth or ".." in parts[up:]:
        return f"a link that leads out of the directory: {target}"
    return ""
