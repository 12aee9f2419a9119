"""One row, measured: first counted, then timed in turn with its floor."""

from __future__ import annotations

from collections.abc import Callable

from bench.measure import Measured, in_turn
from bench.row import Row
from bench.stage import Stage, patiently

_SHORT = 600  # characters of an error


def measure(
    row: Row, stage: Stage, rounds: int, counted: int, say: Callable[[str], None] = lambda _: None
) -> Measured:
    """A row's result; one that fails is a result too, and the stage is tidy after it.

    Args:
        rounds: timed ones of each side, unless the row has a limit of its own.
        counted: rounds of coi before them, the first use of everything among them.
        say: what is being done now.
    """
    found = Measured(row.name, row.what, row.floor_is)
    row.stage = stage
    number = 0

    def floor() -> float:
        nonlocal number
        number += 1
        say(f"{row.name}: round {number}")
        return patiently(row.floor, row.anew)

    try:
        say(f"{row.name}: getting ready")
        row.ready()
        for _ in range(min(counted, row.most or counted)):
            taken = stage.counted(row.coi)
            found.counts.append(taken.counts)
            row.know(taken)
        if row.most is None:
            floor()  # its first use; what is as long as that has no use for it
        number = 0
        found.floors, found.ours = in_turn(min(rounds, row.most or rounds), floor, row.coi)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        found.error = f"{type(error).__name__}: {' '.join(lines)}"[:_SHORT]
        found.floors, found.ours = [], []
    finally:
        say(f"{row.name}: tidying")
        try:
            stage.tidy()
        except Exception as error:
            found.error = found.error or f"left behind: {error}"[:_SHORT]
    return found
