"""What a session may reach, as data: from the configuration to the rules of an ACL.

:func:`verdict` says what a policy means, address by address. :func:`compile_acl`
makes the rules that have this meaning, in another way: a test holds the two equal.

Only ``allow`` rules are made, each with a destination or source. Incus orders rules by
their action, drop and reject before allow, whatever the order they are given in
("How to configure network ACLs"), so a range with holes is written as the ranges
around the holes. What no rule allows meets the default, reject, and with it all of
IPv6: every rule here names IPv4 addresses. Connections that stand are let through by
the firewall itself, in both directions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Literal, NamedTuple

from coi.config.model import Network
from coi.digest import sha256
from coi.errors import UsageError
from coi.network.acl import Acl, Direction, Rule
from coi.network.addresses import EVERYTHING, LINK_LOCAL, NEVER, PRIVATE, RangeSet
from coi.network.domains import split
from coi.records import record

FORMAT = 2
"""Counts the meanings that a policy's rules have had; part of its hash."""

DNS_PORT = 53

Mode = Literal["restricted", "allowlist"]


@record(frozen=True)
class Policy:
    """What sessions of one kind may reach.

    Attributes:
        mode: ``restricted``: every public address. ``allowlist``: what is listed.
        domains: allowlist only: names in the spelling of :mod:`coi.config.hosts`, sorted.
        networks: allowlist only: listed addresses and networks, sorted.
        private: the private ranges are not blocked. ``restricted`` reaches them then;
            an allowlist may list addresses in them, and names may resolve to them.
        local_ingress: the private ranges are reached in every mode, and may connect in.
        metadata: as ``private``, for the link-local range.
        logged: what is rejected is logged. No rule says so, for the default rejects it:
            backends set ``security.acls.default.{egress,ingress}.logged``.
    """

    mode: Mode
    domains: tuple[str, ...] = ()
    networks: tuple[IPv4Network, ...] = ()
    private: bool = False
    local_ingress: bool = False
    metadata: bool = False
    logged: bool = False

    @classmethod
    def of(cls, network: Network) -> Policy | None:
        """The policy that the configuration asks for; None for mode ``open``.

        Raises:
            UsageError: the mode is unknown, an entry of the allowlist is no name, address
                or network, or no address of a listed network can be reached.
        """
        if network.mode == "open":
            return None
        policy = cls(
            "restricted",
            private=network.allow_local_network_access or not network.block_private_networks,
            local_ingress=network.allow_local_network_access,
            metadata=not network.block_metadata_endpoint,
            logged=network.logging.enabled,
        )
        if network.mode == "restricted":
            return policy
        if network.mode != "allowlist":
            raise UsageError(f"unknown network mode {network.mode!r}")
        domains, networks = split(network.allowed_domains)
        policy = replace(policy, mode="allowlist", domains=domains, networks=networks)
        ranges = _closed_ranges(policy, frozenset())
        for listed in networks:
            if not RangeSet.of(listed) - ranges:
                raise _unreachable(policy, listed)
        return policy

    @property
    def hash(self) -> str:
        """32 hex digits that are equal for equal policies, on every machine.

        128 bits: whoever chooses among a user's entries, a project's ``.coi.toml`` say, must
        not find two policies of one hash.
        """
        content = {
            "format": FORMAT,
            "mode": self.mode,
            "domains": self.domains,
            "networks": [str(network) for network in self.networks],
            "private": self.private,
            "local_ingress": self.local_ingress,
            "metadata": self.metadata,
            "logged": self.logged,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:32]


@record(frozen=True)
class Surroundings:
    """What a policy meets on one host at one moment.

    Attributes:
        host: every address of the host itself.
        gateway: the host's address on the session's network, where its connections
            into the session come from; None where it has none.
        nameservers: resolvers that sessions ask themselves, on port 53, wherever they
            are; for restricted sessions on OVN. Empty on bridges, whose own resolver is
            reached without a rule (measured), and without effect in an allowlist: any
            resolver that forwards is a way out.
        answers: what each name resolved to.
    """

    host: frozenset[IPv4Address] = frozenset()
    gateway: IPv4Address | None = None
    nameservers: tuple[IPv4Address, ...] = ()
    answers: Mapping[str, tuple[IPv4Address, ...]] = field(default_factory=dict)

    @property
    def own(self) -> frozenset[IPv4Address]:
        """The host's addresses, the gateway being one of them."""
        return self.host if self.gateway is None else self.host | {self.gateway}


class Verdict(NamedTuple):
    """Whether a connection may be made, and a few words on why."""

    allowed: bool
    reason: str


