"""``coi build``: the image that sessions are made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coi.cli.context import Context
from coi.cli.options import Command, Group, _absorb, context_of, global_parameters
from coi.errors import UsageError

if TYPE_CHECKING:
    from coi.image.build import BuildResult


class BuildGroup(Group):
    """``coi build`` works alone and has a subcommand: it carries the global
    flags itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = {name for parameter in self.params for name in parameter.opts}
        self._global = [p for p in global_parameters() if not own & set(p.opts)]
        self.params = [*self.params, *self._global]

    def invoke(self, ctx: Any) -> Any:
        _absorb(ctx, [parameter.name for parameter in self._global])
        return super().invoke(ctx)


app = typer.Typer(cls=BuildGroup, add_completion=False)

Base = Annotated[
    str | None,
    typer.Option("--base", metavar="IMAGE", help="A local alias, REMOTE:ALIAS or debian:SUITE."),
]
Force = Annotated[bool, typer.Option("--force", help="Build even where the image exists.")]
IfChanged = Annotated[
    bool,
    typer.Option("--if-changed", help="Build where the inputs changed, else succeed at once."),
]


@app.callback(invoke_without_command=True)
def build(
    ctx: typer.Context,
    force: Force = False,
    if_changed: IfChanged = False,
    base: Base = None,
    tools: Annotated[
        str | None,
        typer.Option("--tools", metavar="A,B", help="Tools to install; default: [build] tools."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("-n", "--name", metavar="NAME", help="The image's alias.")
    ] = None,
) -> None:
    """Build coi's image: Docker, git, Node.js, the GitHub CLI and the AI tools.

    The image gets a versioned alias, then the plain one moves to it.

    Example: coi build --tools claude,aider
    """
    if ctx.invoked_subcommand is not None:
        return
    from coi.cli.progress import progress
    from coi.image.build import IMAGE
    from coi.image.build import build as build_image

    context = context_of(ctx)
    config = context.load().config
    names = _tool_names(tools, config.build.tools, context)
    chosen = [context.manager.get(tool) for tool in names]
    with progress(context.output) as shown:
        result = build_image(
            context.client,
            name=name or context.values.get("image") or IMAGE,
            config=config,
            tools=chosen,
            base=base,
            force=force,
            if_changed=if_changed,
            progress=shown,
            uid=_uid(config.incus.code_uid),
        )
    _report(context, result)


@app.command(cls=Command)
def custom(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image's alias.")],
    script: Annotated[
        Path, typer.Option("--script", metavar="FILE", help="Runs as root in the image.")
    ],
    base: Base = None,
    force: Force = False,
    if_changed: IfChanged = False,
) -> None:
    """Build an image of your own: a base (coi's image) and a script.

    Example: coi build custom rust --script build-rust.sh
    """
    from coi.cli.progress import progress
    from coi.image.build import build_custom

    context = context_of(ctx)
    with progress(context.output) as shown:
        result = build_custom(
            context.client,
            name=name,
            script=script,
            config=context.load().config,
            base=base,
            force=force,
            if_changed=if_changed,
            progress=shown,
        )
    _report(context, result)


def _tool_names(given: str | None, configured: tuple[str, ...], context: Context) -> list[str]:
    """``--tools``, else the configuration's and the one that ``--tool`` names."""
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        if not all(names):
            raise UsageError(f"--tools takes names separated by commas, not {given!r}")
    else:
        names = [*configured, *filter(None, [context.values.get("tool")])]
    return list(dict.fromkeys(names))


def _uid(configured: int | None) -> int:
    """The user inside has the uid of whoever builds; root's image has 1000."""
    return configured or os.getuid() or 1000


def _report(context: Context, result: BuildResult) -> None:
    output = context.output
    if not result.built:
        output.notice(f"Image '{result.alias}' already exists and is up to date")
    else:
        from coi.cli.progress import seconds_text

        output.notice(f"Image '{result.alias}' built in {seconds_text(result.seconds)}")
    output.result(
        f"Image: {result.alias}\nVersion: {result.version_alias or '-'}\n"
        f"Base: {result.base or '-'}\nFingerprint: {result.fingerprint}"
    )
