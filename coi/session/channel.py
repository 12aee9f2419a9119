"""A command inside an instance with its standard streams in coi's hands.

The other side may be hostile: it may stop sending, stop taking, or write to
its standard error without end. Every wait has a deadline, and of standard
error only the beginning is kept.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from coi.errors import CoiError
from coi.incus.process import Process, Runner
from coi.incus.shield import shielded

STALL = 60.0  # seconds in which at least one byte must move
_TEXT = 1 << 14  # bytes of standard error that are kept
_REST = 1 << 20  # bytes that may follow the end of an archive: tar fills its last record
_PIPE = 1 << 20  # bytes a pipe holds; the kernel's own 64 KiB cost a switch each
_GRACE = 20.0  # seconds to tidy up inside after an interrupted push
_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ, since Python 3.10; not on every platform mypy knows


class StalledError(CoiError):
    """Nothing moved for :data:`STALL` seconds."""


class Channel:
    """Runs one command; a context manager that leaves no process behind.

    Args:
        args: of the runner's executable.
        feed: standard input is written by :meth:`write`; else standard output
            is read by :meth:`read`, and standard input stays open until :meth:`finish`.
        stall: seconds, see :data:`STALL`.
    """

    def __init__(
        self, runner: Runner, args: Sequence[str], *, feed: bool, stall: float = STALL
    ) -> None:
        self._stall = stall
        self._text = bytearray()
        self._feed = feed
        theirs, ours = os.pipe()
        waiting: int | None = None
        self._open: int | None = None
        if not feed:
            theirs, ours = ours, theirs
            waiting, self._open = os.pipe()
        self._errors, errors = os.pipe()
        self._data: int | None = ours
        with suppress(OSError):  # the user's share of pipe memory is used up
            fcntl.fcntl(ours, _F_SETPIPE_SZ, _PIPE)
        try:
            with shielded():
                self._process: Process = runner.spawn(
                    args,
                    stdin=theirs if feed else waiting,
                    stdout=None if feed else theirs,
                    stderr=errors,
                )
        except BaseException:
            os.close(ours)
            os.close(self._errors)
            self._close_input()
            raise
        finally:
            os.close(theirs)
            os.close(errors)
            if waiting is not None:
                os.close(waiting)
        os.set_blocking(ours, False)
        os.set_blocking(self._errors, False)
        self._errors_open = True

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes of standard output; none at its end.

        Raises:
            StalledError: nothing came.
        """
        assert self._data is not None  # noqa: S101 - read after the end
        while True:
            try:
                return os.read(self._data, size)
            except BlockingIOError:
                self._wait(select.POLLIN)

    def write(self, data: bytes | memoryview) -> None:
        """All of ``data`` to standard input.

        Raises:
            StalledError: nothing was taken.
            BrokenPipeError: the command has ended; :meth:`finish` tells why.
        """
        assert self._data is not None  # noqa: S101 - write after the end
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._data, view) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)

    def _wait(self, event: int) -> None:
        """Until the data pipe is ready; standard error is emptied meanwhile."""
        assert self._data is not None  # noqa: S101
        deadline = time.monotonic() + self._stall
        while True:
            ready = self._poll(event, deadline)
            if self._data in ready:
                return
            if not ready:
                raise StalledError(
                    "the transfer stands still",
                    details=f"the container {'took' if self._feed else 'sent'} nothing "
                    f"for {self._stall:.0f} s",
                )

    def _poll(self, event: int, deadline: float) -> set[int]:
        poller = select.poll()
        if self._data is not None:
            poller.register(self._data, event)
        if self._errors_open:
            poller.register(self._errors, select.POLLIN)
        timeout = max(0, int((deadline - time.monotonic()) * 1000))
        ready = {fd for fd, _event in poller.poll(timeout)}
        if self._errors in ready:
            self._drain()
        return ready

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._errors, 1 << 16)
            self._errors_open = bool(data)
            self._text += data[: _TEXT - len(self._text)]

    def finish(self, timeout: float) -> tuple[int, str]:
        """Close standard input or read out what is left, and wait for the end.

        Args:
            timeout: seconds; then the command is stopped.

        Returns:
            its exit code, and the beginning of what it wrote to standard error.
        """
        deadline = time.monotonic() + timeout
        rest = 0
        self._close_input()
        if self._feed:
            self._close_data()
        while self._data is not None or self._errors_open:
            ready = self._poll(select.POLLIN, deadline)
            if not ready or rest > _REST:
                break
            if self._data in ready:
                data = os.read(self._data, 1 << 16)
                rest += len(data)
                if not data:
                    self._close_data()
        self._close_data()
        exit_code = self._process.wait() if self._process.poll(1) else self._process.stop()
        return exit_code, self._text.decode("utf-8", "replace").strip()

    def _close_input(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _close_data(self) -> None:
        if self._data is not None:
            os.close(self._data)
            self._data = None

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it. What is being fed sees its input end, and tidies up inside."""
        with shielded():
            try:
                if kind is not None and self._feed:
                    self.finish(min(_GRACE, self._stall))
            finally:
                self._close_input()
                self._close_data()
                self._process.__exit__(kind, error, trace)
                os.close(self._errors)
