"""What the checks look at: gathered once, then only read.

Two rounds of calls to Incus, each side by side: the server first, so that what is wrong with
it is told once; then all the rest (eight looks), and with them the size of the pool that the
last one named. Nothing is changed, and no packet is sent.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError
from coi.incus.acls import NetworkAcl
from coi.incus.batch import look
from coi.incus.client import count, keys, listed, shaped, table
from coi.incus.images import Image
from coi.incus.instances import Instance
from coi.incus.networks import Network
from coi.incus.pools import Pool
from coi.incus.profiles import Profile
from coi.records import record

if TYPE_CHECKING:
    from coi.config.model import Config
    from coi.session.model import Engine

PROFILE = "default"
MAX_FILES = 20_000  # of coi's own that are looked at


@record(frozen=True)
class Group:
    """The group that may use Incus.

    Attributes:
        exists: there is such a group.
        joined: the user is in it, as the group database says.
        active: this login session has it.
    """

    name: str
    exists: bool = True
    joined: bool = True
    active: bool = True


@record(frozen=True)
class Opened:
    """Something of coi's own that others may reach.

    Attributes:
        mode: permission bits.
        foreign: its owner is another user.
    """

    path: Path
    mode: int
    foreign: bool = False


@record(frozen=True)
class Host:
    """What the host says without Incus.

    Attributes:
        opened: of coi's own files those that are not its user's alone.
        free: bytes on the disk that coi's home is on.
        subids: /etc/subuid and /etc/subgid as text; None where there is none, or it is closed.
        resolvers: addresses of /etc/resolv.conf.
        guarded: the rules of ``coi network guard`` are loaded.
        listening: addresses of resolvers that sessions could ask.
        kernel: settings of /proc/sys that all containers share and that are low.
        shift: mounts are idmapped; None: the configuration says nothing, found out at a start.
    """

    uid: int
    user: str
    home: Path
    group: Group
    opened: tuple[Opened, ...] = ()
    free: int = 1 << 40
    subids: Mapping[str, str | None] = field(default_factory=dict)
    resolvers: tuple[str, ...] = ()
    guarded: bool = True
    listening: tuple[str, ...] = ()
    shift: bool | None = None
    kernel: Mapping[str, int] = field(default_factory=dict)


@record(frozen=True)
class Server:
    """What Incus says.

    Attributes:
        environment: of ``GET /1.0``.
        project: configuration of the project.
        space: bytes of the profile's pool, total and used; None where it is not known.
        errors: by what was looked at, where the answer was an error.
    """

    environment: Mapping[str, Any]
    project: Mapping[str, str] = field(default_factory=dict)
    profile: Profile | None = None
    pools: tuple[Pool, ...] = ()
    networks: tuple[Network, ...] = ()
    acls: tuple[NetworkAcl, ...] = ()
    images: tuple[Image, ...] = ()
    instances: tuple[Instance, ...] = ()
    space: tuple[int, int] | None = None
    errors: Mapping[str, CoiError] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return str(self.environment.get("server_version") or "")

    @property
    def root(self) -> Mapping[str, str]:
        """The profile's root disk, empty where it has none."""
        devices = self.profile.devices.values() if self.profile else ()
        return next((d for d in devices if d.get("type") == "disk" and d.get("path") == "/"), {})

    @property
    def pool(self) -> Pool | None:
        """The pool that containers come to be on."""
        return next((pool for pool in self.pools if pool.name == self.root.get("pool")), None)


@record(frozen=True)
class Facts:
    """Everything that the checks look at.

    Attributes:
        client: version of the client, '' where it is not known.
        unreachable: why the server does not answer; ``server`` is None then.
        problems: plugins that were skipped, as ``name: reason``.
        tools: names of the usable ones.
        leftovers: what `coi clean` would take away, as ``kind name: why``.
    """

    config: Config
    host: Host
    client: str = ""
    server: Server | None = None
    unreachable: CoiError | None = None
    problems: Sequence[str] = ()
    tools: Sequence[str] = ()
    leftovers: Sequence[str] = ()
    config_error: CoiError | None = None


def of_host(config: Config, home: Path) -> Host:
    """Look at the host."""
    from coi.network.resolvers import guarded, listening
    from coi.session.room import lacking

    found = os.statvfs(next(path for path in (home, *home.parents) if path.exists()))
    disabled = config.incus.disable_shift
    try:
        heard = tuple(listening(""))
    except CoiError:
        heard = ()
    return Host(
        os.getuid(),
        _name(),
        home,
        _group(config.incus.group),
        tuple(opened(home, beside=config.paths.storage_dir)),
        found.f_bavail * found.f_frsize,
        {path: _text(Path(path)) for path in ("/etc/subuid", "/etc/subgid")},
        tuple(
            line.split()[1]
            for line in (_text(Path("/etc/resolv.conf")) or "").splitlines()
            if line.split()[:1] == ["nameserver"] and len(line.split()) > 1
        ),
        guarded(),
        heard,
        None if disabled is None else not disabled,
        lacking(),
    )


