"""What is kept of a workspace's protected paths, in coi's own directory: ``protect/<id>/``.

``record.json`` says what stood where; ``mounts/<session>/`` has the copies that are mounted.
Both are readable by their owner alone, and the record is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from coi.errors import CoiError
from coi.files import make_private, read_private, replace_file
from coi.records import path_text, record, text_map, texts, typed
from coi.session.locks import Lock
from coi.workspace.fingerprint import Entries, Entry
from coi.workspace.protect import Plan

FORMAT = 1
_MAX = 64 << 20  # bytes of a record: the copies in base64, and names
_WAIT = 30.0  # seconds that another coi has to compare
_NAME = "record.json"


@record
class Kept:
    """A session that has not been compared yet.

    Attributes:
        devices: those of the copies, by name.
        workspace: the device of the workspace.
        settled: compared, while its state is still to be saved.
    """

    instance: str
    remote: str
    project: str
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    workspace: dict[str, str] = field(default_factory=dict)
    settled: bool = False


@record
class Record:
    """What stood at a workspace's protected paths when its first session began.

    Attributes:
        on_change: of the configuration.
        sessions: by token.
    """

    directory: Path
    source: Path
    plan: Plan = field(default_factory=Plan)
    entries: Entries = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    on_change: str = ""
    sessions: dict[str, Kept] = field(default_factory=dict)

    def mounts(self, token: str) -> Path:
        """Where the copies for a session are."""
        return self.directory / "mounts" / _short(token.encode())

    def extend(self, plan: Plan, entries: Entries, on_change: str, paths: tuple[str, ...]) -> None:
        """Take what a session finds; of what is known already, what is known holds."""
        if not any(not kept.settled for kept in self.sessions.values()):
            self.plan, self.entries, self.paths = Plan(), {}, ()
            self.on_change = on_change
        known = self.plan
        self.plan = known.with_(plan)
        self.paths = tuple(dict.fromkeys((*self.paths, *paths)))
        if "restore" in (on_change, self.on_change):
            self.on_change = "restore"
        for path, entry in entries.items():
            if not _covers(known, path):
                self.entries[path] = entry

    def forget(self, token: str) -> None:
        """A session is over; with the last one all goes."""
        self.sessions.pop(token, None)
        shutil.rmtree(self.mounts(token), ignore_errors=True)
        if self.sessions:
            self.write(durable=True)
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def write(self, *, durable: bool = False) -> None:
        """Write it; where ``durable``, so that it is there after a loss of power."""
        data = {
            "format": FORMAT,
            "source": str(self.source),
            "plan": asdict(self.plan),
            "entries": {path: entry.to_json() for path, entry in self.entries.items()},
            "paths": self.paths,
            "on_change": self.on_change,
            "sessions": {token: asdict(kept) for token, kept in self.sessions.items()},
        }
        target = self.directory / _NAME
        text = json.dumps(data).encode()
        if durable:
            replace_file(target, text)
            return
        beside = target.with_name(f".{_NAME}.{os.urandom(8).hex()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text)
        beside.replace(target)


def _short(data: bytes) -> str:
    """16 hex digits of its SHA-256."""
    from coi.digest import sha256

    return sha256(data).hexdigest()[:16]


def _covers(plan: Plan, path: str) -> bool:
    return path in plan.shallow or any(
        path == deep or path.startswith(deep + "/") for deep in plan.deep
    )


@contextmanager
def opened(home: Path, source: Path) -> Iterator[Record]:
    """The record of a workspace, under its lock; a new one where there is none.

    Raises:
        CoiError: another coi keeps it, or it is damaged.
        OSError: coi's directory cannot be written to.
    """
    base = home / "protect"
    make_private(base)
    name = _short(os.fsencode(source))
    lock = Lock(base / f"{name}.lock")
    lock.acquire(_WAIT)
    directory = base / name
    try:
        make_private(directory)
        yield _read(directory) or Record(directory, source)
    finally:
        gone = not (directory / _NAME).exists()
        if gone:
            with suppress(OSError):
                directory.rmdir()
        lock.release(remove=gone)
        if gone:
            with suppress(OSError):  # others are in it
                base.rmdir()


def records(home: Path) -> list[Record]:
    """All records, as they are now. A damaged one is left out, and left as it is."""
    found = []
    with suppress(OSError):
        for directory in sorted((home / "protect").iterdir()):
            if directory.suffix != ".lock":
                with suppress(CoiError):
                    record = _read(directory)
                    found += [record] if record else []
    return found


def tidy(home: Path) -> None:
    """Take away what a coi has left that was killed before it had written its record, or after
    it had removed it."""
    base = home / "protect"
    with suppress(OSError):
        for name in sorted({path.name.removesuffix(".lock") for path in base.iterdir()}):
            lock = Lock(base / f"{name}.lock")
            if (base / name / _NAME).exists() or not lock.try_acquire():
                continue
            gone = not (base / name / _NAME).exists()
            if gone:
                shutil.rmtree(base / name, ignore_errors=True)
            lock.release(remove=gone)
        base.rmdir()  # unless others are in it


def _read(directory: Path) -> Record | None:
    path = directory / _NAME
    data = read_private(path, _MAX + 1)
    if data is None and not path.exists():
        return None
    try:
        values: dict[str, Any] = json.loads(data or b"")
        if values["format"] != FORMAT:
            values = {}  # of another coi: what it needs is not there
        typed(values, source=str, on_change=str)
        return Record(
            directory,
            Path(path_text(values["source"])),
            Plan(**{key: _paths(given) for key, given in values["plan"].items()}),
            {path_text(p): Entry.from_json(entry) for p, entry in values["entries"].items()},
            _paths(values["paths"]),
            values["on_change"],
            {token: _kept(kept) for token, kept in values["sessions"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CoiError(
            "what coi keeps of a workspace's protected paths is damaged",
            details=f"{path}: {error}",
            hint=f"look at the workspace's .git/config and .git/hooks, then remove {directory}",
        ) from error


def _paths(given: object) -> tuple[str, ...]:
    return tuple(map(path_text, texts(given)))


def _kept(row: Any) -> Kept:
    kept = Kept(**row)
    typed(vars(kept), instance=str, remote=str, project=str, devices=dict, settled=bool)
    for device in (*kept.devices.values(), kept.workspace):
        text_map(device)
    return kept
