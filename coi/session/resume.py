"""What a start goes on with: a session that runs, one that is saved, a container that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coi.errors import NotFoundError, RefusedError
from coi.session.model import is_headless, is_session, number

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.session.model import Engine, StartRequest
    from coi.session.store import SavedSession


def target(
    engine: Engine, request: StartRequest, rows: list[Instance]
) -> tuple[Instance | None, SavedSession | None]:
    """What ``--resume`` means: a session that still runs, or a saved one."""
    if request.resume is None:
        return None, None
    own = _own(engine, request, rows)
    store = engine.store
    if request.resume:
        for row in own:
            if row.running and row.coi("session-id") == request.resume:
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
    active = [row for row in own if row.running and row.coi("tool") == request.tool.name]
    for row in active:
        if latest and row.coi("session-id") == latest.id:
            return row, None
    attended = (row for row in active if not is_headless(row))
    unsaved = max(attended, key=lambda row: row.started_at, default=None)
    if unsaved and (latest is None or unsaved.started_at > latest.saved_at):
        return unsaved, None
    if latest is None:
        raise NotFoundError(
            f"no saved {request.tool.name} session of this workspace",
            details=str(request.workspace.path),
            hint="coi shell starts one; coi list --all shows all",
        )
    return None, latest


def awaited(
    engine: Engine, request: StartRequest, rows: list[Instance], busy: set[str]
) -> str | None:
    """The stopped container of a session that may be the one, whose coi has not saved it yet.

    Args:
        busy: the names of those that another coi is at.
    """
    if request.resume is None:
        return None
    key, wanted = "session-id", request.resume
    if not wanted:
        key, wanted = "tool", request.tool.name
    for row in _own(engine, request, rows):
        if row.name in busy and row.stopped and row.coi(key) == wanted:
            return row.name
    return None


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


def unsaved(row: Instance) -> RefusedError:
    """The error for a session of which a stopped container holds what could not be saved: what
    was saved before it is older."""
    return RefusedError(
        f"session {row.coi('session-id')} could not be saved from {row.name}",
        details="what is saved of it is older than what is there",
        hint=f"mend that and try again; coi kill {row.name} gives up what is not saved",
    )
