"""``coi config``: the effective configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from coi.cli.options import Command, Group, check_format, context_of
from coi.errors import UsageError

app = typer.Typer(cls=Group, add_completion=False)


@app.callback(invoke_without_command=True)
def config(ctx: typer.Context) -> None:
    """Show the configuration."""
    if ctx.invoked_subcommand is None:
        raise UsageError("coi config needs a command", hint="coi config show")


@app.command(cls=Command)
def show(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Where each value comes from.")] = False,
    format_: Annotated[
        str, typer.Option("--format", metavar="text|json", help="How to print it.")
    ] = "text",
) -> None:
    """Show the effective configuration, as TOML.

    Example: coi config show --origin
    """
    from coi.config.show import as_data, as_text

    context = context_of(ctx)
    check_format(format_, "text", "json")
    loaded = context.load()
    if format_ == "json":
        context.output.data(as_data(loaded, origin=origin))
    else:
        context.output.result(as_text(loaded, origin=origin).rstrip("\n"))
