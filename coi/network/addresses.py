"""Sets of IPv4 addresses, and the ranges that a policy knows by name.

The ranges are those of the IANA IPv4 Special-Purpose Address Registry
(https://www.iana.org/assignments/iana-ipv4-special-registry) and RFC 1112 for
multicast.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from coi.records import record

PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
"""Private use: RFC 1918."""

LINK_LOCAL = IPv4Network("169.254.0.0/16")
"""RFC 3927; clouds answer for their metadata at 169.254.169.254."""

NEVER = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network: RFC 791 3.2
            "100.64.0.0/10",  # shared address space of carriers, also VPNs': RFC 6598
            "127.0.0.0/8",  # loopback: RFC 1122 3.2.1.3
            "192.0.0.0/24",  # protocol assignments: RFC 6890 2.1
            "198.18.0.0/15",  # benchmarking: RFC 2544
            "224.0.0.0/4",  # multicast: RFC 1112
            "240.0.0.0/4",  # reserved, and limited broadcast: RFC 1112, RFC 919
        ),
    )
)
"""Never a public host, and never opened.

The documentation ranges (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24: RFC 5737) are
left out on purpose: nothing routes them, and tests have them stand for public hosts.
"""

MAX_FIELD = 4000
"""Characters of one field of a rule.

300 addresses in one comma-separated field, which is about as long, were measured: 38 ms
where 300 rules took 136 ms. What limits longer ones (the firewall's and OVN's own
parsers) is theirs, so longer sets become several rules.
"""

_LAST = 2**32 - 1


@record(frozen=True)
class RangeSet:
    """A set of IPv4 addresses.

    Attributes:
        spans: first and last address of each range as numbers; ascending, with a gap
            between any two. Equal sets have equal spans.
    """

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, *parts: IPv4Network | IPv4Address) -> RangeSet:
        """The addresses that are in any of the parts."""
        return cls._joined(
            (int(part[0]), int(part[-1])) if isinstance(part, IPv4Network) else (int(part),) * 2
            for part in parts
        )

    @classmethod
    def parse(cls, text: str) -> RangeSet:
        """The reverse of :meth:`text`; networks (``10.0.0.0/8``) are understood too.

        Raises:
            ValueError: it is not such a text.
        """
        spans = []
        for word in text.split(",") if text else ():
            first, dash, last = word.partition("-")
            network = IPv4Network(first)
            span = (int(network[0]), int(network[-1]))
            if dash:
                span = (int(IPv4Address(first)), int(IPv4Address(last)))
            if span[0] > span[1]:
                raise ValueError(f"{word!r} ends before it begins")
            spans.append(span)
        return cls._joined(spans)

    @classmethod
    def _joined(cls, spans: Iterable[tuple[int, ...]]) -> RangeSet:
        joined: list[tuple[int, int]] = []
        for first, last in sorted(spans):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(joined[-1][1], last))
            else:
                joined.append((first, last))
        return cls(tuple(joined))

    def __or__(self, other: RangeSet) -> RangeSet:
        """The addresses in either set."""
        return self._joined(self.spans + other.spans)

    def __sub__(self, other: RangeSet) -> RangeSet:
        """The addresses of this set that are not in the other."""
        left: list[tuple[int, int]] = []
        for first, last in self.spans:
            for out_first, out_last in other.spans:
                if out_last < first:
                    continue
                if out_first > last:
                    break
                if first < out_first:
                    left.append((first, out_first - 1))
                first = out_last + 1
            if first <= last:
                left.append((first, last))
        return RangeSet(tuple(left))

    def __contains__(self, address: IPv4Address) -> bool:
        number = int(address)
        return any(first <= number <= last for first, last in self.spans)

    def __bool__(self) -> bool:
        """Whether there is any address in it."""
        return bool(self.spans)

    def text(self) -> str:
        """In Incus's form: addresses and ranges (``a.b.c.d-e.f.g.h``), comma-separated.

        The subjects of rules are of this form: Incus's documentation, "How to configure
        network ACLs". Its xtables driver takes no ranges; its nftables driver and OVN do.
        """
        return ",".join(map(_span_text, self.spans))

    def texts(self, limit: int = MAX_FIELD) -> tuple[str, ...]:
        """The same as one or more texts of at most ``limit`` characters; none when empty."""
        texts: list[str] = []
        for word in map(_span_text, self.spans):
            if texts and len(texts[-1]) + 1 + len(word) <= limit:
                texts[-1] += "," + word
            else:
                texts.append(word)
        return tuple(texts)


EVERYTHING = RangeSet(((0, _LAST),))
"""All of IPv4."""


def _span_text(span: tuple[int, int]) -> str:
    first, last = map(IPv4Address, span)
    return str(first) if first == last else f"{first}-{last}"
