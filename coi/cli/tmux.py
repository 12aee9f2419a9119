"""``coi tmux``: the sessions' terminals, for automation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from coi.cli.options import Command, Group, check_format, context_of

app = typer.Typer(cls=Group, help="List sessions' terminals, type into them, read them.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Container.")]


@app.command("list", cls=Command)
def list_(
    ctx: typer.Context,
    format_: Annotated[
        str, typer.Option("--format", metavar="text|json", help="How to print it.")
    ] = "text",
) -> None:
    """List the running containers that have a tmux session.

    Example: coi tmux list
    """
    from coi.session import tmux

    context = context_of(ctx)
    check_format(format_, "text", "json")
    found = tmux.sessions(context.engine)
    if format_ == "json":
        context.output.data([asdict(item) for item in found])
    elif not found:
        context.output.result("No active sessions")
    else:
        lines = ["Active sessions:"]
        lines += [f"  {item.name}  {item.session}  {item.workspace}".rstrip() for item in found]
        context.output.result("\n".join(lines))


@app.command(cls=Command)
def send(
    ctx: typer.Context,
    name: Name,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Sent literally, then Enter.")],
) -> None:
    """Send text to a session, literally, and press Enter.

    Example: coi tmux send coi-1a2b3c4d-1 "write a hello world script"
    """
    from coi.session import tmux

    context = context_of(ctx)
    session = tmux.send(context.engine, name, text)
    context.output.result(f"Sent command to session {session}")


@app.command(cls=Command)
def capture(
    ctx: typer.Context,
    name: Name,
    raw: Annotated[
        bool, typer.Option("--raw", help="With colours and other escape sequences.")
    ] = False,
) -> None:
    """Print what a session's terminal shows.

    Example: coi tmux capture coi-1a2b3c4d-1
    """
    from coi.cli.streams import write_all
    from coi.session import tmux

    context = context_of(ctx)
    shown = tmux.capture(context.engine, name, raw=raw)
    if raw:
        write_all(1, shown)
    else:
        context.output.result(shown.decode("utf-8", "replace").rstrip("\n "))
