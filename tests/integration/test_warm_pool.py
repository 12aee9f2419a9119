"""Warm instances: what a start makes of one is what it would have created, whatever happens."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import pytest
from pools import pool_of_its_own
from spoilt import FAILED, KILLED, Spoilt, spoil
from warmth import pool_of, ready, rows, size

from coi.testing.host import Host
from coi.testing.machine import incus, query, wait_for

ROUNDS = int(os.environ.get("COI_TEST_ROUNDS", "3"))
_MOST = 40  # calls that no command makes
START = ("shell", "--background")
NOT_WARM = {"COI_WARM_SIZE": "0"}


@pytest.fixture(params=["dir", "btrfs"])
def pool(request: pytest.FixtureRequest, host: Host, as_root: None) -> Iterator[str]:
    """The driver of a pool of the test's own, and the project of the test that is on it."""
    room = ["size=8GiB"] if request.param == "btrfs" else []
    with pool_of_its_own(host, request.param, *room, nic=True):
        yield request.param


def taken(err: str) -> list[str]:
    """The warm instances that a verbose coi renamed."""
    return re.findall(r'"name":"[^"]+"\}.* \'?/1\.0/instances/(\S*warm-[0-9a-f]{10})', err)


def described(name: str) -> dict[str, Any]:
    """An instance, without what is its own in any case."""
    row: dict[str, Any] = query(f"/1.0/instances/{name}")
    own = row["config"].get("user.coi.session-id", name)
    text = json.dumps(row).replace(own, "OWN").replace(name, "NAME")
    text = re.sub(r"/mounts/[0-9a-f]{16}/", "/mounts/OWN/", text)  # of protected paths
    found: dict[str, Any] = json.loads(text)
    for key in ("created_at", "last_used_at"):
        del found[key]
    for key in ("config", "expanded_config"):
        found[key] = {k: v for k, v in found[key].items() if not k.startswith("volatile.")}
    return found


def new_runs(host: Host, *states: str) -> list[str]:
    """The instances of `coi run`."""
    found = host.instances().items()
    return [
        name
        for name, status in found
        if re.search(r"-r[0-9a-f]{6}$", name) and status in (states or ("Running",))
    ]


WAYS: dict[str, tuple[str, ...]] = {
    "open": ("--network=open",),
    "restricted": ("--network=restricted", "--publish", "127.0.0.1:0:80"),
    "persistent": ("--persistent", "--slot=3", "--limit", "memory=900MiB", "--limit", "cpu=1"),
    "mounts": ("--storage", "STORAGE", "--limit", "processes=none"),
    "disk": ("--limit", "disk=3GiB"),
}


@pytest.mark.timeout(1800)
def test_it_is_what_a_creation_makes(host: Host, pool: str) -> None:
    size(host, 1)
    host.write("ws/.git/hooks/pre-commit", "true\n", 0o755)
    host.write("ws/.git/config", "[core]\n")
    host.coi("run", "true", timeout=500).ok()
    for way, words in WAYS.items():
        if way == "disk" and pool == "dir":
            continue
        port = 20000 + secrets.randbelow(10000)
        args = [word.replace(":0:", f":{port}:") for word in words]
        args = [word.replace("STORAGE", str(host.directory("storage"))) for word in args]
        slot = 3 if way == "persistent" else 1
        name = host.instance(slot)
        (warm,) = ready(host, 1)
        host.coi(*START, *args, environ=NOT_WARM, timeout=500).ok()
        created = described(name)
        host.coi("kill", "--force", name).ok()
        claimed = host.coi("-v", *START, *args, timeout=500).ok()
        assert taken(claimed.err) == [warm], (way, claimed.err)
        assert described(name) == created, way
        assert host.inside("hostname", slot=slot).strip() == name
        host.coi("kill", "--force", name).ok()
    # and of a run, which is ephemeral
    ready(host, 1)
    found = []
    for environ in (NOT_WARM, {}):
        process = host.popen("run", "until [ -e go ]; do sleep 0.1; done", environ=environ)

        (name,) = wait_for(lambda: new_runs(host), timeout=300)
        found.append(described(name))
        host.write("ws/go", "")
        host.result(process, timeout=300).ok()
        (host.workspace / "go").unlink()
        wait_for(lambda: not new_runs(host, "Running", "Stopped"))
    assert found[0]["ephemeral"]
    assert found[1] == found[0]


