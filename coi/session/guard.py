"""Protected paths of a workspace: what stood there is kept, and held against what is there after.

Inside they are mounts that cannot be written to, of copies: a mount of the path itself would
have the daemon, as root, follow a link that the container has put in its place. Root inside can
take a mount away. So the host looks for itself: before the container is made it keeps what
stands at each path, and when nothing runs in it any more it puts away what has changed and
brings back what was there.

One record for a workspace, shared by the sessions that run on it at the same time: the first
one makes it, each compares at its end, and the last one takes it away. A session whose coi was
killed is compared by the next coi that lists instances.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from coi.errors import FAILING, CoiError, RefusedError, disk_error
from coi.files import make_private
from coi.incus.errors import MissingError
from coi.session.baseline import Kept, Record, opened, records, tidy
from coi.session.body import workspace_device
from coi.workspace.directory import INSIDE

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.incus.payload import Payload
    from coi.session.model import Engine
    from coi.workspace.protect import Unread

SAVED = "saved"  # as coi.session.model has it
PREFIX = "guard"  # of the devices' names
MAX_MOUNTS = 12  # each costs the start a few milliseconds
_END = 20.0  # seconds that the processes of a killed container have to die
_POLL = 0.05  # seconds between two looks at a stopping instance

Devices = dict[str, dict[str, str]]


def begin(engine: Engine, source: Path, token: str, instance: str, *, shift: bool) -> Devices:
    """Keep what stands at the protected paths, before the instance is made or started.

    Args:
        source: the workspace, links resolved.
        token: the session's id, or the name of a run.
        shift: mounts are idmapped.

    Returns:
        the disk devices that make the paths read-only inside.

    Raises:
        RefusedError: what is there cannot be kept.
    """
    from coi.workspace.fingerprint import LimitError
    from coi.workspace.protect import copies, lay, plan, take
    from coi.workspace.tree import Tree

    settings = engine.config.protect
    if not settings.enabled:
        return {}
    try:
        with opened(engine.home, source) as record, Tree(source) as tree:
            chosen = plan(tree, settings.paths, named=True)
            entries, unread = take(tree, chosen)
            _all_read(unread)
            record.extend(chosen, entries, settings.on_change, settings.paths)
            devices: Devices = {}
            mounts = record.mounts(token)
            shutil.rmtree(mounts, ignore_errors=True)
            for path, below in copies(record.plan, record.entries).items():
                now = entries.get(path)
                if len(devices) >= MAX_MOUNTS or not now:
                    continue
                if now.kind != record.entries[path].kind:
                    continue
                number = str(len(devices) + 1)
                make_private(mounts)
                lay(mounts / number, path, below, record.entries)
                device = {
                    "type": "disk", "source": str(mounts / number),
                    "path": f"{INSIDE}/{path}", "readonly": "true",
                }  # fmt: skip
                if shift:
                    device["shift"] = "true"
                devices[PREFIX + number] = device
            client = engine.client
            whole = workspace_device(source, shift=shift)
            record.sessions[token] = Kept(instance, client.remote, client.project, devices, whole)
            record.write()
            return devices
    except LimitError as error:
        raise RefusedError(
            f"cannot protect {error.path} of the workspace",
            details=f"What stands there must be kept, to be compared afterwards: {error.why}.",
            hint="leave it out: [protect] paths in the user's configuration",
        ) from error
    except OSError as error:
        if error.errno in FAILING:  # coi's own disk, then
            raise disk_error(error) or error from error
        raise RefusedError(
            "cannot protect the workspace",
            details=f"{error.filename or source}: {error.strerror or error}",
            hint="COI_PROTECT_ENABLED=false starts without, at your own risk",
        ) from error


def _all_read(unread: Iterable[Unread]) -> None:
    from coi.workspace.fingerprint import LimitError

    for item in unread:
        raise LimitError(item.path, item.why)


def remember(engine: Engine, token: str) -> None:
    """Make the record durable: beside the creation, which takes longer."""
    with _of(engine, token) as record:
        if record is not None:
            record.write(durable=True)


@contextmanager
def _of(engine: Engine, token: str, instance: str = "") -> Iterator[Record | None]:
    """The record that a session is in, locked, or None.

    Args:
        instance: where the session is, if that is known: one that was kept, and whose session
            goes on in another, has no part in the record.
    """
    source = next((r.source for r in records(engine.home) if token in r.sessions), None)
    if source is None:
        yield None
        return
    with opened(engine.home, source) as record:
        kept = record.sessions.get(token)
        yield record if kept and instance in ("", kept.instance) else None


def watching(engine: Engine, instance: str) -> Payload | None:
    """What :func:`ended` needs; to be made while the instance still runs."""
    if not engine.protects:
        return None
    from coi.incus.payload import Payload

    return Payload(instance, engine.client.project)


def ended(engine: Engine, token: str, instance: str, payload: Payload | None) -> None:
    """The instance was told to stop at once: compare when nothing runs in it any more."""
    if payload is None:
        return
    deadline = time.monotonic() + _END
    if not payload.wait_gone(_END):
        while time.monotonic() < deadline:
            row = engine.instances.find(instance)
            if row is None or row.stopped:
                break
            time.sleep(_POLL)
    settle(engine, token, instance)


def settle(engine: Engine, token: str, instance: str = "") -> None:
    """Compare, and forget the session: nothing of it runs. Where that cannot be done it is
    said, and the next coi tries again.

    Args:
        instance: as :func:`_of` has it.
    """
    try:
        with _of(engine, token, instance) as record:
            if record is not None and _compare(engine, record, token):
                record.forget(token)
    except (CoiError, OSError) as error:
        engine.warn(f"Cannot compare the workspace's protected paths: {error}")


def look(engine: Engine, token: str) -> None:
    """Say what has changed while the session goes on; nothing is moved."""
    from coi.config.text import printable

    with suppress(CoiError, OSError), _of(engine, token) as record:
        if record is None:
            return
        from coi.session.settlement import difference

        changed, unread = difference(record)
        paths = [*(item.path for item in changed), *(item.path for item in unread)]
        found = [printable(path, 100) for path in paths]
        if found:
            engine.warn(
                f"Protected paths of {record.source} have changed: {', '.join(found[:6])}"
                f"{' ...' if len(found) > 6 else ''}. When the session ends they are put aside."
            )


def close(engine: Engine, token: str, instance: str) -> None:
    """A stopped instance: its workspace is taken from it, then compare.

    It is started once more, so that its state can be read, and what starts in it then is its
    own affair: it must not reach the workspace.
    """
    with _of(engine, token, instance) as record:
        if record is None or record.sessions[token].settled:
            return
        kept = record.sessions[token]
        bare = {name: {"type": "none"} for name in ("workspace", *kept.devices)}
        deadline = time.monotonic() + _END
        while True:
            try:
                engine.instances.update(instance, devices=bare)
            except MissingError:
                raise
            except CoiError:  # it is shown as stopped a moment before it is
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)
            else:
                break
        kept.settled = _compare(engine, record, token)
        with suppress(OSError):  # then it is compared once more
            record.write(durable=True)


def given_back(engine: Engine, token: str, instance: str) -> Devices:
    """The devices of a stopped instance that is kept: its workspace again."""
    with _of(engine, token, instance) as record:
        if record is None or not record.sessions[token].workspace:
            return {}
        return {"workspace": dict(record.sessions[token].workspace)}


def sweep(engine: Engine, rows: Iterable[Instance], *, but: Collection[str] = ()) -> None:
    """Compare for the sessions that are gone, however they went.

    Args:
        rows: all instances, as listed a moment ago.
        but: the names of those that are left alone.
    """
    if not engine.protects:
        return
    tidy(engine.home)
    for token, instance in left(engine, rows):
        if instance in but:
            continue
        lock = engine.lock(instance)
        known = lock.path.exists()
        try:
            with suppress(CoiError, OSError):
                if lock.try_acquire():  # else it is being made, or somebody attends to it
                    _settle_left(engine, token, instance)
        finally:
            lock.release(remove=not known)


def left(engine: Engine, rows: Iterable[Instance]) -> Iterator[tuple[str, str]]:
    """Token and instance of each that is to be compared, and does not run as far as is seen."""
    if not engine.protects:
        return
    running = {row.name for row in rows if not row.stopped}
    client = engine.client
    for record in records(engine.home):
        for token, kept in record.sessions.items():
            here = (kept.remote, kept.project) == (client.remote, client.project)
            if here and kept.instance not in running:
                yield token, kept.instance


def _settle_left(engine: Engine, token: str, instance: str) -> None:
    """Compare for one that nobody attends to, if it does not run.

    While one is stopping a listing may be without it, or without its keys (measured): it is
    asked for by itself.
    """
    row = engine.instances.find(instance)
    if row is None:
        settle(engine, token, instance)
    elif not row.stopped or not row.coi("owner"):
        return
    elif token not in (row.coi("session-id"), row.name) or row.coi("state") == SAVED:
        settle(engine, token, instance)
    else:
        close(engine, token, instance)  # its state could not be saved so far


def _compare(engine: Engine, record: Record, token: str) -> bool:
    """Whether that is done. Where coi's own disk fails the next coi tries again."""
    from coi.session.settlement import settled

    if record.sessions[token].settled:
        return True
    try:
        for line in settled(engine.home, record, token):
            engine.warn(line)
    except OSError as error:
        engine.warn(
            f"Cannot compare the protected paths of {record.source}: {error}. "
            "Look at them before you run git there."
        )
        return error.errno not in FAILING
    return True


def restart(engine: Engine, row: Instance) -> None:
    """Before a session's kept instance is started by itself: as for a new session.

    Raises:
        RefusedError: what is at the paths cannot be kept.
        CoiError: the instance cannot be changed.
    """
    given = row.devices.get("workspace", {})
    source, token = Path(given.get("source", "")), row.coi("session-id")
    if not token or not source.is_dir():
        return
    devices = begin(engine, source, token, row.name, shift=given.get("shift") == "true")
    stale = {name: {"type": "none"} for name in row.devices if name.startswith(PREFIX)}
    if stale or devices:
        engine.instances.update(row.name, devices={**stale, **devices})
    remember(engine, token)
