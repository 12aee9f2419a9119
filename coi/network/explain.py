"""What a running instance may reach, read from the rules that stand in Incus."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError, NotFoundError, UsageError
from coi.incus.acls import NetworkAcl, NetworkAcls
from coi.incus.instances import CONFIG_PREFIX
from coi.incus.networks import Networks
from coi.network.addresses import LINK_LOCAL, NEVER, PRIVATE, RangeSet
from coi.network.attachment import Scope
from coi.network.duty import attended
from coi.network.log import Refused, from_kernel, from_ovn
from coi.records import record

if TYPE_CHECKING:
    from coi.incus.client import Client
    from coi.incus.instances import Instance

_KINDS = (
    ("a private address", RangeSet.of(*PRIVATE)),
    ("a link-local address", RangeSet.of(LINK_LOCAL)),
    ("no public address", RangeSet.of(*NEVER)),
)


@record(frozen=True)
class Standing:
    """A policy that stands in Incus.

    Attributes:
        acl: the network ACL's name.
        used_by: names of instances.
        refreshing: whether a process keeps its rules right; None: there is nothing to do,
            for no container is behind it.
    """

    acl: str
    mode: str
    backend: str
    network: str
    used_by: tuple[str, ...]
    refreshing: bool | None

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "used_by": list(self.used_by)}


@record(frozen=True)
class Explained:
    """Whether a connection would pass.

    Attributes:
        address: that was asked about, or that the name resolves to on this host.
        rule: what decides it.
    """

    address: str
    port: int | None
    allowed: bool
    rule: str

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


def standing(client: Client, scope: Scope) -> list[Standing]:
    """The policies of this scope, by name; two calls."""
    users = {
        network.name: tuple(name for kind, name in network.used_by if kind == "instances")
        for network in Networks(client).all()
    }
    kept = attended(scope.directory)
    found = []
    for acl in NetworkAcls(client).all():
        keys = {key: acl.config.get(CONFIG_PREFIX + key, "") for key in _TAGS}
        if keys["owner"] != str(scope.owner) or keys["prefix"] != scope.prefix:
            continue
        network, used_by = _users(acl, users)
        found.append(
            Standing(acl.name, keys["mode"], keys["backend"], network, used_by, kept.get(acl.name))
        )
    return sorted(found, key=lambda item: item.acl)


_TAGS = ("owner", "prefix", "mode", "backend")


def _users(acl: NetworkAcl, users: Mapping[str, tuple[str, ...]]) -> tuple[str, tuple[str, ...]]:
    """The network that an ACL is on, and the instances that are under it."""
    for kind, name in acl.used_by:
        if kind == "networks":
            return name, users.get(name, ())
    return "", tuple(sorted(name for kind, name in acl.used_by if kind == "instances"))


def target(text: str) -> tuple[str, int | None]:
    """``HOST[:PORT]`` or ``[IPV6]:PORT``.

    Raises:
        UsageError: it is neither.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f"not HOST[:PORT]: {text!r}")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (text.endswith(":") and not port):
        raise UsageError(f"not HOST[:PORT]: {text!r}")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"not a port: {port!r}", hint="1 to 65535")
    return host, int(port) if port else None


def explain(client: Client, config: Mapping[str, str], host: str, port: int | None) -> Explained:
    """Whether a TCP connection from an instance would pass, by the ACL as it stands.

    Args:
        config: the instance's, with the ``user.coi.*`` keys of its policy.
        host: an address, or a name that this host resolves.

    Raises:
        NotFoundError: the name does not resolve, or the ACL is gone.
    """
    address = _address(host)
    mode = config.get(CONFIG_PREFIX + "network") or "open"
    if mode == "open":
        return Explained(str(address), port, True, "mode open: nothing is filtered")
    name = config.get(CONFIG_PREFIX + "network-acl", "")
    acl = NetworkAcls(client).find(name) if name else None
    if acl is None:
        raise NotFoundError(f"the network ACL {name} is gone", hint="coi network status")
    if isinstance(address, IPv6Address):
        return Explained(str(address), port, False, "default reject: no policy lets IPv6 through")
    for rule in acl.egress:
        if rule.get("action") != "allow" and _matches(rule, address, port):
            return Explained(str(address), port, False, _named(acl, rule))
    for rule in acl.egress:
        if rule.get("action") == "allow" and _matches(rule, address, port):
            return Explained(str(address), port, True, _named(acl, rule))
    return Explained(str(address), port, False, f"default reject of {acl.name}{_why(address)}")


def refused(client: Client, row: Instance) -> list[Refused]:
    """What an instance was refused, the oldest first, where that is logged; 0-1 calls.

    Args:
        row: with its address.

    Raises:
        CoiError: nothing is refused or logged there, or the log cannot be read.
    """
    mode, backend = row.coi("network") or "open", row.coi("network-backend")
    if mode == "open":
        raise CoiError(f"{row.name} is on mode open", details="Nothing is refused there.")
    acl = row.coi("network-acl")
    if backend == "ovn":
        _check_logged(row, row.devices.get("eth0", {}))
        return from_ovn(row.config.get("volatile.uuid", ""))
    if backend != "bridge":
        raise CoiError(
            f"the backend {backend} does not tell coi what it refused",
            hint=f"as an administrator of Incus: incus network acl show-log {acl}",
        )
    network = Networks(client).find(acl)
    if network is None:
        raise NotFoundError(f"the network {acl} is gone", hint="coi network status")
    _check_logged(row, network.config)
    return from_kernel(network.name, row.ipv4) if row.ipv4 else []


def _check_logged(row: Instance, keys: Mapping[str, str]) -> None:
    if keys.get("security.acls.default.egress.logged") != "true":
        raise CoiError(
            f"what {row.name} is refused is not logged",
            hint="network.logging.enabled = true, then start it again",
        )


def _address(host: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotFoundError(f"{host} does not resolve on this host", details=str(error)) from error
    return ip_address(str(found[0][4][0]))


def _matches(rule: Mapping[str, str], address: IPv4Address, port: int | None) -> bool:
    if rule.get("state") == "disabled" or rule.get("protocol", "") not in ("", "tcp"):
        return False
    wanted = rule.get("destination_port", "")
    return (not wanted or wanted == str(port)) and address in RangeSet.parse(
        rule.get("destination", "")
    )


def _named(acl: NetworkAcl, rule: Mapping[str, str]) -> str:
    port = f", port {rule['destination_port']}" if rule.get("destination_port") else ""
    text = rule.get("description") or _shortened(rule.get("destination", ""))
    return f"{rule.get('action')} rule of {acl.name}: {text}{port}"


def _shortened(ranges: str) -> str:
    parts = ranges.split(",")
    return ranges if len(parts) <= 4 else f"{','.join(parts[:3])} and {len(parts) - 3} more"


def _why(address: IPv4Address) -> str:
    return "".join(f": {kind}" for kind, ranges in _KINDS if address in ranges)
