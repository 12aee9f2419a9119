"""docs/security.md promises nothing that no test tries to break."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()


def defined() -> set[str]:
    """The names of all tests."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }


def test_each_named_test_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    files = set(re.findall(r"tests/\w+/test_\w+\.py", TEXT))
    modules = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 40
    assert named - defined() - {f"{name}" for name in modules} == set()
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_each_promise_names_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    promises = [
        row for row in rows if not re.match(r"\|( who | promise |---|.*what they have)", row)
    ]
    attackers = {
        "a malicious repository",
        "a tool that was talked",
        "another container",
        "another user",
    }
    left = [row for row in promises if not any(row.startswith(f"| {who}") for who in attackers)]
    assert len(left) > 20
    assert [row for row in left if "test_" not in row] == []
