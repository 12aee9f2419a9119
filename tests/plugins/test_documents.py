"""Files of the user's without some of their keys, in JSON and in TOML."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from coi.tools.documents import dump_toml, without_keys
from coi.tools.merge import MalformedError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = (
    TEXT
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.datetimes(timezones=st.just(datetime.timezone.utc))
)
VALUES = st.recursive(PLAIN, lambda part: st.lists(part) | st.dictionaries(TEXT, part))


@given(st.dictionaries(TEXT, VALUES))
def test_toml_that_is_written_reads_the_same(values: dict[str, Any]) -> None:
    assert tomli.loads(dump_toml(values).decode()) == values


@pytest.mark.parametrize(
    ("path", "data", "left"),
    [
        ("a.json", b'{"x": {"TOKEN": 1}, "y": [1]}', {"y": [1]}),
        ("a.json", b'\xef\xbb\xbf{"x": 1}', {}),
        ("a.toml", b'y = [1]\n[x.env]\nTOKEN = "s"\n[[x.z]]\nb = 1\n', {"y": [1]}),
        ("a.toml", b'"x" = 1\r\ny = """\n[x]"""\r\n', {"y": "[x]"}),
    ],
)
def test_keys_are_left_out(path: str, data: bytes, left: dict[str, Any]) -> None:
    load = tomli.loads if path.endswith(".toml") else json.loads
    assert load(without_keys(path, data, ("x", "no-such")).decode()) == left


@pytest.mark.parametrize("path", ["a.json", "a.toml"])
def test_a_file_without_them_stays_as_it_is_written(path: str) -> None:
    data = b'{ "y":1 }' if path == "a.json" else b"# mine\ny   = 1\n"
    assert without_keys(path, data, ("x",)) is data


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("a.json", b"// comment\n{}"),
        ("a.json", b"[]"),
        ("a.toml", b"[x"),
        ("a.toml", b"\xff"),
        ("a.toml", b"a = " + b"[" * 5000),
    ],
)
def test_what_cannot_be_parsed_is_refused(path: str, data: bytes) -> None:
    with pytest.raises(MalformedError):
        without_keys(path, data, ("x",))
