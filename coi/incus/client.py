"""The Incus REST API, spoken through ``incus query``.

Remote and project are parameters here and nowhere else: the layers above
name instances and images, never where they live.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from coi.errors import CoiError, UnavailableError
from coi.incus.errors import AlreadyExistsError, IncusError, classify
from coi.incus.process import Completed, Runner
from coi.incus.shield import shielded
from coi.incus.urls import encoded

T = TypeVar("T")

DEFAULT_TIMEOUT = 120.0  # seconds for one REST call; the daemon's own limit is longer


class Client:
    """One Incus server and project.

    Args:
        runner: starts ``incus``.
        remote: a remote of the client's configuration; ``local`` is the socket.
        project: the Incus project.
    """

    def __init__(
        self, runner: Runner | None = None, *, remote: str = "local", project: str = "default"
    ) -> None:
        self.runner = runner or Runner()
        self.remote = remote
        self.project = project

    # -- REST ---------------------------------------------------------------

    def query_args(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> list[str]:
        """The ``incus`` arguments of one REST call.

        The body is an argument and visible in the process list: it must hold
        no secret (``-d @-`` does not read standard input; measured on 6.0.4).
        """
        args = ["query", "--raw"]
        if method != "GET":
            args += ["-X", method]
        if wait:
            args.append("--wait")
        if body is not None:
            args += ["-d", json.dumps(body, separators=(",", ":"), ensure_ascii=True)]
        query = dict(params or {})
        if self.project != "default":
            query["project"] = self.project
        prefix = "" if self.remote == "local" else f"{self.remote}:"
        return [*args, prefix + path + (f"?{encoded(query)}" if query else "")]

    def query(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        wait: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        action: str = "",
    ) -> Any:
        """One REST call; the ``metadata`` of the answer.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            path: from ``/1.0``; build names into it with :func:`segment`.
            wait: follow the operation to its end (otherwise an asynchronous
                call returns once the daemon has accepted it).
            timeout: seconds.
            action: what this does, for the error's first line.

        Raises:
            CoiError: as :func:`coi.incus.errors.classify` finds.
        """
        args = self.query_args(method, path, params=params, body=body, wait=wait)
        return self.answer(self._run(args, timeout, action), action=action)

    def ask(
        self, path: str, *, params: Mapping[str, str] | None = None, action: str = ""
    ) -> Callable[[], Any]:
        """Begin a :meth:`query` that reads and return at once; what waits for its answer."""
        running = self.runner.begin(self.query_args("GET", path, params=params))

        def answer() -> Any:
            with _in_time(action):
                done = running.completed(DEFAULT_TIMEOUT)
            return self.answer(done, action=action)

        return answer

    def begin(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        wait: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        action: str = "",
        existing: bool = False,
    ) -> Pending:
        """Begin :meth:`query` and return at once: for work side by side.

        Args:
            existing: see :class:`Pending`.
        """
        args = self.query_args(method, path, params=params, body=body, wait=wait)
        return Pending(self, args, timeout, action, existing=existing)

    def answer(self, done: Completed, *, action: str = "") -> Any:
        """The metadata in a finished ``incus query --raw``, or its error raised."""
        text = done.stdout.decode("utf-8", "replace").strip()
        if done.exit_code != 0:
            raise classify(done.error_text or text, action=action)
        if not text:
            return None
        try:
            reply = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise IncusError(
                "Incus answered with something that is not JSON", details=text[:2000]
            ) from error
        if not isinstance(reply, dict):
            return reply
        # With --wait the client prints the operation, without the envelope.
        if reply.get("error_code"):
            code = _number(reply["error_code"])
            raise classify(str(reply.get("error", "")), code=code, action=action)
        if reply.get("err"):
            code = _number(reply.get("status_code"))
            raise classify(str(reply["err"]), code=code, action=action)
        return reply.get("metadata")

    # -- The client's own commands -------------------------------------------

    def name(self, instance: str) -> str:
        """``remote:instance`` as the client's own commands take it."""
        return instance if self.remote == "local" else f"{self.remote}:{instance}"

    def command(self, *args: str) -> list[str]:
        """Arguments of a client command, in this project."""
        return list(args) if self.project == "default" else [*args, "--project", self.project]

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: bytes | int | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        action: str = "",
    ) -> Completed:
        """Run a client command that must succeed (image import, publish, ...)."""
        done = self._run(args, timeout, action, stdin=stdin)
        if done.exit_code != 0:
            raise classify(done.error_text, action=action)
        return done

    def _run(
        self,
        args: Sequence[str],
        timeout: float | None,
        action: str,
        stdin: bytes | int | None = None,
    ) -> Completed:
        with _in_time(action):
            return self.runner.run(args, stdin=stdin, timeout=timeout)


