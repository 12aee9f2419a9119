"""Claim a slot: create an instance for a session, or find the one to go on with.

A start is four calls, of which two are here: list the instances and create
one, side by side when any slot will do; then unpack what goes inside and start
tmux (coi.session.begin), and attach (coi.session.attach).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError
from coi.incus.errors import AlreadyExistsError
from coi.session import guard, making
from coi.session.body import instance_body, with_workspace
from coi.session.model import Session, from_instance, identity, is_headless, number, superseded
from coi.session.naming import instance_name, new_session_id, new_start, workspace_id
from coi.session.network import agree, on_ground

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.session.locks import Lock
    from coi.session.model import Engine, StartRequest
    from coi.session.resume import Found
    from coi.session.store import SavedSession
    from coi.session.undo import Undo
    from coi.session.warm import Seen

_OURS = ("mount", "port", "guard")  # how the names of devices of a start begin


Meanwhile = Callable[["Session"], object]
"""What is done for a session before its instance can be entered."""


def claim(
    engine: Engine, request: StartRequest, undo: Undo, meanwhile: Meanwhile = lambda _: None
) -> Session:
    """The session to open: a new one in a free slot, a resumed one, or a running one.

    Its instance runs afterwards, on its network; the returned session's lock is held
    unless another coi attends to it.

    Args:
        undo: the caller calls it where the session does not begin.
        meanwhile: called with each session whose instance is being made or restarted; the
            last one is the one that is returned.

    Raises:
        NotFoundError: there is nothing to resume.
        RefusedError: the network policy cannot be enforced, or the session runs on another.
        CoiError: all slots are in use, or Incus failed; nothing is left behind.
    """
    if request.resume is None and not request.persistent and not request.slot:
        return on_ground(
            request.network,
            lambda made: _claim_any(engine, replace(request, ground=made), undo, meanwhile),
        )
    with _alone(engine, request):
        return _claim_certain(engine, request, undo, meanwhile)


@contextmanager
def _alone(engine: Engine, request: StartRequest) -> Iterator[None]:
    """Two that resume the same session at once would save it over each other: the second
    is to see the first one's container."""
    if request.resume is None:
        yield
        return
    lock = engine.lock(f"resume-{engine.prefix}{workspace_id(request.workspace.path)}")
    from coi.session.resume import WAIT

    lock.acquire(WAIT)
    try:
        yield
    finally:
        lock.release(remove=True)


def _claim_certain(
    engine: Engine, request: StartRequest, undo: Undo, meanwhile: Meanwhile
) -> Session:
    """A certain slot, session or container."""
    from coi.session import resume

    found = resume.look(engine, request)
    rows = found.rows
    running, saved = resume.target(engine, request, rows)
    if running is not None and (request.prompt or is_headless(running)):
        raise resume.busy(running)
    kept = resume.kept(engine, request, rows) if request.persistent else []
    if running is not None:
        engine.report(f"Session {running.coi('session-id')} is still running in {running.name}")
    elif request.slot and request.resume is None:
        ours = (row for row in kept if row.running and not superseded(engine, row))
        running = next(ours, None)
    if running is not None:
        agree(running, request.network, engine.report)
        request.limits.agree(running, engine.report)
        session = from_instance(engine, running, attached=True)
        session.lock.try_acquire()
        return session
    return on_ground(
        request.network,
        lambda made: _claim(
            engine,
            replace(request, ground=made),
            undo,
            [row for row in kept if row.stopped],
            found,
            saved,
            meanwhile,
        ),
    )


def _claim(
    engine: Engine,
    request: StartRequest,
    undo: Undo,
    kept: list[Instance],
    found: Found,
    saved: SavedSession | None,
    meanwhile: Meanwhile,
) -> Session:
    """A session whose instance does not run: a stopped one goes on, or one is made."""
    session_id = saved.id if saved else new_session_id()
    if saved and saved.tool != request.tool.name:
        request = replace(request, tool=engine.tool(saved.tool))
    from coi.session.resume import still_kept

    for row in kept:
        lock = engine.lock(row.name)
        if row.name in found.unsaved or not lock.try_acquire():
            continue
        now = None
        try:
            now = still_kept(engine, request, row, lock.stamp == found.stamps.get(row.name))
        finally:
            if now is None:
                lock.release()
        if now is None:
            continue
        return _reuse(engine, request, undo, now, lock, session_id, saved, meanwhile)
    taken = {row.name for row in found.rows}
    return _claim_new(engine, request, undo, session_id, saved, taken, found.seen, meanwhile)


def _claim_any(engine: Engine, request: StartRequest, undo: Undo, meanwhile: Meanwhile) -> Session:
    """A new session in the first free slot.

    Most workspaces have no session running, so slot 1 is tried while the list
    is under way; a name that is taken costs one short refused call. Where warm instances
    are kept the list comes first.
    """
    session_id = new_session_id()
    if seen := making.look(engine, request.image):
        taken = {row.name for row in _listed(engine, seen=seen)}
        return _claim_new(engine, request, undo, session_id, None, taken, seen, meanwhile)
    name = instance_name(engine.prefix, request.workspace.path, 1)
    lock = engine.lock(name)
    if not lock.try_acquire():
        taken = {row.name for row in _listed(engine)}
        return _claim_new(engine, request, undo, session_id, None, taken, None, meanwhile)
    session = _session(engine, request, session_id, None, 1, lock)

    def beside(session: Session) -> None:
        _listed(engine, but=name)
        meanwhile(session)

    if _made(engine, request, undo, session, None, beside):
        engine.report("Auto-allocated slot 1")
        return session
    taken = {row.name for row in _listed(engine)}
    return _claim_new(engine, request, undo, session_id, None, taken, None, meanwhile)


