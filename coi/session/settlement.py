"""What was put aside: ``quarantine/<id>/`` of coi's own directory, and what to do about it."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coi.config.text import printable
from coi.errors import CoiError, NotFoundError
from coi.files import make_private, read_private, replace_file, write_beside
from coi.records import path_text, record, typed
from coi.session.baseline import Record, opened
from coi.workspace.aside import JOURNAL, Aside, Item, undo
from coi.workspace.fingerprint import FILE, Entry, LimitError
from coi.workspace.protect import Change, Unread, changes, plan, take
from coi.workspace.tree import Tree

_RECORD = "record.json"
_MAX = 16 << 20  # bytes of its record
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
_SHOWN = 20  # paths that a report names
_PASSES = 8  # directories with too much in them, one after the other


@record(frozen=True)
class Quarantine:
    """What was put aside when a session ended.

    Attributes:
        session: its id, or the run's name.
        at: RFC 3339, UTC.
    """

    id: str
    directory: Path
    source: Path
    session: str
    at: str
    items: tuple[Item, ...]


def difference(record: Record) -> tuple[list[Change], list[Unread]]:
    """What has changed at the protected paths, and what cannot be compared.

    Raises:
        OSError: the workspace cannot be read.
    """
    with Tree(record.source) as tree:
        return _difference(record, tree)


def _difference(record: Record, tree: Tree) -> tuple[list[Change], list[Unread]]:
    unread: list[Unread] = []
    try:
        record.plan = record.plan.with_(plan(tree, record.paths, named=False))
    except LimitError as error:
        unread.append(Unread(error.path, error.why))
    now, more = take(tree, record.plan)
    unread += more
    hidden = tuple(f"{item.path}/" for item in unread)
    skipped = {item.path for item in unread}
    found = [
        change
        for change in changes(record.entries, now, record.plan)
        if change.path not in skipped and not change.path.startswith(hidden)
    ]
    return found, unread


def settled(home: Path, record: Record, token: str) -> list[str]:
    """Compare, put aside, put back; the report, for people: nothing where nothing has changed.

    Raises:
        OSError: the workspace, or coi's own directory, cannot be used.
    """
    try:
        tree = Tree(record.source)
    except FileNotFoundError:
        return []  # the workspace is gone, and what was in it
    with tree:
        found, unread = _difference(record, tree)
        if not found and not unread:
            return []
        if record.on_change != "restore":
            return _report(record, [Item(c.path, c.what) for c in found], unread)
        base = home / "quarantine"
        make_private(base)
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(2).hex()}"
        directory = base / name
        directory.mkdir(mode=0o700)
        aside = Aside(tree, directory, name)
        at = _begun(directory, record.source, token)
        items: list[Item] = []
        for _ in range(_PASSES):
            items += undo(
                tree,
                found,
                [(item.path, item.why) for item in unread],
                record.entries,
                record.plan,
                aside,
            )
            if not unread:
                break
            found, unread = _difference(record, tree)
            if not found and not unread:
                break
        items += [Item(u.path, u.why, restored=False, problem=u.why) for u in unread]
        kept = Quarantine(name, directory, record.source, token, at, tuple(items))
        write(kept)
        return _report(record, items, [], kept)


def _report(
    record: Record, items: list[Item], unread: list[Unread], kept: Quarantine | None = None
) -> list[str]:
    source = printable(str(record.source))
    done = "put aside" if kept else "left as they are (protect.on_change)"
    count = len(items) + len(unread)
    lines = [f"Warning: {count} protected path(s) of {source} changed, and were {done}:"]
    for item in items[:_SHOWN]:
        lines.append(f"  {printable(item.path, 200)} ({_said(item, kept)})")
    lines += [f"  {printable(item.path, 200)} ({printable(item.why)})" for item in unread]
    if len(items) > _SHOWN:
        lines.append(f"  and {len(items) - _SHOWN} more")
    if kept:
        lines.append(f"They are in {kept.directory}: coi protect diff {kept.id}")
        lines.append(f"If you changed them yourself: coi protect keep {kept.id}")
    if any(item.problem for item in items):
        lines.append("Look at what is left before you run git, an editor or a shell there.")
    return lines


def _said(item: Item, kept: Quarantine | None) -> str:
    words = [printable(item.what)]
    if item.left_as:
        words.append(f"now {printable(item.left_as, 200)}")
    if item.problem:
        words.append(f"NOT MENDED: {printable(item.problem)}")
    elif kept and item.what != "new":
        words.append("restored")
    return ", ".join(words)


def _begun(directory: Path, source: Path, session: str) -> str:
    """Begin the journal of what is put aside, which counts until the record is written; now."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    head = {"source": str(source), "session": session, "at": at}
    write_beside(directory / JOURNAL, (json.dumps(head) + "\n").encode()).rename(
        directory / JOURNAL
    )
    return at


