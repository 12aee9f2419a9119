"""Strategies for what may come from outside: JSON of any shape, damaged documents, hard texts."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# Surrogates are in JSON as escapes, and NaN and Infinity are what Python's json takes for it.
TEXT = st.text(st.characters(codec=None, categories=None), max_size=12)
NUMBERS = st.integers() | st.integers(-(2**70), 2**70) | st.floats()
WORDS = st.sampled_from(
    ["", "\0", "a\nb", "\x1b[2J", "../x", "/", "-x", "=", "\ud800", "\u2028", "²", "٣", "none"]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT | WORDS
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)

DEEP = 100_000  # levels: more than any parser that calls itself can take
HARD = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"0",
    "lists in lists": b"[" * DEEP + b"]" * DEEP,
    "lists without end": b"[" * DEEP,
    "objects in objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a number without end": b'{"format": ' + b"9" * 5000 + b"}",
    "a float without end": b'{"format": 1e999}',
    "not a number": b'{"format": NaN, "a": -Infinity}',
    "twice the same key": b'{"format": 1, "format": 2}',
    "half a surrogate": b'{"path": "\\ud800", "format": "\\udfff"}',
    "NUL": b'{"path": "/a\\u0000b"}',
    "a raw NUL": b"\0" * 64,
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
    "a mark before": b'\xef\xbb\xbf{"format": 1}',
    "a line without end": b"x" * (1 << 16),
}


def _places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield way
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*way, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, (*way, number))


@st.composite
def damaged(draw: st.DrawFn, *samples: Any) -> Any:
    """One of the documents, with up to three values of it gone, doubled or of another kind."""
    found: Any = copy.deepcopy(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(list(_places(found))))
        if not way:
            if draw(st.integers(0, 9)) == 0:
                return draw(JSON)
            continue
        holder = found
        for step in way[:-1]:
            holder = holder[step]
        act = draw(st.sampled_from(["other", "other", "gone", "more"]))
        if act == "gone":
            del holder[way[-1]]
        elif act == "more" and isinstance(holder, dict):
            holder[draw(TEXT)] = draw(JSON)
        else:
            holder[way[-1]] = draw(JSON)
    return found


def texts(*samples: Any) -> st.SearchStrategy[bytes]:
    """What a file, or a process, may have for a document: damaged, cut off, something else."""
    whole = [json.dumps(sample).encode() for sample in samples]
    cut = st.builds(lambda data, end: data[:end], st.sampled_from(whole), st.integers(0, 4000))
    return st.one_of(
        damaged(*samples).map(lambda value: json.dumps(value).encode()),
        damaged(*samples).map(lambda value: json.dumps(value).encode()),
        JSON.map(lambda value: json.dumps(value).encode()),
        cut,
        st.binary(max_size=40),
        st.sampled_from(list(HARD.values())),
    )
