"""Signals put off while something is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM}


@contextmanager
def shielded() -> Iterator[None]:
    """Put off SIGINT, SIGTERM and SIGHUP until the block ends (and the SIGALRM that
    raises one of them again: coi.cli.signals).

    The mask is this thread's alone. The kernel may give a signal to another thread, and
    Python then runs its handler in the main thread all the same: so that is put off too.
    """
    global _shield
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    mine: _Shield | None = None
    try:
        if _shield is None and threading.current_thread() is threading.main_thread():
            mine = _shield = _Shield()
            mine.begin()
        yield
    finally:
        try:
            if mine is not None:
                _shield = None
                mine.end()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def unshielded() -> None:
    """In a child that was forked within a shield: handlers are as they were before it."""
    global _shield
    shield, _shield = _shield, None
    if shield is not None:
        shield.late.clear()
        shield.end()


class _Shield:
    """Handlers of the main thread that only remember that they were called."""

    def __init__(self) -> None:
        self.late: set[int] = set()
        self._on = True
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def begin(self) -> None:
        for signum in _HELD:
            handler = signal.getsignal(signum)
            if callable(handler):
                self._handlers[signum] = handler
                signal.signal(signum, self._remember)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self._on:
            self.late.add(signum)
        else:  # while the handlers are put back
            self._handlers[signum](signum, frame)

    def end(self) -> None:
        """Put the handlers back; what was remembered is raised once the mask is lifted."""
        self._on = False
        for signum, handler in self._handlers.items():
            if signal.getsignal(signum) == self._remember:
                signal.signal(signum, handler)
        for signum in self.late:
            signal.raise_signal(signum)


_shield: _Shield | None = None
