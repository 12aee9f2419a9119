"""``coi attach``: back to a session that runs."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from coi.cli.context import Context
from coi.cli.options import Command, context_of
from coi.errors import CoiError, Interrupted, NotFoundError

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.session.known import Known
    from coi.session.model import Engine

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
    if name is None and context.slot:
        from coi.session.naming import instance_name
        from coi.workspace.directory import absolute

        name = instance_name(engine.prefix, absolute(context.workspace), context.slot)
    if not bash and (known := _known(context, name)):
        from coi.session.attach import NoTmuxError

        with suppress(_ElsewhereError, NoTmuxError):  # what it is then is told below
            _attend(context, known, name=name)
            return
    asked = engine.instances.begin_all()

    # Imported while the daemon is at it.
    from coi.session.known import Known
    from coi.session.model import user_of
    from coi.session.recover import recover
    from coi.session.terminal import need_terminal

    rows = asked()
    gone = recover(engine, rows).gone
    active = _active(engine, [row for row in rows if row.name not in gone], name, bash=bash)
    if name is not None and not active:
        raise NotFoundError(f"{name} not found or not running", hint="coi list")
    if not active:
        context.output.result("No active sessions")
        return
    if len(active) > 1:
        lines = ["Active sessions:"]
        lines += [f"  {row.name}  {row.coi('workspace')}" for row in active]
        lines.append("Attach to one: coi attach <container-name>")
        context.output.result("\n".join(lines))
        return
    (row,) = active
    need_terminal()
    if context.values.get("network") is not None:
        from coi.cli.place import network_of
        from coi.session.network import agree

        agree(row, network_of(context), context.output.notice)
    _attend(context, Known(row.name, user_of(row), ""), row=row, bash=bash)


class _ElsewhereError(Exception):
    """The daemon says something else than the lock remembers."""


def _known(context: Context, name: str | None) -> Known | None:
    """What can be attached to at once: the daemon is asked meanwhile.

    Not where a network is asked for, which must be seen first; nor with --verbose, which would
    write on the session's screen.
    """
    from coi.session.known import recall
    from coi.session.terminal import has_terminal

    if context.values.get("network") is not None or context.values.get("verbose"):
        return None
    engine = context.engine
    return recall(engine.home / "locks", engine.prefix, name) if has_terminal() else None


def _active(
    engine: Engine, rows: list[Instance], name: str | None, *, bash: bool
) -> list[Instance]:
    """The instances that are meant and can be attached to."""
    from coi.session.model import is_headless, is_session

    active = [row for row in rows if row.running and is_session(row) and engine.attends(row)]
    if name is not None:
        return [row for row in active if row.name == name]
    return active if bash else [row for row in active if not is_headless(row)]


def _confirmed(engine: Engine, known: Known, name: str | None) -> Instance:
    """What the daemon says of what is known.

    Raises:
        _ElsewhereError: another one is meant, or there is more than one, or sessions that have
            ended are to be finished first.
    """
    from coi.session.known import Known
    from coi.session.model import user_of
    from coi.session.network import watch
    from coi.session.recover import due

    rows = engine.instances.all()
    active = _active(engine, rows, name, bash=False)
    if [Known(row.name, user_of(row), row.coi("start")) for row in active] != [known]:
        raise _ElsewhereError
    if due(engine, rows):
        raise _ElsewhereError
    watch(engine.home, rows)
    return active[0]


def _attend(
    context: Context,
    known: Known,
    *,
    name: str | None = None,
    row: Instance | None = None,
    bash: bool = False,
) -> None:
    """Go in, and finish the session if nobody else does.

    Args:
        name: that was given.
        row: what the daemon says of it; None has it asked while the client runs.

    Raises:
        _ElsewhereError: it says something else.
        NoTmuxError: there is nothing to attach to.
    """
    from coi.incus.shield import shielded
    from coi.session.attach import Ended, converse, shell
    from coi.session.model import from_instance, superseded

    engine = context.engine
    context.output.notice(f"Attaching to {known.instance}...")
    lock = engine.lock(known.instance)
    ended: Interrupted | None = None
    removed = False

    def get_ready() -> None:
        """For the end, which is not to wait for imports."""
        nonlocal row
        row = row or _confirmed(engine, known, name)
        if lock.try_acquire():
            from coi.session import finish  # noqa: F401 - it is there then

            with suppress(CoiError):  # the end says so
                _ = engine.tool(row.coi("tool")).state

    try:
        try:
            if bash:
                shell(engine, known.instance, known.user, meanwhile=get_ready)
            else:
                start = known.start
                how = converse(engine, known.instance, known.user, start=start, meanwhile=get_ready)
                if how is Ended.STOPPING and not lock.held:
                    context.output.notice(f"{known.instance} is powering off")
        except Interrupted as error:
            ended = error
        if lock.held and row and superseded(engine, row):
            context.output.notice(
                f"Not saved: session {row.coi('session-id')} went on in another container since"
            )
        elif lock.held and row:
            from coi.session.finish import Outcome, finish

            session = replace(from_instance(engine, row, attached=True), lock=lock)
            with shielded() if ended else nullcontext():
                removed = finish(engine, session) in (Outcome.REMOVED, Outcome.GONE)
    finally:
        lock.release(remove=removed)
    if ended is not None:
        raise ended
