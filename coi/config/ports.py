"""Published ports, as ``--publish`` and ``ports.publish`` take them.

One spelling of each, ``ADDRESS:PORT:PORT/PROTOCOL``, so that equal entries compare equal.
"""

from __future__ import annotations

import re
from typing import Any

from coi.config.kinds import wrong

LOOPBACK = "127.0.0.1"
FORM = "[HOSTADDR:]HOSTPORT:PORT[/udp]"

_FORM = re.compile(
    r"(?:(?P<v4>[0-9.]+):|\[(?P<v6>[0-9A-Fa-f:.]+)\]:)?"
    r"(?P<host>[0-9]{1,5}):(?P<inside>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?"
)


def entry(value: Any) -> str:
    """A port of the host and the one inside that it leads to.

    Without an address it is this machine's loopback, where no other machine reaches it.

    Raises:
        Wrong: it has another form.
    """
    from ipaddress import ip_address

    found = _FORM.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise wrong(FORM, value)
    numbers = int(found["host"]), int(found["inside"])
    if not all(0 < number < 65536 for number in numbers):
        raise wrong("ports from 1 to 65535", value)
    try:
        address = ip_address(found["v4"] or found["v6"] or LOOPBACK)
    except ValueError:
        raise wrong("an address of this host", value) from None
    shown = str(address) if address.version == 4 else f"[{address}]"
    return f"{shown}:{numbers[0]}:{numbers[1]}/{found['protocol'] or 'tcp'}"


def split(text: str) -> tuple[str, int, int, str]:
    """Address (in brackets where it is IPv6), host port, port inside and protocol of an entry."""
    ports, _, protocol = text.rpartition("/")
    endpoint, _, inside = ports.rpartition(":")
    address, _, host = endpoint.rpartition(":")
    return address, int(host), int(inside), protocol
