"""What a start goes on with: a session that runs, one that is saved, a container that is kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from coi.errors import CoiError, NotFoundError, RefusedError
from coi.session import making
from coi.session.locks import Stamp, stamps
from coi.session.model import REMOVING, SAVED, is_headless, is_session, number, superseded
from coi.session.recover import recover

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.session.model import Engine, StartRequest
    from coi.session.store import SavedSession
    from coi.session.warm import Seen

WAIT = 60.0  # seconds that another coi has to claim what it resumes, or to save what has ended
_LOOK = 0.5  # seconds between two looks at what becomes of it
_POLL = 0.02  # seconds


class Found(NamedTuple):
    """What there is.

    Attributes:
        stamps: of the locks, as they were before; not of those that another coi held.
    """

    rows: list[Instance]
    stamps: dict[str, Stamp]
    unsaved: set[str]
    seen: Seen | None


def look(engine: Engine, request: StartRequest) -> Found:
    """What there is, once no other coi is about to save what is to be resumed.

    Raises:
        RefusedError: what is to be resumed could not be saved.
    """
    deadline = time.monotonic() + WAIT
    unsaved: set[str] = set()
    while True:
        before = stamps(engine.home / "locks") if request.persistent else {}
        seen = making.look(engine, request.image)
        rows = list(seen.rows) if seen else engine.instances.all()
        done = recover(engine, rows, but=unsaved)
        rows = [row for row in rows if row.name not in done.gone]
        unsaved |= done.unsaved  # once tried in vain is enough
        ended = [row for row in wanted(engine, request, rows) if row.stopped]
        # One that is being made, or started, is stopped, too: its coi notes that.
        busy_ones = (row for row in ended if row.name in done.busy and engine.began(row))
        row = next(busy_ones, None)
        if row is not None:
            wait(engine, row.name, row.coi("session-id"), row.coi("start"), deadline)
            continue
        row = next((row for row in ended if row.name in unsaved), None)
        if row is not None:
            raise unsavable(row)
        for name in done.busy:
            before.pop(name, None)
        return Found(rows, before, unsaved, seen)


def target(
    engine: Engine, request: StartRequest, rows: list[Instance]
) -> tuple[Instance | None, SavedSession | None]:
    """What ``--resume`` means: a session that still runs, or a saved one."""
    if request.resume is None:
        return None, None
    own = [
        row for row in _own(engine, request, rows) if row.running and not superseded(engine, row)
    ]
    store = engine.store
    if request.resume:
        for row in own:
            if row.coi("session-id") == request.resume:
                return row, None
        saved = store.find(request.resume)
        if saved.workspace != str(request.workspace.path):
            raise RefusedError(
                f"session {saved.id} belongs to another workspace",
                details=f"it was saved from {saved.workspace}",
                hint=f"coi shell -w {saved.workspace} --resume={saved.id}",
            )
        return None, saved
    latest = store.latest(request.workspace.path, tool=request.tool.name)
    active = [row for row in own if row.coi("tool") == request.tool.name]
    for row in active:
        if latest and row.coi("session-id") == latest.id:
            return row, None
    attended = (row for row in active if not is_headless(row))
    newest = max(attended, key=lambda row: row.started_at, default=None)
    if newest and (latest is None or newest.started_at > latest.saved_at):
        return newest, None
    if latest is None:
        raise NotFoundError(
            f"no saved {request.tool.name} session of this workspace",
            details=str(request.workspace.path),
            hint="coi shell starts one; coi list --all shows all",
        )
    return None, latest


def wanted(engine: Engine, request: StartRequest, rows: list[Instance]) -> list[Instance]:
    """The sessions of this workspace that ``--resume`` may mean: the one that it names, or all
    of the tool."""
    if request.resume is None:
        return []
    key, value = "session-id", request.resume
    if not value:
        key, value = "tool", request.tool.name
    return [row for row in _own(engine, request, rows) if row.coi(key) == value]


def wait(
    engine: Engine, name: str, session_id: str, start: str, deadline: float | None = None
) -> None:
    """Wait until the coi that is with a session which has ended has saved it.

    Args:
        start: of its container; with another one, or where it is only starting, that coi goes
            on with it.
        deadline: of ``time.monotonic()``; else it is :data:`WAIT` from now.

    Raises:
        CoiError: it has not by then.
    """
    engine.report(f"Waiting for the coi that saves session {session_id} of {name}")
    deadline = time.monotonic() + WAIT if deadline is None else deadline
    lock, next_look = engine.lock(name), time.monotonic() + _LOOK
    starting = False
    while True:
        if time.monotonic() > deadline:
            raise CoiError(
                f"session {session_id} has ended in {name}, and the coi that is with it does not "
                "save it",
                details=f"it was waited for {WAIT:.0f} s",
                hint="end that coi (it may be suspended), then the next one saves the session",
            )
        if lock.try_acquire():
            break
        starting = starting or lock.read() == session_id
        time.sleep(_POLL)
        if time.monotonic() > next_look:
            now = engine.instances.find(name)
            if now is not None and now.running and (starting or now.coi("start") != start):
                return
            next_look = time.monotonic() + _LOOK
    gone = False
    try:
        now = engine.instances.find(name)
        gone = now is None or now.coi("state") == REMOVING
    finally:
        lock.release(remove=gone)


def _own(engine: Engine, request: StartRequest, rows: list[Instance]) -> list[Instance]:
    """The sessions of this workspace."""
    return [
        row
        for row in rows
        if is_session(row)
        and engine.attends(row)
        and row.coi("workspace") == str(request.workspace.path)
    ]


def kept(engine: Engine, request: StartRequest, rows: list[Instance]) -> list[Instance]:
    """The persistent instances of this workspace and slot, the lowest slot first."""
    found = [
        row
        for row in _own(engine, request, rows)
        if row.coi("persistent") == "true"
        and (not request.slot or row.coi("slot") == str(request.slot))
    ]
    return sorted(found, key=lambda row: number(row, "slot"))


def still_kept(
    engine: Engine, request: StartRequest, row: Instance, untouched: bool
) -> Instance | None:
    """The kept instance whose lock was taken, if it is what it was when it was listed.

    Args:
        untouched: its lock tells that nobody has begun with it since.
    """
    if untouched:
        return row
    now = engine.instances.find(row.name)
    fits = now is not None and now.stopped and now.coi("state") == SAVED
    return now if now is not None and fits and kept(engine, request, [now]) else None


def busy(row: Instance) -> RefusedError:
    """The error for a session that nobody else can go on with now."""
    name, session_id = row.name, row.coi("session-id")
    if is_headless(row):
        return RefusedError(
            f"session {session_id} is at work on a prompt in {name}",
            hint=f"coi list shows when it has ended; coi kill {name} ends it, unsaved",
        )
    return RefusedError(
        f"session {session_id} is still running in {name}",
        hint=f"coi attach {name}, or: coi tmux send {name} 'TEXT'",
    )


def unsavable(row: Instance) -> RefusedError:
    """The error for a session of which a stopped container holds what could not be saved."""
    return RefusedError(
        f"session {row.coi('session-id')} could not be saved from {row.name}",
        details="what is there is newer than what is saved of it",
        hint="mend that and try again, or name an older session: coi list --all; "
        f"coi kill {row.name} gives up what is not saved",
    )
