"""The ``sh`` library at half its price.

Importing sh (2.4) takes 50 ms, of which asyncio and importlib.metadata take more than half:
the one for ``await``, which coi does not do, the other for sh's own version number. Here
sh is given stand-ins for the two, which become the real ones when they are used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_ASYNCIO = "asyncio"
_METADATA = "importlib.metadata"


class _Asyncio(ModuleType):
    """asyncio, imported when it is used."""

    def get_running_loop(self) -> Any:
        """RuntimeError where nothing has imported asyncio: no loop can run then."""
        if _ASYNCIO not in sys.modules:
            raise RuntimeError("no running event loop")
        return self._real().get_running_loop()

    def Queue(self, *args: Any, **kwargs: Any) -> Any:
        return self._real().Queue(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    @staticmethod
    def _real() -> Any:
        return importlib.import_module(_ASYNCIO)


class _Metadata(ModuleType):
    """Knows no distribution."""

    class PackageNotFoundError(ModuleNotFoundError):
        """As importlib.metadata's."""

    def version(self, distribution: str) -> str:
        raise self.PackageNotFoundError(distribution)


def load() -> Any:
    """The module ``sh``."""
    if "sh" in sys.modules:
        return sys.modules["sh"]
    stand_ins = {_ASYNCIO: _Asyncio(_ASYNCIO), _METADATA: _Metadata(_METADATA)}
    ours = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(ours)
    try:
        return importlib.import_module("sh")
    finally:
        for name in ours:
            del sys.modules[name]
