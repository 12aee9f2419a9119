"""The end of a session: save its state, then let the instance go or keep it.

Nothing that is not saved is ever deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from coi.errors import CoiError
from coi.incus.errors import IncusError, MissingError
from coi.incus.instances import Instance
from coi.incus.payload import Payload
from coi.incus.shield import shielded
from coi.session import guard, holding
from coi.session.inside import Saving
from coi.session.model import (
    REMOVING,
    SAVED,
    Engine,
    Session,
)
from coi.session.save import ExecFailedError, StoppingError, save_running

STOP_DEADLINE = 120.0  # seconds that a power-off inside may take; systemd's own limit is 90
EXEC_DEADLINE = 10.0  # seconds in which an instance that takes no exec must show why
_PAYLOAD = 5.0  # seconds that its processes may take before the daemon is asked all the same
_RELEASED = 10.0  # seconds in which one stops that has nothing more to wait for
_POLL = 0.03  # seconds between two looks at a stopping instance


class Outcome(Enum):
    """What became of the instance."""

    RUNNING = "kept running"
    KEPT = "stopped and kept"
    REMOVED = "removed"
    GONE = "gone"


def finish(engine: Engine, session: Session, *, how: Saving = Saving.RUNNING) -> Outcome:
    """Save a session after its terminal has ended, and tidy up.

    Args:
        how: anything but RUNNING ends the session, and the container goes.

    Raises:
        CoiError: the state could not be saved; the instance is kept.
    """
    engine.report("Saving session data")
    deadline = time.monotonic() + STOP_DEADLINE
    exec_deadline = time.monotonic() + EXEC_DEADLINE
    while True:
        try:
            if save_running(engine, session, how=how):
                return powered_off(engine, session)
            if how is not Saving.RUNNING:
                payload = guard.watching(engine, session.instance)
                dismiss(engine, session.instance)
                guard.ended(engine, session.id, session.instance, payload)
        except MissingError:
            row = None
        except StoppingError:
            row = wait_stopped(engine, session.instance, deadline)
        except ExecFailedError:
            # Its init is gone or going, and the daemon has not noticed yet.
            row = wait_stopped(engine, session.instance, time.monotonic() + _POLL)
            if row is not None and row.running:
                if time.monotonic() > exec_deadline:
                    raise
                continue
        else:
            if how is not Saving.RUNNING:
                engine.report("Container removed")
                return Outcome.REMOVED
            guard.look(engine, session.id)
            engine.report(f"Container kept running: coi attach {session.instance}")
            return Outcome.RUNNING
        if row is None or row.coi("state") == REMOVING:
            _gone(engine, session)
            engine.report("Container is gone")
            return Outcome.GONE
        if row.stopped:
            keep = row.coi("persistent") == "true"  # `coi persist` may have come in between
            try:
                return finish_stopped(engine, session, keep=keep)
            except MissingError:  # deleted from outside, a moment after it was stopped
                _gone(engine, session)
                engine.report("Container is gone")
                return Outcome.GONE
        time.sleep(_POLL)
        if time.monotonic() > deadline:
            raise _not_stopped(row)


def powered_off(engine: Engine, session: Session, *, row: Instance | None = None) -> Outcome:
    """The end of one that is powering off, and waits for that: its state is saved.

    The daemon deletes it when it has stopped, if it is told before: told while the container
    stops, the two wait for each other (10 s, measured).

    Args:
        row: where it goes in any case; else it is kept if it is persistent by now.
    """
    name, instances = session.instance, engine.instances
    payload = Payload(name, engine.client.project)
    goes = row is not None
    row = row or instances.find(name)
    there = row is not None and row.coi("state") != REMOVING
    keep = there and not goes and row is not None and row.coi("persistent") == "true"
    told = keep or not there or _told(engine, name)
    holding.release(engine, name)
    deadline = time.monotonic() + _RELEASED
    if not payload.wait_gone(_PAYLOAD) or keep or not told:
        row = wait_stopped(engine, name, deadline)
        if keep and row is not None and row.running:
            raise _not_stopped(row)
        if not keep and row is not None:
            _once_stopped(lambda: instances.remove(name), deadline)
    guard.settle(engine, session.id, name)
    if keep and row is not None:
        changed = {"user.coi.state": SAVED}
        _once_stopped(lambda: instances.update(name, config=changed), deadline)
        session.rests()
        engine.report("Container stopped and kept")
        return Outcome.KEPT
    engine.report("Container removed" if there else "Container is gone")
    return Outcome.REMOVED if there else Outcome.GONE


def _told(engine: Engine, name: str) -> bool:
    """Whether the daemon will delete an instance when it stops. Asked to stop it, by whomever,
    it changes nothing of it meanwhile."""
    try:
        _will_go(engine, name)
    except MissingError:
        return True
    except IncusError:
        return False
    return True


def _once_stopped(act: Callable[[], None], deadline: float) -> None:
    """Do something to a stopped instance, which is shown as stopped a moment before it is."""
    while True:
        try:
            act()
        except IncusError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL)
        else:
            return


def _not_stopped(row: Instance) -> CoiError:
    return CoiError(
        f"{row.name} did not stop",
        details=f"its status is {row.status}",
        hint=f"coi shutdown {row.name}",
    )


def _gone(engine: Engine, session: Session) -> None:
    """Somebody else has deleted the instance, or is about to."""
    payload = guard.watching(engine, session.instance)
    guard.ended(engine, session.id, session.instance, payload)


def finish_stopped(engine: Engine, session: Session, *, keep: bool) -> Outcome:
    """Save the state of a stopped instance; then delete it, unless it is kept.

    The state is read by ``tar`` inside: the instance runs again for a third of
    a second. (Reading it from outside takes one SFTP round trip a file: 1.7 ms
    each, 0.5 s for 300 files, against 0.3 s for any number.)
    """
    instances = engine.instances
    guard.close(engine, session.id, session.instance)
    _start_to_save(engine, session, keep=keep)
    try:
        _save_started(engine, session, keep=keep)
    except BaseException:
        with shielded(), suppress(CoiError):
            instances.set_state(session.instance, "stop", force=True)
        raise
    if keep:
        instances.set_state(session.instance, "stop", force=True)
        devices = guard.given_back(engine, session.id, session.instance)
        instances.update(session.instance, config={"user.coi.state": SAVED}, devices=devices)
        guard.settle(engine, session.id, session.instance)
        session.rests()
        engine.report("Container stopped and kept")
        return Outcome.KEPT
    dismiss(engine, session.instance)
    guard.settle(engine, session.id, session.instance)
    engine.report("Container removed")
    return Outcome.REMOVED


def _save_started(engine: Engine, session: Session, *, keep: bool) -> None:
    """Save the state of an instance that was started a moment ago.

    The daemon shows an instance as stopped a moment before it has finished
    stopping it, and a start at that moment is no start: so look again.
    """
    deadline = time.monotonic() + EXEC_DEADLINE
    while True:
        try:
            save_running(engine, session, stopping_is_final=False)
        except ExecFailedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL)
            if engine.instances.get(session.instance).stopped:
                _start_to_save(engine, session, keep=keep)
        else:
            return


def dismiss(engine: Engine, instance: str) -> None:
    """Have the daemon delete a running instance whose state is saved.

    An ephemeral instance deletes itself when it stops, so this takes two short
    calls (0.05 s) and the daemon does the rest (0.7 s).
    """
    _will_go(engine, instance)
    engine.instances.set_state(instance, "stop", force=True, wait=False)


def _will_go(engine: Engine, instance: str) -> None:
    engine.instances.update(instance, ephemeral=True, config={"user.coi.state": REMOVING})


def _start_to_save(engine: Engine, session: Session, *, keep: bool) -> None:
    instances = engine.instances
    try:
        instances.set_state(session.instance, "start")
    except MissingError:
        raise
    except CoiError:
        # The workspace may be gone, and with it the mount: the state does not need it.
        row = instances.get(session.instance)
        if row.running:
            return
        bare = {
            name: {"type": "none"}
            for name, device in row.devices.items()
            if device.get("type") == "disk" and device.get("path") != "/"
        }
        if not bare or keep:
            raise
        instances.update(session.instance, devices=bare)
        instances.set_state(session.instance, "start")


def wait_stopped(engine: Engine, name: str, deadline: float) -> Instance | None:
    """Wait for a stopping instance; how it was seen last, None when it is gone.

    The daemon is asked when its processes have ended, which needs no call to see.
    """
    Payload(name, engine.client.project).wait_gone(min(_PAYLOAD, deadline - time.monotonic()))
    while True:
        row = engine.instances.find(name)
        if row is None or not row.running or time.monotonic() > deadline:
            return row
        time.sleep(_POLL)