def write(kept: Quarantine) -> None:
    """Write the record of what was put aside, durably."""
    data: dict[str, Any] = {
        "source": str(kept.source),
        "session": kept.session,
        "at": kept.at,
        "items": [asdict(item) for item in kept.items],
    }
    replace_file(kept.directory / _RECORD, json.dumps(data).encode())
    (kept.directory / JOURNAL).unlink(missing_ok=True)


def all_of(home: Path) -> list[Quarantine]:
    """All that was put aside, the oldest first."""
    try:
        names = sorted(path.name for path in (home / "quarantine").iterdir())
    except OSError:
        return []
    return [found for name in names if (found := _read(home, name))]


def find(home: Path, name: str) -> Quarantine:
    """What was put aside under an id.

    Raises:
        NotFoundError: there is none of it.
    """
    found = _read(home, name) if _ID.fullmatch(name) else None
    if found is None:
        raise NotFoundError(f"nothing is put aside as {name!r}", hint="coi protect list")
    return found


def _read(home: Path, name: str) -> Quarantine | None:
    directory = home / "quarantine" / name
    if not _ID.fullmatch(name):
        return None
    data = read_private(directory / _RECORD, _MAX)
    try:
        values = json.loads(data) if data is not None else _left(directory)
        typed(values, source=str, session=str, at=str, items=list)
        items = tuple(map(_item, values["items"]))
        source = Path(path_text(values["source"]))
        return Quarantine(name, directory, source, values["session"], values["at"], items)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _left(directory: Path) -> Any:
    """The record that a coi would have written that was killed while it put things aside."""
    head, *rows = (read_private(directory / JOURNAL, _MAX) or b"").split(b"\n")
    values = json.loads(head)
    whole = [json.loads(row) for row in rows[:-1]]
    values["items"] = [row for row in whole if os.path.lexists(directory / str(row["stored"]))]
    return values


def _item(row: Any) -> Item:
    item = Item(**row)
    kinds = {**dict.fromkeys(vars(item), str), "restored": bool}
    typed(vars(item), **kinds)
    for path in (item.path, item.stored, item.left_as):
        path_text(path)
    return item


def content(kept: Quarantine, item: Item) -> bytes | None:
    """A file's content as it was put aside, None where it is no file."""
    if item.kind != FILE or not item.stored:
        return None
    with Tree(kept.directory) as tree:
        return tree.read(item.stored, 1 << 20)


def current(kept: Quarantine, item: Item) -> bytes:
    """What stands there now, empty where no file does."""
    try:
        with Tree(kept.source) as tree:
            return tree.read(item.path, 1 << 20)
    except OSError:
        return b""


