"""One command in an instance of its own: ``coi run``.

Three calls: create and start, exec, stop; one more beside the first looks at the
network policy. The exec waits for the boot before it says that it is there: the
boot's troubles are not in the command's standard error, nor its time in the
command's. The instance is ephemeral: the daemon deletes it once
it has stopped, and nobody waits for that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from coi.errors import CoiError
from coi.incus.errors import ImageMissingError, MissingError
from coi.incus.shield import shielded
from coi.network.hosts import with_hosts
from coi.records import record
from coi.session import guard, inside, making
from coi.session.body import RUN, instance_body, made_by_coi, with_workspace
from coi.session.feed import READ_HEADER, NotBegunError, execute, header
from coi.session.limits import Limits
from coi.session.locks import place_of
from coi.session.naming import workspace_id
from coi.session.network import Fencing, Ground, on_ground
from coi.session.settle import DEADLINE, cannot_work, settled

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.incus.payload import Payload
    from coi.session.model import Engine
    from coi.workspace.directory import Workspace
    from coi.workspace.ownership import SessionUser

TIMED_OUT = 124  # exit code, as timeout(1)
_DELETION = 60  # seconds in which the daemon has surely deleted what it was told to

# As the session's user. Arguments: the header's size, then the command's argv.
_COMMAND = (
    "set -a; [ -r /etc/coi/environment ] && . /etc/coi/environment; set +a\n"
    + READ_HEADER
    + 'cd /workspace || exit 125\nunset OLDPWD\nexec "$@"\n'
)


@record(frozen=True)
class RunRequest:
    """What is to be run, and where its streams go.

    Attributes:
        command: argv inside.
        environment: from ``--env`` and the profile.
        limits: what the command may use of the host.
        network: that is asked for.
        timeout: seconds for the command, None for no limit.
        stdin: a file descriptor, None for nothing.
    """

    command: tuple[str, ...]
    workspace: Workspace
    user: SessionUser
    image: str
    shift: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    network: Fencing = field(default_factory=Fencing)
    timeout: float | None = None
    terminal: str = "xterm-256color"
    stdin: int | None = None
    stdout: int = 1
    stderr: int = 2


def run(engine: Engine, request: RunRequest) -> int:
    """Run the command; its exit code, 128 + n for signal n, 124 at the timeout.

    Whatever happens, the instance is gone or going afterwards.

    Raises:
        CoiError: the instance could not be made, or Incus was lost meanwhile.
    """
    name = f"{engine.prefix}{workspace_id(request.workspace.path)}-r{os.urandom(3).hex()}"
    lock = engine.lock(name)
    lock.try_acquire()
    ending = _Ending(engine, name)
    try:
        locks = place_of(lock.path.parent)
        ground = on_ground(
            request.network, lambda ground: _create(engine, name, request, locks, ground, ending)
        )
        code = _execute(engine, name, request, ending, ground)
    finally:
        ending.stop(wait=False)
        with shielded():
            ending.compare()
        lock.release(remove=not ending.left)
    making.refill(engine, request.image)
    return code


class _Ending:
    """Stops the instance, once, where there is one to stop.

    Attributes:
        owed: the instance is there or about to be.
        left: it could not be stopped; the lock's file is then left too, and
            the next coi that lists ends it.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self.owed = False
        self.left = False
        self._payload: Payload | None = None

    def stop(self, *, wait: bool) -> CoiError | None:
        """Kill everything inside; the daemon then deletes the instance.

        Args:
            wait: until nothing runs (0.7 s); else return once it is accepted.

        Returns:
            why it could not be done.
        """
        if not self.owed:
            return None
        self.owed = False
        self._payload = guard.watching(self._engine, self._name)
        with shielded():
            try:
                self._engine.instances.set_state(self._name, "stop", force=True, wait=wait)
            except MissingError as error:
                return error
            except CoiError as error:
                self.left = True
                return error
        return None

    def compare(self) -> None:
        """Hold the workspace's protected paths against what they were."""
        if self.left:
            return
        if self._payload is None:  # there was nothing to stop
            guard.settle(self._engine, self._name)
        else:
            guard.ended(self._engine, self._name, self._name, self._payload)


