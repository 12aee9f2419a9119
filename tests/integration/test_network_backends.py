"""Policies attached for real: what Incus and the kernel do with them, and what is left.

At the level of the library. Probes go to addresses of this machine alone
(fixtures/testhosts).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from harness import Result, incus, query

from coi.errors import CoiError, RefusedError
from coi.incus.client import Client
from coi.incus.process import Runner
from coi.network.attachment import Attachment, Scope
from coi.network.bridge import DNS_GUARD
from coi.network.fence import Fence, sweep
from coi.network.host import view
from coi.network.nic import refused_start
from coi.network.policy import Policy

FIXTURES = Path(__file__).parents[2] / "fixtures"
PUBLIC, OTHER = "198.51.100.10", "198.51.101.10"
BLOCKED = ("10.99.0.1", "172.31.99.1", "192.168.99.1", "169.254.169.254")
ANSWERS = {"pub.example": (IPv4Address(PUBLIC),)}
ALLOWLIST = Policy("allowlist", domains=("pub.example",), logged=True)
RESTRICTED = Policy("restricted")

# host:port, or host:port:name to ask a resolver there; prints one word for each
PROBE = r"""
import socket, struct, sys
def ask(host, port, name):
    q = struct.pack(">6H", 7, 256, 1, 0, 0, 0)
    q += b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\1\0\1"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(4)
    s.connect((host, port)); s.send(q); r = s.recv(4096)
    if r[3] & 15 or not r[7]: return "none"
    return ".".join(map(str, r[-4:]))
for word in sys.argv[1:]:
    host, port, *name = word.split(",")
    try:
        if name: print(ask(host, int(port), *name)); continue
        socket.create_connection((host, int(port)), 4).close(); print("open")
    except OSError: print("closed")
"""


@pytest.fixture(scope="module")
def testhosts() -> None:
    """The addresses that probes go to."""
    if os.getuid() != 0:
        pytest.skip("only root can make hosts to probe")
    done = subprocess.run([FIXTURES / "testhosts", "up"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


class World:
    """One test's scope, and what it makes in Incus."""

    def __init__(self, directory: Path, image: str) -> None:
        token = secrets.token_hex(3)
        self.image = image
        self.prefix = f"nb{token}-"
        self.runner = Runner()
        self.client = Client(self.runner)
        self.scope = Scope(self.prefix, os.getuid(), directory / "network", f"nb:{token}")

    def fence(
        self, policy: Policy = ALLOWLIST, *, backend: str = "bridge", profile: str = "default"
    ) -> Fence:
        return Fence(self.client, self.scope, policy, ANSWERS, backend, profile)

    def objects(self) -> list[str]:
        """Networks and ACLs that carry the prefix."""
        rows = [("network", row) for row in query("/1.0/networks?recursion=1")]
        rows += [("acl", row) for row in query("/1.0/network-acls?recursion=1")]
        key = "user.coi.prefix"
        return sorted(kind for kind, row in rows if (row["config"] or {}).get(key) == self.prefix)

    def launch(self, number: int, device: dict[str, str], profile: str = "default") -> str:
        """An instance with this eth0, once it has its address."""
        name = f"{self.prefix}{number}"
        body = {
            "name": name, "type": "container", "start": True, "profiles": [profile],
            "source": {"type": "image", "alias": self.image}, "devices": {"eth0": device},
        }  # fmt: skip
        self.client.query("POST", "/1.0/instances", body=body, wait=True)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            if incus("exec", name, "--", "ip", "-4", "route", "show", "default").out.strip():
                return name
            time.sleep(0.05)
        raise AssertionError(f"{name} has no address")

    def probe(self, name: str, *words: str) -> list[str]:
        return incus("exec", name, "--", "python3", "-c", PROBE, *words).ok().out.split()

    def close(self) -> None:
        for row in query("/1.0/instances"):
            if (name := row.rsplit("/", 1)[1]).startswith(self.prefix):
                incus("delete", "--force", name)
        sweep(self.client, self.scope)


