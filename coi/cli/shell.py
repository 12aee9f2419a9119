"""``coi shell``: start a session, or go on with one."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from coi.cli.context import Context
from coi.cli.options import Command, context_of
from coi.cli.place import place_of
from coi.errors import Interrupted

if TYPE_CHECKING:
    from coi.session.begin import Load, Starting
    from coi.session.model import Session

app = typer.Typer()


@app.command(cls=Command)
def shell(
    ctx: typer.Context,
    background: Annotated[
        bool, typer.Option("--background", help="Start it and return; no terminal needed.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="A shell inside instead of the tool.")
    ] = False,
    tmux: Annotated[
        bool, typer.Option("--tmux/--no-tmux", help="Run the tool in tmux, to detach from it.")
    ] = True,
) -> None:
    """Open the AI tool in a container of its own, the project at /workspace.

    Ctrl-b d leaves it running; sudo poweroff inside ends it. Both save the session.

    Example: coi shell --resume
    """
    context = context_of(ctx)
    if background and not tmux:
        raise typer.BadParameter("--background needs tmux")
    start_and_attend(context, background=background, debug=debug, tmux=tmux)


def start_and_attend(context: Context, *, background: bool, debug: bool, tmux: bool) -> None:
    """The whole life of `coi shell`."""
    from coi.session.claim import claim
    from coi.session.model import StartRequest
    from coi.session.naming import check_session_id
    from coi.session.terminal import need_terminal
    from coi.session.undo import Undo

    if not background:
        need_terminal()
    output = context.output
    place = place_of(context)
    config = context.loaded.config
    resume = context.resume
    size = shutil.get_terminal_size()
    request = StartRequest(
        workspace=place.workspace,
        tool=context.manager.get(config.tool.name),
        user=place.user,
        shift=place.shift,
        slot=context.slot,
        persistent=config.defaults.persistent,
        resume=check_session_id(resume) if resume else resume,
        image=config.defaults.image,
        environment=context.environment(),
        devices=place.devices,
        limits=place.limits,
        network=place.network,
        size=(size.columns, size.lines),
        debug=debug,
        tmux=tmux,
    )
    engine = context.engine
    undo = Undo(engine)
    session: Session | None = None
    starting: Starting | None = None
    ended: Interrupted | None = None
    attended = False
    how = None  # the conversation ended
    loads: list[Load] = []

    def gather(session: Session) -> None:
        """Import what comes next, and gather what goes in: 80 ms that nobody waits for."""
        from coi.session.begin import load

        loads[:] = [load(engine, session, request)]

    try:
        session = claim(engine, request, undo, gather)
        attended = session.lock.held
        from coi.session.attach import Ended, converse, nothing, shell
        from coi.session.begin import begin
        from coi.session.making import refill

        if session.saved:
            output.notice(f"Resuming session {session.id} of {session.saved.saved_at}")
        output.notice(f"Setting up session {session.id}...")
        if not session.attached:
            starting = begin(engine, session, request, loads[0])
            starting.then = partial(refill, engine, session.image)
        output.notice("Starting session...")
        output.notice(f"Session ID: {session.id}")
        output.notice(f"Container: {session.instance}")
        output.notice(f"Workspace: {session.workspace}")
        if background or not tmux:
            if starting:
                starting.result(engine, session)
            undo.nothing()
        if background:
            output.notice(f"Running in the background: coi attach {session.instance}")
            session.lock.release()
            return
        if tmux:
            how = converse(
                engine,
                session.instance,
                session.user,
                start=session.start if starting else "",
                starting=starting is not None,
                meanwhile=partial(starting.result, engine, session) if starting else nothing,
            )
        else:
            shell(engine, session.instance, session.user, launch=True)
    except BaseException as error:
        begun = starting.succeeded if starting else session is not None and session.attached
        if not begun or session is None:
            undo()
            raise
        if not isinstance(error, Interrupted):
            session.lock.release()
            raise
        ended = error  # the terminal is gone, the session is not
    again = False
    if attended:
        from coi.incus.shield import shielded
        from coi.session.finish import Outcome, finish

        outcome = None
        try:
            with shielded() if ended else nullcontext():
                outcome = finish(engine, session)
        finally:
            session.lock.release(remove=outcome in (Outcome.REMOVED, Outcome.GONE))
        if session.attached and how in (Ended.STOPPING, Ended.CUT) and outcome is Outcome.REMOVED:
            # It was powering off when we came: go on with it in a fresh container.
            again = True
    elif session.attached and how is Ended.STOPPING and ended is None:
        # The same, and somebody else is with it.
        from coi.session import resume as resuming

        resuming.wait(engine, session.instance, session.id, session.start)
        again = True
    if again:
        context.values["resume"] = session.id
        start_and_attend(context, background=background, debug=debug, tmux=tmux)
    if ended is not None:
        raise ended
