"""The benchmarks' own arithmetic, tables and files (tests/benchmarks)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from bench.every import every
from bench.measure import Counts, Measured, in_turn, wanted
from bench.report import SCHEMA, Results, cells, markdown, region, table
from bench.stage import NotEnteredError, bare, patiently

ROW = Measured(
    "run", "`coi run true`", "bare | calls",
    floors=[1.0, 2.0, 4.0], ours=[1.5, 2.2, 8.0],
    counts=[Counts(3, 0.2, 2048), Counts(4, 0.1, 1024), Counts(3, 0.3, 4096)],
)  # fmt: skip
ABOUT = {"date": "2026-01-01 00:00 UTC", "driver": "btrfs"}


def test_medians_are_of_the_rounds_own_ratios() -> None:
    assert (ROW.floor, ROW.coi) == (2.0, 2.2)
    assert ROW.ratio == 1.5, "of 1.5, 1.1 and 2.0, not 2.2 / 2.0"
    assert ROW.difference == 0.5, "of 0.5, 0.2 and 4.0, not 2.2 - 2.0"
    assert ROW.counted() == Counts(3, 0.2, 2048)


def test_what_slows_a_round_down_slows_both_of_it() -> None:
    noisy = Measured("x", "", "", floors=[1.0, 9.0, 1.0], ours=[2.0, 18.0, 2.0])
    assert noisy.ratio == 2.0
    with pytest.raises(ValueError, match="shorter"):
        _ = Measured("x", "", "", floors=[1.0, 2.0], ours=[1.0]).ratio


@pytest.mark.parametrize(("rounds", "order"), [(1, "fc"), (2, "fccf"), (5, "fccffccffc")])
def test_they_go_in_turn_and_change_who_is_first(rounds: int, order: str) -> None:
    seen: list[str] = []

    def act(letter: str) -> float:
        seen.append(letter)
        return len(seen) + (0.5 if letter == "c" else 0.0)

    floors, ours = in_turn(rounds, lambda: act("f"), lambda: act("c"))
    assert "".join(seen) == order
    assert (len(floors), len(ours)) == (rounds, rounds)
    assert all(value % 1 == 0 for value in floors)
    assert all(value % 1 == 0.5 for value in ours)


def test_rows_are_named_or_begun() -> None:
    names = ["version", "list-0", "list-10", "push-1", "push-10k"]
    assert wanted(names, []) == names
    assert wanted(names, ["push", "list-0"]) == ["list-0", "push-1", "push-10k"], "in their order"
    assert wanted(names, ["push-1", "push-1"]) == ["push-1"]
    with pytest.raises(ValueError, match="no row 'lis'; there are: version, list-0"):
        wanted(names, ["lis"])


def test_every_row_says_what_it_is() -> None:
    rows = every()
    assert len({row.name for row in rows}) == len(rows) > 25
    for row in rows:
        assert row.name, row
        assert row.what, row
        assert row.floor_is, row


def test_the_file_holds_all_and_comes_back() -> None:
    failed = Measured("list-0", "w", "f", error="AssertionError: no")
    text = Results(dict(ABOUT), [ROW, failed]).to_json()
    data = json.loads(text)
    assert tuple(data) == ("schema", "about", "rows")
    assert data["schema"] == SCHEMA
    assert tuple(data["rows"][0]) == (
        "name", "what", "floor_is", "rounds", "error", "floor", "coi", "ratio", "difference",
        "calls", "cpu", "peak", "floors", "cois", "counted",
    )  # fmt: skip
    assert data["rows"][0]["rounds"] == 3
    assert data["rows"][0]["counted"][1] == {"calls": 4, "cpu": 0.1, "peak": 1024}
    assert "ratio" not in data["rows"][1]
    assert Results.from_json(text) == Results(dict(ABOUT), [ROW, failed])
    with pytest.raises(ValueError, match="schema 0"):
        Results.from_json(json.dumps({**data, "schema": 0}))


def test_the_table() -> None:
    failed = Measured("list-100", "w", "f", counts=[Counts(1, 0.1, 9 << 10)], error="Oops: x")
    assert table([ROW, failed]).splitlines() == [
        "row       floor s  coi s  ratio  difference s  rounds  calls  own CPU s  peak MiB",
        "run         2.000  2.200   1.50        +0.500       3      3      0.200         2",
        "list-100   failed                                          1      0.100         9",
        "list-100: Oops: x",
    ]
    assert cells(Measured("x", "", "", floors=[2.0], ours=[1.0]))[4] == "-1.000"
    assert markdown(("a", "b"), [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"


def test_a_region_is_replaced_and_nothing_else() -> None:
    text = "head\n<!-- a -->\nold\n<!-- end of a -->\ntail\n"
    assert region(text, "a", "new\n") == "head\n<!-- a -->\nnew\n<!-- end of a -->\ntail\n"
    for broken in ("", "<!-- a -->\n", "<!-- end of a -->\n"):
        with pytest.raises(ValueError, match="there is no <!-- a -->"):
            region(broken, "a", "new\n")


def test_a_floor_is_no_session_of_coi_s() -> None:
    config = {"user.coi.state": "run", "limits.memory": "75%", "user.coi.prefix": "t-"}
    body = {"name": "n", "config": config, "devices": {"workspace": {"path": "/workspace"}}}
    assert bare(body) == {**body, "config": {"limits.memory": "75%", "user.coi.prefix": "t-"}}


def test_a_round_that_could_not_enter_is_begun_anew() -> None:
    busy = NotEnteredError("busy")
    outcomes: Iterator[AssertionError | None] = iter([busy, busy, None])
    between: list[int] = []

    def act() -> float:
        if outcome := next(outcomes):
            raise outcome
        return 0.5

    assert patiently(act, lambda: between.append(1)) == 0.5
    assert len(between) == 2
    outcomes = iter([busy, busy])
    with pytest.raises(NotEnteredError):
        patiently(act, lambda: None, tries=2)
    outcomes = iter([AssertionError("another")])
    with pytest.raises(AssertionError, match="another"):
        patiently(act, lambda: None)
