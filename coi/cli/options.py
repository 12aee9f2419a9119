"""Flags that are accepted before and after the command, declared once.

``coi --slot 2 shell`` and ``coi shell --slot 2`` are the same: every command
carries the same options, and what is given on either side lands in one
:class:`~coi.cli.context.Context`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from coi import PROJECT_URL, __version__
from coi.cli.context import Context

_OPTIONAL_VALUE = frozenset({"--resume", "--continue"})


def _show_version(value: bool) -> None:
    if value:
        typer.echo(version_text())
        raise typer.Exit(0)


def version_text() -> str:
    """What ``coi version`` prints: two lines."""
    return f"code-on-incus (coi) v{__version__}\n{PROJECT_URL}"


def _declared(
    workspace: Annotated[
        str | None, typer.Option("-w", "--workspace", metavar="PATH", help="Workspace directory.")
    ] = None,
    slot: Annotated[
        int | None,
        typer.Option("--slot", metavar="N", min=0, help="Slot; 0 takes the first free one."),
    ] = None,
    persistent: Annotated[
        bool | None,
        typer.Option("--persistent/--no-persistent", help="Keep the container between sessions."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="[=ID]", help="Go on with a session; the latest alone."),
    ] = None,
    continue_: Annotated[
        str | None, typer.Option("--continue", metavar="[=ID]", help="The same as --resume.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="Profile of the configuration.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="NAME", help="Image of the container.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("-e", "--env", metavar="KEY=VALUE", help="Variable inside; repeatable."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="PATH", help="Mounted at /storage.")
    ] = None,
    mount: Annotated[
        list[str] | None,
        typer.Option("--mount", metavar="HOST:CONTAINER[:ro]", help="Mount; repeatable."),
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="MODE", help="restricted, allowlist or open.")
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--tool", metavar="NAME", help="AI coding tool.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show each incus command.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No notices.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Only declares."""


@lru_cache(maxsize=1)
def global_parameters() -> list[Any]:
    """The options as typer builds them from :func:`_declared`."""
    app = typer.Typer(add_completion=False)
    app.command()(_declared)
    return [p for p in typer.main.get_command(app).params if p.name != "help"]


def _absorb(ctx: Any, names: Sequence[str]) -> None:
    """Move the global flags that were given from a click context to the Context."""
    context = ctx.find_root().obj
    for name in names:
        value = ctx.params.pop(name, None)
        if value is None or (value is False and ctx.get_parameter_source(name).name == "DEFAULT"):
            continue
        if isinstance(value, (list, tuple)):
            if value:
                context.values[name] = [*context.values.get(name, ()), *value]
        else:
            context.values[name] = value


def with_resume_value(args: Sequence[str], options: Sequence[Any]) -> list[str]:
    """Rewrite a bare ``--resume`` to ``--resume=``: its value is optional.

    Stops at ``--`` and at the first word that is no option's value, because
    what follows belongs to a subcommand or to the command that `run` runs.
    """
    takes_value = _value_options(options)
    result: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--" or not word.startswith("-") or word == "-":
            return [*result, word, *words]
        result.append(f"{word}=" if word in _OPTIONAL_VALUE else word)
        if word in takes_value:
            result += [value for value in [next(words, None)] if value is not None]
    return result


class Command(TyperCommand):
    """A command that also takes the global flags."""

    global_flags = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = {name for p in self.params for name in p.opts}
        self._global = [p for p in global_parameters() if not own & set(p.opts)]
        self.params = [*self.params, *self._global]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        bare = any(word in _OPTIONAL_VALUE for word in args)
        args = with_resume_value(args, [p for p in self.params if hasattr(p, "is_flag")])
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            extra = getattr(error, "message", "")
            if bare and "unexpected extra argument" in extra:
                word = extra.rpartition("(")[2].rstrip(").").split(" ")[0]
                error.message = f"{extra} - did you mean --resume={word}?"  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        _absorb(ctx, [p.name for p in self._global])
        return super().invoke(ctx)


class Group(TyperGroup):
    """A noun: its commands carry the global flags."""


class Root(TyperGroup):
    """``coi`` itself: global flags, then a command, ``shell`` when there is none.

    Commands are imported when they are asked for: a script that runs ``coi
    list`` a thousand times does not pay for the image builder.
    """

    commands_table: Mapping[str, tuple[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands_table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = self.commands_table.get(cmd_name)
        if entry is None:
            return None
        module, attribute = entry
        command = typer.main.get_command(getattr(import_module(module), attribute))
        command.name = cmd_name
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = [p for p in self.params if hasattr(p, "is_flag")]
        words = with_resume_value(args, options)
        if not _has_command(words, options) and not {"--help", "--version"} & set(words):
            words.append("shell")
        return super().parse_args(ctx, words)

    def invoke(self, ctx: Any) -> Any:
        _absorb(ctx, [p.name for p in global_parameters()])
        return super().invoke(ctx)


def _value_options(options: Sequence[Any]) -> set[str]:
    """Names of the options whose value is the next word."""
    names = {name for o in options if not getattr(o, "is_flag", False) for name in o.opts}
    return names - _OPTIONAL_VALUE


def _has_command(words: Sequence[str], options: Sequence[Any]) -> bool:
    takes_value = _value_options(options)
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            return True
        if word in takes_value:
            next(rest, None)
    return False


def context_of(ctx: typer.Context) -> Context:
    """The Context of the command that is running."""
    context = ctx.find_root().obj
    assert isinstance(context, Context)  # noqa: S101 - set by coi.cli.main
    return context
