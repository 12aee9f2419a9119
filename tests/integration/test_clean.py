"""`coi clean`: what nobody needs goes, what is not saved is saved first."""

from __future__ import annotations

from dummy import background, said
from rows import drop_all, make

from coi.testing.host import Host
from coi.testing.machine import incus, wait_for

NOTHING = "Nothing to clean.\n"


def abandoned(host: Host) -> str:
    """A session in which something was said, stopped from outside, its coi gone."""
    background(host)
    name = host.instance()
    host.coi("tmux", "send", name, "remember CODE-PLUM").ok()
    wait_for(lambda: "CODE-PLUM" in host.inside("cat /home/code/.dummy/*.log", ok=False))
    incus("stop", "--force", name).ok()
    return name


def test_a_stopped_session_is_saved_first(host: Host) -> None:
    assert host.coi("clean").ok().out == NOTHING
    assert not list(host.coi_home.glob("locks/*"))
    name = abandoned(host)
    asked = host.coi("clean")
    assert (asked.code, asked.out) == (2, "")
    assert f"container {name}: stopped" in asked.err
    assert "Clean 1 item(s)? - no terminal to ask on" in asked.err

    no = host.screen("clean")
    no.expect_log(r"Clean 1 item\(s\)\? \[y/N\] $")
    no.line("n")
    assert "not confirmed, nothing done" in no.ended(1)
    assert host.instances() == {name: "Stopped"}
    assert host.saved() == []
    yes = host.screen("clean")
    yes.expect_log(r"\[y/N\] $")
    yes.line("y")
    assert "Cleaned 1 item(s)" in yes.ended()
    host.settled()
    (saved,) = host.saved()
    assert said(host.state_file(saved["id"])) == "remember CODE-PLUM\n"

    # and saved sessions go only when they are named
    assert host.coi("clean", "--force").ok().out == NOTHING
    kept = make(host, "kept")
    of_kept = host.coi_home / "sessions-dummy" / "01234567-89ab-4def-8123-456789abcdef"
    host.write(
        of_kept.relative_to(host.root) / "metadata.json",
        '{"id": "01234567-89ab-4def-8123-456789abcdef", "tool": "dummy", "workspace": "/x",'
        f' "container": "{kept}", "saved_at": "2026-01-01T00:00:00+00:00"}}',
    )
    assert host.coi("clean", "--sessions", "--force").ok().out == "Cleaned 1 item(s)\n"
    assert [row["container"] for row in host.saved()] == [kept], "its container is still there"
    assert not host.coi_home.joinpath("sessions-dummy", saved["id"]).exists()
    drop_all(host)
    assert host.coi("clean", "--sessions", "--force").ok().out == "Cleaned 1 item(s)\n"
    assert host.saved() == []


def test_what_is_left_behind_and_what_is_not(host: Host) -> None:
    stale = host.write(f"coi/locks/{host.prefix}gone.lock", "")
    build = host.write("coi/locks/build-coi.lock", "")
    removing = make(host, "removing", state="removing")
    half = make(host, "half", start=True, state="removing", ephemeral=True)
    kept = {
        make(host, "persistent"): "Stopped",
        make(host, "running", start=True, persistent="false", state="session"): "Running",
        make(host, "launched", session_id=None, state="container"): "Stopped",
        make(host, "stranger", owner="4242", persistent="false"): "Stopped",
        make(host, "home", locks="elsewhere:1:/nowhere", persistent="false"): "Stopped",
        make(host, "plain", config={}): "Stopped",
    }
    done = host.coi("clean", "--force").ok()
    assert done.out == "Cleaned 3 item(s)\n"
    assert f"container {removing}: half deleted" in done.err
    assert f"container {half}: half deleted" in done.err
    assert f"lock {host.prefix}gone: its container is gone" in done.err
    host.settled(kept)
    assert not stale.exists()
    assert list(host.coi_home.glob("locks/*")) == [build], "it leaves no locks of its own"
    assert host.coi("clean", "--force").ok().out == NOTHING
    drop_all(host)


def test_all(host: Host) -> None:
    name = abandoned(host)
    host.coi("persist", name).ok()
    launched = make(host, "launched", session_id=None, state="container")
    foreign = make(host, "stranger", owner="4242")
    done = host.coi("clean", "--all", "--force").ok()
    assert done.out == "Cleaned 2 item(s)\n"
    host.settled({foreign: "Stopped"})
    assert launched not in host.instances()
    (saved,) = host.saved()
    assert said(host.state_file(saved["id"])) == "remember CODE-PLUM\n"
    assert host.coi("clean", "--all", "--force").ok().out == "Cleaned 1 item(s)\n"
    assert host.saved() == []
    drop_all(host)


def test_one_that_cannot_be_saved_is_kept(host: Host) -> None:
    """Where its state should go there is a file. The rest is cleaned all the same."""
    name = abandoned(host)
    stale = host.write(f"coi/locks/{host.prefix}gone.lock", "")
    in_the_way = host.write("coi/sessions-dummy", "")
    done = host.coi("clean", "--force")
    assert (done.code, done.out) == (1, "Cleaned 1 item(s)\n")
    assert "Error: cannot save the session" in done.err
    assert not stale.exists()
    host.settled({name: "Stopped"})
    in_the_way.unlink()
    assert host.coi("clean", "--force").ok().out == "Cleaned 1 item(s)\n"
    host.settled()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_started_while_it_asks(host: Host) -> None:
    name = abandoned(host)
    asking = host.screen("clean")
    asking.expect_log(r"\[y/N\] $")
    incus("start", name).ok()
    asking.line("y")
    assert f"{name} was started meanwhile" in asking.ended(1)
    assert host.instances() == {name: "Running"}
    host.drop()


def test_after_a_shutdown_there_is_nothing_to_clean(host: Host) -> None:
    """The daemon is still deleting when `coi shutdown` returns."""
    background(host)
    host.coi("shutdown", "--timeout", "0", host.instance()).ok()
    assert host.coi("clean", "--force").ok().out == NOTHING
    assert host.instances() == {}
