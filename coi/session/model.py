"""What a session is, and what starting one is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from coi import __version__
from coi.errors import CoiError
from coi.incus.instances import CONFIG_PREFIX, Instance, Instances
from coi.records import record
from coi.session.known import note
from coi.session.limits import Limits
from coi.session.locks import Lock, place_of
from coi.session.network import Fencing, Ground
from coi.workspace.ownership import SessionUser

if TYPE_CHECKING:
    from coi.api import Tool
    from coi.config.model import Config
    from coi.incus.client import Client
    from coi.session.store import SavedSession, Store
    from coi.workspace.directory import Workspace

SAVED = "saved"  # value of user.coi.state of a persistent instance that is stopped and saved
REMOVING = "removing"  # value of user.coi.state once the daemon was told to delete it


@record(frozen=True)
class Engine:
    """What every use case needs.

    Attributes:
        home: coi's own directory, ``~/.coi``.
        prefix: of instance names.
        report: takes one line of progress for the user.
        warn: takes one that is shown whatever else is not.
    """

    config: Config
    client: Client
    home: Path
    prefix: str
    report: Callable[[str], None]
    tool: Callable[[str], Tool]
    warn: Callable[[str], None] = lambda _text: None

    @property
    def instances(self) -> Instances:
        return Instances(self.client)

    @property
    def store(self) -> Store:
        from coi.session.store import Store

        return Store(self.home)

    @property
    def protects(self) -> bool:
        """Whether coi keeps what stood at a workspace's protected paths (coi.session.guard)."""
        return (self.home / "protect").is_dir()

    def lock(self, instance: str) -> Lock:
        """The lock that the coi attending to an instance holds."""
        return Lock(self.home / "locks" / f"{instance}.lock")

    def began(self, row: Instance) -> bool:
        """Whether a session's start came to its end; else what it was at is in its lock."""
        return self.lock(row.name).read() != row.coi("session-id")

    def attends(self, row: Instance) -> bool:
        """Whether an instance is this user's and of this coi home, whose locks tell
        if anybody is with it; with another COI_HOME it is somebody else's business."""
        if row.coi("owner") != str(os.getuid()):
            return False
        try:
            return row.coi("locks") in ("", place_of(self.home / "locks"))
        except OSError:
            return not row.coi("locks")


@record(frozen=True)
class StartRequest:
    """How a session is to be started.

    Attributes:
        slot: 0 takes the first free one.
        resume: None for a new conversation, '' for the workspace's latest,
            else a session id.
        environment: from ``--env``.
        devices: further Incus devices (mounts, ports), by name.
        size: columns and lines of the terminal.
        limits: what the session may use of the host.
        network: that is asked for.
        ground: what that has become (:func:`coi.session.claim.claim` sees to it).
        debug: a shell instead of the tool.
        tmux: False runs the tool on the terminal itself.
        prompt: what the tool is to answer without a terminal; '' for a session with one.
    """

    workspace: Workspace
    tool: Tool
    user: SessionUser
    shift: bool = True
    slot: int = 0
    persistent: bool = False
    resume: str | None = None
    image: str = "coi"
    environment: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    network: Fencing = field(default_factory=Fencing)
    ground: Ground = field(default_factory=Ground)
    size: tuple[int, int] = (80, 24)
    debug: bool = False
    tmux: bool = True
    prompt: str = ""


@record(frozen=True)
class Session:
    """A session and the instance that it runs in.

    Attributes:
        lock: held while this coi attends to it; not held when another does.
        created: this coi made the instance (and removes it when the start fails).
        attached: the tool already runs: only attach.
        saved: the saved state that it resumes.
        ground: what this coi made it on.
        hosts: lines for /etc/hosts inside; None leaves it alone.
        headless: the tool answers a prompt, and the session ends with it.
        start: what tells this start of it from those before; '' of a container that an
            earlier coi made.
    """

    id: str
    tool: Tool
    instance: str
    slot: int
    workspace: Path
    user: SessionUser
    persistent: bool
    image: str
    lock: Lock
    created: bool = False
    attached: bool = False
    saved: SavedSession | None = None
    ground: Ground = field(default_factory=Ground)
    hosts: tuple[str, ...] | None = None
    headless: bool = False
    start: str = ""

    @property
    def mark(self) -> str:
        """What is noted in the home inside once all is there that it needs.

        The id alone does not tell: a container that was kept may have begun with the same
        session before, and hold what is older than what was saved since from another one.
        """
        return f"{self.id} {self.start}".strip()

    def starts(self) -> None:
        """From here until :meth:`begins` its start has not come to its end."""
        self.lock.write(self.id)

    def begins(self) -> None:
        """All that it needs is inside, and its tool runs: who attaches need not ask for whom."""
        self.lock.write("")
        with suppress(CoiError):  # a full disk; then who attaches asks
            self.lock.write(note(self.user, self.start))

    def rests(self) -> None:
        """It is saved, and its container is kept, stopped: there is nothing to attach to."""
        with suppress(CoiError):
            self.lock.write("")


