"""What is done to sessions from outside: info, shutdown, kill, persist."""

from __future__ import annotations

import re
import signal
import time

import pytest
from dummy import ask, background, codes, power_off, said, start
from rows import drop_all, make

from coi.cli.shapes import JSON_KEYS
from coi.testing.host import Host
from coi.testing.machine import incus, query, wait_for


def talk(host: Host, text: str, slot: int = 1) -> None:
    """Say something to a session that nobody is attached to."""
    host.coi("tmux", "send", host.instance(slot), text).ok()
    look = "cat /home/code/.dummy/*.log 2>/dev/null"
    wait_for(lambda: text in host.inside(look, slot=slot, ok=False), what=f"{text!r} to be heard")


def test_shutdown_saves_what_was_said(host: Host) -> None:
    missing = host.coi("info")
    assert (missing.code, missing.out) == (3, "")
    assert "no saved sessions" in missing.err

    background(host)
    name = host.instance()
    talk(host, "remember CODE-PLUM")
    done = host.coi("shutdown", name).ok()
    assert done.out == "Shutdown 1 container(s)\n"
    assert "Session data saved" in done.err
    assert "Container removed" in done.err
    host.settled()
    (saved,) = host.saved()
    state = host.state_file(saved["id"])
    assert said(state) == "remember CODE-PLUM\n"
    assert not list(host.coi_home.glob("locks/*"))

    # info: the latest, by id, as JSON, and without its state
    text = host.coi("info").ok().out
    assert text.startswith("Session Information\n")
    for line in (
        f"Session ID: {saved['id']}",
        "Tool: dummy",
        f"Container: {name}",
        f"Workspace: {host.workspace}",
        f"Saved At: {saved['saved_at']}",
        "Session Data: Present",
        f"Session Path: {state.parent}",
        f"Resume: coi shell --resume={saved['id']}",
    ):
        assert f"\n  {line}\n" in text
    assert re.search(r"^  Data Size: \d+(\.\d)? K?i?B in \d+ file\(s\)$", text, re.M)
    assert host.coi("info", saved["id"].upper()).ok().out == text
    data = host.coi("info", "--format", "json").ok().json
    assert tuple(data) == JSON_KEYS["info"][""]
    assert {key: data[key] for key in ("id", "container", "tool", "size", "files", "data")} == {
        **{key: saved[key] for key in ("id", "container", "tool", "size", "files")},
        "data": True,
    }
    state.rename(state.with_suffix(".away"))
    assert "Session Data: Missing" in host.coi("info").ok().out
    state.with_suffix(".away").rename(state)
    for args, code, message in (
        (["01234567-89ab-4def-8123-456789abcdef"], 3, "no saved session 01234567"),
        (["../x"], 2, "not a session id: '../x'"),
        (["--format", "xml"], 2, "invalid format"),
    ):
        failed = host.coi("info", *args)
        assert (failed.code, failed.out) == (code, "")
        assert message in failed.err

    # and what was said is there again; a kill forgets what came since
    resumed = start(host, "--resume")
    assert codes(resumed) == ["CODE-PLUM"]
    ask(resumed, "and CODE-PEAR")
    killed = host.coi("kill", name).ok()
    assert killed.out == "Killed 1 container(s)\n"
    resumed.ended()
    assert "Container is gone" in resumed.log
    assert "Error" not in resumed.log
    host.settled()
    assert "CODE-PEAR" not in said(host.state_file(saved["id"]))
    assert [row["saved_at"] for row in host.saved()] == [saved["saved_at"]]


@pytest.mark.parametrize("timeout", ["3", "0"])
def test_shutdown_right_after_boot(host: Host, timeout: str) -> None:
    background(host)
    began = time.monotonic()
    host.coi("shutdown", "--timeout", timeout, host.instance()).ok()
    assert time.monotonic() - began < 30
    host.settled()
    assert len(host.saved()) == 1, "the dummy's settings were saved"