def verdict(
    policy: Policy,
    surroundings: Surroundings,
    address: IPv4Address | IPv6Address,
    port: int | None = None,
    protocol: str = "tcp",
    direction: Direction = "egress",
) -> Verdict:
    """Whether a session may connect to ``address``, or with ``ingress`` the other way.

    Args:
        port: None asks for all ports.
        protocol: ``tcp``, ``udp`` or ``icmp4``.
    """
    if isinstance(address, IPv6Address):
        return Verdict(False, "IPv6, which sessions do not have")
    private = _among(PRIVATE, address)
    if direction == "ingress":
        if address == surroundings.gateway:
            return Verdict(True, "the host")
        if private and policy.local_ingress:
            return Verdict(True, f"private address ({private}), which is let in")
        return Verdict(False, "only the host may connect to a session")
    dns = port == DNS_PORT and protocol in ("tcp", "udp")
    if dns and policy.mode == "restricted" and address in surroundings.nameservers:
        return Verdict(True, "name server")
    if reason := closed(policy, surroundings.own, address):
        return Verdict(False, reason)
    if private and policy.local_ingress:
        return Verdict(True, f"private address ({private}), which is open")
    if policy.mode == "restricted":
        return Verdict(True, "not a blocked address")
    for domain in policy.domains:
        if address in surroundings.answers.get(domain, ()):
            return Verdict(True, f"address of {domain}")
    if listed := _among(policy.networks, address):
        return Verdict(True, f"listed ({listed})")
    return Verdict(False, "not on the allowlist")


def closed(policy: Policy, own: frozenset[IPv4Address], address: IPv4Address) -> str:
    """Why no name and no list makes an address reachable; '' where they can.

    Args:
        own: the host's own addresses.
    """
    if address in own:
        return "the host's own address"
    if never := _among(NEVER, address):
        return f"never a public address ({never})"
    if address in LINK_LOCAL and not policy.metadata:
        return f"link-local address ({LINK_LOCAL})"
    if (private := _among(PRIVATE, address)) and not policy.private:
        return f"private address ({private})"
    return ""


class Usable(NamedTuple):
    """Answers of resolvers, by name.

    Attributes:
        kept: addresses that may be reached under the name, sorted; no name without any.
        refused: the others, each with the reason.
    """

    kept: Mapping[str, tuple[IPv4Address, ...]]
    refused: Mapping[str, tuple[tuple[IPv4Address, str], ...]]


def usable(
    answers: Mapping[str, Iterable[IPv4Address]], policy: Policy, own: frozenset[IPv4Address]
) -> Usable:
    """Take from answers what a name must not lead to, and names that are not listed.

    Whoever runs the name server of an allowed domain chooses its answers, so they open
    nothing that is closed: private addresses, the host, the metadata endpoint (DNS
    rebinding).

    Args:
        own: the host's own addresses (:attr:`Surroundings.own`).
    """
    kept: dict[str, tuple[IPv4Address, ...]] = {}
    refused: dict[str, tuple[tuple[IPv4Address, str], ...]] = {}
    for domain in policy.domains:
        reasons = {address: closed(policy, own, address) for address in answers.get(domain, ())}
        good = sorted(address for address, reason in reasons.items() if not reason)
        bad = sorted((address, reason) for address, reason in reasons.items() if reason)
        if good:
            kept[domain] = tuple(good)
        if bad:
            refused[domain] = tuple(bad)
    return Usable(kept, refused)


def compile_acl(policy: Policy, surroundings: Surroundings) -> Acl:
    """The rules that let through what :func:`verdict` allows, and nothing else."""
    blocked = _closed_ranges(policy, surroundings.own)
    private = RangeSet.of(*PRIVATE)
    egress: list[Rule] = []
    if policy.mode == "restricted":
        egress += _allow(EVERYTHING - blocked, "all but what is blocked")
        servers = RangeSet.of(*surroundings.nameservers)
        for protocol in ("tcp", "udp"):
            egress += _allow(servers, "name servers", protocol, str(DNS_PORT))
    else:
        answers = surroundings.answers
        of_names = (address for domain in policy.domains for address in answers.get(domain, ()))
        listed = RangeSet.of(*of_names, *policy.networks)
        if policy.local_ingress:
            listed |= private
        egress += _allow(listed - blocked, "the allowlist")
    inwards = RangeSet.of(surroundings.gateway) if surroundings.gateway else RangeSet()
    ingress = _allow(inwards, "the host")
    if policy.local_ingress:
        ingress += _allow(private, "private networks")
    return Acl(tuple(egress), tuple(ingress))


def _allow(addresses: RangeSet, description: str, protocol: str = "", port: str = "") -> list[Rule]:
    return [Rule(text, description, protocol, port) for text in addresses.texts()]


def _closed_ranges(policy: Policy, own: frozenset[IPv4Address]) -> RangeSet:
    ranges = RangeSet.of(*NEVER, *own)
    if not policy.metadata:
        ranges |= RangeSet.of(LINK_LOCAL)
    if not policy.private:
        ranges |= RangeSet.of(*PRIVATE)
    return ranges


def _among(networks: Iterable[IPv4Network], address: IPv4Address) -> IPv4Network | None:
    return next((network for network in networks if address in network), None)


def _unreachable(policy: Policy, listed: IPv4Network) -> UsageError:
    reason = closed(policy, frozenset(), listed.network_address)
    hint = "take it out of network.allowed_domains"
    if _among(PRIVATE, listed.network_address):
        hint = "network.block_private_networks = false allows to list private addresses"
    elif listed.network_address in LINK_LOCAL:
        hint = "network.block_metadata_endpoint = false allows to list link-local addresses"
    shown = listed.network_address if listed.prefixlen == 32 else listed
    return UsageError(f"cannot allow {shown}: {reason}", hint=hint)
