"""NICs with an ACL of their own on an ordinary bridge, where the kernel can.

Needs the API extension ``network_bridge_acl_devices`` and the kernel's modules
nf_conntrack_bridge and nft_reject_bridge. Where they are missing the instance does not
start (measured), so nothing runs without its rules: :func:`refused_start`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface

from coi.errors import CoiError, RefusedError
from coi.incus.client import Client, listed, table
from coi.incus.networks import Network
from coi.network.attachment import Attachment, Scope
from coi.network.host import HostView
from coi.network.policy import Policy, Surroundings
from coi.network.rules import hold_acl, logged, refusal, rules, sealed

EXTENSION = "network_bridge_acl_devices"

_NO_RULES = "Failed adding bridge filter rules"


def device(network: str, acl: str, policy: Policy) -> dict[str, str]:
    """The NIC of an instance on a bridge that is not ours."""
    return {
        "type": "nic",
        "name": "eth0",
        "network": network,
        "security.acls": acl,
        "security.port_isolation": "true",
        "security.mac_filtering": "true",
        "security.ipv4_filtering": "true",
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
    """The policy's ACL, made or found right; three calls where it is.

    Raises:
        RefusedError: it cannot be had.
    """
    if policy.mode == "allowlist":
        raise RefusedError(
            "cannot enforce an allowlist by ACLs of NICs on a bridge",
            details="Sessions ask the bridge's own resolver, which forwards, and no rule of "
            "the policy is known to close that.",
            hint="network.backend = 'auto'",
        )
    server = client.query("GET", "/1.0", action="ask Incus what it can")
    if EXTENSION not in listed(str, table(server).get("api_extensions")):
        raise RefusedError(
            "cannot enforce the network policy: this Incus has no ACLs for NICs on bridges",
            details=f"It lacks the API extension {EXTENSION}.",
            hint="network.backend = 'auto', or do without a policy: --network open",
        )
    gateway = None
    with suppress(ValueError):
        gateway = IPv4Interface(network.config.get("ipv4.address", "")).ip
    name = scope.name(policy, "nic", network.name)
    around = Surroundings(host.addresses, gateway, (), answers)
    try:
        hold_acl(client, name, scope.tags(policy, "nic"), rules(policy, around, "nic"))
    except CoiError as error:
        raise refusal(error, "make network ACLs here") from error
    made = Attachment(
        "nic",
        network.name,
        name,
        policy.hash,
        policy.mode,
        device(network.name, name, policy),
        gateway,
    )
    return sealed(made, policy, around)


def refused_start(error: CoiError) -> CoiError:
    """What a start failed with, as a refusal where the kernel cannot filter on bridges."""
    if _NO_RULES not in error.details and _NO_RULES not in error.brief:
        return error
    return RefusedError(
        "cannot enforce the network policy: the kernel does not filter on bridges",
        details=error.details,
        hint="load nf_conntrack_bridge and nft_reject_bridge, or set network.backend = 'auto'",
    )
