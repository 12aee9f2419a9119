"""``coi build`` ended while mmdebstrap makes its base: nothing of it is left.

The suite is one that no other test builds on, and no base of it is ever finished here.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from coi.testing.host import Host
from coi.testing.machine import User, query, wait_for

SUITE = "trixie"
ALIAS = f"coi-base-debian-{SUITE}"
TIMEOUT = 240.0  # seconds until mmdebstrap is at a stage, on a busy machine

DOWNLOADING = "I: downloading packages"
UNPACKING = "I: extracting archives"
INSTALLING = "I: installing essential packages"  # in the new root, /proc and /sys mounted


def _group(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C of a terminal: all of coi's process group."""
    os.killpg(process.pid, signal.SIGINT)


def _alone(process: subprocess.Popen[bytes]) -> None:
    """`kill`: coi alone."""
    process.send_signal(signal.SIGTERM)


def _hangup(process: subprocess.Popen[bytes]) -> None:
    """The terminal is closed."""
    os.killpg(process.pid, signal.SIGHUP)


def _mounts(place: Path) -> list[str]:
    """What is mounted below a directory, in any mount namespace of this machine."""
    found = set()
    for table in Path("/proc").glob("[0-9]*/mounts"):
        try:
            lines = table.read_text().splitlines()
        except OSError:
            continue
        found |= {line for line in lines if str(place) in line}
    return sorted(found)


def _bases() -> list[str]:
    """Images that a bootstrap of the suite made, with an alias or without."""
    rows = query("/1.0/images?recursion=1") or []
    return [row["fingerprint"] for row in rows if row["properties"].get("release") == SUITE]


@pytest.mark.parametrize(
    ("who", "stage", "end"),
    [
        ("user", DOWNLOADING, _group),
        ("user", INSTALLING, _alone),
        ("user", UNPACKING, _hangup),
        ("root", UNPACKING, _alone),
        ("root", INSTALLING, _group),
    ],
)
def test_ended_while_it_bootstraps(
    make_host: Callable[..., Host],
    someone: User,
    daemon: None,
    who: str,
    stage: str,
    end: Callable[[subprocess.Popen[bytes]], None],
) -> None:
    subprocess.run(["usermod", "-aG", "incus-admin", someone.name], check=True)
    if query(f"/1.0/images/aliases/{ALIAS}") is not None:
        pytest.skip(f"this machine has a base {ALIAS}, which would be used")
    host = make_host(User.named("root" if who == "root" else someone.name))
    scratch = host.directory("scratch")
    before = _bases()
    script = str(host.write("build.sh", "#!/bin/sh\ntrue\n", 0o755))
    args = ["build", "custom", f"{host.prefix}img", "--script", script, "--base", f"debian:{SUITE}"]
    process = host.popen(*args, environ={"TMPDIR": str(scratch)})

    def reached() -> bool:
        assert process.poll() is None, host.result(process).err
        return any(stage in log.read_text() for log in (host.coi_home / "logs").glob("*.log"))

    wait_for(reached, timeout=TIMEOUT, what=f"{stage!r} in the log")
    assert list(scratch.glob("coi-base-*/mmdebstrap.*")), "the control: files are there"
    assert any("mmdebstrap" in line for line in host.pids().values()), "and processes"
    if stage == INSTALLING:
        wait_for(lambda: _mounts(scratch), what="the control: and mounts")
    end(process)
    done = host.result(process, 60)
    assert done.code == 130, done.err
    assert "Error: interrupted" in done.err
    assert "Traceback" not in done.err
    assert _mounts(scratch) == []
    assert list(scratch.iterdir()) == []
    assert list((host.coi_home / "logs").iterdir()) == []
    assert _bases() == before
    assert query(f"/1.0/images/aliases/{ALIAS}") is None
    assert host.leaks() == [], "no container, no process, no lock"
