"""The host's own IPv4 addresses, and the subnets that it has routes to.

Read from the kernel, without a process and without rights: /proc/net/fib_trie shows
every routing table of the network namespace. There is no such file of another machine,
and Incus tells only the addresses that it listens on (``environment.addresses``), so on
a remote no policy is made: see :func:`require_local`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import NamedTuple

from coi.errors import CoiError, RefusedError

FIB_TRIE = Path("/proc/net/fib_trie")

_LOOPBACK = IPv4Network("127.0.0.0/8")
_LEAF = re.compile(r"\|-- ([0-9.]+)$")
_ALIAS = re.compile(r"/(\d+) \S+ ([A-Z]+)")


class HostView(NamedTuple):
    """What the kernel's routing tables say.

    Attributes:
        addresses: the host's own, loopback left out.
        subnets: what there are routes to, the default route left out.
    """

    addresses: frozenset[IPv4Address]
    subnets: frozenset[IPv4Network]


def view(path: Path = FIB_TRIE) -> HostView:
    """Read the routing tables.

    Raises:
        CoiError: they cannot be read, or show no address at all.
    """
    try:
        entries = list(_entries(path.read_text("ascii")))
    except (OSError, ValueError) as error:
        raise CoiError("cannot find out the host's addresses", details=str(error)) from error
    addresses = {net[0] for net, kind in entries if kind == "LOCAL" and net.prefixlen == 32}
    subnets = {net for net, kind in entries if kind not in ("LOCAL", "BROADCAST")}
    if not addresses:
        raise CoiError("cannot find out the host's addresses", details=f"none in {path}")
    return HostView(
        frozenset(address for address in addresses if address not in _LOOPBACK),
        frozenset(net for net in subnets if net.prefixlen and not net.overlaps(_LOOPBACK)),
    )


def _entries(text: str) -> Iterator[tuple[IPv4Network, str]]:
    leaf = ""
    for line in text.splitlines():
        if found := _LEAF.search(line):
            leaf = found[1]
        elif leaf and (found := _ALIAS.search(line)) and "+--" not in line:
            yield IPv4Network((leaf, int(found[1])), strict=False), found[2]


def require_local(remote: str) -> None:
    """Refuse to fence sessions on another machine, whose addresses are not known here.

    Raises:
        RefusedError: the remote is not the local socket.
    """
    if remote != "local":
        raise RefusedError(
            f"cannot enforce a network policy on the remote {remote!r}",
            details="Its own addresses, which sessions must not reach, are not known here.",
            hint="run coi on that machine, or do without a policy: --network open",
        )
