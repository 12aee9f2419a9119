"""``coi file push`` and ``coi file pull``."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from coi.cli.options import Command, Group, context_of
from coi.errors import CoiError, UsageError

if TYPE_CHECKING:
    from coi.cli.output import Output
    from coi.session.extract import Tally
    from coi.session.transfer import Copied

app = typer.Typer(cls=Group, add_completion=False)

_Recursive = Annotated[
    bool, typer.Option("-r", "--recursive", help="Directories with all in them.")
]
_SIZE = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SHOWN = 20  # notices of single files


@app.callback(invoke_without_command=True)
def file(ctx: typer.Context) -> None:
    """Copy files into and out of a running container."""
    if ctx.invoked_subcommand is None:
        raise UsageError("coi file needs a command", hint="coi file push, coi file pull")


@app.command(cls=Command)
def push(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="File or directory here.", show_default=False)
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="NAME:PATH", help="Container and path inside.", show_default=False),
    ],
    recursive: _Recursive = False,
) -> None:
    """Copy a file or directory into a container.

    As with cp: where PATH is a directory, the copy goes into it under its own
    name; otherwise PATH is the copy's name, and missing directories above it are
    made. SRC/. means what is in SRC. An existing directory is merged into, files
    of the same name are replaced, and nothing changes until all has arrived.

    Modes and times are kept, and the session's user becomes the owner (root
    where the container has no session). Links in a directory stay links; sockets,
    FIFOs and devices are left out and named.

    Example: coi file push -r ./src my-container:/workspace/src
    """
    from coi.incus.instances import Instances
    from coi.session import transfer

    context = context_of(ctx)
    name, path = transfer.split_remote(target, "destination")
    with _Meter(context.output) as meter:
        done = transfer.push(
            Instances(context.client), source, name, path, recursive=recursive, step=meter.step
        )
    _report(context.output, "Pushed", done, source, f"{name}:{done.target}")


@app.command(cls=Command)
def pull(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(metavar="NAME:PATH", help="Container and path inside.", show_default=False),
    ],
    target: Annotated[
        str, typer.Argument(metavar="DST", help="Where it goes here.", show_default=False)
    ],
    recursive: _Recursive = False,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="At most so much (500M, 20G), holes included; else what is free.",
        ),
    ] = None,
    max_files: Annotated[
        int, typer.Option("--max-files", metavar="N", min=1, help="At most so many files.")
    ] = 1_000_000,
) -> None:
    """Copy a file or directory out of a container.

    As with cp: where DST is a directory, the copy goes into it under its own
    name; otherwise DST is the copy's name, and missing directories above it are
    made. PATH/. means what is in PATH. An existing directory is merged into, files
    of the same name are replaced, and nothing changes until all has arrived.

    The container is not trusted: nothing is written outside DST. Links are kept
    when they are relative and stay inside; others, hard links, devices, FIFOs
    and names with control characters are left out and named. Modes pass through
    the umask, without set-uid and the like; you become the owner.

    Example: coi file pull -r my-container:/root/.claude ./saved-sessions/session-123/
    """
    from coi.incus.instances import Instances
    from coi.session import transfer
    from coi.session.extract import TooLargeError

    context = context_of(ctx)
    name, path = transfer.split_remote(source, "source")
    limit = None if max_size is None else parse_size(max_size)
    try:
        with _Meter(context.output) as meter:
            done = transfer.pull(
                Instances(context.client),
                name,
                path,
                target,
                recursive=recursive,
                max_size=limit,
                max_entries=max_files,
                step=meter.step,
            )
    except TooLargeError as error:
        raise CoiError(
            f"{source} is too large: {error.brief}",
            details="nothing of it is kept",
            hint="--max-files and --max-size set other limits; "
            "without --max-size it is 95 % of the free space",
        ) from error
    _report(context.output, "Pulled", done, f"{name}:{path}", done.target)


def parse_size(text: str) -> int:
    """``500M`` and the like in bytes; the units are powers of 1024.

    Raises:
        UsageError: it is not a size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"not a size: {text!r}", hint="for example --max-size 500M or 20G")
    unit = 1 << 10 * " KMGT".index(found[3].upper() or " ")
    part = int((found[2] or "").ljust(18, "0"))
    return int(found[1]) * unit + part * unit // 1_000_000_000_000_000_000


def _report(output: Output, verb: str, done: Copied, source: str, target: str) -> None:
    tally = done.tally
    for path, reason in tally.skipped[:_SHOWN]:
        output.notice(f"Left out {_escaped(path)}: {_escaped(reason)}")
    if tally.left_out > _SHOWN:
        output.notice(f"Left out {tally.left_out - _SHOWN} more")
    for line in tally.warnings[:_SHOWN]:
        output.notice(f"Note: {_escaped(line)}")
    left = f", {tally.left_out} left out" if tally.left_out else ""
    if done.directory:
        amount = f"{tally.files} file(s), {human(tally.size)}{left}"
        output.result(f"{verb} directory {_escaped(source)} -> {_escaped(target)} ({amount})")
    else:
        size = f"{human(tally.size)}{left}"
        output.result(f"{verb} file {_escaped(source)} -> {_escaped(target)} ({size})")


def _escaped(text: str) -> str:
    """A name on one line: what does not print is shown as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def human(size: float) -> str:
    """Bytes in a unit that reads well."""
    if size < 1024:
        return f"{int(size)} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


class _Meter:
    """How far a transfer is, on one line of the terminal; nothing in a pipe."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began = self._next = time.monotonic()

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_error: object) -> None:
        self._output.transient("")

    def step(self, tally: Tally) -> None:
        """Called often; draws a few times a second."""
        now = time.monotonic()
        if now < self._next + 0.2:
            return
        self._next = now
        rate = tally.moved / max(now - self._began, 0.001)
        text = f"{human(tally.moved)}, {tally.files} file(s), {human(rate)}/s"
        self._output.transient(text)
