"""The rules of an Incus network ACL, of the kind that coi makes: they allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from coi.network.addresses import RangeSet
from coi.records import record

Direction = Literal["egress", "ingress"]
"""Seen from the instance, as in Incus: egress leaves it."""


@record(frozen=True)
class Rule:
    """Lets traffic through.

    Attributes:
        addresses: destinations of an egress rule, sources of an ingress rule; the text
            of a :class:`~coi.network.addresses.RangeSet`. Never empty: Incus takes that
            for everything, IPv6 included.
        protocol: ``tcp``, ``udp``, or '' for all.
        port: the destination's, or '' for all; only with a protocol.
    """

    addresses: str
    description: str = ""
    protocol: str = ""
    port: str = ""

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("a rule without addresses would allow everything")

    def matches(self, address: IPv4Address, port: int | None, protocol: str) -> bool:
        """Whether it lets a connection through; port None asks for all ports."""
        if self.protocol and self.protocol != protocol:
            return False
        if self.port and self.port != str(port):
            return False
        return address in RangeSet.parse(self.addresses)


@record(frozen=True)
class Acl:
    """Rules in both directions; what none of them allows is rejected by default."""

    egress: tuple[Rule, ...] = ()
    ingress: tuple[Rule, ...] = ()

    def admits(
        self,
        address: IPv4Address | IPv6Address,
        port: int | None = None,
        protocol: str = "tcp",
        direction: Direction = "egress",
    ) -> bool:
        """What the rules, read as Incus reads them, do with a connection.

        Args:
            address: of the other side.
            port: the destination's; None asks for all ports.
        """
        if isinstance(address, IPv6Address):
            return False
        rules = self.egress if direction == "egress" else self.ingress
        return any(rule.matches(address, port, protocol) for rule in rules)

    def as_json(self) -> dict[str, list[dict[str, str]]]:
        """``egress`` and ``ingress`` as Incus's REST API has them (NetworkACLPut).

        Fields without a value are left out, as in Incus's answers, so that what was set
        and what is read back compare equal.
        """
        return {
            "egress": list(_as_json(self.egress, "destination")),
            "ingress": list(_as_json(self.ingress, "source")),
        }


def _as_json(rules: tuple[Rule, ...], side: str) -> Iterator[dict[str, str]]:
    for rule in rules:
        fields: Mapping[str, str] = {
            "action": "allow",
            "state": "enabled",
            side: rule.addresses,
            "protocol": rule.protocol,
            "destination_port": rule.port,
            "description": rule.description,
        }
        yield {key: value for key, value in fields.items() if value}
