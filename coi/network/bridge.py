"""Policy bridges: one managed bridge and ACL for each policy, shared by its sessions.

What Incus's firewall does with an ACL on a bridge (6.0.4, nftables): connections that
stand, then the allow rules, then reject, both ways, for what is forwarded and for the
host itself. Before it, DNS and DHCP to any address of the host are accepted. So:

**While a bridge is updated it filters nothing.** Incus takes its rules away first, and
ACL's come last: 90 connections of a loop got through at each change of ``raw.dnsmasq``
(measured; none of 10 changes of the ACL let one through). So what changes while sessions
run is not on their bridge. The names of an allowlist have a resolver of their own: a second
bridge, ``<name>-n``, that nothing is on, whose dnsmasq has the names; that of the policy's
bridge asks it and nobody else. A bridge that instances use is never updated.

**A resolver that listens on another address of the host can be asked from a policy
bridge** - that of another Incus bridge, too, and it forwards. No option of the network,
the ACL or the NIC closes this (``dns.mode``, ``ipv4.firewall``, drop and reject rules
measured: the accept stands before them). :data:`coi.network.resolvers.DNS_GUARD` does, by
root, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from time import monotonic, sleep

from coi.digest import sha256
from coi.errors import CoiError, RefusedError
from coi.incus.acls import NetworkAcl, NetworkAcls
from coi.incus.client import Client, Pending
from coi.incus.errors import AlreadyExistsError
from coi.incus.instances import CONFIG_PREFIX
from coi.incus.networks import TRIPPED, Network, Networks
from coi.incus.shield import shielded
from coi.network.attachment import Attachment, Scope, same_tags
from coi.network.host import HostView
from coi.network.names import front_dnsmasq, names_of, raw_dnsmasq
from coi.network.policy import Policy, Surroundings
from coi.network.rules import (
    drop_acl,
    foreign,
    hold_acl,
    logged,
    refusal,
    rules,
    sealed,
)
from coi.records import record

_TRIES = 4  # subnets, and races
_READY = 10.0  # seconds for a network that another is making
_POOLS = ((IPv4Network("10.0.0.0/8"), 12), (IPv4Network("172.16.0.0/12"), 6),
          (IPv4Network("192.168.0.0/16"), 6))  # fmt: skip
_MAX_WIDE = 8  # a route this wide or wider (a VPN's 0.0.0.0/1) says nothing of a /24
_CLASH = ("address already in use", "already in use", "conflict", "overlap", TRIPPED.lower())

Meanwhile = Callable[[IPv4Interface], None]
"""What is done while a network of that address is being made."""


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


def candidates(name: str, used: frozenset[IPv4Network], size: int = 24) -> Iterator[IPv4Network]:
    """Subnets for a network, the same in the same order for the same name.

    Args:
        used: subnets that are left out, with all that overlap them.
        size: prefix length, 24 or more.
    """
    narrow = [subnet for subnet in used if subnet.prefixlen > _MAX_WIDE]
    for pool, count in _POOLS:
        for number in range(count):
            seed = int.from_bytes(sha256(f"{name}/{pool}/{number}".encode()).digest()[:8], "big")
            start = int(pool[0]) + (seed % 2 ** (24 - pool.prefixlen) << 8)
            subnet = IPv4Network((start, size))
            if not any(subnet.overlaps(other) for other in narrow):
                yield subnet


def ensure(
    client: Client,
    scope: Scope,
    policy: Policy,
    host: HostView,
    answers: Mapping[str, tuple[IPv4Address, ...]],
    there: list[Network],
) -> Attachment:
    """The policy's bridge and ACL, made or found right.

    Three calls where they are not there, and four with names: the ACL is made while the
    daemon makes the network of the names. Two where they are right.

    Args:
        there: all networks that the project sees; some may have come and gone since.

    Raises:
        RefusedError: it cannot be had; what was made for it is gone again.
    """
    bridge = _Bridge(client, scope, policy, host, answers)
    ours = {bridge.name, names_of(bridge.name)}
    fresh = not any(row.name in ours for row in there)
    for _ in range(_TRIES):
        with suppress(AlreadyExistsError):
            return bridge.ensure(there if fresh else Networks(client).all())
        fresh = False
    raise foreign("interface", bridge.name)


@record(frozen=True)
class _Bridge:
    client: Client
    scope: Scope
    policy: Policy
    host: HostView
    answers: Mapping[str, tuple[IPv4Address, ...]]

    @property
    def name(self) -> str:
        return self.scope.name(self.policy, "bridge")

    def ensure(self, there: list[Network]) -> Attachment:
        found = self._found(self.name, there)
        if found is None:
            return self._create(there)
        address = _address(found, "ipv4.address")
        hold_acl(self.client, self.name, self._tags(), self._rules(address.ip))
        resolver = _address(found, _RESOLVER) if self.policy.domains else None
        if resolver is not None:
            self._hold_names(resolver, there)
        wanted = self._config(address, resolver)
        wanted.update({k: v for k, v in found.config.items() if k == "user.coi.locks"})
        present = {k: v for k, v in found.config.items() if not k.startswith("volatile.")}
        if present != wanted:
            if found.used_by:
                raise RefusedError(
                    f"cannot enforce the network policy: network {self.name} has been changed",
                    details="It cannot be mended while containers use it: "
                    + ", ".join(name for _kind, name in found.used_by),
                    hint="coi shutdown ends them; the next start mends it",
                )
            Networks(self.client).replace(self.name, wanted)
        return self._attachment(address.ip)

    def _found(self, name: str, there: Iterable[Network]) -> Network | None:
        """One of the networks that are there, once it is whole."""
        until = monotonic() + _READY
        found = next((row for row in there if row.name == name), None)
        while True:
            if found is None:
                return None
            if not found.managed or not same_tags(found.config, self._tags()):
                raise foreign("network", name)
            if found.status == "Created" and found.config.get("ipv4.address"):
                return found
            if monotonic() > until:
                raise RefusedError(
                    f"cannot enforce the network policy: network {name} is "
                    f"{found.status or 'of no status'}",
                    hint=f"delete it: incus network delete {name}",
                )
            sleep(0.05)
            found = Networks(self.client).find(name)

    def _create(self, there: list[Network]) -> Attachment:
        used = self.host.subnets | _incus_subnets(there)
        acl: NetworkAcl | None = None
        held: IPv4Address | None = None  # the gateway that the ACL is for
        with ExitStack() as undo:

            def hold(gateway: IPv4Address) -> None:
                nonlocal held
                if gateway == held:
                    return
                wanted, new = self._rules(gateway), held is None and acl is None
                if hold_acl(self.client, self.name, self._tags(), wanted, new=new):
                    undo.callback(drop_acl, self.client, self.name)
                held = gateway

            def meanwhile(names: IPv4Interface) -> None:
                subnet = next(candidates(self.name, used | {names.network}), None)
                if subnet is not None:
                    hold(subnet[1])

            try:
                # First: Incus 6.0.4 has a restricted certificate make what it may neither
                # look at nor delete.
                acl = NetworkAcls(self.client).find(self.name)
                resolver = None
                if self.policy.domains:
                    resolver = self._create_names(there, used, undo, meanwhile)
                    used |= {resolver.network}

                def config(address: IPv4Interface) -> dict[str, str]:
                    hold(address.ip)
                    return self._config(address, resolver)

                address = self._make(self.name, candidates(self.name, used), config)
            except CoiError as error:
                if isinstance(error, AlreadyExistsError):
                    undo.pop_all()  # another coi home makes the same, and uses what is there
                    raise
                raise refusal(error, "make networks here") from error
            undo.pop_all()
        return self._attachment(address.ip)

    def _create_names(
        self,
        there: Iterable[Network],
        used: frozenset[IPv4Network],
        undo: ExitStack,
        meanwhile: Meanwhile,
    ) -> IPv4Interface:
        """The resolver of the names; it is found where only the policy's own bridge has gone."""
        name = names_of(self.name)
        found = self._found(name, there)
        if found is not None:
            address = _address(found, "ipv4.address")
            self._hold_names(address, [found])
            return address
        made = self._make(name, candidates(name, used, 30), self._names_config, meanwhile)
        undo.callback(_drop_network, self.client, name)
        return made

    def _hold_names(self, address: IPv4Interface, there: Iterable[Network]) -> None:
        """See to the resolver of the names at an address."""
        name = names_of(self.name)
        found = self._found(name, there)
        if found is None:
            self._make(name, [address.network], self._names_config)
            return
        wanted = self._names_config(address)
        present = {key: found.config.get(key) for key in wanted}
        if present != wanted:
            Networks(self.client).update(name, wanted)

    def _make(
        self,
        name: str,
        subnets: Iterable[IPv4Network],
        config: Callable[[IPv4Interface], dict[str, str]],
        meanwhile: Meanwhile = lambda _: None,
    ) -> IPv4Interface:
        """A bridge in the first of some subnets that is free; its address."""
        last: CoiError | None = None
        for subnet, _ in zip(subnets, range(_TRIES), strict=False):
            address = IPv4Interface((subnet[1], subnet.prefixlen))
            body = {"name": name, "type": "bridge", "config": config(address)}
            pending: Pending | None = None
            try:
                pending = Networks(self.client).start_create(body)
                meanwhile(address)
            except BaseException:
                self._take_back(name, pending)
                raise
            try:
                pending.result()
            except AlreadyExistsError:
                raise
            except CoiError as error:
                if not any(word in error.details.lower() for word in _CLASH):
                    _drop_network(self.client, name)  # an answer can be lost
                    raise
                last = error
            except BaseException:  # a signal
                self._take_back(name, pending)
                raise
            else:
                return address
        raise _no_subnet(last)

    def _take_back(self, name: str, pending: Pending | None) -> None:
        """Drop what was being made, unless the name is another's."""
        with shielded():
            try:
                if pending:
                    pending.result()
            except AlreadyExistsError:
                return
            except CoiError:  # an answer can be lost
                pass
            _drop_network(self.client, name)

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

    def _around(self, gateway: IPv4Address | None = None) -> Surroundings:
        return Surroundings(self.host.addresses, gateway, (), self.answers)

    def _rules(self, gateway: IPv4Address) -> dict[str, object]:
        return rules(self.policy, self._around(gateway), "bridge")

    def _config(self, address: IPv4Interface, resolver: IPv4Interface | None) -> dict[str, str]:
        """Of the policy's bridge: the same for as long as it is there."""
        return {
            **_PLAIN,
            "ipv4.address": str(address),
            "ipv4.nat": "true",
            "raw.dnsmasq": front_dnsmasq(self.policy, resolver.ip if resolver else None),
            "security.acls": self.name,
            **({_RESOLVER: str(resolver)} if resolver else {}),
            **logged(self.policy),
            **self._tags(),
        }

    def _names_config(self, address: IPv4Interface) -> dict[str, str]:
        return {
            **_PLAIN,
            "ipv4.address": str(address),
            "ipv4.nat": "false",
            "raw.dnsmasq": raw_dnsmasq(self.policy, self._around()),
            **self._tags(),
        }


_RESOLVER = CONFIG_PREFIX + "resolver"
_PLAIN = {"ipv6.address": "none", "dns.mode": "none"}  # siblings have no names either


def _address(network: Network, key: str) -> IPv4Interface:
    try:
        return IPv4Interface(network.config.get(key, ""))
    except ValueError as error:
        raise RefusedError(
            f"cannot enforce the network policy: network {network.name} has no {key}",
            hint=f"delete it: incus network delete {network.name}",
        ) from error


def _drop_network(client: Client, name: str) -> None:
    """Take back a network that was made."""
    with suppress(CoiError):
        Networks(client).delete(name)


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
