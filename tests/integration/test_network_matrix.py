"""What a container reaches: mode x backend x destination, and the same without a policy.

Probes go to addresses of this machine alone: hosts in namespaces (fixtures/testhosts), the
host itself, and a second container of the same mode.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from netbox import OTHER, PUBLIC, age, guard
from piping import module_host

from coi.network.host import view
from coi.testing.host import Host
from coi.testing.machine import COI, User, incus, query, wait_for

LISTED, UNLISTED = "listed.coi-test", "unlisted.coi-test"
HOSTS = Path("/etc/hosts")
FOREIGN = {
    "10/8": "10.99.0.1",
    "172.16/12": "172.31.99.1",
    "192.168/16": "192.168.99.1",
    "metadata": "169.254.169.254",
}
OWN = "198.51.102.1"  # an address of the host that looks like a public one
ULA = "fd00:c01::"

# Arguments: a JSON object of names to host:port, "dns name", "ping host". Prints one of
# names to whether it was reached, or to the address of the name. Written for root inside.
PROBE = r"""
import concurrent.futures, json, random, socket, struct, sys
socket.setdefaulttimeout(4)
def connects(to, source=None):
    host, port = to.rsplit(":", 1)
    for family, _, _, _, at in socket.getaddrinfo(host.strip("[]"), int(port), 0, 1):
        s = socket.socket(family)
        if source: s.bind((source, 0))
        try: s.connect(at); return True
        except OSError: pass
    return False
def asks(server, name):
    q = struct.pack(">6H", 7, 256, 1, 0, 0, 0)
    q += b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\1\0\1"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((server, 53)); s.send(q)
    r = s.recv(4096)
    return bool(r[7])
def pings(host):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    # Open vSwitch's NAT keeps the id: two containers with the same one would be one connection.
    me = random.randrange(0x1000, 0xf000)
    head = struct.pack(">BBHHH", 8, 0, 0xffff - (0x0800 + me + 1) % 0xffff, me, 1)
    s.settimeout(1)
    for _ in range(4):
        s.sendto(head, (host, 0))
        try:
            while True:
                data, (sender, _) = s.recvfrom(2000)
                if sender == host: return data[20] == 0
        except TimeoutError: pass
    return False
def probe(words):
    kind, *rest = words.split()
    try:
        if kind == "tcp": return connects(*rest)
        if kind == "name": return socket.gethostbyname(*rest)
        if kind == "ask": return asks(*rest)
        if kind == "ping": return pings(*rest)
    except OSError: return False
wanted = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(wanted)) as pool:
    print(json.dumps(dict(zip(wanted, pool.map(probe, wanted.values())))))
"""

# The server that the other container of a mode runs.
SERVER = (
    "python3 -c \"import socket; s = socket.create_server(('::', 8000), family=socket.AF_INET6,"
    ' dualstack_ipv6=True)\nwhile True: s.accept()[0].close()" >/dev/null 2>&1 &'
)


@dataclass
class Place:
    """A backend, and two containers of each mode on it."""

    host: Host
    backend: str
    port: int

    def name(self, mode: str, number: int = 1) -> str:
        return f"{self.host.prefix}{mode}{number}"

    def launch(self, mode: str, number: int) -> None:
        environ = {"COI_NETWORK_ALLOWED_DOMAINS": LISTED, "COI_NETWORK_LOGGING_ENABLED": "true"}
        flags = (f"--network={mode}", "container", "launch", self.host.image)
        self.host.coi(*flags, self.name(mode, number), environ=environ).ok()

    def root(self, mode: str, script: str, number: int = 1) -> str:
        """Output of a shell script as root inside."""
        return incus("exec", self.name(mode, number), "--", "sh", "-c", script).ok().out

    def probe(self, mode: str, wanted: dict[str, str]) -> dict[str, object]:
        done = incus(
            "exec", self.name(mode), "--", "python3", "-c", PROBE, json.dumps(wanted), timeout=200
        )
        found: dict[str, object] = json.loads(done.ok().out)
        return found

    def becomes(self, mode: str, tried: dict[str, str], wanted: dict[str, object]) -> None:
        """Wait until a refresh, which is due meanwhile, has had its effect."""

        def became() -> bool:
            age(self.host.coi_home / "network")  # a refresh under way writes its own time
            return self.probe(mode, tried) == wanted

        wait_for(became, what=f"{wanted}")

    def address(self, mode: str, number: int) -> str:
        return self.root(mode, "hostname -I", number).split()[0]

    def gateway(self, mode: str) -> str:
        """What the container takes for its router."""
        return self.root(mode, "ip -4 route show default").split()[2]


@pytest.fixture(scope="module")
def answering(testhosts: None) -> Iterator[int]:
    """A port that the host itself answers on, at all its addresses; one of them is made."""
    subprocess.run(["ip", "addr", "replace", f"{OWN}/32", "dev", "lo"], check=True)
    names = HOSTS.read_text()
    HOSTS.write_text(f"{names.rstrip()}\n{OTHER} {LISTED}\n{PUBLIC} {UNLISTED}\n")
    server = socket.create_server(("0.0.0.0", 0), backlog=100)  # noqa: S104 - for the probes

    def serve() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    HOSTS.write_text(names)
    subprocess.run(["ip", "addr", "del", f"{OWN}/32", "dev", "lo"], check=True)


@pytest.fixture(scope="module", params=["bridge", "ovn"])
def place(
    request: pytest.FixtureRequest, daemon: None, image: str, user: User, answering: int
) -> Iterator[Place]:
    """Both backends, one after the other."""
    with pytest.MonkeyPatch.context() as patch, module_host(Host.make(user, image)) as host:
        if request.param == "ovn":
            project = request.getfixturevalue("ovn")
            patch.setenv("INCUS_PROJECT", project)
            host.environ["COI_INCUS_PROJECT"] = project
        made = Place(host, request.param, answering)
        subprocess.run(["pkill", "-HUP", "-x", "dnsmasq"], check=True)  # they read /etc/hosts
        with guard(True), ending(host):
            for mode in ("restricted", "allowlist", "open"):
                for number in (1, 2):
                    made.launch(mode, number)
                    ula = f"ip -6 addr add {ULA}{number}/64 dev eth0 nodad || true"
                    made.root(mode, ula, number)
                made.root(mode, SERVER, 2)
            yield made


@contextmanager
def ending(host: Host) -> Iterator[None]:
    """Nothing is left of the host's containers and networks."""
    try:
        yield
    finally:
        host.drop()
        host.coi("clean", "--force").ok()


