"""Standard input, output and error of a command that runs inside."""

from __future__ import annotations

import os
import sys
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from coi.errors import UsageError
from coi.records import record

_LONGEST = 1 << 13  # characters of a line that is shown before its end


def passed_input() -> int | None:
    """Standard input, when there is something to pass: not a terminal, not closed."""
    try:
        return None if os.isatty(0) or not os.fstat(0) else 0
    except OSError:
        return None


def checked_argv(words: list[str]) -> tuple[str, ...]:
    """A command's argv as Incus can carry it.

    Raises:
        UsageError: a word that is not UTF-8 (Incus speaks JSON).
    """
    for word in words:
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"the command is not UTF-8: {word!r}") from None
    return tuple(words)


@record(frozen=True)
class Captured:
    """Where a command's output is collected, in memory."""

    stdout: int
    stderr: int

    def text(self) -> dict[str, str]:
        """Both as text, for JSON; bytes that are no UTF-8 become U+FFFD."""
        from coi.incus.process import read_all

        return {
            "stdout": read_all(self.stdout).decode("utf-8", "replace"),
            "stderr": read_all(self.stderr).decode("utf-8", "replace"),
        }

    def replay(self) -> None:
        """Write both where they belong, byte for byte."""
        from coi.incus.process import read_all

        for source, target in ((self.stdout, 1), (self.stderr, 2)):
            write_all(target, read_all(source))


@contextmanager
def capturing() -> Iterator[Captured]:
    """Anonymous memory for the length of a command."""
    out, err = os.memfd_create("coi-out"), os.memfd_create("coi-err")
    try:
        yield Captured(out, err)
    finally:
        os.close(out)
        os.close(err)


@contextmanager
def shown_errors() -> Iterator[int | Callable[[bytes], object]]:
    """Where the standard error of a tool goes: to coi's own as it is, but on a terminal
    line by line, without escape sequences."""
    try:
        terminal = os.isatty(2)
    except OSError:
        terminal = False
    if not terminal:
        yield 2
        return
    lines = _Lines()
    try:
        yield lines
    finally:
        lines.end()


class _Lines:
    """Writes to a terminal what comes in pieces."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def __call__(self, piece: bytes) -> None:
        self._rest += self._decoder.decode(piece).replace("\r", "\n")
        whole, newline, rest = self._rest.rpartition("\n")
        if newline or len(rest) > _LONGEST:
            self._show(whole + newline if newline else rest)
            self._rest = rest if newline else ""

    def end(self) -> None:
        """The last line, which nobody has ended."""
        if self._rest:
            self._show(self._rest + "\n")
            self._rest = ""

    @staticmethod
    def _show(text: str) -> None:
        from coi.cli.output import clean

        write_all(2, clean(text).encode("utf-8", "replace"))


def write_text(text: str) -> None:
    """A text on standard output, as it is where that is no terminal; a newline at its end."""
    from coi.cli.output import clean

    text = clean(text) if sys.stdout.isatty() else text
    write_all(1, (text if text.endswith("\n") else text + "\n").encode("utf-8", "replace"))


def write_all(fd: int, data: bytes) -> None:
    """Write bytes as they are; a reader that has gone away is no error."""
    sys.stdout.flush()
    view = memoryview(data)
    with suppress(BrokenPipeError):
        while view:
            view = view[os.write(fd, view) :]
