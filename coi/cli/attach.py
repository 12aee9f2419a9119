"""``coi attach``: back to a session that runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cache, partial
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

Told = Callable[[], None]  # something is said by it


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
    from coi.session.known import Known, recall

    engine = context.engine
    if name is None and context.slot:
        from coi.session.naming import instance_name
        from coi.workspace.directory import absolute

        name = instance_name(engine.prefix, absolute(context.workspace), context.slot)
    # Where a network is asked for, nobody goes in before it is seen that it is that one.
    free = context.values.get("network") is None
    known = recall(engine.home / "locks", name) if free else None
    listed: Callable[[], list[Instance]]
    if known:
        from coi.session.terminal import has_terminal

        listed = cache(lambda: engine.instances.begin_all()())
        if has_terminal():
            with suppress(_ElsewhereError):
                look = partial(_confirm, engine, known, name, listed, bash=bash)
                _attend(context, known, look, bash=bash)
                return
    else:
        listed = engine.instances.begin_all()

    # Imported while the daemon is at it.
    from coi.session.recover import recover
    from coi.session.terminal import need_terminal

    rows = listed()
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
    from coi.session.model import user_of

    _attend(context, Known(row.name, user_of(row)), lambda: (row, []), bash=bash)


class _ElsewhereError(Exception):
    """The daemon says something else than the lock remembers."""


def _active(
    engine: Engine, rows: list[Instance], name: str | None, *, bash: bool
) -> list[Instance]:
    """The instances that are meant and can be attached to."""
    from coi.session.model import is_headless, is_session

    active = [row for row in rows if row.running and is_session(row) and engine.attends(row)]
    if name is not None:
        return [row for row in active if row.name == name]
    return active if bash else [row for row in active if not is_headless(row)]


def _confirm(
    engine: Engine,
    known: Known,
    name: str | None,
    listed: Callable[[], list[Instance]],
    *,
    bash: bool,
) -> tuple[Instance, list[Told]]:
    """See that what was known is so, while the client is there already.

    Returns: the instance, and what recovering others has said: there is somebody else's
        screen on the terminal now.

    Raises:
        _ElsewhereError: it is another one, or there is more than one.
    """
    from coi.session.known import Known
    from coi.session.model import user_of
    from coi.session.recover import recover

    rows = listed()
    active = _active(engine, rows, name, bash=bash)
    if [Known(row.name, user_of(row)) for row in active] != [known]:
        raise _ElsewhereError
    said: list[Told] = []

    def later(tell: Callable[[str], None]) -> Callable[[str], None]:
        return lambda text: said.append(partial(tell, text))

    recover(replace(engine, report=later(engine.report), warn=later(engine.warn)), rows)
    return active[0], said


def _attend(
    context: Context,
    known: Known,
    look: Callable[[], tuple[Instance, list[Told]]],
    *,
    bash: bool,
) -> None:
    """Go in, and finish the session if nobody else does.

    Args:
        look: what the daemon says of the instance, and what is to be told once the terminal
            is this coi's again; called while the client runs.
    """
    from coi.incus.shield import shielded
    from coi.session.attach import Ended, converse, shell
    from coi.session.model import from_instance, superseded

    engine = context.engine
    context.output.notice(f"Attaching to {known.instance}...")
    lock = engine.lock(known.instance)
    attended = lock.try_acquire()
    seen: list[Instance] = []
    told: list[Told] = []
    ended: Interrupted | None = None
    removed = False

    def get_ready() -> None:
        """For the end, which is not to wait for imports."""
        row, said = look()
        seen.append(row)
        told.extend(said)
        if attended:
            from coi.session import finish  # noqa: F401 - it is there then

            with suppress(CoiError):  # the end says so
                _ = engine.tool(row.coi("tool")).state

    try:
        try:
            if bash:
                shell(engine, known.instance, known.user, meanwhile=get_ready)
            else:
                how = converse(engine, known.instance, known.user, meanwhile=get_ready)
                if how is Ended.STOPPING and not attended:
                    context.output.notice(f"{known.instance} is powering off")
        except Interrupted as error:
            ended = error
        for tell in told:
            tell()
        if attended and seen and superseded(engine, seen[0]):
            session_id = seen[0].coi("session-id")
            context.output.notice(
                f"Not saved: session {session_id} went on in another container since"
            )
        elif attended and seen:
            from coi.session.finish import Outcome, finish

            session = replace(from_instance(engine, seen[0], attached=True), lock=lock)
            with shielded() if ended else nullcontext():
                removed = finish(engine, session) is Outcome.REMOVED
    finally:
        lock.release(remove=removed)
    if ended is not None:
        raise ended
