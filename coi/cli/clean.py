"""``coi clean``."""

from __future__ import annotations

from typing import Annotated

import typer

from coi.cli.options import Command, context_of

app = typer.Typer()


@app.command(cls=Command)
def clean(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Stopped persistent containers and saved sessions too.")
    ] = False,
    sessions: Annotated[bool, typer.Option("--sessions", help="Saved sessions too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do not ask.")] = False,
) -> None:
    """Remove stopped and half-made containers and stale locks.

    A stopped container's session is saved before it goes.

    Example: coi clean --force
    """
    from coi.session import lifecycle
    from coi.session.many import side_by_side

    context = context_of(ctx)
    engine = context.engine
    items = lifecycle.leftovers(engine, sessions=sessions, everything=everything)
    if not items:
        context.output.result("Nothing to clean.")
        return
    for item in items:
        context.output.notice(f"{item.kind} {item.name}: {item.why}")
    if not force:
        context.output.confirm(f"Clean {len(items)} item(s)?")
    by_name = {f"{item.kind} {item.name}": item for item in items}
    outcome = side_by_side(list(by_name), lambda name: lifecycle.clean(engine, by_name[name]))
    failed = [error for error in outcome.values() if error is not None]
    for error in failed:
        context.output.error(error)
    context.output.result(f"Cleaned {len(items) - len(failed)} item(s)")
    if failed:
        raise typer.Exit(1)
