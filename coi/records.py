"""Dataclasses that cost little to define.

:mod:`dataclasses` writes and compiles a text for each method of each class: 0.5 ms for a
frozen one, 16 of the 127 ms of processor time that ``coi shell`` needs up to its first
call (measured, Python 3.11). Here the methods are the same functions for all classes and
look at the fields when they are called. All else is the standard library's: ``fields``,
``replace``, ``asdict``, ``field``, inheritance, ``__post_init__``; type checkers see its
decorator.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import MISSING, FrozenInstanceError, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

__all__ = ["record"]

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
