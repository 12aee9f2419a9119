"""The one place that writes to the terminal: results, notices, errors."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from coi.errors import CoiError

# Escape sequences (ECMA-48: CSI, OSC and the other string controls, two-byte ones).
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[PX^_\]].*?(?:\x1b\\|\x07|$)|\x1b[ -/]*[0-~]",
    re.DOTALL,
)


def clean(text: str) -> str:
    """Text from elsewhere, made safe for a terminal.

    Escape sequences, control characters other than newline and tab, and
    bidirectional overrides are taken out.
    """
    text = _ESCAPES.sub("", text)
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _UNSAFE)


_UNSAFE = frozenset({"Cc", "Cf", "Cs"})


class Output:
    """Writes for one command.

    Args:
        quiet: no notices.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    def result(self, text: str) -> None:
        """A result, on stdout."""
        try:
            sys.stdout.write(clean(text) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # coi list | head -1
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def data(self, value: Mapping[str, Any] | list[Any]) -> None:
        """A result as JSON, on stdout."""
        self.result(json.dumps(value, indent=2, sort_keys=False, ensure_ascii=True))

    def notice(self, text: str) -> None:
        """A line of progress, on stderr; nothing when the terminal is gone."""
        if not self.quiet:
            self._error_line(clean(text))

    def error(self, error: CoiError) -> None:
        """``Error:``, the reason, ``Hint:``."""
        lines = [f"Error: {clean(error.brief)}"]
        if error.details:
            lines += ["  " + line for line in clean(error.details).splitlines() if line.strip()]
        if error.hint:
            lines.append(f"Hint: {clean(error.hint)}")
        self._error_line("\n".join(lines))

    @staticmethod
    def _error_line(text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
