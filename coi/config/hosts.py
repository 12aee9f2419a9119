"""Names and addresses of hosts, as ``network.allowed_domains`` takes them.

One spelling of each, so that equal entries compare equal: names lower case, without
the final dot, letters outside ASCII as A-labels (``xn--``); networks with their
prefix, single addresses without.
"""

from __future__ import annotations

import re
from typing import Any

from coi.config.kinds import wrong

# RFC 1035 2.3.4 (63 bytes a label, 253 characters a name as text). The underscore is no
# letter of a host name, but names with it exist and resolve.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
# Names that end so are read as IPv4 addresses (127.1, 0x7f.1) by inet_aton(3), and with
# it by getaddrinfo(3); https://url.spec.whatwg.org/#ends-in-a-number-checker
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.DOTALL)
# IDNA2003 (RFC 3490), which is Python's codec, writes these as other letters or as
# nothing; IDNA2008 (RFC 5891) as themselves. They name different hosts: RFC 5894 7.2.
_DEVIATIONS = "ß\u1e9eς\u200c\u200d"


def entry(value: Any) -> str:
    """A domain name, an IPv4 address or an IPv4 network.

    Raises:
        Wrong: it is none of them, or an IPv6 address: sessions have IPv4 only.
    """
    if not isinstance(value, str):
        raise wrong("a domain name or an IPv4 address or network", value)
    found = _network(value)
    return domain(value) if found is None else found


def domain(value: str) -> str:
    """One exact domain name.

    Raises:
        Wrong: it is no name, a pattern, an address, or the session itself (``localhost``).
    """
    if "*" in value:
        raise wrong("an exact name: list each subdomain, there are no wildcards", value)
    if re.search(r"[/:@?#\[\]]", value):
        raise wrong("a domain name or an address, without scheme, port, path or user", value)
    if any(letter in value for letter in _DEVIATIONS):
        raise wrong("written as xn--: ß, ς and joiners name different hosts to programs", value)
    name = _ascii(value).lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        raise wrong("a domain name (letters, digits, dashes, dots) or an IPv4 address", value)
    if _NUMBER.fullmatch(name):
        raise wrong("a name, or an IPv4 address of four decimal numbers", value)
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 6.3
        raise wrong("another host's name: inside, localhost is the session itself", value)
    return name


def _ascii(value: str) -> str:
    if value.isascii():
        return value
    try:
        return value.encode("idna").decode("ascii")
    except UnicodeError:  # a label that is too long, or characters no name can have
        raise wrong("a domain name", value) from None


def _network(value: str) -> str | None:
    """The canonical text of an IPv4 address or network; None for what is neither."""
    import ipaddress

    address, slash, prefix = value.partition("/")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if parsed.version == 6:
        raise wrong("an IPv4 address or a name: sessions have no IPv6", value)
    if not slash:
        return address
    if not re.fullmatch(r"[0-9]{1,2}", prefix) or int(prefix) > 32:
        raise wrong("an IPv4 network, its prefix from 0 to 32 (203.0.113.0/24)", value)
    network = ipaddress.IPv4Network(value, strict=False)
    if network.network_address != parsed:
        raise wrong(f"a network ({network}) or a single address ({address})", value)
    return address if network.prefixlen == 32 else str(network)
