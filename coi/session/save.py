"""Save a session: its state comes out of the container as one stream, through the filter, into the
store. A save that fails leaves the one before it as it is.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from functools import partial
from typing import IO

from coi import __version__
from coi.errors import CoiError
from coi.incus.process import read_all
from coi.session import inside
from coi.session.inside import Saving
from coi.session.model import Engine, Session
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

PATIENCE = 10  # seconds: a container's own for what does not end by itself, in coi's images


class StoppingError(CoiError):
    """The instance is shutting down: its state can be read once it has stopped."""


class NotBegunError(CoiError):
    """The session's start was cut off: what is in the home is not its state."""


class ExecFailedError(CoiError):
    """``incus exec`` itself failed: the command inside did not run, or was cut off."""


def save_running(
    engine: Engine,
    session: Session,
    *,
    stopping_is_final: bool = True,
    how: Saving = Saving.RUNNING,
    patience: int = PATIENCE,
) -> bool:
    """Save the state of a running instance, if there is any, and say what has come of it.

    Args:
        stopping_is_final: an instance that shuts down is not read.
        how: what else is done inside.
        patience: seconds that a shutdown may take until all inside have ended.

    Returns:
        whether it is powering off, and waits for :func:`coi.session.holding.release`.

    Raises:
        StoppingError: it is shutting down.
        CoiError: the state could not be read or written; the previous save stands.
    """
    try:
        held = _save(engine, session, final=stopping_is_final, how=how, patience=patience)
    except NotBegunError as error:
        engine.report(f"{error.brief}: there is nothing to save of it")
        return False
    engine.report("Session data saved")
    return held


def _save(engine: Engine, session: Session, *, final: bool, how: Saving, patience: int) -> bool:
    store = engine.store
    with store.writing(session.tool.name, session.id) as pending:
        summary, held = _read_state(
            engine, session, pending.file, final=final, how=how, patience=patience
        )
        if not summary.files and not pending.earlier:
            return held
        pending.commit(
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
        return held


def _read_state(
    engine: Engine,
    session: Session,
    target: IO[bytes],
    *,
    final: bool,
    how: Saving,
    patience: int,
) -> tuple[Summary, bool]:
    """Stream the state out of the instance and through the filter into ``target``.

    Returns:
        what it is, and whether the instance is powering off and waits.

    Raises:
        NotBegunError: what the session needs has not all arrived inside.
    """
    tool = session.tool
    args = engine.instances.exec_args(
        session.instance,
        inside.save(
            session.user, session.mark, tool.state, max_file=MAX_FILE, how=how, patience=patience
        ),
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
    whole = exit_code in (0, inside.HELD)
    if isinstance(problem, StateLimitError) or (problem and whole):
        raise problem
    if not whole:
        # The client's own failures begin so; what tar says begins with its name.
        failed = ExecFailedError if text.startswith("Error:") or not text else CoiError
        raise failed(
            "cannot read the session's state",
            details=text or f"tar ended with exit code {exit_code}",
            hint=f"the container is kept: coi attach {session.instance} --bash",
        )
    return summary, exit_code == inside.HELD