@pytest.fixture
def world(daemon: None, image: str, tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, image)
    yield made
    made.close()
    assert made.objects() == []


def nft(pattern: str) -> str:
    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True, text=True)
    found = re.search(pattern + r" \{\n(.*?)\n\t\}", done.stdout, re.DOTALL)
    assert found, pattern
    return found[1]


def calls(world: World) -> int:
    return len(world.runner.calls)


def test_made_once_then_at_most_one_call(world: World) -> None:
    fence = world.fence()
    assert fence.recorded() is None
    start = time.monotonic()
    made = fence.prepare()
    assert time.monotonic() - start < 3, "1.1 s measured"
    assert calls(world) <= 7
    assert world.objects() == ["acl", "network"]
    before = calls(world)
    again = world.fence()
    assert again.recorded() == made
    assert calls(world) == before
    assert again.verify(made) == made
    assert calls(world) == before + 1
    assert again.prepare() == made
    assert world.objects() == ["acl", "network"]
    other = fence.prepare()
    assert other == made


def test_rules_in_the_kernel_and_what_gets_through(world: World, testhosts: None) -> None:
    fence = world.fence()
    made = fence.prepare()
    with fence.using(made):
        first = world.launch(1, dict(made.device))
        assert sweep(world.client, world.scope) == []
    second = world.launch(2, dict(made.device))
    gateway = str(made.gateway)
    chain = nft(f"chain acl.{made.network}")
    assert f'iifname "{made.network}" ip daddr {PUBLIC} accept' in chain
    assert re.search(f'iifname "{made.network}" log prefix "[^"]+" reject', chain)
    assert chain.count("accept") == 3, "what stands, the host, and the list"
    for direction in ("in", "fwd"):
        filtered = nft(f"chain {direction}.{first}.eth0")
        assert "ether type ip6 drop" in filtered
        assert "ip saddr !=" in filtered
    sibling = incus("exec", second, "--", "hostname", "-I").out.split()[0]
    subprocess.run(["incus", "exec", second, "--", "sh", "-c",
                    "python3 -m http.server 8000 >/dev/null 2>&1 &"], check=True)  # fmt: skip
    targets = [*BLOCKED, OTHER, gateway, sibling]
    words = [f"{PUBLIC},8000", *(f"{target},8000" for target in targets)]
    assert world.probe(first, *words) == ["open"] + ["closed"] * len(targets)
    names = ["pub.example", "x.pub.example", "other.example", second, f"{second}.incus"]
    asked = world.probe(first, *(f"{gateway},53,{name}" for name in names))
    assert asked == [PUBLIC, "none", "none", "none", "none"]
    # The negative control: an open instance gets through to the same.
    control = world.launch(3, {"type": "nic", "name": "eth0", "network": "incusbr0"})
    words = [f"{target},8000" for target in (PUBLIC, *BLOCKED, OTHER)]
    assert world.probe(control, *words) == ["open"] * len(words)


def test_resolvers_at_other_addresses_of_the_host_are_closed_by_root_alone(
    world: World, testhosts: None, gateway: str
) -> None:
    """The one hole in an allowlist on a bridge: Incus accepts DNS to every address of the host.

    Should the first probe fail one day, Incus closes it and the guard is not needed.
    """
    made = world.fence().prepare()
    name = world.launch(1, dict(made.device))
    words = (f"{gateway},53,_gateway.incus", f"{made.gateway},53,pub.example")
    assert world.probe(name, *words) == [gateway, PUBLIC]
    command = ["nft", "-f", "-"]
    subprocess.run(command, input=DNS_GUARD, text=True, check=True)
    try:
        assert world.probe(name, *words) == ["closed", PUBLIC]
    finally:
        subprocess.run(["nft", "delete", "table", "inet", "coi_dns"], check=True)


