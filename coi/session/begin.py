"""Begin a session in a running instance: send in its files, start its tool."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from coi.api import Launch
from coi.errors import CoiError
from coi.incus.process import Process, memory_file, read_all
from coi.network.hosts import with_hosts
from coi.session import inside
from coi.session.model import Engine, Session, StartRequest
from coi.session.naming import tmux_session
from coi.session.state import TarState
from coi.tools.prepare import find_session_id, prepare
from coi.workspace.directory import INSIDE

ATTACH_WAIT = 60.0  # seconds that the terminal waits for tmux to be there


def begin(engine: Engine, session: Session, request: StartRequest) -> Starting:
    """Send in what the tool needs and start it; the caller waits for the result."""
    saved = session.saved
    state_path = saved.state_path if saved else None
    state = TarState(state_path) if state_path else None
    tool_id = find_session_id(session.tool, state, session.id) if state else None
    chosen = engine.config.tool
    binary = chosen.binary if chosen.name == session.tool.name else ""
    options = dict(chosen.options.get(session.tool.name, {}))
    launch = Launch(
        session_id=session.id,
        resume=saved is not None,
        tool_session_id=tool_id,
        saved=state,
        workspace=INSIDE,
        home=session.user.home,
        root=session.user.root,
        environment=request.environment,
        options=options,
        binary=binary or session.tool.binary,
    )
    prepared = prepare(
        session.tool,
        launch,
        host_home=Path.home(),
        host_environment=os.environ,
        saved=state or _earlier_state(engine, session),
        with_host_files=engine.config.defaults.mount_claude_config,
    )
    for notice in prepared.notices:
        engine.report(notice)
    environment = {
        "IS_SANDBOX": "1",
        **prepared.environment,
        **request.environment,
    }
    files = [(file.path, file.data, file.mode) for file in prepared.files]
    files += inside.files_for(environment, None if request.debug else prepared.command)
    packed = inside.pack(files)
    columns, lines = request.size
    if request.tmux:
        command = inside.start_tmux(session.user, tmux_session(session.instance), columns, lines)
    else:
        command = inside.unpack(session.user)
    command = with_hosts(session.hosts, *command)
    if session.created:  # Docker's own interfaces may come with one that is restarted
        command = session.ground.alone(command)
    args = engine.instances.exec_args(session.instance, command, cwd="/")
    return Starting(lambda errors: _spawn_fed(engine, args, state_path, packed, errors))


def _earlier_state(engine: Engine, session: Session) -> TarState | None:
    """What a restarted container holds, as it was saved last: its settings are
    merged into, not replaced."""
    if session.created:
        return None
    earlier = engine.store.of_container(session.instance, session.tool.name)
    path = earlier.state_path if earlier else None
    return TarState(path) if path else None


def _spawn_fed(
    engine: Engine, args: list[str], state: Path | None, packed: bytes, errors: int
) -> Process:
    """Run ``args`` with the saved state, then ``packed``, on its standard input."""
    runner = engine.client.runner
    if state is None:
        feed = memory_file(packed)
        try:
            return runner.spawn(args, stdin=feed, stderr=errors)
        finally:
            os.close(feed)
    read_end, write_end = os.pipe()
    try:
        process = runner.spawn(args, stdin=read_end, stderr=errors)
    finally:
        os.close(read_end)
    with os.fdopen(write_end, "wb") as pipe, state.open("rb") as saved, suppress(BrokenPipeError):
        shutil.copyfileobj(saved, pipe, 1 << 20)
        pipe.write(packed)
        pipe.flush()
    return process


class Starting:
    """The exec that unpacks a session's files and starts its tool.

    Args:
        spawn: begins it, its standard error going to the given descriptor. It is
            begun anew where the daemon could not enter the container.
    """

    def __init__(self, spawn: Callable[[int], Process]) -> None:
        self._spawn = spawn
        self._begin()
        self.succeeded = False

    def _begin(self) -> None:
        self._errors = os.memfd_create("coi-start-err")
        try:
            self._process = self._spawn(self._errors)
        except BaseException:
            os.close(self._errors)
            raise

    def _ended(self, session: Session) -> tuple[int, str]:
        """Wait for it; the exit code and what it said."""
        try:
            with self._process:
                exit_code = self._process.wait(ATTACH_WAIT)
            return exit_code, read_all(self._errors).decode("utf-8", "replace").strip()
        except TimeoutError as error:
            raise CoiError(f"{session.instance} does not take the session's files") from error
        finally:
            os.close(self._errors)

    def result(self, engine: Engine, session: Session) -> None:
        """Wait until the tool has been started.

        Raises:
            CoiError: it could not be.
        """
        deadline = time.monotonic() + inside.ENTER_DEADLINE
        exit_code, text = self._ended(session)
        while inside.NOT_ENTERED in text and time.monotonic() < deadline:
            time.sleep(inside.ENTER_POLL)
            self._begin()
            exit_code, text = self._ended(session)
        if exit_code == 0:
            self.succeeded = True
            return
        if refused := session.ground.not_alone(exit_code, text):
            raise refused
        meaning = inside.MEANING.get(exit_code)
        if meaning:
            raise CoiError(
                f"cannot start the session: {meaning}",
                details=text,
                hint=f"rebuild the image: coi build --force  (the image is {session.image})",
            )
        raise CoiError(
            "cannot start the session",
            details=text or f"the command inside ended with exit code {exit_code}",
        )
