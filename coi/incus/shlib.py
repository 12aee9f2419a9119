"""The ``sh`` library at a third of its price.

Importing sh (2.4) takes 50 ms, of which asyncio and importlib.metadata take more than half:
the one for ``await``, which coi does not do, the other for sh's own version number. What it
keeps for a terminal, a password or a message takes the most of the rest. Here sh is given
stand-ins for them, which become the real ones when they are used.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from coi.lazy import StandIn, put_off

_SELDOM = ("getpass", "pty", "textwrap", "tty")


class _Asyncio(StandIn):
    """asyncio, imported when it is used."""

    def get_running_loop(self) -> Any:
        """RuntimeError where nothing has imported asyncio: no loop can run then."""
        if "asyncio" not in sys.modules:
            raise RuntimeError("no running event loop")
        return self.real().get_running_loop()


class _Logging(StandIn):
    """logging, imported when it is used: without it nobody can have asked to hear anything."""

    def getLogger(self, name: str) -> Any:
        return self.real().getLogger(name) if "logging" in sys.modules else _Silent()


class _Silent:
    """A logger whose level is above all."""

    def debug(self, *_args: object) -> None:
        """Nothing."""

    info = warning = error = exception = debug


class _Locale(StandIn):
    """locale, which sh asks for an encoding that coi names with each command."""

    def getpreferredencoding(self) -> str:
        return "UTF-8"


class _Metadata(StandIn):
    """Knows no distribution."""

    class PackageNotFoundError(ModuleNotFoundError):
        """As importlib.metadata's."""

    def version(self, distribution: str) -> str:
        raise self.PackageNotFoundError(distribution)


class _Platform(StandIn):
    """platform, which takes 2 ms to import; what sh asks at its import is one of uname(2)."""

    def system(self) -> str:
        return os.uname().sysname


def load() -> Any:
    """The module ``sh``."""
    if "sh" in sys.modules:
        return sys.modules["sh"]
    stand_ins = [
        _Asyncio("asyncio", ["Queue"]),
        _Locale("locale"),
        _Logging("logging"),
        _Metadata("importlib.metadata"),
        _Platform("platform"),
    ]
    with put_off(_SELDOM, stand_ins=stand_ins):
        return import_module("sh")