def test_refresh_reaches_rules_and_names(world: World, testhosts: None) -> None:
    fence = world.fence()
    made = fence.prepare()
    name = world.launch(1, dict(made.device))
    words = (f"{PUBLIC},8000", f"{OTHER},8000", f"{made.gateway},53,pub.example")
    assert world.probe(name, *words) == ["open", "closed", PUBLIC]
    before = calls(world)
    same = fence.refresh(made, ANSWERS)
    assert (same, calls(world)) == (made, before + 1)
    now = fence.refresh(made, {"pub.example": (IPv4Address(OTHER),)})
    assert calls(world) == before + 4
    assert world.probe(name, *words) == ["closed", "open", OTHER]
    assert fence.recorded() == now


def test_verify_mends_rules_and_refuses_what_is_gone(world: World) -> None:
    fence = world.fence()
    made = fence.prepare()
    acl = f"/1.0/network-acls/{made.acl}"
    config = query(acl)["config"]
    wide = {"config": config, "egress": [{"action": "allow", "state": "enabled"}]}
    query(acl, "-X", "PUT", "-d", json.dumps(wide))
    fence.verify(made)
    assert "destination" in query(acl)["egress"][0]
    incus("network", "unset", made.network, "security.acls").ok()
    with pytest.raises(RefusedError, match="does not stand"):
        fence.verify(made)
    assert fence.recorded() is None
    assert fence.prepare() == made, "set again"
    fence.verify(made)
    assert sweep(world.client, world.scope) == [made.network]
    with pytest.raises(RefusedError, match="does not stand"):
        fence.verify(made)


def test_two_at_the_same_instant(world: World, tmp_path: Path) -> None:
    """In one home, and in two homes of one user, who share no lock."""
    elsewhere = replace(world.scope, directory=tmp_path / "other")
    fences = [world.fence(), world.fence(), replace(world.fence(), scope=elsewhere)]
    for fence in fences:
        fence.client = Client(Runner())
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(Fence.prepare, fences))
    assert len({one.network for one in made}) == 1
    assert world.objects() == ["acl", "network"]
    for fence, one in zip(fences, made, strict=True):
        fence.verify(one)


def test_a_name_that_is_taken_is_left_alone(world: World) -> None:
    fence = world.fence()
    name = world.scope.name(ALLOWLIST, "bridge")
    incus("network", "acl", "create", name).ok()
    try:
        with pytest.raises(RefusedError, match="not coi's"):
            fence.prepare()
        assert query(f"/1.0/network-acls/{name}")["egress"] == []
    finally:
        incus("network", "acl", "delete", name).ok()
    incus("network", "create", name, "ipv4.address=none", "ipv6.address=none").ok()
    try:
        before = query(f"/1.0/networks/{name}")
        with pytest.raises(RefusedError, match="not coi's"):
            fence.prepare()
        assert query(f"/1.0/networks/{name}") == before
    finally:
        incus("network", "delete", name).ok()
    assert world.objects() == []


class Spoiled(Client):
    """A client whose networks are made with a configuration that does not do."""

    def __init__(self, **changes: str) -> None:
        super().__init__(Runner())
        self.changes = changes
        self.tries = 0

    def query(self, method: str, path: str, **more: object) -> object:
        if (method, path) == ("POST", "/1.0/networks"):
            self.tries += 1
            body = dict(more["body"])  # type: ignore[call-overload]
            keys = {key.replace("__", "."): value for key, value in self.changes.items()}
            more["body"] = {**body, "config": {**body["config"], **keys}}
        if (method, path) == ("POST", "/1.0/network-acls") and "acl" in self.changes:
            more["body"] = {**more["body"], "egress": [{"action": "allow", "destination": "?"}]}  # type: ignore[dict-item]
        return super().query(method, path, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "tries"),
    [
        pytest.param({"acl": "refused"}, 0, id="acl-refused"),
        pytest.param({"security__nonsense": "x"}, 1, id="network-refused"),
        pytest.param({"raw__dnsmasq": "nonsense"}, 1, id="resolver-does-not-start"),
        pytest.param({"ipv4__address": "clash"}, 4, id="subnet-clashes"),
    ],
)
def test_failures_leave_nothing(world: World, changes: dict[str, str], tries: int) -> None:
    if changes.get("ipv4__address"):
        changes = {"ipv4__address": query("/1.0/networks/incusbr0")["config"]["ipv4.address"]}
    fence = world.fence()
    spoiled = Spoiled(**changes)
    fence.client = spoiled
    with pytest.raises(CoiError) as caught:
        fence.prepare()
    assert spoiled.tries == tries, repr(caught.value) + caught.value.details
    assert isinstance(caught.value, RefusedError) == (tries == 4)
    assert world.objects() == []
    assert fence.recorded() is None


