"""SIGINT, SIGTERM and SIGHUP end what coi does, wherever they find it."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from coi.errors import Interrupted

_AGAIN = 0.001  # seconds until what was dropped is raised again


def handle() -> None:
    """Let the three signals raise :class:`Interrupted`; one that is ignored stays so.

    ``nohup`` and a script's background job have coi ignore one.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _interrupted if signum == signal.SIGINT else ended)
    sys.unraisablehook = _unraisable


def _interrupted(_signum: int, _frame: FrameType | None) -> None:
    raise Interrupted("interrupted")  # KeyboardInterrupt is made an exit code by the parser


def ended(signum: int, _frame: FrameType | None) -> None:
    """Handler of a signal that ends coi."""
    raise Interrupted(f"ended by {signal.Signals(signum).name}")


def _unraisable(lost: sys.UnraisableHookArgs, /) -> None:
    """Raise an Interrupted anew that Python has dropped.

    A handler runs between any two bytecodes, also those of a destructor, of a
    weak reference's callback or of fork's hooks: nothing is raised out of these.
    """
    error = lost.exc_value
    if not isinstance(error, Interrupted):
        sys.__unraisablehook__(lost)
        return

    def again(_signum: int, _frame: FrameType | None) -> None:
        raise error

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)
