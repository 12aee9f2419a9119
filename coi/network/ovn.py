"""NICs on an OVN network: the ACL is the NIC's own, nothing else is made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface

from coi.errors import CoiError
from coi.incus.client import Client
from coi.incus.networks import Network, Networks
from coi.network.attachment import Attachment, Scope
from coi.network.host import HostView
from coi.network.policy import Policy, Surroundings
from coi.network.rules import hold_acl, logged, refusal, rules, sealed


def device(network: str, acl: str, policy: Policy) -> dict[str, str]:
    """The NIC of an instance; what its ACL does not allow is rejected by default."""
    return {
        "type": "nic",
        "name": "eth0",
        "network": network,
        "security.acls": acl,
        **logged(policy),
    }


def ensure(
    client: Client,
    scope: Scope,
    policy: Policy,
    host: HostView,
    answers: Mapping[str, tuple[IPv4Address, ...]],
    network: Network,
) -> Attachment:
    """The policy's ACL, made or found right; two calls where it is.

    Raises:
        RefusedError: it cannot be had.
    """
    name = scope.name(policy, "ovn", network.name)
    gateway, nameservers = surroundings(client, network)
    around = Surroundings(host.addresses, gateway, nameservers, answers)
    try:
        hold_acl(client, name, scope.tags(policy, "ovn"), rules(policy, around, "ovn"))
    except CoiError as error:
        raise refusal(error, "make network ACLs here") from error
    made = Attachment(
        "ovn",
        network.name,
        name,
        policy.hash,
        policy.mode,
        device(network.name, name, policy),
        gateway,
        nameservers,
    )
    return sealed(made, policy, around)


def surroundings(
    client: Client, network: Network
) -> tuple[IPv4Address | None, tuple[IPv4Address, ...]]:
    """Where the host's connections come from, and the resolvers that DHCP hands out.

    Both are the uplink's: its own address where that is a bridge of this host. A network
    may name resolvers itself (``dns.nameservers``; so may a physical uplink).
    """
    uplink = None
    if name := network.config.get("network"):
        with suppress(CoiError):  # in a project that does not see it
            uplink = Networks(client).find(name)
    config = uplink.config if uplink else {}
    gateway = None
    if uplink and uplink.type == "bridge":
        gateway = _address(config.get("ipv4.address", ""))
    named = network.config.get("dns.nameservers") or config.get("dns.nameservers") or ""
    servers = [_address(text.strip()) for text in named.split(",")]
    found = tuple(server for server in servers if server)
    if not found and gateway:
        found = (gateway,)
    return gateway, found


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Interface(text).ip
    except ValueError:
        return None
