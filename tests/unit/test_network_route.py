"""The host's way to a container behind an OVN router."""

from __future__ import annotations

from ipaddress import IPv4Network

from coi.incus.networks import Network
from coi.network.host import HostView
from coi.network.route import ROUTER, missing

CONFIG = {"ipv4.address": "10.77.0.1/24", "network": "up0", ROUTER: "10.88.0.100"}


def missing_with(*subnets: str, **changes: str) -> str:
    config = {**CONFIG, **{key.replace("__", "."): value for key, value in changes.items()}}
    known = frozenset(map(IPv4Network, subnets))
    return missing(Network("ovn0", "ovn", config=config), HostView(frozenset(), known))


def test_the_command_names_the_subnet_and_the_router() -> None:
    assert missing_with() == "ip route add 10.77.0.0/24 via 10.88.0.100 dev up0"
    assert missing_with("10.0.0.0/8", "10.77.0.0/25") == missing_with(), "these are not it"
    assert missing_with(network="") == "ip route add 10.77.0.0/24 via 10.88.0.100"


def test_a_route_that_is_there_needs_none() -> None:
    assert missing_with("10.77.0.0/24") == ""


def test_none_leads_in_where_addresses_are_translated() -> None:
    assert missing_with(ipv4__nat="true") == ""
    assert missing_with(ipv4__address="none") == ""
