"""What of a workspace makes programs of the host run: looked at before, compared after.

A file that git, an editor or a shell of the host obeys is a way out of the container: the tool
writes it, the host runs it. Which files these are is said here; :mod:`coi.session.guard` keeps
what stood there, :mod:`coi.workspace.aside` puts away what has come in its place.

Paths are relative to the workspace. Those of the configuration that begin with ``.git/`` stand
for one in every git directory of the workspace: its own, those of its submodules and of its
worktrees, and the one that a ``.git`` that is a file points to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from coi.records import record
from coi.workspace import gitconfig
from coi.workspace.fingerprint import (
    DIRECTORY,
    FILE,
    MAX_COPY,
    Entries,
    Entry,
    LimitError,
    Taking,
)
from coi.workspace.gitconfig import within
from coi.workspace.tree import Tree

GIT = ".git/"
MAX_GIT = 512  # git directories
_MAX_INDEX = 64 << 20  # bytes of an index that is searched for submodules
_MODULE_DEPTH = 6  # names of submodules may have so many parts
_SIGNS = frozenset({"HEAD", "config", "objects", "commondir"})  # one makes a git directory


@record(frozen=True)
class Plan:
    """Which paths are looked at.

    Attributes:
        shallow: those of which only counts what they are: directories on the way.
        deep: those that count with all that is below them.
        git: the git directories.
    """

    shallow: tuple[str, ...] = ()
    deep: tuple[str, ...] = ()
    git: tuple[str, ...] = ()

    def with_(self, other: Plan) -> Plan:
        """Both, this one's first."""
        return Plan(
            *(
                tuple(dict.fromkeys((*one, *two)))
                for one, two in (
                    (self.shallow, other.shallow),
                    (self.deep, other.deep),
                    (self.git, other.git),
                )
            )
        )


def plan(tree: Tree, paths: Sequence[str], *, named: bool) -> Plan:
    """What is to be looked at, as the workspace is now.

    Args:
        paths: of the configuration.
        named: also the files and the hooks that git's configuration names, in the workspace.

    Raises:
        LimitError: there are more git directories than can be.
    """
    found = _Search(tree)
    of_git = [path[len(GIT) :] for path in paths if path.startswith(GIT)]
    if of_git:
        found.begin()
    deep = [f"{git}/{path}" for git in found.git for path in of_git]
    if of_git and not found.git:
        deep = [GIT + path for path in of_git]
    if named and of_git:
        deep += found.named
    deep += [path for path in paths if not path.startswith(GIT)]
    ways = [*found.dotgit, *(way for path in deep for way in _ways(path))]
    deep = list(dict.fromkeys(deep))
    return Plan(
        tuple(way for way in dict.fromkeys(ways) if way not in deep), tuple(deep), tuple(found.git)
    )


def _ways(path: str) -> list[str]:
    """The directories on the way to a path, the outermost first."""
    names = path.split("/")
    return ["/".join(names[:depth]) for depth in range(1, len(names))]


