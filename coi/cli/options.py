"""Flags that are accepted before and after the command, declared once.

``coi --slot 2 shell`` and ``coi shell --slot 2`` are the same: every command
carries the same options, and what is given on either side lands in one
:class:`~coi.cli.context.Context`.
"""

# Annotations are evaluated here: typer compiles those that are texts, one by one, at each start.
from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache, partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo

from coi import PROJECT_URL, __version__
from coi.cli.context import Context
from coi.errors import UsageError

_OPTIONAL_VALUE = frozenset({"--resume", "--continue"})
_BARE_RESUME = "coi.bare-resume"  # in the root's meta: one of them came without a value


def _show_version(value: bool) -> None:
    if value:
        typer.echo(version_text())
        raise typer.Exit(0)


def version_text() -> str:
    """What ``coi version`` prints: two lines."""
    return f"code-on-incus (coi) v{__version__}\n{PROJECT_URL}"


_option = partial(typer.Option, rich_help_panel="Global options")


def _declared(
    workspace: Annotated[
        str | None, _option("-w", "--workspace", metavar="PATH", help="Workspace directory.")
    ] = None,
    slot: Annotated[
        int | None,
        _option("--slot", metavar="N", min=0, help="Slot; 0 takes the first free one."),
    ] = None,
    persistent: Annotated[
        bool | None,
        _option("--persistent/--no-persistent", help="Keep the container between sessions."),
    ] = None,
    resume: Annotated[
        str | None,
        _option("--resume", metavar="[=ID]", help="Go on with a session; the latest alone."),
    ] = None,
    continue_: Annotated[
        str | None, _option("--continue", metavar="[=ID]", help="The same as --resume.")
    ] = None,
    profile: Annotated[
        str | None, _option("--profile", metavar="NAME", help="Profile of the configuration.")
    ] = None,
    image: Annotated[
        str | None, _option("--image", metavar="NAME", help="Image of the container.")
    ] = None,
    env: Annotated[
        list[str] | None,
        _option("-e", "--env", metavar="KEY=VALUE", help="Variable inside; repeatable."),
    ] = None,
    storage: Annotated[
        str | None, _option("--storage", metavar="PATH", help="Mounted at /storage.")
    ] = None,
    mount: Annotated[
        list[str] | None,
        _option("--mount", metavar="HOST:CONTAINER[:ro]", help="Mount; repeatable."),
    ] = None,
    publish: Annotated[
        list[str] | None,
        _option(
            "--publish",
            metavar="[HOSTADDR:]HOSTPORT:PORT",
            help="Port of the host that leads inside; repeatable.",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        _option(
            "--limit",
            metavar="KEY=VALUE",
            help="cpu, memory, processes or disk; none lifts it; repeatable.",
        ),
    ] = None,
    network: Annotated[
        str | None, _option("--network", metavar="MODE", help="restricted, allowlist or open.")
    ] = None,
    tool: Annotated[str | None, _option("--tool", metavar="NAME", help="AI coding tool.")] = None,
    verbose: Annotated[bool, _option("-v", "--verbose", help="Show each incus command.")] = False,
    quiet: Annotated[bool, _option("-q", "--quiet", help="No notices.")] = False,
    version: Annotated[
        bool,
        _option("--version", is_eager=True, callback=_show_version, help="Show the version."),
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
                # Typer's own click has no types for what its errors carry.
                error.message = f"{extra} - did you mean --resume={word}?"  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        _absorb(ctx, [p.name for p in self._global])
        return super().invoke(ctx)


class Group(TyperGroup):
    """A noun: its commands carry the global flags.

    Each is made of its function when it is asked for; typer itself makes all of them at each
    start, a millisecond each.
    """

    @classmethod
    def of(cls, app: typer.Typer) -> "Group":
        """The group that an application of this class is."""
        bare = copy(app)
        bare.registered_commands = []
        group = typer.main.get_group(bare)
        assert isinstance(group, cls)  # noqa: S101 - as the application says
        for info in app.registered_commands:
            assert info.callback is not None  # noqa: S101 - registered by a decorator
            name = info.name or typer.main.get_command_name(info.callback.__name__)
            group.commands[name] = _Unmade(name, app, info)
        return group

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = self.commands.get(cmd_name)
        if isinstance(command, _Unmade):
            command = self.commands[cmd_name] = command.made()
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not self.invoke_without_command and not ctx.resilient_parsing:
            names = self.list_commands(ctx)
            raise UsageError(
                f"{ctx.command_path} needs a command",
                hint=", ".join(f"{ctx.command_path} {name}" for name in names),
            )
        return super().parse_args(ctx, args)


class _Unmade(TyperCommand):
    """A command of which only the name is known."""

    def __init__(self, name: str, app: typer.Typer, info: CommandInfo) -> None:
        self.name = name
        self._app, self._info = app, info

    def made(self) -> Any:
        return typer.main.get_command_from_info(
            self._info,
            pretty_exceptions_short=self._app.pretty_exceptions_short,
            rich_markup_mode=self._app.rich_markup_mode,
        )


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
        app = getattr(import_module(module), attribute)
        app._add_completion = False  # `coi completion` prints the scripts
        command = Group.of(app) if app.info.cls is Group else typer.main.get_command(app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if word not in self.commands_table and not word.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(word, self.commands_table, n=1, cutoff=0.5)
            if not near and ctx.meta.get(_BARE_RESUME):
                raise UsageError(
                    f"there is no command {word!r} - did you mean --resume={word}?",
                    hint="a session's id follows an equals sign",
                )
            raise UsageError(
                f"there is no command {word!r}" + (f", did you mean {near[0]!r}?" if near else ""),
                hint=f"coi {near[0]} --help" if near else "coi --help lists the commands",
            )
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = [p for p in self.params if hasattr(p, "is_flag")]
        words = with_resume_value(args, options)
        ctx.meta[_BARE_RESUME] = words != args
        alone = _lacks_command(words, options) and not {"--help", "--version"} & set(words)
        if alone and not ctx.resilient_parsing:  # while completing, any command may follow
            words.append("shell")
        return super().parse_args(ctx, words)

    def invoke(self, ctx: Any) -> Any:
        _absorb(ctx, [p.name for p in global_parameters()])
        return super().invoke(ctx)


def _value_options(options: Sequence[Any]) -> set[str]:
    """Names of the options whose value is the next word."""
    names = {name for o in options if not getattr(o, "is_flag", False) for name in o.opts}
    return names - _OPTIONAL_VALUE


def _lacks_command(words: Sequence[str], options: Sequence[Any]) -> bool:
    """Whether there are only flags, none of them without its value."""
    takes_value = _value_options(options)
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            return False
        if word in takes_value and next(rest, None) is None:
            return False
    return True


def check_format(value: str, *known: str) -> None:
    """See that ``--format`` is one of those that there are.

    Raises:
        UsageError: it is another.
    """
    if value not in known:
        hint = " or ".join(f"--format {name}" for name in known)
        raise UsageError(f"invalid format {value!r}", hint=hint)


def context_of(ctx: typer.Context) -> Context:
    """The Context of the command that is running."""
    context = ctx.find_root().obj
    assert isinstance(context, Context)  # noqa: S101 - set by coi.cli.main
    return context