def _create(
    engine: Engine,
    name: str,
    request: RunRequest,
    locks: str,
    ground: Ground,
    ending: _Ending,
) -> Ground:
    """Create and start it; what it is on."""
    guards = guard.begin(engine, request.workspace.source, name, name, shift=request.shift)
    keys = made_by_coi(RUN, workspace=request.workspace.path, image=request.image, locks=locks)
    body = with_workspace(
        instance_body(
            name,
            request.image,
            {**keys, **ground.keys},
            limits=request.limits,
            devices={**request.devices, **ground.devices, **guards},
            ephemeral=True,
        ),
        request.workspace,
        request.user,
        shift=request.shift,
    )
    seen = making.look(engine, request.image)
    pending = None
    ending.owed = True
    try:
        with shielded():
            pending = making.begin(engine, body, seen, ground.verify)
        if not pending.existing:
            ground.verify()
        guard.remember(engine, name)
        pending.result()
    except ImageMissingError:
        ending.owed = False
        raise
    except BaseException as error:
        if pending.unmade if pending else isinstance(error, CoiError):
            ending.owed = False
        elif pending:
            with shielded(), suppress(CoiError):
                engine.instances.remove(name)
                ending.owed = False
        raise
    return ground


def _execute(
    engine: Engine,
    name: str,
    request: RunRequest,
    ending: _Ending,
    ground: Ground,
) -> int:
    """The command in the instance, which is stopped when that ends."""
    head = header(request.environment)
    command = inside.become(
        request.user,
        f"TERM={request.terminal}", "IS_SANDBOX=1",
        "sh", "-c", _COMMAND, "coi", str(len(head)), *request.command,
    )  # fmt: skip
    command = ground.alone(settled(with_hosts(ground.hosts, *command)))
    args = engine.instances.exec_args(name, command, cwd="/")
    try:
        code = execute(
            engine.client.runner,
            args,
            head=head,
            source=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            timeout=request.timeout,
            begin_within=DEADLINE,
            on_end=lambda: ending.stop(wait=True),  # first: the client only passes signals on
            die_with_parent=True,
        )
    except TimeoutError:
        return TIMED_OUT
    except NotBegunError as error:
        if error.code is None:
            raise CoiError(f"{name} does not get ready", hint="coi run again") from error
        refused = ground.not_alone(error.code, error.text)
        raise refused or cannot_work(name, error.code, error.text) from error
    problem = ending.stop(wait=False)
    if code == 1 and problem is not None:  # it is the client's own, then
        raise problem
    return code


def ours(engine: Engine, row: Instance) -> bool:
    """Whether an instance is a run of this user, told by locks that this coi sees."""
    return row.coi("state") == RUN and engine.attends(row)


def going(engine: Engine, row: Instance) -> bool:
    """Whether a run's coi ended a moment ago as it should: the daemon is at work."""
    recent = datetime.now(timezone.utc) - timedelta(seconds=_DELETION)
    return not engine.lock(row.name).path.exists() and row.started_at > recent.isoformat()


def over(engine: Engine, row: Instance) -> bool:
    """Whether a run's coi is gone; what it has left is stopped, and so deleted.

    A coi that ends removes its lock's file, and the daemon is at work. A file
    that nobody holds is that of a coi that was killed.
    """
    if not ours(engine, row):
        return False
    lock = engine.lock(row.name)
    if going(engine, row):
        return True
    try:
        if not lock.try_acquire():
            return False
    except CoiError:  # the disk: the next coi tries again
        return False
    ending = _Ending(engine, row.name)
    ending.owed = True
    try:
        if row.running:
            ending.stop(wait=False)
            ending.compare()
        else:
            engine.instances.remove(row.name)
            guard.settle(engine, row.name)
    except MissingError:
        return True
    except CoiError:  # half made still: the next coi tries again
        ending.left = True
        return False
    finally:
        lock.release(remove=not ending.left)
    return True
