"""The host's resolvers, which Incus lets every bridge ask: whether sessions are kept from them.

Only root sees the rules that do (:data:`coi.network.bridge.DNS_GUARD`). Whoever loads them
leaves a stamp that everybody can read: the boot's number, and the rules. Where there is none
the kernel tells whether another resolver listens where a session could ask it (proc(5),
/proc/net/udp and the like).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from coi.errors import CoiError, RefusedError, UnavailableError
from coi.files import read_all
from coi.incus.process import Runner
from coi.network.names import names_of
from coi.network.policy import DNS_PORT, Policy

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

STAMP = Path("/run/coi-network-guard")
HINT = "close it, once for all sessions: sudo coi network guard --load"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NET = Path("/proc/net")
_SOCKETS = {"udp": "07", "udp6": "07", "tcp": "0A", "tcp6": "0A"}  # and the state that listens
_MAPPED = "FFFF0000" if sys.byteorder == "little" else "0000FFFF"  # ::ffff:a.b.c.d


def load(stamp: Path = STAMP) -> None:
    """Load the rules, and leave the stamp; as root.

    Raises:
        UnavailableError: this user may not, or there is no nft.
        CoiError: the kernel does not take them.
    """
    if os.geteuid() != 0:
        raise UnavailableError(
            "only root loads rules of the firewall", hint="sudo coi network guard --load"
        )
    nft = Runner("nft", missing_hint="install nftables")
    done = nft.run(["-f", "-"], stdin=DNS_GUARD.encode(), timeout=30.0)
    if done.exit_code != 0:
        raise CoiError("the kernel does not take the rules", details=done.error_text)
    stamp.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(stamp, flags, 0o644), "w") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(_stamped())


def guarded(stamp: Path = STAMP) -> bool:
    """Whether root has loaded the rules since the host was started."""
    try:
        descriptor = os.open(stamp, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        roots = stat.S_ISREG(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022
        return roots and read_all(descriptor, 1 << 16).decode("utf-8", "replace") == _stamped()
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _stamped() -> str:
    return _BOOT.read_text() + DNS_GUARD


def check(
    policy: Policy,
    network: str,
    report: Callable[[str], None] | None = None,
    *,
    stamp: Path = STAMP,
    proc: Path = _NET,
) -> None:
    """See that sessions on a policy's bridge ask no resolver of the host but its own.

    Args:
        network: the policy's bridge, which may not be there yet.
        report: takes a line for the user where that is no reason to refuse.

    Raises:
        RefusedError: names would be a way out of an allowlist.
    """
    if (policy.mode != "allowlist" and report is None) or guarded(stamp):
        return
    try:
        found = listening(network, proc)
    except CoiError as error:
        if policy.mode != "allowlist":
            return
        raise RefusedError(
            "cannot enforce the allowlist: sessions might ask other resolvers of this host",
            details=f"{error.brief}: {error.details}",
            hint=HINT,
        ) from error
    if not found:
        return
    if policy.mode == "allowlist":
        raise RefusedError(
            "cannot enforce the allowlist: sessions could ask other resolvers of this host",
            details=f"One listens on {', '.join(found)}; it forwards what it is asked, and "
            "Incus lets every bridge ask it.",
            hint=HINT,
        )
    if report is not None:
        report(f"Sessions can ask other resolvers of this host ({', '.join(found)}); {HINT}")


def listening(network: str, proc: Path = _NET) -> list[str]:
    """Where resolvers listen that are not the policy's own, and reached from its bridge.

    Raises:
        CoiError: the kernel's tables cannot be read, or understood.
    """
    try:
        own = list(_subnets(proc, {network, names_of(network)}))
        found = {
            address
            for name, state in _SOCKETS.items()
            for address in _bound(proc / name, state)
            if not address.is_loopback and not any(address in subnet for subnet in own)
        }
    except (OSError, ValueError, IndexError, OverflowError) as error:
        raise CoiError(
            "cannot find out which resolvers listen on this host", details=str(error)
        ) from error
    return [str(address) for address in sorted(found)]


def _bound(path: Path, state: str) -> Iterator[IPv4Address]:
    """The addresses of one kind of socket; one for all of them is 0.0.0.0."""
    with suppress(OSError):  # a kernel without IPv6
        for line in path.read_text("ascii").splitlines()[1:]:
            local, _, listens = line.split()[1:4]
            text, _, port = local.rpartition(":")
            if int(port, 16) != DNS_PORT or listens != state:
                continue
            if len(text) == 32:
                if text != "0" * 32 and text[16:24] != _MAPPED:
                    continue  # IPv6 alone, which sessions do not have
                text = text[24:]
            yield IPv4Address(int(text, 16).to_bytes(4, sys.byteorder))


def _subnets(proc: Path, interfaces: set[str]) -> Iterator[IPv4Network]:
    for line in (proc / "route").read_text("ascii").splitlines()[1:]:
        words = line.split()
        if words[0] in interfaces:
            start, mask = (int(words[at], 16).to_bytes(4, sys.byteorder) for at in (1, 7))
            yield IPv4Network((start, bin(int.from_bytes(mask, "big")).count("1")))