def destinations(place: Place, mode: str) -> dict[str, str]:
    """Everything that is tried, by name."""
    sibling = place.address(mode, 2)
    link_local = place.root(mode, "ip -6 -o addr show dev eth0 scope link", 2)
    found = re.search(r"inet6 (fe80::[0-9a-f:]+)", link_local)
    assert found, f"{link_local!r}: IPv6 is on inside"
    gateway = place.gateway(mode)
    others = sorted(str(a) for a in view().addresses if not a.is_loopback)
    here = {f"host's {address}": f"tcp {address}:{place.port}" for address in others}
    return {
        "listed": f"tcp {OTHER}:8000",
        "public": f"tcp {PUBLIC}:8000",
        **{name: f"tcp {address}:8000" for name, address in FOREIGN.items()},
        **here,
        "router": f"tcp {gateway}:{place.port}",
        "sibling": f"tcp {sibling}:8000",
        "sibling, link-local": f"tcp [{found[1]}%eth0]:8000",
        "sibling, ULA": f"tcp [{ULA}2]:8000",
        "name that is listed": f"name {LISTED}",
        "name that is not": f"name {UNLISTED}",
        "ping public": f"ping {PUBLIC}",
        "ping 10/8": f"ping {FOREIGN['10/8']}",
    }


@pytest.mark.parametrize("mode", ["restricted", "allowlist", "open"])
def test_what_is_reached(place: Place, mode: str) -> None:
    wanted = destinations(place, mode)
    found = place.probe(mode, wanted)
    expected: dict[str, object] = dict.fromkeys(wanted, False)
    assert any(name.startswith("host's") for name in wanted)
    if mode == "open":  # the control: the same probes get through
        expected = dict.fromkeys(wanted, True)
        if place.backend == "ovn":  # the router is OVN's own and answers nothing
            expected["router"] = False
    expected |= {"name that is listed": OTHER, "name that is not": PUBLIC, "listed": True}
    if mode == "restricted":
        expected |= {"public": True, "ping public": True}
    if mode == "allowlist":
        expected |= {"name that is not": False}
    assert found == expected


def test_the_names_follow(place: Place) -> None:
    """A name moves: the rules and the name do, while the container runs."""
    before = HOSTS.read_text()
    moved = {"name": f"name {LISTED}", "new": f"tcp {PUBLIC}:8000", "old": f"tcp {OTHER}:8000"}
    assert place.probe("allowlist", moved) == {"name": OTHER, "new": False, "old": True}
    try:
        HOSTS.write_text(before.replace(f"{OTHER} {LISTED}", f"{PUBLIC} {LISTED}"))
        place.becomes("allowlist", moved, {"name": PUBLIC, "new": True, "old": False})
    finally:
        HOSTS.write_text(before)
    place.becomes("allowlist", moved, {"name": OTHER, "new": False, "old": True})


