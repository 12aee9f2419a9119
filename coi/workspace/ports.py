"""Ports of the host that lead into the container: ``--publish`` and ``[ports]``."""

from __future__ import annotations

from collections.abc import Sequence

from coi.config import ports
from coi.config.kinds import Wrong
from coi.errors import UsageError

PREFIX = "port"  # of the devices' names


def parse(text: str) -> str:
    """A value of ``--publish`` in its one spelling.

    Raises:
        UsageError: it has another form.
    """
    try:
        return ports.entry(text)
    except Wrong as error:
        raise UsageError(
            f"--publish {error}", hint="--publish 8080:80 or --publish 0.0.0.0:8080:80"
        ) from None


def devices(defaults: Sequence[str], flags: Sequence[str]) -> dict[str, dict[str, str]]:
    """The Incus proxy devices of all published ports, by device name.

    The daemon listens on the host and connects inside, to the container's loopback: what
    comes this way passes no network policy, and what goes out does not change (Incus
    documentation, "Type: proxy").

    Args:
        defaults: of the configuration, in their one spelling.
        flags: values of ``--publish``.

    Raises:
        UsageError: a value has another form, or a port of the host is published twice.
    """
    result: dict[str, dict[str, str]] = {}
    taken: set[tuple[str, int, str]] = set()
    for text in dict.fromkeys([*defaults, *map(parse, flags)]):
        address, host, inside, protocol = ports.split(text)
        if (address, host, protocol) in taken:
            raise UsageError(
                f"{address}:{host}/{protocol} is published twice",
                hint="choose another port of the host for one of them",
            )
        taken.add((address, host, protocol))
        result[f"{PREFIX}{len(result) + 1}"] = {
            "type": "proxy",
            "listen": f"{protocol}:{address}:{host}",
            "connect": f"{protocol}:{ports.LOOPBACK}:{inside}",
        }
    return result
