"""``coi list``: what runs, and what is saved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coi.cli.context import Context
from coi.cli.options import Command, check_format, context_of
from coi.cli.output import one_line

app = typer.Typer()


@app.command(cls=Command, name="list")
def list_(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Saved sessions too.")] = False,
    format_: Annotated[
        str, typer.Option("--format", metavar="text|json", help="How to print it.")
    ] = "text",
) -> None:
    """List containers, with --all saved sessions too.

    Example: coi list --format json
    """
    context = context_of(ctx)
    check_format(format_, "text", "json")
    data, warm = collect(context, saved=everything)
    if format_ == "json":
        context.output.data(data)
    else:
        context.output.result(_text(data, warm))


def collect(context: Context, *, saved: bool) -> tuple[dict[str, Any], int]:
    """The listing, as its JSON form, and how many warm containers stand ready."""
    engine = context.engine
    asked = engine.instances.begin_all(state=True)

    # Imported while the daemon is at it.
    from coi.session.body import CONTAINER, RUN, WARM
    from coi.session.model import is_session, number
    from coi.session.recover import recover

    rows = asked()
    gone = recover(engine, rows).gone
    active = [
        {
            "name": row.name,
            "status": row.status,
            "created_at": row.created_at,
            "image": row.coi("image"),
            "persistent": row.coi("persistent") == "true",
            "ipv4": row.ipv4 or None,
            "workspace": row.coi("workspace"),
            "slot": number(row, "slot") or None,
            "session_id": row.coi("session-id"),
            "tool": row.coi("tool"),
            "network": row.coi("network") or "open",
            "network_backend": row.coi("network-backend") or None,
        }
        for row in sorted(rows, key=lambda r: r.name)
        if (is_session(row) or row.coi("state") in (RUN, CONTAINER))
        and row.name not in gone
        and engine.attends(row)
    ]
    data: dict[str, Any] = {"active_containers": active}
    if saved:
        from coi.session.store import rank

        sessions = sorted(engine.store.all(), key=rank, reverse=True)
        data["saved_sessions"] = [
            {
                "id": s.id,
                "saved_at": s.saved_at,
                "workspace": s.workspace,
                "tool": s.tool,
                "container": s.container,
                "persistent": s.persistent,
                "size": s.size,
            }
            for s in sessions
        ]
    warm = 0
    if any(row.coi("state") == WARM for row in rows):
        from coi.session.warmpool import count

        warm = count(engine, rows)
    return data, warm


def _text(data: dict[str, Any], warm: int) -> str:
    lines = ["Active Containers:"]
    for row in data["active_containers"]:
        lines.append(f"  {row['name']} ({'persistent' if row['persistent'] else 'ephemeral'})")
        lines.append(f"    Status: {row['status']}")
        if row["ipv4"]:
            lines.append(f"    IPv4: {row['ipv4']}")
        lines.append(f"    Created: {row['created_at']}")
        lines.append(f"    Image: {one_line(row['image'])}")
        lines.append(f"    Workspace: {one_line(row['workspace'])}")
    if not data["active_containers"]:
        lines.append("  (none)")
    if warm:
        lines.append(f"Warm: {warm} ready to become one")
    if "saved_sessions" in data:
        lines += ["", "Saved Sessions:"]
        for row in data["saved_sessions"]:
            lines.append(f"  {row['id']} ({one_line(row['tool'])})")
            lines.append(f"    Saved: {row['saved_at']}")
            lines.append(f"    Workspace: {one_line(row['workspace'])}")
        if not data["saved_sessions"]:
            lines.append("  (none)")
    return "\n".join(lines)