def test_what_was_refused_is_told(place: Place, tmp_path: Path) -> None:
    wanted = {"10/8": f"tcp {FOREIGN['10/8']}:8000", "public": f"tcp {PUBLIC}:8000"}
    assert place.probe("restricted", wanted) == {"10/8": False, "public": True}
    environ = {**place.host.environ, "COI_HOME": str(tmp_path)}

    def peers() -> set[str]:
        command = [str(COI), "network", "log", place.name("restricted"), "--format", "json"]
        done = subprocess.run(command, env=environ, capture_output=True, check=True)
        return {row["peer"] for row in json.loads(done.stdout) if row["port"] == 8000}

    wait_for(lambda: FOREIGN["10/8"] in peers(), what="the refusal is in the log")
    assert PUBLIC not in peers()


@pytest.mark.parametrize("mode", ["restricted", "allowlist", "open"])
def test_the_host_reaches_its_containers(place: Place, mode: str) -> None:
    """Directly on a bridge; behind OVN's address translation by the forward that coi names."""
    name = place.name(mode, 2)
    port = free_port()

    def route() -> dict[str, Any]:
        found: dict[str, Any] = place.host.coi("network", "route", name, "--format=json").ok().json
        return found

    found = route()
    assert found["reached"] is (place.backend == "bridge")
    address = found["address"]
    words = (found["command"] or "").split()
    if place.backend == "ovn":
        assert words[:4] == ["incus", "network", "forward", "create"]
        address = words[5]
        incus(*words[1:]).ok()
    try:
        wait_for(lambda: reached(address, 8000), what="a connection of the host")
        assert route()["reached"] is True
    finally:
        if place.backend == "ovn":
            incus("network", "forward", "delete", *words[4:6]).ok()
    # a proxy device needs no route
    publish = f"listen=tcp:127.0.0.1:{port}", "connect=tcp:127.0.0.1:8000"
    incus("config", "device", "add", name, "port", "proxy", *publish).ok()
    wait_for(lambda: reached("127.0.0.1", port), what="the published port")


def reached(address: str, port: int) -> bool:
    """Whether the host gets a connection."""
    try:
        socket.create_connection((address, port), 2).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("mode", ["restricted", "allowlist"])
def test_root_inside_gets_no_further(place: Place, mode: str) -> None:
    """A second address, another MAC, IPv6, a resolver and names of its own: nothing helps."""
    wanted = destinations(place, mode)
    refused = {name: words for name, words in wanted.items() if name in FOREIGN}
    refused |= {name: wanted[name] for name in ("sibling", "sibling, ULA", "ping 10/8")}
    place.root(mode, "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.accept_ra=2")
    place.root(mode, "ip addr add 10.99.0.77/24 dev eth0; ip addr add 198.51.102.1/32 dev eth0")
    nothing = dict.fromkeys(refused, False)
    assert place.probe(mode, refused) == nothing
    sourced = {n: f"{w} 10.99.0.77" for n, w in refused.items() if n in FOREIGN}
    assert place.probe(mode, sourced) == dict.fromkeys(sourced, False)
    place.root(mode, f"echo '{FOREIGN['10/8']} {UNLISTED}' >>/etc/hosts")
    own = {
        "own hosts": f"tcp {UNLISTED}:8000",
        "own resolver": f"ask {FOREIGN['10/8']} {LISTED}",
        "own resolver, the host's": f"ask {OWN} {LISTED}",
    }
    bridge = query("/1.0/networks/incusbr0")["config"]["ipv4.address"].split("/")[0]
    if place.backend == "bridge" or mode == "allowlist":
        own["own resolver, another bridge's"] = f"ask {bridge} {UNLISTED}"
    assert place.probe(mode, own) == dict.fromkeys(own, False)
    place.root(mode, "ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:01;"
               " ip link set eth0 up; sleep 0.2; true")  # fmt: skip
    place.root(mode, f"ip route add default via {place_router(place, mode)} || true")
    assert place.probe(mode, refused) == nothing


def place_router(place: Place, mode: str) -> str:
    """The router of a container whose interface has been down."""
    return (
        place.gateway("open")
        if place.backend == "ovn"
        else str(
            query(f"/1.0/networks/{_network(place, mode)}")["config"]["ipv4.address"].split("/")[0]
        )
    )


def _network(place: Place, mode: str) -> str:
    return str(query(f"/1.0/instances/{place.name(mode)}")["devices"]["eth0"]["network"])