def test_a_project_of_its_own_networks_is_refused(world: World) -> None:
    project = f"{world.prefix}p"
    features = ["-c", "features.networks=true", "-c", "features.profiles=false"]
    incus("project", "create", project, *features).ok()
    try:
        fence = world.fence()
        fence.client = Client(Runner(), project=project)
        with pytest.raises(RefusedError, match="not allowed to make networks") as caught:
            fence.prepare()
        assert "--network open" in caught.value.hint
        assert query(f"/1.0/network-acls?project={project}") == []
    finally:
        incus("project", "delete", project).ok()


def test_nic_starts_with_its_rules_or_not_at_all(world: World) -> None:
    fence = world.fence(RESTRICTED, backend="nic")
    made = fence.prepare()
    try:
        world.launch(1, dict(made.device))
    except CoiError as error:
        refused = refused_start(error)
        assert isinstance(refused, RefusedError)
        assert "nft_reject_bridge" in refused.hint
    else:
        fence.verify(made)


@pytest.fixture
def ovn_profile(daemon: None, as_root: None) -> str:
    """A profile on an OVN network (fixtures/ovn up)."""
    name = os.environ.get("COI_TEST_OVN_PROFILE", "ovntest")
    if query(f"/1.0/profiles/{name}") is None:
        pytest.skip("no OVN here: run fixtures/ovn up")
    return name


def test_ovn(world: World, testhosts: None, ovn_profile: str) -> None:
    fence = world.fence(backend="auto", profile=ovn_profile)
    made: Attachment = fence.prepare()
    assert made.backend == "ovn"
    assert world.objects() == ["acl"]
    before = calls(world)
    assert world.fence(backend="auto", profile=ovn_profile).recorded() == made
    name = world.launch(1, dict(made.device), ovn_profile)
    assert fence.verify(made) == made
    assert calls(world) == before + 2
    resolver = str(made.nameservers[0])
    words = [f"{target},8000" for target in (PUBLIC, *BLOCKED, OTHER, str(made.gateway))]
    assert world.probe(name, *words) == ["open"] + ["closed"] * (len(words) - 1)
    assert world.probe(name, f"{resolver},53,_gateway.incus", f"{resolver},53") == ["closed"] * 2
    listed: Result = Result((), 0, _ovn_acls(), "")
    assert f"ip4.dst == {PUBLIC}" in listed.out
    open_fence = world.fence(RESTRICTED, backend="ovn", profile=ovn_profile)
    asked = world.launch(2, dict(open_fence.prepare().device), ovn_profile)
    assert world.probe(asked, f"{resolver},53,_gateway.incus") == [resolver]
    assert world.probe(asked, *words) == ["open"] + ["closed"] * 4 + ["open", "closed"]


def _ovn_acls() -> str:
    command = ["ovn-nbctl", "--timeout=5", "--bare", "--columns=match", "list", "acl"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def test_the_host_knows_its_addresses(daemon: None) -> None:
    address = query("/1.0/networks/incusbr0")["config"]["ipv4.address"]
    assert IPv4Address(address.split("/")[0]) in view().addresses