class _Search:
    """Looks for git directories.

    Attributes:
        git: those that were found.
        dotgit: where a ``.git`` is, or would be.
        named: what their configurations name.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.git: list[str] = []
        self.dotgit: list[str] = []
        self.named: list[str] = []
        self._leads = ""  # what says where the next one is

    def begin(self) -> None:
        """From the workspace itself.

        Raises:
            LimitError: there are too many, or one cannot be read.
        """
        try:
            self.worktree("")
        except PermissionError as error:
            where = self.git[-1] if self.git else ".git"
            raise LimitError(where, f"it cannot be read ({error.strerror})") from error

    def worktree(self, path: str) -> None:
        """A directory that git works in."""
        dotgit = f"{path}/.git" if path else ".git"
        if dotgit in self.dotgit:
            return
        self.dotgit.append(dotgit)
        self._git(dotgit, path)
        to = gitconfig.gitdir(self._tree.read(dotgit, MAX_COPY))
        if to is not None and (inside := within(path, to)):
            self._git(inside, path)

    def _git(self, path: str, worktree: str | None) -> None:
        """A git directory, if it is one, and those that it leads to."""
        tree = self._tree
        if path in self.git or not tree.names(path, 0):
            return
        if len(self.git) >= MAX_GIT:
            raise LimitError(self._leads or path, f"there are more than {MAX_GIT} git directories")
        self.git.append(path)
        for kind, value in gitconfig.further(tree.read(f"{path}/config", MAX_COPY)):
            if kind == "worktree":
                worktree = within(path, value)
                if worktree is not None:
                    self.worktree(worktree)
            elif named := within(path if kind == "include" else worktree or "", value):
                self.named.append(named)
        self._modules(f"{path}/modules", _MODULE_DEPTH)
        self._leads = f"{path}/worktrees"
        for name in tree.names(f"{path}/worktrees", MAX_GIT):
            self._git(f"{path}/worktrees/{name}", None)
        if worktree is not None:
            self._leads = f"{path}/index"
            for link in gitconfig.gitlinks(tree.read(f"{path}/index", _MAX_INDEX)):
                self.worktree(f"{worktree}/{link}" if worktree else link)

    def _modules(self, path: str, depth: int) -> None:
        self._leads = path
        for name in self._tree.names(path, MAX_GIT):
            inner = f"{path}/{name}"
            if _SIGNS.isdisjoint(self._tree.names(inner, MAX_GIT)):
                if depth:
                    self._modules(inner, depth - 1)
            else:
                self._git(inner, None)


@record(frozen=True)
class Unread:
    """A path that could not be compared, and why."""

    path: str
    why: str


def take(tree: Tree, chosen: Plan) -> tuple[Entries, list[Unread]]:
    """What stands at the paths of a plan; and what could not be read, of which nothing is in it."""
    taking = Taking(tree)
    unread: list[Unread] = []
    for path in chosen.shallow:
        try:
            taking.shallow([path])
        except PermissionError as error:
            way = next((way for way in _ways(path) if not _enterable(tree, way)), path)
            if way not in {item.path for item in unread}:
                unread.append(Unread(way, f"it cannot be read ({error.strerror})"))
    for path in chosen.deep:
        try:
            taking.deep(path, samples=not path.endswith("/hooks"))
        except LimitError as error:
            unread.append(Unread(error.path, error.why))
    return taking.entries, unread


def _enterable(tree: Tree, path: str) -> bool:
    try:
        tree.status(f"{path}/x")
    except PermissionError:
        return False
    return True


@record(frozen=True)
class Change:
    """A path at which something else stands than before, or nothing; None is nothing."""

    path: str
    before: Entry | None
    now: Entry | None

    @property
    def what(self) -> str:
        """In one word or two, for people."""
        if self.before is None:
            return "new"
        if self.now is None:
            return "gone"
        if self.before.kind != self.now.kind:
            return f"a {self.before.kind}, now a {self.now.kind}"
        return "changed"


def changes(before: Entries, now: Entries, chosen: Plan) -> list[Change]:
    """What has changed, without what is below a directory that is new as a whole."""
    found: list[Change] = []
    shallow = set(chosen.shallow) - set(chosen.deep)
    news: list[str] = []
    for path in sorted({**before, **now}):
        old, new = before.get(path), now.get(path)
        if any(path.startswith(top) for top in news):
            continue
        if old.same(new) if old else new is None:
            continue
        if path in shallow and _passable(old) and _passable(new):
            continue
        if _is_config(path, chosen) and _harmless(old, new):
            continue
        found.append(Change(path, old, new))
        if old is None and new is not None and new.kind == DIRECTORY:
            if path in chosen.deep and path.endswith("/hooks") and _empty(path, now):
                found.pop()  # but for the samples that every repository gets
                continue
            news.append(path + "/")
    return found


def _passable(entry: Entry | None) -> bool:
    return entry is None or entry.kind == DIRECTORY


def _empty(path: str, now: Entries) -> bool:
    return not any(other.startswith(path + "/") for other in now)


def _is_config(path: str, chosen: Plan) -> bool:
    return path.rpartition("/")[0] in chosen.git and path.endswith("/config")


def _harmless(old: Entry | None, new: Entry | None) -> bool:
    if new is None or new.kind != FILE or new.data is None or new.mode & 0o6111:
        return False
    if old is not None and (old.kind != FILE or old.data is None):
        return False
    return gitconfig.harmless(old.data if old else None, new.data)


def copies(chosen: Plan, entries: Entries) -> dict[str, list[str]]:
    """What can be mounted as a copy: by path, all that is below it; a whole that is not copied
    wholly is left out, for it would hide what is there."""
    found: dict[str, list[str]] = {}
    shallow = [p for p in chosen.shallow if p in entries and entries[p].kind == FILE]
    for path in (*shallow, *chosen.deep):
        entry = entries.get(path)
        if entry is None or entry.kind not in (FILE, DIRECTORY) or not _mountable(path):
            continue
        below = [other for other in entries if other.startswith(path + "/")]
        if all(entries[p].kind != FILE or entries[p].data is not None for p in (path, *below)):
            found[path] = below
    return found


def _mountable(path: str) -> bool:
    return path.isprintable() and "\\" not in path


def lay(copy: Path, path: str, below: Iterable[str], entries: Entries) -> None:
    """Write the copy of what stood at ``path`` to a place of coi's own that is free."""
    import os

    for name in (path, *sorted(below)):
        entry = entries[name]
        place = os.fsencode(copy) + os.fsencode(name[len(path) :])
        if entry.kind == DIRECTORY:
            os.mkdir(place, 0o755)  # noqa: PTH102 - bytes
        elif entry.kind == FILE and entry.data is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(place, flags, 0o600), "wb") as stream:
                stream.write(entry.data)
                os.fchmod(stream.fileno(), entry.mode & 0o777 | 0o400)
        elif entry.target:
            os.symlink(os.fsencode(entry.target), place)  # noqa: PTH211 - bytes
