"""A prompt to a tool, and its answer: a session that ends by itself.

Six calls where the network is open: list and create (coi.session.claim), one exec
that sends the session's files in and runs the tool, one that reads the state, and
two that have the daemon delete the instance. Until that is done the instance is a
session like any other: where coi is killed, the next coi saves it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from coi.api import Answer, Tool
from coi.errors import CoiError, UsageError
from coi.incus.process import memory_file
from coi.incus.shield import shielded
from coi.network.hosts import with_hosts
from coi.records import record
from coi.session import inside, making
from coi.session.begin import Load, no_tool
from coi.session.begin import load as load_files
from coi.session.claim import claim
from coi.session.feed import READ_HEADER, SAY_READY, NotBegunError, execute, header
from coi.session.finish import Outcome, finish
from coi.session.inside import Saving
from coi.session.settle import DEADLINE, cannot_work, settled
from coi.session.sinks import Kept, Sink
from coi.session.state import TarState
from coi.session.undo import Undo
from coi.tools.prepare import answer as read_answer
from coi.tools.prepare import find_session_id

if TYPE_CHECKING:
    from coi.session.model import Engine, Session, StartRequest
    from coi.session.store import SavedSession

TIMED_OUT = 124  # exit code, as timeout(1)
MAX_OUTPUT = 64 << 20  # bytes of the tool's standard output that are kept

# As the session's user. Argument: the header's size. The second time that it says it is
# there, all is unpacked and the tool begins: what ends before is no answer.
_SCRIPT = READ_HEADER + inside.UNPACK + SAY_READY + 'exec bash "$HOME/.coi/launch" </dev/null\n'
_MARKS = 2


@record(frozen=True)
class Asked:
    """What has come of a prompt.

    Attributes:
        session: its id resumes the conversation.
        answer: as the tool's plugin reads it out of the output.
        tool_session_id: the tool's own id of the conversation, where it is known.
        exit_code: the tool's, 128 + n for signal n; 124 at the timeout.
        timed_out: it took too long.
        cut: there was more output than is kept.
        saved: the state is saved.
        problem: why it is not; the container is kept.
    """

    session: Session
    answer: Answer
    tool_session_id: str | None
    exit_code: int
    timed_out: bool = False
    cut: bool = False
    saved: bool = False
    problem: CoiError | None = None


def ask(
    engine: Engine, request: StartRequest, *, timeout: float | None, stderr: int | Sink
) -> Asked:
    """Start or resume a session with a prompt, and end it with the answer.

    Whatever happens, nothing of it runs afterwards; if the tool has begun, its state is
    saved.

    Args:
        request: its ``prompt`` is asked; the container is never kept.
        timeout: seconds for the tool, None for no limit.
        stderr: where the tool's standard error goes.

    Raises:
        UsageError: the tool takes no prompt.
        NotFoundError: nothing to resume, or the image lacks the tool.
        RefusedError: the session is still running.
        CoiError: the session could not be started.
    """
    if type(request.tool).headless is Tool.headless:
        raise UsageError(
            f"{request.tool.title or request.tool.name} takes no prompt from outside",
            hint=f"start it: coi shell --tool {request.tool.name}",
        )
    undo = Undo(engine)
    ending: _Ending | None = None
    output = Kept(MAX_OUTPUT)
    loads: list[Load] = []

    def gather(session: Session) -> None:
        loads[:] = [load_files(engine, session, request)]

    try:
        session = claim(engine, replace(request, persistent=False), undo, gather)
        ending = _Ending(engine, session, undo)
        if session.saved:
            engine.report(f"Resuming session {session.id} of {session.saved.saved_at}")
        engine.report(f"Session ID: {session.id}")
        engine.report(f"Container: {session.instance}")
        code = _execute(engine, session, loads[0], ending, output, stderr, timeout)
        # Before anything else can go wrong: it is shown whatever does.
        answer = _read(engine, session.tool, output.text)
    except BaseException:
        with shielded():
            ending.end() if ending else undo()
        raise
    with shielded():
        ending.end()
    saved = _saved(engine, session) if ending.problem is None else None
    return Asked(
        session,
        answer,
        answer.session_id or _found_id(engine, session, saved),
        code,
        timed_out=ending.timed_out,
        cut=output.cut,
        saved=saved is not None,
        problem=ending.problem,
    )


class _Ending:
    """Ends the session, once: saved if its tool has begun, else as if it had never been.

    Attributes:
        problem: why it is not saved.
        timed_out: the tool took too long.
    """

    def __init__(self, engine: Engine, session: Session, undo: Undo) -> None:
        self._engine = engine
        self._session = session
        self._undo = undo
        self._begun = False
        self._over = False
        self.problem: CoiError | None = None
        self.timed_out = False

    def begun(self) -> None:
        """The tool runs."""
        self._begun = True

    def end(self) -> None:
        """Kill what runs inside, save, have the instance deleted."""
        if self._over:
            return
        self._over = True
        if not self._begun:
            self._undo()
            return
        self._undo.nothing()
        outcome = None
        try:
            outcome = finish(self._engine, self._session, how=Saving.LAST)
        except CoiError as error:
            self.problem = error
        finally:
            gone = outcome in (Outcome.REMOVED, Outcome.GONE)
            self._session.lock.release(remove=gone)


def _execute(
    engine: Engine,
    session: Session,
    loaded: Load,
    ending: _Ending,
    output: Kept,
    stderr: int | Sink,
    timeout: float | None,
) -> int:
    """The tool inside, from the files that it needs to its end; its exit code."""
    head = header({})
    command = inside.become(session.user, "sh", "-c", _SCRIPT, "coi", str(len(head)))
    command = session.ground.alone(settled(with_hosts(session.hosts, *command)))
    args = engine.instances.exec_args(session.instance, command, cwd="/")

    def end() -> None:
        with shielded():
            ending.end()

    def begun() -> None:
        ending.begun()
        making.refill(engine, session.image)

    packed = memory_file(loaded.packed)
    state = None
    try:
        state = loaded.state.open("rb") if loaded.state else None
        return execute(
            engine.client.runner,
            args,
            head=head,
            source=[*([state.fileno()] if state else ()), packed],
            stdout=output,
            stderr=stderr,
            timeout=timeout,
            begin_within=DEADLINE + inside.ATTACH_WAIT,
            on_begin=begun,
            on_end=end,  # first: the client only passes signals on
            die_with_parent=True,
            marks=_MARKS,
        )
    except TimeoutError:
        ending.timed_out = True
        return TIMED_OUT
    except NotBegunError as error:
        if error.code == inside.NO_TOOL:
            raise no_tool(engine, session) from error
        if error.code is None:
            raise CoiError(f"{session.instance} does not get ready", hint="try again") from error
        refused = session.ground.not_alone(error.code, error.text)
        raise refused or cannot_work(session.instance, error.code, error.text) from error
    finally:
        os.close(packed)
        if state is not None:
            state.close()


def _read(engine: Engine, tool: Tool, output: str) -> Answer:
    """The answer; where the plugin fails, all that the tool has written."""
    try:
        return read_answer(tool, output)
    except CoiError as error:
        engine.report(f"{error.brief}: {error.details}")
        return Answer(output)


def _saved(engine: Engine, session: Session) -> SavedSession | None:
    with suppress(CoiError):
        return engine.store.find(session.id)
    return None


def _found_id(engine: Engine, session: Session, saved: SavedSession | None) -> str | None:
    """The tool's own id, as the saved state tells it."""
    path = saved.state_path if saved else None
    if path is None:
        return None
    try:
        return find_session_id(session.tool, TarState(path), session.id)
    except CoiError as error:
        engine.report(f"{error.brief}: {error.details}")
        return None
