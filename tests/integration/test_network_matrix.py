"""What a container reaches: mode x backend x destination, and the same without a policy.

Probes go to addresses of this machine alone (places.py).
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from netbox import OTHER, PUBLIC, Traffic, age, guard, port_53_guard
from piping import module_host
from places import (
    FOREIGN,
    HOSTS,
    LISTED,
    MODES,
    OWN,
    OWN6,
    UNLISTED,
    Answering,
    Place,
    answering,
)

from coi.network.host import view
from coi.testing.host import Host
from coi.testing.machine import COI, User, incus, query, wait_for


@pytest.fixture(scope="module")
def answers(testhosts: None) -> Iterator[Answering]:
    """What the host answers with."""
    with answering() as made:
        yield made


@pytest.fixture(scope="module", params=["bridge", "ovn"])
def place(
    request: pytest.FixtureRequest, daemon: None, image: str, user: User, answers: Answering
) -> Iterator[Place]:
    """Both backends, one after the other."""
    with pytest.MonkeyPatch.context() as patch, module_host(Host.make(user, image)) as host:
        closed = guard(True)
        if request.param == "ovn":
            project = request.getfixturevalue("ovn")
            patch.setenv("INCUS_PROJECT", project)
            host.environ["COI_INCUS_PROJECT"] = project
            closed = port_53_guard()
        made = Place(host, request.param, answers)
        subprocess.run(["pkill", "-HUP", "-x", "dnsmasq"], check=True)  # they read /etc/hosts
        with closed, ending(host):
            made.furnish()
            yield made


@contextmanager
def ending(host: Host) -> Iterator[None]:
    """Nothing is left of the host's containers and networks."""
    try:
        yield
    finally:
        host.sweep()
        age(host.coi_home / "network")  # who keeps them new looks at once, and ends


def destinations(place: Place, mode: str) -> dict[str, str]:
    """Everything that is tried, by name."""
    gateway, (port, low) = place.gateway(mode), place.answering.ports
    others = sorted(str(a) for a in view().addresses if not a.is_loopback)
    here = {f"host's {address}": f"tcp {address}:{port}" for address in others}
    siblings = {f"sibling, {to}": f"tcp {place.address(to, 2)}:8000" for to in MODES}
    if place.backend == "bridge":  # the router of OVN's network has no IPv6
        here["host, ULA"] = f"tcp [{place.host_v6(mode)}]:{port}"
        here["host, public IPv6"] = f"tcp [{OWN6}]:{port}"
    return {
        "listed": f"tcp {OTHER}:8000",
        "public": f"tcp {PUBLIC}:8000",
        **{name: f"tcp {address}:8000" for name, address in FOREIGN.items()},
        **here,
        "host's, UDP": f"udp {OWN}:{place.answering.udp} {mode}",
        "router": f"tcp {gateway}:{port}",
        "router, low port": f"tcp {gateway}:{low}",
        "router, UDP": f"udp {gateway}:{place.answering.udp} {mode}",
        "router, DNS": f"ask {gateway} {LISTED}",
        "router, DNS over TCP": f"ask {gateway} {LISTED} tcp",
        **siblings,
        "sibling, link-local": f"tcp [{place.link_local(mode)}%eth0]:8000",
        "sibling, ULA": f"tcp [{place.ula(mode, 2)}]:8000",
        "name that is listed": f"name {LISTED}",
        "name that is not": f"name {UNLISTED}",
        "ping public": f"ping {PUBLIC}",
        "ping 10/8": f"ping {FOREIGN['10/8']}",
    }


@pytest.mark.parametrize("mode", MODES)
def test_what_is_reached(place: Place, mode: str) -> None:
    with place.on_v6() if place.backend == "bridge" else nullcontext():
        wanted = destinations(place, mode)
        found = place.probe(mode, wanted)
    expected: dict[str, object] = dict.fromkeys(wanted, False)
    assert any(name.startswith("host's") for name in wanted)
    if mode == "open":  # the control: the same probes get through
        expected = dict.fromkeys(wanted, True)
        # what is fenced lets nobody in but the host
        expected |= {"sibling, restricted": False, "sibling, allowlist": False}
    resolver = {name: True for name in wanted if name.startswith("router, DNS")}
    expected |= resolver | {"name that is listed": OTHER, "name that is not": PUBLIC}
    expected |= {"listed": True}
    if mode == "restricted":
        expected |= {"public": True, "ping public": True}
    if mode == "allowlist":
        expected |= {"name that is not": False}
    if place.backend == "ovn":  # the router is OVN's own and answers nothing
        expected |= dict.fromkeys([name for name in wanted if name.startswith("router")], False)
    assert found == expected


