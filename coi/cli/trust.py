"""``coi trust``: approve what a repository's .coi.toml asks for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coi.cli.options import Command, context_of
from coi.cli.output import Output
from coi.errors import NotFoundError, RefusedError, UsageError

if TYPE_CHECKING:
    from coi.config.layers import Setting
    from coi.config.trust import ProjectFile

app = typer.Typer(add_completion=False)


@app.command(cls=Command)
def trust(
    ctx: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="A workspace or its .coi.toml; default: here."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show what is approved.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take the approval back.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Approve the .coi.toml of a workspace, as it is now.

    Example: coi trust ~/src/project
    """
    context = context_of(ctx)
    if list_ and (revoke or yes or path is not None):
        raise UsageError("--list stands alone")
    if revoke and yes:
        raise UsageError("--revoke does not ask, so it needs no --yes")
    workspace = _workspace(path if path is not None else context.workspace)
    if list_:
        show_approvals(context.home, context.output)
    elif revoke:
        take_back(context.home, workspace, context.output)
    else:
        approve(context.home, workspace, context.output, yes=yes)


def _workspace(path: Path) -> Path:
    from coi.config.paths import PROJECT_CONFIG

    return path.parent if path.name == PROJECT_CONFIG else path


def show_approvals(home: Path, output: Output) -> None:
    """Print each approved file with its state: trusted, changed or missing."""
    from coi.config.text import printable
    from coi.config.trust import approvals

    found = approvals(home)
    if not found:
        output.notice("Nothing is trusted.")
    for entry in found:
        output.result(f"{entry.state:<8} {entry.approved_at:<20} {printable(str(entry.path))}")


def take_back(home: Path, workspace: Path, output: Output) -> None:
    """Forget the approval of the workspace's file.

    Raises:
        NotFoundError: it was not approved.
    """
    from coi.config.text import printable
    from coi.config.trust import project_path, revoke

    path = project_path(workspace)
    if not revoke(home, path):
        raise NotFoundError(f"{printable(str(path))} is not trusted", hint="coi trust --list")
    output.result(f"Revoked {printable(str(path))}")


def approve(home: Path, workspace: Path, output: Output, *, yes: bool) -> None:
    """Show the workspace's file and what it would set, ask, remember.

    Raises:
        NotFoundError: there is no file.
        RefusedError: it cannot be approved, or nobody is there to ask.
        ConfigError: it is wrong.
    """
    from coi.config.layers import project_settings
    from coi.config.parse import parse
    from coi.config.text import printable
    from coi.config.trust import Unusable, is_trusted, project_path, read_project
    from coi.config.trust import approve as remember

    file = read_project(workspace)
    if file is None:
        raise NotFoundError(f"there is no {printable(str(project_path(workspace)))}")
    shown = printable(str(file.path))
    if isinstance(file, Unusable):
        raise RefusedError(f"{shown} {file.reason}", hint="coi reads a regular file only")
    settings = project_settings(parse(file.data, str(file.path)), os.environ)
    if is_trusted(home, file):
        output.result(f"Already trusted {shown}")
        return
    # Whoever is asked sees what about, --quiet or not.
    reader = output if yes else Output()
    for line in review(file, settings):
        reader.notice(line)
    if not yes:
        if not sys.stdin.isatty():
            raise RefusedError(
                "nobody is here to ask whether the file may be trusted",
                hint="read it, then: coi trust --yes",
            )
        if not typer.confirm("Trust it?", default=False, err=True):
            output.notice("Not trusted.")
            raise typer.Exit(1)
    remember(home, file)
    output.result(f"Trusted {shown}")


def review(file: ProjectFile, settings: Sequence[Setting]) -> list[str]:
    """The file, then what approving it changes: last, so that it is on the screen."""
    from coi.config.show import setting
    from coi.config.text import printable

    text = file.data.decode("utf-8", "replace")
    lines = [f"{printable(str(file.path))}:", ""]
    lines += ["  | " + printable(line, keep="\t") for line in text.splitlines()]
    waiting = [setting(item) for item in settings if item.waits]
    already = [setting(item) for item in settings if not item.waits]
    if already:
        lines += ["", "In effect without approval:", *("  " + line for line in already)]
    if waiting:
        lines += ["", "Takes effect when you trust it:", *("  " + line for line in waiting)]
    else:
        lines += ["", "Nothing in it waits for approval."]
    return [*lines, ""]
