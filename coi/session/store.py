"""Saved sessions on disk: ``<coi home>/sessions-<tool>/<session id>/``.

A session's directory holds ``metadata.json`` and the state file it names.
A save writes the new state beside the old one, fsyncs it, and commits by
renaming the metadata; only then the old state goes. Whatever happens in
between, the metadata names a complete state. A save under way holds the lock
(flock) of its state file: what nobody holds and no metadata names is of one
that was cut off.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import IO, Any

from coi.errors import CoiError, NotFoundError, RefusedError
from coi.files import is_at, make_private, sync_directory, write_beside
from coi.records import path_text, record, texts, typed
from coi.session.naming import check_session_id, is_session_id

FORMAT = 1
_TOOL = re.compile(r"[a-z][a-z0-9-]{0,39}")
METADATA = "metadata.json"
_STATE = re.compile(r"state-[0-9a-f]+\.tar")
_BEGUN = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)  # of rmdir(2): a save has begun there
_TRIES = 10  # of a save to begin whose directory is being swept away
_KINDS = {
    **dict.fromkeys(
        ("id", "tool", "workspace", "container", "saved_at", "state", "image", "version"), str
    ),
    **dict.fromkeys(("size", "files", "slot", "order", "format"), int),
    "persistent": bool,
}


@record(frozen=True)
class SavedSession:
    """A saved session.

    Attributes:
        id: coi's session id.
        saved_at: RFC 3339, UTC.
        state: the name of the state file in ``path``, '' when there is none.
        size: bytes of state.
        order: later saves have higher numbers, whatever the clock said then.
        path: the session's directory.
    """

    id: str
    tool: str
    workspace: str
    container: str
    saved_at: str
    path: Path
    state: str = ""
    size: int = 0
    files: int = 0
    persistent: bool = False
    image: str = ""
    version: str = ""
    slot: int = 0
    order: int = 0
    format: int = FORMAT
    skipped: tuple[tuple[str, str], ...] = field(default_factory=tuple)

    @property
    def state_path(self) -> Path | None:
        """The state file, when it is there."""
        if not self.state:
            return None
        path = self.path / self.state
        return path if path.is_file() else None

    def to_json(self) -> dict[str, Any]:
        """What metadata.json holds."""
        data = asdict(self)
        del data["path"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: Path) -> SavedSession:
        """The reverse of :meth:`to_json`; unknown keys are left alone.

        Raises:
            ValueError: a key is missing or of another type, or the place is not the session's.
        """
        row = typed(data)
        known = {f.name for f in fields(cls)} - {"path"}
        values = {key: value for key, value in row.items() if key in known}
        values["skipped"] = tuple((name, why) for name, why in values.get("skipped", ()))
        for skipped in values["skipped"]:
            texts([*skipped])
        try:
            saved = cls(path=path, **values)
        except TypeError as error:
            raise ValueError(str(error)) from error
        typed(vars(saved), **_KINDS)
        path_text(saved.workspace)
        if (saved.id, f"sessions-{saved.tool}") != (path.name, path.parent.name):
            raise ValueError("another session's")
        if saved.state and not _STATE.fullmatch(saved.state):
            raise ValueError("the state's name is not one that coi gives")
        return saved


def rank(saved: SavedSession) -> tuple[int, str]:
    """What saved sessions are sorted by: the later it was saved, the higher.

    The time alone is what the clock said, which may have jumped since.
    """
    return saved.order, saved.saved_at


class Store:
    """The saved sessions of one user.

    Args:
        home: coi's own directory, ``~/.coi``.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    def directory(self, tool: str, session_id: str) -> Path:
        """Where a session is saved."""
        if not _TOOL.fullmatch(tool):
            raise CoiError(f"not a tool's name: {tool!r}")
        return self.home / f"sessions-{tool}" / check_session_id(session_id)

    def all(self, *, tool: str | None = None) -> Iterator[SavedSession]:
        """Every saved session that can be read, in no order."""
        pattern = f"sessions-{tool}" if tool else "sessions-*"
        for metadata in self.home.glob(f"{pattern}/*/{METADATA}"):
            saved = _read(metadata)
            if saved is not None:
                yield saved

    def latest(self, workspace: Path, *, tool: str | None = None) -> SavedSession | None:
        """The session of a workspace that was saved last; no other workspace's."""
        own = (s for s in self.all(tool=tool) if s.workspace == str(workspace))
        return max(own, key=rank, default=None)

    def of_container(self, container: str, tool: str) -> SavedSession | None:
        """The session that was saved last from a container."""
        own = (s for s in self.all(tool=tool) if s.container == container)
        return max(own, key=rank, default=None)

    def find(self, session_id: str) -> SavedSession:
        """A session by its id, of any workspace and tool.

        Raises:
            NotFoundError: there is none, or it cannot be read.
        """
        wanted = check_session_id(session_id)
        for directory in self.home.glob(f"sessions-*/{wanted}"):
            saved = _read(directory / METADATA)
            if saved is not None:
                return saved
        raise NotFoundError(
            f"no saved session {wanted}", hint="coi list --all shows the saved sessions"
        )

    def delete(self, saved: SavedSession) -> None:
        """Remove a saved session: its metadata first, so that no half of it is found.

        Raises:
            RefusedError: it is being saved.
            CoiError: it cannot be removed.
        """
        if _saves(saved.path):
            raise RefusedError(f"session {saved.id} is being saved", hint="try again")
        try:
            (saved.path / METADATA).unlink(missing_ok=True)
            self.sweep(saved.path)
            saved.path.rmdir()  # unless that has
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CoiError(f"cannot remove session {saved.id}", details=str(error)) from error

    def torn(self) -> list[Path]:
        """The directories in which saves that were cut off have left something."""
        return [
            directory
            for directory in sorted(self.home.glob("sessions-*/*"))
            if is_session_id(directory.name) and next(_torn(directory), None) is not None
        ]

    def sweep(self, directory: Path, *, mine: str = "") -> None:
        """Take that away, and with it a directory that holds nothing else.

        Args:
            mine: the name of the caller's own state file.

        Raises:
            OSError: a file cannot be taken away.
        """
        for path in _torn(directory, mine=mine):
            if path != directory:
                path.unlink(missing_ok=True)
                continue
            try:
                path.rmdir()
            except OSError as error:
                if error.errno not in _BEGUN:
                    raise

    @contextmanager
    def writing(self, tool: str, session_id: str) -> Iterator[Pending]:
        """Save a session: write ``.file``, then call ``.commit``.

        Leaving the block without a commit removes what was written and leaves
        the previous save as it was.
        """
        directory = self.directory(tool, session_id)
        try:
            name, fd = _new_state(directory)
        except OSError as error:
            raise _disk_error(error) from error
        pending = Pending(self, directory, name, os.fdopen(fd, "wb"))
        try:
            yield pending
        except OSError as error:
            raise _disk_error(error) from error
        finally:
            pending.close()


