"""What an allowlist lists: names, and addresses or networks."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from coi.config import hosts
from coi.config.kinds import Wrong
from coi.config.text import printable
from coi.errors import UsageError

_HINT = "exact names (api.example.com), IPv4 addresses and IPv4 networks (203.0.113.0/24)"


def normalise(text: str) -> str:
    """The one spelling of a domain name: lower case, A-labels, no final dot.

    Raises:
        UsageError: it is no exact domain name; see :func:`coi.config.hosts.domain`.
    """
    try:
        return hosts.domain(text)
    except Wrong as error:
        raise _refused(text, error) from None


def split(entries: Iterable[str]) -> tuple[tuple[str, ...], tuple[IPv4Network, ...]]:
    """The names and the networks among the entries, each sorted, none twice.

    Raises:
        UsageError: an entry is neither; see :func:`coi.config.hosts.entry`.
    """
    names: set[str] = set()
    networks: set[IPv4Network] = set()
    for text in entries:
        try:
            entry = hosts.entry(text)
        except Wrong as error:
            raise _refused(text, error) from None
        try:
            networks.add(IPv4Network(entry))
        except ValueError:
            names.add(entry)
    return tuple(sorted(names)), tuple(sorted(networks))


def _refused(text: str, error: Wrong) -> UsageError:
    return UsageError(
        f"cannot allow '{printable(text, 60)}'",
        details=f"It {error}.",
        hint=f"an allowlist takes {_HINT}",
    )
