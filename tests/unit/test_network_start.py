"""The answers that a start is made with: which are asked for anew, and what is kept of them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from coi.network.answers import Answer, load, save, stale
from coi.network.policy import Policy
from coi.network.start import current, renewed

POLICY = Policy("allowlist", domains=("a.example", "b.example"))
OWN = frozenset({IPv4Address("203.0.113.77")})
OLD, NEW = "203.0.113.1", "203.0.113.2"


def ip(*texts: str) -> tuple[IPv4Address, ...]:
    return tuple(map(IPv4Address, texts))


def aged(minutes: float, *addresses: str) -> Answer:
    """An answer that was found so many minutes ago."""
    then = datetime.now(timezone.utc) - timedelta(minutes=minutes)
    return Answer(ip(*addresses), then.strftime("%Y-%m-%dT%H:%M:%S+00:00"))


class Resolver:
    """Names to addresses, and what was asked; a name without any does not resolve."""

    def __init__(self, known: Mapping[str, list[str]]) -> None:
        self.known = known
        self.asked: list[str] = []

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        if name not in self.known:
            raise socket.gaierror(-2, "Name or service not known")
        return self.known[name]


def of(
    directory: Path, resolver: Resolver, minutes: int, policy: Policy = POLICY
) -> tuple[dict[str, tuple[IPv4Address, ...]], list[str]]:
    """What a start gets, and what it is told."""
    said: list[str] = []
    found = current(policy, directory, OWN, minutes=minutes, report=said.append, lookup=resolver)
    return found, said


@pytest.mark.parametrize(
    ("age", "minutes", "expected"),
    [
        (29, 30, []),
        (31, 30, ["b.example"]),
        (-5, 30, ["b.example"]),  # of the future: the clock was set back
        (31, 0, []),
        (60 * 24 * 365, 0, []),
        (-5, 0, []),
    ],
)
def test_how_old_an_answer_may_be(age: float, minutes: int, expected: list[str]) -> None:
    last = {"a.example": aged(0, OLD), "b.example": aged(age, OLD)}
    assert stale(POLICY.domains, last, minutes) == expected


@pytest.mark.parametrize("minutes", [0, 30])
def test_a_name_without_an_answer_is_asked_for(minutes: int) -> None:
    other = {"other.example": aged(0, OLD)}
    assert stale(POLICY.domains, other, minutes) == ["a.example", "b.example"]
    assert stale((), {}, minutes) == []


def test_some_names_anew() -> None:
    last = {"a.example": aged(90, OLD), "b.example": aged(90, OLD), "gone.example": aged(1, OLD)}
    resolver = Resolver({"a.example": [NEW], "b.example": [NEW]})
    said: list[str] = []
    found = renewed(POLICY, last, ["b.example"], OWN, report=said.append, lookup=resolver)
    assert resolver.asked == ["b.example"]
    assert set(found) == {"a.example", "b.example"}
    assert found["a.example"] == last["a.example"]
    assert found["b.example"].addresses == ip(NEW)
    assert stale(POLICY.domains, found, 30) == ["a.example"], "its time is now"
    assert said == []


@pytest.mark.parametrize("bad", ["203.0.113.77", "10.1.2.3", "169.254.169.254", "127.0.0.1"])
def test_an_answer_that_leads_home_is_none(bad: str) -> None:
    last = {"a.example": aged(90, OLD)}
    resolver = Resolver({"a.example": [bad], "b.example": [bad, NEW]})
    said: list[str] = []
    both = ["a.example", "b.example"]
    found = renewed(POLICY, last, both, OWN, report=said.append, lookup=resolver)
    assert found["a.example"] == last["a.example"], "the last good one, as old as it is"
    assert found["b.example"].addresses == ip(NEW)
    assert [line.split()[0] for line in said] == both
    assert all("does not let through" in line for line in said)


def test_new_answers_are_kept(tmp_path: Path) -> None:
    resolver = Resolver({"a.example": [NEW, OLD], "b.example": [OLD]})
    found, said = of(tmp_path / "n", resolver, 30)
    assert found == {"a.example": ip(OLD, NEW), "b.example": ip(OLD)}
    assert said == []
    assert sorted(resolver.asked) == ["a.example", "b.example"]
    assert {n: a.addresses for n, a in load(tmp_path / "n", POLICY.hash).items()} == found
    assert of(tmp_path / "n", resolver, 30) == (found, [])
    assert len(resolver.asked) == 2, "they are new enough"


def test_old_answers_are_asked_for_again_but_with_zero_never(tmp_path: Path) -> None:
    kept = {"a.example": aged(60, OLD), "b.example": aged(60, OLD)}
    save(tmp_path, POLICY.hash, kept)
    resolver = Resolver({"a.example": [NEW], "b.example": [NEW]})
    assert of(tmp_path, resolver, 0) == ({"a.example": ip(OLD), "b.example": ip(OLD)}, [])
    assert resolver.asked == []
    assert load(tmp_path, POLICY.hash) == kept
    assert of(tmp_path, resolver, 30) == ({"a.example": ip(NEW), "b.example": ip(NEW)}, [])


def test_a_resolver_that_is_down_costs_nothing_that_was_there(tmp_path: Path) -> None:
    kept = {"a.example": aged(60, OLD)}
    save(tmp_path, POLICY.hash, kept)
    found, said = of(tmp_path, Resolver({}), 30)
    assert found == {"a.example": ip(OLD)}
    assert said == ["b.example does not resolve and cannot be reached"]
    assert load(tmp_path, POLICY.hash) == kept


def test_no_names_no_question(tmp_path: Path) -> None:
    resolver = Resolver({})
    for policy in (Policy("restricted"), Policy("allowlist")):
        assert of(tmp_path / "n", resolver, 30, policy) == ({}, [])
    assert resolver.asked == []
    assert not (tmp_path / "n").exists()
