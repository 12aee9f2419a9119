"""``coi network``: what sessions may reach, and by which rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coi.cli.options import Command, Group, check_format, context_of
from coi.errors import NotFoundError

if TYPE_CHECKING:
    from coi.cli.context import Context
    from coi.incus.instances import Instance

app = typer.Typer(cls=Group, help="What sessions may reach, and by which rule.")

Format = Annotated[str, typer.Option("--format", metavar="text|json", help="How to print it.")]


def _checked(format_: str) -> bool:
    check_format(format_, "text", "json")
    return format_ == "json"


@app.command(cls=Command)
def status(ctx: typer.Context, format_: Format = "text") -> None:
    """List the network policies that stand, and who is under them.

    Example: coi network status
    """
    from coi.network.explain import standing
    from coi.network.start import scope_of

    context = context_of(ctx)
    as_json = _checked(format_)
    found = standing(context.client, scope_of(context.home, context.engine.prefix))
    if as_json:
        context.output.data([item.as_data() for item in found])
    elif not found:
        context.output.result("No network policies")
    else:
        columns = ("POLICY", "MODE", "BACKEND", "NETWORK", "REFRESHED", "USED BY")
        context.output.table(
            columns,
            [
                (
                    item.acl,
                    item.mode,
                    item.backend,
                    item.network,
                    {None: "-", True: "yes", False: "no"}[item.refreshing],
                    ", ".join(item.used_by) or "-",
                )
                for item in found
            ],
        )


@app.command(cls=Command)
def explain(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Container.")],
    host: Annotated[
        str, typer.Argument(metavar="HOST[:PORT]", help="An address, or a name to resolve here.")
    ],
    format_: Format = "text",
) -> None:
    """Say whether a connection from a container would pass, and by which rule.

    Example: coi network explain coi-1a2b3c4d-1 10.0.0.1:22
    """
    from coi.network.explain import explain as judge
    from coi.network.explain import target
    from coi.session.lookup import check_name
    from coi.session.network import watch

    context = context_of(ctx)
    as_json = _checked(format_)
    address, port = target(host)
    row = context.engine.instances.get(check_name(name))
    watch(context.home, [row])
    found = judge(context.client, row.config, address, port)
    if as_json:
        context.output.data(found.as_data())
        return
    where = found.address if found.port is None else f"{found.address}:{found.port}"
    context.output.result(f"{where}: {'passes' if found.allowed else 'refused'} ({found.rule})")


@app.command(cls=Command)
def log(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Container.")],
    format_: Format = "text",
) -> None:
    """Show what a container was refused, as far back as the log goes.

    Only with `network.logging.enabled` is anything logged.

    Example: coi network log coi-1a2b3c4d-1
    """
    from coi.network.explain import refused

    context = context_of(ctx)
    as_json = _checked(format_)
    row = _with_address(context, name)
    found = refused(context.client, row)
    if as_json:
        context.output.data([item.as_data() for item in found])
    elif not found:
        context.output.result("Nothing refused")
    else:
        context.output.table(
            ("TIME", "WAY", "PEER", "PORT"),
            [(i.at, i.way, i.peer, f"{i.port or '-'}/{i.protocol}") for i in found],
        )


@app.command(cls=Command)
def route(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Container.")],
    format_: Format = "text",
) -> None:
    """Say how this host reaches a container, and the command that lets it where it does not.

    On a bridge it always does; behind an OVN network's router it may need a route.

    Example: coi network route coi-1a2b3c4d-1
    """
    from coi.network.route import route as way

    context = context_of(ctx)
    as_json = _checked(format_)
    found = way(context.client, _with_address(context, name))
    if as_json:
        context.output.data(found.as_data())
        return
    verb = "reached" if found.reached else "not reached"
    context.output.result(f"{found.address} on {found.network}: {verb} ({found.how})")
    if found.command:
        context.output.result(f"  {found.command}")


def _with_address(context: Context, name: str) -> Instance:
    """One container, its address known; one call."""
    from coi.session.lookup import check_name
    from coi.session.network import watch

    check_name(name)
    rows = context.engine.instances.all(state=True)
    watch(context.home, rows)
    row = next((r for r in rows if r.name == name), None)
    if row is None:
        raise NotFoundError(f"{name} not found", hint="coi list")
    return row


@app.command(cls=Command)
def guard(
    ctx: typer.Context,
    load: Annotated[
        bool, typer.Option("--load", help="Load it, as root, and let every coi know that it is.")
    ] = False,
) -> None:
    """Print the nftables rule that keeps sessions from the host's other resolvers.

    Example: coi network guard --load
    """
    from coi.network import resolvers
    from coi.network.resolvers import DNS_GUARD

    output = context_of(ctx).output
    if load:
        resolvers.load()
        output.notice("Sessions ask no resolver of this host but their own")
    else:
        output.result(DNS_GUARD.rstrip("\n"))
