"""The host's way to a container behind an OVN router."""

from __future__ import annotations

from ipaddress import IPv4Network

from coi.incus.networks import Network
from coi.network.host import HostView
from coi.network.route import ROUTER, free_address, missing

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


def free(*taken: str, **config: str) -> str:
    keys = {key.replace("__", "."): value for key, value in config.items()}
    return str(free_address(Network("up0", "bridge", config=keys), taken))


def test_an_address_for_a_forward_is_one_that_nothing_hands_out() -> None:
    given = {
        "ipv4__address": "10.88.0.1/24",
        "ipv4__dhcp__ranges": "10.88.0.50-10.88.0.99",
        "ipv4__ovn__ranges": "10.88.0.100-10.88.0.199,10.88.0.250-10.88.0.254",
    }
    assert free(**given) == "10.88.0.249"
    assert free("10.88.0.249", **given) == "10.88.0.248"
    assert free(**{**given, "ipv4__ovn__ranges": "10.88.0.100-10.88.0.254"}) == "10.88.0.49"
    assert free(ipv4__address="10.88.0.1/30", ipv4__ovn__ranges="10.88.0.2") == "None"
    assert free(ipv4__address="10.88.0.1/24") == "None", "its DHCP hands out all of them"
    assert free(ipv4__address="none") == "None"
    assert free(**{**given, "ipv4__ovn__ranges": "fd00::/64"}) == "None"
