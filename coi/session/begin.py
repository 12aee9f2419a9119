"""Begin a session in a running instance: send in its files, start its tool."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import field
from pathlib import Path

from coi.api import Launch, Tool
from coi.config.kinds import CREDENTIALS
from coi.config.model import Defaults
from coi.errors import CoiError, NotFoundError
from coi.incus.errors import NOT_ENTERED
from coi.incus.instances import ENTER_DEADLINE, ENTER_POLL
from coi.incus.process import Process, memory_file, read_all
from coi.incus.shield import shielded
from coi.network.hosts import with_hosts
from coi.records import record
from coi.session import inside
from coi.session.model import Engine, Session, StartRequest
from coi.session.naming import tmux_session
from coi.session.state import TarState
from coi.tools.prepare import find_session_id, host_access, prepare
from coi.workspace.directory import INSIDE

DEFAULT_IMAGE = Defaults.image


@record(frozen=True)
class Load:
    """What goes in before the tool starts.

    Attributes:
        state: the saved state's tar, which comes first.
        packed: a tar of everything else; the last file says that all is there.
    """

    state: Path | None
    packed: bytes = field(repr=False)


def load(engine: Engine, session: Session, request: StartRequest) -> Load:
    """Gather what a start of the session's tool needs.

    Raises:
        ConfigError: the configuration names a credential that there is none of.
        CoiError: the plugin failed.
    """
    tool = session.tool
    saved = session.saved
    state_path = saved.state_path if saved else None
    state = TarState(state_path) if state_path else None
    tool_id = find_session_id(tool, state, session.id) if state else None
    options = dict(engine.config.tool.options.get(tool.name, {}))
    host_environment = dict(os.environ)
    access = host_access(
        tool,
        options,
        enabled=engine.config.defaults.mount_claude_config,
        host_environment=host_environment,
    )
    options.pop(CREDENTIALS, None)
    given = {**access.variables, **request.environment}
    launch = Launch(
        session_id=session.id,
        resume=saved is not None,
        tool_session_id=tool_id,
        saved=state,
        workspace=INSIDE,
        home=session.user.home,
        root=session.user.root,
        environment=given,
        options=options,
        binary=binary_of(engine, tool),
        prompt=request.prompt,
    )
    prepared = prepare(
        tool,
        launch,
        host_home=Path.home(),
        host_environment=host_environment,
        saved=state or _earlier_state(engine, session),
        with_host_files=access.files,
        credentials=access.names,
    )
    for notice in prepared.notices:
        engine.report(notice)
    files = [(file.path, file.data, file.mode) for file in prepared.files]
    files += inside.files_for(
        session.mark,
        {"IS_SANDBOX": "1", **prepared.environment, **given},
        None if request.debug else prepared.command,
        attended=not request.prompt,
    )
    return Load(state_path, inside.pack(files))


def binary_of(engine: Engine, tool: Tool) -> str:
    """The tool's executable inside: its own, or the configured one."""
    chosen = engine.config.tool
    return (chosen.binary if chosen.name == tool.name else "") or tool.binary


def begin(engine: Engine, session: Session, request: StartRequest, loaded: Load) -> Starting:
    """Send in what the tool needs and start it; the caller waits for the result."""
    columns, lines = request.size
    if request.tmux:
        name = tmux_session(session.instance)
        command = inside.start_tmux(session.user, name, columns, lines, session.start)
    else:
        command = inside.unpack(session.user)
    command = with_hosts(session.hosts, *command)
    if session.created:  # Docker's own interfaces may come with one that is restarted
        command = session.ground.alone(command)
    args = engine.instances.exec_args(session.instance, command, cwd="/")
    return Starting(lambda errors: _spawn_fed(engine, args, loaded.state, loaded.packed, errors))


def no_tool(engine: Engine, session: Session) -> NotFoundError:
    """The error for an image without the tool, and the command that adds it.

    The image is asked for the tools that it has: one more call, in this case alone.
    """
    from coi.incus.images import Images

    image, name = session.image, session.tool.name
    binary = binary_of(engine, session.tool)
    found = None
    with suppress(CoiError):
        found = Images(engine.client).find(image)
    has = (found.properties.get("coi.tools", "") if found else "").split(",")
    names = [tool for tool in dict.fromkeys([*has, name]) if tool]
    build = f"coi build --tools {','.join(names)} --force"
    if image != DEFAULT_IMAGE:
        build += f" --image {shlex.quote(image)}"
    if binary != session.tool.binary:
        return NotFoundError(
            f"{binary} is not in the image {image}",
            details=f"tool.binary of the configuration names it, in place of {session.tool.binary}",
            hint="coi config show --origin tells which file says so",
        )
    return NotFoundError(
        f"{name} is not in the image {image}",
        details=f"there is no {binary} on its PATH",
        hint=f"{build}  (or --image NAME, one that has it)",
    )


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

    Attributes:
        succeeded: the tool runs.
        then: called then.
    """

    def __init__(self, spawn: Callable[[int], Process]) -> None:
        self._spawn = spawn
        self._begin()
        self.succeeded = False
        self.then: Callable[[], object] = lambda: None

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
                exit_code = self._process.wait(inside.ATTACH_WAIT)
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
        deadline = time.monotonic() + ENTER_DEADLINE
        exit_code, text = self._ended(session)
        while NOT_ENTERED in text and time.monotonic() < deadline:
            time.sleep(ENTER_POLL)
            self._begin()
            exit_code, text = self._ended(session)
        if exit_code == 0:
            with shielded():  # what has begun is noted
                self.succeeded = True
                session.begins()
            self.then()
            return
        if exit_code == inside.NO_TOOL:
            raise no_tool(engine, session)
        if refused := session.ground.not_alone(exit_code, text):
            raise refused
        meaning = inside.MEANING.get(exit_code)
        if meaning:
            raise CoiError(
                f"cannot start the session: {meaning}",
                details=text,
                hint=f"rebuild the image: coi build --force  (the image is {session.image})",
            )
        from coi.session.room import stopped

        raise stopped(session.instance, exit_code, text) or CoiError(
            "cannot start the session",
            details=text or f"the command inside ended with exit code {exit_code}",
        )
