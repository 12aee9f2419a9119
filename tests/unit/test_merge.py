"""Merging JSON settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.tools.merge import MalformedError, deep_merge, dump_object, load_object

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
) | st.text(max_size=4)
keys = st.sampled_from(["a", "b", "c", "é"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=4)


@given(objects, objects)
def test_merging_twice_is_merging_once(base: dict[str, Any], over: dict[str, Any]) -> None:
    once = deep_merge(base, over)
    assert json.dumps(deep_merge(once, over)) == json.dumps(once)


@given(objects, objects)
def test_no_key_and_no_list_item_of_the_user_is_lost(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    assert_kept(base, over, deep_merge(base, over))


def assert_kept(base: Any, over: Any, merged: Any) -> None:
    """What ``over`` does not name is as it was; what it names was merged or replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        assert list(merged)[: len(base)] == list(base)
        for key, value in base.items():
            if key in over:
                assert_kept(value, over[key], merged[key])
            else:
                assert merged[key] is value
        assert all(key in merged for key in over)
    elif isinstance(base, list) and isinstance(over, list):
        assert merged[: len(base)] == base
        texts = [json.dumps(item, sort_keys=True) for item in merged]
        assert all(json.dumps(item, sort_keys=True) in texts for item in over)
    else:
        assert merged is over


@given(objects, objects)
def test_the_arguments_are_left_as_they_were(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = json.dumps([base, over])
    deep_merge(base, over)
    assert json.dumps([base, over]) == before


@given(objects)
def test_what_is_written_reads_back(value: dict[str, Any]) -> None:
    assert json.dumps(load_object(dump_object(value))) == json.dumps(value)


def test_lists_are_united_in_order_and_keep_the_users_own_repeats() -> None:
    assert deep_merge([3, 1, 1], [1, 2, 2]) == [3, 1, 1, 2]


def test_one_and_true_are_different_items() -> None:
    merged = deep_merge([1, {"a": 0}], [True, {"a": False}, {"a": 0}])
    assert json.dumps(merged) == '[1, {"a": 0}, true, {"a": false}]'


def test_a_value_of_another_type_is_set() -> None:
    assert deep_merge({"a": {"b": 1}, "c": 1}, {"a": 2, "c": {"d": 3}}) == {"a": 2, "c": {"d": 3}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"\xff\xfe{}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "cut", "list", "null", "nan", "huge", "utf-16", "deep", "digits"],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        load_object(data)


def test_a_byte_order_mark_and_lone_surrogates_are_accepted() -> None:
    value = load_object(b'\xef\xbb\xbf{"a": "\\ud800"}')
    assert dump_object(value) == b'{\n  "a": "\\ud800"\n}\n'


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": {1, 2}}, {"a": b"x"}])
def test_what_is_not_json_is_not_written(value: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        dump_object(value)
