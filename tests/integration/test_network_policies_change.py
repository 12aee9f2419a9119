"""A session goes on under another policy, or is asked for under one: what it then reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from dummy import background
from netbox import BLOCKED, OTHER, PROBE, PUBLIC, guard
from piping import module_host

from coi.testing.host import Host
from coi.testing.machine import Result, User, incus, query, wait_for

LISTED = {"COI_NETWORK_ALLOWED_DOMAINS": f"{OTHER},listed.coi-test"}
KEYS = ("network-backend", "network-acl", "network-masked", "policy")
SLOT = ("--persistent", "--slot=1")


@dataclass
class Place:
    """A backend, and a world on it."""

    host: Host
    backend: str

    @property
    def name(self) -> str:
        return self.host.instance()

    def start(self, mode: str) -> Result:
        flags = (f"--network={mode}", "shell", "--background", *SLOT)
        return self.host.coi(*flags, environ=LISTED)

    def reaches(self) -> list[str]:
        """Whether a public, the listed, and a private address are open."""
        words = [f"{address},8000" for address in (PUBLIC, OTHER, BLOCKED[0])]
        command = ("exec", self.name, "--", "python3", "-c", PROBE, *words)
        wait_for(lambda: incus("exec", self.name, "--", "ip", "-4", "route").out.strip())
        return incus(*command).ok().out.split()

    def keys(self) -> dict[str, str]:
        config = query(f"/1.0/instances/{self.name}")["config"]
        return {key: config[f"user.coi.{key}"] for key in KEYS if f"user.coi.{key}" in config}

    def made(self) -> list[str]:
        """Networks and ACLs of this world."""
        rows = query("/1.0/networks?recursion=1") + query("/1.0/network-acls?recursion=1")
        key = "user.coi.prefix"
        mine = [row["name"] for row in rows if (row["config"] or {}).get(key) == self.host.prefix]
        return sorted(mine)

    def duties(self) -> list[str]:
        """What there is to be kept right."""
        return sorted(path.name for path in (self.host.coi_home / "network").glob("refresh-*.json"))


@pytest.fixture(scope="module", params=["bridge", "ovn"])
def place(
    request: pytest.FixtureRequest, daemon: None, image: str, user: User, testhosts: None
) -> Iterator[Place]:
    """Both backends, one after the other."""
    with pytest.MonkeyPatch.context() as patch, module_host(Host.make(user, image)) as host:
        if request.param == "ovn":
            project = request.getfixturevalue("ovn")
            patch.setenv("INCUS_PROJECT", project)
            host.environ["COI_INCUS_PROJECT"] = project
        with guard(True):
            yield Place(host, request.param)
        host.sweep()


REACHED = {
    "open": ["open", "open", "open"],
    "restricted": ["open", "open", "closed"],
    "allowlist": ["closed", "open", "closed"],
}


def test_from_one_policy_to_another(place: Place) -> None:
    """A persistent container is restarted under each: it has nothing of the one before."""
    for mode in ("open", "restricted", "allowlist", "restricted", "open"):
        place.start(mode).ok()
        assert place.reaches() == REACHED[mode], mode
        (row,) = place.host.listed()
        assert (row["network"], row["network_backend"]) == (
            mode, None if mode == "open" else place.backend,
        )  # fmt: skip
        keys = place.keys()
        assert set(keys) == (set() if mode == "open" else {*KEYS} - {"network-masked"})
        devices = query(f"/1.0/instances/{place.name}")["devices"]
        assert ("eth0" in devices) == (mode != "open")
        if mode != "open":
            acl = query(f"/1.0/network-acls/{keys['network-acl']}")
            assert acl["config"]["user.coi.mode"] == mode
        incus("stop", "--force", place.name).ok()


def test_one_that_runs_is_not_taken_for_another(place: Place) -> None:
    place.start("open").ok()
    assert place.reaches() == REACHED["open"]
    before = place.made(), place.duties()
    session = place.host.listed()[0]["session_id"]
    ways: tuple[tuple[str, ...], ...] = (SLOT, (f"--resume={session}",))
    for mode in ("restricted", "allowlist"):
        for way in ways:
            flags = (f"--network={mode}", "shell", "--background", *way)
            done = place.host.coi(*flags, environ=LISTED)
            assert done.code == 5, (way, done)
            assert f"runs with --network open, not {mode}" in done.err
            assert f"coi attach {place.name}" in done.err
            assert f"coi shutdown {place.name}" in done.err
    assert (place.made(), place.duties()) == before, "nothing is made for what is not started"
    # the control: as it was asked for first it is taken
    for way in ways:
        background(place.host, "--network=open", *way)
    incus("delete", "--force", place.name).ok()


def test_one_that_is_narrower_is_taken_with_a_notice(place: Place) -> None:
    """The configuration's mode is open: nobody has asked for that on the command line."""
    place.start("restricted").ok()
    place.start("restricted").ok()
    said = background(place.host, *SLOT)
    assert "runs with --network restricted, not open" in said
    asked = place.start("open")
    assert asked.code == 5, asked
    changed = {**LISTED, "COI_NETWORK_BLOCK_PRIVATE_NETWORKS": "false"}
    flags = ("--network=restricted", "shell", "--background", *SLOT)
    other = place.host.coi(*flags, environ=changed)
    assert (other.code, "other settings" in other.err) == (5, True), other
    incus("delete", "--force", place.name).ok()
