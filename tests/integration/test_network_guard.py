"""A host whose other resolvers sessions could ask: what is refused there, and what says so.

Every host with an Incus bridge is one: its dnsmasq forwards what it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from netbox import PUBLIC, guard
from piping import module_host

from coi.testing.host import Host
from coi.testing.machine import User

LISTED = {"COI_NETWORK_ALLOWED_DOMAINS": PUBLIC}
LOAD = "sudo coi network guard --load"


@pytest.fixture(scope="module")
def world(daemon: None, image: str, user: User, as_root_module: None) -> Iterator[Host]:
    with module_host(Host.make(user, image)) as host:
        yield host
        host.sweep()


@pytest.fixture(scope="module")
def as_root_module(testhosts: None) -> None:
    """Only root loads rules of the firewall."""


def test_an_allowlist_is_refused_without_it(world: Host, gateway: str) -> None:
    for attempt in range(2):  # before anything is made, and once the policy's network stands
        with guard(False):
            done = world.coi("--network=allowlist", "run", "true", environ=LISTED)
        assert done.code == 5, done
        assert "could ask other resolvers of this host" in done.err
        assert gateway in done.err
        assert f"Hint: close it, once for all sessions: {LOAD}" in done.err
        world.settled()
        with guard(True):  # the control
            done = world.coi("--network=allowlist", "run", "echo in", environ=LISTED).ok()
        assert (done.out, LOAD in done.err) == ("in\n", False), attempt
        world.settled()


def test_restricted_warns_once(world: Host) -> None:
    with guard(False):
        first = world.coi("--network=restricted", "run", "true").ok()
        again = world.coi("--network=restricted", "run", "true").ok()
    assert first.err.count(LOAD) == 1
    assert LOAD not in again.err


def test_only_root_loads_it(world: Host) -> None:
    done = world.coi("network", "guard", "--load")
    if world.user.uid:
        assert (done.code, f"Hint: {LOAD}" in done.err) == (4, True), done
    assert "fib daddr . iif type != local reject" in world.coi("network", "guard").ok().out


def test_acls_of_nics_start_or_are_refused(world: Host) -> None:
    """Where the kernel does not filter on bridges the start says so; no allowlist is known to."""
    nic = {"COI_NETWORK_BACKEND": "nic"}
    done = world.coi("--network=restricted", "run", "echo in", environ=nic)
    if done.code == 0:
        assert done.out == "in\n"
    else:
        assert done.code == 5, done
        assert "the kernel does not filter on bridges" in done.err
        assert "Hint: load nf_conntrack_bridge and nft_reject_bridge" in done.err
    world.settled()
    done = world.coi("--network=allowlist", "run", "true", environ={**nic, **LISTED})
    assert done.code == 5, done
    assert "cannot enforce an allowlist by ACLs of NICs" in done.err
    world.settled()
    # the control: on a bridge of the policy's own both start
    with guard(True):
        for mode in ("restricted", "allowlist"):
            world.coi(f"--network={mode}", "run", "true", environ=LISTED).ok()
