"""The repair of a container that was handed a resolver it cannot reach.

On a host with systemd-resolved DHCP may name 127.0.0.53, which is the host's
own stub: the container has an address and a route, and resolves nothing. The
repair writes static resolvers (``[build] dns``) into the container, so the
image has them too; it is kept only if a name resolves with it.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable, Sequence
from enum import Enum

from coi.errors import CoiError, ConfigError
from coi.incus.process import Completed
from coi.records import record

Execute = Callable[[str], Completed]
"""Runs a shell script as root in the container."""

_SETTLE = 10  # seconds that a resolver may take after boot before it counts as dead

PROBE = r"""
name=$1 seconds=$2
servers() { # what DHCP handed out, seen behind resolved's own stub
    for file in /run/systemd/resolve/resolv.conf /etc/resolv.conf; do
        [ -r "$file" ] || continue
        sed -n 's/^nameserver[[:space:]]*//p' "$file"
        return
    done
}
network=no
if ip -4 -o addr show scope global | grep -q inet && ip -4 route show default | grep -q .; then
    network=yes
fi
resolves=no
end=$(($(date +%s) + seconds))
while :; do
    if RES_OPTIONS='timeout:1 attempts:1' timeout 3 getent ahostsv4 "$name" > /dev/null 2>&1; then
        resolves=yes
        break
    fi
    [ "$(date +%s)" -lt "$end" ] || break
    # A resolver on the loopback of a container is somebody else's: no use waiting,
    # except for systemd-resolved's start.
    sleep 0.05
done
echo "network=$network resolves=$resolves servers=$(servers | tr '\n' ' ')"
"""

REPAIR = r"""
set -eu
mkdir -p /etc/coi /etc/systemd/resolved.conf.d
if [ ! -e /etc/coi/resolv.conf.orig ] && [ ! -L /etc/coi/resolv.conf.orig ]; then
    cp -a /etc/resolv.conf /etc/coi/resolv.conf.orig 2> /dev/null || true
fi
rm -f /etc/resolv.conf
{
    echo '# written by coi build: DHCP named a resolver that does not answer here'
    for server in "$@"; do echo "nameserver $server"; done
} > /etc/resolv.conf
printf '[Resolve]\nDNS=%s\nDomains=~.\n' "$*" > /etc/systemd/resolved.conf.d/coi-dns.conf
systemctl try-restart systemd-resolved.service > /dev/null 2>&1 || true
"""

UNDO = r"""
rm -f /etc/systemd/resolved.conf.d/coi-dns.conf
if [ -e /etc/coi/resolv.conf.orig ] || [ -L /etc/coi/resolv.conf.orig ]; then
    rm -f /etc/resolv.conf
    mv /etc/coi/resolv.conf.orig /etc/resolv.conf
fi
systemctl try-restart systemd-resolved.service > /dev/null 2>&1 || true
"""


class Verdict(Enum):
    """What to do about a container's DNS."""

    FINE = "fine"
    REPAIR = "repair"
    NO_NETWORK = "no network"


@record(frozen=True)
class Facts:
    """What a container knows of the network.

    Attributes:
        network: it has a global IPv4 address and a default route.
        resolves: the probed name has an address.
        servers: its resolvers.
    """

    network: bool
    resolves: bool
    servers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Facts:
        """From the last line that :data:`PROBE` prints.

        Raises:
            CoiError: the probe printed something else.
        """
        lines = text.strip().splitlines()
        fields = dict(
            part.partition("=")[::2] for part in (lines[-1] if lines else "").split(" ", 2)
        )
        if set(fields) != {"network", "resolves", "servers"}:
            raise CoiError("cannot tell the state of the container's DNS", details=text[-500:])
        return cls(
            fields["network"] == "yes",
            fields["resolves"] == "yes",
            tuple(fields["servers"].split()),
        )

    @property
    def stub(self) -> bool:
        """Every resolver is on the loopback: the host's stub, handed on."""
        return bool(self.servers) and all(_is_loopback(server) for server in self.servers)


def decide(facts: Facts) -> Verdict:
    """A name that resolves settles it; else the network decides whose fault it is."""
    if facts.resolves:
        return Verdict.FINE
    return Verdict.REPAIR if facts.network else Verdict.NO_NETWORK


def probe(execute: Execute, name: str, seconds: int = _SETTLE) -> Facts:
    """Ask the container; takes up to ``seconds`` where nothing resolves."""
    return Facts.parse(
        execute(_with_args(PROBE, [name, str(seconds)])).stdout.decode("utf-8", "replace")
    )


def ensure(execute: Execute, name: str, servers: Sequence[str], *, settle: int = _SETTLE) -> str:
    """Make ``name`` resolve in the container.

    Args:
        execute: runs a script as root inside.
        name: a host that the build needs.
        servers: static resolvers for the repair, IP addresses.
        settle: seconds that a resolver may take to come up.

    Returns:
        What was repaired, for the user; '' where nothing was.

    Raises:
        ConfigError: a server is not an IP address.
        CoiError: no network, or the repair did not help (it is undone).
    """
    for server in servers:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise ConfigError(f"[build] dns: not an IP address: {server!r}") from None
    facts = probe(execute, name, settle)
    verdict = decide(facts)
    if verdict is Verdict.FINE:
        return ""
    given = ", ".join(facts.servers) or "none"
    if verdict is Verdict.NO_NETWORK:
        raise CoiError(
            "the build container has no network",
            details="it got no IPv4 address and default route by DHCP",
            hint="look at the profile's network: incus profile show default; incus network list",
        )
    if not servers:
        raise CoiError(
            f"the build container cannot resolve {name}",
            details=f"its resolvers: {given}; [build] dns names none to put in their place",
        )
    execute(_with_args(REPAIR, list(servers)))
    after = probe(execute, name, 5)
    if not after.resolves:
        execute(UNDO)
        raise CoiError(
            f"the build container cannot resolve {name}",
            details=f"its resolvers: {given}; {', '.join(servers)} ([build] dns) did not help",
            hint="give the network a resolver: incus network set incusbr0 raw.dnsmasq "
            '"dhcp-option=6,ADDRESS", or set [build] dns',
        )
    why = "the host's stub resolver" if facts.stub else "a resolver that does not answer"
    return f"DHCP named {why} ({given}): the image uses {', '.join(servers)} instead"


def _with_args(script: str, args: Sequence[str]) -> str:
    return f"set -- {' '.join(shlex.quote(arg) for arg in args)}\n{script}"


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False
