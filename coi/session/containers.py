"""Single containers, without a session: what ``coi container`` does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from coi.errors import CoiError, NotFoundError, RefusedError, UsageError
from coi.incus.errors import AlreadyExistsError, ImageMissingError, MissingError
from coi.incus.shield import shielded
from coi.records import record
from coi.session import feed, guard
from coi.session.body import CONTAINER, instance_body, made_by_coi
from coi.session.feed import READ_HEADER, header
from coi.session.model import SAVED, is_session, number
from coi.session.network import Fencing, Ground, on_ground, started, watch
from coi.session.settle import settle
from coi.workspace.directory import absolute

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.session.limits import Limits
    from coi.session.model import Engine

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:+-]{0,254}")
_FINGERPRINT = re.compile(r"[0-9a-f]{12,64}")
STOP_STEPS = (5, 25)  # seconds of each graceful stop, before force
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


def check_name(name: str) -> str:
    """``name``, when Incus takes it for an instance.

    Incus: letters, digits and dashes; begins with a letter, does not end with
    a dash; at most 63 (``IsInstanceName`` of its instance type package).

    Raises:
        UsageError: it is another.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"not a container's name: {name!r}",
            hint="letters, digits and dashes; a letter first, no dash last; 63 at most",
        )
    return name


def launch(
    engine: Engine, image: str, name: str, *, ephemeral: bool, network: Fencing, limits: Limits
) -> None:
    """Create and start a container; it can be entered afterwards.

    Args:
        network: that is asked for.
        limits: what it may use of the host.

    Raises:
        UsageError: a name or image that cannot be.
        RefusedError: the network policy cannot be enforced.
        CoiError: the image or its room is missing, or the name is taken.
    """
    check_name(name)
    if not _IMAGE.fullmatch(image):
        raise UsageError(f"not an image's name: {image!r}")

    def create(ground: Ground) -> Ground:
        keys = made_by_coi(CONTAINER, image=image, persistent="false" if ephemeral else "true")
        body = instance_body(
            name,
            image,
            {**keys, **ground.keys},
            limits=limits,
            devices=ground.devices,
            ephemeral=ephemeral,
        )
        try:
            engine.instances.create(body)
        except ImageMissingError:
            if not _FINGERPRINT.fullmatch(image):
                raise
            body["source"] = {"type": "image", "fingerprint": image}
            engine.instances.create(body)
        try:
            ground.verify()
        except BaseException:
            engine.instances.remove(name)
            raise
        return ground

    try:
        ground = on_ground(network, create)
    except AlreadyExistsError as error:
        raise CoiError(
            f"{name} already exists", details=error.details, hint=f"coi container delete {name}"
        ) from error
    try:
        settle(engine, name, ground=ground)
    except BaseException:
        if ground.fenced:
            with shielded():
                engine.instances.remove(name)
        raise


def start(engine: Engine, name: str) -> None:
    """Start a stopped container; it can be entered afterwards.

    Raises:
        MissingError: there is none.
        RefusedError: its network policy cannot be enforced.
    """
    row = engine.instances.get(check_name(name))
    if is_session(row) and row.stopped and engine.attends(row):
        guard.restart(engine, row)
    started(engine.home, row, lambda: engine.instances.set_state(name, "start"))
    settle(engine, name)


def stop(engine: Engine, name: str, *, force: bool) -> None:
    """Stop a container: gracefully for 30 s, then by force.

    systemd does not hear the request right after its start, so it is made twice.

    Raises:
        MissingError: there is none.
        CoiError: it does not run.
    """
    row = engine.instances.get(check_name(name))
    if row.stopped:
        raise CoiError(f"{name} is not running")
    for seconds in () if force else STOP_STEPS:
        try:
            engine.instances.set_state(name, "stop", timeout=seconds)
        except MissingError:  # ephemeral: it has deleted itself
            break
        except CoiError:
            continue
        break
    else:
        try:
            engine.instances.set_state(name, "stop", force=True)
        except MissingError:
            if not row.ephemeral:
                raise
    if row.coi("state") == SAVED:
        guard.settle(engine, row.coi("session-id"), row.name)


def delete(engine: Engine, name: str, *, force: bool) -> None:
    """Delete a container, a running one with ``force``.

    Raises:
        MissingError: there is none.
        CoiError: it runs.
    """
    if force:
        engine.instances.remove(engine.instances.get(check_name(name)).name)
    else:
        engine.instances.delete(check_name(name))


def find(engine: Engine, name: str) -> Instance | None:
    """The container, or None."""
    row = engine.instances.find(check_name(name))
    watch(engine.home, [row] if row else ())
    return row


def running(engine: Engine, name: str) -> Instance:
    """The container, which runs.

    Raises:
        NotFoundError: there is none.
        CoiError: it does not run.
    """
    row = find(engine, name)
    if row is None:
        raise NotFoundError(f"{name} not found", hint="coi list")
    if not row.running:
        raise CoiError(f"{name} is not running", hint=f"coi container start {name}")
    return row


def mount(engine: Engine, name: str, device: str, source: str, path: str, *, shift: bool) -> None:
    """Add a disk device: a directory or file of the host at ``path`` inside.

    Raises:
        UsageError: a name or path that cannot be.
        NotFoundError: no such container, or nothing at ``source``.
        RefusedError: ``source`` holds coi's own data.
    """
    check_name(name)
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"not a device's name: {device!r}")
    inside = PurePosixPath(path)
    if not inside.is_absolute() or ".." in inside.parts or inside == PurePosixPath("/"):
        raise UsageError(f"the path inside must be absolute, and not /: {path!r}")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in source + path):
        raise UsageError(f"a path has a control character: {source + path!r}")
    try:
        real = absolute(Path(source).expanduser()).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise NotFoundError(f"nothing to mount at {source}", details=str(error)) from error
    private = engine.home.resolve()
    if private.is_relative_to(real) or real.is_relative_to(private):
        raise RefusedError(f"will not share {source} with a container: it holds coi's own data")
    row = engine.instances.get(name)
    if device in row.devices:
        raise CoiError(f"{name} already has a device {device}")
    disk = {"type": "disk", "source": str(real), "path": str(inside)}
    if shift:
        disk["shift"] = "true"
    engine.instances.update(name, devices={device: disk})


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
