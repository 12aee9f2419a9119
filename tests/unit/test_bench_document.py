"""docs/benchmarks.md shows the rows, the budgets and the results as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.budgets import BUDGETS, faults, made
from bench.document import DOCUMENT, RESULTS, written
from bench.every import every
from bench.report import Results


def test_the_document_is_up_to_date() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == written(text), "python -m bench.document, see the page itself"
    for row in every():
        assert f"| `{row.name}` |" in text
    for budget in BUDGETS.values():
        assert f"| {budget.command} | {budget.calls} |" in text


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_are_of_the_driver_that_their_file_is_named_by(path: Path) -> None:
    results = Results.from_json(path.read_text(encoding="utf-8"))
    names = [row.name for row in every()]
    measured = [row.name for row in results.rows]
    assert results.about["driver"] == path.stem
    assert measured == [name for name in names if name in measured], "rows that there are"
    assert [row.name for row in results.rows if row.error] == []


def test_an_exec_begun_anew_is_one_call() -> None:
    look, enter = ["query", "/1.0"], ["exec", "a", "--", "true"]
    assert made([look, enter, enter, look, look, enter]) == [look, enter, look, look, enter]
    beside = ["exec", "b", "--", "true"]
    assert made([enter, beside, enter, look]) == [enter, beside, look]


def test_more_and_fewer_calls_and_more_modules_are_faults() -> None:
    assert faults("list", [["query"]], []) == []
    (more,) = faults("list", [["query", "a"], ["query", "b"]], [])
    assert more == "list: 2 calls, not 1; more than its budget\n  query a\n  query b"
    (fewer,) = faults("list", [], [])
    assert "0 calls, not 1; fewer" in fewer
    limits = BUDGETS["list"]
    own = [f"coi.m{number}" for number in range((limits.own or 0) + 1)]
    (many,) = faults("list", [["query"]], own)
    assert f"{len(own)} modules of coi, not {limits.own}" in many
    (all_of_them,) = faults("list", [["query"]], ["m"] * ((limits.modules or 0) + 1))
    assert f"modules, not {limits.modules}" in all_of_them
