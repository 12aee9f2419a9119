"""Results as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measure import Measured
from coi.records import record

SCHEMA = 1  # of the JSON; goes up when a key changes its meaning or goes
HEAD = (
    "row", "floor s", "coi s", "ratio", "difference s", "rounds", "calls", "own CPU s", "peak MiB",
)  # fmt: skip


@record
class Results:
    """One run.

    Attributes:
        about: see :func:`bench.about.about`.
        rows: in the order in which they were measured.
    """

    about: dict[str, Any]
    rows: list[Measured]

    def to_json(self) -> str:
        """The whole file."""
        rows = [row.to_json() for row in self.rows]
        data = {"schema": SCHEMA, "about": self.about, "rows": _rounded(rows)}
        return json.dumps(data, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """From a file.

        Raises:
            ValueError: it is of another schema.
        """
        data = json.loads(text)
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')}, not {SCHEMA}")
        return cls(data["about"], [Measured.from_json(row) for row in data["rows"]])


def _rounded(value: Any) -> Any:
    """Microseconds are enough."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def cells(row: Measured) -> list[str]:
    """A row of the table, without an error's text."""
    if not row.ours or row.error:
        timed = ["failed", "", "", "", ""]
    else:
        timed = [
            f"{row.floor:.3f}", f"{row.coi:.3f}", f"{row.ratio:.2f}", f"{row.difference:+.3f}",
            str(len(row.ours)),
        ]  # fmt: skip
    counted = ["", "", ""]
    if row.counts:
        counts = row.counted()
        counted = [str(counts.calls), f"{counts.cpu:.3f}", f"{counts.peak / 1024:.0f}"]
    return [row.name, *timed, *counted]


def table(rows: Sequence[Measured]) -> str:
    """For a terminal; errors follow."""
    lines = [list(HEAD), *map(cells, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEAD))]
    drawn = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    ]
    drawn += [f"{row.name}: {row.error}" for row in rows if row.error]
    return "\n".join(drawn) + "\n"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    """A table of Markdown; all columns but the first to the right where they are numbers."""
    rule = ["---"] + ["---:" if numbers else "---"] * (len(head) - 1)
    lines = [[text.replace("|", "\\|") for text in row] for row in (head, rule, *rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def stated(about: Mapping[str, Any]) -> str:
    """Where it was measured, in a sentence or two."""
    return (
        f"{about['date']}, coi {about['coi']}, Python {about['python']}; Incus "
        f"{about['incus_server']} (client {about['incus_client']}), pool driver "
        f"`{about['driver']}`, image of {about['image_mib']} MiB; {about['system']}, kernel "
        f"{about['kernel']}, {about['cpu']}, {about['cores']} cores, {about['memory_mib']} MiB; "
        f"load before {about['load_before']}.\n"
    )


def region(text: str, name: str, content: str) -> str:
    """``text`` with what is between a region's two marks replaced.

    Raises:
        ValueError: it has no such region.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    head, found, rest = text.partition(begin)
    _old, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"there is no {begin.strip()} ... {end.strip()}")
    return f"{head}{begin}{content}{end}{tail}"


def write(path: Path, results: Results) -> None:
    """The JSON, whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(results.to_json())
    beside.replace(path)
