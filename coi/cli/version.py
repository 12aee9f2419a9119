"""``coi version``."""

from __future__ import annotations

import typer

from coi.cli.options import Command, context_of, version_text

app = typer.Typer()


@app.command(cls=Command)
def version(ctx: typer.Context) -> None:
    """Show the version and the project's home.

    Example: coi version
    """
    context_of(ctx).output.result(version_text())