def _name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _group(name: str) -> Group:
    try:
        found = grp.getgrnam(name)
    except KeyError:
        return Group(name, exists=False, joined=False, active=False)
    active = found.gr_gid in os.getgroups()
    return Group(name, True, _name() in found.gr_mem or active, active)


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None


def opened(home: Path, *, beside: Path | None = None) -> list[Opened]:
    """What others may reach of what is coi's own: not 0600 or 0700, or another user's.

    Args:
        beside: a directory that is not looked into: what containers write into it has the
            modes that they gave it.
    """
    found: list[Opened] = []
    waiting, seen = [home], 0
    while waiting and seen < MAX_FILES:
        path = waiting.pop()
        seen += 1
        try:
            status = path.lstat()
            is_directory = not path.is_symlink() and path.is_dir()
            if is_directory and path != beside:
                waiting.extend(Path(entry.path) for entry in os.scandir(path))
        except OSError:
            continue
        foreign = status.st_uid != os.getuid()
        if foreign or (status.st_mode & 0o077 and not path.is_symlink()):
            found.append(Opened(path, status.st_mode & 0o777, foreign))
    return sorted(found, key=lambda item: item.path)


def of_incus(engine: Engine) -> tuple[str, Server | None, CoiError | None]:
    """The client's version, what the server says, and why it says nothing."""
    client = engine.client
    try:
        done = client.runner.run(["--version"], timeout=30.0)
        version = done.stdout.decode("utf-8", "replace").strip() if done.exit_code == 0 else ""
    except TimeoutError:
        version = ""
    except CoiError as error:
        return "", None, error
    (first,) = look(client, {"server": "/1.0"}).values()
    if isinstance(first, CoiError):
        return version, None, first
    found = look(
        client,
        {
            "project": f"/1.0/projects/{client.project}",
            "profile": f"/1.0/profiles/{PROFILE}",
            "pools": "/1.0/storage-pools?recursion=1",
            "networks": "/1.0/networks?recursion=1",
            "acls": "/1.0/network-acls?recursion=1",
            "images": "/1.0/images?recursion=1",
            "instances": "/1.0/instances?recursion=1",
        },
    )
    try:
        server = parsed(table(table(first).get("environment")), found)
        if server.pool is not None:
            path = f"/1.0/storage-pools/{server.pool.name}/resources"
            server = parsed(server.environment, {**found, **look(client, {"space": path})})
    except CoiError as error:
        return version, None, error
    return version, server, None


@shaped
def parsed(environment: Mapping[str, Any], found: Mapping[str, Any]) -> Server:
    """The answers as nouns; an error is none of its kind."""
    errors = {name: value for name, value in found.items() if isinstance(value, CoiError)}
    good = {name: value for name, value in found.items() if name not in errors}
    profile = good.get("profile")
    space = table(table(good.get("space")).get("space"))
    total, used = (count(space.get(key)) for key in ("total", "used"))
    return Server(
        environment,
        keys(table(good.get("project")).get("config")),
        Profile.parse(profile) if profile else None,
        tuple(listed(Pool.parse, good.get("pools"))),
        tuple(listed(Network.parse, good.get("networks"))),
        tuple(listed(NetworkAcl.parse, good.get("acls"))),
        tuple(listed(Image.parse, good.get("images"))),
        tuple(listed(Instance.parse, good.get("instances"))),
        (total, used) if total else None,
        errors,
    )


def left_over(engine: Engine, server: Server) -> list[str]:
    """What `coi clean` would take away; where that cannot be told, why."""
    try:
        return _left_over(engine, server)
    except (CoiError, OSError) as error:  # a home that cannot be written to, say
        return [f"cannot be told: {error}"]


def _left_over(engine: Engine, server: Server) -> list[str]:
    from coi.session.lifecycle import leftovers

    items = leftovers(
        engine,
        sessions=False,
        everything=False,
        rows=list(server.instances),
        images=server.images,
    )
    found = [f"{item.kind} {item.name}: {item.why}" for item in items]
    if (engine.home / "network").is_dir():
        from coi.network.start import scope_of
        from coi.network.sweep import unused

        scope = scope_of(engine.home, engine.prefix)
        names = unused(list(server.networks), list(server.acls), scope)
        found += [f"network {name}: nothing uses it" for name in names]
    return found
