"""An exec whose environment arrives ahead of its standard input.

Values of ``--env`` may be secret, and argv is public: they travel as the first
bytes of standard input. A constant ``sh`` script inside reads exactly that
many bytes, exports what they say, and leaves the rest to the command.

The client writes its own last word to the command's standard error. It is held
back here: what comes out is what the command wrote.
"""

from __future__ import annotations

import os
import select
import shlex
import time
from collections.abc import Mapping, Sequence

from coi.incus.errors import NotEnteredError
from coi.incus.process import Process, Runner, memory_file

_CHUNK = 1 << 16
_KEPT = 1 << 20  # bytes of standard input that can be sent again
_PIECE = 4096  # PIPE_BUF: a pipe that is writable takes so much without blocking

# What the client adds, by the exit code (measured, Incus 6.0.4): 126 and 127 are the
# command's own and it says so each time; with 255 nobody could enter the container.
_NOT_ENTERED = b"Error: Failed to retrieve PID of executing child process\n"
_LAST_WORDS = {
    126: b"Error: Command not executable\n",
    127: b"Error: Command not found\n",
    255: _NOT_ENTERED,
}

# Reads $1 bytes and runs them. GNU and busybox `dd` ask read(2) for no more than what
# is missing, so nothing of the command's own input is taken (10 MiB compared).
READ_HEADER = r"""
if [ "$1" -gt 0 ]; then
  eval "$(dd bs="$1" count=1 iflag=fullblock 2>/dev/null)" || exit 125
fi
shift
"""


def header(environment: Mapping[str, str]) -> bytes:
    """What :data:`READ_HEADER` reads; nothing for no variables."""
    lines = (f"export {key}={shlex.quote(value)}\n" for key, value in environment.items())
    return "".join(lines).encode("utf-8", "surrogateescape")


class Fed:
    """A child whose standard input is some bytes and then a file descriptor.

    Args:
        head: these come first.
        source: then what can be read from it; None for nothing.
        stdout, stderr: file descriptors.
        die_with_parent: see :meth:`coi.incus.process.Runner.spawn`.

    Attributes:
        taken: what another child is to be given first where this one was not
            entered: the head and what was read of the source since. None: too much
            was read to have been kept.

    Use as a context manager, as :class:`coi.incus.process.Process`.
    """

    def __init__(
        self,
        runner: Runner,
        args: Sequence[str],
        *,
        head: bytes,
        source: int | None,
        stdout: int,
        stderr: int,
        die_with_parent: bool = False,
    ) -> None:
        self._head = memoryview(b"")
        self._source = source
        self.taken: bytes | None = head
        self._sink: int | None = None
        self._target = stderr
        self._errors = bytearray()
        self._closed = False  # nobody reads our standard error any more
        own: int | None = None  # the child's end, ours to close
        if head and source is None:
            own = memory_file(head)
        elif source is not None and (head or not seekable(source)):
            own, self._sink = os.pipe()
            os.set_blocking(self._sink, False)
            self._head = memoryview(head)
        heard, theirs = os.pipe()
        os.set_blocking(heard, False)
        self._heard: int | None = heard
        try:
            self.process: Process = runner.spawn(
                args,
                stdin=source if own is None else own,
                stdout=stdout,
                stderr=theirs,
                die_with_parent=die_with_parent,
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(theirs)
            if own is not None:
                os.close(own)

    def wait(self, deadline: float | None = None) -> int:
        """Feed the child until it ends; its exit code, 128 + n for signal n.

        Args:
            deadline: of ``time.monotonic()``.

        Raises:
            NotEnteredError: the daemon could not enter the container.
            TimeoutError: the deadline passed; the child still runs.
        """
        while not self.process.poll():
            self._pump(_left(deadline))
        code = self.process.wait()
        while self._heard is not None or self._ready():
            self._pump(None, ended=True)
        last = _LAST_WORDS.get(code, b"")
        if last and self._errors == last:
            self._errors.clear()
            if code == 255:
                raise NotEnteredError("the daemon could not enter the container")
        while self._errors and not self._closed:
            self._write(len(self._errors))
        return code if code >= 0 else 128 - code

    def _ready(self) -> int:
        """How much of standard error is not, and does not begin, the client's last word."""
        errors = bytes(self._errors)
        for word in _LAST_WORDS.values():
            if errors.endswith(word):
                return len(errors) - len(word)
        return len(errors)

    def _pump(self, timeout: float | None, *, ended: bool = False) -> None:
        """Move one piece each way, or wait up to ``timeout`` seconds for the next."""
        ready = 0 if self._closed else self._ready()
        readers = [] if ended else [self.process.fileno()]
        source = None if self._head or self._sink is None or ended else self._source
        if source is not None:
            readers.append(source)
        if self._heard is not None and not ready:
            readers.append(self._heard)
        sinks = [self._sink] if self._head and self._sink is not None and not ended else []
        writers = [*sinks, self._target] if ready else sinks
        readable, writable, _ = select.select(readers, writers, [], timeout)
        if ready and self._target in writable:
            self._write(ready)
        if self._heard is not None and self._heard in readable:
            self._hear(self._heard)
        self._feed(self._sink in writable, source if source in readable else None)

    def _feed(self, writable: bool, source: int | None) -> None:
        """One piece of standard input."""
        if self._sink is None:
            return
        try:
            if writable and self._head:
                self._head = self._head[os.write(self._sink, self._head) :]
            elif source is not None:
                piece = os.read(source, _CHUNK)
                self._head = memoryview(piece)
                if self.taken is not None:
                    self.taken += piece
                    if len(self.taken) > _KEPT:
                        self.taken = None
                if not piece:
                    self._close_sink()
        except BlockingIOError:
            return
        except OSError:  # the child takes no more, or there is no more to read
            self._head = memoryview(b"")
            self._close_sink()

    def _hear(self, heard: int) -> None:
        """One piece of standard error; none is its end."""
        try:
            piece = os.read(heard, _CHUNK)
        except BlockingIOError:
            return
        if piece:
            self._errors += b"" if self._closed else piece
        else:
            self._close_heard()

    def _write(self, size: int) -> None:
        """One piece of what was heard, of the first ``size`` bytes of it."""
        try:
            written = os.write(self._target, self._errors[: min(size, _PIECE)])
        except BlockingIOError:
            return
        except OSError:  # nobody reads it: the client is to know, as at a pipe of its own
            self._closed = True
            self._errors.clear()
            self._close_heard()
            return
        del self._errors[:written]

    def _close(self) -> None:
        self._close_sink()
        self._close_heard()

    def _close_sink(self) -> None:
        if self._sink is not None:
            os.close(self._sink)
            self._sink = None

    def _close_heard(self) -> None:
        if self._heard is not None:
            os.close(self._heard)
            self._heard = None

    def __enter__(self) -> Fed:
        self.process.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self.process.__exit__(None, None, None)


def seekable(fd: int) -> bool:
    """Whether what a child has read of it can be read again."""
    try:
        os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return False
    return True


def _left(deadline: float | None) -> float | None:
    """Seconds until then.

    Raises:
        TimeoutError: there are none.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
