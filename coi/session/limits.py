"""What an instance may use of the host: from ``[limits]`` to keys and devices of Incus.

Sources: Incus documentation, "Instance options" (``limits.*``) and "Disk device options"
(``size``). A percentage as ``limits.cpu.allowance`` is a weight and takes no CPU away from an
instance that is alone. What is in a tmpfs is charged to ``limits.memory`` (kernel documentation,
cgroup memory controllers). On a ``dir`` pool Incus leaves ``size`` aside without a word where
the file system has no project quotas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from coi.config.model import NO_LIMIT, SHARE
from coi.errors import CoiError, RefusedError, UsageError
from coi.incus.instances import CONFIG_PREFIX
from coi.records import record

if TYPE_CHECKING:
    from coi.incus.client import Client
    from coi.incus.instances import Instance

WEIGHT = "100%"  # that of one service of the host: half of it slows a boot on a busy host
PROFILE = "default"  # what coi makes instances from
LEAST = {"memory": 64 << 20, "processes": 32}  # less does not boot a system with a tool in it
KEYS = ("limits.cpu", "limits.cpu.allowance", "limits.memory", "limits.processes")
_DISK = CONFIG_PREFIX + "disk"


@record(frozen=True)
class Limits:
    """The limits of an instance.

    Attributes:
        config: keys of Incus.
        devices: the root disk, where it is limited, by its name in the profile.
        flag: the command line itself says so, not the configuration.
    """

    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    flag: bool = False

    @property
    def changes(self) -> dict[str, str]:
        """Keys for an instance that had other limits; one without a value goes."""
        return {**dict.fromkeys((*KEYS, _DISK), ""), **self.config}

    def going(self, row: Instance) -> list[str]:
        """Devices that limited an instance's disk, and do so no more."""
        if self.config.get(_DISK) or not row.coi("disk"):
            return []
        return [name for name, device in row.devices.items() if device.get("path") == "/"]

    def onto(self, row: Instance, report: Callable[[str], None]) -> Limits:
        """These limits for an instance that is there already: its disk's is not lowered. With
        less than it holds, btrfs takes neither a change of it nor a limit again (measured).

        Raises:
            RefusedError: the command line asks for it.
        """
        before, after = row.coi("disk"), self.config.get(_DISK, "")
        if not after or after == before or _is_more(after, before):
            return self
        if self.flag:
            raise RefusedError(
                f"{row.name} has the disk limit {before or NO_LIMIT}, which is not lowered",
                details="It may hold more than that already.",
                hint=f"--limit disk={before or NO_LIMIT}; or save it and start anew: "
                f"coi shutdown {row.name}",
            )
        report(f"{row.name} keeps its disk limit: {before or NO_LIMIT}, not {after}")
        return Limits({**self.config, _DISK: before}, {}, self.flag)

    def agree(self, row: Instance, report: Callable[[str], None]) -> None:
        """See that a running instance has these limits; with others it is told.

        Raises:
            RefusedError: the command line asks for others.
        """
        asked = self.changes
        other = [key for key in asked if row.config.get(key, "") != asked[key]]
        if not other:
            return
        told = ", ".join(
            f"{key.removeprefix(CONFIG_PREFIX).removeprefix('limits.')} "
            f"{row.config.get(key) or NO_LIMIT}, not {asked[key] or NO_LIMIT}"
            for key in other
        )
        if self.flag:
            raise RefusedError(
                f"{row.name} runs with other limits: {told}",
                details="A running container keeps the limits that it was started with.",
                hint=f"go on with it as it is: coi attach {row.name}; "
                f"or end it and start anew: coi shutdown {row.name}",
            )
        report(f"{row.name} keeps the limits it was started with: {told}")


def _is_more(size: str, than: str) -> bool:
    """False where the one that is there is none, or none that coi has written."""
    from coi.config import tighten

    try:
        return tighten.size(size)[0] > tighten.size(than)[0]
    except ValueError:
        return False


def limits_of(client: Client, values: Mapping[str, str], *, flag: bool) -> Limits:
    """The limits that ``[limits]`` asks for; two calls where the disk is limited, else none.

    Args:
        values: of ``cpu``, ``memory``, ``processes``, ``disk`` those that are set.
        flag: the command line sets one of them.

    Raises:
        UsageError: so little that nothing starts.
        RefusedError: the storage pool has no quotas.
    """
    from coi.config.tighten import size

    for what, least in LEAST.items():
        given = values.get(what, "")
        if given and not given.endswith("%") and size(given)[0] < least:
            shown = f"{least >> 20}MiB" if what == "memory" else str(least)
            raise UsageError(
                f"limits.{what} is {given}, too little for a container to start",
                hint=f"at least {shown}: --limit {what}={shown}",
            )
    config = {f"limits.{what}": values[what] for what in ("memory", "processes") if what in values}
    if "cpu" in values:
        config["limits.cpu.allowance"] = WEIGHT
        if values["cpu"] != SHARE:
            config["limits.cpu"] = values["cpu"]
    if "disk" not in values:
        return Limits(config, {}, flag)
    config[_DISK] = values["disk"]
    return Limits(config, _root(client, values["disk"]), flag)


def _root(client: Client, disk: str) -> dict[str, dict[str, str]]:
    """The profile's root disk with a size."""
    from coi.incus.pools import Pools
    from coi.incus.profiles import Profiles

    profile = Profiles(client).find(PROFILE)
    roots = {
        name: device
        for name, device in (profile.devices if profile else {}).items()
        if device.get("type") == "disk" and device.get("path") == "/"
    }
    if not roots:
        raise CoiError(
            f"cannot limit the disk: the profile {PROFILE!r} has no root disk",
            hint=f"incus profile device add {PROFILE} root disk path=/ pool=NAME",
        )
    ((name, device), *_) = roots.items()
    pool = Pools(client).find(device.get("pool", ""))
    if pool is not None and not pool.quotas:
        raise RefusedError(
            f"cannot enforce the disk limit: the pool {pool.name!r} has no quotas",
            details=f"Its driver is {pool.driver}, which leaves a limit aside.",
            hint="do without: --limit disk=none  (limits.disk in the configuration), "
            "or use a btrfs, zfs or lvm pool",
        )
    return {name: {**device, "size": disk}}
