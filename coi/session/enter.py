"""A command in a running container: what ``coi container exec`` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING

from coi.errors import CoiError
from coi.records import record
from coi.session import feed
from coi.session.feed import READ_HEADER, header
from coi.session.lookup import check_name, find, running

if TYPE_CHECKING:
    from coi.session.model import Engine

_ENTER = 5.0  # seconds after which it is asked why a container was not entered
_HANDED = "/tmp/.coi-env-"  # noqa: S108 - 128 random bits follow, made with noclobber

# As whoever the command runs as. HOME is that of the password file. Arguments: the
# directory ('' for /workspace, or / where there is none), then argv.
_HOME = (
    'home=$(getent passwd "$(id -u)" 2>/dev/null) && home=${home%:*} && export HOME="${home##*:}"\n'
)
_COMMAND = r"""
if [ -n "$1" ]; then cd -- "$1" || exit 125; else cd /workspace 2>/dev/null || cd /; fi
unset OLDPWD
shift
exec "$@"
"""
_EXEC = _HOME + READ_HEADER + _COMMAND  # the header's size is the first argument
_ON_TERMINAL = _HOME + _COMMAND
_STORE = 'umask 077; set -C; cat > "$1"'
_RESTORE = '. "$1"; unset coi_begin; rm -f -- "$1"; shift; exec "$@"'


@record(frozen=True)
class ExecRequest:
    """A command in a running container.

    Attributes:
        user, group: numeric; the group defaults to the session user's, or the
            user's own number.
        cwd: '' is /workspace, or / where there is none.
        tty: on a terminal of its own.
        stdin: a file descriptor, None for nothing.
        terminal: TERM, where there is a terminal.
    """

    name: str
    command: tuple[str, ...]
    user: int = 0
    group: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    tty: bool = False
    stdin: int | None = None
    stdout: int = 1
    stderr: int = 2
    terminal: str = "xterm-256color"


def execute(engine: Engine, request: ExecRequest) -> int:
    """Run a command; its exit code, 128 + n for signal n, 125 without its directory.

    Values of the environment are in no argv: they travel ahead of standard
    input, and with a terminal in a file that is read once.

    Raises:
        NotFoundError: no such container.
        CoiError: it does not run.
    """
    check_name(request.name)
    group = 0 if request.group is None and request.user == 0 else request.group
    if group is None or request.tty:
        row = running(engine, request.name)
        if group is None:
            from coi.session.model import number

            own = row.coi("uid") == str(request.user)
            group = number(row, "gid") if own else request.user
    if request.tty:
        return _on_terminal(engine, request, group)
    head = header(request.environment)
    command = ("sh", "-c", _EXEC, "coi", str(len(head)), request.cwd, *request.command)
    args = _args(engine, request, group, command)

    def enter(seconds: float | None) -> int:
        return feed.execute(
            engine.client.runner,
            args,
            head=head,
            source=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            begin_within=seconds,
            on_begin=lambda: _keep_watch(engine, request.name),
        )

    try:
        return enter(_ENTER)
    except feed.NotBegunError:
        running(engine, request.name)  # most often it tells why
        return enter(None)


def _keep_watch(engine: Engine, name: str) -> None:
    """As :func:`coi.session.network.watch`, for one that was not looked at; a call only where
    the rules of a policy lack who keeps them right."""
    directory = engine.home / "network"
    if next(directory.glob("refresh-*.json"), None) is not None:
        from coi.network.duty import attended

        if not all(attended(directory).values()):
            find(engine, name)


def _on_terminal(engine: Engine, request: ExecRequest, group: int) -> int:
    command: Sequence[str] = request.command
    if request.environment:
        path = _HANDED + os.urandom(16).hex()
        done = engine.instances.exec(
            request.name,
            ["sh", "-c", _STORE, "coi", path],
            stdin=header(request.environment),
            user=request.user,
            group=group,
            cwd="/",
        )
        if done.exit_code != 0:
            raise CoiError("the environment could not be set", details=done.error_text)
        command = ("sh", "-c", _RESTORE, "coi", path, *command)
    command = ("sh", "-c", _ON_TERMINAL, "coi", request.cwd, *command)
    args = _args(engine, request, group, command)
    from coi.session.terminal import terminal_restored

    with terminal_restored() as left:
        code = engine.client.runner.interactive(args)
        left.whole = code >= 0
    return code if code >= 0 else 128 - code


def _args(engine: Engine, request: ExecRequest, group: int, command: Sequence[str]) -> list[str]:
    return engine.instances.exec_args(
        request.name,
        command,
        user=request.user,
        group=group,
        cwd="/",
        environment={"TERM": request.terminal} if request.tty else None,
        tty=request.tty,
    )
