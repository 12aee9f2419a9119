"""The rules that the kernel and Open vSwitch act on, whatever Incus's configuration says."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from coi.network.addresses import LINK_LOCAL, NEVER, PRIVATE, RangeSet
from coi.network.policy import Policy, Surroundings, verdict
from coi.testing.machine import query


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def chain(name: str, family: str = "inet") -> list[str]:
    """The rules of a chain of Incus's firewall, its hook first where it has one."""
    text = _output("nft", "list", "chain", family, "incus", name)
    lines = [line.strip() for line in text.splitlines()]
    return lines[lines.index(f"chain {name} {{") + 1 : lines.index("}")]


@dataclass(frozen=True)
class Flow:
    """A logical flow of OVN that an ACL has become.

    Attributes:
        priority: the ACL's, and 1000.
        match: without the hints of connection tracking.
        action: ``allow``, ``reject`` or ``drop``.
        cookie: of the OpenFlow flows that the switch has for it.
    """

    priority: int
    match: str
    action: str
    cookie: str


_FLOW = re.compile(
    r"uuid=0x(\w+), table=\d+ ?\((\w+) *\), priority=(\d+) *, match=\((.*)\), action=\((.*)\)$"
)
_HINT = re.compile(r"^\(?reg0\[\d+\] == 1\)? && ")


def acl_flows() -> list[Flow]:
    """What OVN has made of all ACLs, on the way to a port: Incus makes them all of that kind."""
    found = set()
    for line in _output("ovn-sbctl", "--timeout=5", "--uuid", "lflow-list").splitlines():
        if not (parts := _FLOW.search(line)):
            continue
        cookie, stage, priority, match, action = parts.groups()
        if stage not in ("ls_out_acl", "ls_out_acl_eval") or not 1000 <= int(priority) < 32767:
            continue
        kind = "reject" if "reject" in action else "drop" if "drop" in action else "allow"
        hint = _HINT.search(match)
        bare = match[hint.end() :] if hint else match
        if hint and bare.startswith("((") and bare.endswith("))"):
            bare = bare[1:-1]
        found.add(Flow(int(priority), bare, kind, cookie.rjust(8, "0")))
    return sorted(found, key=lambda flow: (-flow.priority, flow.match))


def of_instance(name: str, flows: Iterable[Flow]) -> tuple[str, str, list[Flow]]:
    """The port of an instance, the group of ports of its ACL, and the flows of both."""
    uuid = query(f"/1.0/instances/{name}")["config"]["volatile.uuid"]
    rows = json.loads(_output(
        "ovn-nbctl", "--timeout=5", "--format=json", "--columns=_uuid,name",
        "list", "logical_switch_port",
    ))["data"]  # fmt: skip
    ((port_id, port),) = [(id_[1], text) for id_, text in rows if f"instance-{uuid}-" in text]
    rows = json.loads(_output(
        "ovn-nbctl", "--timeout=5", "--format=json", "--columns=name,ports", "list", "port_group",
    ))["data"]  # fmt: skip
    (group,) = [text for text, ports in rows if port_id in json.dumps(ports) and "_acl" in text]
    words = (f"@{group})", f"@{group} ", f'"{port}"')
    mine = [flow for flow in flows if any(word in f"{flow.match} " for word in words)]
    return port, group, mine


def switch_cookies() -> set[str]:
    """Cookies of the flows that Open vSwitch has."""
    text = _output("ovs-ofctl", "--timeout=5", "-O", "OpenFlow15", "dump-flows", "br-int")
    return {cookie.rjust(8, "0") for cookie in re.findall(r"cookie=0x(\w+)", text)}


def ranges(text: str) -> RangeSet:
    """The addresses of a rule: nft(8)'s set, or OVN's comparisons of ip4.dst."""
    pairs = re.findall(r"ip4\.dst >= ([\d.]+) && ip4\.dst <= ([\d.]+)", text)
    words = [f"{first}-{last}" for first, last in pairs]
    words += re.findall(r"ip4\.dst == ([\d.]+)", text)
    if not words:
        words = re.findall(r"[\d.]+(?:[-/][\d.]+)?", text.split("daddr", 1)[1])
    return RangeSet.parse(",".join(words))


def disagreements(admitted: RangeSet, policy: Policy, seen: Surroundings) -> list[str]:
    """Addresses, at the edges of all ranges that mean something, which rules and policy do
    not treat alike."""
    edges = {int(own) for own in seen.own}
    for network in (*PRIVATE, LINK_LOCAL, *NEVER):
        edges |= {int(network[0]), int(network[-1])}
    for first, last in admitted.spans:
        edges |= {first, last}
    around = {IPv4Address((edge + step) % 2**32) for edge in edges for step in (-1, 0, 1)}
    return [
        str(address)
        for address in sorted(around)
        if (address in admitted) != verdict(policy, seen, address).allowed
    ]
