"""Sets of addresses against Python's own sets, on a small part of the address space."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coi.network.addresses import EVERYTHING, LINK_LOCAL, NEVER, PRIVATE, RangeSet

START = int(IPv4Address("10.0.0.0"))
SMALL = st.sets(st.integers(START, START + 40))
NETWORKS = st.builds(
    lambda number, prefix: IPv4Network((number, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


def built(numbers: set[int]) -> RangeSet:
    return RangeSet.of(*map(IPv4Address, numbers))


def members(ranges: RangeSet) -> set[int]:
    return {number for number in range(START - 1, START + 42) if IPv4Address(number) in ranges}


@settings(max_examples=100, deadline=None)
@given(SMALL, SMALL)
def test_like_sets(one: set[int], other: set[int]) -> None:
    a, b = built(one), built(other)
    assert members(a) == one
    assert members(a | b) == one | other
    assert members(a - b) == one - other
    assert a | b == built(one | other)
    assert a - b == built(one - other)
    assert bool(a) is bool(one)
    assert a - a == RangeSet()
    assert EVERYTHING - (EVERYTHING - a) == a


@settings(max_examples=100, deadline=None)
@given(st.lists(NETWORKS, max_size=8), st.integers(16, 200))
def test_round_trip(networks: list[IPv4Network], limit: int) -> None:
    ranges = RangeSet.of(*networks)
    assert RangeSet.parse(ranges.text()) == ranges
    assert RangeSet.parse(",".join(map(str, networks))) == ranges
    parts = ranges.texts(limit)
    assert ",".join(parts) == ranges.text()
    assert all(part and len(part) <= max(limit, 31) for part in parts)


def test_incus_s_form() -> None:
    ranges = RangeSet.of(IPv4Network("10.0.0.0/31"), IPv4Address("10.0.0.9"))
    assert ranges.text() == "10.0.0.0-10.0.0.1,10.0.0.9"
    assert EVERYTHING.text() == "0.0.0.0-255.255.255.255"
    assert RangeSet().text() == ""
    assert RangeSet().texts() == ()
    assert RangeSet.parse("") == RangeSet()


@pytest.mark.parametrize(
    "text", ["10.0.0.2-10.0.0.1", "10.0.0.1,", "x", "::1", "10.0.0.1-", "10.0.0.0/31-10.0.0.9"]
)
def test_no_ranges(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        RangeSet.parse(text)


def test_300_addresses_are_two_fields_at_most() -> None:
    spread = RangeSet.of(*(IPv4Address(START + 2 * n) for n in range(300)))
    assert len(spread.texts()) == 1
    wide = RangeSet.of(*(IPv4Address(2**31 + 1000 * n) for n in range(300)))
    assert 1 <= len(wide.texts()) <= 2


def test_the_ranges_are_what_python_knows_too() -> None:
    """The standard library has the IANA registry; it differs where we mean to."""
    closed = RangeSet.of(*PRIVATE, LINK_LOCAL, *NEVER)
    documentation = RangeSet.parse("192.0.2.0/24,198.51.100.0/24,203.0.113.0/24")
    assert not [a for a, b in documentation.spans if IPv4Address(a) in closed]
    edges = {edge + step for span in closed.spans for edge in span for step in (-1, 0, 1)}
    for address in map(IPv4Address, sorted(edges - {-1, 2**32})):
        is_closed = not address.is_global or address.is_multicast
        assert (address in closed) == is_closed, address
