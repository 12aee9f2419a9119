"""An allowlist whose names move: the process that follows them, and traffic meanwhile."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from netbox import BLOCKED, OTHER, PUBLIC, Traffic, World, age, kept_answers
from piping import module_host

from coi.network import upkeep
from coi.network.duty import duty_of
from coi.network.policy import Policy
from coi.testing.host import Host
from coi.testing.machine import Result, User, incus, wait_for

NAME = "moves.coi-test"
HOSTS = Path("/etc/hosts")

Resolves = Callable[[Mapping[str, str]], None]

STAYS = "stays.coi-test"


@pytest.mark.parametrize("backend", ["bridge", "ovn"])
def test_fifty_refreshes_under_traffic(
    request: pytest.FixtureRequest, box: World, testhosts: None, backend: str
) -> None:
    """Nothing that is denied passes at any moment, and what is allowed goes on.

    A connection that stands to what is revoked goes on standing on a bridge, whose firewall
    lets through what stands; OVN cuts it.
    """
    profile = "default"
    if backend == "ovn":
        request.getfixturevalue("ovn")
        profile = "ovntest"
    policy = Policy("allowlist", domains=("moves.example", "pub.example"))
    stays = {"pub.example": (IPv4Address(PUBLIC),)}
    answers = {**stays, "moves.example": (IPv4Address(OTHER),)}
    fence = box.fence(policy, answers=answers, backend=backend, profile=profile)
    made = fence.prepare()
    name = box.launch(1, dict(made.device), profile)
    with Traffic(name, PUBLIC, OTHER, hold=True) as traffic:
        made = fence.refresh(made, stays)
        assert traffic.revoked() == {"bridge": "kept", "ovn": "cut"}[backend]
        for number in range(50):
            moved = IPv4Address(f"203.0.113.{number + 1}")
            made = fence.refresh(made, {**stays, "moves.example": (moved,)})
        seen = traffic.end()
    assert seen.leaked == 0
    assert seen.refused > 50
    assert seen.passed > 200
    assert seen.lost / seen.passed < 0.005, seen
    assert seen.held == "kept"
    # the last answers stand, and no earlier one does
    assert box.destinations(made.acl) - {str(made.gateway)} == {PUBLIC, "203.0.113.50"}


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
def resolves(as_root: None) -> Iterator[Resolves]:
    """Sets what the host resolves names to; /etc/hosts is as it was afterwards."""
    before = HOSTS.read_text()

    def to(answers: Mapping[str, str]) -> None:
        lines = "".join(f"{address} {name}\n" for name, address in answers.items())
        HOSTS.write_text(f"{before.rstrip()}\n{lines}")

    yield to
    HOSTS.write_text(before)


@pytest.fixture
def host(daemon: None, image: str, user: User, testhosts: None) -> Iterator[Host]:
    with module_host(Host.make(user, image)) as made:
        yield made
        made.sweep()


def test_it_outlives_coi_is_taken_over_and_ends(host: Host, resolves: Resolves) -> None:
    environ = {
        "COI_NETWORK_ALLOWED_DOMAINS": f"{NAME},{STAYS}",
        "COI_NETWORK_REFRESH_INTERVAL_MINUTES": "1",
    }
    resolves({NAME: PUBLIC, STAYS: PUBLIC})
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
    (first,) = host.refreshers()
    assert os.getsid(first) == first, "a closed terminal is nothing to it"
    environment = Path(f"/proc/{first}/environ").read_bytes()
    assert b"COI_" not in environment
    directory = host.coi_home / "network"

    with Traffic(name, PUBLIC, BLOCKED[0]) as traffic:
        resolves({NAME: OTHER, STAYS: PUBLIC})
        age(directory)
        wait_for(lambda: gets(OTHER), timeout=30)
        assert not gets(PUBLIC)
        seen = traffic.end()
    assert (seen.leaked, seen.refused > 0, seen.passed > 50) == (0, True, True), seen
    assert seen.lost / seen.passed < 0.005, seen

    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not host.refreshers())

    def refreshing() -> object:
        rows = json.loads(host.coi("network", "status", "--format", "json").ok().out)
        return [row["refreshing"] for row in rows]

    assert refreshing() == [False]
    host.coi("list").ok()
    wait_for(lambda: refreshing() == [True])
    (second,) = host.refreshers()
    threads = [threading.Thread(target=lambda: host.coi("list").ok()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: host.refreshers() == [second])

    incus("delete", "--force", name).ok()
    age(directory)
    wait_for(lambda: not host.refreshers(), timeout=30)
    assert not list(directory.glob("refresh-*.json"))


def test_zero_minutes_is_never_again(host: Host, resolves: Resolves) -> None:
    """A later start asks nobody: what was found at first goes on for good."""
    directory = host.coi_home / "network"

    def start(minutes: int, *words: str) -> Result:
        environ = {
            "COI_NETWORK_ALLOWED_DOMAINS": NAME,
            "COI_NETWORK_REFRESH_INTERVAL_MINUTES": str(minutes),
        }
        return host.coi("--network=allowlist", *words, environ=environ).ok()

    look = ("run", "python3", "-c", LOOK)
    resolves({NAME: PUBLIC})
    start(0, "container", "launch", host.image, f"{host.prefix}stays")
    age(directory)
    resolves({NAME: OTHER})
    assert start(0, *look).out.split() == [PUBLIC, "open", "closed"]
    host.coi("list").ok()
    assert len(host.refreshers()) == 1, "for the host's addresses; names are none of its business"
    (kept,) = kept_answers(directory)
    assert OTHER not in kept.read_text()
    # the control: the same start asks where it may
    assert start(1, *look).out.split() == [OTHER, "closed", "open"]
    assert OTHER in kept.read_text()
    host.drop()
    age(directory)


# The address of the name, and which of the two is reached.
LOOK = f"""
import socket
def tried(host):
    try: socket.create_connection((host, 8000), 4).close(); return "open"
    except OSError: return "closed"
print(socket.gethostbyname("{NAME}"), tried("{PUBLIC}"), tried("{OTHER}"))
"""
