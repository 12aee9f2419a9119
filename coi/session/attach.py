"""A person at a session: the terminal becomes a client of its tmux."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import Enum

from coi.errors import CoiError
from coi.incus.errors import NOT_ENTERED
from coi.incus.instances import ENTER_DEADLINE, ENTER_POLL
from coi.incus.process import read_all
from coi.session import inside
from coi.session.model import Engine
from coi.session.naming import tmux_session
from coi.session.terminal import interrupts_inside, terminal_name, terminal_restored
from coi.workspace.directory import INSIDE
from coi.workspace.ownership import SessionUser

Meanwhile = Callable[[], object]


def nothing() -> None:
    """What is done meanwhile where there is nothing to do."""


_AT_ONCE = 1.0  # seconds in which nobody has typed `sudo poweroff`


class NoTmuxError(CoiError):
    """There is nothing to attach to."""


class Ended(Enum):
    """How it ended."""

    LEFT = "left"
    STOPPING = "stopping"  # the session was powering off already: there was nothing to attach to
    CUT = "cut off"  # at once, by the client or the daemon


def converse(
    engine: Engine,
    instance: str,
    user: SessionUser,
    *,
    start: str = "",
    starting: bool = False,
    meanwhile: Meanwhile = nothing,
) -> Ended:
    """Attach this terminal to the session's tmux until it lets go.

    Args:
        user: of the session.
        start: the mark of the start that the session must be of; '' for any.
        starting: that one is under way: the terminal's exec is opened beside the one that
            starts the tool, and waits for its tmux inside.
        meanwhile: called once, when the client runs; what it raises ends the client. Ctrl-C
            is coi's until it returns, unless the client has the terminal already.

    Raises:
        NoTmuxError: there is no tmux session, or not of that start.
    """
    name = tmux_session(instance)
    args = engine.instances.exec_args(
        instance,
        inside.attach(name, start=start, wait=inside.ATTACH_WAIT if starting else 0),
        user=user.uid,
        group=user.gid,
        cwd="/",
        environment={"TERM": terminal_name(), "HOME": user.home, "LANG": "C.UTF-8"},
        tty=True,
    )
    begun = time.monotonic()
    exit_code, cut = _on_terminal(engine, args, meanwhile)
    if exit_code == inside.NO_SESSION:
        raise NoTmuxError(
            f"No tmux session found in {instance}",
            hint=f"coi attach {instance} --bash opens a shell",
        )
    if exit_code == inside.STOPPING:
        return Ended.STOPPING
    return Ended.CUT if cut and time.monotonic() - begun < _AT_ONCE else Ended.LEFT


def shell(
    engine: Engine,
    instance: str,
    user: SessionUser,
    *,
    launch: bool = False,
    meanwhile: Meanwhile = nothing,
) -> None:
    """A shell inside on this terminal, without tmux.

    Args:
        user: of the session.
        launch: run what the tmux session would run (``--no-tmux``).
        meanwhile: as for :func:`converse`.
    """
    script = '. "$HOME/.coi/env" 2>/dev/null; cd "$1" && exec bash'
    if launch:
        script = 'exec bash "$HOME/.coi/launch"'
    command = inside.become(
        user, "env", f"TERM={terminal_name()}", "sh", "-c", script, "coi", INSIDE
    )
    args = engine.instances.exec_args(instance, command, cwd="/", tty=True)
    _on_terminal(engine, args, meanwhile)


def _on_terminal(engine: Engine, args: list[str], meanwhile: Meanwhile) -> tuple[int, bool]:
    """Run a client on this terminal; its exit code, and whether the daemon cut it off."""
    deadline = 0.0
    with terminal_restored() as left:
        while True:
            exit_code, said = _client(engine, args, meanwhile)
            left.whole = exit_code == 0 and not said
            deadline = deadline or time.monotonic() + ENTER_DEADLINE
            if NOT_ENTERED not in said or time.monotonic() > deadline:
                break
            meanwhile = nothing
            time.sleep(ENTER_POLL)
    if said:
        engine.report(said)
    return exit_code, bool(said)


def _client(engine: Engine, args: list[str], meanwhile: Meanwhile) -> tuple[int, str]:
    """One ``incus exec -t``; its exit code and its own complaints.

    All that the command inside writes comes through the pseudo-terminal, so
    standard error is the client's alone.
    """
    errors = os.memfd_create("coi-attach-err")
    runner = engine.client.runner
    try:
        with runner.spawn(args, stdin=0, stdout=1, stderr=errors, terminal=True) as client:
            meanwhile()
            with interrupts_inside():
                exit_code = client.wait()
        return exit_code, read_all(errors).decode("utf-8", "replace").strip()
    finally:
        os.close(errors)
