"""``python -m bench.document``: write the tables of docs/benchmarks.md anew.

What the rows are and what each command may cost comes from the code; what was measured from the
files in docs/benchmarks, one for each pool driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.budgets import BUDGETS
from bench.every import every
from bench.report import HEAD, Results, cells, markdown, region, stated

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "docs" / "benchmarks"


def rows() -> str:
    """What each row is."""
    return markdown(
        ("row", "what is measured", "its floor"),
        [(f"`{row.name}`", row.what, row.floor_is) for row in every()],
        numbers=False,
    )


def budgets() -> str:
    """What each command may cost."""
    shown = [
        [b.command, str(b.calls), *("" if n is None else str(n) for n in (b.own, b.modules))]
        for b in BUDGETS.values()
    ]
    return markdown(("command", "calls", "coi's modules, at most", "all, at most"), shown)


def measured(results: Sequence[Results]) -> str:
    """The tables of some runs."""
    parts = []
    for one in results:
        table = markdown(HEAD, [cells(row) for row in one.rows])
        parts.append(f"### On `{one.about['driver']}`\n\n{stated(one.about)}\n{table}")
    return "\n" + "\n".join(parts) + "\n"


def written(text: str) -> str:
    """The document with its tables as they should be."""
    files = sorted(RESULTS.glob("*.json"))
    found = [Results.from_json(path.read_text(encoding="utf-8")) for path in files]
    for name, content in (
        ("rows", "\n" + rows() + "\n"),
        ("budgets", "\n" + budgets() + "\n"),
        ("results", measured(found)),
    ):
        text = region(text, name, content)
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
