"""``coi kill``, ``shutdown`` and ``persist``: the same shape, another verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from coi.cli.context import Context
from coi.cli.options import Command, context_of
from coi.errors import CoiError

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Containers.")]
All = Annotated[bool, typer.Option("--all", help="All of your sessions.")]
Force = Annotated[bool, typer.Option("--force", help="Do not ask.")]

kill_app = typer.Typer()
shutdown_app = typer.Typer()
persist_app = typer.Typer()


@kill_app.command(cls=Command)
def kill(ctx: typer.Context, names: Names = None, all_: All = False, force: Force = False) -> None:
    """Stop containers at once and delete them. Nothing is saved.

    Example: coi kill coi-1a2b3c4d-1
    """
    from coi.session import lifecycle

    context = context_of(ctx)
    engine = context.engine
    _apply(context, names, all_, force, "Kill", "Killed", lambda r: lifecycle.kill(engine, r))


@persist_app.command(cls=Command)
def persist(
    ctx: typer.Context, names: Names = None, all_: All = False, force: Force = False
) -> None:
    """Make ephemeral sessions persistent: their containers are kept.

    Example: coi persist coi-1a2b3c4d-1
    """
    from coi.session import lifecycle

    context = context_of(ctx)
    engine = context.engine
    _apply(
        context, names, all_, force, "Persist", "Persisted", lambda r: lifecycle.persist(engine, r)
    )


@shutdown_app.command(cls=Command)
def shutdown(
    ctx: typer.Context,
    names: Names = None,
    all_: All = False,
    force: Force = False,
    timeout: Annotated[
        int, typer.Option("--timeout", min=0, metavar="S", help="Seconds; then by force.")
    ] = 60,
) -> None:
    """Shut containers down gracefully, save their sessions, delete them.

    Example: coi shutdown --all
    """
    from coi.session import lifecycle

    context = context_of(ctx)
    engine = context.engine
    _apply(
        context, names, all_, force, "Shutdown", "Shutdown",
        lambda r: lifecycle.shutdown(engine, r, timeout=timeout),
    )  # fmt: skip


def _apply(
    context: Context,
    names: list[str] | None,
    everything: bool,
    force: bool,
    verb: str,
    done: str,
    work: Callable[..., None],
) -> None:
    """Do it to every container meant, side by side; the first error decides the exit code."""
    from coi.session.lifecycle import found, select
    from coi.session.many import side_by_side

    rows = select(context.engine, names or (), everything=everything)
    if not force and (everything or len(rows) > 1) and rows:
        context.output.confirm(f"{verb} {len(rows)} container(s): {', '.join(rows)}?")

    def progress(ended: int) -> None:
        context.output.transient(f"{ended} of {len(rows)} done")

    outcome = side_by_side(
        list(rows), lambda name: work(found(rows[name], name)), progress=progress
    )
    if len(rows) > 1:
        context.output.transient("")
    failed = [error for error in outcome.values() if error is not None]
    for error in failed[:-1]:
        context.output.error(error)
    context.output.result(f"{done} {len(outcome) - len(failed)} container(s)")
    if failed:
        raise failed[-1] if len(failed) == 1 else _worst(failed)


def _worst(errors: list[CoiError]) -> CoiError:
    """The last error, with the exit code that all share or 1."""
    last = errors[-1]
    if len({error.exit_code for error in errors}) > 1:
        last.exit_code = 1
    return last
