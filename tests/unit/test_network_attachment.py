"""Names, tags, records, subnets and refusals: what the backends share, without Incus."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.errors import CoiError, RefusedError, UnavailableError, UsageError
from coi.incus.client import Client
from coi.incus.errors import classify
from coi.network.addresses import PRIVATE
from coi.network.attachment import Attachment, Backend, Scope, load, same_tags, save, write
from coi.network.bridge import candidates
from coi.network.fence import Fence
from coi.network.host import HostView
from coi.network.lock import Busy, locked
from coi.network.names import front_dnsmasq
from coi.network.nic import refused_start
from coi.network.policy import Policy, Surroundings
from coi.network.rules import refusal, rules, sealed

POLICY = Policy("allowlist", domains=("a.example",))
ANSWERS = {"a.example": (IPv4Address("198.51.100.10"),)}
HOST = HostView(frozenset({IPv4Address("192.0.2.2")}), frozenset())
GATEWAY = IPv4Address("10.88.0.1")


@pytest.fixture
def scope(tmp_path: Path) -> Scope:
    return Scope("coi-", 1000, tmp_path / "network", "here")


def attachment(backend: Backend = "ovn") -> Attachment:
    device = {"type": "nic", "network": "n"}
    acl = "coi-0123abcd"
    return Attachment(backend, "n", acl, POLICY.hash, "allowlist", device, GATEWAY, (GATEWAY,))


def test_names_fit_an_interface_and_differ(scope: Scope) -> None:
    others = [replace(scope, prefix="x-"), replace(scope, owner=1)]
    names = [s.name(POLICY, "bridge") for s in (scope, *others)]
    names += [scope.name(Policy("restricted"), "bridge"), scope.name(POLICY, "ovn", "n")]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 15 and name.startswith("coi-") for name in names)


def test_another_home_of_the_same_user_is_no_stranger(scope: Scope) -> None:
    tags = scope.tags(POLICY, "bridge")
    assert same_tags(replace(scope, place="elsewhere").tags(POLICY, "bridge"), tags)
    for other in (scope.tags(POLICY, "ovn"), replace(scope, owner=1).tags(POLICY, "bridge"), {}):
        assert not same_tags(other, tags)


def test_a_record_is_read_as_written(scope: Scope) -> None:
    path = scope.directory / "r.json"
    assert load(path) is None
    save(path, attachment())
    assert load(path) == attachment()
    path.chmod(0o666)
    assert load(path) is None, "somebody else could have written it"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "nul\0", '{"format": 1}'])
def test_a_damaged_record_is_none(scope: Scope, text: str) -> None:
    path = scope.directory / "r.json"
    save(path, attachment())
    path.write_text(text)
    assert load(path) is None


def test_a_record_counts_while_its_rules_would_be_the_same(scope: Scope) -> None:
    fence = Fence(Client(), scope, POLICY, ANSWERS, host=HOST)
    seen = Surroundings(HOST.addresses, GATEWAY, (GATEWAY,), ANSWERS)
    made = sealed(attachment(), POLICY, seen)
    fence._save(made)
    assert fence.recorded() is None, "nothing has been chosen"
    write(fence._choice, made.acl)
    assert fence.recorded() == made
    other = HostView(HOST.addresses | {IPv4Address("203.0.113.7")}, frozenset())
    assert replace(fence, host=other).recorded() == made, "no rule changes with it"
    gone = HostView(frozenset({IPv4Address("198.51.100.10")}), frozenset())
    assert replace(fence, host=gone).recorded() is None
    assert replace(fence, answers={}).recorded() is None
    assert replace(fence, policy=Policy("restricted")).recorded() is None
    assert replace(fence, backend="bridge").recorded() is None


def test_no_fence_on_a_remote(scope: Scope) -> None:
    with pytest.raises(RefusedError, match="remote"):
        Fence(Client(remote="team"), scope, POLICY, host=HOST)
    with pytest.raises(UsageError, match="backend"):
        Fence(Client(), scope, POLICY, backend="magic", host=HOST)


@given(st.text(min_size=1, max_size=12), st.frozensets(st.integers(0, 2**24 - 1), max_size=20))
def test_subnets(name: str, numbers: frozenset[int]) -> None:
    used = frozenset(IPv4Network((number << 8, 20), strict=False) for number in numbers)
    found = list(candidates(name, used))
    assert found == list(candidates(name, used))
    for subnet in found:
        assert subnet.prefixlen == 24
        assert any(subnet.subnet_of(private) for private in PRIVATE)
        assert not any(subnet.overlaps(other) for other in used)


def test_subnets_leave_a_busy_pool() -> None:
    used = frozenset({IPv4Network("10.0.0.0/9"), IPv4Network("10.128.0.0/9")})
    assert next(candidates("x", used)).subnet_of(IPv4Network("172.16.0.0/12"))
    halves = frozenset({IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1")})
    assert list(candidates("x", halves)) == list(candidates("x", frozenset()))


def test_an_allowlist_on_ovn_closes_the_resolver_that_is_handed_out() -> None:
    seen = Surroundings(HOST.addresses, GATEWAY, (GATEWAY,), ANSWERS)
    rejects = [r for r in rules(POLICY, seen, "ovn")["egress"] if r["action"] == "reject"]
    assert {(r["destination"], r["protocol"], r["destination_port"]) for r in rejects} == {
        ("10.88.0.1", "tcp", "53"), ("10.88.0.1", "udp", "53")
    }  # fmt: skip
    for policy, backend in ((Policy("restricted"), "ovn"), (POLICY, "bridge")):
        made = rules(policy, seen, backend)  # type: ignore[arg-type]
        assert all(rule["action"] == "allow" for rule in made["egress"])


def test_sessions_have_no_names_of_their_own_choice() -> None:
    for policy in (POLICY, Policy("restricted")):
        for resolver in (None, GATEWAY):
            assert front_dnsmasq(policy, resolver).splitlines()[0] == "dhcp-ignore-names"


def test_an_allowlist_asks_the_resolver_of_its_names_and_no_other() -> None:
    closed = {"dhcp-ignore-names", "no-resolv", "no-hosts"}
    assert set(front_dnsmasq(POLICY, GATEWAY).splitlines()) == closed | {f"server={GATEWAY}"}
    assert set(front_dnsmasq(POLICY, None).splitlines()) == closed | {"address=/#/"}
    assert front_dnsmasq(Policy("restricted"), None) == "dhcp-ignore-names"


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("Network type does not support non-default projects", 400, RefusedError),
        ("not authorized", 403, RefusedError),
        ("permission denied ... unix.socket", 0, UnavailableError),
        ("You don't have the needed permissions to talk to incus", 0, UnavailableError),
        ("something else", 500, CoiError),
    ],
)
def test_what_is_not_allowed_is_refused(text: str, code: int, kind: type[CoiError]) -> None:
    error = refusal(classify(text, code=code), "make networks here")
    assert isinstance(error, kind)
    assert isinstance(error, RefusedError) == (kind is RefusedError)
    if isinstance(error, RefusedError):
        assert "--network open" in error.hint


def test_a_kernel_that_cannot_filter() -> None:
    error = classify('Failed to start device "eth0": Failed adding bridge filter rules for x')
    assert isinstance(refused_start(error), RefusedError)
    other = classify("Failed to start")
    assert refused_start(other) is other


def test_locks(tmp_path: Path) -> None:
    path = tmp_path / "d" / "n.use.lock"
    with (
        locked(path, shared=True),
        locked(path, shared=True, timeout=0),
        pytest.raises(Busy),
        locked(path, timeout=0),
    ):
        pass
    with locked(path, timeout=0), pytest.raises(Busy), locked(path, shared=True, timeout=0.05):
        pass
