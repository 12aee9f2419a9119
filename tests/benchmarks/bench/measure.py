"""Rounds of two things in turn, and what is drawn from them. Nothing here knows of Incus."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from typing import Any

from coi.records import record

ROUNDS = 9
COUNTED = 3  # rounds of coi in which calls, processor time and memory are taken


@record(frozen=True)
class Counts:
    """What one counted round of coi took, beside its seconds.

    Attributes:
        calls: times that the client ``incus`` was started.
        cpu: seconds of processor time, user and system, of coi's own processes; those of the
            clients that it starts are not in it.
        peak: KiB of memory, the most that one process of coi held (``VmHWM``).
    """

    calls: int
    cpu: float
    peak: int


@record
class Measured:
    """A row's result.

    Attributes:
        floors, ours: seconds of each round, in the order of the rounds.
        counts: of the counted rounds, which are others than the timed ones.
        error: why there is no result, or not a whole one.
    """

    name: str
    what: str
    floor_is: str
    floors: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)
    error: str = ""

    @property
    def floor(self) -> float:
        """Median seconds of the floor."""
        return statistics.median(self.floors)

    @property
    def coi(self) -> float:
        """Median seconds of coi."""
        return statistics.median(self.ours)

    @property
    def ratio(self) -> float:
        """Median of the rounds' own ratios: what slows the machine down slows both of a round."""
        return statistics.median(b / a for a, b in zip(self.floors, self.ours, strict=True))

    @property
    def difference(self) -> float:
        """Median of the rounds' own differences, in seconds."""
        return statistics.median(b - a for a, b in zip(self.floors, self.ours, strict=True))

    def counted(self) -> Counts:
        """Medians of the counted rounds; of an even number the lower one of the two."""
        return Counts(
            statistics.median_low(c.calls for c in self.counts),
            statistics.median_low(c.cpu for c in self.counts),
            statistics.median_low(c.peak for c in self.counts),
        )

    def to_json(self) -> dict[str, Any]:
        """What goes into the file: everything measured, and the medians for who reads it."""
        found: dict[str, Any] = {
            "name": self.name, "what": self.what, "floor_is": self.floor_is,
            "rounds": len(self.ours), "error": self.error,
        }  # fmt: skip
        if self.ours and not self.error:
            found |= {
                "floor": self.floor, "coi": self.coi,
                "ratio": self.ratio, "difference": self.difference,
            }  # fmt: skip
        if self.counts:
            counted = self.counted()
            found |= {f.name: getattr(counted, f.name) for f in fields(Counts)}
        found["floors"], found["cois"] = self.floors, self.ours
        found["counted"] = [{f.name: getattr(c, f.name) for f in fields(c)} for c in self.counts]
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measured:
        """The other way."""
        return cls(
            data["name"], data["what"], data["floor_is"], list(data["floors"]),
            list(data["cois"]), [Counts(**row) for row in data["counted"]], data["error"],
        )  # fmt: skip


def in_turn(
    rounds: int, floor: Callable[[], float], ours: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of both, round by round; who is first changes from round to round.

    What one leaves to the daemon (a deletion, a cache) meets the other as often as itself.
    """
    floors: list[float] = []
    mine: list[float] = []
    for number in range(rounds):
        turns = [(floors, floor), (mine, ours)]
        for seconds, act in turns if number % 2 == 0 else reversed(turns):
            seconds.append(act())
    return floors, mine


def wanted(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """The rows that are meant: all, those of a name, or those whose names begin so (``list``
    is ``list-0``, ``list-10`` and ``list-100``).

    Raises:
        ValueError: nothing is meant by one; the text names all.
    """
    found: list[str] = []
    for word in given or names:
        own = [name for name in names if name == word or name.startswith(f"{word}-")]
        if not own:
            raise ValueError(f"no row {word!r}; there are: {', '.join(names)}")
        found += [name for name in own if name not in found]
    return [name for name in names if name in found]
