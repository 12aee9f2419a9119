"""docs/commands.md is what the commands say of themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from coi.cli.main import run
from coi.cli.options import Root, global_parameters
from coi.cli.reference import reference
from coi.cli.shapes import JSON_KEYS, keys_of

ROOT = Path(__file__).parents[2]
TEXT = reference()


def sections() -> dict[str, str]:
    """The text of each command's section, by the command's path."""
    found = {}
    for part in TEXT.split("\n## `coi ")[1:]:
        title, _, body = part.partition("`\n")
        words = [w for w in title.split() if w.islower() and w.isalpha()]
        found[" ".join(words)] = body
    return found


def test_the_document_is_the_reference() -> None:
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == TEXT, "python -m coi.cli.reference > docs/commands.md"


def test_the_module_prints_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "coi.cli.reference"],
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    assert done.stdout.decode() == TEXT


def test_every_command_flag_and_key_is_in_it() -> None:
    found = sections()
    assert {path.split()[0] for path in found} == set(Root.commands_table)
    for parameter in global_parameters():
        for name in (*parameter.opts, *parameter.secondary_opts):
            assert f"`{name}`" in TEXT
    for path, shapes in JSON_KEYS.items():
        for keys in shapes.values():
            for key in keys:
                assert f"`{key}`" in found[path], f"{key} of coi {path}"
    for path, body in found.items():
        assert "Example: `coi " in body, path


def test_exit_codes_are_in_it() -> None:
    from coi import errors

    codes = {
        value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)
    }
    for code in {0, 124, *codes}:
        assert f"\n| {code} | " in TEXT


def test_tables_are_whole() -> None:
    """A `|` in a help text would end its cell."""
    for line in TEXT.splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "").count("|")
            assert cells in (3, 4), line


def test_keys_of() -> None:
    value = {"a": 1, "b": [{"c": 2, "d": []}], "e": {"x": 1}, "f": []}
    assert keys_of(value) == {"": ("a", "b", "e", "f"), "b[]": ("c", "d")}
    assert keys_of([{"a": [{"b": 1}]}]) == {"[]": ("a",), "[].a[]": ("b",)}
    assert keys_of([]) == keys_of(["x"]) == {}


def test_tools_have_these_keys(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["tool", "list"], ["tool", "info", "claude"]):
        assert run([*words, "--format", "json"]) == 0
        shapes = keys_of(json.loads(capsys.readouterr().out))
        wanted = JSON_KEYS[" ".join(words[:2])]
        assert {where: wanted[where] for where in shapes} == shapes
