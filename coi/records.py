"""Dataclasses that cost little to define, and what JSON has for their values.

:mod:`dataclasses` writes and compiles a text for each method of each class: 0.5 ms for a
frozen one, 16 of the 127 ms of processor time that ``coi shell`` needs up to its first
call (measured, Python 3.11). Here the methods are the same functions for all classes and
look at the fields when they are called. All else is the standard library's: ``fields``,
``replace``, ``asdict``, ``field``, inheritance, ``__post_init__``; type checkers see its
decorator.

What was read from a file is checked before it becomes a record's: whoever uses the record
takes its fields for what they are declared to be.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import MISSING, FrozenInstanceError, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

__all__ = ["path_text", "record", "text_map", "texts", "typed"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(cls: type | None = None, /, *, frozen: bool = False) -> Any:
        """As :func:`dataclasses.dataclass`: with ``__init__``, ``__repr__``, ``__eq__``.

        Args:
            frozen: no field can be assigned, and what is equal has the same hash.
        """

        def define(cls: type) -> type:
            own = set(vars(cls))
            cls.__doc__ = cls.__doc__ or cls.__name__  # else it would be made of the signature
            made = dataclass(init=False, repr=False, eq=False)(cls)
            for name, method in (_FROZEN if frozen else _METHODS).items():
                if name not in own:
                    setattr(made, name, method)
            return made

        return define if cls is None else define(cls)


@cache
def _plan(cls: Hashable) -> tuple[tuple[str, bool, Any, Any], ...]:
    """Of each field: name, whether ``__init__`` takes it, default, default factory."""
    of: Any = cls
    return tuple((f.name, f.init, f.default, f.default_factory) for f in fields(of))


@cache
def _compared(cls: Hashable) -> tuple[str, ...]:
    of: Any = cls
    return tuple(f.name for f in fields(of) if f.compare)


def _init(self: Any, /, *args: object, **named: object) -> None:
    cls: Any = type(self)
    given = iter(args)
    missing = []
    for name, taken, default, factory in _plan(cls):
        if taken and (value := next(given, MISSING)) is not MISSING:
            if name in named:
                raise TypeError(f"{cls.__name__}() got multiple values for argument {name!r}")
        elif taken and name in named:
            value = named.pop(name)
        elif default is not MISSING:
            value = default
        elif factory is not MISSING:
            value = factory()
        else:
            if taken:
                missing.append(repr(name))
            continue
        object.__setattr__(self, name, value)
    if missing:
        raise TypeError(f"{cls.__name__}() missing arguments: {', '.join(missing)}")
    if named:
        raise TypeError(f"{cls.__name__}() got an unexpected argument {next(iter(named))!r}")
    if next(given, MISSING) is not MISSING:
        raise TypeError(f"{cls.__name__}() got too many arguments: {len(args)}")
    after = getattr(self, "__post_init__", None)
    if after is not None:
        after()


def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _values(self: Any) -> tuple[object, ...]:
    cls: Any = type(self)
    return tuple(getattr(self, name) for name in _compared(cls))


def _eq(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _assign(_self: object, name: str, _value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(_self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


_METHODS = {"__init__": _init, "__repr__": _repr, "__eq__": _eq, "__hash__": None}
_FROZEN = {**_METHODS, "__hash__": _hash, "__setattr__": _assign, "__delattr__": _delete}


def typed(row: object, **kinds: type) -> dict[str, Any]:
    """A JSON object whose values by these names are of just these kinds.

    Args:
        kinds: ``str``, ``int`` (which a ``bool`` is not), ``list``, ...

    Raises:
        ValueError: it is no object, or one of them is missing or of another kind.
    """
    if not isinstance(row, dict):
        raise ValueError("not an object")  # noqa: TRY004 - as for every other damage
    for name, kind in kinds.items():
        if type(row.get(name)) is not kind:
            raise ValueError(f"{name} is not of the kind {kind.__name__}")
    return row


def texts(value: object) -> tuple[str, ...]:
    """A JSON list of texts.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("not a list of texts")
    return tuple(value)


def text_map(value: object) -> dict[str, str]:
    """A JSON object of texts.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("not an object of texts")
    return value


def path_text(text: str) -> str:
    """A text that may be a path: JSON has others, with a NUL or half a surrogate pair.

    Raises:
        ValueError: no file can have it.
    """
    if b"\0" in os.fsencode(text):
        raise ValueError("a path with a NUL")
    return text
