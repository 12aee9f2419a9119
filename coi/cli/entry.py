"""The console script ``coi``."""

from __future__ import annotations

import gc
import os

_OBJECTS = 100_000  # more than a start makes

# What typer imports, and what it imports for that, to no use in most of coi's commands.
_SELDOM = (
    "bz2",
    "lzma",
    "locale",
    "platform",
    "subprocess",
    "textwrap",
    "tokenize",
)
_SELDOM_CALLED = {
    "difflib": ("get_close_matches",),
    "gettext": ("gettext", "ngettext"),
    "urllib.parse": ("quote_from_bytes",),
    "uuid": ("UUID",),
}


def main() -> None:
    """Run the command line."""
    # What imports make stays: to search it for garbage, again and again, takes a sixth of
    # the processor time of a start (measured).
    gc.set_threshold(_OBJECTS, 10, 10)
    from coi.lazy import put_off

    with put_off(_SELDOM, _SELDOM_CALLED):
        import typer  # noqa: F401 - its importers find it loaded

    from coi.cli.main import main as command_line

    code = command_line()
    # Nothing that the interpreter would tidy up at its end is anybody's: its own tidying takes
    # a tenth of a short command's time (measured).
    os._exit(code)
