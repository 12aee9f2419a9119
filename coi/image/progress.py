"""What a build tells whoever watches it. The terminal is the CLI's business."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC: titles, links
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Progress(Protocol):
    """Called in this order: ``plan``, then per step ``begin``, any number of
    ``output`` and ``tick``, and ``end``; ``note`` at any time."""

    def plan(self, titles: Sequence[str]) -> None:
        """The steps that are to come."""

    def begin(self, index: int, title: str) -> None:
        """Step ``index`` (from 0) starts."""

    def output(self, line: str) -> None:
        """The newest line of the running step's output, safe to print."""

    def tick(self) -> None:
        """Time passed; called about ten times a second while a step runs."""

    def end(self, index: int, seconds: float, ok: bool) -> None:
        """Step ``index`` ended."""

    def note(self, text: str) -> None:
        """Something the user should know, one line, safe to print."""


class Silent:
    """Shows nothing."""

    def plan(self, titles: Sequence[str]) -> None: ...

    def begin(self, index: int, title: str) -> None: ...

    def output(self, line: str) -> None: ...

    def tick(self) -> None: ...

    def end(self, index: int, seconds: float, ok: bool) -> None: ...

    def note(self, text: str) -> None: ...


def clean(text: str) -> str:
    """Untrusted output without terminal escapes and control characters;
    line ends and tabs stay."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def last_line(text: str, limit: int = 200) -> str:
    """The last line of ``text`` that says something, cleaned, at most
    ``limit`` characters; '' when there is none."""
    for line in reversed(clean(text).splitlines()):
        if line.strip():
            return line.strip().expandtabs(1)[:limit]
    return ""
