"""The host fails a session: its disk, its clock, its daemon, its power."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from daemons import end_daemon, power_cut, restart_daemon, start_daemon
from dummy import PROMPT, ask, background, codes, power_off, said, start

from coi.testing.host import Host
from coi.testing.machine import query, wait_for


def errors(text: str, *wanted: str) -> None:
    """A message for a person, and these words in it."""
    for word in (*wanted, "Error: ", "Hint: "):
        assert word in text, text
    assert "Traceback" not in text
    assert "does not handle" not in text


# -- the disk that coi's own data is on ------------------------------------------------------


class Disk:
    """coi's directory on a disk of its own."""

    def __init__(self, path: Path, uid: int) -> None:
        self.path = path
        self._mount("-t", "tmpfs", "-o", f"size=8m,uid={uid},mode=700", "coi-tests")

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.path)], check=True)

    def fail(self, how: str) -> None:
        """Be full, or read-only: then for all that is opened from now on."""
        if how == "read-only":
            self._mount("--bind", str(self.path))
            self._mount("-o", "remount,bind,ro")
            return
        with (self.path / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def mend(self, how: str) -> None:
        """Be as before."""
        if how == "read-only":
            subprocess.run(["umount", str(self.path)], check=True)
        else:
            (self.path / "filler").unlink()


@pytest.fixture
def disk(host: Host, as_root: None) -> Iterator[Disk]:
    host.directory("coi")
    made = Disk(host.coi_home, host.user.uid)
    yield made
    host.drop()
    subprocess.run(["umount", str(host.coi_home)], check=True)


# What needs to write there, and what does not.
WRITES: tuple[tuple[str, ...], ...] = (
    ("shell", "--background"),
    ("shell", "--background", "--resume"),
    ("run", "true"),
    ("run", "--prompt", "remember CODE-PEAR"),
    ("build", "--image", "none-such"),
)
READS: tuple[tuple[str, ...], ...] = (
    ("list", "--all"),
    ("info",),
    ("clean", "--force"),
    ("protect", "list"),
    ("attach",),
)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_the_disk_before_a_start(host: Host, disk: Disk, how: str) -> None:
    """It says so, nothing is made, and what is saved is as it was."""
    host.coi("run", "--prompt", "remember CODE-PLUM").ok()
    (saved,) = host.saved()
    content = host.state_file(saved["id"]).read_bytes()
    disk.fail(how)
    why = {"full": "No space left on device", "read-only": "Read-only file system"}[how]
    for args in WRITES:
        done = host.coi(*args)
        assert done.code == 1, (args, done.err)
        errors(done.err, why, "COI_HOME")
        host.settled()
    for args in READS:
        done = host.coi(*args)
        assert done.code == 0, (args, done.err)
    disk.mend(how)
    assert host.saved() == [saved]
    assert host.state_file(saved["id"]).read_bytes() == content
    again = start(host, "--resume")
    assert codes(again) == ["CODE-PLUM"]
    power_off(again)
    again.ended()


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_the_disk_at_the_end(host: Host, disk: Disk, how: str) -> None:
    """The container is kept, and saved as soon as there is room."""
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    disk.fail(how)
    power_off(screen)
    errors(screen.ended(1), "cannot save the session")
    name = host.instance()
    wait_for(lambda: host.instances() == {name: "Stopped"}, what="the container is kept")
    assert "Could not recover" in host.coi("list").ok().err
    assert host.saved() == []
    disk.mend(how)
    assert "Recovering session" in host.coi("list").ok().err
    host.settled()
    (saved,) = host.saved()
    assert "CODE-PLUM" in said(host.state_file(saved["id"]))


# -- the clock -------------------------------------------------------------------------------

_CLOCK = """
import datetime, os, time
_shift = float(os.environ["SHIFT"])
_time, _datetime = time.time, datetime.datetime
time.time = lambda: _time() + _shift
class shifted(_datetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=_shift)
datetime.datetime = shifted
"""
YEARS = 10 * 365 * 86400


def test_a_clock_that_jumps(host: Host) -> None:
    """What was saved last is what is resumed, whatever the clock said then."""
    host.write("clock/sitecustomize.py", _CLOCK)
    clock = {"PYTHONPATH": str(host.root / "clock")}
    for shift, code in ((0, "NOW"), (YEARS, "AHEAD"), (0, "AGAIN"), (-YEARS, "BEHIND")):
        environ = {**clock, "SHIFT": str(shift)}
        host.coi("run", "--prompt", f"remember CODE-{code}", environ=environ).ok()
        latest = host.coi("info").ok().out
        (found,) = [row for row in host.saved() if row["id"] in latest]
        assert f"CODE-{code}" in said(host.state_file(found["id"]))
        shown = host.coi("list", "--all", "--format", "json").ok().json["saved_sessions"]
        assert shown[0]["id"] == found["id"]
    stamps = [row["saved_at"][:4] for row in host.saved()]
    assert len(set(stamps)) == 3, "the control: the clocks were what they were said to be"
    screen = start(host, "--resume")
    assert codes(screen) == ["CODE-BEHIND"]
    power_off(screen)
    screen.ended()


# -- the daemon, and the power ---------------------------------------------------------------


def test_the_daemon_is_killed_in_mid_session(host: Host, as_root: None) -> None:
    """coi says so and ends; the session runs on, and is there as soon as the daemon is."""
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    look = "pgrep -f '[/]dummy-tool --session-id'"
    pid = host.inside(look).split()
    try:
        end_daemon(signal.SIGKILL)
        assert screen.end() != 0
        errors(screen.log, "Incus")
        for args in (("list",), ("attach",), ("shell", "--background"), ("run", "true")):
            done = host.coi(*args)
            assert done.code == 4, (args, done.err)
            errors(done.err)
    finally:
        start_daemon()
    assert host.listed()[0]["status"] == "Running"
    # the first exec after that fails now and then
    wait_for(lambda: host.inside(look, ok=False).split() == pid, what="the same tool")
    again = host.screen("attach")
    again.expect(PROMPT)
    assert codes(again) == ["CODE-PLUM"]
    power_off(again)
    again.ended()
    host.settled()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_the_daemon_is_restarted_while_it_is_asked(host: Host, as_root: None) -> None:
    """Commands that are under way fail or go on; what was said is saved, and nothing is left."""
    background(host)
    name = host.instance()
    wait_for(lambda: "dummy>" in host.coi("tmux", "capture", name).out)
    host.coi("tmux", "send", name, "remember CODE-PLUM").ok()
    wait_for(lambda: "you said" in host.coi("tmux", "capture", name).out)
    under_way = [
        host.popen("shutdown", "--all", "--force"),
        host.popen("shell", "--background", "--slot=2"),
        host.popen("run", "sleep 1"),
    ]
    wait_for(lambda: bool(host.under_way()), what="the daemon to be at work")
    restart_daemon()
    for process in under_way:
        done = host.result(process)
        assert done.code in (0, 1, 4), done.err
        assert done.code == 0 or "Error: " in done.err
    wait_for(lambda: not host.under_way(), what="the daemon to be done")
    host.coi("list", "--all").ok()
    host.coi("shutdown", "--all", "--force").ok()
    host.coi("clean", "--force").ok()
    host.settled()
    texts = [said(host.state_file(row["id"])) for row in host.saved()]
    assert any("CODE-PLUM" in text for text in texts)


def test_the_power_is_cut(host: Host, as_root: None) -> None:
    """The daemon's state is kept, each process is gone: all that was said is saved afterwards,
    and nothing runs that is not a session."""
    host.config(
        f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n', network="restricted"
    )
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    background(host, "--persistent", "--slot=2")
    second = host.instance(2)
    wait_for(lambda: "dummy>" in host.coi("tmux", "capture", second).out)
    host.coi("tmux", "send", second, "remember CODE-PEAR").ok()
    wait_for(lambda: "you said" in host.coi("tmux", "capture", second).out)
    run = host.popen("run", "sleep 600")
    wait_for(lambda: len(host.instances()) == 3)
    screen.child.kill(signal.SIGKILL)
    run.kill()
    try:
        power_cut()
    finally:
        start_daemon()
    assert "Running" not in host.instances().values(), "a session without its tool is none"
    listed = host.coi("list", "--all", "--format", "json").ok()
    assert listed.err.count("Recovering session") == 2, listed.err
    host.settled({second: "Stopped"})
    texts = "".join(said(host.state_file(row["id"])) for row in listed.json["saved_sessions"])
    assert "CODE-PLUM" in texts
    assert "CODE-PEAR" in texts
    again = start(host, "--persistent", "--resume", "--slot=2")
    assert json.dumps(query(f"/1.0/instances/{second}")["devices"]).count("network") == 1
    assert len(codes(again)) == 1
    power_off(again)
    again.ended()
    host.drop()
    host.sweep()
