"""What goes wrong on the way: the daemon, the image, the disk."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dummy import PROMPT, ask, codes, power_off, said, start

from coi.testing.host import Host
from coi.testing.machine import User, incus, wait_for

# A client whose first exec of each kind fails as the real one does now and then while
# an instance boots, and which then is the real one.
_FLAKY = """#!/bin/sh
if [ "$1" = exec ]; then
  kind=$3
  if [ ! -e "{marks}/$kind" ]; then
    : >"{marks}/$kind"
    echo 'Error: Failed to retrieve PID of executing child process' >&2
    exit 1
  fi
fi
exec /usr/bin/incus "$@"
"""


def test_the_daemon_could_not_enter_the_container(host: Host) -> None:
    marks = host.directory("marks")
    host.write("bin/incus", _FLAKY.format(marks=marks), 0o755)
    path = f"{host.root / 'bin'}:{host.environ['PATH']}"
    screen = host.screen("shell", "-v", environ={"PATH": path})
    screen.expect(PROMPT)
    assert {mark.name for mark in marks.iterdir()} == {"-T", "-t"}
    ask(screen, "remember CODE-PLUM")
    (marks / "-T").unlink()  # and once more for the save
    power_off(screen)
    screen.ended()
    assert "Container removed" in screen.log
    assert (marks / "-T").exists()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def _errors(text: str, *wanted: str) -> None:
    for word in wanted:
        assert word in text, text
    assert "Traceback" not in text
    assert "Usage:" not in text


def test_no_image(host: Host) -> None:
    for args in ((), ("--slot", "2"), ("--persistent",)):
        done = host.coi("shell", "--background", "--image", "coi-no-such-image", *args)
        assert done.code == 3, done.err
        _errors(done.err, "Error: ", "Hint: build the image first: coi build")
        assert host.instances() == {}
    assert host.coi("shell", "--background").ok(), "and no lock was left"
    host.drop()


def test_not_in_the_group(make_host: Callable[..., Host], user: User, as_root: None) -> None:
    host = make_host(User("nobody", 65534, 65534, (65534,)))
    for args in (("list",), ("shell", "--background"), ("attach",)):
        done = host.coi(*args)
        assert done.code == 4, done.err
        _errors(done.err, "no permission to talk to Incus", "usermod -aG incus-admin")
    assert not list(host.coi_home.glob("sessions-*"))


def test_a_workspace_that_vanished_while_coi_was_killed(host: Host) -> None:
    place = host.directory("gone")
    screen = start(host, cwd=place)
    ask(screen, "remember CODE-PLUM")
    screen.child.kill(signal.SIGKILL)
    screen.end()
    name = host.instance(workspace=place)
    incus("stop", "--force", name).ok()
    place.rmdir()
    recovered = host.coi("list", "--all").ok()
    assert f"of {name}" in recovered.err
    host.settled()
    (saved,) = host.saved()
    assert "CODE-PLUM" in said(host.state_file(saved["id"]))
    missing = host.coi("shell", "--background", "-w", str(place), "--resume")
    assert missing.code == 3
    _errors(missing.err, "the workspace does not exist")
    host.directory("gone")
    resumed = start(host, "--resume", cwd=place)
    assert codes(resumed) == ["CODE-PLUM"]
    power_off(resumed)
    resumed.ended()


@pytest.fixture
def small_disk(host: Host, as_root: None) -> Iterator[Path]:
    """coi's directory on a disk of its own that holds one save and not two."""
    host.directory("coi")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=3m,uid={host.user.uid},mode=700", "coi-tests",
         str(host.coi_home)], check=True,
    )  # fmt: skip
    yield host.coi_home
    subprocess.run(["umount", str(host.coi_home)], check=True)


def test_the_disk_is_full_while_saving(host: Host, small_disk: Path) -> None:
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    screen.detach()
    screen.ended()
    (before,) = host.saved()
    state = host.state_file(before["id"])
    content = state.read_bytes()
    metadata = (state.parent / "metadata.json").read_bytes()

    again = host.screen("attach")
    again.expect(PROMPT)
    ask(again, "and CODE-PEAR")
    large = "/home/code/.dummy/large"
    host.inside(f"head -c 6000000 /dev/urandom >{large}; chown code: {large}")
    power_off(again)
    log = again.ended(1)
    _errors(log, "Error: cannot save the session", "No space left on device", "Hint: free space")
    assert state.read_bytes() == content, "the previous save is intact"
    assert (state.parent / "metadata.json").read_bytes() == metadata
    assert sorted(p.name for p in state.parent.iterdir()) == ["metadata.json", state.name]
    name = host.instance()
    wait_for(lambda: host.instances() == {name: "Stopped"}, what="the container is kept")

    # While an instance stops a listing may have it without its keys.
    wait_for(lambda: f"Could not recover {name}" in host.coi("list").ok().err, what="a try")
    assert host.instances() == {name: "Stopped"}
    assert state.read_bytes() == content

    subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
    assert "Recovering session" in host.coi("list").ok().err
    host.settled()
    (after,) = host.saved()
    assert after["id"] == before["id"]
    assert "CODE-PEAR" in said(host.state_file(after["id"]))
