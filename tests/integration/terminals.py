"""A terminal that obeys what it is told: what is left on, and answers that are typed for it."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import Any

from coi.testing.host import Host
from coi.testing.machine import COI
from coi.testing.screen import Screen

# Modes of xterm that change what is typed or seen, and those that are on at first.
_ON_AT_FIRST = {7, 25}
_MODES = {1, 5, 6, 7, 9, 25, 47, 69, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047,
          1049, 2004, 2026, 2031, 2048}  # fmt: skip
_ALTERNATE = {47, 1047, 1049}
_SEQUENCE = re.compile(
    rb"\x1b\[(?P<mark>[?>=]?)(?P<numbers>[0-9;]*)(?P<end>[a-zA-Z])"
    rb"|\x1b(?P<string>[\]PX^_])|(?P<stop>\x1b\\|\x07|\x18)|\x1b(?P<short>[=>]|\([0B])"
)

# Everything that a terminal can be left with, an open sequence last.
WRECK = (
    b"\x1b[?1049h\x1b[?1000h\x1b[?1003h\x1b[?1006h\x1b[?1004h\x1b[?2004h\x1b[?2031h\x1b[?2048h"
    b"\x1b[?2026h\x1b[?25l\x1b[?7l\x1b[?1h\x1b=\x1b[?5h\x1b[?69h\x1b[4h\x1b[20h\x1b[2h\x1b[12l\x1b(0"
    b"\x1b]0;all that coi says is my title: "
)


def left_on(output: bytes) -> set[str]:
    """What a terminal that got these bytes is left with, beside what it has at first."""
    modes: dict[str, bool] = {}
    inside = False
    for found in _SEQUENCE.finditer(output):
        if found["stop"]:
            inside = False
        elif inside:
            continue
        elif found["string"]:
            inside = True
        elif found["short"]:
            modes["keypad" if found["short"] in b"=>" else "charset"] = found["short"] in (
                b"=", b"(0",
            )  # fmt: skip
        elif found["end"] in (b"h", b"l"):
            on = found["end"] == b"h"
            for number in map(int, filter(None, found["numbers"].split(b";"))):
                if found["mark"] == b"?" and number in _MODES:
                    name = "alternate screen" if number in _ALTERNATE else f"?{number}"
                    modes[name] = on != (number in _ON_AT_FIRST)
                elif not found["mark"]:
                    modes[str(number)] = on != (number == 12)
    return {name for name, odd in modes.items() if odd} | ({"open"} if inside else set())


class Obeying(Screen):
    """A terminal that reports its title, as old ones do, which is a command and Enter.

    Attributes:
        typed: what it answers.
        held: nothing is answered before this was written to it.
        late: seconds until an answer.
    """

    typed = b"\x1b]l\rtouch pwned\r\x1b\\"
    held = b""
    late = 0.1

    def __init__(self, *args: Any, **how: Any) -> None:
        self.queue: list[tuple[float, bytes]] = []
        self.asked = 0
        self.told = 0
        super().__init__(*args, **how)

    def answer(self, data: bytes) -> None:
        self.queue.append((time.monotonic() + self.late, data))

    def pump(self, timeout: float) -> bool:
        start = len(self.output)
        going = super().pump(min(timeout, 0.02))
        asked = self.output.count(b"\x1b[21t", max(start - 4, 0))
        # In the order of the questions: the title's are before those of the end.
        self.queue[:0] = [(time.monotonic() + self.late, self.typed)] * asked
        self.asked += asked
        while self.queue and self.held in self.output and self.queue[0][0] <= time.monotonic():
            _, data = self.queue.pop(0)
            self.told += data == self.typed
            super().answer(data)
        return going


def obeying(host: Host, *command: str) -> Obeying:
    """A shell of the host on a terminal that obeys."""
    opened = Obeying(
        command or ["bash", "--norc", "-i"], cwd=host.workspace,
        environ={**host.environ, "PS1": "host> ", "COI": str(COI)}, become=host.user.become,
    )  # fmt: skip
    host.screens.append(opened)
    return opened


def clients(host: Host, slot: int = 1) -> list[str]:
    """The terminals inside that are clients of the session's tmux."""
    command = "TMUX_TMPDIR=/home/code/.coi tmux list-clients -F '#{client_tty}'"
    with suppress(AssertionError):
        return host.inside(command, slot=slot, user="code").split()
    return []