def test_the_names_follow(place: Place) -> None:
    """A name moves: the rules and the name do, while the container runs, and nothing that is
    denied passes meanwhile."""
    before = HOSTS.read_text()
    moved = {"name": f"name {LISTED}", "new": f"tcp {PUBLIC}:8000", "old": f"tcp {OTHER}:8000"}
    assert place.probe("allowlist", moved) == {"name": OTHER, "new": False, "old": True}
    with Traffic(place.name("allowlist"), OTHER, FOREIGN["10/8"]) as traffic:
        try:
            HOSTS.write_text(before.replace(f"{OTHER} {LISTED}", f"{PUBLIC} {LISTED}"))
            place.becomes("allowlist", moved, {"name": PUBLIC, "new": True, "old": False})
        finally:
            HOSTS.write_text(before)
        place.becomes("allowlist", moved, {"name": OTHER, "new": False, "old": True})
        seen = traffic.end()
    assert seen.leaked == 0
    assert seen.refused > 10


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


@pytest.mark.parametrize("mode", MODES)
def test_root_inside_gets_no_further(place: Place, mode: str) -> None:
    """A second address, IPv6, a resolver and names of its own: nothing helps.

    And all of it does in mode open: these are attacks that work.
    """
    foreign = {name: f"tcp {address}:8000" for name, address in FOREIGN.items()}
    # another one in each run: OVN's router remembers whose it was
    last = 130 + int(place.host.prefix[1:7], 16) % 40 * 3 + MODES.index(mode)
    second = ".".join([*place.address(mode).split(".")[:3], str(last)])
    place.root(mode, f"ip addr add {second}/32 dev eth0;"
               " sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.accept_ra=2;"
               f" echo '{FOREIGN['10/8']} own.coi-test' >>/etc/hosts")  # fmt: skip
    bridge = str(query("/1.0/networks/incusbr0")["config"]["ipv4.address"]).split("/")[0]
    udp = f"udp {OWN}:{place.answering.udp} {place.backend}-{mode}-53 53"
    tried = {
        **{f"{name}, second address": f"{words} {second}" for name, words in foreign.items()},
        "raw ICMP": f"ping {FOREIGN['10/8']}",
        "IPv6": f"tcp [{place.ula(mode, 2)}]:8000",
        "own hosts": "tcp own.coi-test:8000",
        "own resolver": f"ask {FOREIGN['10/8']} {UNLISTED}",
        "own resolver, the host's": f"ask {OWN} {UNLISTED}",
        "own resolver, another bridge's": f"ask {bridge} {UNLISTED}",
        "own resolver, a public one": f"ask {PUBLIC} {UNLISTED}",
        "from port 53": udp,
    }
    try:
        found = place.probe(mode, tried)
    finally:
        place.root(mode, f"ip addr del {second}/32 dev eth0; sed -i /own.coi-test/d /etc/hosts")
    expected = dict.fromkeys(tried, mode == "open")
    if mode == "restricted":
        expected["own resolver, a public one"] = True  # it may reach every public address
    if place.backend == "ovn":  # closed for all of the network: test_network_ovn has the control
        expected["from port 53"] = False
    assert found == expected
    assert (udp.split()[2] in place.answering.heard) is expected["from port 53"], "nor does it come"


@pytest.mark.parametrize("mode", MODES)
def test_another_mac_gets_no_further(place: Place, mode: str) -> None:
    """What arrives counts: OVN's router sends answers to the MAC that it has given."""
    mac = place.root(mode, "cat /sys/class/net/eth0/address").strip()
    gateway, address = place.gateway(mode), place.address(mode)
    foreign = {name: f"tcp {to}:8000" for name, to in FOREIGN.items()}
    word = f"{place.backend}-{mode}-mac"
    tried = {**foreign, "listed": f"tcp {OTHER}:8000"}
    arrives = {"host": f"udp {OWN}:{place.answering.udp} {word}"}

    def become(wanted: str) -> None:
        place.root(
            mode,
            f"""set -e
            ip link set eth0 down; ip link set eth0 address {wanted}; ip link set eth0 up
            ip addr replace {address}/24 dev eth0; ip route replace default via {gateway}""",
        )

    become("02:00:00:00:00:01")
    try:
        found = place.probe(mode, {**tried, **arrives})
    finally:
        become(mac)
    through = mode == "open" and place.backend == "bridge"
    if place.backend == "bridge":
        assert found == dict.fromkeys(found, through)
    assert (word in place.answering.heard) is (mode == "open")
    # and it is the filter that refused: with its own it is as it was
    wait_for(lambda: place.probe(mode, {"listed": tried["listed"]})["listed"], what="its own MAC")
    assert place.probe(mode, foreign) == dict.fromkeys(foreign, mode == "open")
