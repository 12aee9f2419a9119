"""This terminal, once what was on it has let go: asked questions, modes, silence."""

from __future__ import annotations

import os
import re
import sys
import termios
import time
from contextlib import suppress

import pexpect
import pytest

# Arguments: whether coi is in between. Asks the terminal for its title, as what is inside
# does, and says what a shell would read afterwards.
ASKS = """
import os, sys, time
from contextlib import nullcontext
from coi.session.terminal import terminal_restored
with terminal_restored() if sys.argv[1] == "guarded" else nullcontext():
    os.write(1, b"\\x1b[21t")
    time.sleep(0.05)
os.write(1, b"<over>")
line = os.read(0, 999)
os.write(1, b"<read:" + line.strip() + b">")
"""
REPORT = b"\x1b]lrm -r x\r\x1b\\"


class Terminal:
    """The other side of a pseudo-terminal.

    Args:
        answers: whether it tells where its cursor is.
    """

    def __init__(self, how: str, *, answers: bool = True, term: str = "xterm") -> None:
        self.child = pexpect.spawn(
            sys.executable, ["-c", ASKS, how], env={**os.environ, "TERM": term}, timeout=20,
            echo=False,
        )  # fmt: skip
        self.before = termios.tcgetattr(self.child.child_fd)
        self.how, self.answers = how, answers
        self.output = b""
        self._done = 0
        self._owed = b""

    def until(self, what: bytes) -> bytes:
        """All output so far, once ``what`` is in it."""
        deadline = time.monotonic() + 20
        while what not in self.output and time.monotonic() < deadline:
            with suppress(pexpect.TIMEOUT, pexpect.EOF):
                self.output += self.child.read_nonblocking(4096, 0.05)
            self._answer()
        assert what in self.output, self.output
        return self.output

    def _answer(self) -> None:
        for found in re.finditer(
            rb"\x1b\[21t|\x1b\[(\d+);(\d+)H\x1b\[6n", self.output[self._done :]
        ):
            if found[0] == b"\x1b[21t":
                self._owed = REPORT if self.answers or self.how == "open" else b""
            elif self.answers:
                os.write(self.child.child_fd, self._owed + b"\x1b[%s;%sR" % (found[1], found[2]))
                self._owed = b""
            self._done += found.end()
            return self._answer()
        if b"<over>" in self.output and self._owed:
            os.write(self.child.child_fd, self._owed)
            self._owed = b""
        return None


def test_what_the_inside_asked_for_is_answered_to_nobody() -> None:
    terminal = Terminal("guarded")
    terminal.until(b"<over>")
    assert termios.tcgetattr(terminal.child.child_fd) == terminal.before
    terminal.child.send("typed\r")
    terminal.until(b"<read:typed>")


def test_the_control_answers_reach_the_shell() -> None:
    terminal = Terminal("open")
    terminal.until(b"rm -r x>")


def test_a_terminal_that_says_nothing_is_not_waited_for_long() -> None:
    terminal = Terminal("guarded", answers=False)
    begun = time.monotonic()
    terminal.until(b"<over>")
    assert time.monotonic() - begun < 4
    terminal.child.send("typed\r")
    terminal.until(b"typed>")


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_without_sequences_gets_none(term: str) -> None:
    terminal = Terminal("guarded", term=term)
    terminal.until(b"<over>")
    assert terminal.output.replace(b"\x1b[21t", b"").count(b"\x1b") == 0
    terminal.child.send("x\r")


def test_the_position_is_another_each_time() -> None:
    """Nobody inside can have had the same questions answered before."""
    asked = set()
    for _ in range(3):
        terminal = Terminal("guarded")
        output = terminal.until(b"<over>")
        places = re.findall(rb"\x1b\[(\d+);(\d+)H\x1b\[6n", output)
        assert len(places) == 4
        asked.add(tuple(places))
        terminal.child.send("x\r")
    assert len(asked) == 3