@pytest.mark.timeout(1800)
def test_it_is_faster_where_a_creation_copies(
    host: Host, pool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size(host, 1)
    host.coi("run", "true", timeout=500).ok()
    spent: dict[str, list[float]] = {"created": [], "claimed": []}
    for _ in range(ROUNDS):
        for how, environ in (("created", NOT_WARM), ("claimed", {})):
            ready(host, 1, 300)
            begun = time.monotonic()
            done = host.coi("-v", *START, environ=environ, timeout=500).ok()
            spent[how].append(time.monotonic() - begun)
            assert bool(taken(done.err)) == (how == "claimed")
            host.coi("kill", "--all", "--force").ok()
    created, claimed = median(spent["created"]), median(spent["claimed"])
    with capsys.disabled():
        print(f" {pool}: created {created:.2f} s, claimed {claimed:.2f} s,", end="")
        print(f" ratio {claimed / created:.2f} of {ROUNDS} rounds {spent}", end="")
    if pool == "dir":
        assert claimed / created < 0.5


def test_its_policy_stands_before_it_starts(host: Host) -> None:
    size(host, 1, network="restricted")
    host.coi("run", "true").ok()
    ready(host, 1)
    spoilt = spoil(host, "waits", 1, match="*PUT*start*/state*")
    process = host.popen(*START, environ=spoilt.environ)
    wait_for(spoilt.waits.exists)
    row = query(f"/1.0/instances/{host.instance()}")
    assert row["status"] == "Stopped"
    assert row["last_used_at"].startswith("1970")
    assert row["config"]["user.coi.network"] == "restricted"
    network = row["expanded_devices"]["eth0"]["network"]
    acls = query(f"/1.0/networks/{network}")["config"]["security.acls"]
    assert acls == row["config"]["user.coi.network-acl"]
    spoilt.go()
    host.result(process).ok()
    assert host.instances()[host.instance()] == "Running"
    host.sweep()
    host.coi("clean", "--all", "--force").ok()


def test_what_was_ever_started_is_never_taken(host: Host) -> None:
    size(host, 1)
    host.coi("run", "true").ok()
    (used,) = ready(host, 1)
    incus("start", used).ok()
    again = host.coi("-v", "run", "true").ok()
    assert taken(again.err) == []
    assert host.instances()[used] == "Running", "whoever started it may have it"
    incus("stop", "--force", used).ok()
    again = host.coi("-v", "run", "true").ok()
    assert taken(again.err) == []
    wait_for(lambda: used not in host.instances())
    (fresh,) = ready(host, 1)
    assert fresh != used
    host.coi("clean", "--all", "--force").ok()


def test_one_of_an_older_image_is_never_taken(host: Host) -> None:
    images = query("/1.0/images?recursion=1")
    both = [row["fingerprint"] for row in images if "coi.tools" in row["properties"]]
    if len(both) < 2:
        pytest.skip("there is one image")
    alias = f"{host.prefix}image"
    other = {"COI_DEFAULTS_IMAGE": alias}
    body = json.dumps({"name": alias, "target": both[0]})
    incus("query", "-X", "POST", "-d", body, "/1.0/images/aliases").ok()
    size(host, 1)
    host.coi("run", "true", environ=other).ok()
    (old,) = ready(host, 1)
    body = json.dumps({"target": both[1]})
    incus("query", "-X", "PUT", "-d", body, f"/1.0/images/aliases/{alias}").ok()
    assert f"{old}: warm, but its image was replaced" in host.coi("clean").err
    again = host.coi("-v", "run", "true", environ=other).ok()
    assert taken(again.err) == []
    wait_for(lambda: old not in host.instances())
    (new,) = ready(host, 1)
    assert query(f"/1.0/instances/{new}")["config"]["volatile.base_image"] == both[1]
    assert taken(host.coi("-v", "run", "true", environ=other).ok().err) == [new], "the control"
    (last,) = ready(host, 1)
    incus("image", "alias", "delete", alias).ok()
    assert f"{last}: warm, but its image is gone" in host.coi("clean", "--force").ok().err
    host.settled()


def test_resume_goes_on_with_what_was_started_last(host: Host) -> None:
    """Its instance is older than what was saved before it began."""
    size(host, 1)
    host.coi("run", "true").ok()
    ready(host, 1)
    host.coi("run", "--prompt", "remember CODE-EARLY").ok()
    (warm,) = ready(host, 1)
    (saved,) = host.saved()
    assert query(f"/1.0/instances/{warm}")["created_at"] < saved["saved_at"]
    later = host.coi("-v", *START).ok()
    assert taken(later.err) == [warm]
    resumed = host.coi(*START, "--resume").ok()
    assert f"is still running in {host.instance()}" in resumed.err
    host.coi("kill", "--all", "--force").ok()
    host.coi("clean", "--all", "--force").ok()


@pytest.mark.timeout(600)
def test_five_at_the_same_instant(host: Host) -> None:
    """Each has its own, two of them warm ones, and there are never more than two of those."""
    size(host, 2)
    host.coi("run", "true").ok()
    warm = ready(host, 2)
    started = [host.popen("-v", *START) for _ in range(5)]
    most = 0
    while any(process.poll() is None for process in started):
        most = max(most, len(pool_of(host)))
        time.sleep(0.05)
    found = [host.result(process, timeout=300).ok() for process in started]
    renamed = [name for done in found for name in taken(done.err)]
    claimed = {row["name"]: row["created_at"] for row in query("/1.0/instances?recursion=1")
               if row["name"] in [host.instance(slot) for slot in range(1, 6)]}  # fmt: skip
    assert len(claimed) == 5
    assert set(warm) <= set(renamed), "both were taken"
    assert not set(warm) & set(host.instances())
    assert not set(warm) & set(ready(host, 2))
    for _ in range(3):
        host.coi("kill", "--force", *list(claimed)[:1]).ok()
        claimed.pop(next(iter(claimed)))
        host.coi("-v", *START).ok()
        most = max(most, len(pool_of(host)))
    assert most <= 2
    host.coi("kill", "--all", "--force").ok()
    ready(host, 2)
    host.coi("clean", "--all", "--force").ok()


Flow = tuple[str, ...]
FLOWS: dict[str, Flow] = {
    "shell": START,
    "run": ("run", "true"),
    "prompt": ("run", "--prompt", "remember CODE-X"),
}


def afterwards(host: Host, flow: Flow, *, clean: bool) -> list[str]:
    """What is wrong for the next coi.

    Args:
        clean: which takes the policy's network too.
    """
    bad = []
    wait_for(lambda: not host.pids(), what=lambda: str(host.pids()))
    wait_for(lambda: not host.under_way(), what="the daemon to be done")
    for args in (("list",), flow):
        done = host.coi(*args)
        if done.code != 0 or "Traceback" in done.err or "Could not" in done.err:
            bad.append(f"{args}: {done.code} {done.err}")
    for row in rows(host):
        if row["config"].get("user.coi.warm") != row["name"]:
            bad.append(f"half claimed: {row['name']}")
        if not row["last_used_at"].startswith("1970"):
            bad.append(f"used, and warm: {row['name']}")
    host.coi("kill", "--all", "--force")
    if clean:
        host.coi("clean", "--force").ok()
    try:
        wait_for(lambda: set(host.instances()) == set(pool_of(host)), timeout=20)
        ready(host, 1, 60)
    except AssertionError as error:
        bad.append(f"left: {error} {host.instances()}")
    return bad


def spoilt_at_each(
    host: Host,
    flow: Flow,
    ways: tuple[str, ...],
    network: str,
    look: Callable[[Spoilt, Any], list[str]] = lambda *_: [],
) -> int:
    """Spoil each call of a start in turn; how many there were."""
    size(host, 1, network=network)
    host.coi("run", "true").ok()
    wrong = []
    for count in range(1, _MOST):
        ready(host, 1)
        spoilt = spoil(host, ways[count % len(ways)], count)
        done = host.coi(*flow, environ=spoilt.environ)
        was = spoilt.came(count)
        bad = [*look(spoilt, done), *afterwards(host, flow, clean=network == "open")]
        if bad:
            call = spoilt.calls[count - 1][:150] if was else "none"
            wrong.append([ways[count % len(ways)], str(count), call, *bad])
        if not was:
            break
    else:
        raise AssertionError("no end of calls")
    assert not wrong, "\n".join("\n  ".join(map(str, bad)) for bad in wrong)
    host.coi("clean", "--all", "--force").ok()
    host.sweep()
    return count


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("shift", range(len(KILLED)))
@pytest.mark.timeout(900)
def test_killed_at_each_call(host: Host, flow: str, shift: int) -> None:
    ways = KILLED[shift:] + KILLED[:shift]
    assert spoilt_at_each(host, FLOWS[flow], ways, "open") > 7


@pytest.mark.parametrize("how", [*FAILED, "TERM", "INT"])
@pytest.mark.timeout(900)
def test_failed_at_each_call(host: Host, how: str) -> None:
    """It starts all the same, or says why not; what runs is behind its policy. (The signals
    come after a call.)"""

    def look(_spoilt: Spoilt, _done: Any) -> list[str]:
        found = query("/1.0/instances?recursion=1")
        own = [row for row in found if row["name"].startswith(host.prefix)]
        return [
            f"{row['name']} runs without its policy: {row['devices']}"
            for row in own
            if row["status"] == "Running"
            and not ("eth0" in row["devices"] and row["config"].get("user.coi.network-acl"))
        ]

    assert spoilt_at_each(host, START, (how,), "restricted", look) > 7
