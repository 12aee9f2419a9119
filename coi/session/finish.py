"""The end of a session: save its state, then let the instance go or keep it.

Nothing that is not saved is ever deleted.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from typing import IO

from coi import __version__
from coi.errors import CoiError
from coi.incus.errors import MissingError
from coi.incus.instances import Instance
from coi.incus.payload import Payload
from coi.incus.process import read_all
from coi.incus.shield import shielded
from coi.session import guard, inside
from coi.session.inside import Saving
from coi.session.model import (
    REMOVING,
    SAVED,
    Engine,
    Session,
)
from coi.session.state import (
    EXCLUDED,
    MAX_FILE,
    StateError,
    StateLimitError,
    Summary,
    filter_stream,
)
from coi.session.store import SavedSession
from coi.tools.prepare import without_secret_keys

STOP_DEADLINE = 120.0  # seconds that a power-off inside may take; systemd's own limit is 90
EXEC_DEADLINE = 10.0  # seconds in which an instance that takes no exec must show why
_PAYLOAD = 5.0  # seconds that its processes may take before the daemon is asked all the same
_POLL = 0.03  # seconds between two looks at a stopping instance


class Outcome(Enum):
    """What became of the instance."""

    RUNNING = "kept running"
    KEPT = "stopped and kept"
    REMOVED = "removed"
    GONE = "gone"


class StoppingError(CoiError):
    """The instance is shutting down: its state can be read once it has stopped."""


class NotBegunError(CoiError):
    """The session's start was cut off: what is in the home is not its state."""


class ExecFailedError(CoiError):
    """``incus exec`` itself failed: the command inside did not run, or was cut off."""


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
            save_running(engine, session, how=how)
            if how is not Saving.RUNNING:
                payload = guard.watching(engine, session.instance)
                dismiss(engine, session.instance)
                guard.ended(engine, session.id, session.instance, payload)
        except MissingError:
            row = None
        except StoppingError:
            row = _wait_stopped(engine, session.instance, deadline)
        except ExecFailedError:
            # Its init is gone or going, and the daemon has not noticed yet.
            row = _wait_stopped(engine, session.instance, time.monotonic() + _POLL)
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
            raise CoiError(
                f"{session.instance} did not stop",
                details=f"its status is {row.status}",
                hint=f"coi shutdown {session.instance}",
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
    engine.instances.update(instance, ephemeral=True, config={"user.coi.state": REMOVING})
    engine.instances.set_state(instance, "stop", force=True, wait=False)


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


def superseded(engine: Engine, row: Instance) -> bool:
    """Whether what a kept instance has is older than what is saved: its session was resumed in
    another one, and saved from there."""
    if row.coi("state") != SAVED:
        return False
    saved = next((s for s in engine.store.all() if s.id == row.coi("session-id")), None)
    return saved is not None and saved.container != row.name


def save_running(
    engine: Engine,
    session: Session,
    *,
    stopping_is_final: bool = True,
    how: Saving = Saving.RUNNING,
) -> SavedSession | None:
    """Save the state of a running instance, and say what has come of it.

    Args:
        stopping_is_final: an instance that shuts down is not read.
        how: what else is done inside.

    Returns:
        what was saved; None when there was nothing and nothing was saved before, or
        the session's start was cut off.

    Raises:
        StoppingError: it is shutting down.
        CoiError: the state could not be read or written; the previous save stands.
    """
    try:
        saved = _save(engine, session, final=stopping_is_final, how=how)
    except NotBegunError as error:
        engine.report(f"{error.brief}: there is nothing to save of it")
        return None
    engine.report("Session data saved")
    return saved


def _save(engine: Engine, session: Session, *, final: bool, how: Saving) -> SavedSession | None:
    store = engine.store
    with store.writing(session.tool.name, session.id) as pending:
        summary = _read_state(engine, session, pending.file, final=final, how=how)
        if not summary.files and not pending.earlier:
            return None
        return pending.commit(
            SavedSession(
                id=session.id,
                tool=session.tool.name,
                workspace=str(session.workspace),
                container=session.instance,
                saved_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                path=pending.directory,
                state=pending.name,
                size=summary.size,
                files=summary.files,
                persistent=session.persistent,
                image=session.image,
                version=__version__,
                slot=session.slot,
                skipped=tuple((name, why) for name, why in summary.skipped if why != EXCLUDED),
            )
        )


def _read_state(
    engine: Engine, session: Session, target: IO[bytes], *, final: bool, how: Saving
) -> Summary:
    """Stream the state out of the instance and through the filter into ``target``.

    Raises:
        NotBegunError: what the session needs has not all arrived inside.
    """
    tool = session.tool
    args = engine.instances.exec_args(
        session.instance,
        inside.save(session.user, session.id, tool.state, max_file=MAX_FILE, how=how),
        cwd="/",
    )
    problem: StateError | None = None
    summary = Summary()
    errors = os.memfd_create("coi-save-err")
    read_end, write_end = os.pipe()
    try:
        with os.fdopen(read_end, "rb", buffering=1 << 18) as stream:
            try:
                process = engine.client.runner.spawn(args, stdout=write_end, stderr=errors)
            finally:
                os.close(write_end)
            with process:
                try:
                    summary = filter_stream(
                        stream,
                        target,
                        roots=tool.state,
                        exclude=(*tool.state_exclude, *tool.secrets),
                        rewrite={
                            path: partial(without_secret_keys, tool, path)
                            for path in tool.secret_keys
                        },
                    )
                except StateError as error:
                    problem = error
                    stream.close()  # its writer gets SIGPIPE and ends
                exit_code = process.wait(60)
        text = read_all(errors).decode("utf-8", "replace").strip()
    except TimeoutError as error:
        raise CoiError("cannot read the session's state", details=str(error)) from error
    finally:
        os.close(errors)
    if exit_code == inside.STOPPING and final:
        raise StoppingError(f"{session.instance} is shutting down")
    if exit_code == inside.NOT_BEGUN:
        raise NotBegunError(f"{session.instance} has not begun with {session.id}")
    if isinstance(problem, StateLimitError) or (problem and exit_code == 0):
        raise problem
    if exit_code != 0:
        # The client's own failures begin so; what tar says begins with its name.
        failed = ExecFailedError if text.startswith("Error:") or not text else CoiError
        raise failed(
            "cannot read the session's state",
            details=text or f"tar ended with exit code {exit_code}",
            hint=f"the container is kept: coi attach {session.instance} --bash",
        )
    return summary


def _wait_stopped(engine: Engine, name: str, deadline: float) -> Instance | None:
    """Wait for a stopping instance; how it was seen last, None when it is gone.

    The daemon is asked when its processes have ended, which needs no call to see.
    """
    Payload(name, engine.client.project).wait_gone(min(_PAYLOAD, deadline - time.monotonic()))
    while True:
        row = engine.instances.find(name)
        if row is None or not row.running or time.monotonic() > deadline:
            return row
        time.sleep(_POLL)
