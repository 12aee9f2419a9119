"""docs/security.md and docs/reliability.md promise nothing that no test tries to break."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("security", "reliability")}


def defined() -> set[str]:
    """The names of all tests."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("name", TEXTS)
def test_each_named_test_is_there(name: str) -> None:
    text = TEXTS[name]
    named = set(re.findall(r"`(test_\w+)`", text))
    files = set(re.findall(r"tests/\w+/test_\w+\.py", text))
    modules = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 20
    assert named - defined() - modules == set()
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(
    ("name", "head"), [("security", "| promise | test |"), ("reliability", "| injected |")]
)
def test_each_row_names_a_test(name: str, head: str) -> None:
    """In the tables that are about promises and faults."""
    rows, inside = [], False
    for line in TEXTS[name].splitlines():
        inside = line.startswith(head) or (inside and line.startswith("|"))
        if inside and not line.startswith((head, "|---")):
            rows.append(line)
    assert len(rows) > 15
    assert [row for row in rows if "test_" not in row] == []
