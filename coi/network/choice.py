"""Which backend attaches a policy, and what of a profile an instance behind it does not get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from coi.errors import RefusedError

if TYPE_CHECKING:
    from coi.incus.networks import Network
    from coi.network.attachment import Backend

NIC = "eth0"  # the device that the policy is on, and the interface inside

Devices = Mapping[str, Mapping[str, str]]


def nics(devices: Devices) -> dict[str, dict[str, str]]:
    """The devices that are a way to a network (Incus documentation, "Devices")."""
    kinds = ("nic", "infiniband")
    return {name: dict(d) for name, d in sorted(devices.items()) if d.get("type") in kinds}


def others(devices: Devices) -> tuple[str, ...]:
    """The NICs that no policy of coi is on, by name."""
    return tuple(name for name in nics(devices) if name != NIC)


def choose(
    wanted: str, profile: str, devices: Devices, networks: Iterable[Network]
) -> tuple[Backend, Network | None]:
    """The backend, and for OVN and NIC the network of the profile's own NIC. No call.

    Args:
        wanted: of :data:`coi.network.fence.BACKENDS`.
        devices: the profile's.
        networks: all that the project sees.

    Raises:
        RefusedError: the backend that is asked for is not to be had here.
    """
    name = parent(devices)
    return decide(wanted, next((row for row in networks if row.name == name), None), profile)


def decide(wanted: str, network: Network | None, profile: str) -> tuple[Backend, Network | None]:
    """As :func:`choose`, of what is known; no call.

    Args:
        network: the profile's own NIC is on it.
    """
    if wanted == "bridge":
        return "bridge", None
    kind = network.type if network else "no network"
    if wanted == "nic":
        if network is None or kind != "bridge" or not network.managed:
            raise _unfit(wanted, "a managed bridge", profile, kind)
        return "nic", network
    if kind == "ovn":
        return "ovn", network
    if wanted == "ovn":
        raise _unfit(wanted, "an OVN network", profile, kind)
    return "bridge", None


def parent(devices: Devices) -> str:
    """The network that eth0 is on, '' where it is on none of Incus's."""
    return _own(nics(devices)).get("network", "")


def _own(found: Devices) -> Mapping[str, str]:
    """The NIC that is eth0 inside; the only one, whatever its name."""
    for name, device in found.items():
        if NIC in (name, device.get("name")):
            return device
    return next(iter(found.values())) if len(found) == 1 else {}


def _unfit(wanted: str, needed: str, profile: str, kind: str) -> RefusedError:
    return RefusedError(
        f"cannot enforce the network policy: backend {wanted!r} needs {needed}",
        details=f"{NIC} of the profile {profile!r} is on {kind}.",
        hint="set network.backend = 'auto', or change the profile",
    )
