"""``coi tool list`` and ``coi tool info NAME``: the installed tool plugins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coi.cli.options import Command, Group, check_format, context_of
from coi.errors import CoiError, ConfigError, UsageError

if TYPE_CHECKING:
    from coi.api import Tool
    from coi.cli.context import Context
    from coi.tools.manager import Registered

app = typer.Typer(cls=Group, add_completion=False)

_Format = Annotated[str, typer.Option("--format", metavar="text|json", help="How to print it.")]


@app.callback(invoke_without_command=True)
def tool(ctx: typer.Context) -> None:
    """Show the AI coding tools that are installed."""
    if ctx.invoked_subcommand is None:
        raise UsageError(
            "coi tool needs a command", hint="coi tool list, coi tool info NAME, coi tool new NAME"
        )


@app.command("list", cls=Command)
def list_tools(ctx: typer.Context, format_: _Format = "text") -> None:
    """List the tools, where each comes from, and the plugins that were skipped.

    Example: coi tool list
    """
    check_format(format_, "text", "json")
    context = context_of(ctx)
    found = context.manager.tools
    problems = context.manager.problems
    if format_ == "json":
        context.output.data(
            {
                "tools": [as_data(registered) for registered in found.values()],
                "problems": [{"name": p.name, "reason": p.reason} for p in problems],
            }
        )
        return
    for registered in found.values():
        context.output.result(as_text(as_data(registered)))
    for problem in problems:
        context.output.notice(f"Skipped {problem.name}: {problem.reason}")


@app.command(cls=Command)
def info(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The tool.", show_default=False)],
    format_: _Format = "text",
) -> None:
    """Show one tool: executable, state, where it comes from, and what would go in now.

    Of the host's files and variables nothing is shown but whether they would.

    Example: coi tool info claude
    """
    check_format(format_, "text", "json")
    context = context_of(ctx)
    context.manager.get(name)  # raises with the names there are
    registered = context.manager.tools[name]
    data = as_data(registered)
    data.update(goes_in(context, registered.tool))
    if format_ == "json":
        context.output.data(data)
    else:
        context.output.result(as_text(data))


@app.command(cls=Command)
def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The tool.", show_default=False)],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="PATH", help="Of the project; default: ./coi-NAME."),
    ] = None,
) -> None:
    """Write a plugin project whose tool works, to be changed into another.

    Example: coi tool new parrot
    """
    from coi.tools.skeleton import check_name, write_project

    context = context_of(ctx)
    check_name(name)
    if taken := context.manager.tools.get(name):
        raise UsageError(
            f"the name {name!r} is taken by {taken.distribution}", hint="choose another name"
        )
    where = directory or Path(f"coi-{name}")
    write_project(name, where)
    context.output.result(f"Wrote {where}")
    context.output.notice(_next_steps(name, where))


def _next_steps(name: str, where: Path) -> str:
    """What to type after ``coi tool new``: the interpreter is coi's own."""
    import shlex
    import sys
    import sysconfig

    pip = f"{shlex.quote(sys.executable)} -m pip install"
    if not os.access(sysconfig.get_path("purelib"), os.W_OK):
        pip = f"sudo {pip}"
    return "\n".join(
        [
            f"Next: cd {shlex.quote(str(where))}",
            f"      {pip} .",
            f"      coi build --image coi-{name} --tools {name}",
            f"      coi shell --tool {name} --image coi-{name}",
            f"Test: {pip} 'code-on-incus[testing]'",
            f"      {shlex.quote(sys.executable)} -m pytest --coi-image coi-{name}",
        ]
    )


def as_data(registered: Registered) -> dict[str, Any]:
    """What both commands show of a tool; keys are added, never renamed."""
    from coi.tools.credentials import host_files, is_credential

    tool = registered.tool
    data: dict[str, Any] = {
        "name": tool.name,
        "title": tool.title or tool.name,
        "binary": tool.binary,
        "origin": registered.origin,
        "distribution": registered.distribution,
        "state": list(tool.state),
        "state_exclude": list(tool.state_exclude),
        "credentials": list(tool.secrets),
        "host_files": [],
        "host_variables": [{"name": name} for name in tool.host_variables],
    }
    try:
        data["host_files"] = [
            {
                "source": wanted.source,
                "target": wanted.target,
                "credential": is_credential(tool, wanted),
            }
            for wanted in host_files(tool, os.environ)
        ]
    except CoiError as error:
        data["error"] = f"{error.brief}: {error.details}"
    return data


def goes_in(context: Context, tool: Tool) -> dict[str, Any]:
    """What of the host would go in, were a session started now: never a content.

    A file is present, absent, refused (and why) or kept out; a variable is set, unset
    or kept out.

    Raises:
        ConfigError: the configuration names a credential that the tool does not have.
    """
    from coi.tools.credentials import host_access, seen_files

    config = context.loaded.config
    environment = dict(os.environ)
    try:
        access = host_access(
            tool,
            config.tool.options.get(tool.name, {}),
            enabled=config.defaults.mount_claude_config,
            host_environment=environment,
        )
        files = seen_files(tool, access, host_home=Path.home(), host_environment=environment)
    except ConfigError:
        raise
    except CoiError as error:
        return {"error": f"{error.brief}: {error.details}"}
    return {
        "host_files": [
            {
                "source": seen.wanted.source,
                "target": seen.wanted.target,
                "credential": seen.credential,
                "status": seen.status,
                "reason": seen.reason or None,
            }
            for seen in files
        ],
        "host_variables": [
            {
                "name": name,
                "status": "kept out"
                if not access.allows(name)
                else "set"
                if name in access.variables
                else "unset",
            }
            for name in tool.host_variables
        ],
    }


def as_text(data: dict[str, Any]) -> str:
    """A tool's data as indented lines."""
    files = [_file(wanted) for wanted in data["host_files"]]
    variables = [_with(wanted["name"], wanted.get("status")) for wanted in data["host_variables"]]
    separator = (
        ",\n" + " " * 15 if any("status" in wanted for wanted in data["host_files"]) else ", "
    )
    rows = [
        ("Title", data["title"]),
        ("Binary", data["binary"]),
        ("From", f"{data['distribution']} ({data['origin']})"),
        ("State", ", ".join(map(_home, data["state"]))),
        ("Credentials", ", ".join(map(_home, data["credentials"]))),
        ("Host files", separator.join(files)),
        ("Variables", separator.join(variables)),
    ]
    if "error" in data:
        rows.append(("Error", data["error"]))
    return "\n".join(
        [f"{data['name']}:", *(f"  {label + ':':<13}{value or '-'}" for label, value in rows)]
    )


def _file(wanted: dict[str, Any]) -> str:
    notes = ["credential"] if wanted["credential"] else []
    status = wanted.get("status")
    if status:
        notes.append(f"{status}: {wanted['reason']}" if wanted["reason"] else status)
    return _with(_home(wanted["source"]), *notes)


def _with(text: str, *notes: str | None) -> str:
    shown = ", ".join(note for note in notes if note)
    return f"{text} ({shown})" if shown else text


def _home(path: str) -> str:
    return path if path.startswith("/") else f"~/{path}"