def test_shutdown_of_one_that_does_not_stop(host: Host) -> None:
    """Its systemd has no target to stop with: the deadline, then force."""
    background(host)
    talk(host, "remember CODE-PLUM")
    host.inside("systemctl mask --runtime poweroff.target halt.target shutdown.target")
    began = time.monotonic()
    done = host.coi("shutdown", "--timeout", "2", "-v", host.instance()).ok()
    assert 2 < time.monotonic() - began < 30
    stops = [call for call in done.incus_calls if '"action":"stop"' in call]
    assert ['"force":true' in call for call in stops] == [False, True, True], stops
    host.settled()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_shutdown_of_a_frozen_one(host: Host) -> None:
    background(host)
    talk(host, "remember CODE-PLUM")
    incus("pause", host.instance()).ok()
    assert host.coi("shutdown", host.instance()).ok().out == "Shutdown 1 container(s)\n"
    host.settled()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_shutdown_while_another_coi_is_attached(host: Host) -> None:
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    done = host.popen("shutdown", host.instance())
    screen.ended()
    assert "Session data saved" in screen.log
    assert "Container removed" in screen.log
    result = host.result(done).ok()
    assert result.out == "Shutdown 1 container(s)\n"
    assert "Session data saved" not in result.err, "saved once, by the one that is attached"
    host.settled()
    (saved,) = host.saved()
    assert said(host.state_file(saved["id"])) == "remember CODE-PLUM\n"


def test_persist_then_power_off(host: Host) -> None:
    """The coi that is attached began with an ephemeral session."""
    screen = start(host)
    name = host.instance()
    ask(screen, "remember CODE-PLUM")
    assert "(ephemeral)" in host.coi("list").ok().out
    assert host.coi("persist", name).ok().out == "Persisted 1 container(s)\n"
    assert "(persistent)" in host.coi("list").ok().out
    power_off(screen)
    screen.ended()
    assert "Container stopped and kept" in screen.log
    assert host.instances() == {name: "Stopped"}
    assert host.coi("list", "--format", "json").ok().json["active_containers"][0]["persistent"]
    # a stopped one can be shut down: saved before, deleted now
    assert host.coi("shutdown", name).ok().out == "Shutdown 1 container(s)\n"
    host.settled()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


VERBS = {"shutdown": "Shutdown", "kill": "Killed", "persist": "Persisted"}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_errors_that_all_three_share(host: Host, verb: str) -> None:
    nothing = host.coi(verb)
    assert (nothing.code, nothing.out) == (2, "")
    assert "no container names provided - use 'coi list'" in nothing.err
    both = host.coi(verb, "--all", "x")
    assert both.code == 2
    unknown = host.coi(verb, host.prefix + "none")
    assert (unknown.code, unknown.out) == (3, f"{VERBS[verb]} 0 container(s)\n")
    assert f"no container of coi named {host.prefix}none" in unknown.err
    assert "Hint: coi list" in unknown.err
    assert host.coi(verb, "--all", "--force").ok().out == f"{VERBS[verb]} 0 container(s)\n"

    plain = make(host, "plain", config={})
    foreign = make(host, "foreign", owner="4242")
    assert host.coi(verb, plain).code == 3, "it is not coi's"
    refused = host.coi(verb, foreign)
    assert refused.code == 5
    assert "belongs to another user (uid 4242)" in refused.err
    assert host.instances() == {plain: "Stopped", foreign: "Stopped"}
    assert query(f"/1.0/instances/{foreign}")["config"]["user.coi.persistent"] == "true"
    drop_all(host)


