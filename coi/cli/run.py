"""``coi run``: one command in a container of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from coi.cli.options import Command, context_of
from coi.errors import UsageError

app = typer.Typer()


@app.command(cls=Command, context_settings={"allow_interspersed_args": False})
def run(
    ctx: typer.Context,
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="A shell line, or an argv.")
    ],
    capture: Annotated[
        bool, typer.Option("--capture", help="Print the output at the end, not as it comes.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0, help="Seconds; then it is killed (124)."),
    ] = None,
    format_: Annotated[
        str,
        typer.Option("--format", metavar="pretty|json", help="json: one object, with --capture."),
    ] = "pretty",
) -> None:
    """Run a command in a fresh container, the project at /workspace.

    One argument is a shell line, several are an argv. Options come before it.
    Standard input is passed unless it is a terminal; the exit code is the command's.

    Example: coi run -e CI=1 npm test
    """
    from coi.cli.place import place_of
    from coi.cli.streams import capturing, checked_argv, passed_input

    context = context_of(ctx)
    if format_ not in ("pretty", "json"):
        raise UsageError(f"invalid format {format_!r}", hint="--format pretty or --format json")
    argv = checked_argv(command)
    environment = context.environment()
    place = place_of(context)
    engine = context.engine
    from coi.session.run import TIMED_OUT, RunRequest
    from coi.session.run import run as run_inside
    from coi.session.terminal import terminal_name

    def start(stdout: int, stderr: int) -> int:
        request = RunRequest(
            command=("bash", "-c", argv[0]) if len(argv) == 1 else argv,
            workspace=place.workspace,
            user=place.user,
            image=context.loaded.config.defaults.image,
            shift=place.shift,
            environment=environment,
            devices=place.devices,
            network=place.network,
            timeout=timeout,
            terminal=terminal_name(),
            stdin=passed_input(),
            stdout=stdout,
            stderr=stderr,
        )
        code = run_inside(engine, request)
        if code == TIMED_OUT and timeout is not None:
            context.output.notice(f"coi run: ended after {timeout:g} s (--timeout)")
        return code

    if capture or format_ == "json":
        with capturing() as captured:
            code = start(captured.stdout, captured.stderr)
            if format_ == "json":
                context.output.data({**captured.text(), "exit_code": code})
            else:
                captured.replay()
    else:
        code = start(1, 2)
    raise typer.Exit(code)
