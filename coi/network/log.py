"""What a policy refused, as far as it is logged.

On a bridge the kernel logs what the default rule of the ACL rejects, into its own ring
buffer (kmsg(4)); lines are netfilter's: ``IN=coi-1a2b3c4d OUT= ... SRC=... DST=... PROTO=TCP
... DPT=80``. On OVN the chassis logs it: ovn-controller(8), ``acl_log`` lines whose name is
that of the NIC's port group, ``<volatile.uuid>-eth0-egress`` (measured; the daemon's own
``incus network acl show-log`` knows rules of the ACL alone, not the default).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from coi.errors import UnavailableError
from coi.records import record

KMSG = Path("/dev/kmsg")
OVN = Path("/var/log/ovn/ovn-controller.log")
_PORT = re.compile(r"[0-9]{1,5}")
_RECORD = 8192  # bytes: CONSOLE_EXT_LOG_MAX of the kernel
_FIELD = re.compile(r"\b(IN|OUT|SRC|DST|PROTO|SPT|DPT)=(\S*)")
_TAIL = 8 << 20  # bytes of OVN's log that are looked at
_OVN_LINE = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z\|\d+\|acl_log\([^)]*\)\|INFO\|"
    r'name="(?P<name>[^"]*)", verdict=(?:reject|drop),[^:]*: (?P<protocol>\w+),(?P<fields>.*)'
)


@record(frozen=True)
class Refused:
    """One packet that was refused.

    Attributes:
        at: RFC 3339, UTC.
        way: ``egress`` or ``ingress``, seen from the container.
        peer: the other end's address.
        protocol: ``tcp``, ``udp``, ``icmp``, ...
        port: of the destination; None where the protocol has none.
    """

    at: str
    way: str
    peer: str
    protocol: str
    port: int | None

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


def from_kernel(network: str, address: str, *, source: Path = KMSG) -> list[Refused]:
    """What one container was refused, the oldest first, as far back as the kernel keeps it.

    Args:
        network: the policy's bridge.
        address: the container's IPv4 address.

    Raises:
        UnavailableError: the kernel's log is not open to this user.
    """
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(
            "the kernel's log is not open to this user",
            details=str(error),
            hint=f"as root: dmesg | grep {network}",
        ) from error
    try:
        return list(parse(_records(fd), network, address, booted=_booted()))
    finally:
        os.close(fd)


def from_ovn(uuid: str, *, source: Path = OVN) -> list[Refused]:
    """What one container was refused, the oldest first, from the log of this host's chassis.

    Args:
        uuid: ``volatile.uuid`` of the instance.

    Raises:
        UnavailableError: the log is not here, or not open to this user.
    """
    try:
        with source.open("rb") as file:
            file.seek(max(0, source.stat().st_size - _TAIL))
            text = file.read(_TAIL).decode("utf-8", "replace")
    except OSError as error:
        raise UnavailableError(
            "the log of OVN is not open to this user",
            details=str(error),
            hint=f"as root, on the host that runs the container: grep {uuid} {source}",
        ) from error
    return list(parse_ovn(text.splitlines(), uuid))


def parse_ovn(lines: Iterable[str], uuid: str) -> Iterator[Refused]:
    """The refusals of one instance among lines of ovn-controller's log."""
    for line in lines:
        found = _OVN_LINE.fullmatch(line)
        if found is None or not uuid:
            continue
        owner, _, way = found["name"].rpartition("-")
        if way not in ("egress", "ingress") or not owner.startswith(f"{uuid}-"):
            continue
        fields = dict(word.partition("=")[::2] for word in found["fields"].split(","))
        end = "dst" if way == "egress" else "src"
        protocol = found["protocol"].removesuffix("6")
        port = fields.get("tp_dst", "")
        yield Refused(
            found["at"] + "Z",
            way,
            fields.get(f"nw_{end}") or fields.get(f"ipv6_{end}") or "",
            protocol,
            int(port) if _PORT.fullmatch(port) and protocol in ("tcp", "udp", "sctp") else None,
        )


def _records(fd: int) -> Iterator[str]:
    while True:
        try:
            record = os.read(fd, _RECORD)
        except BrokenPipeError:  # it was overwritten meanwhile; the next read goes on
            continue
        except OSError:  # EAGAIN: that was the last
            return
        if not record:
            return
        yield record.decode("utf-8", "replace")


def _booted() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)


def parse(
    records: Iterable[str], network: str, address: str, *, booted: float
) -> Iterator[Refused]:
    """The refusals among records of kmsg(4), ``priority,number,microseconds,...;text``.

    Args:
        booted: seconds since the epoch at which the kernel's clock was 0.
    """
    for line in records:
        head, _, text = line.partition(";")
        fields = dict(_FIELD.findall(text.partition("\n")[0]))
        if network not in (fields.get("IN"), fields.get("OUT")):
            continue
        ends = fields.get("SRC"), fields.get("DST")
        if address not in ends:
            continue
        way = "egress" if fields.get("SRC") == address else "ingress"
        with suppress(ValueError, IndexError, KeyError, OverflowError, OSError):
            at = booted + int(head.split(",")[2]) / 1e6
            port = fields.get("DPT")
            yield Refused(
                datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                way,
                fields["DST" if way == "egress" else "SRC"],
                fields.get("PROTO", "").lower(),
                int(port) if port else None,
            )
