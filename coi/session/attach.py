"""A person at a session: the terminal becomes a client of its tmux."""

from __future__ import annotations

import os
import time

from coi.errors import CoiError
from coi.incus.process import read_all
from coi.session import inside
from coi.session.begin import ATTACH_WAIT, Starting
from coi.session.model import Engine, Session
from coi.session.naming import tmux_session
from coi.session.terminal import interrupts_inside, terminal_name, terminal_restored
from coi.workspace.directory import INSIDE


def converse(engine: Engine, session: Session, *, starting: Starting | None = None) -> bool:
    """Attach this terminal to the session's tmux until it lets go.

    Returns:
        whether tmux let go by itself (detached or ended); False when the
        connection was cut, as a power-off does.

    Args:
        starting: the exec that starts the tool; the terminal's own exec is
            opened while that is under way, and waits for tmux inside.

    Raises:
        CoiError: the session could not be started, or there is no tmux session.
    """
    command = inside.attach(tmux_session(session.instance), wait=ATTACH_WAIT if starting else 0.0)
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
    exit_code = _on_terminal(engine, session, args, starting)
    if exit_code == inside.NO_SESSION:
        raise CoiError(
            f"No tmux session found in {session.instance}",
            hint=f"coi attach {session.instance} --bash opens a shell",
        )
    return exit_code == 0


def shell(engine: Engine, session: Session, *, launch: bool = False) -> None:
    """A shell inside on this terminal, without tmux.

    Args:
        launch: run what the tmux session would run (``--no-tmux``).
    """
    script = '. "$HOME/.coi/env" 2>/dev/null; cd "$1" && exec bash'
    if launch:
        script = 'exec bash "$HOME/.coi/launch"'
    command = inside.become(
        session.user, "env", f"TERM={terminal_name()}", "sh", "-c", script, "coi", INSIDE
    )
    args = engine.instances.exec_args(session.instance, command, cwd="/", tty=True)
    _on_terminal(engine, session, args, None)


def _on_terminal(
    engine: Engine, session: Session, args: list[str], starting: Starting | None
) -> int:
    deadline = time.monotonic() + inside.ENTER_DEADLINE
    with terminal_restored(), interrupts_inside():
        while True:
            exit_code, said = _client(engine, session, args, starting)
            if inside.NOT_ENTERED not in said or time.monotonic() > deadline:
                break
            starting = None
            time.sleep(inside.ENTER_POLL)
    if said:
        engine.report(said)
    return exit_code


def _client(
    engine: Engine, session: Session, args: list[str], starting: Starting | None
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
            exit_code = client.wait()
        return exit_code, read_all(errors).decode("utf-8", "replace").strip()
    finally:
        os.close(errors)
