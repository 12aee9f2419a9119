"""SHA-256 as the interpreter has it built in.

:mod:`hashlib` loads OpenSSL also where Python's own code is enough: 5 ms of a start, and 3.4 MiB
for as long as the process lives (measured, Python 3.11). What is hashed here is short. Where
an interpreter has no module of its own, hashlib's it is; the standard library's ``random`` does
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

__all__ = ["Hash", "sha256"]


class Hash(Protocol):
    """What of a hash object is used."""

    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


def _found() -> Callable[[bytes], Hash]:
    for name in ("_sha2", "_sha256"):  # from Python 3.12 on, and before
        with suppress(ImportError):
            module: Any = import_module(name)
            made: Callable[[bytes], Hash] = module.sha256
            return made
    from hashlib import sha256

    return sha256


sha256 = _found()
