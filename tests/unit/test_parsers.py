"""Every function of coi that reads what comes from outside has a fuzz test that enters it.

What counts as reading is told by the calls that turn text into something else: documents,
numbers, patterns, addresses, times, URLs. A function with one of them is in a table of
parsers.py, as fuzzed or with the reason why not; the former are watched by conftest.py. What
takes a text apart by hand alone (``split``, ``partition``) is not found so: those that matter
are in the table as well, and it says what is gone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from parsers import CALLS, FUZZED, NOT_FUZZED, first_lines

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for path in sorted((ROOT / "coi").rglob("*.py"))
    if path.relative_to(ROOT).parts[1] != "testing"  # the stub of a model, and what drives tests
]


def readers(source: str) -> Iterator[str]:
    """The functions that call one of CALLS with anything but a constant, by qualified name."""

    def walk(node: ast.AST, names: tuple[str, ...]) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = (*names, child.name)
            if isinstance(child, ast.Call) and _name(child.func) in CALLS:
                arguments = [*child.args, *(keyword.value for keyword in child.keywords)]
                if not all(isinstance(argument, ast.Constant) for argument in arguments):
                    yield ".".join(names)
            yield from walk(child, inner)

    yield from walk(ast.parse(source), ())


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FOUND = {f"{module(path)}:{name}" for path in SOURCES for name in readers(path.read_text()) if name}
LISTED = {function for functions in FUZZED.values() for function in functions}


def test_the_criterion_sees_what_it_is_for() -> None:
    assert list(readers("def f(x):\n    return json.loads(x)")) == ["f"]
    assert list(readers("class A:\n    def f(x):\n        int(x, 8)")) == ["A.f"]
    assert list(readers("def f():\n    return int('5')")) == []
    assert {"coi.config.parse:parse", "coi.session.store:_read"} <= FOUND
    assert len(FOUND) > 80


def test_every_reader_is_in_a_table() -> None:
    assert sorted(FOUND - LISTED - set(NOT_FUZZED)) == [], "fuzz it, or say why not (parsers.py)"


def test_the_tables_name_what_is_there() -> None:
    assert sorted(set(NOT_FUZZED) - FOUND) == [], "gone, or no reader any more"
    assert sorted(LISTED & set(NOT_FUZZED)) == []
    known = {f"{module(path)}:{name}" for path in SOURCES for name in first_lines(path.read_text())}
    assert sorted(LISTED - known) == [], "gone"
    assert all(reason for reason in NOT_FUZZED.values())


@pytest.mark.parametrize("test", sorted({name.partition("[")[0] for name in FUZZED}))
def test_the_tests_are_there(test: str) -> None:
    """And random: each has ``given`` somewhere, or is a state machine's."""
    file, _, name = test.partition("::")
    tree = ast.parse((Path(__file__).parent / file).read_text())
    (found,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    called = {_name(node.func) for node in ast.walk(found) if isinstance(node, ast.Call)}
    assert called & {"given", "run_state_machine_as_test"}
