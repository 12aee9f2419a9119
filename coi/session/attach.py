"""A person at a session: the terminal becomes a client of its tmux."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from coi.errors import CoiError
from coi.incus.errors import NOT_ENTERED
from coi.incus.instances import ENTER_DEADLINE, ENTER_POLL
from coi.incus.process import read_all
from coi.session import inside
from coi.session.model import Engine, Session
from coi.session.naming import tmux_session
from coi.session.terminal import interrupts_inside, terminal_name, terminal_restored
from coi.workspace.directory import INSIDE

if TYPE_CHECKING:
    from coi.session.begin import Starting

Meanwhile = Callable[[], object]

_AT_ONCE = 1.0  # seconds in which nobody has typed `sudo poweroff`


class Ended(Enum):
    """How it ended."""

    LEFT = "left"
    STOPPING = "stopping"  # the session was powering off already: there was nothing to attach to
    CUT = "cut off"  # at once, by the client or the daemon


def converse(
    engine: Engine,
    session: Session,
    *,
    starting: Starting | None = None,
    meanwhile: Meanwhile = lambda: None,
) -> Ended:
    """Attach this terminal to the session's tmux until it lets go.

    Args:
        starting: the exec that starts the tool; the terminal's own exec is
            opened while that is under way, and waits for tmux inside.
        meanwhile: called once the client runs.

    Raises:
        CoiError: the session could not be started, or there is no tmux session.
    """
    name = tmux_session(session.instance)
    command = inside.attach(name, start=session.start if starting else "", wait=inside.ATTACH_WAIT)
    args = engine.instances.exec_args(
        session.instance,
        command,
        user=session.user.uid,
        group=session.user.gid,
        cwd="/",
        environment={
            "TERM": terminal_name(), "HOME": session.user.home, "LANG": "C.UTF-8",
        },
        tty=True,
    )  # fmt: skip
    begun = time.monotonic()
    exit_code, cut = _on_terminal(engine, session, args, starting, meanwhile)
    if exit_code == inside.NO_SESSION:
        raise CoiError(
            f"No tmux session found in {session.instance}",
            hint=f"coi attach {session.instance} --bash opens a shell",
        )
    if exit_code == inside.STOPPING:
        return Ended.STOPPING
    return Ended.CUT if cut and time.monotonic() - begun < _AT_ONCE else Ended.LEFT


def shell(
    engine: Engine,
    session: Session,
    *,
    launch: bool = False,
    meanwhile: Meanwhile = lambda: None,
) -> None:
    """A shell inside on this terminal, without tmux.

    Args:
        launch: run what the tmux session would run (``--no-tmux``).
        meanwhile: called once the client runs.
    """
    script = '. "$HOME/.coi/env" 2>/dev/null; cd "$1" && exec bash'
    if launch:
        script = 'exec bash "$HOME/.coi/launch"'
    command = inside.become(
        session.user, "env", f"TERM={terminal_name()}", "sh", "-c", script, "coi", INSIDE
    )
    args = engine.instances.exec_args(session.instance, command, cwd="/", tty=True)
    _on_terminal(engine, session, args, None, meanwhile)


def _on_terminal(
    engine: Engine,
    session: Session,
    args: list[str],
    starting: Starting | None,
    meanwhile: Meanwhile,
) -> tuple[int, bool]:
    """Run a client on this terminal; its exit code, and whether the daemon cut it off."""
    deadline = time.monotonic() + ENTER_DEADLINE
    with terminal_restored() as left, interrupts_inside():
        while True:
            exit_code, said = _client(engine, session, args, starting, meanwhile)
            left.whole = exit_code == 0 and not said
            if NOT_ENTERED not in said or time.monotonic() > deadline:
                break
            starting = None
            time.sleep(ENTER_POLL)
    if said:
        engine.report(said)
    return exit_code, bool(said)


def _client(
    engine: Engine,
    session: Session,
    args: list[str],
    starting: Starting | None,
    meanwhile: Meanwhile,
) -> tuple[int, str]:
    """One ``incus exec -t``; its exit code and its own complaints.

    All that the command inside writes comes through the pseudo-terminal, so
    standard error is the client's alone.
    """
    errors = os.memfd_create("coi-attach-err")
    runner = engine.client.runner
    try:
        with runner.spawn(args, stdin=0, stdout=1, stderr=errors, terminal=True) as client:
            if starting is not None:
                starting.result(engine, session)
            meanwhile()
            exit_code = client.wait()
        return exit_code, read_all(errors).decode("utf-8", "replace").strip()
    finally:
        os.close(errors)
