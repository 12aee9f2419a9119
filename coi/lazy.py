"""Modules that a library imports and seldom uses, imported when they are used.

A start of coi spends most of its time on imports, and of those the most on what typer and sh
import for what coi does not ask of them. While such a library is imported it is given
stand-ins, which become the real ones when they are used; nobody else ever sees them.

(``importlib.util.LazyLoader`` does not serve: such a module loads as soon as it is imported for
the second time, CPython issue 85963.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class StandIn(ModuleType):
    """A module that is imported when something of it is used.

    Args:
        functions: what can be had of it by ``from`` without a use: each of them imports the
            module when it is called.
    """

    def __init__(self, name: str, functions: Sequence[str] = ()) -> None:
        super().__init__(name)
        for function in functions:
            setattr(self, function, self._forward(function))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.real(), name)

    def real(self) -> ModuleType:
        """The module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return import_module(self.__name__)

    def _forward(self, function: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self.real(), function)(*args, **kwargs)

        return call


@contextmanager
def put_off(
    modules: Sequence[str] = (),
    functions: Mapping[str, Sequence[str]] | None = None,
    stand_ins: Sequence[StandIn] = (),
) -> Iterator[None]:
    """While it is entered, who imports one of these for the first time gets a stand-in.

    Args:
        modules: of these names.
        functions: module to the names of functions, see :class:`StandIn`.
        stand_ins: those of the caller's own.
    """
    made = [StandIn(name) for name in modules]
    made += [StandIn(name, names) for name, names in (functions or {}).items()]
    ours = {m.__name__: m for m in (*made, *stand_ins) if m.__name__ not in sys.modules}
    sys.modules.update(ours)
    try:
        yield
    finally:
        for name, module in ours.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