def _claim_new(
    engine: Engine,
    request: StartRequest,
    undo: Undo,
    session_id: str,
    saved: SavedSession | None,
    taken: set[str],
    seen: Seen | None,
    meanwhile: Meanwhile,
) -> Session:
    """Create an instance in the wanted slot, or the first free one."""
    last = engine.config.defaults.max_slots
    if request.slot > last:
        raise CoiError(
            f"there is no slot {request.slot}",
            hint=f"slots are 1 to {last}; defaults.max_slots in the configuration changes that",
        )
    order = [request.slot] if request.slot else []
    order += [slot for slot in range(1, last + 1) if slot != request.slot]
    for slot in order:
        name = instance_name(engine.prefix, request.workspace.path, slot)
        if name in taken:
            continue
        lock = engine.lock(name)
        if not lock.try_acquire():
            continue
        session = _session(engine, request, session_id, saved, slot, lock)
        if not _made(engine, request, undo, session, seen, meanwhile):
            continue
        if request.slot and slot != request.slot:
            engine.report(f"Slot {request.slot} is occupied, using slot {slot} instead")
        elif not request.slot:
            engine.report(f"Auto-allocated slot {slot}")
        return session
    guard.settle(engine, session_id)
    raise CoiError(
        f"all {last} slots of this workspace are in use",
        hint="coi list shows them; coi shutdown NAME ends one; "
        "defaults.max_slots in the configuration allows more",
    )


def _made(
    engine: Engine,
    request: StartRequest,
    undo: Undo,
    session: Session,
    seen: Seen | None,
    beside: Meanwhile,
) -> bool:
    """Make the session's instance; False where its name is taken, and nothing is owed."""
    undo.owe(session)
    pending = None
    try:
        body = _body(engine, request, session)
        pending = making.begin(engine, body, seen, request.ground.verify)
        try:
            if not pending.existing:
                request.ground.verify()
            guard.remember(engine, session.id)
            beside(session)
        finally:
            pending.settle()
        pending.result()
    except AlreadyExistsError:
        undo.nothing()
        session.lock.release()
        return False
    except BaseException as error:
        undo(unmade=pending.unmade if pending else isinstance(error, CoiError))
        raise
    return True


def _listed(engine: Engine, *, but: str = "", seen: Seen | None = None) -> list[Instance]:
    """All instances, once the sessions that nobody attends to are recovered."""
    from coi.session.recover import recover

    rows = [r for r in (seen.rows if seen else engine.instances.all()) if r.name != but]
    done = recover(engine, rows)
    return [row for row in rows if row.name not in done.gone]


def _reuse(
    engine: Engine,
    request: StartRequest,
    undo: Undo,
    row: Instance,
    lock: Lock,
    session_id: str,
    saved: SavedSession | None,
    meanwhile: Meanwhile,
) -> Session:
    """A kept instance whose lock is held, running."""
    session = _session(engine, request, session_id, saved, number(row, "slot"), lock, name=row.name)
    session = replace(session, created=False)
    earlier = row.coi("network"), row.coi("network-backend")
    if session.hosts is None and earlier[0] == "allowlist" and earlier[1] != "bridge":
        session = replace(session, hosts=())  # not the names of the earlier policy
    undo.owe(session)
    try:
        keys, networks = request.ground.changes(row)
        request = replace(request, limits=request.limits.onto(row, engine.report))
        for device in request.limits.going(row):  # first: a full disk takes no other change
            engine.instances.remove_device(row.name, device)
        fresh = _body(engine, request, session)
        stale = {name: {"type": "none"} for name in row.devices if name.startswith(_OURS)}
        engine.instances.update(
            row.name,
            config={**identity(session), **request.limits.changes, **keys},
            devices={**stale, **fresh["devices"], **networks},
        )
        for device in request.ground.going(row):
            engine.instances.remove_device(row.name, device)
        request.ground.verify()
        guard.remember(engine, session.id)
        meanwhile(session)
        engine.instances.set_state(row.name, "start")
    except BaseException:
        undo()
        raise
    engine.report(f"Restarted persistent container {row.name} (slot {session.slot})")
    return session


def _session(
    engine: Engine,
    request: StartRequest,
    session_id: str,
    saved: SavedSession | None,
    slot: int,
    lock: Any,
    *,
    name: str = "",
) -> Session:
    return Session(
        id=session_id,
        tool=request.tool,
        instance=name or instance_name(engine.prefix, request.workspace.path, slot),
        slot=slot,
        workspace=request.workspace.path,
        user=request.user,
        persistent=request.persistent,
        image=request.image,
        lock=lock,
        created=True,
        saved=saved,
        ground=request.ground,
        hosts=request.ground.hosts,
        headless=bool(request.prompt),
        start=new_start(),
    )


def _body(engine: Engine, request: StartRequest, session: Session) -> dict[str, Any]:
    """``POST /1.0/instances`` for a session."""
    source = request.workspace.source
    guards = guard.begin(engine, source, session.id, session.instance, shift=request.shift)
    body = instance_body(
        session.instance,
        request.image,
        {**identity(session), **request.ground.keys},
        limits=request.limits,
        devices={**request.devices, **request.ground.devices, **guards},
    )
    return with_workspace(body, request.workspace, request.user, shift=request.shift)
