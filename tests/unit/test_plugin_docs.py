"""docs/plugins.md has a heading for everything of coi.api, and a whole plugin in it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import coi.api
from coi.testing import ModelSetup
from coi.tools.skeleton import project

DOCUMENT = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^##+ `([\w.]+)(?:\(.*\))?`$", DOCUMENT, re.M)
HOOK = "coi_register_tools"


def members(kind: type) -> Iterator[str]:
    """The public attributes, fields and methods that a class has of its own."""
    names = {*inspect.get_annotations(kind), *vars(kind)}
    yield from (name for name in names if not name.startswith("_"))


def wanted() -> set[str]:
    found = {HOOK}
    for name in coi.api.__all__:
        found.add(name)
        value = getattr(coi.api, name)
        if isinstance(value, type):
            found |= {f"{name}.{member}" for member in members(value)}
    return found | {f"ModelSetup.{name}" for name in inspect.get_annotations(ModelSetup)}


def blocks() -> dict[str, str]:
    """The fenced texts that follow a line with a file's name, by that name."""
    found = re.findall(r"^`([\w/]+\.(?:py|toml))`:\n\n```\w+\n(.*?)^```$", DOCUMENT, re.M | re.S)
    return dict(found)


def test_everything_has_its_heading_once() -> None:
    assert {"Tool.scratch", "Launch.prompt", "SavedState.read", "Answer.text"} <= wanted()
    assert sorted(HEADINGS) == sorted(wanted())


def test_every_heading_is_followed_by_text() -> None:
    for part in re.split(r"^##+ `.*`$\n", DOCUMENT, flags=re.M)[1:]:
        assert part.strip(), part
        assert not part.strip().startswith("#")


def test_the_example_is_what_coi_tool_new_writes_and_is_short() -> None:
    files = blocks()
    assert set(files) == {"pyproject.toml", "coi_parrot.py"}
    for path, text in files.items():
        assert text == project("parrot")[path], path
    assert sum(len(text.splitlines()) for text in files.values()) < 60
