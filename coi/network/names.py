"""Names inside an allowlist session: each resolves to what the rules admit, or not at all.

A resolver that forwards would carry data out in the names it is asked for, and a name
that resolves anew to another address of a CDN would meet a rule that does not know it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from coi.network.policy import Policy, Surroundings, usable

_NAMES = "-n"


def names_of(network: str) -> str:
    """The network whose resolver has the names of a policy bridge."""
    return network + _NAMES


def asked_by(network: str) -> str | None:
    """The policy bridge that asks a resolver of names; None where it is none."""
    return network.removesuffix(_NAMES) if network.endswith(_NAMES) else None


def front_dnsmasq(policy: Policy, resolver: IPv4Address | None) -> str:
    """``raw.dnsmasq`` of a policy's own bridge: of an allowlist it asks one resolver at most.

    ``dhcp-ignore-names``: a session gets no name from what it calls itself, so that its
    siblings learn nothing of it (``dns.mode=none`` alone leaves these names; measured).

    Args:
        resolver: that has the names; None where there are none.
    """
    lines = ["dhcp-ignore-names"]
    if policy.mode == "allowlist":
        lines += ["no-resolv", "no-hosts", f"server={resolver}" if resolver else "address=/#/"]
    return "\n".join(lines)


def raw_dnsmasq(policy: Policy, surroundings: Surroundings) -> str:
    """``raw.dnsmasq`` of the resolver of an allowlist's names; '' in other modes.

    From dnsmasq(8), version 2.90:

    - ``no-resolv``, and no server: nothing is forwarded.
    - ``no-hosts``: the names in the host's own /etc/hosts stay the host's.
    - ``address=/#/``: "one or more domains with no address returns a no-such-domain
      answer", and ``#`` matches any domain.
    - ``host-record=name,address``: that name alone, several times for several addresses.
      ``address=/name/address`` would answer for every name below it too.
    """
    if policy.mode != "allowlist":
        return ""
    lines = ["no-resolv", "no-hosts", "address=/#/"]
    lines += (f"host-record={name},{address}" for name, address in _pairs(policy, surroundings))
    return "\n".join(lines)


def hosts_lines(policy: Policy, surroundings: Surroundings) -> tuple[str, ...]:
    """Lines of an /etc/hosts for OVN, where no resolver is reached; hosts(5).

    A name with several addresses has several lines.
    """
    if policy.mode != "allowlist":
        return ()
    return tuple(f"{address} {name}" for name, address in _pairs(policy, surroundings))


def _pairs(policy: Policy, surroundings: Surroundings) -> Iterator[tuple[str, IPv4Address]]:
    kept = usable(surroundings.answers, policy, surroundings.own).kept
    return ((name, address) for name, addresses in kept.items() for address in addresses)
