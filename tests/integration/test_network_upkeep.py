"""What is kept right while a container runs, and once it is started again by hand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from netbox import ALLOWLIST, ANSWERS, OTHER, PUBLIC, RESTRICTED, World, guard
from piping import module_host

from coi.incus.instances import Instances
from coi.network import answers, upkeep
from coi.network.answers import Answer
from coi.network.choice import NIC
from coi.network.duty import duty_of, keep
from coi.network.refresher import DONE, OVER
from coi.network.sweep import sweep
from coi.testing.host import Host, refreshers
from coi.testing.machine import User, incus, wait_for

GAINED = "198.51.103.9"  # looks like a public address; on lo, where nothing else is made for it
CALLS = '#!/bin/sh\necho "$*" >>%s\nexec /usr/bin/incus "$@"\n'


@pytest.fixture
def host(daemon: None, image: str, user: User, testhosts: None) -> Iterator[Host]:
    with module_host(Host.make(user, image)) as made, guard(True):
        yield made
        made.sweep()


@pytest.fixture
def gains(testhosts: None) -> Iterator[int]:
    """A port that the host answers on at all of its addresses; what it gains is lost again."""
    server = socket.create_server(("0.0.0.0", 0), backlog=100)  # noqa: S104 - for the probes

    def serve() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    subprocess.run(["ip", "addr", "del", f"{GAINED}/32", "dev", "lo"], check=False)


def launch(host: Host, mode: str, **environ: str) -> str:
    name = f"{host.prefix}kept"
    flags = (f"--network={mode}", "container", "launch", host.image, name)
    host.coi(*flags, environ=environ).ok()
    return name


def reaches(name: str, address: str, port: int = 8000) -> bool:
    script = f"import socket; socket.create_connection(('{address}', {port}), 4)"
    return incus("exec", name, "--", "python3", "-c", script).code == 0


def test_an_address_that_the_host_gains_is_closed(host: Host, gains: int) -> None:
    """While a restricted container runs; no call of Incus is made until then."""
    calls = host.directory("marks") / "calls"
    host.write("bin/incus", CALLS % calls, 0o755)
    name = launch(host, "restricted", PATH=f"{host.root / 'bin'}:{host.environ['PATH']}")
    (process,) = refreshers(host.coi_home)
    calls.write_text("")
    os.chown(calls, host.user.uid, host.user.gid)
    assert reaches(name, PUBLIC)

    os.kill(process, signal.SIGSTOP)
    subprocess.run(["ip", "addr", "add", f"{GAINED}/32", "dev", "lo"], check=True)
    assert reaches(name, GAINED, gains), "the control: where nobody sees to it"
    assert calls.read_text() == ""
    os.kill(process, signal.SIGCONT)
    wait_for(lambda: not reaches(name, GAINED, gains), what="it is closed", timeout=60)
    assert reaches(name, PUBLIC)
    made = [line for line in calls.read_text().splitlines() if "-X PUT" in line]
    assert len(made) == 1, "the rules, once"


def test_it_is_taken_up_again_when_started_by_hand(host: Host) -> None:
    environ = {
        "COI_NETWORK_ALLOWED_DOMAINS": "localhost.coi-test",  # which does not resolve
        "COI_NETWORK_REFRESH_INTERVAL_MINUTES": "1",
    }
    name = launch(host, "allowlist", **environ)
    directory = host.coi_home / "network"
    wait_for(lambda: len(refreshers(host.coi_home)) == 1)

    def ends() -> None:
        incus("stop", "--force", name).ok()
        for process in refreshers(host.coi_home):  # which ends by itself within a minute
            os.kill(process, signal.SIGKILL)
        wait_for(lambda: not refreshers(host.coi_home))

    for again in (
        lambda: host.coi("container", "start", name).ok(),
        lambda: (incus("start", name).ok(), host.coi("list").ok()),
        lambda: (incus("start", name).ok(), host.coi("container", "exec", name, "true").ok()),
        lambda: (incus("start", name).ok(), host.coi("tmux", "list").ok()),
    ):
        ends()
        assert list(directory.glob("refresh-*.json")), "there is something to do still"
        host.coi("list").ok()
        assert not refreshers(host.coi_home), "for one that runs, no other"
        again()
        wait_for(lambda: len(refreshers(host.coi_home)) == 1)
    host.sweep()
    assert not list(directory.glob("refresh-*.json"))
    assert not list(directory.glob("attached-*.json"))


def test_a_policy_that_is_gone_is_not_started_into(host: Host) -> None:
    name = launch(host, "restricted")
    incus("stop", "--force", name).ok()
    for path in (host.coi_home / "network").glob("refresh-*.json"):
        path.unlink()
    done = host.coi("container", "start", name)
    assert (done.code, "nothing is known of it here" in done.err) == (5, True), done
    assert host.instances() == {name: "Stopped"}


def test_the_file_stays_while_an_instance_could_be_started(box: World) -> None:
    fence = box.fence(RESTRICTED, backend="auto")
    made = fence.prepare()
    path = box.scope.directory
    keep(fence, made)
    (file,) = path.glob("refresh-*.json")
    duty = duty_of(fence, made)
    assert upkeep.look(file, duty) == OVER
    assert not file.exists(), "nothing could"
    keep(fence, made)
    name = box.launch(1, dict(made.device))
    acl = f"user.coi.network-acl={made.acl}"
    incus("config", "set", name, acl).ok()
    assert upkeep.look(file, duty) == DONE
    incus("stop", "--force", name).ok()
    assert upkeep.look(file, duty) == OVER
    assert file.exists()
    with fence.using(made):
        assert upkeep.look(file, duty) == DONE, "somebody is about to start one"
    incus("delete", "--force", name).ok()
    sweep(box.client, box.scope)
    assert not file.exists()


def test_a_profile_that_moves_is_seen(box: World) -> None:
    """Under `auto` the backend is that of the network which the profile is on by now."""
    profile = f"{box.prefix}p"
    nic = ("name=eth0", "network=incusbr0")
    incus("profile", "create", profile).ok()
    try:
        incus("profile", "device", "add", profile, NIC, "nic", *nic).ok()
        fence = box.fence(RESTRICTED, backend="auto", profile=profile)
        made = fence.prepare()
        keep(fence, made)
        (file,) = box.scope.directory.glob("refresh-*.json")
        body = ("user.coi.network-acl=" + made.acl,)
        name = box.launch(1, dict(made.device))
        incus("config", "set", name, *body).ok()
        duty = duty_of(fence, made)
        assert upkeep.look(file, duty) == DONE
        assert fence.recorded() == made
        incus("profile", "device", "set", profile, NIC, "limits.max=1Gbit").ok()
        assert upkeep.look(file, duty) == DONE
        assert fence.recorded() is None, "the next start looks"
        assert fence.held(made.acl) == made, "and what runs is kept right"
        for process in refreshers(box.scope.directory.parent):
            os.kill(process, signal.SIGKILL)
    finally:
        box.close()
        incus("profile", "delete", profile).ok()


def test_no_sweep_comes_between_making_and_using(box: World) -> None:
    fence = box.fence(RESTRICTED)
    with fence.prepared() as made:
        assert sweep(box.client, box.scope) == []
        fence.verify(made)
    assert sweep(box.client, box.scope) == [made.network]  # the control


def test_what_is_made_has_the_answers_of_its_moment(box: World) -> None:
    """Which a refresh may have renewed since the start looked."""
    fence = box.fence()
    assert fence.answers == ANSWERS
    renewed = {"pub.example": Answer((IPv4Address(OTHER),), "2026-01-01T00:00:00+00:00")}
    answers.save(box.scope.directory, ALLOWLIST.hash, renewed)
    assert box.destinations(fence.prepare().acl) == {OTHER}


# In place of mv(1), which the script of /etc/hosts ends with: what runs inside says this.
FAKE = r"""#!/bin/sh
printf ']0;title[2J
2026-01-01T00:00:00+0000 coi-0: forged
secondâ®
' >&2
exit 1
"""


def test_what_a_container_says_is_one_harmless_line(box: World, tmp_path: Path) -> None:
    made = box.fence(RESTRICTED).prepare()
    name = box.launch(1, dict(made.device))
    (tmp_path / "mv").write_text(FAKE)
    incus("file", "push", str(tmp_path / "mv"), f"{name}/usr/local/bin/mv", "--mode", "755").ok()
    lines = upkeep._write_hosts(Instances(box.client), name, ("198.51.100.10 a.example",))
    assert "forged" in lines[0], "it has been asked"
    log = tmp_path / "log" / "network.log"
    upkeep._write(replace(duty_of(box.fence(RESTRICTED), made), log=str(log)), lines)
    text = log.read_text()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert "\\x1b]0;title\\x07" in text
