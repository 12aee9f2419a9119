"""The console script ``coi``."""

from __future__ import annotations

import gc

_OBJECTS = 100_000  # more than a start makes


def main() -> None:
    """Run the command line."""
    # What imports make stays: to search it for garbage, again and again, takes a sixth of
    # the processor time of a start (measured).
    gc.set_threshold(_OBJECTS, 10, 10)
    from coi.cli.main import main as command_line

    command_line()
