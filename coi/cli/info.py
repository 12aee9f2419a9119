"""``coi info``: one saved session."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coi.cli.options import Command, check_format, context_of
from coi.errors import NotFoundError

app = typer.Typer()


@app.command(cls=Command)
def info(
    ctx: typer.Context,
    session_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Session; the latest by default.")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="text|json", help="How to print it.")
    ] = "text",
) -> None:
    """Show a saved session, the one saved last by default.

    Example: coi info
    """
    from coi.session.store import Store, rank

    context = context_of(ctx)
    check_format(format_, "text", "json")
    store = Store(context.home)
    saved = store.find(session_id) if session_id else max(store.all(), key=rank, default=None)
    if saved is None:
        raise NotFoundError("no saved sessions", hint="coi shell starts one")
    data: dict[str, Any] = {
        "id": saved.id,
        "container": saved.container,
        "saved_at": saved.saved_at,
        "workspace": saved.workspace,
        "tool": saved.tool,
        "persistent": saved.persistent,
        "data": saved.state_path is not None,
        "size": saved.size,
        "files": saved.files,
        "path": str(saved.path),
        "left_out": [list(row) for row in saved.skipped],
    }
    if format_ == "json":
        context.output.data(data)
        return
    lines = [
        "Session Information",
        f"  Session ID: {saved.id}",
        f"  Tool: {saved.tool}",
        f"  Container: {saved.container}",
        f"  Workspace: {saved.workspace}",
        f"  Saved At: {saved.saved_at}",
        f"  Session Data: {'Present' if data['data'] else 'Missing'}",
        f"  Data Size: {_human(saved.size)} in {saved.files} file(s)",
        f"  Session Path: {saved.path}",
    ]
    lines += [f"  Left Out: {name} ({why})" for name, why in saved.skipped]
    lines.append(f"  Resume: coi shell --resume={saved.id}")
    context.output.result("\n".join(lines))


def _human(size: float) -> str:
    """Bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
