"""coi's own commands behind a network policy: what passes, what does not, and by which rule."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dummy import background
from piping import module_host

from coi.cli.shapes import JSON_KEYS, keys_of
from coi.testing.host import Host
from coi.testing.machine import COI, User, incus, query

PUBLIC, OTHER = "198.51.100.10", "198.51.101.10"
PRIVATE = ("10.99.0.1", "172.31.99.1", "192.168.99.1", "169.254.169.254")
TESTHOSTS = Path(__file__).parents[2] / "fixtures" / "testhosts"

# One word for each host:port. A refusal is an ICMP that the kernel limits: 4 s are enough.
PROBE = (
    "import socket,sys\n"
    "for word in sys.argv[1:]:\n"
    "    host, port = word.rsplit(':', 1)\n"
    "    try: socket.create_connection((host, int(port)), 4).close(); print('open')\n"
    "    except OSError: print('closed')\n"
)


@pytest.fixture(scope="module")
def world(daemon: None, image: str, user: User) -> Iterator[Host]:
    """One world, so that a policy's bridge is made once."""
    if os.getuid() != 0:
        pytest.skip("only root can make hosts to probe")
    subprocess.run([TESTHOSTS, "up"], check=True, stdout=subprocess.DEVNULL)
    with module_host(Host.make(user, image)) as host:
        yield host
        host.sweep()
        assert left(host) == [], "coi clean has swept what nothing uses"


def left(host: Host) -> list[str]:
    """Networks and ACLs of this world."""
    rows = query("/1.0/networks?recursion=1") + query("/1.0/network-acls?recursion=1")
    mine = [row for row in rows if (row["config"] or {}).get("user.coi.prefix") == host.prefix]
    return sorted(row["name"] for row in mine)


def probe(host: Host, mode: str, *words: str, **environ: str) -> list[str]:
    """What a run sees of some hosts."""
    done = host.coi(f"--network={mode}", "run", "python3", "-c", PROBE, *words, environ=environ)
    return done.ok().out.split()


def test_what_a_mode_lets_through(world: Host) -> None:
    words = [f"{host}:8000" for host in (PUBLIC, *PRIVATE)]
    assert probe(world, "restricted", *words) == ["open"] + ["closed"] * 4
    listed = {"COI_NETWORK_ALLOWED_DOMAINS": OTHER}
    both = (f"{PUBLIC}:8000", f"{OTHER}:8000", f"{PRIVATE[0]}:8000")
    assert probe(world, "allowlist", *both, **listed) == ["closed", "open", "closed"]
    empty = {"COI_NETWORK_ALLOWED_DOMAINS": ""}
    assert probe(world, "allowlist", *both, **empty) == ["closed"] * 3
    # the same probes get through where nothing is filtered
    assert probe(world, "open", *words) == ["open"] * 5


def test_a_session_and_what_is_said_of_it(world: Host) -> None:
    background(world, "--network=restricted")
    name = world.instance()
    (row,) = world.listed()
    assert (row["network"], row["network_backend"]) == ("restricted", "bridge")
    mine = [
        item
        for item in world.coi("network", "status", "--format", "json").ok().json
        if name in item["used_by"]
    ]
    assert tuple(mine[0]) == JSON_KEYS["network status"]["[]"]
    assert [(item["mode"], item["backend"]) for item in mine] == [("restricted", "bridge")]
    assert mine[0]["acl"] in world.coi("network", "status").ok().out
    for target, allowed in (
        (f"{PUBLIC}:443", True), (f"{PRIVATE[0]}:22", False), ("[fe80::1]:22", False),
        (PRIVATE[3], False),
    ):  # fmt: skip
        found = world.coi("network", "explain", name, target, "--format", "json").ok().json
        assert found["allowed"] is allowed, target
        assert tuple(found) == JSON_KEYS["network explain"][""]
        assert found["rule"]
    text = world.coi("network", "explain", name, f"{PRIVATE[0]}:22").ok().out
    assert text.startswith(f"{PRIVATE[0]}:22: refused (default reject of coi-")
    assert world.coi("network", "explain", name, "a:b:c:d").code in (2, 3)
    assert world.coi("network", "explain", name, "host:99999").code == 2
    # root inside gets no further than anybody else, with an address of its own choice either
    script = (
        "ip addr add 10.99.0.77/24 dev eth0; ip link set eth0 address 02:00:00:00:00:01;"
        f" for h in {PUBLIC} {' '.join(PRIVATE)}; do"
        " curl -s -m 4 -o /dev/null http://$h:8000/ && echo open $h; done; true"
    )
    assert world.inside(script) == ""
    world.coi("kill", "--force", name).ok()
    world.settled()


