"""A disk filler inside, on a pool of its own: quotas slow a pool down for all who are on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pools import pool_of_its_own

from coi.testing.host import Host
from coi.testing.machine import incus, query

GIB = 1 << 30


@pytest.fixture
def pool(host: Host, as_root: None) -> Iterator[str]:
    """A small btrfs pool, and the project of the test that is on it."""
    with pool_of_its_own(host, "btrfs", "size=4GiB") as name:
        yield name


def free(pool: str) -> int:
    """Bytes that are left on a pool."""
    space = query(f"/1.0/storage-pools/{pool}/resources")["space"]
    return int(space["total"]) - int(space["used"])


def test_a_disk_filler_meets_its_own_wall(host: Host, pool: str) -> None:
    name = host.instance()
    start = ("shell", "--background", "--persistent", "--slot", "1")
    host.coi(*start, "--limit", "disk=1900MiB", timeout=500).ok()
    root = query(f"/1.0/instances/{name}")["devices"]["root"]
    assert root == {"type": "disk", "path": "/", "pool": pool, "size": "1900MiB"}
    fill = "head -c 1500M /dev/urandom >/root/filler && sync && echo held"
    done = incus("exec", name, "-T", "--", "sh", "-c", fill)
    assert (done.code != 0, done.out) == (True, ""), done.err
    assert "quota" in done.err.lower() or "space" in done.err.lower()
    assert free(pool) > GIB, "the pool has room for others"
    assert host.coi("run", "echo fine").ok().out == "fine\n"
    # At its wall it is stopped, and started again without the limit.
    host.coi("container", "stop", "--force", name).ok()
    host.coi(*start).ok()
    assert "root" not in query(f"/1.0/instances/{name}")["devices"], "the profile's again"
    done = incus("exec", name, "-T", "--", "sh", "-c", fill)
    assert done.out == "held\n", "without the limit it has what it wants"
    # It holds more than the limit by now, which would leave it stuck: the limit is refused.
    host.coi("container", "stop", "--force", name).ok()
    refused = host.coi(*start, "--limit", "disk=1900MiB")
    assert refused.code == 5, refused.err
    assert "has the disk limit none, which is not lowered" in refused.err
    host.coi(*start).ok()
    assert host.inside("du -m /root/filler | cut -f1") == "1500\n"
    host.drop()


def test_a_session_at_its_wall_is_saved_and_removed(host: Host, pool: str) -> None:
    host.coi("shell", "--background", "--limit", "disk=1900MiB", timeout=500).ok()
    fill = "head -c 1500M /dev/urandom >/root/filler; sync"
    incus("exec", host.instance(), "-T", "--", "sh", "-c", fill)
    ended = host.coi("shutdown", "--force", host.instance(), timeout=120)
    assert ended.code == 0, ended.err
    assert "Session data saved" in ended.err
    host.settled()
    assert len(host.saved()) == 1


def test_a_limit_below_the_image_is_refused(host: Host, pool: str) -> None:
    tiny = host.coi("run", "--limit", "disk=100MiB", "true")
    assert tiny.code == 1
    assert "the disk limit is used up, or smaller than the image" in tiny.err
    assert "--limit disk=SIZE" in tiny.err
