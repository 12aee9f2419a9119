"""An allowlist whose names move: the process that follows them, and traffic meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from harness import Host, User, incus, wait_for
from netbox import OTHER, PUBLIC, World, age, refreshers
from piping import module_host

from coi.network import upkeep
from coi.network.duty import duty_of
from coi.network.policy import Policy

NAME = "moves.coi-test"
HOSTS = Path("/etc/hosts")

# Connects to two addresses in turns until its input ends; then four numbers.
TRAFFIC = r"""
import socket, sys, threading
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
allowed, denied, got = sys.argv[1], sys.argv[2], [0, 0, 0, 0]
def tries(host, at, wait):
    while not over.is_set():
        try: socket.create_connection((host, 8000), wait).close(); got[at] += 1
        except OSError: got[at + 1] += 1
        over.wait(0.005)
both = [threading.Thread(target=tries, args=a) for a in ((allowed, 0, 2), (denied, 2, 0.3))]
[t.start() for t in both]; [t.join() for t in both]
print(*got, flush=True)
over.wait(0.1)
"""


def test_fifty_refreshes_under_traffic(box: World, testhosts: None) -> None:
    """Nothing that is denied passes at any moment, and what is allowed goes on."""
    policy = Policy("allowlist", domains=("moves.example", "pub.example"))
    stays = {"pub.example": (IPv4Address(PUBLIC),)}
    fence = box.fence(policy, answers=stays)
    made = fence.prepare()
    name = box.launch(1, dict(made.device))
    command = ["incus", "exec", name, "-T", "--", "python3", "-c", TRAFFIC, PUBLIC, OTHER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as traffic:
        for number in range(50):
            moved = IPv4Address(f"203.0.113.{number + 1}")
            made = fence.refresh(made, {**stays, "moves.example": (moved,)})
        out, _ = traffic.communicate(timeout=30)
    passed, lost, leaked, refused = map(int, out.split())
    assert leaked == 0
    assert refused > 50
    assert passed > 1000
    assert lost / passed < 0.005, f"{lost} of {passed + lost}"
    # the last answers stand, and no earlier one does
    assert box.destinations(made.acl) == {PUBLIC, "203.0.113.50"}


def test_answers_that_fail_leave_what_stands(box: World, tmp_path: Path) -> None:
    """The process itself, in this one: no answer, a refused answer, a lost daemon."""
    policy = Policy("allowlist", domains=("moves.example",))
    log = tmp_path / "log" / "network.log"
    fence = replace(box.fence(policy, answers={}), minutes=1, log=log)
    made = fence.prepare()
    directory = box.scope.directory
    assert box.destinations(made.acl) == set()
    said: dict[str, object] = {"answer": [PUBLIC]}

    def lookup(_name: str) -> list[str]:
        answer = said["answer"]
        if isinstance(answer, OSError):
            raise answer
        assert isinstance(answer, list)
        return answer

    duty = duty_of(fence, made)
    assert upkeep.mend(directory, duty, lookup)
    assert box.destinations(made.acl) == {PUBLIC}
    age(directory)
    for bad in (OSError("no answer"), ["10.0.0.1"], ["169.254.169.254"], []):
        said["answer"] = bad
        assert not upkeep.mend(directory, duty, lookup), "it is due again"
        assert box.destinations(made.acl) == {PUBLIC}
    said["answer"] = [OTHER]
    gone = replace(duty, project="no-such-project")
    assert not upkeep.mend(directory, gone, lookup)
    assert box.destinations(made.acl) == {PUBLIC}
    assert upkeep.mend(directory, duty, lookup), "what was not done is done the next time"
    assert box.destinations(made.acl) == {OTHER}
    text = log.read_text()
    for word in ("does not resolve", "does not let through", "not refreshed", OTHER):
        assert word in text


@pytest.fixture
def resolves(as_root: None) -> Iterator[object]:
    """Sets what the host resolves :data:`NAME` to; /etc/hosts is as it was afterwards."""
    before = HOSTS.read_text()

    def to(address: str) -> None:
        HOSTS.write_text(f"{before.rstrip()}\n{address} {NAME}\n")

    yield to
    HOSTS.write_text(before)


@pytest.fixture
def host(daemon: None, image: str, user: User, testhosts: None) -> Iterator[Host]:
    with module_host(Host.make(user, image)) as made:
        yield made
        made.coi("clean", "--force").ok()


def test_it_outlives_coi_is_taken_over_and_ends(host: Host, resolves: object) -> None:
    assert callable(resolves)
    environ = {
        "COI_NETWORK_ALLOWED_DOMAINS": NAME,
        "COI_NETWORK_REFRESH_INTERVAL_MINUTES": "1",
    }
    resolves(PUBLIC)
    name = f"{host.prefix}moves"
    flags = ("--network=allowlist", "container", "launch", host.image, name)
    host.coi(*flags, environ=environ).ok()

    def gets(address: str) -> bool:
        script = (
            "import socket, sys\n"
            f"peer = socket.create_connection(('{NAME}', 8000), 4).getpeername()\n"
            f"sys.exit(peer[0] != '{address}')"
        )
        return incus("exec", name, "--", "python3", "-c", script).code == 0

    wait_for(lambda: gets(PUBLIC))
    (first,) = refreshers(host.coi_home)
    assert os.getsid(first) == first, "a closed terminal is nothing to it"
    environment = Path(f"/proc/{first}/environ").read_bytes()
    assert b"COI_" not in environment
    directory = host.coi_home / "network"

    resolves(OTHER)
    age(directory)
    wait_for(lambda: gets(OTHER), timeout=30)
    assert not gets(PUBLIC)

    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not refreshers(host.coi_home))

    def refreshing() -> object:
        rows = json.loads(host.coi("network", "status", "--format", "json").ok().out)
        return [row["refreshing"] for row in rows]

    assert refreshing() == [False]
    host.coi("list").ok()
    wait_for(lambda: refreshing() == [True])
    (second,) = refreshers(host.coi_home)
    threads = [threading.Thread(target=lambda: host.coi("list").ok()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: refreshers(host.coi_home) == [second])

    incus("delete", "--force", name).ok()
    age(directory)
    wait_for(lambda: not refreshers(host.coi_home), timeout=30)
    assert not list(directory.glob("refresh-*.json"))
