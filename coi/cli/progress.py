"""How a build's progress looks: a step list on a terminal, lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from coi.cli.output import Output, clean

if TYPE_CHECKING:
    from rich.console import RenderableType

    from coi.image.progress import Progress

_REFRESH = 0.1  # seconds between two drawings
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def seconds_text(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``2 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


class PlainProgress:
    """One line when a step begins and one when it ends, on stderr."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._total = 0

    def plan(self, titles: Sequence[str]) -> None:
        self._total = len(titles)

    def begin(self, index: int, title: str) -> None:
        self._output.notice(f"==> [{index + 1}/{self._total}] {title}")

    def output(self, line: str) -> None: ...

    def tick(self) -> None: ...

    def end(self, index: int, seconds: float, ok: bool) -> None:
        self._output.notice(f"    {'done in' if ok else 'failed after'} {seconds_text(seconds)}")

    def note(self, text: str) -> None:
        self._output.notice(f"    note: {text}")


class LiveProgress:
    """All steps with their times, redrawn in place, and the newest output line.

    Drawn from the build's own loop: no thread, because processes are forked.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="visible")
        self._titles: list[str] = []
        self._times: list[float] = []
        self._ok = True
        self._running: int | None = None
        self._line = ""
        self._since = 0.0
        self._drawn = 0.0

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._draw()
        self._live.stop()

    def plan(self, titles: Sequence[str]) -> None:
        self._titles = [clean(title) for title in titles]
        self._draw()

    def begin(self, index: int, title: str) -> None:
        self._running, self._line, self._since = index, "", time.monotonic()
        self._draw()

    def output(self, line: str) -> None:
        self._line = clean(line)
        self.tick()

    def tick(self) -> None:
        if time.monotonic() - self._drawn >= _REFRESH:
            self._draw()

    def end(self, index: int, seconds: float, ok: bool) -> None:
        self._times.append(seconds)
        self._running, self._line, self._ok = None, "", ok
        self._draw()

    def note(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(f"note: {clean(text)}", style="yellow"))

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.update(self._render(), refresh=True)

    def _render(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        fancy = "utf" in (self._console.encoding or "").lower()
        done, failed, todo = ("✓", "✗", "·") if fancy else ("+", "x", ".")
        spinner: Any = _SPINNER if fancy else "|/-\\"
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, justify="right")
        for index, title in enumerate(self._titles):
            if index < len(self._times):
                bad = not self._ok and index == len(self._times) - 1
                mark = Text(failed, "red") if bad else Text(done, "green")
                table.add_row(mark, Text(title), Text(seconds_text(self._times[index]), "dim"))
            elif index == self._running:
                frame = spinner[int(self._drawn * 10) % len(spinner)]
                elapsed = seconds_text(self._drawn - self._since)
                table.add_row(Text(frame, "cyan"), Text(title, "bold"), Text(elapsed))
                if self._line:
                    table.add_row("", Text("  " + self._line, "dim"), "")
            else:
                table.add_row(Text(todo, "dim"), Text(title, "dim"), "")
        return table


@contextmanager
def progress(output: Output) -> Iterator[Progress]:
    """What suits stderr: nothing with ``--quiet``, live on a terminal, else lines."""
    if output.quiet:
        from coi.image.progress import Silent

        yield Silent()
        return
    if not sys.stderr.isatty():
        yield PlainProgress(output)
        return
    live = LiveProgress()
    live.start()
    try:
        yield live
    finally:
        live.stop()
