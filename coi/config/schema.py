"""Every key of the configuration, as data: its type and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from coi.config import hosts, kinds, ports
from coi.config.kinds import Kind
from coi.config.model import (
    LIMITS,
    Build,
    Defaults,
    IncusSettings,
    Name,
    Network,
    Ports,
    Protect,
    ToolSettings,
    Warm,
)


class Key(NamedTuple):
    """One key.

    Attributes:
        name: dotted.
        kind: what it takes.
        doc: one sentence for the reference.
        aliases: other last parts it is accepted under.
    """

    name: str
    kind: Kind
    doc: str
    aliases: tuple[str, ...] = ()

    @property
    def parts(self) -> Name:
        return tuple(self.name.split("."))

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that set it, the preferred one first."""
        if self.kind.from_text is None:
            return ()
        section = self.name.rpartition(".")[0]
        names = (self.name, *(f"{section}.{alias}" for alias in self.aliases))
        return tuple("COI_" + name.upper().replace(".", "_") for name in names)


_YES_NO = kinds.boolean()
_TOOLS = kinds.sequence("an array of tools' names", kinds.tool_name)

KEYS: tuple[Key, ...] = (
    Key("defaults.image", kinds.IMAGE, "The image that sessions start from."),
    Key("defaults.persistent", _YES_NO, "Keep the container when the session ends."),
    Key(
        "defaults.mount_claude_config",
        _YES_NO,
        "Bring the tool's settings and credentials along from the host, whatever the tool.",
    ),
    Key(
        "defaults.max_slots",
        kinds.integer(1, 1000),
        "How many sessions one workspace may have side by side.",
    ),
    Key(
        "tool.name",
        kinds.text("a tool's name (lower case, digits and dashes)", kinds.TOOL_NAME),
        "The tool that `coi shell` opens.",
    ),
    Key(
        "tool.binary",
        kinds.BINARY,
        "Its executable inside; empty for the tool's own. It belongs to the tool that was "
        "chosen where it is set: choosing another one above puts it aside.",
    ),
    Key("paths.sessions_dir", kinds.host_path(), "Legacy, not used for new sessions."),
    Key("paths.storage_dir", kinds.host_path(), "Where storage directories live."),
    Key("paths.logs_dir", kinds.host_path(), "Logs of failed builds and of the network."),
    Key("incus.remote", kinds.WORD, "The Incus server, a remote of the `incus` client."),
    Key("incus.project", kinds.WORD, "The Incus project."),
    Key("incus.group", kinds.USER, "The group of the host that may use Incus."),
    Key(
        "incus.code_uid",
        kinds.integer(0, 2**32 - 2),
        "The uid of the user inside; not set: the uid of whoever runs coi.",
        ("claude_uid",),
    ),
    Key("incus.code_user", kinds.USER, "The name of the user inside."),
    Key(
        "incus.disable_shift",
        _YES_NO,
        "Mount without idmapping; not set: found out (Colima and Lima map it themselves).",
    ),
    Key(
        "network.mode",
        kinds.choice(*kinds.NETWORK_MODES),
        "`open` filters nothing, `restricted` blocks private networks, `allowlist` lets only "
        "`allowed_domains` through.",
    ),
    Key(
        "network.backend",
        kinds.choice(*kinds.NETWORK_BACKENDS),
        "What enforces the mode: `bridge` (a bridge of coi's own for each policy), `ovn`, `nic` "
        "(an ACL on the NIC), or `auto`: OVN where the profile is on it, else a bridge.",
    ),
    Key(
        "network.allowed_domains",
        kinds.sequence("an array of domain names, IPv4 addresses and networks", hosts.entry),
        "What `allowlist` lets through; subdomains are not included.",
    ),
    Key(
        "network.refresh_interval_minutes",
        kinds.integer(0, 525600),
        "Minutes between two resolutions of the allowed domains; 0: resolve once.",
    ),
    Key(
        "network.allow_local_network_access",
        _YES_NO,
        "Let private networks through, both ways.",
    ),
    Key("network.block_private_networks", _YES_NO, "Block the private ranges."),
    Key("network.block_metadata_endpoint", _YES_NO, "Block 169.254.0.0/16 (cloud metadata)."),
    Key("network.logging.enabled", _YES_NO, "Log what the network policy rejects."),
    Key(
        "network.logging.path",
        kinds.host_path(empty=True),
        "The file for it; empty: network.log in `paths.logs_dir`.",
    ),
    Key(
        "mounts.default",
        kinds.sequence(
            "an array of tables with host, container and readonly", kinds.mount, text_form=False
        ),
        "Mounted into every session: `host` (/ or ~/ first), `container` (absolute), "
        "`readonly` (false). Written as `[[mounts.default]]` tables.",
    ),
    Key(
        "ports.publish",
        kinds.sequence(f"an array of {ports.FORM}", ports.entry),
        "Ports of the host that lead into every session, on 127.0.0.1 where no address is "
        "given; `--publish` adds to them.",
    ),
    Key(
        "protect.enabled",
        _YES_NO,
        "Keep what stands at `paths` when a session begins, mount it read-only, and compare when "
        "it ends.",
    ),
    Key(
        "protect.paths",
        kinds.sequence("an array of paths of the workspace", kinds.workspace_path),
        "Files and directories of the workspace that programs of the host obey. Those that begin "
        "with `.git/` are meant in every git directory, of submodules and worktrees too.",
    ),
    Key(
        "protect.on_change",
        kinds.choice(*kinds.PROTECT_ACTIONS),
        "`restore` puts aside what has changed and brings back what was there; `report` names it.",
    ),
    Key(
        "limits.cpu",
        kinds.cpu_limit(),
        "CPUs of a session. `share` is all of them, at the weight of one service of the host "
        "where both want more than there is; a number or a set has that weight too.",
    ),
    Key(
        "limits.memory",
        kinds.size_limit(percent=True),
        "Memory, what is in its `/dev/shm` included; a percentage is of the host's.",
    ),
    Key("limits.processes", kinds.count_limit(), "Processes and threads."),
    Key(
        "limits.disk",
        kinds.size_limit(percent=False),
        "Root disk, the image's own files included; not on a `dir` pool, where Incus has no "
        "quotas. `/workspace` and other mounts are the host's and not counted.",
    ),
    Key(
        "warm.size",
        kinds.integer(0, 20),
        "Containers that stand ready, made beforehand and never started: a start takes one. It "
        "pays where a creation copies the image (a `dir` pool); 0: none.",
    ),
    Key("build.base", kinds.IMAGE, "The image that `coi build` starts from."),
    Key(
        "build.fallback",
        kinds.text("distribution:release", r"[a-z]+:[a-z0-9.]+"),
        "What is bootstrapped where the image server cannot be reached.",
    ),
    Key("build.tools", _TOOLS, "The tools installed into the image."),
    Key(
        "build.dns",
        kinds.sequence("an array of addresses", kinds.address),
        "Resolvers for an image whose own do not answer.",
    ),
    Key("build.mirror", kinds.MIRROR, "The package mirror; empty: the distribution's own."),
)

