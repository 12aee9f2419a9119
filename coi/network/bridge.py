"""Policy bridges: one managed bridge and ACL for each policy, shared by its sessions.

What Incus's firewall does with an ACL on a bridge (6.0.4, nftables): connections that
stand, then the allow rules, then reject, both ways, for what is forwarded and for the
host itself. Before it, DNS and DHCP to any address of the host are accepted. So:

**A resolver that listens on another address of the host can be asked from a policy
bridge** - that of another Incus bridge, too, and it forwards. No option of the network,
the ACL or the NIC closes this (``dns.mode``, ``ipv4.firewall``, drop and reject rules
measured: the accept stands before them). :data:`DNS_GUARD` does, by root, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from time import monotonic, sleep
from typing import NamedTuple

from coi.errors import CoiError, RefusedError
from coi.incus.client import Client
from coi.incus.errors import AlreadyExistsError
from coi.incus.networks import TRIPPED, Network, Networks
from coi.network.attachment import Attachment, Scope, same_tags
from coi.network.host import HostView
from coi.network.policy import Policy, Surroundings
from coi.network.rules import (
    dnsmasq_text,
    drop_acl,
    foreign,
    hold_acl,
    logged,
    refusal,
    rules,
    sealed,
)

DNS_GUARD = """table inet coi_dns
delete table inet coi_dns
table inet coi_dns {
    chain input {
        type filter hook input priority -10; policy accept;
        iifname "coi-*" meta l4proto { tcp, udp } th dport 53 fib daddr . iif type != local reject
    }
}
"""
"""nft(8) rules that leave a policy bridge its own resolver alone, for ``nft -f -`` as root."""

_TRIES = 4  # subnets, and races
_READY = 10.0  # seconds for a network that another is making
_POOLS = ((IPv4Network("10.0.0.0/8"), 12), (IPv4Network("172.16.0.0/12"), 6),
          (IPv4Network("192.168.0.0/16"), 6))  # fmt: skip
_MAX_WIDE = 8  # a route this wide or wider (a VPN's 0.0.0.0/1) says nothing of a /24
_CLASH = ("address already in use", "already in use", "conflict", "overlap", TRIPPED.lower())


def device(name: str) -> dict[str, str]:
    """The NIC of an instance on a policy bridge.

    Isolated from its siblings, with its own MAC and IPv4 address only, and no IPv6:
    DHCP works with all of it (measured).
    """
    return {
        "type": "nic",
        "name": "eth0",
        "network": name,
        "security.port_isolation": "true",
        "security.mac_filtering": "true",
        "security.ipv4_filtering": "true",
        "security.ipv6_filtering": "true",
    }


def candidates(name: str, used: frozenset[IPv4Network]) -> Iterator[IPv4Network]:
    """Subnets for a network, the same in the same order for the same name.

    Args:
        used: subnets that are left out, with all that overlap them.
    """
    narrow = [subnet for subnet in used if subnet.prefixlen > _MAX_WIDE]
    for pool, count in _POOLS:
        for number in range(count):
            seed = int.from_bytes(sha256(f"{name}/{pool}/{number}".encode()).digest()[:8], "big")
            start = int(pool[0]) + (seed % 2 ** (24 - pool.prefixlen) << 8)
            subnet = IPv4Network((start, 24))
            if not any(subnet.overlaps(other) for other in narrow):
                yield subnet


def ensure(
    client: Client,
    scope: Scope,
    policy: Policy,
    host: HostView,
    answers: Mapping[str, tuple[IPv4Address, ...]],
) -> Attachment:
    """The policy's bridge and ACL, made or found right; two calls where they are.

    Raises:
        RefusedError: it cannot be had; what was made for it is gone again.
    """
    bridge = _Bridge(client, scope, policy, host, answers)
    for _ in range(_TRIES):
        with suppress(AlreadyExistsError):
            return bridge.ensure()
    raise foreign("interface", bridge.name)


class _Bridge(NamedTuple):
    client: Client
    scope: Scope
    policy: Policy
    host: HostView
    answers: Mapping[str, tuple[IPv4Address, ...]]

    @property
    def name(self) -> str:
        return self.scope.name(self.policy, "bridge")

    def ensure(self) -> Attachment:
        found = self._find()
        if found is None:
            return self._attachment(self._create())
        gateway = IPv4Interface(found.config.get("ipv4.address") or "0.0.0.0/0").ip
        wanted = self._config(gateway, found.config.get("ipv4.address", ""))
        wanted.update({k: v for k, v in found.config.items() if k == "user.coi.locks"})
        hold_acl(self.client, self.name, self._tags(), self._rules(gateway))
        present = {k: v for k, v in found.config.items() if not k.startswith("volatile.")}
        if present != wanted:
            Networks(self.client).replace(self.name, wanted)
        return self._attachment(gateway)

    def _find(self) -> Network | None:
        """The network, once it is whole."""
        until = monotonic() + _READY
        while True:
            found = Networks(self.client).find(self.name)
            if found is None:
                return None
            if not found.managed or not same_tags(found.config, self._tags()):
                raise foreign("network", self.name)
            if found.status == "Created" and found.config.get("ipv4.address"):
                return found
            if monotonic() > until:
                raise RefusedError(
                    f"cannot enforce the network policy: network {self.name} is "
                    f"{found.status or 'of no status'}",
                    hint=f"delete it: incus network delete {self.name}",
                )
            sleep(0.05)

    def _create(self) -> IPv4Address:
        made = False
        try:
            used = self.host.subnets | _incus_subnets(Networks(self.client).all())
            last: CoiError | None = None
            for subnet, _ in zip(candidates(self.name, used), range(_TRIES), strict=False):
                gateway = subnet[1]
                if hold_acl(self.client, self.name, self._tags(), self._rules(gateway)):
                    made = True
                config = self._config(gateway, f"{gateway}/24")
                body = {"name": self.name, "type": "bridge", "config": config}
                try:
                    Networks(self.client).create(body)
                except AlreadyExistsError:
                    raise
                except CoiError as error:
                    if not any(word in error.details.lower() for word in _CLASH):
                        raise
                    last = error
                else:
                    return gateway
            raise _no_subnet(last)  # noqa: TRY301
        except BaseException as error:
            if made:
                drop_acl(self.client, self.name)
            if isinstance(error, CoiError) and not isinstance(error, AlreadyExistsError):
                raise refusal(error, "make networks here") from error
            raise

    def _attachment(self, gateway: IPv4Address) -> Attachment:
        made = Attachment(
            "bridge",
            self.name,
            self.name,
            self.policy.hash,
            self.policy.mode,
            device(self.name),
            gateway,
        )
        return sealed(made, self.policy, self._around(gateway))

    def _tags(self) -> dict[str, str]:
        return self.scope.tags(self.policy, "bridge")

    def _around(self, gateway: IPv4Address) -> Surroundings:
        return Surroundings(self.host.addresses, gateway, (), self.answers)

    def _rules(self, gateway: IPv4Address) -> dict[str, object]:
        return rules(self.policy, self._around(gateway), "bridge")

    def _config(self, gateway: IPv4Address, address: str) -> dict[str, str]:
        return {
            "ipv4.address": address,
            "ipv4.nat": "true",
            "ipv6.address": "none",
            "dns.mode": "none",  # siblings have no names either
            "raw.dnsmasq": dnsmasq_text(self.policy, self._around(gateway)),
            "security.acls": self.name,
            **logged(self.policy),
            **self._tags(),
        }


def _incus_subnets(networks: list[Network]) -> frozenset[IPv4Network]:
    found = set()
    for network in networks:
        with suppress(ValueError):  # none, auto
            found.add(IPv4Interface(network.config.get("ipv4.address") or "none").network)
    return frozenset(found)


def _no_subnet(last: CoiError | None) -> RefusedError:
    return RefusedError(
        "cannot enforce the network policy: no subnet is free for its bridge",
        details=last.details if last else "Every candidate overlaps a route of this host.",
        hint="see: ip route; incus network list",
    )
