"""``coi completion`` and ``coi help``."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from coi.cli.options import Command, context_of
from coi.errors import UsageError

app = typer.Typer()
help_app = typer.Typer()
VARIABLE = "_COI_COMPLETE"


class Shell(str, Enum):
    """Shells that a script can be printed for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@app.command(cls=Command)
def completion(
    ctx: typer.Context, shell: Annotated[Shell, typer.Argument(help="Which shell.")]
) -> None:
    """Print the completion script of a shell.

    Example: coi completion bash > /etc/bash_completion.d/coi
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="coi", complete_var=VARIABLE, shell=shell.value)
    context_of(ctx).output.result(script.strip())


@help_app.command(cls=Command, name="help")
def help_(
    ctx: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...")] = None,
) -> None:
    """Show the help of coi or of a command.

    Example: coi help shell
    """
    where: Any = ctx.find_root()
    for word in words or ():
        command = getattr(where.command, "get_command", lambda *_: None)(where, word)
        if command is None:
            raise UsageError(f"there is no command {' '.join(words or ())!r}", hint="coi --help")
        where = typer.Context(command, info_name=word, parent=where)
    context_of(ctx).output.result(where.get_help())
