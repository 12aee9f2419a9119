"""A profile with more NICs than one: none of the others is a way past a policy.

In a project of the tests' own, whose profile has a second NIC on a bridge without a policy.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
from dummy import background
from netbox import BLOCKED
from piping import module_host

from coi.testing.host import Host
from coi.testing.machine import User, incus, query, wait_for

SUBNET = "10.214.93"
BLOCKED_HOST = BLOCKED[0]
# As root inside: by the second NIC, if there is one, to an address that no policy allows.
PAST = (
    f"ip link set eth1 up && ip addr add {SUBNET}.77/24 dev eth1 &&"
    f" ip route replace {BLOCKED_HOST} via {SUBNET}.1 dev eth1;"
    f" curl -s -m 5 -o /dev/null http://{BLOCKED_HOST}:8000/ && echo reached; true"
)
RUN = ("sudo", "sh", "-c", PAST)


class TwoNics:
    """A host whose project's profile has eth0 and a further NIC."""

    def __init__(self, host: Host, bridge: str) -> None:
        self.host = host
        self.bridge = bridge

    def profile(self, *further: str, first: str = "eth0") -> None:
        """The profile has eth0, and these devices on the bridge without a policy."""
        root = query(PROFILE)["devices"]["root"]
        devices = {"root": root, first: {"type": "nic", "name": "eth0", "network": "incusbr0"}}
        for number, name in enumerate(further, 1):
            devices[name] = {"type": "nic", "name": f"eth{number}", "network": self.bridge}
        body = json.dumps({"config": {}, "devices": devices})
        # an instance that is on its way out does not take it, which is no matter
        wait_for(lambda: query(PROFILE, "-X", "PUT", "-d", body) is not None or self.has(devices))

    def has(self, devices: dict[str, dict[str, str]]) -> bool:
        return bool(query(PROFILE)["devices"] == devices)

    def anew(self, *further: str, first: str = "eth0") -> None:
        """As :meth:`profile`, and nothing is left of what was made for another."""
        self.host.settled()
        self.profile(*further, first=first)
        self.host.coi("clean", "--force").ok()

    def inside(self, name: str, script: str = "ls /sys/class/net") -> list[str]:
        return incus("exec", name, "--", "sh", "-c", script).ok().out.split()


PROFILE = "/1.0/profiles/default"


def gone(project: str) -> None:
    """Delete a project, once no instance in it is on its way out."""
    delete = ("project", "delete", "--force", project)
    wait_for(lambda: incus(*delete, stdin=b"yes\n").code == 0, what="the project's end")


@pytest.fixture(scope="module")
def two(daemon: None, image: str, user: User, testhosts: None) -> Iterator[TwoNics]:
    token = secrets.token_hex(3)
    project, bridge = f"coi-test-{token}", f"nf{token}"
    shared = [f"features.{what}=false" for what in ("images", "networks", "storage.volumes")]
    network = (f"ipv4.address={SUBNET}.1/24", "ipv4.nat=true", "ipv6.address=none")
    root = query(PROFILE)["devices"]["root"]
    with pytest.MonkeyPatch.context() as patch, module_host(Host.make(user, image)) as host:
        incus("network", "create", bridge, *network).ok()
        incus("project", "create", project, *(w for key in shared for w in ("-c", key))).ok()
        try:
            patch.setenv("INCUS_PROJECT", project)
            host.environ["COI_INCUS_PROJECT"] = project
            body = json.dumps({"config": {}, "devices": {"root": root}})
            incus("query", "-X", "PUT", "-d", body, f"{PROFILE}?project={project}").ok()
            yield TwoNics(host, bridge)
            host.sweep()
        finally:
            gone(project)
            patch.delenv("INCUS_PROJECT", raising=False)
            wait_for(lambda: incus("network", "delete", bridge).code == 0, what="the bridge's end")


def test_it_is_left_out(two: TwoNics) -> None:
    two.anew("nic1")
    fenced = two.host.coi("--network=restricted", "run", *RUN).ok()
    assert "reached" not in fenced.out
    assert "Left out: nic1" in fenced.err
    again = two.host.coi("-v", "--network=restricted", "run", "ls /sys/class/net").ok()
    assert set(again.out.split()) == {"eth0", "lo"}
    assert len(again.incus_calls) <= 4, "create, look at the rules, exec, stop"
    # the control: where there is no policy the same way leads there
    assert "reached" in two.host.coi("--network=open", "run", *RUN).ok().out


def test_one_whose_only_nic_has_another_name(two: TwoNics) -> None:
    """eth0 inside is a device of another name: it is that which coi's own takes the place of."""
    two.anew(first="nic0")
    done = two.host.coi("--network=restricted", "run", "ls /sys/class/net").ok()
    assert set(done.out.split()) == {"eth0", "lo"}


@pytest.mark.parametrize("command", ["run", "shell", "launch"])
def test_one_that_the_profile_got_since_is_refused(two: TwoNics, command: str) -> None:
    """It was not there when the profile was read last: nothing of the session runs."""
    two.anew()
    two.host.coi("--network=restricted", "run", "true").ok()
    two.profile("nic1")
    ran = two.host.workspace / "ran"
    ran.unlink(missing_ok=True)
    name = f"{two.host.prefix}got"
    args = {
        "run": ("run", "echo ran >/workspace/ran"),
        "shell": ("shell", "--background"),
        "launch": ("container", "launch", two.host.image, name),
    }[command]
    done = two.host.coi("--network=restricted", *args)
    assert done.code == 5, done
    assert "another NIC" in done.err
    assert "eth1" in done.err
    assert "Hint: start it again" in done.err
    two.host.settled()
    assert not ran.exists()
    two.host.coi("--network=restricted", *args).ok()
    if command != "run":
        (made,) = two.host.instances()
        assert two.inside(made) == ["eth0", "lo"]
        two.host.drop()
    else:
        assert ran.exists()
    two.host.settled()


def test_a_stopped_container_is_not_started_with_one(two: TwoNics) -> None:
    two.anew()
    name = f"{two.host.prefix}stops"
    two.host.coi("--network=restricted", "container", "launch", two.host.image, name).ok()
    incus("stop", "--force", name).ok()
    two.profile("nic1")
    done = two.host.coi("container", "start", name)
    assert (done.code, "nic1" in done.err, "Hint: incus config device add" in done.err) == (
        5, True, True,
    ), done  # fmt: skip
    incus("config", "device", "add", name, "nic1", "none").ok()
    two.host.coi("container", "start", name).ok()
    assert two.inside(name) == ["eth0", "lo"]
    two.host.drop()


def test_a_persistent_session_is_restarted_without(two: TwoNics) -> None:
    two.anew()
    flags = ("--network=restricted", "--persistent", "--slot=1")
    background(two.host, *flags)
    name = two.host.instance()
    incus("stop", "--force", name).ok()
    two.profile("nic1")
    background(two.host, *flags)
    assert two.inside(name) == ["eth0", "lo"]
    # a NIC of its own is the user's: it is not taken away, and nothing is started
    incus("stop", "--force", name).ok()
    incus("config", "device", "add", name, "nic2", "nic", f"network={two.bridge}", "name=eth2").ok()
    done = two.host.coi("shell", "--background", *flags)
    assert done.code == 5, done
    assert "nic2" in done.err
    assert query(f"/1.0/instances/{name}")["status"] == "Stopped"
    incus("config", "device", "remove", name, "nic2").ok()
    # the control: without a policy it has what its profile gives it
    background(two.host, "--network=open", "--persistent", "--slot=1")
    assert two.inside(name) == ["eth0", "eth1", "lo"]
    two.host.drop()