@contextmanager
def _in_time(action: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise IncusError(
            f"cannot {action}" if action else "Incus did not answer",
            details=str(error),
            hint="look at the daemon: incus info; incus operation list",
        ) from error


class Pending:
    """A REST call under way while coi does something else.

    The daemon goes on with it whatever becomes of the client, so an interrupted
    caller still waits: only then can what it made be removed.

    Args:
        args: as :meth:`Client.query_args` makes them.
        timeout: seconds from when it is waited for.
        action: what this does, for the error's first line.
        existing: it makes nothing: what it is about is there already.
    """

    def __init__(
        self,
        client: Client,
        args: Sequence[str],
        timeout: float,
        action: str,
        *,
        existing: bool = False,
    ) -> None:
        self.existing = existing
        self._client = client
        self._timeout = timeout
        self._action = action
        self._done: Completed | None = None
        begun = False
        try:
            with shielded():
                self._running = client.runner.begin(args)
                begun = True
        except BaseException:
            if begun:  # a signal was put off: the daemon is at work all the same
                self.settle()
            raise

    def settle(self) -> Completed:
        """Wait for the end, whatever it is, signals put off."""
        if self._done is None:
            with shielded():
                try:
                    self._done = self._running.completed(self._timeout)
                except TimeoutError as error:
                    argv = self._running.process.argv
                    self._done = Completed(argv, 1, b"", str(error).encode())
        return self._done

    def result(self) -> Any:
        """Wait for the end; the answer's metadata, or what went wrong (:meth:`Client.answer`)."""
        try:
            return self._client.answer(self.settle(), action=self._action)
        except AlreadyExistsError as error:
            if not self.existing:
                raise
            raise IncusError(
                error.brief, details=error.details, hint=error.hint, code=error.code
            ) from error

    @property
    def unmade(self) -> bool:
        """Whether the daemon was not reached, so that there is nothing to remove; waits."""
        try:
            self.result()
        except UnavailableError:
            return not self.existing
        except CoiError:
            return False
        return False


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def shaped(parse: Callable[..., T]) -> Callable[..., T]:
    """What makes a model of part of an answer, in its last argument: an answer of another form
    is an error that shows it."""

    @wraps(parse)
    def checked(*args: Any) -> T:
        try:
            return parse(*args)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _misshapen(args[-1]) from error

    return checked


def listed(parse: Callable[[Any], T], answer: Any) -> list[T]:
    """The models of an answer that is a list, or null.

    Raises:
        IncusError: it has another form.
    """
    if not isinstance(answer, list | None):
        raise _misshapen(answer)
    return [parse(row) for row in answer or ()]


def table(answer: Any) -> Mapping[str, Any]:
    """An answer that is an object, or null.

    Raises:
        IncusError: it has another form.
    """
    if not isinstance(answer, dict | None):
        raise _misshapen(answer)
    return answer or {}


def text(value: Any) -> str:
    """A text, '' for null.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str | None):
        raise TypeError("not a text")
    return value or ""


def count(value: Any) -> int:
    """A number of something, 0 for null.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, int | None) or isinstance(value, bool):
        raise TypeError("not a whole number")
    return value or 0


def named(value: Any) -> str:
    """A text that is never missing.

    Raises:
        TypeError: it is something else, or empty.
    """
    if not isinstance(value, str) or not value:
        raise TypeError("not a name")
    return value


def keys(value: Any) -> dict[str, str]:
    """An object of texts, as ``config`` and a device are; none for null.

    Raises:
        TypeError: it is something else.
    """
    found = value or {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise TypeError("not an object of texts")
    return found


def devices(value: Any) -> dict[str, dict[str, str]]:
    """``devices``: an object of :func:`keys`; none for null."""
    return {name: keys(device) for name, device in table(value).items()}


def _misshapen(answer: Any) -> IncusError:
    try:
        shown = json.dumps(answer, default=str)[:2000]
    except RecursionError:
        shown = "nested too deeply"
    return IncusError("Incus answered with something of another form", details=shown)
