"""The effective configuration, as the rest of coi sees it.

Plain frozen data. The defaults here are the built-in layer; what each key
means, which values it takes and who may set it is in
:mod:`coi.config.schema` and :mod:`coi.config.tighten`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from coi.records import record

Name = tuple[str, ...]
"""A dotted key as its parts: ``("network", "mode")``."""


NO_LIMIT = "none"
SHARE = "share"
LIMITS: Mapping[str, str] = {
    "cpu": SHARE,
    "memory": "75%",
    "processes": "4096",
    "disk": NO_LIMIT,
}
"""``[limits]``: what a session may use of the host when nothing else is said."""


@record(frozen=True)
class Defaults:
    """``[defaults]``: what a session is when nothing else is said."""

    image: str = "coi"
    persistent: bool = False
    mount_claude_config: bool = True
    max_slots: int = 10


@record(frozen=True)
class ToolSettings:
    """``[tool]``: which tool, its executable ("" for the tool's own), and in
    ``options`` the ``[tool.<name>]`` tables, by tool name."""

    name: str = "claude"
    binary: str = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@record(frozen=True)
class Paths:
    """``[paths]``: directories of the host, absolute, ``~`` expanded.

    ``sessions_dir`` is legacy: new sessions go to ``sessions-<tool>`` under
    coi's home.
    """

    sessions_dir: Path
    storage_dir: Path
    logs_dir: Path


@record(frozen=True)
class IncusSettings:
    """``[incus]``: where instances live and who the user inside is.

    ``code_uid`` None: the uid of whoever runs coi. ``disable_shift`` None:
    found out from the host (Colima and Lima map ownership themselves).
    """

    remote: str = "local"
    project: str = "default"
    group: str = "incus-admin"
    code_uid: int | None = None
    code_user: str = "code"
    disable_shift: bool | None = None


@record(frozen=True)
class NetworkLogging:
    """``[network.logging]``: ``path`` None stands for network.log in logs_dir
    until the configuration is loaded; then it is always set."""

    enabled: bool = False
    path: Path | None = None


@record(frozen=True)
class Network:
    """``[network]``: what a session may reach.

    ``mode`` is ``open``, ``restricted`` or ``allowlist``; ``backend`` is ``auto``,
    ``bridge``, ``ovn`` or ``nic``;
    ``refresh_interval_minutes`` 0 resolves allowed domains once only.
    """

    mode: str = "restricted"
    allowed_domains: tuple[str, ...] = ()
    refresh_interval_minutes: int = 30
    allow_local_network_access: bool = False
    block_private_networks: bool = True
    block_metadata_endpoint: bool = True
    logging: NetworkLogging = NetworkLogging()
    backend: str = "auto"


@record(frozen=True)
class Mount:
    """A directory or file of the host (absolute) and where it appears inside."""

    host: Path
    container: str
    readonly: bool = False


@record(frozen=True)
class Mounts:
    """``[[mounts.default]]``: mounted into every session."""

    default: tuple[Mount, ...] = ()


@record(frozen=True)
class Ports:
    """``[ports]``: ports of the host that lead into every session.

    ``publish`` entries are spelled as :func:`coi.config.ports.entry` does.
    """

    publish: tuple[str, ...] = ()


@record(frozen=True)
class Protect:
    """``[protect]``: paths of the workspace that programs of the host obey.

    ``on_change`` is ``restore`` or ``report``; of ``paths`` those that begin with ``.git/``
    are meant in every git directory of the workspace.
    """

    enabled: bool = True
    paths: tuple[str, ...] = (
        ".git/hooks",
        ".git/config",
        ".git/config.worktree",
        ".git/info/attributes",
        ".git/commondir",
        ".husky",
        ".vscode",
        ".idea",
        ".envrc",
        ".coi.toml",
        ".claude/settings.json",
        ".claude/settings.local.json",
    )
    on_change: str = "restore"


@record(frozen=True)
class Build:
    """``[build]``: what ``coi build`` makes the image of.

    ``mirror`` "": the distribution's own.
    """

    base: str = "images:ubuntu/22.04"
    fallback: str = "debian:bookworm"
    tools: tuple[str, ...] = ("claude",)
    dns: tuple[str, ...] = ("8.8.8.8", "8.8.4.4", "1.1.1.1")
    mirror: str = ""


@record(frozen=True)
class Warm:
    """``[warm]``: ``size`` containers stand ready; 0 for none."""

    size: int = 0


@record(frozen=True)
class Config:
    """Everything, after all layers.

    Attributes:
        limits: of ``cpu``, ``memory``, ``processes``, ``disk`` those that are not ``none``.
        environment: variables for the session, from the selected profile.
        profiles: the names that ``--profile`` takes, sorted.
    """

    paths: Paths
    defaults: Defaults = Defaults()
    tool: ToolSettings = ToolSettings()
    incus: IncusSettings = IncusSettings()
    network: Network = Network()
    mounts: Mounts = Mounts()
    ports: Ports = Ports()
    protect: Protect = Protect()
    limits: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    build: Build = Build()
    warm: Warm = Warm()
    profiles: tuple[str, ...] = ()