class Pending:
    """A save under way."""

    def __init__(self, store: Store, directory: Path, name: str, file: IO[bytes]) -> None:
        self._store = store
        self.directory = directory
        self.name = name
        self.file = file
        self.earlier = (directory / METADATA).exists()
        self._committed = False

    def commit(self, saved: SavedSession) -> SavedSession:
        """Make the new state the session's state, durably.

        Raises:
            OSError: the disk refused; the previous save stands.
        """
        from coi.incus.shield import shielded

        self.file.flush()
        os.fsync(self.file.fileno())
        if not is_at(self.file.fileno(), self.directory / self.name):
            raise FileNotFoundError(errno.ENOENT, "taken away meanwhile", str(self.directory))
        saved = replace(saved, order=1 + max((s.order for s in self._store.all()), default=0))
        text = json.dumps(saved.to_json(), indent=2, sort_keys=True) + "\n"
        temporary = write_beside(self.directory / METADATA, text.encode())
        try:
            sync_directory(self.directory)  # the state's own entry, before it is named
            with shielded():  # an interruption between the two would take the named state away
                temporary.replace(self.directory / METADATA)
                self._committed = True
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(self.directory)
        self._store.sweep(self.directory, mine=self.name)
        return saved

    def close(self) -> None:
        """Drop what was not committed."""
        with suppress(OSError):
            self.file.close()
        if not self._committed:
            (self.directory / self.name).unlink(missing_ok=True)
            with suppress(OSError):  # an earlier save is in it
                self.directory.rmdir()


def _read(metadata: Path) -> SavedSession | None:
    try:
        data = json.loads(metadata.read_bytes())
        return SavedSession.from_json(data, metadata.parent)
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _new_state(directory: Path) -> tuple[str, int]:
    """A new state file, open for writing and locked: its name and descriptor."""
    for _ in range(_TRIES):
        name = f"state-{os.urandom(8).hex()}.tar"
        with suppress(FileNotFoundError):
            make_private(directory)
            fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if is_at(fd, directory / name):
                    return name, fd
            except BaseException:
                (directory / name).unlink(missing_ok=True)
                os.close(fd)
                raise
            os.close(fd)  # swept away before it was locked
    raise FileNotFoundError(errno.ENOENT, "taken away again and again", str(directory))


def _torn(directory: Path, *, mine: str = "") -> Iterator[Path]:
    """What saves that were cut off have left in a session's directory, each while nobody can
    begin to write it; last the directory itself, where nothing else is in it."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return
    beside = [name for name in names if name.startswith(f".{METADATA}.")]
    states = [name for name in names if _STATE.fullmatch(name) and name != mine]
    rest = set(names) - {*beside, *states}
    under_way = False
    for name in states:
        with _lock(directory / name) as held:
            if held is _Held.HERE and not _is_named(directory, name):
                yield directory / name
            else:
                rest.add(name)
                under_way |= held is _Held.BY_A_SAVE
    # A save that was under way when they were listed has put them in place, or its state file
    # was found locked.
    if not under_way:
        yield from (directory / name for name in beside)
        if not rest:
            yield directory


class _Held(Enum):
    """Who has the lock of a state file."""

    HERE = 1
    BY_A_SAVE = 2
    NOBODY = 3  # it cannot be locked


@contextmanager
def _lock(path: Path) -> Iterator[_Held]:
    """Hold the lock of a state file, if no save has it."""
    try:  # for writing: NFS asks for that (flock(2))
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield _Held.NOBODY
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = _Held.BY_A_SAVE
        except OSError:
            held = _Held.NOBODY
        else:
            held = _Held.HERE
        yield held
    finally:
        os.close(fd)


def _saves(directory: Path) -> bool:
    """Whether a save is under way there."""
    for path in directory.glob("state-*.tar"):
        with _lock(path) as held:
            if held is _Held.BY_A_SAVE:
                return True
    return False


def _is_named(directory: Path, name: str) -> bool:
    """Whether the metadata names a state file, or may do so: it cannot be read."""
    metadata = directory / METADATA
    saved = _read(metadata)
    return saved.state == name if saved else os.path.lexists(metadata)


def _disk_error(error: OSError) -> CoiError:
    return CoiError(
        "cannot save the session",
        details=str(error),
        hint="free space or mend the permissions, then any coi command saves it; "
        "the previous save is as it was",
    )
