"""All rows, in the order of the table."""

from __future__ import annotations

from bench.row import Row
from bench.rows_commands import (
    Exec,
    Help,
    List,
    NetworkExisting,
    NetworkNew,
    Run,
    RunBooted,
    Version,
)
from bench.rows_files import GIB, Build, Pull, Push
from bench.rows_many import Kill, Shutdown
from bench.rows_sessions import Attach, Background, Detach, Finish, Restart, Resume, Shell


def every() -> list[Row]:
    """One of each."""
    return [
        Version(), Help(), List(0), List(10), List(100), Exec(), Run(), RunBooted(),
        NetworkExisting(), NetworkNew(),
        Shell(), Restart(), Attach(), Background(), Detach(), Resume(1), Resume(200), Finish(),
        Shutdown(1), Shutdown(10), Kill(10),
        Push("1", 1, 4 << 10), Push("10k", 10_000, 1 << 10), Push("1g", 1, GIB),
        Pull("1", 1, 4 << 10), Pull("10k", 10_000, 1 << 10), Pull("1g", 1, GIB),
        Build(),
    ]  # fmt: skip
