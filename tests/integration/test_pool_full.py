"""The storage pool has no room: a start says so, a session is saved all the same."""

from __future__ import annotations

import pytest
from dummy import said
from test_limits_disk import pool  # noqa: F401 - a fixture

from coi.testing.host import Host
from coi.testing.machine import incus, wait_for

# Twice: what a sync has freed is taken too.
_FILL = "for n in 1 2; do cat /dev/zero >>/root/filler; sync; done; head -c 64M /dev/zero >/root/2"


@pytest.mark.timeout(900)
def test_a_full_pool(host: Host, pool: str) -> None:  # noqa: F811
    host.coi("shell", "--background", "--slot=1", timeout=500).ok()
    name = host.instance()
    wait_for(lambda: "dummy>" in host.coi("tmux", "capture", name).out)
    host.coi("tmux", "send", name, "remember CODE-PLUM").ok()
    wait_for(lambda: "you said" in host.coi("tmux", "capture", name).out)
    assert incus("exec", name, "-T", "--", "sh", "-c", _FILL, timeout=500).code != 0, "it is full"
    for args in (("shell", "--background", "--slot=2"), ("run", "true")):
        done = host.coi(*args, timeout=300)
        assert done.code == 1, done.err
        assert "Error: " in done.err
        assert "space" in done.err.lower(), done.err
        assert "Hint: " in done.err
        assert "Traceback" not in done.err
    host.settled({name: "Running"})
    assert host.listed()[0]["status"] == "Running"
    ended = host.coi("shutdown", "--force", name, timeout=300)
    assert ended.code == 0, ended.err
    host.settled()
    (saved,) = host.saved()
    assert "CODE-PLUM" in said(host.state_file(saved["id"]))
    # btrfs gives back what was deleted a while later
    wait_for(lambda: host.coi("run", "echo fine", timeout=300).out == "fine\n", timeout=120)
