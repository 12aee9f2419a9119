"""The one place that starts processes, on the ``sh`` library.

Every child gets an argv list, never a shell string, and file descriptors
rather than pipes read by threads: output of any size costs no copying and no
polling, and a child can be waited for with a deadline through its pidfd.
``sh`` is imported at the first call (coi.incus.shlib).
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError, UnavailableError
from coi.incus.shield import shielded
from coi.records import record

if TYPE_CHECKING:
    from types import TracebackType

_EXIT_CODES = range(-64, 256)  # sh raises for none of these: the caller decides
KILL_GRACE = 5.0  # seconds between SIGTERM and SIGKILL


@record(frozen=True)
class Completed:
    """A finished process.

    Attributes:
        argv: the command as it ran, executable first.
        exit_code: 0-255, or minus the signal that ended it.
        stdout, stderr: everything it wrote, as bytes.
    """

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def error_text(self) -> str:
        """stderr as text, undecodable bytes replaced."""
        return self.stderr.decode("utf-8", "replace").strip()


class Process:
    """A running child. Use as a context manager: leaving it alive is a bug."""

    def __init__(self, argv: tuple[str, ...], command: Any) -> None:
        self.argv = argv
        self._command = command
        self.pid: int = command.pid
        try:
            self._pidfd: int | None = os.pidfd_open(self.pid)
        except ProcessLookupError:  # already reaped
            self._pidfd = None

    def fileno(self) -> int:
        """A descriptor that is readable once the process has ended, for ``select``.

        Raises:
            ProcessLookupError: it has ended and was waited for.
        """
        if self._pidfd is None:
            raise ProcessLookupError(self.pid)
        return self._pidfd

    def poll(self, timeout: float = 0.0) -> bool:
        """Wait up to ``timeout`` seconds; True once the process has ended."""
        if self._pidfd is None:
            return True
        return bool(select.select([self._pidfd], [], [], timeout)[0])

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code (negative: a signal).

        Raises:
            TimeoutError: after ``timeout`` seconds, the process still running.
        """
        if timeout is not None and not self.poll(timeout):
            raise TimeoutError(f"{self.argv[0]} still runs after {timeout} s")
        if self._pidfd is not None:
            select.select([self._pidfd], [], [])
        self._command.wait()
        self._close()
        return int(self._command.exit_code)

    def stop(self, grace: float = KILL_GRACE) -> int:
        """SIGTERM, then SIGKILL after ``grace`` seconds; returns the exit code."""
        self.send(signal.SIGTERM)
        if not self.poll(grace):
            self.send(signal.SIGKILL)
        return self.wait()

    def send(self, signum: int) -> None:
        """Send a signal; a process that has ended is left alone."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, signum)
            except ProcessLookupError:
                return

    def _close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pidfd is not None:
            self.stop()


class Running:
    """A command under way whose output is kept: :meth:`completed` waits for it, once.

    Args:
        out, err: descriptors of memory files that the process writes to; closed at the end.
    """

    def __init__(self, process: Process, out: int, err: int) -> None:
        self.process = process
        self._out = out
        self._err = err

    def completed(self, timeout: float | None = None) -> Completed:
        """Wait for the end; what it wrote.

        Raises:
            TimeoutError: it did not end in ``timeout`` seconds (it is gone).
        """
        try:
            with self.process:
                exit_code = self.process.wait(timeout)
            return Completed(self.process.argv, exit_code, read_all(self._out), read_all(self._err))
        finally:
            os.close(self._out)
            os.close(self._err)


class Runner:
    """Runs one executable (``incus``, or ``mmdebstrap`` for the image).

    Args:
        executable: a name looked up on PATH, or a path.
        environment: added to this process's own; the locale is always
            ``C.UTF-8`` so that messages can be classified.
        trace: called with each argv before it runs (``coi -v``).

    Attributes:
        calls: every argv that was started, for tests that hold call budgets.
    """

    def __init__(
        self,
        executable: str = "incus",
        *,
        environment: Mapping[str, str] | None = None,
        trace: Callable[[Sequence[str]], None] | None = None,
        missing_hint: str = "install it with ./install.sh",
    ) -> None:
        self._name = executable
        self._environment = {**(environment or {}), "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
        self._trace = trace
        self._missing_hint = missing_hint
        self._path: str | None = None
        self.calls: list[tuple[str, ...]] = []

    def available(self) -> bool:
        """Whether the executable is on PATH."""
        return which(self._name) is not None

    def spawn(
        self,
        args: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        cwd: Path | None = None,
        terminal: bool = False,
        die_with_parent: bool = False,
    ) -> Process:
        """Start the command and return at once.

        Args:
            args: the arguments after the executable.
            stdin: a file descriptor, default /dev/null.
            stdout, stderr: file descriptors, default /dev/null.
            terminal: the child talks to this terminal: it stays in the
                foreground process group and dies with coi. Other children have
                a group of their own: Ctrl-C is for coi alone.
            die_with_parent: SIGTERM reaches the child when coi dies, however it
                dies (``setpriv --pdeathsig`` of util-linux, where there is one).

        Raises:
            UnavailableError: the executable is not on PATH.
            CoiError: the kernel refused to start it, or an argument holds a NUL
                or is not UTF-8.
        """
        if self._path is None:
            self._path = which(self._name)
        if self._path is None:
            raise UnavailableError(
                f"{self._name} is not installed (not found on PATH)", hint=self._missing_hint
            )
        argv = (self._path, *args)
        if any("\0" in arg for arg in argv):
            raise CoiError("an argument contains a NUL byte", details=repr(args))
        try:
            "".join(argv).encode()
        except UnicodeEncodeError as error:
            raise CoiError("an argument is not UTF-8", details=ascii(args)) from error
        self.calls.append((self._name, *args))
        if self._trace:
            self._trace((self._name, *args))
        command = argv
        if (terminal or die_with_parent) and (wrapper := which("setpriv")):
            command = (wrapper, "--pdeathsig", "TERM", "--", *argv)
        from coi.incus.shlib import load

        sh = load()  # 25 ms: only where something is run

        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        process: Process | None = None
        try:
            # _bg=1 rather than True: True makes sh ignore SIGHUP in the child.
            start: Any = sh.Command(command[0])
            with shielded():  # Python drops what a handler raises within fork's own hooks
                running = start(
                    *command[1:],
                    _bg=1,
                    _bg_exc=False,
                    _in=null if stdin is None else stdin,
                    _out=null if stdout is None else stdout,
                    _err=null if stderr is None else stderr,
                    _env={**os.environ, **self._environment},
                    _cwd=None if cwd is None else str(cwd),
                    _ok_code=_EXIT_CODES,
                    _truncate_exc=False,
                    _encoding="utf-8",
                    _new_group=not terminal,
                    _preexec_fn=_unmask,
                )
                process = Process(argv, running)
        except (OSError, RuntimeError, sh.ForkException) as error:
            reason = str(error).strip().rpartition("\n")[2]  # of a traceback in the child
            raise CoiError(f"cannot start {self._name}", details=reason.strip()) from error
        except BaseException:
            if process is not None:  # a signal was put off, and nobody has the process yet
                process.stop()
            raise
        finally:
            os.close(null)
        return process

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: bytes | int | None = None,
        timeout: float | None = None,
        cwd: Path | None = None,
    ) -> Completed:
        """Run the command to its end and return what it wrote.

        Args:
            stdin: bytes, a file descriptor, or None for /dev/null.
            timeout: seconds; then the process is ended.

        Raises:
            UnavailableError: the executable is not on PATH.
            TimeoutError: the process did not end in time (it is gone).
        """
        return self.begin(args, stdin=stdin, cwd=cwd).completed(timeout)

    def begin(
        self,
        args: Sequence[str],
        *,
        stdin: bytes | int | None = None,
        cwd: Path | None = None,
    ) -> Running:
        """Begin :meth:`run` and return at once."""
        fed = memory_file(stdin) if isinstance(stdin, bytes) else None
        out, err = os.memfd_create("coi-out"), os.memfd_create("coi-err")
        try:
            source = stdin if fed is None else fed
            assert not isinstance(source, bytes)  # noqa: S101 - for type checkers
            return Running(
                self.spawn(args, stdin=source, stdout=out, stderr=err, cwd=cwd), out, err
            )
        except BaseException:
            os.close(out)
            os.close(err)
            raise
        finally:
            if fed is not None:
                os.close(fed)

    def interactive(self, args: Sequence[str]) -> int:
        """Run on this terminal; the exit code. Ctrl-C is the child's, not ours."""
        previous = signal.signal(signal.SIGINT, lambda _signum, _frame: None)
        try:
            sys.stdout.flush()
            with self.spawn(args, stdin=0, stdout=1, stderr=2, terminal=True) as process:
                return process.wait()
        finally:
            signal.signal(signal.SIGINT, previous)


def _unmask() -> None:
    """In the child: signals that :func:`shielded` puts off are not put off there."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def detach(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start a process that outlives this one and its terminal, in / and without streams.

    / is root's: ``python -m`` looks for modules in the current directory first, and that
    may be the workspace.

    Raises:
        OSError: it cannot be started.
    """
    import subprocess

    process = subprocess.Popen(  # noqa: S603 - a list, without a shell
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment,
        start_new_session=True,
    )
    process.returncode = 0  # nobody waits for it


def memory_file(data: bytes) -> int:
    """A file descriptor over anonymous memory holding ``data``, at its start.

    What goes to a child this way is on no disk and in no argv.
    """
    fd = os.memfd_create("coi-in")
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_all(fd: int) -> bytes:
    """Everything in a seekable file descriptor, from its start."""
    size = os.fstat(fd).st_size
    chunks: list[bytes] = []
    offset = 0
    while offset < size:
        chunk = os.pread(fd, min(1 << 20, size - offset), offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)
