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
from collections.abc import Callable, Mapping, Sequence

from coi.incus.errors import NOT_ENTERED, NotEnteredError
from coi.incus.instances import ENTER_DEADLINE, ENTER_POLL
from coi.incus.process import Process, Runner
from coi.session.sinks import Sink

_CHUNK = 1 << 16
_PIECE = 4096  # PIPE_BUF: a pipe that is writable takes so much without blocking

# What the client adds, by the exit code (measured, Incus 6.0.4): 126 and 127 are the
# command's own and it says so each time; with 255 nobody could enter the container.
_NOT_ENTERED = f"Error: {NOT_ENTERED}\n".encode()
_LAST_WORDS = {
    126: b"Error: Command not executable\n",
    127: b"Error: Command not found\n",
}

# The first thing that is heard from inside. An exec that the daemon calls failed may have
# begun all the same (measured): it reads no header then, and runs nothing.
_READY = b"\0coi\0"
SAY_READY = "printf '\\000coi\\000' >&2\n"

# Says that it is there, then reads $1 bytes and runs them. GNU and busybox `dd` ask
# read(2) for no more than what is missing, so nothing of the command's own input is taken
# (10 MiB compared).
READ_HEADER = (
    "\n"
    + SAY_READY
    + r"""coi_begin=
eval "$(dd bs="$1" count=1 iflag=fullblock 2>/dev/null)" || exit 125
[ "$coi_begin" = yes ] || exit 125
unset coi_begin
shift
"""
)


def header(environment: Mapping[str, str]) -> bytes:
    """What :data:`READ_HEADER` reads."""
    lines = [f"export {key}={shlex.quote(value)}\n" for key, value in environment.items()]
    return "".join([*lines, "coi_begin=yes\n"]).encode("utf-8", "surrogateescape")


def execute(
    runner: Runner,
    args: Sequence[str],
    *,
    head: bytes,
    source: int | Sequence[int] | None,
    stdout: int | Sink,
    stderr: int | Sink,
    timeout: float | None = None,
    begin_within: float | None = None,
    on_begin: Callable[[], object] = lambda: None,
    on_end: Callable[[], object] = lambda: None,
    die_with_parent: bool = False,
    marks: int = 1,
) -> int:
    """Run an exec whose script is :data:`READ_HEADER` and a command; begun anew, for
    some seconds, where the daemon could not enter the container.

    Args:
        head: of :func:`header`.
        timeout: seconds for the command, from when it begins.
        begin_within: seconds until then.
        on_begin: called when it has begun.
        on_end: called first when coi is to end before the command: it stops what
            runs inside.
        source, stdout, stderr, die_with_parent, marks: see :class:`Fed`.

    Returns:
        Its exit code, 128 + n for signal n.

    Raises:
        TimeoutError: the command took too long.
        NotBegunError: it ended before it began, or did not begin in time.
        NotEnteredError: the container could not be entered.
    """
    entered_by = time.monotonic() + ENTER_DEADLINE
    while True:
        with Fed(
            runner,
            args,
            head=head,
            source=source,
            stdout=stdout,
            stderr=stderr,
            die_with_parent=die_with_parent,
            marks=marks,
        ) as child:
            try:
                return child.wait(timeout, begin_within, on_begin)
            except NotEnteredError:
                if time.monotonic() > entered_by:
                    raise
            except BaseException:
                on_end()
                raise
        time.sleep(ENTER_POLL)


