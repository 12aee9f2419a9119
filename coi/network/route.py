"""How the host reaches a container: directly on a bridge, by a route or not at all on OVN.

An OVN network is behind a router of its own (Incus documentation, "OVN network"). Without
address translation a route on the host leads in; with it (``ipv4.nat``) replies come from
another address and no route does (measured): a published port or a network forward does.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError, NotFoundError
from coi.incus.networks import Network, Networks
from coi.network.host import HostView, view
from coi.records import record

if TYPE_CHECKING:
    from coi.incus.client import Client
    from coi.incus.instances import Instance

ROUTER = "volatile.network.ipv4.address"  # of an OVN network: its router's, on the uplink


@record(frozen=True)
class Route:
    """How the host reaches a container.

    Attributes:
        address: the container's IPv4 address.
        reached: whether connections of the host arrive.
        how: a few words.
        command: what root, or whoever may change the network, can do about it; '' where
            nothing is to be done.
    """

    container: str
    network: str
    address: str
    reached: bool
    how: str
    command: str = ""

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "command": self.command or None}


def route(client: Client, row: Instance) -> Route:
    """How the host reaches an instance; one call, two where OVN translates addresses.

    Args:
        row: with its address.

    Raises:
        CoiError: it has no address, or its network is none that Incus knows.
    """
    if not row.ipv4:
        raise CoiError(f"{row.name} has no address", hint="it has one a moment after its start")
    networks = Networks(client).all()
    mine = [n for n in networks if n.managed and ("instances", row.name) in n.used_by]
    if not mine:
        raise NotFoundError(f"{row.name} is on no network that Incus manages")
    network = mine[0]

    def made(reached: bool, how: str, command: str = "") -> Route:
        return Route(row.name, network.name, row.ipv4, reached, how, command)

    if network.type != "ovn":
        return made(True, "directly")
    if network.config.get("ipv4.nat") == "true":
        forwards = Networks(client).forwards(network.name)
        listen = [address for address, target in forwards.items() if target == row.ipv4]
        if listen:
            return made(True, f"at {listen[0]}, by a network forward")
        uplink = next((n for n in networks if n.name == network.config.get("network")), None)
        free = free_address(uplink, forwards) if uplink else None
        return made(
            False,
            "the network translates addresses, no route leads in;"
            " --publish HOSTPORT:PORT at the start publishes a port",
            f"incus network forward create {network.name} {free or 'LISTEN_ADDRESS'}"
            f" target_address={row.ipv4}",
        )
    command = missing(network, view())
    if command:
        return made(False, "there is no route to it", command)
    return made(True, "by a route")


def free_address(uplink: Network, taken: Collection[str]) -> IPv4Address | None:
    """An address for a forward: the last of an uplink bridge that nothing hands out."""
    try:
        own = IPv4Interface(uplink.config.get("ipv4.address", ""))
        ranges = [
            tuple(IPv4Address(end) for end in part.split("-"))
            for key in ("ipv4.dhcp.ranges", "ipv4.ovn.ranges")
            for part in uplink.config.get(key, "").split(",")
            if part
        ]
    except ValueError:
        return None
    if not ranges:  # its DHCP hands out all of them
        return None
    last = int(own.network.broadcast_address) - 1
    for number in range(last, max(last - 256, int(own.network.network_address)), -1):
        address = IPv4Address(number)
        if address == own.ip or str(address) in taken:
            continue
        if not any(ends[0] <= address <= ends[-1] for ends in ranges):
            return address
    return None


def missing(network: Network, host: HostView) -> str:
    """The command, for root, that adds the host's route to an OVN network; '' where there
    is one, or where none would lead in."""
    if network.config.get("ipv4.nat") == "true":
        return ""
    router = network.config.get(ROUTER, "")
    try:
        subnet = IPv4Network(network.config.get("ipv4.address", ""), strict=False)
    except ValueError:
        return ""
    if not router or subnet in host.subnets:  # a wider route leads elsewhere, to a VPN say
        return ""
    uplink = network.config.get("network", "")
    return f"ip route add {subnet} via {router}" + (f" dev {uplink}" if uplink else "")
