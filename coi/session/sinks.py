"""Where the output of a command inside goes, when that is no file descriptor."""

from __future__ import annotations

from collections.abc import Callable

Sink = Callable[[bytes], object]
"""Takes what comes out of a container, piece by piece."""


class Kept:
    """A sink that keeps the beginning.

    Args:
        limit: bytes.

    Attributes:
        cut: there was more.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.cut = False

    def __call__(self, piece: bytes) -> None:
        room = self._limit - len(self._data)
        self._data += piece[:room]
        self.cut = self.cut or len(piece) > room

    @property
    def text(self) -> str:
        """As UTF-8; bytes that are none become U+FFFD, as does a character that was cut."""
        return self._data.decode("utf-8", "replace")
