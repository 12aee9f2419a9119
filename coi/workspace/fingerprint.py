"""What stands at some paths of a workspace, taken so that it can be compared and put back."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from coi.records import record, typed
from coi.workspace.tree import Tree

MAX_COPY = 256 << 10  # bytes of a file that is copied; of a larger one its identity is taken
MAX_COPIES = 8 << 20  # bytes of all copies
MAX_ENTRIES = 4000
MAX_DEPTH = 32

FILE, DIRECTORY, LINK, OTHER = "file", "directory", "link", "special file"
_KINDS = {"mode": int, **dict.fromkeys(("kind", "digest", "identity", "target"), str)}


class LimitError(Exception):
    """There is more at a path than can be compared.

    Attributes:
        path: which one.
        why: for people.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


@record(frozen=True)
class Entry:
    """What stands at a path.

    Attributes:
        mode: permission bits.
        digest: of a file that is copied, SHA-256 in hex.
        identity: of a file that is not: inode, size and time of change, which no container
            can set (it comes from the kernel's clock).
        target: of a link.
        data: the copy.
    """

    kind: str
    mode: int = 0
    digest: str = ""
    identity: str = ""
    target: str = ""
    data: bytes | None = None

    def same(self, other: Entry | None) -> bool:
        """Whether nothing that matters has changed; of a mode, what makes a file a program."""
        if other is None or self.kind != other.kind:
            return False
        if self.kind == FILE and (self.mode ^ other.mode) & 0o6111:
            return False
        return (self.digest, self.identity, self.target) == (
            other.digest,
            other.identity,
            other.target,
        )

    def to_json(self) -> dict[str, Any]:
        from base64 import b64encode

        found: dict[str, Any] = {
            key: value
            for key in ("kind", "mode", "digest", "identity", "target")
            if (value := getattr(self, key))
        }
        if self.data is not None:
            found["data"] = b64encode(self.data).decode()
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """The reverse of :meth:`to_json`.

        Raises:
            ValueError, TypeError: it is not of that form.
        """
        from base64 import b64decode

        values = dict(data)
        if "data" in values:
            values["data"] = b64decode(values["data"], validate=True)
        entry = cls(**values)
        typed(vars(entry), **_KINDS)
        return entry


Entries = dict[str, Entry]


class Taking:
    """Takes the entries of one tree, against limits for all of them together."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._copied = 0
        self.entries: Entries = {}

    def shallow(self, paths: Iterable[str]) -> None:
        """Of a directory, only that it is one."""
        for path in paths:
            status = self._tree.status(path)
            if status is not None:
                self._one(path, status)

    def deep(self, path: str, *, samples: bool = True) -> None:
        """All that is at a path, and below it.

        Args:
            samples: files whose names end with ``.sample`` count: git runs none of them.

        Raises:
            LimitError: that is too much, or cannot be read.
        """
        before = dict(self.entries), self._copied
        try:
            self._deep(path, path, MAX_DEPTH, samples)
        except LimitError as error:
            self.entries, self._copied = before
            raise LimitError(path, error.why) from error

    def _deep(self, top: str, path: str, depth: int, samples: bool) -> None:
        try:
            status = self._tree.status(path)
            if status is None:
                return
            self._one(path, status)
            if not stat.S_ISDIR(status.st_mode):
                return
            names = self._tree.names(path, MAX_ENTRIES)
        except OSError as error:
            raise LimitError(top, f"{path} cannot be read ({error.strerror})") from error
        if depth == 0:
            raise LimitError(top, f"it is nested more than {MAX_DEPTH} levels deep")
        for name in names:
            if len(self.entries) >= MAX_ENTRIES:
                raise LimitError(top, f"there are more than {MAX_ENTRIES} files")
            inner = f"{path}/{name}"
            if not samples and name.endswith(".sample") and self._is_file(inner):
                continue
            self._deep(top, inner, depth - 1, samples)

    def _is_file(self, path: str) -> bool:
        status = self._tree.status(path)
        return status is not None and stat.S_ISREG(status.st_mode)

    def _one(self, path: str, status: os.stat_result) -> None:
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            entry = Entry(DIRECTORY, mode)
        elif stat.S_ISLNK(status.st_mode):
            entry = Entry(LINK, target=self._tree.target(path))
        elif stat.S_ISREG(status.st_mode):
            entry = self._file(path, status, mode)
        else:
            entry = Entry(OTHER, mode, identity=f"{status.st_mode}:{status.st_rdev}")
        self.entries[path] = entry

    def _file(self, path: str, status: os.stat_result, mode: int) -> Entry:
        from coi.digest import sha256

        identity = f"{status.st_ino}:{status.st_size}:{status.st_ctime_ns}"
        if status.st_size > MAX_COPY:
            return Entry(FILE, mode, identity=identity)
        try:
            data = self._tree.read(path, MAX_COPY)
        except OSError as error:
            if error.errno != errno.EACCES:
                raise
            return Entry(FILE, mode, identity=identity)
        self._copied += len(data)
        if len(data) > MAX_COPY or self._copied > MAX_COPIES:
            raise LimitError(path, f"there are more than {MAX_COPIES >> 20} MiB")
        return Entry(FILE, mode, digest=sha256(data).hexdigest(), data=data)
