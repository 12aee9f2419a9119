"""The one place that writes to the terminal: results, notices, errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from coi.errors import CoiError, Interrupted, UsageError

# Escape sequences (ECMA-48: CSI, OSC and the other string controls, two-byte ones).
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[PX^_\]][^\n]*?(?:\x1b\\|\x07|$)|\x1b[ -/]*[0-~]",
    re.MULTILINE,  # a string control that nobody ends ends with its line
)


def clean(text: str) -> str:
    """Text from elsewhere, made safe for a terminal.

    Escape sequences, control characters other than newline and tab, and
    bidirectional overrides are taken out.
    """
    text = _ESCAPES.sub("", text)
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _UNSAFE)


_UNSAFE = frozenset({"Cc", "Cf", "Cs"})


def one_line(text: str) -> str:
    """:func:`clean`, and line breaks, tabs and runs of spaces become one space."""
    return " ".join(clean(text).split())


_COLOURS = {"ok": "32", "warn": "33", "fail": "1;31"}  # ECMA-48, SGR
_CLEAR = "\r\x1b[K"
_transient: list[str] = []  # the line of progress that may stand on the terminal


class Output:
    """Writes for one command.

    Args:
        quiet: no notices.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    def result(self, text: str) -> None:
        """A result, on stdout."""
        self._write(clean(text) + "\n")

    @staticmethod
    def _write(text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # coi list | head -1
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def data(self, value: Mapping[str, Any] | list[Any]) -> None:
        """A result as JSON, on stdout."""
        self.result(json.dumps(value, indent=2, sort_keys=False, ensure_ascii=True))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A result in columns: drawn on a terminal, aligned text in a pipe."""
        cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
        if sys.stdout.isatty():
            from rich import box
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text

            table = Table(*columns, box=box.SIMPLE_HEAD)
            for row in cells:
                table.add_row(*(Text(cell) for cell in row))
            Console().print(table)
            return
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in [list(columns), *cells]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.result(line.rstrip())

    def checks(self, rows: Sequence[tuple[str, str, str, str]]) -> None:
        """Status, name, finding and what mends it, on stdout: one line each and one for the
        last, in columns; wrapped and coloured on a terminal.

        A command that mends is never wrapped: it is there to be copied.
        """
        import textwrap

        terminal = sys.stdout.isatty()
        width = max((len(name) for _, name, _, _ in rows), default=0)
        indent = " " * (width + 8)
        columns = max(shutil.get_terminal_size().columns, width + 40) if terminal else 0
        for status, name, text, mend in rows:
            shown = f"{status:<4}  {name:<{width}}  {one_line(text)}"
            lines = [shown]
            if terminal:
                lines = textwrap.wrap(
                    shown, columns, subsequent_indent=indent, break_long_words=False,
                    break_on_hyphens=False, drop_whitespace=True,
                ) or [shown]  # fmt: skip
            if terminal and "NO_COLOR" not in os.environ:
                lines[0] = f"\x1b[{_COLOURS[status]}m{status:<4}\x1b[0m{lines[0][4:]}"
            if mend:
                lines.append(f"{indent}mend: {one_line(mend)}")
            self._write("\n".join(lines) + "\n")

    def confirm(self, question: str) -> None:
        """Ask on the terminal; return on yes.

        Raises:
            UsageError: there is no terminal to ask on.
            CoiError: the answer is not yes.
        """
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"{question} - no terminal to ask on", hint="--force does not ask")
        sys.stderr.write(f"{clean(question)} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CoiError("not confirmed, nothing done")

    def notice(self, text: str) -> None:
        """A line of progress, on stderr; nothing when the terminal is gone."""
        if not self.quiet:
            self._error_line(clean(text))

    def warning(self, text: str) -> None:
        """A line on stderr that --quiet does not silence."""
        self._error_line(clean(text))

    def transient(self, text: str) -> None:
        """A line that the next one replaces, '' to clear it; on a terminal only."""
        if not self.quiet and sys.stderr.isatty():
            with suppress(OSError, ValueError):
                sys.stderr.write(_CLEAR + clean(text).replace("\n", " "))
                sys.stderr.flush()
                _transient[:] = [text] if text else []

    def error(self, error: CoiError | Interrupted) -> None:
        """``Error:``, the reason, ``Hint:``."""
        lines = [f"Error: {one_line(error.brief)}"]
        if error.details:
            lines += ["  " + line for line in clean(error.details).splitlines() if line.strip()]
        if error.hint:
            lines.append(f"Hint: {clean(error.hint)}")
        self._error_line("\n".join(lines))

    @staticmethod
    def _error_line(text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write((_CLEAR if _transient else "") + text + "\n")
            sys.stderr.flush()
