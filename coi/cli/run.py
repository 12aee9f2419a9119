"""``coi run``: one command in a container of its own, or one prompt to a tool."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from coi.cli.options import Command, check_format, context_of
from coi.errors import UsageError

if TYPE_CHECKING:
    from coi.cli.context import Context

app = typer.Typer()

_MAX_STDERR = 1 << 20  # bytes of the tool's standard error that JSON shows


@app.command(cls=Command, context_settings={"allow_interspersed_args": False})
def run(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND...", help="A shell line, or an argv.", show_default=False),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="Asked of the tool, instead of a COMMAND; - reads it."
        ),
    ] = None,
    capture: Annotated[
        bool, typer.Option("--capture", help="Print the output at the end, not as it comes.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0, help="Seconds; then it is killed (124)."),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format", metavar="pretty|json", help="json: one object, with --capture or --prompt."
        ),
    ] = "pretty",
) -> None:
    """Run a command in a fresh container, the project at /workspace.

    One argument is a shell line, several are an argv. Options come before it.
    Standard input is passed unless it is a terminal; the exit code is the command's.

    With --prompt the tool runs without a terminal, and its answer is printed.
    That is a session: it is saved, and --resume=ID goes on with it.

    Example: coi run -e CI=1 npm test
    """
    from coi.cli.streams import checked_argv

    context = context_of(ctx)
    check_format(format_, "pretty", "json")
    if prompt is not None and command:
        raise UsageError(
            "--prompt and a COMMAND exclude each other",
            hint="--prompt asks the tool that --tool names; its text is one argument",
        )
    if prompt is not None:
        code = _ask(context, _checked_prompt(prompt), timeout=timeout, as_json=format_ == "json")
    elif command:
        argv = checked_argv(command)
        code = _run(context, argv, timeout=timeout, capture=capture, as_json=format_ == "json")
    else:
        raise UsageError(
            "coi run needs a COMMAND, or --prompt TEXT",
            hint="coi run npm test, or: coi run --prompt 'What does this project do?'",
        )
    raise typer.Exit(code)


def _run(
    context: Context, argv: tuple[str, ...], *, timeout: float | None, capture: bool, as_json: bool
) -> int:
    """A command; its exit code."""
    from coi.cli.place import place_of
    from coi.cli.streams import capturing, passed_input

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
            limits=place.limits,
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

    if not capture and not as_json:
        return start(1, 2)
    with capturing() as captured:
        code = start(captured.stdout, captured.stderr)
        if as_json:
            context.output.data({**captured.text(), "exit_code": code})
        else:
            captured.replay()
    return code


def _checked_prompt(text: str) -> str:
    """The prompt, read from standard input where it is ``-``.

    Raises:
        UsageError: it is empty, too long, or cannot be an argument.
    """
    from coi.tools.prepare import MAX_ARGUMENT

    if text == "-":
        data = sys.stdin.buffer.read(MAX_ARGUMENT + 1)
        text = data.decode("utf-8", "surrogateescape").rstrip("\n")
    data = text.encode("utf-8", "surrogateescape")
    if not text.strip():
        raise UsageError("the prompt is empty", hint="--prompt TEXT, or --prompt - < FILE")
    if len(data) > MAX_ARGUMENT:
        raise UsageError(
            f"the prompt is longer than {MAX_ARGUMENT} bytes",
            hint="put it in a file of the workspace, and name the file in the prompt",
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(
            "the prompt is not UTF-8 text", hint="iconv -t UTF-8 FILE | coi run --prompt -"
        ) from None
    if "\0" in text:
        raise UsageError("the prompt has a NUL character", hint="it is text, as for a person")
    return text


def _ask(context: Context, prompt: str, *, timeout: float | None, as_json: bool) -> int:
    """A prompt; the exit code of the tool that answers it."""
    from coi.cli.place import place_of
    from coi.cli.streams import shown_errors, write_text
    from coi.session.model import StartRequest
    from coi.session.naming import check_session_id

    output, config, resume = context.output, context.loaded.config, context.resume
    if context.values.get("persistent"):
        raise UsageError(
            "--persistent and --prompt exclude each other",
            hint="the conversation is saved, its container is removed",
        )
    tool = context.manager.get(config.tool.name)
    place = place_of(context)
    request = StartRequest(
        workspace=place.workspace,
        tool=tool,
        user=place.user,
        shift=place.shift,
        slot=context.slot,
        resume=check_session_id(resume) if resume else resume,
        image=config.defaults.image,
        environment=context.environment(),
        devices=place.devices,
        limits=place.limits,
        network=place.network,
        tmux=False,
        prompt=prompt,
    )
    from coi.session.headless import MAX_OUTPUT, ask
    from coi.session.sinks import Kept

    kept = Kept(_MAX_STDERR)
    if as_json:
        asked = ask(context.engine, request, timeout=timeout, stderr=kept)
    else:
        with shown_errors() as stderr:
            asked = ask(context.engine, request, timeout=timeout, stderr=stderr)
    if asked.timed_out:
        output.notice(f"coi run: ended after {timeout:g} s (--timeout)")
    if asked.cut:
        output.notice(f"The output is larger than {MAX_OUTPUT >> 20} MiB: the rest is left out")
    if as_json:
        output.data(
            {
                "session_id": asked.session.id,
                "tool": asked.session.tool.name,
                "tool_session_id": asked.tool_session_id,
                "answer": asked.answer.text,
                "exit_code": asked.exit_code,
                "stderr": kept.text,
                "timed_out": asked.timed_out,
                "truncated": asked.cut or kept.cut,
                "saved": asked.saved,
            }
        )
    elif asked.answer.text:
        write_text(asked.answer.text)
    if asked.problem is not None:
        output.error(asked.problem)
    return asked.exit_code or (asked.problem.exit_code if asked.problem else 0)