def test_a_network_that_has_gone_is_made_anew(world: Host) -> None:
    """What is recorded is used without a look, and looked at when it fails."""
    assert probe(world, "restricted", f"{PUBLIC}:8000") == ["open"]
    for name in left(world):
        incus("network", "delete", name)
        incus("network", "acl", "delete", name)
    assert probe(world, "restricted", f"{PUBLIC}:8000", f"{PRIVATE[0]}:8000") == ["open", "closed"]


def test_rules_that_somebody_changed_are_mended(world: Host) -> None:
    assert probe(world, "restricted", f"{PUBLIC}:8000") == ["open"]
    for name in left(world):
        incus("network", "acl", "rule", "add", name, "egress", "action=allow")
    assert probe(world, "restricted", f"{PRIVATE[0]}:8000") == ["closed"]


def test_a_foreign_network_of_the_name_is_left_alone(world: Host) -> None:
    assert probe(world, "restricted", f"{PUBLIC}:8000") == ["open"]
    standing = world.coi("network", "status", "--format", "json").ok().json
    (name,) = [item["acl"] for item in standing if item["mode"] == "restricted"]
    world.settled()
    world.coi("clean", "--force").ok()
    assert left(world) == []
    incus("network", "acl", "create", name).ok()
    try:
        done = world.coi("--network=restricted", "run", "true")
        assert done.code == 5, done.err
        assert f"{name} is not coi's" in done.err
        world.settled()
    finally:
        incus("network", "acl", "delete", name).ok()


def test_container_launch_is_behind_it_too(world: Host) -> None:
    name = f"{world.prefix}box"
    world.coi("--network=restricted", "container", "launch", world.image, name).ok()
    row = query(f"/1.0/instances/{name}")
    assert row["config"]["user.coi.network"] == "restricted"
    assert row["devices"]["eth0"]["network"].startswith("coi-")
    world.coi("container", "delete", "--force", name).ok()


def test_what_was_refused_is_told(world: Host, tmp_path: Path) -> None:
    name = f"{world.prefix}logged"
    world.coi("--network=restricted", "container", "launch", world.image, name).ok()
    silent = world.coi("network", "log", name)
    assert (silent.code, "logging.enabled" in silent.err) == (1, True)
    world.coi("container", "delete", "--force", name).ok()

    logged = {"COI_NETWORK_LOGGING_ENABLED": "true"}
    flags = ("--network=restricted", "container", "launch", world.image, name)
    world.coi(*flags, environ=logged).ok()
    incus("exec", name, "--", "python3", "-c", PROBE, f"{PRIVATE[0]}:8000", f"{PUBLIC}:8000").ok()
    denied = world.coi("network", "log", name)
    assert (denied.code, "dmesg" in denied.err) == (4, True), "the kernel's log is root's"
    found: list[dict[str, object]] = json.loads(
        as_root(world, tmp_path, "network", "log", name, "--format", "json")
    )
    assert {(row["way"], row["peer"], row["port"]) for row in found} == {
        ("egress", PRIVATE[0], 8000)
    }
    assert keys_of(found) == JSON_KEYS["network log"]
    assert PRIVATE[0] in as_root(world, tmp_path, "network", "log", name)
    world.coi("container", "delete", "--force", name).ok()


def as_root(world: Host, home: Path, *args: str) -> str:
    """What coi says to root of this world."""
    environ = {**os.environ, "COI_CONTAINER_PREFIX": world.prefix, "COI_HOME": str(home)}
    done = subprocess.run([COI, *args], env=environ, capture_output=True, check=True, text=True)
    return done.stdout