def keep(home: Path, kept: Quarantine, paths: tuple[str, ...]) -> list[str]:
    """Put what was put aside into the workspace again; what stands there is put aside for it.

    Args:
        paths: those of them that are meant; all where there are none.

    Returns:
        the paths.

    Raises:
        NotFoundError: a path is not among them.
        CoiError: it cannot be done.
    """
    unknown = [path for path in paths if path not in {item.path for item in kept.items}]
    if unknown:
        raise NotFoundError(
            f"{printable(unknown[0])} is not in {kept.id}", hint=f"coi protect diff {kept.id}"
        )
    meant = [
        item
        for item in kept.items
        if (item.stored or _beside(item)) and (not paths or item.path in paths)
    ]
    now = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(2).hex()}"
    directory = home / "quarantine" / now
    try:
        with opened(home, kept.source) as record, Tree(kept.source) as tree:
            directory.mkdir(mode=0o700)
            at = _begun(directory, kept.source, "coi protect keep")
            aside = Aside(tree, directory, now)
            swapped: list[Item] = []
            for item in meant:
                swapped += _swap(tree, kept, item, aside)
                if record.sessions:
                    _renew(record, tree, item.path)
            if record.sessions:
                record.write(durable=True)
            if swapped:
                write(
                    Quarantine(now, directory, kept.source, "coi protect keep", at, tuple(swapped))
                )
            else:
                shutil.rmtree(directory)
    except OSError as error:
        raise CoiError(
            f"cannot put {kept.id} into the workspace again",
            details=f"{error.filename or kept.source}: {error.strerror or error}",
            hint=f"it is in {kept.directory}, under the numbers of its record.json",
        ) from error
    rest = tuple(item for item in kept.items if item not in meant)
    if any(item.stored or item.left_as for item in rest):
        write(Quarantine(kept.id, kept.directory, kept.source, kept.session, kept.at, rest))
    else:
        shutil.rmtree(kept.directory, ignore_errors=True)
    return [item.path for item in meant]


def _beside(item: Item) -> bool:
    """Whether it is where it was, under another name."""
    return bool(item.left_as) and item.left_as.rpartition("/")[0] == item.path.rpartition("/")[0]


def _swap(tree: Tree, kept: Quarantine, item: Item, aside: Aside) -> list[Item]:
    """Put one thing in its place; what was there."""
    swapped: list[Item] = []
    status = tree.status(item.path)
    if status is not None:
        there = Item(item.path, "what stood there before", _kind(tree, item.path))
        aside.put_away(item.path, there)
        swapped.append(there)
    if "/" in item.path:
        tree.make_directories(item.path.rpartition("/")[0])
    if not item.stored:
        tree.rename(item.left_as, item.path.rpartition("/")[2])
        return swapped
    with Tree(kept.directory) as stored:
        found = _taken(stored, item.stored)
    for name in sorted(found):
        entry = found[name]
        path = item.path + name[len(item.stored) :]
        if entry.kind == FILE and entry.data is not None:
            tree.write(path, entry.data, entry.mode)
        elif entry.target:
            tree.link(path, entry.target)
        else:
            tree.make_directories(path)
    return swapped


def _kind(tree: Tree, path: str) -> str:
    found = _taken(tree, path, shallow=True)
    return found[path].kind if path in found else ""


def _taken(tree: Tree, path: str, *, shallow: bool = False) -> dict[str, Entry]:
    from coi.workspace.fingerprint import Taking

    taking = Taking(tree)
    try:
        if shallow:
            taking.shallow([path])
        else:
            taking.deep(path)
    except LimitError as error:
        raise OSError(0, error.why, path) from error
    files = [entry for entry in taking.entries.values() if entry.kind == FILE]
    if not shallow and any(entry.data is None for entry in files):
        raise OSError(0, "it is too large: copy it by hand", path)
    return taking.entries


def _renew(record: Record, tree: Tree, path: str) -> None:
    """What was put back is what stood there, for sessions that still run."""
    for name in [n for n in record.entries if n == path or n.startswith(path + "/")]:
        del record.entries[name]
    record.entries.update(_taken(tree, path))


def drop(kept: Quarantine) -> None:
    """Delete what was put aside.

    Raises:
        CoiError: it cannot be deleted.
    """
    try:
        shutil.rmtree(kept.directory)
    except OSError as error:
        raise CoiError(f"cannot delete {kept.directory}", details=str(error)) from error
