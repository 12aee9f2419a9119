"""Where a pull lands on the host: all of it, or nothing.

What arrives is built in a private directory beside its place and renamed into
it when it is whole. Below the place that the user named no link is followed.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import islice
from types import TracebackType

from coi.errors import CoiError, UsageError
from coi.incus.shield import shielded

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BATCH = 4096  # names moved between two looks into a directory
ARRIVING = "data"  # the name in the private directory of what is on its way


class Landing:
    """A place for one pull; a context manager.

    An existing directory receives what is pulled under its own name, or its
    content when ``name`` is ''. Otherwise the destination is the new name.

    Args:
        destination: as the user wrote it.
        name: the last part of what is pulled.

    Attributes:
        shown: where it goes, for messages.
        root: descriptor of the private directory, inside the context.

    Raises:
        CoiError: the destination cannot take it.
    """

    def __init__(self, destination: str, name: str) -> None:
        self._slash = destination.endswith("/")
        self._name = name
        self.shown = destination
        self._missing: list[str] = []
        if os.path.isdir(destination):  # noqa: PTH112 - Path would drop "/." and "//"
            place, self._last = destination, name
            if name:
                self.shown = os.path.join(destination, name)  # noqa: PTH118
        else:
            if self._slash and os.path.lexists(destination.rstrip("/")):
                raise CoiError(f"{destination} is not a directory")
            place, self._missing, self._last = _split(destination)
        self._stage = f".coi-pull-{os.urandom(8).hex()}"
        self.root = -1
        self._base = -1
        try:
            self._base = os.open(place, _DIRECTORY)
            self._check(place)
        except OSError as error:
            self._close()
            raise CoiError(f"cannot write to {place}", details=str(error)) from error
        except BaseException:
            self._close()
            raise

    def _check(self, place: str) -> None:
        """What stands where the pull is to go: a directory is merged into."""
        self.merges = not self._missing and not self._last
        if self._missing or not self._last:
            return
        status = _look(self._last, self._base)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            inner = os.open(self._last, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._base)
            os.close(self._base)
            self._base, self._last, self.merges = inner, "", True
            return
        path = os.path.join(place, self._last)  # noqa: PTH118
        behind = stat.S_IFREG
        with suppress(OSError):  # a link that leads nowhere may be replaced
            behind = stat.S_IFMT(os.stat(self._last, dir_fd=self._base).st_mode)
        if behind == stat.S_IFDIR:
            raise CoiError(
                f"{path} is a symbolic link to a directory",
                details="links below the destination are not followed",
                hint="name the directory that it points to",
            )
        if behind != stat.S_IFREG:
            raise CoiError(f"{path} exists and is not a regular file")

    @property
    def free(self) -> int:
        """Bytes that the file system has left for this user."""
        status = os.fstatvfs(self._base)
        return status.f_bavail * status.f_frsize

    def __enter__(self) -> Landing:
        with shielded():
            try:
                os.mkdir(self._stage, 0o700, dir_fd=self._base)
                self.root = os.open(self._stage, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._base)
            except OSError as error:
                self._close()
                raise CoiError(f"cannot write to {self.shown}", details=str(error)) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with shielded():
            with suppress(OSError):
                _remove(self._stage, self._base)
            self._close()

    def commit(self, *, directory: bool) -> None:
        """Put what has arrived in its place.

        An existing directory keeps what it has beside; files of the same name
        are replaced. A directory is never put in a file's place, nor the other
        way round: then nothing is changed.

        Args:
            directory: what has arrived is one.

        Raises:
            CoiError: something else is in its place.
        """
        with shielded():
            if self.merges:
                self._merge(directory)
                return
            if not directory and self._slash and self._name and self._last != self._name:
                self._missing, self._last = [*self._missing, self._last], self._name
                self.shown = os.path.join(self.shown, self._name)  # noqa: PTH118
            place = os.dup(self._base)
            try:
                for part in self._missing:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=place)
                    inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
                    os.close(place)
                    place = inner
                if directory and _look(self._last, place) is not None:
                    raise CoiError(f"{self.shown} exists and is not a directory")
                os.rename(ARRIVING, self._last, src_dir_fd=self.root, dst_dir_fd=place)
            finally:
                os.close(place)

    def _merge(self, directory: bool) -> None:
        if not directory:
            raise CoiError(f"{self.shown} is a directory")
        arrived = os.open(ARRIVING, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.root)
        try:
            _find_conflict(arrived, self._base, self.shown, os.fstat(self._base).st_dev)
            _move(arrived, self._base)
        finally:
            os.close(arrived)

    def _close(self) -> None:
        for fd in (self.root, self._base):
            if fd >= 0:
                os.close(fd)
        self.root = self._base = -1


def _split(path: str) -> tuple[str, list[str], str]:
    """The nearest directory that exists, the parts missing below it, and the last one."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    place = "/" if path.startswith("/") else "."
    while len(parts) > 1 and os.path.isdir(inner := os.path.join(place, parts[0])):  # noqa: PTH112, PTH118
        place = inner
        del parts[0]
    if not parts or ".." in parts:
        raise UsageError(f"{path} does not exist")
    if len(parts) > 1 and os.path.lexists(blocked := os.path.join(place, parts[0])):  # noqa: PTH118
        raise CoiError(f"{blocked} is not a directory")
    return place, parts[:-1], parts[-1]


def _look(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_directory(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _find_conflict(source: int, target: int, shown: str, device: int) -> None:
    """Raise when moving one directory into the other would have to fail half-way."""
    with os.scandir(source) as entries:
        for entry in entries:
            there = _look(entry.name, target)
            if there is None:
                continue
            path = f"{shown.rstrip('/')}/{entry.name}"
            ours = entry.is_dir(follow_symlinks=False)
            if not ours and (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
                continue
            if not ours or not _is_directory(there):
                raise CoiError(
                    f"{path} is in the way",
                    details="it is no directory here, and one in the container"
                    if ours
                    else "it is something else here than in the container",
                    hint="move it away; nothing has been changed",
                )
            inner = os.open(entry.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=source)
            try:
                outer = os.open(entry.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=target)
                try:
                    if os.fstat(outer).st_dev != device:
                        raise CoiError(f"{path} is on another file system")
                    _find_conflict(inner, outer, path, device)
                finally:
                    os.close(outer)
            finally:
                os.close(inner)


def _move(source: int, target: int) -> None:
    """Move the content of a directory into another, files replaced."""
    while True:
        with os.scandir(source) as entries:
            names = [(e.name, e.is_dir(follow_symlinks=False)) for e in islice(entries, _BATCH)]
        if not names:
            return
        for name, is_directory in names:
            if not (is_directory and _is_directory(_look(name, target))):
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
                continue
            inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=source)
            try:
                outer = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=target)
                try:
                    _move(inner, outer)
                finally:
                    os.close(outer)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=source)


def _remove(name: str, directory: int) -> None:
    """Remove a directory with all in it; links are removed, not followed."""
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        while True:
            with os.scandir(fd) as entries:
                batch = [(e.name, e.is_dir(follow_symlinks=False)) for e in islice(entries, _BATCH)]
            if not batch:
                break
            for inner, is_directory in batch:
                if is_directory:
                    _remove(inner, fd)
                else:
                    os.unlink(inner, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory)
