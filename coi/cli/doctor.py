"""``coi doctor``: is everything set up as it should be?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from coi.cli.options import Command, check_format, context_of
from coi.errors import FAILED, UNAVAILABLE, CoiError, ConfigError

if TYPE_CHECKING:
    from coi.cli.context import Context
    from coi.doctor.facts import Facts
    from coi.doctor.report import Check

app = typer.Typer()


@app.command(cls=Command)
def doctor(
    ctx: typer.Context,
    format_: Annotated[
        str, typer.Option("--format", metavar="text|json", help="How to print it.")
    ] = "text",
) -> None:
    """Look at the whole set-up: Incus, its storage and network, the image, coi's own files.

    Each line is ok, warn or fail, with what mends it. Nothing is changed and nothing is sent.
    The exit code is 0 where nothing fails, 4 where Incus cannot be reached, else 1.

    Example: coi doctor
    """
    from coi.doctor.checks import examine
    from coi.doctor.report import as_data, worst

    context = context_of(ctx)
    check_format(format_, "text", "json")
    facts = gather(context)
    checks = examine(facts)
    if format_ == "json":
        context.output.data(as_data(checks))
    else:
        context.output.checks([(c.status, c.name, c.text, c.mend) for c in checks])
        context.output.result(_summary(checks))
    if facts.server is None:
        raise typer.Exit(UNAVAILABLE)
    if worst(checks) == "fail":
        raise typer.Exit(FAILED)


def gather(context: Context) -> Facts:
    """The facts; a configuration that cannot be read is one, and the built-in one stands in."""
    from dataclasses import replace

    from coi.config.paths import coi_home
    from coi.doctor.facts import Facts, left_over, of_host, of_incus
    from coi.session.model import Engine
    from coi.session.naming import prefix

    home = coi_home()  # as it is: what is wrong with it is a finding
    error: CoiError | None = None
    try:
        config = context.loaded.config
    except ConfigError as caught:
        from coi.config.layers import built_in

        config, error = built_in(home), caught
    from coi.incus.client import Client

    engine = Engine(
        config=config,
        client=Client(context.runner, remote=config.incus.remote, project=config.incus.project),
        home=home,
        prefix=prefix(),
        report=context.output.notice,
        tool=context.manager.get,
    )
    version, server, unreachable = of_incus(engine)
    facts = Facts(
        config,
        of_host(config, home),
        version,
        server,
        unreachable,
        [f"{problem.name}: {problem.reason}" for problem in context.manager.problems],
        list(context.manager.tools),
        config_error=error,
    )
    if server is not None:
        facts = replace(facts, leftovers=left_over(engine, server))
    return facts


def _summary(checks: Sequence[Check]) -> str:
    counts = {status: sum(c.status == status for c in checks) for status in ("ok", "warn", "fail")}
    return f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed"
