"""The life of a session: start, talk, leave, come back, power off, resume."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from dummy import PROMPT, ask, background, codes, power_off, said, start, to_bash

from coi.testing.host import Host
from coi.testing.machine import COI, children, incus, query, wait_for


def test_power_off_saves_removes_and_resume_goes_on(host: Host) -> None:
    screen = start(host)
    log = screen.log
    ask(screen, "remember CODE-PLUM")
    name = host.instance()
    assert host.instances() == {name: "Running"}
    power_off(screen)
    screen.ended()
    for text in ("Saving session data", "Session data saved", "Container removed"):
        assert text in screen.log
    host.settled()
    (saved,) = host.saved()
    for text in (
        "Auto-allocated slot 1",
        f"Setting up session {saved['id']}...",
        "Starting session...",
        f"Session ID: {saved['id']}",
        f"Container: {name}",
        f"Workspace: {host.workspace}",
    ):
        assert text in log
    assert saved["tool"] == "dummy"
    assert saved["workspace"] == str(host.workspace)
    assert saved["container"] == name
    assert host.state_file(saved["id"]).stat().st_mode & 0o777 == 0o600

    resumed = start(host, "--resume")
    resumed.expect("resumed 1 turns")
    assert codes(resumed) == ["CODE-PLUM"]
    ask(resumed, "and CODE-PEAR")
    power_off(resumed)
    resumed.ended()
    assert [row["id"] for row in host.saved()] == [saved["id"]]
    host.settled()

    again = start(host, f"--resume={saved['id']}", "--slot", "3")
    assert codes(again) == ["CODE-PLUM", "CODE-PEAR"]
    assert host.instances() == {host.instance(3): "Running"}
    fresh = start(host)
    assert codes(fresh) == [], "a new session is not the old one"
    for open_screen in (again, fresh):
        power_off(open_screen)
        open_screen.end()


def test_detach_saves_and_keeps_running_and_attach_returns(host: Host) -> None:
    assert "No active sessions" in host.coi("attach").ok().out
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    screen.detach()
    screen.ended()
    assert "Session data saved" in screen.log
    assert "Container kept running" in screen.log
    name = host.instance()
    assert host.instances() == {name: "Running"}
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))

    back = host.screen("attach")
    back.expect_log(re.escape(f"Attaching to {name}..."))
    back.expect("you said: remember CODE-PLUM")
    ask(back, "and CODE-PEAR")
    back.detach()
    back.ended()
    assert "CODE-PEAR" in said(host.state_file(host.saved()[0]["id"])), "saved again"

    resumed = host.screen("shell", "--resume")
    resumed.expect("you said: and CODE-PEAR")
    assert "is still running in" in resumed.log
    assert host.instances() == {name: "Running"}, "the same one"
    bash = host.screen("attach", name, "--bash")
    bash.expect(r"/workspace\S*[$#] ?$")
    bash.line("id -un; exit")
    bash.expect("^code$")
    bash.ended()
    assert host.instances() == {name: "Running"}
    power_off(resumed)
    resumed.ended()
    assert codes(start(host, "--resume")) == ["CODE-PLUM", "CODE-PEAR"]
    power_off(host.screens[-1])
    host.screens[-1].end()


def test_workspaces_do_not_see_each_other(host: Host) -> None:
    other = host.directory("other ws")
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    power_off(screen)
    screen.end()
    (saved,) = host.saved()

    latest = host.screen("shell", "--resume", cwd=other)
    latest.ended(3)
    assert "no saved dummy session of this workspace" in latest.log
    named = host.screen("shell", f"--resume={saved['id']}", cwd=other)
    named.ended(5)
    assert f"session {saved['id']} belongs to another workspace" in named.log
    assert "Hint: coi shell -w" in named.log
    unknown = host.screen("shell", "--resume=01234567-89ab-4def-8123-456789abcdef")
    unknown.ended(3)
    assert "no saved session" in unknown.log
    host.settled()
    # and a workspace seen through a link is another workspace, on the same directory
    link = host.root / "link"
    link.symlink_to(host.workspace)
    linked = host.screen("shell", "--resume", "-w", str(link))
    linked.ended(3)


def test_slots_are_apart(host: Host) -> None:
    one, two = start(host), start(host)
    assert "Auto-allocated slot 1" in one.log
    assert "Auto-allocated slot 2" in two.log
    ask(one, "remember CODE-ONE")
    ask(two, "remember CODE-TWO")
    assert codes(one) == ["CODE-ONE"]
    assert codes(two) == ["CODE-TWO"]
    host.inside("touch /home/code/of-one", slot=1)
    assert "of-one" not in host.inside("ls -A /home/code", slot=2)
    third = background(host, "--slot", "1")
    assert "Slot 1 is occupied, using slot 3 instead" in third
    listed = host.listed()
    assert [row["slot"] for row in listed] == [1, 2, 3]
    assert len({row["session_id"] for row in listed}) == 3
    several = host.coi("attach").ok().out
    assert "Active sessions:" in several
    assert "coi attach <container-name>" in several
    assert all(host.instance(slot) in several for slot in (1, 2, 3))
    beyond = host.coi("shell", "--background", "--slot", "99")
    assert beyond.code == 1
    assert "there is no slot 99" in beyond.err
    for screen in (one, two):
        power_off(screen)
        screen.ended()
    ids = {row["id"]: said(host.state_file(row["id"])) for row in host.saved()}
    assert sorted(ids.values()) == ["remember CODE-ONE\n", "remember CODE-TWO\n"]
    host.drop()


def test_started_at_the_same_instant(host: Host) -> None:
    started = [host.popen("shell", "--background") for _ in range(5)]
    results = [host.result(process).ok() for process in started]
    host.settled({host.instance(slot): "Running" for slot in range(1, 6)})
    slots = sorted(re.findall(r"Auto-allocated slot (\d+)", "".join(r.err for r in results)))
    assert slots == ["1", "2", "3", "4", "5"]
    full = "[defaults]\nmax_slots = 5\n" + f'image = "{host.image}"\n[tool]\nname = "dummy"\n'
    host.config(full)
    one_more = host.coi("shell", "--background")
    assert one_more.code == 1
    assert "all 5 slots of this workspace are in use" in one_more.err
    host.drop()


def test_persistent(host: Host) -> None:
    screen = start(host, "--persistent")
    name = host.instance()
    made = query(f"/1.0/instances/{name}")["created_at"]
    ask(screen, "remember CODE-PLUM")
    to_bash(screen)
    screen.line("sudo touch /usr/local/bin/installed && sudo poweroff")
    screen.ended()
    assert "Container stopped and kept" in screen.log
    assert host.instances() == {name: "Stopped"}
    assert "(persistent)" in host.coi("list").ok().out
    assert host.instances() == {name: "Stopped"}, "a stopped persistent one is nobody's orphan"

    again = start(host, "--persistent", "--resume")
    assert f"Restarted persistent container {name}" in again.log
    assert codes(again) == ["CODE-PLUM"]
    assert host.inside("ls /usr/local/bin/installed")
    assert query(f"/1.0/instances/{name}")["created_at"] == made
    again.detach()
    again.ended()

    reattached = host.screen("shell", "--slot", "1", "--persistent")
    reattached.expect("codes: CODE-PLUM")
    assert host.instances() == {name: "Running"}
    power_off(reattached)
    reattached.ended()
    assert host.instances() == {name: "Stopped"}
    host.drop()


def test_background_then_attach(host: Host) -> None:
    err = background(host)
    name = host.instance()
    assert f"Running in the background: coi attach {name}" in err
    row = host.listed()[0]
    assert row["name"] == name
    assert row["status"] == "Running"
    assert row["persistent"] is False
    assert row["tool"] == "dummy"
    assert row["workspace"] == str(host.workspace)
    screen = host.screen("attach", "--slot", "1")
    screen.expect(PROMPT)
    ask(screen, "remember CODE-PLUM")
    power_off(screen)
    screen.ended()
    assert "Container removed" in screen.log
    assert host.saved()[0]["id"] == row["session_id"]
    missing = host.coi("attach", name)
    assert missing.code == 3
    assert "not found or not running" in missing.err


def test_debug_and_no_tmux(host: Host) -> None:
    debug = host.screen("shell", "--debug")
    debug.expect(r"/workspace\S*[$#] ?$")
    debug.line("pgrep -c dummy-tool; echo in-$TMUX-")
    debug.expect("^0$")
    debug.expect("in-/home/code/.coi/tmux")
    debug.line("exit")
    debug.ended()
    assert "Container kept running" in debug.log
    lost = host.screen("attach")
    assert lost.end() != 0
    assert "No tmux session found" in lost.log
    assert f"coi attach {host.instance()} --bash" in lost.log
    host.drop()

    bare = start(host, "--no-tmux")
    ask(bare, "remember CODE-PLUM")
    to_bash(bare)
    bare.line("echo in-$TMUX-")
    bare.expect("^in--$")
    bare.line("sudo poweroff")
    bare.ended()
    assert "Container removed" in bare.log
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_the_end_of_the_tool_leaves_a_shell(host: Host) -> None:
    screen = start(host)
    to_bash(screen)
    screen.expect("This is a shell inside the container")
    screen.line("id -un; pwd; hostname")
    screen.expect("^code$")
    screen.expect("^/workspace$")
    screen.expect(f"^{host.instance()}$")
    screen.line("exit")
    screen.ended()
    assert "Container kept running" in screen.log
    assert host.instances() == {host.instance(): "Running"}
    host.drop()


def test_coi_killed_in_mid_session(host: Host) -> None:
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    screen.child.kill(signal.SIGKILL)
    screen.end()
    wait_for(lambda: not host.pids(), what=lambda: str(host.pids()), timeout=10)
    name = host.instance()
    assert name in host.coi("list").ok().out
    resumed = host.screen("shell", "--resume")
    resumed.expect(PROMPT)
    assert codes(resumed) == ["CODE-PLUM"]
    power_off(resumed)
    resumed.ended()
    host.settled()
    last = start(host, "--resume")
    assert codes(last) == ["CODE-PLUM"]
    power_off(last)
    last.end()


def test_a_resume_waits_for_the_coi_that_has_not_saved_yet(host: Host) -> None:
    """It would go on with what that one saved before."""
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    screen.detach()
    screen.end()
    (saved,) = host.saved()
    screen = host.screen("attach")
    screen.expect("you said: remember CODE-PLUM")
    ask(screen, "and CODE-PEAR")
    screen.child.kill(signal.SIGSTOP)
    incus("stop", "--force", host.instance()).ok()
    resumed = host.screen("shell", f"--resume={saved['id']}")
    with pytest.raises(AssertionError):
        resumed.expect_log("Setting up", timeout=2)
    assert host.instances() == {host.instance(): "Stopped"}
    screen.child.kill(signal.SIGCONT)
    resumed.expect(PROMPT)
    screen.ended()
    assert "Session data saved" in screen.log
    assert codes(resumed) == ["CODE-PLUM", "CODE-PEAR"]
    power_off(resumed)
    resumed.end()
    host.settled()


@pytest.mark.parametrize("how", ["inside", "outside"])
def test_coi_killed_and_the_instance_stopped(host: Host, how: str) -> None:
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    screen.child.kill(signal.SIGKILL)
    screen.end()
    name = host.instance()
    if how == "inside":
        host.inside("systemctl poweroff", ok=False)
    else:
        incus("stop", "--force", name).ok()
    # The daemon says Stopped, then Running once more, before it has dealt with the stop.
    power = f"/1.0/instances/{name}"
    wait_for(lambda: query(power)["config"]["volatile.last_state.power"] == "STOPPED")
    assert host.saved() == []
    elsewhere = host.directory("elsewhere")
    away = host.coi("list", environ={"COI_HOME": str(elsewhere)}).ok()
    assert "Recovering" not in away.err
    assert host.instances() == {name: "Stopped"}, "a session of another COI_HOME is not touched"
    recovered = host.coi("list", "--all", "--format", "json").ok()
    assert "Recovering session" in recovered.err
    assert name not in {row["name"] for row in recovered.json["active_containers"]}
    (saved,) = recovered.json["saved_sessions"]
    host.settled()
    resumed = start(host, "--resume")
    assert codes(resumed) == ["CODE-PLUM"]
    assert host.saved()[0]["id"] == saved["id"]
    power_off(resumed)
    resumed.end()


# What does not list containers for its own ends asks nothing more of Incus (docs/sessions.md).
LISTING = {"tmux list": 0, "attach": 0, "kill none-such": 3, "persist none-such": 3}


@pytest.mark.parametrize("command", LISTING)
def test_a_command_that_lists_recovers(host: Host, command: str) -> None:
    host.coi("shell", "--background").ok()
    name = host.instance()
    wait_for(lambda: "dummy>" in host.coi("tmux", "capture", name).out)
    host.coi("tmux", "send", name, "remember CODE-PLUM").ok()
    wait_for(lambda: "you said" in host.coi("tmux", "capture", name).out)
    incus("stop", "--force", name).ok()
    done = host.coi(*command.split())
    assert done.code == LISTING[command], done.err
    assert f"of {name}" in done.err
    host.settled()
    (saved,) = host.saved()
    assert "CODE-PLUM" in said(host.state_file(saved["id"]))


def test_terminal_modes_come_back(host: Host) -> None:
    # After SIGKILL the client ends a moment after coi: it is what puts them back.
    script = (
        f"stty -a >before; {COI} shell; for i in {{1..100}}; do stty -a >after;"
        " cmp -s before after && break; sleep 0.05; done; echo finished"
    )
    for signum in (None, signal.SIGTERM, signal.SIGKILL):
        screen = host.screen(command=["bash", "-c", script])
        screen.expect(PROMPT)
        if signum is None:
            screen.detach()
        else:
            (coi,) = [
                pid for pid in children(screen.pid)
                if str(COI).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]  # fmt: skip
            import os

            os.kill(coi, signum)
        screen.expect_log("^finished")
        screen.end()
        assert (host.workspace / "after").read_text() == (host.workspace / "before").read_text(), (
            signum
        )
        wait_for(lambda: not host.pids(), timeout=10)
        host.drop()
