"""This terminal: its name inside, its modes, and who gets Ctrl-C."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from coi.errors import UsageError
from coi.records import record

# Terminals that every image's terminfo knows (Debian's ncurses-base); what else
# calls itself a terminal today is close enough to xterm-256color.
_KNOWN_TERM = re.compile(
    r"(xterm|screen|tmux|rxvt|rxvt-unicode)(-(16|88|256)color)?|linux|vt100|vt220|ansi"
)


def terminal_name(environ: Mapping[str, str] = os.environ) -> str:
    """TERM for the inside."""
    name = environ.get("TERM", "")
    return name if _KNOWN_TERM.fullmatch(name) else "xterm-256color"


def has_terminal() -> bool:
    """Whether there is a terminal to put a session on."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def need_terminal() -> None:
    """Raise UsageError where there is none."""
    if not has_terminal():
        raise UsageError(
            "a session needs a terminal",
            hint="coi shell --background starts one without; coi run runs a command",
        )


@record
class Left:
    """How a client let go of the terminal.

    Attributes:
        whole: it came to its own end: what it had switched on is off again.
    """

    whole: bool = False


@contextmanager
def terminal_restored() -> Iterator[Left]:
    """Leave the terminal as it was, whatever happens to its client.

    What runs inside may have switched on whatever a terminal has, may have left a sequence
    open that swallows what comes next, and may have asked for answers that would be typed
    into the user's shell: all of it ends here.
    """
    left = Left()
    try:
        before = termios.tcgetattr(0)
    except termios.error:
        yield left
        return
    try:
        yield left
    finally:
        try:
            with suppress(OSError, termios.error):
                if os.isatty(1) and os.tcgetpgrp(0) == os.getpgrp():
                    _calm(before, whole=left.whole)
        finally:
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSANOW, before)


# Xterm's "Control Sequences"; what a terminal does not know it ignores. CAN and ST end a
# sequence that was left open, ESC < ends VT52 mode.
_HEAR = "\x18\x1b\\\x1b<"
# Leaves the alternate screen: the cursor stays where it is, or goes where it was before. Then
# the former is kept for a terminal that is on the ordinary screen already.
_SCREEN, _SCREEN_AND_CURSOR = "\x1b[?1047l", "\x1b7\x1b[?1049l"
# In this order: printer off; keyboard not locked, no local echo, Enter is one character, text
# replaces; arrow keys as they are, no reverse video, wrapping, a cursor; no mouse, focus,
# paste, colour or size reports, no frame held back; no modified keys in xterm's way or
# kitty's; keypad as it is; plain text in ASCII, no link; no margins and no origin, which move
# the cursor: it is kept.
_RESET = (
    "\x1b[4i\x1b[?4i\x1b[2l\x1b[12h\x1b[20l\x1b[4l"
    "\x1b[?1l\x1b[?5l\x1b[?7h\x1b[?25h"
    "\x1b[?9l\x1b[?1000l\x1b[?1001l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[?1015l"
    "\x1b[?1016l\x1b[?1004l\x1b[?2004l\x1b[?2031l\x1b[?2048l\x1b[?2026l"
    "\x1b[>4m\x1b[=0u\x1b>\x1b(B\x0f\x1b[m\x1b]8;;\x1b\\\x1b7\x1b[?69l\x1b[?6l\x1b[r\x1b8"
)
_SILENCE = 1.0  # seconds after which a terminal says no more
_LONGEST = 5.0  # seconds for one that goes on and on
_POSITIONS = 4  # asked for: nobody inside can have had the same answers sent before


def _calm(before: list[Any], *, whole: bool) -> None:
    """Switch off what is on, and throw away what the terminal answers to the inside.

    A terminal answers in turn. So it is asked for something that the inside cannot have asked:
    where the cursor is, after it was put to places chosen by chance. All that comes before is
    none of the shell's.

    Raises:
        OSError, termios.error: the terminal is gone.
    """
    if os.environ.get("TERM") in (None, "", "dumb"):
        return
    quiet = [*before[:6], [*before[6]]]
    quiet[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
    termios.tcsetattr(0, termios.TCSANOW, quiet)
    size = os.get_terminal_size(1)
    chance = os.urandom(2 * _POSITIONS)
    places = [
        (row % max(size.lines, 1) + 1, column % max(size.columns, 1) + 1)
        for row, column in zip(chance[::2], chance[1::2], strict=True)
    ]
    asked = "".join(f"\x1b[{row};{column}H\x1b[6n" for row, column in places)
    awaited = "".join(f"\x1b[{row};{column}R" for row, column in places).encode()
    screen = _SCREEN if whole else _SCREEN_AND_CURSOR
    _write(f"{_HEAR}{screen}{_RESET}\x1b7{asked}\x1b8".encode())
    begun, said = time.monotonic(), b""
    while awaited not in said and time.monotonic() < begun + _LONGEST:
        if not select.select([0], [], [], _SILENCE)[0] or not (more := os.read(0, 1 << 12)):
            break
        said = said[-len(awaited) :] + more
    termios.tcflush(0, termios.TCIFLUSH)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


@contextmanager
def interrupts_inside() -> Iterator[None]:
    """Ctrl-C is for the tool inside, not for coi."""
    before = signal.signal(signal.SIGINT, lambda _signum, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
