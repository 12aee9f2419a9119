"""What a session may use of the host: attacks from inside, each with the limit lifted too."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from dummy import background

from coi.testing.host import Host
from coi.testing.machine import User, incus, query

DEFAULTS = {
    "limits.cpu.allowance": "100%",
    "limits.memory": "75%",
    "limits.processes": "4096",
}
PROMPTLY = 10.0  # seconds for a process of the host, or a container, on a busy machine
# 600 sleepers; a shell that may start no more of them says so, and ends.
BOMB = "n=0; while [ $n -lt 600 ]; do sleep 60 & n=$((n+1)); done; echo all"
HOG = "head -c 512M /dev/zero | tail -c 600M >/dev/null && echo held"  # tail holds all of it
SHM = "head -c 512M /dev/zero >/dev/shm/x && echo held"


def limits(host: Host, name: str) -> dict[str, str]:
    """The limits among the keys of an instance."""
    made = query(f"/1.0/instances/{name}")["config"]
    return {key: value for key, value in made.items() if key.startswith("limits.")}


def available() -> int:
    """Bytes of memory that the host has left (proc(5), MemAvailable)."""
    text = Path("/proc/meminfo").read_text()
    return int(text.partition("MemAvailable:")[2].split()[0]) << 10


def test_every_way_to_make_a_container_sets_them(host: Host) -> None:
    name = f"{host.prefix}box"
    host.coi("container", "launch", host.image, name).ok()
    assert limits(host, name) == DEFAULTS
    incus("delete", "--force", name).ok()
    asked = ("--limit", "memory=512MiB", "--limit", "cpu=1", "--limit", "processes=none")
    host.coi("container", "launch", host.image, name, *asked).ok()
    assert limits(host, name) == {
        "limits.cpu": "1", "limits.cpu.allowance": "100%", "limits.memory": "512MiB",
    }  # fmt: skip
    background(host)
    assert limits(host, host.instance()) == DEFAULTS
    look = "nproc; sed -n 's/MemTotal: *//p' /proc/meminfo"
    done = host.coi("--limit", "memory=300MiB", "run", "--limit=cpu=1", look).ok()
    assert done.out == "1\n307200 kB\n"
    host.drop()


def test_a_persistent_container_takes_over_the_limits_of_now(host: Host) -> None:
    def start(*args: str) -> list[str]:
        return host.coi("-v", "shell", "--background", "--persistent", *args).ok().incus_calls

    name = host.instance()
    start("--limit", "memory=512MiB", "--limit", "cpu=1")
    incus("stop", "--force", name).ok()
    same = start("--limit", "memory=512MiB", "--limit", "cpu=1")
    assert limits(host, name)["limits.cpu"] == "1"
    incus("stop", "--force", name).ok()
    assert len(start()) == len(same), "no call more for other limits"
    assert limits(host, name) == DEFAULTS
    # running, it keeps them: what the command line asks for is not left aside without a word
    again = ("shell", "--background", "--persistent", "--slot", "1")
    refused = host.coi(*again, "--limit", "memory=1GiB")
    assert refused.code == 5
    assert "memory 75%, not 1GiB" in refused.err
    host.coi(*again, "--limit", "memory=75%").ok()
    told = host.coi(*again, environ={"COI_LIMITS_MEMORY": "1GiB"}).ok()
    assert f"{name} keeps the limits it was started with: memory 75%, not 1GiB" in told.err
    host.drop()


def test_a_fork_bomb_stays_inside(host: Host) -> None:
    background(host, "--limit", "processes=300")
    bomb = subprocess.Popen(
        ["incus", "exec", host.instance(), "-T", "--", "sh", "-c", BOMB],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, err = bomb.communicate(timeout=60)
        assert ("all" in out, "fork" in err.lower()) == (False, True), out + err
        began = time.monotonic()
        subprocess.run(["true"], check=True, timeout=PROMPTLY)
        assert host.coi("run", "echo fine").ok().out == "fine\n"
        assert time.monotonic() - began < 3 * PROMPTLY
        state = query(f"/1.0/instances/{host.instance()}/state")
        assert 200 < state["processes"] <= 300, "the bomb goes on, at its wall"
    finally:
        bomb.kill()
    host.coi("kill", "--force", host.instance()).ok()
    # the limit lifted, it would have had what it wanted
    assert host.coi("--limit", "processes=none", "run", BOMB).ok().out == "all\n"
    host.settled()


@pytest.mark.parametrize("attack", [HOG, SHM])
def test_a_memory_hog_dies_inside(host: Host, attack: str) -> None:
    background(host, "--limit", "memory=256MiB")
    host.inside("systemctl is-system-running --wait", ok=False)
    before = available()
    # The kernel gives up what it has read of programs first, and reads it again: seconds.
    hog = incus("exec", host.instance(), "-T", "--", "sh", "-c", attack, timeout=150)
    taken = before - available()
    assert (hog.code != 0, hog.out) == (True, ""), hog.err
    assert taken < 400 << 20, "what is charged to it stays below its limit, and others' noise"
    assert host.coi("run", "echo fine").ok().out == "fine\n"
    host.coi("kill", "--force", host.instance()).ok()
    assert host.coi("--limit", "memory=none", "run", attack).ok().out == "held\n"
    host.settled()


def test_what_a_dir_pool_cannot_do_is_refused(
    host: Host, as_root: None, monkeypatch: pytest.MonkeyPatch, user: User
) -> None:
    """Incus would take the limit, and leave it aside."""
    name = f"{host.prefix}dir"
    host.environ["COI_INCUS_PROJECT"] = name
    monkeypatch.setenv("INCUS_PROJECT", name)
    shared = [f"features.{what}=false" for what in ("images", "networks", "storage.volumes")]
    try:
        incus("storage", "create", name, "dir").ok()
        incus("project", "create", name, *(word for key in shared for word in ("-c", key))).ok()
        incus("profile", "device", "add", "default", "root", "disk", "path=/", f"pool={name}").ok()
        refused = host.coi("run", "--limit", "disk=5GiB", "true")
        assert refused.code == 5
        assert f"the pool '{name}' has no quotas" in refused.err
        incus("profile", "device", "remove", "default", "root").ok()
        missing = host.coi("run", "--limit", "disk=5GiB", "true")
        assert (missing.code, "has no root disk" in missing.err) == (1, True)
    finally:
        incus("project", "delete", name)
        incus("storage", "delete", name)
