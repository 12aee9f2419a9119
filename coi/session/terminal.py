"""This terminal: its name inside, its modes, and who gets Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from coi.errors import UsageError

# Terminals that every image's terminfo knows (Debian's ncurses-base); what else
# calls itself a terminal today is close enough to xterm-256color.
_KNOWN_TERM = re.compile(
    r"(xterm|screen|tmux|rxvt|rxvt-unicode)(-(16|88|256)color)?|linux|vt100|vt220|ansi"
)


def terminal_name(environ: Mapping[str, str] = os.environ) -> str:
    """TERM for the inside."""
    name = environ.get("TERM", "")
    return name if _KNOWN_TERM.fullmatch(name) else "xterm-256color"


def need_terminal() -> None:
    """Raise UsageError where there is no terminal to put the session on."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "a session needs a terminal",
            hint="coi shell --background starts one without; coi run runs a command",
        )


@contextmanager
def terminal_restored() -> Iterator[None]:
    """Leave the terminal's modes as they were, whatever happens to its client."""
    try:
        before = termios.tcgetattr(0)
    except termios.error:
        yield
        return
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(0, termios.TCSANOW, before)


@contextmanager
def interrupts_inside() -> Iterator[None]:
    """Ctrl-C is for the tool inside, not for coi."""
    before = signal.signal(signal.SIGINT, lambda _signum, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
