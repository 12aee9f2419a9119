"""Often, and many at once: nothing is left over, nothing runs out."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dummy import PROMPT

from coi.testing.host import Host
from coi.testing.machine import incus, query, wait_for

AT_ONCE = 20
RUNNING = 50
PART = 10  # of them, the first and the last, whose costs are compared
CYCLES = 200


def _files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def _of_incus() -> dict[str, set[str]]:
    """What the daemon has made: of its own, of the kernel's, on disk."""
    kinds = ("instances", "networks", "network-acls", "images", "profiles", "certificates")
    found = {kind: {str(row) for row in query(f"/1.0/{kind}") or []} for kind in kinds}
    found["operations"] = {
        path for paths in (query("/1.0/operations") or {}).values() for path in paths
    }
    found["links"] = {path.name for path in Path("/sys/class/net").iterdir()}
    found["cgroups"] = {path.name for path in Path("/sys/fs/cgroup").glob("lxc.*")}
    found["mounts"] = {
        line.split()[4] for line in Path("/proc/1/mountinfo").read_text().splitlines()
    }
    found["loops"] = {str(path) for path in Path("/sys/block").glob("loop*/loop/backing_file")}
    found["tmp"] = {entry.name for entry in os.scandir("/tmp")}
    return found


def _open_files(pattern: str) -> int:
    """File descriptors of the processes with that name."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            if re.fullmatch(pattern, entry.read_text().strip()):
                count += len(list((entry.parent / "fd").iterdir()))
        except OSError:
            continue
    return count


def _ours(found: dict[str, set[str]], prefix: str) -> dict[str, set[str]]:
    """What has the test's prefix in its name, where others work beside it."""
    return {kind: {name for name in names if prefix in name} for kind, names in found.items()}


def running(host: Host) -> list[str]:
    """The instances that run."""
    return [name for name, status in host.instances().items() if status == "Running"]


def _cycle(host: Host, number: int) -> None:
    """One session from its start to its end, each time in another way."""
    ends: tuple[Callable[[], object], ...] = (
        lambda: host.coi("shutdown", "--all", "--force", "--timeout=0").ok(),
        lambda: host.coi("kill", "--all", "--force").ok(),
        lambda: incus("stop", "--force", *running(host)).ok(),
        lambda: incus("delete", "--force", *running(host)).ok(),
    )
    way = number % (len(ends) + 2)
    if way == len(ends):
        host.coi("run", "true").ok()
    elif way == len(ends) + 1:
        host.coi("run", "--prompt", f"remember CODE-{number}").ok()
    else:
        host.coi("shell", "--background").ok()
        ends[way]()
        host.coi("list").ok()  # which saves what was stopped from elsewhere
        host.settled()


@pytest.mark.timeout(1800)
def test_two_hundred_cycles(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.config(
        f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n', network="restricted"
    )
    for number in range(6):  # what is made once is there
        _cycle(host, number)
    host.coi("list").ok()
    host.settled()
    before, files = _of_incus(), _files(host.coi_home)
    descriptors = _open_files("incusd"), _open_files("lxcfs")
    for number in range(CYCLES):
        _cycle(host, number)
    host.coi("list").ok()
    host.settled()
    wait_for(lambda: not host.under_way())
    after = _of_incus()
    left = {kind: names - before[kind] for kind, names in after.items()}
    if os.environ.get("COI_TEST_BESIDE"):  # others work on this machine
        left = _ours(left, host.prefix)
    assert not any(left.values()), left
    now = _open_files("incusd"), _open_files("lxcfs")
    with capsys.disabled():
        print(f" descriptors of incusd and lxcfs: {descriptors} before, {now} after", end="")
    assert sum(now) - sum(descriptors) < CYCLES / 2, "not one for each"
    assert host.pids() == {}
    new = {name for name in _files(host.coi_home) - files if not name.startswith("sessions-")}
    assert new == set()
    host.sweep()


@pytest.mark.timeout(600)
def test_twenty_at_the_same_instant(host: Host) -> None:
    """On one workspace: each has a slot and a conversation of its own."""
    host.config(
        f'[defaults]\nimage = "{host.image}"\nmax_slots = {AT_ONCE}\n[tool]\nname = "dummy"\n'
    )
    started = [host.popen("shell", "--background") for _ in range(AT_ONCE)]
    results = [host.result(process, timeout=300) for process in started]
    failed = [result.err for result in results if result.code != 0]
    assert not failed, "\n".join(result.err for result in results)
    slots = range(1, AT_ONCE + 1)
    host.settled({host.instance(slot): "Running" for slot in slots})
    said = "".join(result.err for result in results)
    assert sorted(map(int, re.findall(r"Auto-allocated slot (\d+)", said))) == [*slots]
    rows = [query(f"/1.0/instances/{host.instance(slot)}")["config"] for slot in slots]
    assert len({row["user.coi.session-id"] for row in rows}) == AT_ONCE
    more = host.coi("shell", "--background")
    assert more.code == 1
    assert f"all {AT_ONCE} slots of this workspace are in use" in more.err
    assert len(host.listed()) == AT_ONCE
    ended = host.coi("kill", "--all", "--force", timeout=300).ok()
    assert f"Killed {AT_ONCE} container" in ended.err + ended.out
    host.settled()


def _memory(name: str) -> int:
    """Bytes that a container holds."""
    return int(query(f"/1.0/instances/{name}/state")["memory"]["usage"])


def _seconds(host: Host, *args: str) -> float:
    begun = time.perf_counter()
    host.coi(*args, timeout=120).ok()
    return time.perf_counter() - begun


@pytest.mark.timeout(900)
def test_fifty_run_at_a_time(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """What one costs does not grow with the number that runs."""
    host.config(
        f'[defaults]\nimage = "{host.image}"\nmax_slots = {RUNNING}\n[tool]\nname = "dummy"\n'
    )
    _seconds(host, "run", "true")  # the image's first use
    listing = {0: statistics.median(_seconds(host, "list") for _ in range(3))}
    starts = []
    for number in range(1, RUNNING + 1):
        starts.append(_seconds(host, "shell", "--background"))
        if number in (1, PART, RUNNING):
            listing[number] = statistics.median(_seconds(host, "list") for _ in range(3))
    names = [host.instance(slot) for slot in range(1, RUNNING + 1)]
    host.settled(dict.fromkeys(names, "Running"))
    assert len(host.listed()) == RUNNING
    assert host.pids() == {}, "a session in the background has no process of coi's"
    memory = [_memory(name) for name in names]
    first, last = statistics.median(starts[:PART]), statistics.median(starts[-PART:])
    attach = host.screen("attach", names[-1])
    begun = time.perf_counter()
    attach.expect(PROMPT)
    attached = time.perf_counter() - begun
    attach.detach()
    attach.ended()
    begun = time.perf_counter()
    host.coi("kill", "--all", "--force", timeout=300).ok()
    killed = time.perf_counter() - begun
    host.settled()
    with capsys.disabled():
        print(
            f"\n start of the first and last {PART}: {first:.2f} and {last:.2f} s;"
            f" {RUNNING} in {sum(starts):.0f} s\n list with "
            + ", ".join(f"{number}: {seconds:.2f} s" for number, seconds in listing.items())
            + f"\n memory of one: {statistics.median(memory) / 2**20:.0f} MiB;"
            f" attach to the last: {attached:.2f} s; kill of all: {killed:.0f} s"
        )
    assert last < 2 * first
    assert listing[RUNNING] - listing[0] < 0.01 * RUNNING