PROFILE_SHORT_FORMS: Mapping[str, Name] = {
    "image": ("defaults", "image"),
    "persistent": ("defaults", "persistent"),
}
"""Keys directly in a ``[profiles.<name>]`` table and what they stand for."""

_SECTIONS: Mapping[str, object] = {
    "defaults": Defaults(),
    "tool": ToolSettings(),
    "incus": IncusSettings(),
    "network": Network(),
    "build": Build(),
    "ports": Ports(),
    "protect": Protect(),
    "warm": Warm(),
}


@cache
def by_name() -> Mapping[Name, Key]:
    """The keys by their parts, aliases included."""
    found = {key.parts: key for key in KEYS}
    for key in KEYS:
        found.update({(*key.parts[:-1], alias): key for alias in key.aliases})
    return found


@cache
def tables() -> Mapping[Name, tuple[str, ...]]:
    """For each table of the schema, the names directly in it (without aliases)."""
    found: dict[Name, dict[str, None]] = {}
    for key in KEYS:
        parts = key.parts
        for depth in range(len(parts)):
            found.setdefault(parts[:depth], {})[parts[depth]] = None
    return {name: tuple(inner) for name, inner in found.items()}


def builtin(home: Path) -> dict[Name, Any]:
    """The lowest layer, from the model's own defaults; ``home`` is coi's."""
    values: dict[Name, Any] = {}
    for key in KEYS:
        parts = key.parts
        value: Any = _SECTIONS.get(parts[0])
        if value is None:
            value = () if key.name == "mounts.default" else ""
            if parts[0] == "limits":
                value = LIMITS[parts[1]]
        else:
            for part in parts[1:]:
                value = getattr(value, part)
        values[parts] = value
    values["paths", "sessions_dir"] = str(home / "sessions")
    values["paths", "storage_dir"] = str(home / "storage")
    values["paths", "logs_dir"] = str(home / "logs")
    values["network", "logging", "path"] = ""
    return values
