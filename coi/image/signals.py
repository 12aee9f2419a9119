"""Signals during a build: when they interrupt, when they wait, when they are ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from coi.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise :class:`Interrupted` meanwhile."""

    def interrupt(signum: int, _frame: object) -> None:
        # Once is enough: a second Ctrl-C must not stop the cleaning up.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted("interrupted", details=signal.Signals(signum).name)

    with _handlers(interrupt):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """The same signals arrive afterwards: for a request of a few seconds whose
    client must not die between the daemon's work and its answer."""
    arrived: list[int] = []
    try:
        with _handlers(lambda signum, _frame: arrived.append(signum)):
            yield
    finally:
        if arrived:
            os.kill(os.getpid(), arrived[0])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """The same signals are ignored meanwhile, here and in children: for cleaning up."""
    with _handlers(signal.SIG_IGN):
        yield


@contextmanager
def _handlers(handler: object) -> Iterator[None]:
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler that raises returns nothing, which the type of a handler has no room for.
    previous = [(number, signal.signal(number, handler)) for number in _SIGNALS]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, old in previous:
            signal.signal(number, old)
