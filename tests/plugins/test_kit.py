"""What the conformance suite is told of a tool: setups, where they are found, what is filled in."""

from __future__ import annotations

import pytest
import tomli
from pluginkit import ROOT, Site

from coi.testing import ModelSetup
from coi.testing.bench import find_setup, new_code, new_key, toml_table

MODULE = """
from coi.testing import ModelSetup
SETUP = ModelSetup(ready="mine")
class Box:
    inner = {"it": SETUP}
WRONG = 7
"""


def test_without_a_setup_the_defaults_hold(site: Site) -> None:
    assert find_setup("it", "", site.path) == ModelSetup()


def test_a_setup_is_found_in_a_file_a_module_and_an_entry_point(site: Site) -> None:
    (site.path / "setups.py").write_text(MODULE)
    for where in ("setups.py:SETUP", f"{site.path}/setups.py:SETUP", "setups:SETUP"):
        assert find_setup("it", where, site.path).ready == "mine", where
    assert find_setup("it", "setups:Box.inner", site.path).ready == "mine"
    assert find_setup("another", "setups:Box.inner", site.path) == ModelSetup()

    site.tool("it")
    (info,) = site.path.glob("*.dist-info")
    with (info / "entry_points.txt").open("a") as file:
        file.write("[coi.testing]\nit = setups:SETUP\n")
    assert find_setup("it", "", site.path).ready == "mine"
    assert find_setup("another", "", site.path) == ModelSetup()


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("missing.py:SETUP", "No such file"),
        ("missing_module:SETUP", "No module named"),
        ("setups:NOPE", "has no attribute 'NOPE'"),
        ("setups:WRONG", "is a int, not a coi.testing.ModelSetup"),
        ("setups", "is a module"),
        (":SETUP", "names no module"),
    ],
)
def test_what_is_named_wrongly_is_said(where: str, reason: str, site: Site) -> None:
    (site.path / "setups.py").write_text(MODULE)
    with pytest.raises(ValueError, match=reason):
        find_setup("it", where, site.path)


def test_address_and_key_are_filled_in_everywhere() -> None:
    setup = ModelSetup(
        environment={"URL": "{url}/v1", "KEY": "sk-{key}"},
        files={".it/conf": "at {url} with {key}, {other}"},
        options={"inner": {"list": ["{url}"]}, "number": 3},
    )
    filled = setup.filled("http://x", "k")
    assert filled.environment == {"URL": "http://x/v1", "KEY": "sk-k"}
    assert filled.files == {".it/conf": "at http://x with k, {other}"}
    assert filled.options == {"inner": {"list": ["http://x"]}, "number": 3}


@pytest.mark.parametrize(
    "setup",
    [
        ModelSetup(environment={"A": "{url}"}),
        ModelSetup(files={"a": "{url}"}),
        ModelSetup(options={"a": {"b": "{url}"}}),
    ],
)
def test_the_server_is_started_where_something_names_it(setup: ModelSetup) -> None:
    assert setup.needs_model
    assert not ModelSetup(environment={"A": "{key}"}).needs_model


def test_the_answers_code_words() -> None:
    setup = ModelSetup()
    text = "STUBREPLY n=2 codes=CODE-OLD,CODE-NEW last=[remember CODE-NEWER please]"
    assert setup.codes("CODE-NEW", text) == {"CODE-OLD", "CODE-NEW"}
    assert setup.codes("CODE-NONE", text) == set()
    assert setup.codes("CODE-NEW", "> remember CODE-NEW please") == set(), "the prompt is none"
    bare = ModelSetup(answer="heard .*{code}")
    assert bare.codes("CODE-B", "heard CODE-A and CODE-B") == {"CODE-A", "CODE-B"}
    assert setup.prompts("CODE-A") == ("remember CODE-A please",)


def test_options_are_a_table() -> None:
    values = {"a": 'quo"te', "b": True, "c": [1, "x"], "d-e": {"f": 1.5, "g": {}}}
    assert tomli.loads(toml_table("tool.it", values)) == {"tool": {"it": values}}


def test_keys_and_code_words_are_new_each_time() -> None:
    assert len({new_key() for _ in range(9)} | {new_code() for _ in range(9)}) == 18
    assert len(new_key()) == 20


def test_the_setups_of_the_tools_are_sound() -> None:
    for name in ("dummy", "claude", "aider", "codex", "gemini", "opencode", "copilot", "qwen"):
        setup = find_setup(name, "fixtures/tool_models.py:MODELS", ROOT)
        assert setup != ModelSetup(), name
        assert setup.needs_model == (name != "dummy"), name
        texts = [*setup.environment.values(), *setup.files.values()]
        assert any("{key}" in text for text in texts), f"{name} is given no key to keep"
