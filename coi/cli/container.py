"""``coi container``: single containers, thin and exact."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from coi.cli.context import parse_environment
from coi.cli.options import Command, Group, check_format, context_of
from coi.errors import UsageError

app = typer.Typer(cls=Group, help="Launch, start, stop, enter single containers.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Container.")]


@app.command(cls=Command)
def launch(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(metavar="IMAGE", help="Alias or fingerprint.")],
    name: Name,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Delete it when it stops.")
    ] = False,
) -> None:
    """Create a container and start it.

    Example: coi container launch coi my-container
    """
    from coi.cli.place import limits_of, network_of
    from coi.session import containers
    from coi.session.lookup import check_name

    context = context_of(ctx)
    check_name(name)
    containers.launch(
        context.engine,
        alias,
        name,
        ephemeral=ephemeral,
        network=network_of(context),
        limits=limits_of(context),
    )
    context.output.notice(f"Launched {name}")


@app.command(cls=Command)
def start(ctx: typer.Context, name: Name) -> None:
    """Start a stopped container.

    Example: coi container start my-container
    """
    from coi.session import containers

    context = context_of(ctx)
    containers.start(context.engine, name)
    context.output.notice(f"Started {name}")


@app.command(cls=Command)
def stop(
    ctx: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="At once.")] = False,
) -> None:
    """Stop a container: gracefully for 30 seconds, then by force.

    Example: coi container stop my-container
    """
    from coi.session import containers

    context = context_of(ctx)
    containers.stop(context.engine, name, force=force)
    context.output.notice(f"Stopped {name}")


@app.command(cls=Command)
def delete(
    ctx: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="A running one too.")] = False,
) -> None:
    """Delete a container. Nothing is saved.

    Example: coi container delete --force my-container
    """
    from coi.session import containers

    context = context_of(ctx)
    containers.delete(context.engine, name, force=force)
    context.output.notice(f"Deleted {name}")


@app.command(cls=Command)
def exists(ctx: typer.Context, name: Name) -> None:
    """Exit with 0 if there is such a container, with 1 if not.

    Example: coi container exists my-container
    """
    from coi.session.lookup import find

    context = context_of(ctx)
    if find(context.engine, name) is None:
        context.output.notice(f"{name} does not exist")
        raise typer.Exit(1)


@app.command(cls=Command)
def running(ctx: typer.Context, name: Name) -> None:
    """Exit with 0 if the container runs, with 1 if not.

    Example: coi container running my-container
    """
    from coi.session.lookup import find

    context = context_of(ctx)
    row = find(context.engine, name)
    if row is None or not row.running:
        context.output.notice(f"{name} " + ("is not running" if row else "does not exist"))
        raise typer.Exit(1)


@app.command(cls=Command)
def mount(
    ctx: typer.Context,
    name: Name,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The mount's name.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Path on the host.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Path inside.")],
    shift: Annotated[
        bool | None,
        typer.Option("--shift/--no-shift", help="Same owners inside as outside (idmapped)."),
    ] = None,
) -> None:
    """Mount a directory of the host in a container.

    Owners are carried through (--shift) unless the configuration or the host says otherwise.

    Example: coi container mount my-container src ~/project /workspace
    """
    from pathlib import Path

    from coi.session import containers
    from coi.workspace.directory import absolute
    from coi.workspace.ownership import uses_shift

    context = context_of(ctx)
    if shift is None:
        disabled = context.loaded.config.incus.disable_shift
        shift = uses_shift(absolute(Path(source).expanduser()), disabled=disabled)
    containers.mount(context.engine, name, device, source, path, shift=shift)
    context.output.notice(f"Mounted {source} at {path} in {name}")


class ExecCommand(Command):
    """``exec``: what follows the container's name and its options is the command's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = [p for p in self.params if hasattr(p, "is_flag")]
        with_value = {n for p in options if not p.is_flag for n in p.opts}
        position = 0
        seen_name = False
        while position < len(args):
            word = args[position]
            if word == "--":
                break
            if word.startswith("-") and word != "-":
                position += 2 if word in with_value else 1
                continue
            if seen_name:
                args = [*args[:position], "--", *args[position:]]
                break
            seen_name = True
            position += 1
        return super().parse_args(ctx, args)


@app.command("exec", cls=ExecCommand)
def exec_(
    ctx: typer.Context,
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="CMD...", help="An argv.")],
    user: Annotated[int, typer.Option("--user", metavar="UID", min=0, help="Run as it.")] = 0,
    group: Annotated[
        int | None, typer.Option("--group", metavar="GID", min=0, help="The user's by default.")
    ] = None,
    cwd: Annotated[str, typer.Option("--cwd", metavar="DIR", help="/workspace by default.")] = "",
    tty: Annotated[bool, typer.Option("-t", "--tty", help="On a terminal.")] = False,
    capture: Annotated[
        bool, typer.Option("--capture", help="Print the output at the end.")
    ] = False,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="json|raw", help="With --capture; json by default."),
    ] = None,
) -> None:
    """Run a command in a running container, as root in /workspace.

    Standard input is passed unless it is a terminal; the exit code is the command's.

    Example: coi container exec my-container --user 1000 -- npm test
    """
    from coi.cli.streams import capturing, checked_argv, passed_input
    from coi.session.enter import ExecRequest, execute
    from coi.session.terminal import terminal_name

    context = context_of(ctx)
    if format_ is not None:
        check_format(format_, "json", "raw")
    if format_ is not None and not capture:
        raise UsageError("invalid format: --format needs --capture")
    if tty and capture:
        raise UsageError("--tty and --capture exclude each other")
    environment = parse_environment(context.values.get("env") or (), os.environ)

    def start(stdout: int, stderr: int) -> int:
        request = ExecRequest(
            name=name,
            command=checked_argv(command),
            user=user,
            group=group,
            environment=environment,
            cwd=cwd,
            tty=tty,
            stdin=passed_input(),
            stdout=stdout,
            stderr=stderr,
            terminal=terminal_name(),
        )
        return execute(context.engine, request)

    if capture:
        with capturing() as captured:
            code = start(captured.stdout, captured.stderr)
            if format_ == "raw":
                captured.replay()
            else:
                context.output.data({**captured.text(), "exit_code": code})
    else:
        code = start(1, 2)
    raise typer.Exit(code)