class NotBegunError(Exception):
    """An exec ended before its command began.

    Attributes:
        code: its exit code; None: it took too long.
        text: what it wrote.
    """

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class Fed:
    """A child whose standard input is some bytes and then a file descriptor.

    Args:
        head: these come first, once the other end is heard.
        source: then what can be read from it, or from one after the other; None for nothing.
        stdout, stderr: file descriptors, or what is called with each piece.
        die_with_parent: see :meth:`coi.incus.process.Runner.spawn`.
        marks: how often the other end says :data:`SAY_READY` until the command begins.

    Use as a context manager, as :class:`coi.incus.process.Process`.
    """

    def __init__(
        self,
        runner: Runner,
        args: Sequence[str],
        *,
        head: bytes,
        source: int | Sequence[int] | None,
        stdout: int | Sink,
        stderr: int | Sink,
        die_with_parent: bool = False,
        marks: int = 1,
    ) -> None:
        self._head = memoryview(head)
        self._sources = [source] if isinstance(source, int) else list(source or ())
        self._target = stderr
        self._left = marks
        self._errors = bytearray()
        self._marked = False  # the other end was heard
        self._begun = False  # as often as it takes
        self._closed = False  # nobody reads our standard error any more
        self._kept = False  # what is heard before the command has begun is not passed on
        fed, sink = os.pipe()
        heard, theirs = os.pipe()
        self._sink: int | None = sink
        self._heard: int | None = heard
        self._out: int | None = None
        self._take: Sink = _drop
        self._on_begin: Callable[[], object] = lambda: None
        given = [fed, theirs]
        try:
            if not isinstance(stdout, int):
                self._take = stdout
                self._out, stdout = os.pipe()
                given.append(stdout)
                os.set_blocking(self._out, False)
            os.set_blocking(sink, False)
            os.set_blocking(heard, False)
            self.process: Process = runner.spawn(
                args, stdin=fed, stdout=stdout, stderr=theirs, die_with_parent=die_with_parent
            )
        except BaseException:
            self._close()
            raise
        finally:
            for fd in given:
                os.close(fd)

    def wait(
        self,
        timeout: float | None = None,
        begin_within: float | None = None,
        on_begin: Callable[[], object] = lambda: None,
    ) -> int:
        """Feed the child until it ends; its exit code, 128 + n for signal n.

        Args:
            timeout: seconds from when the other end is heard.
            begin_within: seconds until then; where it is given, what is written before is
                not the command's.
            on_begin: called then.

        Raises:
            NotEnteredError: the daemon could not enter the container.
            NotBegunError: the child ended before the other end was heard, or that was
                not in time and the child still runs.
            TimeoutError: the time is over; the child still runs.
        """
        self._on_begin = on_begin
        self._kept = begin_within is not None
        deadline = _after(begin_within)
        try:
            while not self._begun and not self.process.poll():
                self._pump(_left(deadline))
        except TimeoutError:
            raise NotBegunError(None, "") from None
        deadline = _after(timeout)
        while not self.process.poll():
            self._pump(_left(deadline))
        code = self.process.wait()
        while self._heard is not None or self._out is not None or self._ready():
            self._pump(None, ended=True)
        if not self._begun and code == 255 and self._errors == _NOT_ENTERED:
            raise NotEnteredError("the daemon could not enter the container", hint="try again")
        if not self._begun and self._kept:
            raise NotBegunError(code, self._errors.decode("utf-8", "replace").strip())
        if bytes(self._errors) == _LAST_WORDS.get(code):
            self._errors.clear()
        while self._errors and not self._closed:
            self._write(len(self._errors))
        return code if code >= 0 else 128 - code

    def _ready(self) -> int:
        """How much of standard error is surely not the client's last word."""
        if not self._begun and (self._kept or self._heard is not None):
            return 0
        errors = bytes(self._errors)
        if not self._begun and errors == _NOT_ENTERED:
            return 0
        for word in _LAST_WORDS.values():
            if errors.endswith(word):
                return len(errors) - len(word)
        return len(errors)

    def _pump(self, timeout: float | None, *, ended: bool = False) -> None:
        """Move one piece each way, or wait up to ``timeout`` seconds for the next."""
        ready = 0 if self._closed else self._ready()
        feeding = self._sink is not None and self._marked and not ended
        readers: list[int] = [] if ended else [self.process.fileno()]
        writers: list[int] = []
        if ready and isinstance(self._target, int):
            writers.append(self._target)
        elif ready:
            self._write(ready)
            return
        if self._out is not None:
            readers.append(self._out)
        if self._heard is not None and not ready:
            readers.append(self._heard)
        if feeding and self._head and self._sink is not None:
            writers.append(self._sink)
        elif feeding and self._sources:
            readers.append(self._sources[0])
        elif feeding:
            self._close_sink()
        readable, writable, _ = select.select(readers, writers, [], timeout)
        if ready and self._target in writable:
            self._write(ready)
        if self._heard is not None and self._heard in readable:
            self._hear(self._heard)
        if self._out is not None and self._out in readable:
            self._collect(self._out)
        if self._sink is not None and (
            self._sink in writable or (self._sources and self._sources[0] in readable)
        ):
            self._feed(self._sink)

    def _feed(self, sink: int) -> None:
        """One piece of standard input."""
        try:
            if self._head:
                self._head = self._head[os.write(sink, self._head) :]
            elif self._sources:
                self._head = memoryview(os.read(self._sources[0], _CHUNK))
                if not self._head:
                    del self._sources[0]
                if not self._sources:
                    self._close_sink()
        except BlockingIOError:
            return
        except OSError:  # the child takes no more, or there is no more to read
            self._close_sink()

    def _hear(self, heard: int) -> None:
        """One piece of standard error; none is its end."""
        try:
            piece = os.read(heard, _CHUNK)
        except BlockingIOError:
            return
        if not piece:
            self._close_heard()
        elif not self._closed:
            self._errors += piece
        while self._left and _READY in self._errors:
            self._marked = True
            self._left -= 1
            self._errors = bytearray(self._errors.replace(_READY, b"", 1))
            if not self._left:
                self._begun = True
                self._on_begin()

    def _collect(self, out: int) -> None:
        """One piece of standard output; none is its end."""
        try:
            piece = os.read(out, _CHUNK)
        except BlockingIOError:
            return
        if piece:
            self._take(piece)
        else:
            self._close_out()

    def _write(self, size: int) -> None:
        """One piece of what was heard, of the first ``size`` bytes of it."""
        try:
            if isinstance(self._target, int):
                written = os.write(self._target, self._errors[: min(size, _PIECE)])
            else:
                written = size
                self._target(bytes(self._errors[:size]))
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
        self._close_out()

    def _close_sink(self) -> None:
        if self._sink is not None:
            os.close(self._sink)
            self._sink = None

    def _close_heard(self) -> None:
        if self._heard is not None:
            os.close(self._heard)
            self._heard = None

    def _close_out(self) -> None:
        if self._out is not None:
            os.close(self._out)
            self._out = None

    def __enter__(self) -> Fed:
        self.process.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self.process.__exit__(None, None, None)


def _drop(_piece: bytes) -> None:
    """Nobody wants it."""


def _after(seconds: float | None) -> float | None:
    """The deadline, of ``time.monotonic()``."""
    return None if seconds is None else time.monotonic() + seconds


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