def identity(session: Session) -> dict[str, str]:
    """The ``user.coi.*`` keys that make an instance this session's.

    ``user.*`` is free-form for clients (Incus, "Instance options").
    """
    values: dict[str, Any] = {
        "session-id": session.id,
        "tool": session.tool.name,
        "workspace": str(session.workspace),
        "slot": session.slot,
        "persistent": "true" if session.persistent else "false",
        "owner": os.getuid(),
        "uid": session.user.uid,
        "gid": session.user.gid,
        "user": session.user.name,
        "home": session.user.home,
        "image": session.image,
        "locks": place_of(session.lock.path.parent),
        "version": __version__,
        "state": "session",
        "start": session.start,
    }
    if session.headless:
        values["headless"] = "true"
    return {CONFIG_PREFIX + key: str(value) for key, value in values.items()}


def is_session(row: Instance) -> bool:
    """Whether an instance is a session of coi that is not being deleted."""
    return bool(row.coi("session-id")) and row.coi("state") != REMOVING


def is_headless(row: Instance) -> bool:
    """Whether an instance is a session that answers a prompt: nobody can attach to it."""
    return is_session(row) and row.coi("headless") == "true"


def superseded(engine: Engine, row: Instance) -> bool:
    """Whether what a kept instance has is older than what is saved: its session was resumed in
    another one, and saved from there. It may run: somebody has started it by hand."""
    if row.coi("state") != SAVED:
        return False
    saved = next((s for s in engine.store.all() if s.id == row.coi("session-id")), None)
    return saved is not None and saved.container != row.name


def belongs_to(row: Instance, uid: int) -> bool:
    """Whether an instance is a session of this user."""
    return is_session(row) and row.coi("owner") == str(uid)


def number(row: Instance, key: str) -> int:
    """The value of a ``user.coi.*`` key as a number, 0 when it is none."""
    value = row.coi(key)
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 18 else 0


def user_of(row: Instance) -> SessionUser:
    """Whom a session's processes run as."""
    home = row.coi("home") or "/home/code"
    return SessionUser(row.coi("user") or "code", number(row, "uid"), number(row, "gid"), home)


class _Later:
    """The tool of a session that runs, looked up when more than its name is asked for: plugins
    are 15 ms that nobody waits for at a prompt.

    Raises:
        NotFoundError: there is none; at that moment.
    """

    def __init__(self, name: str, look_up: Callable[[str], Tool]) -> None:
        self.name = name
        self._look_up = look_up

    def __getattr__(self, key: str) -> Any:
        return getattr(self._look_up(self.name), key)


def from_instance(engine: Engine, row: Instance, *, attached: bool) -> Session:
    """The session that an instance says it is (its keys are Incus's, not the container's).

    Raises:
        NotFoundError: its tool is not installed; of one that is attached to, once it is saved.
    """
    name = row.coi("tool")
    return Session(
        id=row.coi("session-id"),
        tool=cast("Tool", _Later(name, engine.tool)) if attached else engine.tool(name),
        instance=row.name,
        slot=number(row, "slot"),
        workspace=Path(row.coi("workspace")),
        user=user_of(row),
        persistent=row.coi("persistent") == "true",
        image=row.coi("image"),
        lock=engine.lock(row.name),
        attached=attached,
        headless=row.coi("headless") == "true",
        start=row.coi("start"),
    )
