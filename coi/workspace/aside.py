"""Putting away what has come to a protected path, and putting back what stood there.

Nothing is thrown away, and no link is followed. What cannot be moved to coi's own directory
(another file system, another user's directory) gets a name beside its own that nothing obeys.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from coi.records import record
from coi.workspace.fingerprint import DIRECTORY, FILE, LINK, Entries, Entry
from coi.workspace.protect import Change, Plan
from coi.workspace.tree import Tree

JOURNAL = "journal"  # of a directory of what was put away, while things are put there
_MAX_MOVED = 64 << 20  # bytes of a file that is copied to another file system


@record
class Item:
    """What became of one path.

    Attributes:
        what: had happened to it.
        kind: of what was put away, '' where nothing was.
        stored: its name in the directory of what was put away.
        left_as: the path of the workspace that it has now, where it could not be moved.
        restored: what stood there before is there again, or nothing as before.
        problem: why not.
    """

    path: str
    what: str
    kind: str = ""
    stored: str = ""
    left_as: str = ""
    restored: bool = True
    problem: str = ""


class Aside:
    """Puts away what is in one workspace.

    Args:
        directory: where to, private and there.
        mark: part of the names of what stays in the workspace.
    """

    def __init__(self, tree: Tree, directory: Path, mark: str) -> None:
        self._tree = tree
        self._directory = directory
        self._mark = mark
        self._count = 0

    def put_away(self, path: str, item: Item) -> None:
        """Take away what is at a path, however; ``item`` says how.

        Raises:
            OSError: it can neither be moved nor renamed, nor can any directory on the way.
        """
        try:
            if self._tree.status(path) is None:
                return
            with suppress(OSError):
                self._move(path, item)
                return
        except OSError:  # its directory cannot be entered
            pass
        names = path.split("/")
        problem: OSError | None = None
        for depth in range(len(names), 0, -1):
            way = "/".join(names[:depth])
            name = f"{names[depth - 1]}.coi-{self._mark}"
            try:
                self._tree.rename(way, name)
            except OSError as error:
                problem = problem or error
                continue
            item.left_as = "/".join([*names[: depth - 1], name])
            return
        raise problem or OSError(errno.EPERM, os.strerror(errno.EPERM))

    def _move(self, path: str, item: Item) -> None:
        self._count += 1
        name = str(self._count)
        with (self._directory / JOURNAL).open("a") as journal:  # known, should coi be killed now
            journal.write(json.dumps({**vars(item), "stored": name}) + "\n")
        to = self._directory / name
        try:
            self._tree.move(path, to)
        except OSError as error:
            if error.errno != errno.EXDEV or item.kind not in (FILE, LINK):
                raise
            if item.kind == LINK:
                to.symlink_to(self._tree.target(path))
            else:
                self._copy(path, to)
            self._tree.unlink(path)
        item.stored = name

    def _copy(self, path: str, to: Path) -> None:
        data = self._tree.read(path, _MAX_MOVED)
        if len(data) > _MAX_MOVED:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)


def undo(
    tree: Tree,
    found: Sequence[Change],
    unread: Iterable[tuple[str, str]],
    before: Entries,
    chosen: Plan,
    aside: Aside,
) -> list[Item]:
    """Put away what has changed, and put back what stood there.

    Args:
        found: the changes.
        unread: paths that could not be compared, and why: they are put away whole.
        before: what stood at the paths of ``chosen``.
    """
    items: list[Item] = []
    away = [Item(path, f"not comparable: {why}", "directory") for path, why in unread]
    away += [Item(c.path, c.what, c.now.kind if c.now else "") for c in found]
    for item in away:
        items.append(item)
        if not item.kind:
            continue
        try:
            aside.put_away(item.path, item)
        except OSError as error:
            item.restored = False
            item.problem = error.strerror or str(error)
    by_path = {item.path: item for item in items}
    for path in sorted(before):
        problem = _put_back(tree, path, before[path], chosen)
        if problem:
            known = by_path.get(path)
            item = known or Item(path, "gone")
            if known is None:
                items.append(item)
            item.restored = False
            item.problem = item.problem or problem
    return items


def _put_back(tree: Tree, path: str, entry: Entry, chosen: Plan) -> str:
    """Put back what stood at a path where nothing is now; why it cannot be done."""
    try:
        if path in chosen.shallow and entry.kind == DIRECTORY:
            return ""
        if tree.status(path) is not None:
            return ""
        for git in chosen.git:
            if path.startswith(git + "/") and not _is_directory(tree, git):
                return f"{git} is no more"
        if entry.kind == DIRECTORY:
            tree.make_directories(path)
            return ""
        if "/" in path:
            tree.make_directories(path.rpartition("/")[0])
        if entry.kind == LINK:
            tree.link(path, entry.target)
        elif entry.data is not None:
            tree.write(path, entry.data, entry.mode)
        else:
            return "coi has no copy of it"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _is_directory(tree: Tree, path: str) -> bool:
    import stat

    status = tree.status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)
