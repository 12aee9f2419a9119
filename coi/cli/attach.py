"""``coi attach``: back to a session that runs."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Annotated

import typer

from coi.cli.context import Context
from coi.cli.options import Command, context_of
from coi.errors import CoiError, Interrupted, NotFoundError

app = typer.Typer()


@app.command(cls=Command)
def attach(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Container.")] = None,
    bash: Annotated[bool, typer.Option("--bash", help="A shell instead of the session.")] = False,
) -> None:
    """Reattach to a session; alone: to the only one, or list them.

    Example: coi attach coi-1a2b3c4d-1
    """
    run(context_of(ctx), name, bash=bash)


def run(context: Context, name: str | None, *, bash: bool) -> None:
    """Attach, and finish the session as `coi shell` would."""
    engine = context.engine
    asked = engine.instances.begin_all()

    # Imported while the daemon is at it.
    from coi.incus.shield import shielded
    from coi.session.attach import Ended, converse, shell
    from coi.session.model import from_instance, is_headless, is_session, superseded
    from coi.session.recover import recover
    from coi.session.terminal import need_terminal

    if name is None and context.slot:
        from coi.session.naming import instance_name
        from coi.workspace.directory import absolute

        name = instance_name(engine.prefix, absolute(context.workspace), context.slot)
    rows = asked()
    gone = recover(engine, rows).gone
    rows = [row for row in rows if row.name not in gone]
    active = [row for row in rows if row.running and is_session(row) and engine.attends(row)]
    if name is not None:
        active = [row for row in active if row.name == name]
        if not active:
            raise NotFoundError(f"{name} not found or not running", hint="coi list")
    elif not bash:
        active = [row for row in active if not is_headless(row)]
    if not active:
        context.output.result("No active sessions")
        return
    if len(active) > 1:
        lines = ["Active sessions:"]
        lines += [f"  {row.name}  {row.coi('workspace')}" for row in active]
        lines.append("Attach to one: coi attach <container-name>")
        context.output.result("\n".join(lines))
        return
    need_terminal()
    if context.values.get("network") is not None:
        from coi.cli.place import network_of
        from coi.session.network import agree

        agree(active[0], network_of(context), context.output.notice)
    session = from_instance(engine, active[0], attached=True)
    context.output.notice(f"Attaching to {session.instance}...")
    attended = session.lock.try_acquire()
    ended: Interrupted | None = None
    removed = False

    def get_ready() -> None:
        """For the end, which is not to wait for imports."""
        if attended:
            from coi.session import finish  # noqa: F401 - it is there then

            with suppress(CoiError):  # the end says so
                _ = session.tool.state

    try:
        try:
            if bash:
                shell(engine, session, meanwhile=get_ready)
            elif converse(engine, session, meanwhile=get_ready) is Ended.STOPPING and not attended:
                context.output.notice(f"{session.instance} is powering off")
        except Interrupted as error:
            ended = error
        if attended and superseded(engine, active[0]):
            context.output.notice(
                f"Not saved: session {session.id} went on in another container since"
            )
        elif attended:
            from coi.session.finish import Outcome, finish

            with shielded() if ended else nullcontext():
                removed = finish(engine, session) is Outcome.REMOVED
    finally:
        session.lock.release(remove=removed)
    if ended is not None:
        raise ended
