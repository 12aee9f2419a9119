"""Records are dataclasses: whatever the standard library's do, they do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, asdict, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.records import record


def define(decorate: Callable[..., Any]) -> tuple[Any, Any]:
    """The same two classes, by another decorator."""

    @decorate(frozen=True)
    class Point:
        x: int
        y: int = 2
        tags: list[str] = field(default_factory=list, compare=False)
        secret: str = field(default="", repr=False)
        kind: ClassVar[str] = "point"

        @cached_property
        def double(self) -> int:
            return self.x * 2

    @decorate
    class Box:
        name: str
        inner: Point | None = None
        seen: int = field(default=0, init=False)

        def __post_init__(self) -> None:
            self.seen += 1

        def __repr__(self) -> str:
            return f"<{self.name}>"

    return Point, Box


OURS, THEIRS = define(record), define(dataclasses.dataclass)
VALUES = st.one_of(st.integers(0, 3), st.text(max_size=2))


def outcome(make: Callable[[], Any]) -> Any:
    """What it returns, or the kind of its error."""
    try:
        return make()
    except Exception as error:
        return type(error)


@given(
    st.integers(0, 1),
    st.lists(VALUES, max_size=5),
    st.dictionaries(st.sampled_from(["x", "y", "tags", "secret", "name", "inner", "z"]), VALUES),
)
def test_made_and_shown_alike(which: int, args: list[Any], named: dict[str, Any]) -> None:
    ours, theirs = OURS[which], THEIRS[which]
    mine = outcome(lambda: ours(*args, **named))
    other = outcome(lambda: theirs(*args, **named))
    if isinstance(other, type):
        assert mine is other
        return
    assert repr(mine).split(".")[-1] == repr(other).split(".")[-1]
    assert outcome(lambda: asdict(mine)) == outcome(lambda: asdict(other))
    assert mine == ours(*args, **named)
    assert mine != other
    assert outcome(lambda: hash(mine)) == outcome(lambda: hash(other))


@given(st.tuples(VALUES, VALUES), st.tuples(VALUES, VALUES))
def test_equal_alike(one: tuple[Any, Any], two: tuple[Any, Any]) -> None:
    point = OURS[0]
    assert (point(*one) == point(*two)) == (one == two)
    assert point(*one, ["a"]) == point(*one, ["b"]), "left out of comparisons"


def test_the_standard_library_sees_dataclasses() -> None:
    point, box = OURS
    assert dataclasses.is_dataclass(Kept)
    names = [(f.name, f.default) for f in fields(point)]
    assert names == [("x", MISSING), ("y", 2), ("tags", MISSING), ("secret", "")]
    assert replace(point(1), y=5) == point(1, 5)
    assert asdict(box("b", point(1)))["inner"] == {"x": 1, "y": 2, "tags": [], "secret": ""}
    assert point.__match_args__ == THEIRS[0].__match_args__
    assert copy.deepcopy(point(3)) == point(3)
    assert point(3).double == 6


def test_frozen() -> None:
    made = OURS[0](1)
    with pytest.raises(FrozenInstanceError):
        made.x = 2
    with pytest.raises(FrozenInstanceError):
        del made.x
    box = OURS[1]("b")
    box.name = "c"
    assert (box.name, box.seen) == ("c", 1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(box)


@record(frozen=True)
class Kept:
    """Of the module, so that it can be pickled."""

    name: str


@record(frozen=True)
class Deeper(Kept):
    """One that inherits."""

    depth: int = 3


def test_inheritance() -> None:
    assert Deeper("a", depth=9).depth == 9
    assert Deeper("a") == Deeper("a", 3)
    assert Deeper("a") != Kept("a")


def test_pickled() -> None:
    assert pickle.loads(pickle.dumps(Kept("a"))) == Kept("a")  # noqa: S301 - its own


def test_definition_compiles_nothing() -> None:
    """What a dataclass compiles is what a record is there to spare."""
    code = """
import builtins, dataclasses, sys
from coi.records import record
compiled = []
old = builtins.exec
builtins.exec = lambda *args, **named: (compiled.append(1), old(*args, **named))[1]
dataclasses.__dict__["__builtins__"]["exec"] = builtins.exec
def make(decorate):
    compiled.clear()
    @decorate(frozen=True)
    class A:
        "It has a text: without one dataclasses asks inspect for a signature."
        x: int
        y: str = ""
    return len(compiled)
print(make(record), make(dataclasses.dataclass) > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 True\n"
