"""The console script: parse, run, and turn every error into a message and a code."""

from __future__ import annotations

import os
import sys

import typer

from coi.cli.context import Context
from coi.cli.options import Root, global_parameters
from coi.cli.signals import handle
from coi.errors import CoiError, Interrupted, UsageError, disk_error

# The classes that typer's own parser raises (its click is a part of typer since 0.26).
_ParserUsageError: type[Exception] = typer.BadParameter.__mro__[1]
_ParserError: type[Exception] = typer.BadParameter.__mro__[2]

Root.commands_table = {
    "shell": ("coi.cli.shell", "app"),
    "attach": ("coi.cli.attach", "app"),
    "list": ("coi.cli.list", "app"),
    "info": ("coi.cli.info", "app"),
    "run": ("coi.cli.run", "app"),
    "container": ("coi.cli.container", "app"),
    "tmux": ("coi.cli.tmux", "app"),
    "shutdown": ("coi.cli.names", "shutdown_app"),
    "kill": ("coi.cli.names", "kill_app"),
    "persist": ("coi.cli.names", "persist_app"),
    "clean": ("coi.cli.clean", "app"),
    "build": ("coi.cli.build", "app"),
    "image": ("coi.cli.image", "app"),
    "images": ("coi.cli.image", "images_app"),
    "file": ("coi.cli.file", "app"),
    "network": ("coi.cli.network", "app"),
    "doctor": ("coi.cli.doctor", "app"),
    "tool": ("coi.cli.tool", "app"),
    "protect": ("coi.cli.protect", "app"),
    "trust": ("coi.cli.trust", "app"),
    "config": ("coi.cli.config", "app"),
    "version": ("coi.cli.version", "app"),
    "completion": ("coi.cli.completion", "app"),
    "help": ("coi.cli.completion", "help_app"),
}

app = typer.Typer(
    cls=Root,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root() -> None:
    """Run AI coding tools in Incus containers, your project at /workspace.

    `coi` alone is `coi shell`.
    """


def run(argv: list[str]) -> int:
    """Run one command line; its exit code."""
    context = Context()
    if "_COI_COMPLETE" in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    command = typer.main.get_command(app)
    command.params = [*command.params, *global_parameters()]
    try:
        code = int(command.main(argv, prog_name="coi", standalone_mode=False, obj=context) or 0)
    except (CoiError, Interrupted) as error:
        context.output.error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        context.output.error(Interrupted("interrupted"))
        return Interrupted.exit_code
    except typer.Exit as stop:
        return stop.exit_code
    except _ParserUsageError as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "coi")
        text = _message(error)
        context.output.error(UsageError(text.rstrip("."), hint=f"{where} --help"))
        return UsageError.exit_code
    except _ParserError as error:
        context.output.error(UsageError(str(error)))
        return UsageError.exit_code
    except Exception as error:
        if os.environ.get("COI_DEBUG"):
            raise
        context.output.error(
            (disk_error(error) if isinstance(error, OSError) else None)
            or CoiError(
                f"coi met something it does not handle: {type(error).__name__}",
                details=str(error),
                hint="COI_DEBUG=1 shows where; please report it",
            )
        )
        return 1
    return code


def _message(error: Exception) -> str:
    formatted = getattr(error, "format_message", None)
    return str(formatted() if formatted else error)


def main() -> int:
    """Run the command line of this process; its exit code. All that was printed is out."""
    handle()
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the terminal is gone: the interpreter's end is not to stumble over it
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
