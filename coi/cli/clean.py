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
        bool,
        typer.Option("--all", help="Persistent and warm containers, saved sessions too."),
    ] = False,
    sessions: Annotated[bool, typer.Option("--sessions", help="Saved sessions too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do not ask.")] = False,
) -> None:
    """Remove stopped and half-made containers, half saves, unused networks, stale locks.

    A stopped container's session is saved before it goes. Warm containers go that are
    of no use any more.

    Example: coi clean --force
    """
    from coi.session import lifecycle
    from coi.session.many import side_by_side

    context = context_of(ctx)
    engine = context.engine
    items = lifecycle.leftovers(engine, sessions=sessions, everything=everything)
    scope = None
    unused: list[str] = []
    if (context.home / "network").is_dir():
        from coi.network.start import scope_of
        from coi.network.sweep import sweep, swept

        scope = scope_of(context.home, engine.prefix)
        unused = swept(context.client, scope)
    if not items and not unused:
        context.output.result("Nothing to clean.")
        return
    for item in items:
        context.output.notice(f"{item.kind} {item.name}: {item.why}")
    for network in unused:
        context.output.notice(f"network {network}: nothing uses it")
    if not force:
        context.output.confirm(f"Clean {len(items) + len(unused)} item(s)?")
    by_name = {f"{item.kind} {item.name}": item for item in items}
    outcome = side_by_side(list(by_name), lambda name: lifecycle.clean(engine, by_name[name]))
    failed = [error for error in outcome.values() if error is not None]
    for error in failed:
        context.output.error(error)
    removed = sweep(context.client, scope) if scope else []
    context.output.result(f"Cleaned {len(items) - len(failed) + len(removed)} item(s)")
    if failed:
        raise typer.Exit(1)