def test_several_side_by_side(host: Host) -> None:
    # saved, so that no command has to recover them first
    made = [make(host, f"e{n}", persistent="false", state="saved") for n in range(3)]
    other = make(host, "home", locks="elsewhere:1:/nowhere", persistent="false")
    gone = host.prefix + "none"
    asked = host.coi("persist", *made)
    assert (asked.code, asked.out) == (2, "")
    assert "Persist 3 container(s)" in asked.err
    assert "no terminal to ask on" in asked.err
    assert "Hint: --force does not ask" in asked.err

    some = host.coi("persist", "--force", made[0], gone, made[1], made[1])
    assert (some.code, some.out) == (3, "Persisted 2 container(s)\n")
    assert some.err.count("Error:") == 1
    kept = [query(f"/1.0/instances/{n}")["config"]["user.coi.persistent"] for n in (*made, other)]
    assert kept == ["true", "true", "false", "false"]
    everything = host.coi("persist", "--all", "--force").ok()
    assert everything.out == "Persisted 3 container(s)\n", "not that of another coi home"

    run = make(host, "run", session_id=None, state="container")
    mixed = host.coi("persist", "--force", run, gone)
    assert mixed.code == 1, "two kinds of failure"
    assert f"{run} is not a session" in mixed.err
    assert f"no container of coi named {gone}" in mixed.err

    refused = host.coi("shutdown", other)
    assert refused.code == 5
    assert "is a session of another COI_HOME" in refused.err

    screen = host.screen("kill", *made)
    screen.expect_log(r"Kill 3 container\(s\): .*\? \[y/N\] $")
    screen.line("n")
    assert "not confirmed, nothing done" in screen.ended(1)
    assert len(host.instances()) == 5
    screen = host.screen("kill", "--all")
    screen.expect_log(r"\[y/N\] $")
    screen.line("y")
    assert "Killed 3 container(s)" in screen.ended()
    assert host.instances() == {other: "Stopped", run: "Stopped"}
    done = host.coi("kill", "--force", run, gone, other)
    assert (done.code, done.out) == (3, "Killed 2 container(s)\n")
    host.settled()


def test_shutdown_of_all(host: Host) -> None:
    """Two that run are saved each; one whose workspace is gone, too; one is unknown."""
    background(host)
    other = host.directory("other")
    host.coi("shell", "--background", "-w", str(other)).ok()
    talk(host, "remember CODE-ONE")
    incus("stop", "--force", host.instance(1, other)).ok()
    other.rmdir()
    done = host.coi("shutdown", "--all", "--force").ok()
    assert done.out == "Shutdown 2 container(s)\n"
    host.settled()
    assert len(host.saved()) == 2
    assert "CODE-ONE" in said(host.state_file(host.saved(host.workspace)[0]["id"]))


def test_progress_of_several(host: Host) -> None:
    """On a terminal a line that is gone at the end, in a pipe nothing more."""
    for _ in range(2):
        background(host)
    screen = host.screen("shutdown", "--all", "--force")
    screen.expect_log(r"1 of 2 done")
    assert screen.end() == 0
    assert "done" not in screen.text
    assert "Shutdown 2 container(s)" in screen.text
    host.settled()
    for _ in range(2):
        background(host)
    assert " of 2 " not in host.coi("kill", "--all", "--force").ok().err
    host.settled()


def test_interrupted_shutdown_loses_nothing(host: Host) -> None:
    background(host)
    talk(host, "remember CODE-PLUM")
    host.inside("systemctl mask --runtime poweroff.target halt.target shutdown.target")
    done = host.popen("shutdown", "--timeout", "50", host.instance())
    wait_for(lambda: len(host.pids()) > 1)
    time.sleep(0.3)  # somewhere in its wait
    done.send_signal(signal.SIGINT)
    result = host.result(done)
    assert result.code == 130
    assert host.instances() == {host.instance(): "Running"}
    host.coi("shutdown", "--timeout", "1", host.instance()).ok()
    host.settled()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_a_kept_container_whose_session_went_on_in_another(host: Host) -> None:
    """Its state is older than what is saved: shutting it down saves nothing over that."""
    host.coi("shell", "--background", "--persistent").ok()
    talk(host, "remember CODE-PLUM")
    first, second = host.instance(1), host.instance(2)
    incus("stop", "--force", first).ok()
    host.coi("list").ok()
    (saved,) = host.saved()
    host.coi("shell", "--background", "--slot", "2", f"--resume={saved['id']}").ok()
    assert host.instances() == {first: "Stopped", second: "Running"}
    talk(host, "remember CODE-PEAR", slot=2)
    host.coi("shutdown", second).ok()
    newer = host.state_file(saved["id"]).read_bytes()
    assert "CODE-PEAR" in said(host.state_file(saved["id"]))
    host.coi("shutdown", first).ok()
    host.settled()
    assert host.state_file(saved["id"]).read_bytes() == newer
