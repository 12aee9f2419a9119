"""`config show` says the same again, and the reference is what the code does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli
from configs import Place, place, said, toml
from hypothesis import given, settings
from hypothesis import strategies as st

from coi.config import reference
from coi.config.schema import KEYS
from coi.config.show import as_data, as_text
from coi.config.text import toml_value


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(tmp_path)


@settings(max_examples=100, deadline=None)
@given(
    user=said(),
    options=st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.one_of(
            st.text(max_size=5),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.lists(st.booleans(), max_size=2),
            st.dictionaries(st.text(max_size=3), st.text(max_size=3), min_size=1, max_size=2),
        ),
        max_size=3,
    ),
    environment=st.dictionaries(
        st.sampled_from(["A", "B_1", "PATH"]),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=5),
    ),
    origin=st.booleans(),
)
def test_the_text_is_a_file_that_gives_the_same_configuration(
    user: dict[str, Any], options: dict[str, Any], environment: dict[str, str], origin: bool
) -> None:
    with place() as at:
        at.user.write_text(
            toml(user)
            + f"tool.claude = {toml_value(options)}\n"
            + f"profiles.p.environment = {toml_value(environment)}\n"
        )
        loaded = at.load(profile="p")
        text = as_text(loaded, origin=origin)
        assert all(line.isprintable() for line in text.split("\n"))
        at.user.write_text(text + ("" if environment else "[profiles.p]\n"))
        again = at.load(profile="p")
        assert again.config == loaded.config


def test_origins_are_on_every_line(here: Place) -> None:
    here.user.write_text("[tool]\nname = 'aider'\n[tool.aider]\n'odd key' = 1\n")
    loaded = here.load(environ={"COI_LIMITS_CPU": "2"}, flags={"defaults.image": "x"})
    lines = as_text(loaded, origin=True).splitlines()
    assert [line for line in lines if line and line[0] != "[" and "  # " not in line] == []
    found = {tuple(line.rsplit("  # ", 1)) for line in lines if "  # " in line}
    said = {(left.rstrip(), right) for left, right in found}
    assert ('name = "aider"', str(here.user)) in said
    assert ('"odd key" = 1', str(here.user)) in said
    assert ('cpu = "2"', "COI_LIMITS_CPU") in said
    assert ('image = "x"', "--image") in said
    assert ("persistent = false", "built-in") in said
    assert ("# code_uid is not set", "built-in") in said
    assert tomli.loads(as_text(loaded, origin=True))["defaults"]["image"] == "x"


def test_data(here: Place) -> None:
    here.project.write_text("[defaults]\nimage = 'x'\nmax_slots = 3\n")
    data = as_data(here.load(), origin=True)
    assert data["config"]["defaults"] == {
        "image": "coi",
        "persistent": False,
        "mount_claude_config": True,
        "max_slots": 3,
    }
    assert data["config"]["environment"] == {}
    assert data["config"]["incus"]["code_uid"] is None
    assert data["untrusted"] == str(here.project)
    assert data["withheld"] == ["defaults.image"]
    assert data["origins"]["defaults.max_slots"] == str(here.project)
    assert "origins" not in as_data(here.load())


def test_the_reference_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == reference()


def test_the_reference_has_every_key_and_variable() -> None:
    text = reference()
    for key in KEYS:
        assert f"| `{key.parts[-1]}`" in text
        assert all(f"`{variable}`" in text for variable in key.variables[:1])
