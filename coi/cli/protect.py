"""``coi protect``: what was put aside when sessions ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coi.cli.options import Command, Group, check_format, context_of

if TYPE_CHECKING:
    from coi.session.settlement import Quarantine
    from coi.workspace.aside import Item

app = typer.Typer(cls=Group, help="What sessions changed at protected paths, and was put aside.")

Id = Annotated[str, typer.Argument(metavar="ID", help="As coi protect list shows it.")]


@app.command(cls=Command, name="list")
def list_(
    ctx: typer.Context,
    format_: Annotated[
        str, typer.Option("--format", metavar="text|json", help="How to print it.")
    ] = "text",
) -> None:
    """List what was put aside, the oldest first.

    Example: coi protect list
    """
    from coi.session.settlement import all_of

    context = context_of(ctx)
    check_format(format_, "text", "json")
    found = all_of(context.home)
    if format_ == "json":
        context.output.data(
            [
                {
                    "id": kept.id,
                    "at": kept.at,
                    "workspace": str(kept.source),
                    "session": kept.session,
                    "path": str(kept.directory),
                    "items": [
                        {
                            "path": item.path,
                            "what": item.what,
                            "stored": item.stored,
                            "left_as": item.left_as,
                            "restored": item.restored,
                        }
                        for item in kept.items
                    ],
                }
                for kept in found
            ]
        )
        return
    if not found:
        context.output.result("Nothing is put aside.")
        return
    rows = [
        (kept.id, str(kept.source), ", ".join(item.path for item in kept.items[:4]))
        for kept in found
    ]
    context.output.table(("ID", "WORKSPACE", "PATHS"), rows)


@app.command(cls=Command)
def diff(ctx: typer.Context, id_: Id) -> None:
    """Show what was put aside against what stands in the workspace now.

    Example: coi protect diff 20261128-120000-1a2b
    """
    from coi.session.settlement import find

    context = context_of(ctx)
    kept = find(context.home, id_)
    context.output.result(f"{kept.source}, session {kept.session}, {kept.at}")
    for item in kept.items:
        context.output.result("\n".join(_shown(kept, item)))


def _shown(kept: Quarantine, item: Item) -> Iterator[str]:
    """One path: its difference where it is text, else what it was."""
    from difflib import unified_diff

    from coi.session.settlement import content, current

    yield f"\n{item.path}: {item.what}"
    if item.left_as:
        yield f"  it is {item.left_as} now"
    if item.problem:
        yield f"  {item.problem}"
    data = content(kept, item)
    if data is None:
        if item.stored:
            yield f"  a {item.kind}: {kept.directory / item.stored}"
        return
    if b"\0" in data:
        yield f"  not text: {kept.directory / item.stored}"
        return
    now, then = (
        text.decode("utf-8", "replace").splitlines() for text in (current(kept, item), data)
    )
    yield from unified_diff(now, then, "in the workspace", "put aside", lineterm="")


@app.command(cls=Command)
def keep(
    ctx: typer.Context,
    id_: Id,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]...", help="Only these; default: all.")
    ] = None,
) -> None:
    """Put what was put aside into the workspace again.

    What stands there now is put aside in its place.

    Example: coi protect keep 20261128-120000-1a2b .git/config
    """
    from coi.session.settlement import find
    from coi.session.settlement import keep as put_back

    context = context_of(ctx)
    kept = find(context.home, id_)
    for path in put_back(context.home, kept, tuple(paths or ())):
        context.output.result(f"Kept {path}")


@app.command(cls=Command)
def drop(ctx: typer.Context, id_: Id) -> None:
    """Delete what was put aside.

    Example: coi protect drop 20261128-120000-1a2b
    """
    from coi.session.settlement import drop as delete
    from coi.session.settlement import find

    context = context_of(ctx)
    delete(find(context.home, id_))
    context.output.result(f"Dropped {id_}")
