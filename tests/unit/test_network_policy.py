"""Policies: what the compiled rules admit is what the policy says, and the host is safe."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coi.config.model import Network, NetworkLogging
from coi.errors import UsageError
from coi.network.acl import Acl, Direction, Rule
from coi.network.addresses import LINK_LOCAL, NEVER, PRIVATE, RangeSet
from coi.network.policy import Policy, Surroundings, compile_acl, usable, verdict

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
DOMAINS = ("api.example.com", "example.com", "pypi.org")
EDGES = sorted(
    {
        number % 2**32
        for network in (*PRIVATE, LINK_LOCAL, *NEVER)
        for edge in (int(network[0]), int(network[-1]))
        for number in (edge - 1, edge, edge + 1)
    }
)
addresses = st.builds(
    IPv4Address,
    st.sampled_from(EDGES)
    | st.sampled_from([int(IPv4Address(a)) for a in ("8.8.8.8", "203.0.113.7", "10.66.0.1")])
    | st.integers(0, 2**32 - 1),
)
networks = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    addresses,
    st.integers(8, 32) | st.integers(0, 32),
)
policies = st.builds(
    Policy,
    st.sampled_from(["restricted", "allowlist"]),
    st.lists(st.sampled_from(DOMAINS), unique=True).map(sorted).map(tuple),
    st.lists(networks, max_size=4, unique=True).map(sorted).map(tuple),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
surroundings = st.builds(
    Surroundings,
    st.frozensets(addresses, max_size=3),
    st.none() | addresses,
    st.lists(addresses, max_size=2).map(tuple),
    st.dictionaries(
        st.sampled_from((*DOMAINS, "unlisted.example")),
        st.lists(addresses, max_size=3).map(tuple),
    ),
)


def of_interest(policy: Policy, around: Surroundings) -> st.SearchStrategy[IPv4Address]:
    """Any address, those that the policy or its surroundings name more often than others."""
    named = {int(address) for address in (*around.own, *around.nameservers)}
    named |= {int(address) for answer in around.answers.values() for address in answer}
    named |= {int(net[place]) for net in policy.networks for place in (0, -1)}
    near = sorted({(number + step) % 2**32 for number in named for step in (-1, 0, 1)})
    return addresses | st.sampled_from([IPv4Address(n) for n in near]) if near else addresses


@settings(max_examples=150, deadline=None)
@given(st.data(), policies, surroundings)
def test_the_rules_are_what_the_policy_says(
    data: st.DataObject, policy: Policy, around: Surroundings
) -> None:
    acl = compile_acl(policy, around)
    some = data.draw(st.lists(of_interest(policy, around), min_size=6, max_size=6), "addresses")
    port = data.draw(st.sampled_from([None, 53, 80]), "port")
    protocol = data.draw(st.sampled_from(["tcp", "udp", "icmp4"]), "protocol")
    for direction in DIRECTIONS:
        for address in some:
            said = verdict(policy, around, address, port, protocol, direction)
            admitted = acl.admits(address, port, protocol, direction)
            assert admitted == said.allowed, (address, said)
            assert said.reason
    ports = port == 53 and policy.mode == "restricted"
    for address in some:
        if acl.admits(address, port, protocol) and not (ports and address in around.nameservers):
            assert address not in around.own
            assert not any(address in network for network in NEVER)
            assert policy.private or not any(address in network for network in PRIVATE)
            assert policy.metadata or address not in LINK_LOCAL


@settings(max_examples=60, deadline=None)
@given(policies, surroundings, st.integers(0, 2**128 - 1), addresses)
def test_no_ipv6(policy: Policy, around: Surroundings, number: int, mapped: IPv4Address) -> None:
    acl = compile_acl(policy, around)
    v6 = (IPv6Address(number), IPv6Address(f"::ffff:{mapped}"), IPv6Address("fe80::1"))
    for direction in DIRECTIONS:
        for address in v6:
            assert not verdict(policy, around, address, 53, "udp", direction).allowed
            assert not acl.admits(address, 53, "udp", direction)
    for rules in acl.as_json().values():
        for rule in rules:
            subjects = rule.get("destination", rule.get("source", ""))
            assert RangeSet.parse(subjects), "a rule without IPv4 subjects opens IPv6"
            assert rule["action"] == "allow"


@settings(max_examples=60, deadline=None)
@given(policies, surroundings)
def test_answers_that_are_kept_are_admitted(policy: Policy, around: Surroundings) -> None:
    kept, refused = usable(around.answers, policy, around.own)
    policy = replace(policy, mode="allowlist", networks=(), local_ingress=False)
    acl = compile_acl(policy, around)
    assert all(acl.admits(address) for answer in kept.values() for address in answer)
    assert not any(acl.admits(address) for answer in refused.values() for address, _ in answer)
    assert {*kept, *refused} <= set(policy.domains)
    admitted = RangeSet.of(*(address for answer in kept.values() for address in answer))
    assert RangeSet.parse(",".join(rule.addresses for rule in acl.egress)) == admitted


# -- what it says ----------------------------------------------------------------------------

HOST = Surroundings(
    host=frozenset(map(IPv4Address, ("198.51.100.1", "192.168.1.5"))),
    gateway=IPv4Address("10.66.0.1"),
    answers={
        "api.example.com": tuple(map(IPv4Address, ("203.0.113.7", "10.1.1.1", "198.51.100.1"))),
        "other.example": (IPv4Address("203.0.113.99"),),
    },
)
RESTRICTED = Network(mode="restricted")
LISTED = Network(mode="allowlist", allowed_domains=("api.example.com", "203.0.113.128/25"))


def policy_of(network: Network) -> Policy:
    policy = Policy.of(network)
    assert policy
    return policy


@pytest.mark.parametrize(
    ("network", "address", "allowed", "reason"),
    [
        (RESTRICTED, "203.0.113.7", True, "not a blocked address"),
        (RESTRICTED, "10.1.1.1", False, "private address (10.0.0.0/8)"),
        (RESTRICTED, "172.31.255.255", False, "private address (172.16.0.0/12)"),
        (RESTRICTED, "172.32.0.0", True, "not a blocked address"),
        (RESTRICTED, "169.254.169.254", False, "link-local address (169.254.0.0/16)"),
        (RESTRICTED, "198.51.100.1", False, "the host's own address"),
        (RESTRICTED, "10.66.0.1", False, "the host's own address"),
        (RESTRICTED, "100.100.100.100", False, "never a public address (100.64.0.0/10)"),
        (RESTRICTED, "::1", False, "IPv6, which sessions do not have"),
        (RESTRICTED, "::ffff:203.0.113.7", False, "IPv6, which sessions do not have"),
        (LISTED, "203.0.113.7", True, "address of api.example.com"),
        (LISTED, "203.0.113.200", True, "listed (203.0.113.128/25)"),
        (LISTED, "203.0.113.99", False, "not on the allowlist"),
        (LISTED, "10.1.1.1", False, "private address (10.0.0.0/8)"),
        (LISTED, "198.51.100.1", False, "the host's own address"),
    ],
)
def test_verdicts(network: Network, address: str, allowed: bool, reason: str) -> None:
    policy = policy_of(network)
    parsed = IPv6Address(address) if ":" in address else IPv4Address(address)
    assert verdict(policy, HOST, parsed) == (allowed, reason)
    assert compile_acl(policy, HOST).admits(parsed) is allowed


def test_private_ranges() -> None:
    nas = IPv4Address("192.168.1.9")
    for network in (RESTRICTED, replace(LISTED, allowed_domains=())):
        unblocked = policy_of(replace(network, block_private_networks=False))
        local = policy_of(replace(network, allow_local_network_access=True))
        assert verdict(local, HOST, nas) == (
            True,
            "private address (192.168.0.0/16), which is open",
        )
        assert verdict(local, HOST, nas, direction="ingress").allowed
        assert not verdict(unblocked, HOST, nas, direction="ingress").allowed
        assert not verdict(local, HOST, IPv4Address("192.168.1.5")).allowed, "the host stays closed"
        assert verdict(unblocked, HOST, nas).allowed is (network.mode == "restricted")
    listed = replace(LISTED, allowed_domains=("192.168.1.9",), block_private_networks=False)
    assert verdict(policy_of(listed), HOST, nas) == (True, "listed (192.168.1.9/32)")


def test_metadata() -> None:
    metadata = IPv4Address("169.254.169.254")
    for network in (RESTRICTED, replace(LISTED, allowed_domains=("169.254.169.254",))):
        policy = policy_of(replace(network, block_metadata_endpoint=False))
        assert verdict(policy, HOST, metadata).allowed


def test_only_the_host_connects_in() -> None:
    policy = policy_of(RESTRICTED)
    acl = compile_acl(policy, HOST)
    assert acl.as_json()["ingress"] == [
        {"action": "allow", "state": "enabled", "source": "10.66.0.1", "description": "the host"}
    ]
    assert verdict(policy, HOST, IPv4Address("10.66.0.1"), 80, direction="ingress").allowed
    assert compile_acl(policy, replace(HOST, gateway=None)).ingress == ()


def test_name_servers_in_restricted_mode_alone() -> None:
    server = IPv4Address("192.168.1.1")
    around = replace(HOST, nameservers=(server,))
    policy = policy_of(RESTRICTED)
    assert verdict(policy, around, server, 53, "udp") == (True, "name server")
    assert not verdict(policy, around, server, 80).allowed
    assert not verdict(policy, around, server).allowed
    assert not verdict(policy, around, server, 53, "icmp4").allowed
    assert compile_acl(policy, around).as_json()["egress"][1] == {
        "action": "allow", "state": "enabled", "destination": "192.168.1.1", "protocol": "tcp",
        "destination_port": "53", "description": "name servers",
    }  # fmt: skip
    assert not verdict(policy_of(LISTED), around, server, 53, "udp").allowed


def test_an_empty_allowlist_denies_everything() -> None:
    acl = compile_acl(policy_of(Network(mode="allowlist")), HOST)
    assert acl.egress == ()
    assert acl.as_json()["egress"] == []


def test_the_public_space() -> None:
    egress = compile_acl(policy_of(RESTRICTED), Surroundings()).egress
    assert egress == (
        Rule(
            "1.0.0.0-9.255.255.255,11.0.0.0-100.63.255.255,100.128.0.0-126.255.255.255,"
            "128.0.0.0-169.253.255.255,169.255.0.0-172.15.255.255,172.32.0.0-191.255.255.255,"
            "192.0.1.0-192.167.255.255,192.169.0.0-198.17.255.255,198.20.0.0-223.255.255.255",
            "all but what is blocked",
        ),
    )


def test_a_long_list_becomes_several_rules() -> None:
    listed = tuple(IPv4Network(f"203.{n // 256}.{n % 256}.0/25") for n in range(1000))
    acl = compile_acl(Policy("allowlist", networks=listed), Surroundings())
    assert 1 < len(acl.egress) < 15
    assert all(len(rule.addresses) <= 4000 for rule in acl.egress)
    assert all(acl.admits(network[0]) for network in (listed[0], listed[500], listed[-1]))


def test_no_rule_without_addresses() -> None:
    with pytest.raises(ValueError, match="would allow everything"):
        Rule("")
    assert not Acl().admits(IPv4Address("8.8.8.8"))


# -- from the configuration ------------------------------------------------------------------


def test_of_the_configuration() -> None:
    assert Policy.of(Network(mode="open")) is None
    assert Policy.of(Network()) == Policy("restricted")
    full = Network(
        "allowlist", ("PyPI.org.", "8.8.8.8", "api.a.com", "pypi.org", "203.0.113.0/24"), 5,
        True, True, False, NetworkLogging(True),
    )  # fmt: skip
    assert Policy.of(full) == Policy(
        "allowlist", ("api.a.com", "pypi.org"),
        (IPv4Network("8.8.8.8/32"), IPv4Network("203.0.113.0/24")), True, True, True, True,
    )  # fmt: skip
    with pytest.raises(UsageError, match="unknown network mode"):
        Policy.of(Network(mode="closed"))


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ("10.1.1.1", r"cannot allow 10.1.1.1: private address \(10", "block_private_networks"),
        ("192.168.0.0/24", "cannot allow 192.168.0.0/24: private", "block_private_networks"),
        ("169.254.169.254", "cannot allow 169.254.169.254: link-local", "block_metadata"),
        ("127.0.0.1", "cannot allow 127.0.0.1: never a public", "take it out"),
        ("224.0.0.0/3", "cannot allow 224.0.0.0/3: never a public", "take it out"),
        ("2001:db8::1", "cannot allow '2001:db8::1'", "IPv4 addresses"),
        ("*.a.com", r"cannot allow '\*.a.com'", "exact names"),
        ("a\0.com", r"cannot allow 'a\\x00.com'", "exact names"),
    ],
)
def test_what_cannot_be_listed(entry: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Policy.of(Network(mode="allowlist", allowed_domains=("a.com", entry)))
    assert hint in caught.value.hint
    assert Policy.of(Network(mode="restricted", allowed_domains=("a.com", entry)))


def test_a_part_that_can_be_reached_is_enough() -> None:
    policy = policy_of(Network(mode="allowlist", allowed_domains=("192.168.0.0/15",)))
    assert verdict(policy, HOST, IPv4Address("192.169.0.1")).allowed
    assert not verdict(policy, HOST, IPv4Address("192.168.0.1")).allowed


# -- the hash --------------------------------------------------------------------------------


def test_the_hash_is_the_same_everywhere() -> None:
    """Names of networks come from it: a change needs a new FORMAT, and here a new value."""
    assert Policy("restricted").hash == "1dfb3af949455ab63c11b43f801b09b7"
    code = (
        "from coi.config.model import Network; from coi.network.policy import Policy; "
        "print(Policy.of(Network('allowlist', ('b.com', 'a.com', '8.8.8.8'))).hash)"
    )
    same = Network("allowlist", ("A.com", "8.8.8.8/32", "b.com.", "a.com"), 7)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == policy_of(same).hash


def test_lists_and_intervals_do_not_matter_in_restricted_mode() -> None:
    listed = Network("restricted", ("a.com",), 1)
    assert policy_of(listed).hash == Policy("restricted").hash


@settings(max_examples=60, deadline=None)
@given(policies, policies)
def test_equal_hashes_are_equal_policies(one: Policy, other: Policy) -> None:
    assert (one.hash == other.hash) is (one == other)
    assert len(one.hash) == 32
    int(one.hash, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "allowlist"},
        {"domains": ("a.com",)},
        {"networks": (IPv4Network("8.8.8.8/32"),)},
        {"private": True},
        {"local_ingress": True},
        {"metadata": True},
        {"logged": True},
    ],
)
def test_everything_counts(change: dict[str, Any]) -> None:
    base = Policy("restricted")
    changed = replace(base, **change)
    assert changed.hash != base.hash


def test_it_is_json() -> None:
    acl = compile_acl(policy_of(LISTED), HOST)
    assert json.loads(json.dumps(acl.as_json())) == acl.as_json()
    assert acl.as_json()["egress"] == [
        {
            "action": "allow",
            "state": "enabled",
            "destination": "203.0.113.7,203.0.113.128-203.0.113.255",
            "description": "the allowlist",
        }
    ]
