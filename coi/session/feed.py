"""An exec whose environment arrives ahead of its standard input.

Values of ``--env`` may be secret, and argv is public: they travel as the first
bytes of standard input. A constant ``sh`` script inside reads exactly that
many bytes, exports what they say, and leaves the rest to the command.
"""

from __future__ import annotations

import os
import select
import shlex
import time
from collections.abc import Mapping, Sequence

from coi.incus.process import Process, Runner, memory_file

_CHUNK = 1 << 16

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
        self._sink: int | None = None
        own: int | None = None  # the child's end, ours to close
        if head and source is None:
            own = memory_file(head)
        elif head:
            own, self._sink = os.pipe()
            os.set_blocking(self._sink, False)
            self._head = memoryview(head)
        try:
            self.process: Process = runner.spawn(
                args,
                stdin=source if own is None else own,
                stdout=stdout,
                stderr=stderr,
                die_with_parent=die_with_parent,
            )
        except BaseException:
            self._close()
            raise
        finally:
            if own is not None:
                os.close(own)

    def wait(self, deadline: float | None = None) -> int:
        """Feed the child until it ends; its exit code, 128 + n for signal n.

        Args:
            deadline: of ``time.monotonic()``.

        Raises:
            TimeoutError: it passed; the child still runs.
        """
        while self._sink is not None and not self.process.poll():
            self._pump(self._sink, _left(deadline))
        code = self.process.wait(_left(deadline))
        return code if code >= 0 else 128 - code

    def _pump(self, sink: int, timeout: float | None) -> None:
        """Move one piece, or wait up to ``timeout`` seconds for the next."""
        source = None if self._head else self._source
        ended = self.process.fileno()
        read = [ended] if source is None else [ended, source]
        ready, writable, _ = select.select(read, [sink] if self._head else [], [], timeout)
        try:
            if writable:
                self._head = self._head[os.write(sink, self._head) :]
            elif source is not None and source in ready:
                self._head = memoryview(os.read(source, _CHUNK))
                if not self._head:
                    self._close()
        except BlockingIOError:
            return
        except OSError:  # the child takes no more, or there is no more to read
            self._close()

    def _close(self) -> None:
        if self._sink is not None:
            os.close(self._sink)
            self._sink = None

    def __enter__(self) -> Fed:
        self.process.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self.process.__exit__(None, None, None)


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
