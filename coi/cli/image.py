"""``coi image`` and ``coi images``."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from coi.cli.context import Context
from coi.cli.options import Command, Group, check_format, context_of
from coi.errors import CoiError, NotFoundError, UsageError

app = typer.Typer(cls=Group, no_args_is_help=True)
images_app = typer.Typer()

Everything = Annotated[bool, typer.Option("--all", help="All local images, not coi's alone.")]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="P", help="Aliases that begin so.")]
Format = Annotated[
    str, typer.Option("--format", metavar="table|json", help="How to print the list.")
]
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_VERSION = re.compile(r"\d{8}-\d{6}")


@app.callback()
def image() -> None:
    """List, publish and delete images."""


@app.command("list", cls=Command)
def list_(
    ctx: typer.Context,
    everything: Everything = False,
    prefix: Prefix = None,
    format_: Format = "table",
) -> None:
    """List coi's images, by alias.

    Example: coi image list --format json
    """
    _list(context_of(ctx), everything, prefix, format_)


@images_app.command(cls=Command)
def images(
    ctx: typer.Context,
    everything: Everything = False,
    prefix: Prefix = None,
    format_: Format = "table",
) -> None:
    """The same as `coi image list`.

    Example: coi images --all
    """
    _list(context_of(ctx), everything, prefix, format_)


def _list(context: Context, everything: bool, prefix: str | None, format_: str) -> None:
    from coi.incus.images import Images

    check_format(format_, "table", "json")
    rows: list[dict[str, Any]] = []
    for found in Images(context.client).all():
        own = any(key.startswith("coi.") for key in found.properties)
        for alias in found.aliases or ("",):
            wanted = alias.startswith(prefix) if prefix is not None else everything or own
            if wanted:
                rows.append(
                    {
                        "alias": alias,
                        "fingerprint": found.fingerprint,
                        "description": found.properties.get("description", ""),
                        "size": found.size,
                        "created_at": found.uploaded_at,
                        "tools": [t for t in found.properties.get("coi.tools", "").split(",") if t],
                        "base": found.properties.get("coi.base", ""),
                    }
                )
    rows.sort(key=lambda row: (row["alias"], row["fingerprint"]))
    if format_ == "json":
        context.output.data({"images": rows})
        return
    if not rows:
        context.output.result("No images found")
        return
    context.output.result("All Local Images:" if everything else "COI Images:")
    context.output.table(
        ("ALIAS", "FINGERPRINT", "SIZE", "CREATED", "TOOLS", "DESCRIPTION"),
        [
            (
                row["alias"] or "-",
                row["fingerprint"][:12],
                f"{row['size'] / (1 << 20):.0f} MiB",
                row["created_at"][:16].replace("T", " "),
                ",".join(row["tools"]) or "-",
                row["description"],
            )
            for row in rows
        ],
    )


@app.command(cls=Command)
def publish(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A stopped container.")],
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="The new image's alias.")],
    description: Annotated[
        str, typer.Option("--description", metavar="D", help="For people.")
    ] = "",
) -> None:
    """Make an image of a stopped container; prints its fingerprint as JSON.

    The tool's credentials in a session's container would be in the image too:
    publish containers made by `coi container launch`.

    Example: coi image publish my-container my-image
    """
    from coi.incus.images import Images
    from coi.incus.instances import Instances
    from coi.session.model import is_session

    context = context_of(ctx)
    _check_alias(alias)
    if any(ord(c) < 0x20 for c in description):
        raise UsageError("--description has a control character")
    row = Instances(context.client).get(name)
    if not row.stopped:
        raise CoiError(f"{name} is running", hint=f"coi container stop {name}")
    if is_session(row):
        raise CoiError(
            f"{name} is a session",
            details="its home holds your credentials, and an image can be copied",
            hint="launch a container for images: coi container launch IMAGE NAME",
        )
    found = Images(context.client)
    if found.exists(alias):
        raise CoiError(f"image {alias!r} already exists", hint=f"coi image delete {alias}")
    properties = {
        key.removeprefix("image."): value
        for key, value in row.config.items()
        if key.startswith("image.") and not key.startswith("image.coi.recipe")
    }
    properties["description"] = description or f"published from {name}"
    properties.setdefault("coi.base", "")
    fingerprint = found.publish(name, properties=properties, aliases=[alias])
    context.output.data({"fingerprint": fingerprint, "alias": alias})


@app.command(cls=Command)
def delete(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Alias or fingerprint.")],
) -> None:
    """Delete an image. Containers made of it stay.

    Example: coi image delete my-image
    """
    from coi.incus.images import Images

    context = context_of(ctx)
    images_ = Images(context.client)
    images_.delete(_found(images_, alias))
    context.output.result(f"Deleted image {alias}")


@app.command(cls=Command)
def exists(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Alias or fingerprint.")],
) -> None:
    """Exit 0 if there is such an image, 1 if not.

    Example: coi image exists coi && echo yes
    """
    from coi.incus.images import Images

    context = context_of(ctx)
    _check_alias(alias)
    if not Images(context.client).exists(alias):
        context.output.notice(f"image {alias!r} does not exist")
        raise typer.Exit(1)


@app.command(cls=Command)
def cleanup(
    ctx: typer.Context,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Of versioned aliases.")],
    keep: Annotated[int, typer.Option("--keep", metavar="N", help="Newest to keep.")],
) -> None:
    """Delete old versions (PREFIX and a date), keeping the newest.

    Example: coi image cleanup coi- --keep 3
    """
    from coi.incus.images import Images

    if keep < 1:
        raise UsageError("--keep must be at least 1")
    context = context_of(ctx)
    images_ = Images(context.client)
    versions: list[tuple[str, str]] = []
    for found in images_.all():
        own = [a for a in found.aliases if a.startswith(prefix)]
        stamped = [a for a in own if _VERSION.fullmatch(a[len(prefix) :])]
        # An image that another alias points to is in use under that name.
        if stamped and len(stamped) == len(found.aliases):
            versions.append((max(stamped), found.fingerprint))
        elif stamped:
            versions.append((max(stamped), ""))
    versions.sort(reverse=True)
    deleted = 0
    for alias, fingerprint in versions[keep:]:
        if fingerprint:
            images_.delete(fingerprint)
            context.output.notice(f"Deleted {alias}")
            deleted += 1
    context.output.result(f"Deleted {deleted} image(s), kept {len(versions) - deleted}")


def _found(images_: Any, alias: str) -> str:
    _check_alias(alias)
    found = images_.find(alias)
    if found is None:
        raise NotFoundError(f"image {alias!r} does not exist", hint="coi image list --all")
    return str(found.fingerprint)


def _check_alias(alias: str) -> None:
    if not _ALIAS.fullmatch(alias):
        raise UsageError(
            f"not a usable image name: {alias!r}", hint="letters, digits, dots, dashes, slashes"
        )
