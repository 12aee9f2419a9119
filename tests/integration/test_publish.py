"""``--publish``: a port of the host leads inside, in every mode, and is free afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from dummy import background
from piping import module_host

from coi.network.host import view
from coi.testing.host import Host
from coi.testing.machine import User, incus, wait_for

SERVER = (
    "python3 -c \"import socket; s = socket.create_server(('127.0.0.1', 8000))\n"
    "while True: c, a = s.accept(); c.sendall(b'CODE-PORT'); c.close()\" >/dev/null 2>&1 &"
)


@pytest.fixture(scope="module")
def world(daemon: None, image: str, user: User) -> Iterator[Host]:
    with module_host(Host.make(user, image)) as host:
        yield host
        host.sweep()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def said(port: int, address: str = "127.0.0.1") -> bytes:
    try:
        with socket.create_connection((address, port), 4) as stream:
            return stream.recv(100)
    except OSError:
        return b""


@pytest.mark.parametrize("mode", ["restricted", "open"])
def test_it_leads_inside_and_is_on_the_loopback(world: Host, mode: str) -> None:
    port = free_port()
    background(world, f"--network={mode}", "--publish", f"{port}:8000")
    world.inside(SERVER)
    wait_for(lambda: said(port) == b"CODE-PORT")
    others = [address for address in view().addresses if not address.is_loopback]
    assert others
    assert not any(said(port, str(address)) for address in others)
    world.coi("kill", world.instance()).ok()
    world.settled()
    assert said(port) == b""


def test_a_port_that_is_taken_leaves_nothing(world: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = world.coi("--publish", f"{port}:8000", "run", "true")
        assert failed.code == 1
        assert "proxy device" in failed.err
        assert "ss -tulpn" in failed.err
    world.settled()
    world.coi("--publish", f"{port}:8000", "run", "true").ok()
    world.settled()


def test_a_container_that_is_started_again_has_what_is_asked_for_now(world: Host) -> None:
    first, second = free_port(), free_port()
    configured = {"COI_PORTS_PUBLISH": f"{first}:8000"}
    try:
        world.coi("--persistent", "shell", "--background", environ=configured).ok()
        world.inside(SERVER)
        wait_for(lambda: said(first) == b"CODE-PORT")
        incus("stop", "--force", world.instance()).ok()
        background(world, "--persistent", "--publish", f"{second}:8000")
        world.inside(SERVER)
        wait_for(lambda: said(second) == b"CODE-PORT")
        assert said(first) == b""
    finally:
        world.drop()
