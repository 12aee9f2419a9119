"""A terminal that a test looks at: a pseudo-terminal and an emulator that draws it."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pexpect
import pyte

DEADLINE = 60.0  # seconds
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\].*?(?:\x1b\\|\x07)|\x1b[ -/]*[0-~]|[\r\x0f\x18]", re.DOTALL
)

_KITTY = b"\x1b[=0u"  # pyte would draw it


class _Emulator(pyte.Screen):
    """pyte, which takes xterm's key-mode sequences (CSI > ... m) for colours.

    It tells where its cursor is when it is asked, as every terminal does.
    """

    answer: Callable[[bytes], object] = len  # what takes the answers

    def report_device_status(self, mode: int) -> None:
        if mode == 6:
            super().report_device_status(mode)

    def write_process_input(self, data: str) -> None:
        self.answer(data.encode())

    def select_graphic_rendition(self, *attrs: int, private: bool = False, **_: Any) -> None:
        if not private:
            super().select_graphic_rendition(*attrs)


class Screen:
    """A command on a pseudo-terminal.

    Attributes:
        output: everything that was written to the terminal, as bytes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        environ: Mapping[str, str],
        become: Callable[[], None],
        size: tuple[int, int] = (120, 40),
    ) -> None:
        columns, lines = size
        self.command = list(command)
        self.output = b""
        self.hung_up = False
        self._emulator = _Emulator(columns, lines)
        self._stream = pyte.ByteStream(self._emulator)
        self.child = pexpect.spawn(
            command[0],
            list(command[1:]),
            cwd=str(cwd),
            env=dict(environ),
            preexec_fn=become,
            dimensions=(lines, columns),
            timeout=DEADLINE,
        )
        self.child.delaybeforesend = None
        self.child.delayafterclose = 0.02
        self.child.delayafterterminate = 0.02
        self.pid = int(self.child.pid)
        self._emulator.answer = self.answer

    # -- what is there

    @property
    def text(self) -> str:
        """The screen as it is drawn now, lines stripped of trailing spaces."""
        return "\n".join(line.rstrip() for line in self._emulator.display).rstrip()

    @property
    def log(self) -> str:
        """All that was ever written, without escape sequences."""
        return _ESCAPES.sub("", self.output.decode("utf-8", "replace"))

    def dump(self) -> str:
        """For the message of a failure."""
        shown = re.sub(r"\n{3,}", "\n\n", self.text)
        tail = re.sub(r"\n\s*\n+", "\n", self.log)[-3000:]
        bar = "-" * 40
        return (
            f"\n{bar} screen of {self.command}\n{shown}\n{bar} the end of its output\n{tail}\n{bar}"
        )

    def alive(self) -> bool:
        """Whether the command still runs."""
        return bool(self.child.isalive())

    # -- waiting

    def pump(self, timeout: float) -> bool:
        """Take in what was written, waiting up to ``timeout`` seconds; False at the end."""
        fd = self.child.child_fd
        if not select.select([fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(fd, 1 << 16)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:
            return False
        self.output += data
        self._stream.feed(data.replace(_KITTY, b""))
        return True

    def answer(self, data: bytes) -> None:
        """Let the terminal say something to what runs on it."""
        with suppress(OSError):
            os.write(self.child.child_fd, data)

    def until(
        self,
        reached: Callable[[], Any],
        *,
        timeout: float = DEADLINE,
        what: str = "",
        step: float = 0.1,
    ) -> Any:
        """Take in output until ``reached`` returns something true, and return it."""
        deadline = time.monotonic() + timeout
        while True:
            found = reached()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{what or reached} not within {timeout:.0f} s{self.dump()}")
            if not self.pump(step):
                found = reached()
                if found:
                    return found
                raise AssertionError(f"{what or reached}: the terminal has ended{self.dump()}")

    def expect(self, pattern: str, *, timeout: float = DEADLINE) -> re.Match[str]:
        """Wait for a regular expression on the drawn screen."""
        wanted = re.compile(pattern, re.MULTILINE)
        match: re.Match[str] = self.until(
            lambda: wanted.search(self.text), timeout=timeout, what=f"{pattern!r} on the screen"
        )
        return match

    def gone(self, pattern: str, *, timeout: float = DEADLINE) -> None:
        """Wait until a regular expression is no more on the drawn screen."""
        wanted = re.compile(pattern, re.MULTILINE)
        self.until(
            lambda: not wanted.search(self.text), timeout=timeout, what=f"{pattern!r} to vanish"
        )

    def expect_log(self, pattern: str, *, timeout: float = DEADLINE) -> re.Match[str]:
        """Wait for a regular expression in all that was written, overdrawn or not."""
        wanted = re.compile(pattern, re.MULTILINE)
        match: re.Match[str] = self.until(
            lambda: wanted.search(self.log), timeout=timeout, what=f"{pattern!r} in the output"
        )
        return match

    def rest(self, quiet: float, *, timeout: float = DEADLINE) -> None:
        """Take in output until none came for ``quiet`` seconds, or the command has ended."""
        deadline = time.monotonic() + timeout
        seen = -1
        while seen != len(self.output) and time.monotonic() < deadline:
            seen = len(self.output)
            if not self.pump(quiet):
                return

    def end(self, *, timeout: float = DEADLINE) -> int:
        """Wait for the command to end; its exit code, or minus the signal."""
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.command} still runs after {timeout:.0f} s{self.dump()}"
                )
            self.pump(0.02)
        while self.pump(0) and select.select([self.child.child_fd], [], [], 0)[0]:
            pass
        return self._code()

    def _code(self) -> int:
        if self.child.signalstatus is not None:
            return -int(self.child.signalstatus)
        return int(self.child.exitstatus)

    def ended(self, code: int = 0, *, timeout: float = DEADLINE) -> str:
        """Wait for the command to end with ``code``; all that it wrote."""
        got = self.end(timeout=timeout)
        assert got == code, f"it ended with {got}, not {code}{self.dump()}"
        return self.log

    # -- doing

    def send(self, text: str) -> None:
        """Type."""
        self.child.send(text)

    def line(self, text: str) -> None:
        """Type a line and press Enter."""
        self.child.send(text + "\r")

    def detach(self) -> None:
        """Ctrl-b d."""
        self.child.send("\x02d")

    def hang_up(self) -> None:
        """Close the terminal, as a window's close button does: SIGHUP to what is on it."""
        self.hung_up = True
        self.child.ptyproc.fileobj.close()

    def wait_exit(self, *, timeout: float = DEADLINE) -> int:
        """Wait for the command to end, its terminal perhaps gone; its exit code."""
        if not self.hung_up:
            return self.end(timeout=timeout)
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.command} outlives its terminal{self.dump()}")
            time.sleep(0.02)
        return self._code()

    def close(self) -> None:
        """End the command, whatever state it is in."""
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError, pexpect.ExceptionPexpect, ChildProcessError):
            self.child.wait()
        with suppress(OSError, pexpect.ExceptionPexpect):
            self.child.close(force=True)
