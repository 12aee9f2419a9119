"""Going in before the daemon has told who is there: what is known may have become wrong."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from dummy import PROMPT, ask, background, booted, power_off, said, start

from coi.session.known import Known, note, noted, recall
from coi.session.locks import Lock
from coi.testing.host import PATH, Host, held
from coi.testing.machine import children, incus, wait_for
from coi.testing.screen import Screen
from coi.workspace.ownership import SessionUser

NOBODY = SessionUser("nobody", 65534, 65534, "/nonexistent")

# A client whose answers to questions wait for a word.
_CLIENT = """#!/bin/sh
printf '%s\\n' "$1" >>{calls}
if [ "$1" = query ]; then
  until [ -e {go} ]; do sleep 0.02; done
fi
exec incus "$@"
"""


class Daemon:
    """One that does not answer before it may: what an exec does meanwhile is seen."""

    def __init__(self, host: Host) -> None:
        directory = host.directory("slow")
        self._calls, self._go = directory / "calls", directory / "go"
        host.write(self._calls, "")
        text = _CLIENT.format(calls=self._calls, go=self._go)
        client = host.write(
            "slow/bin/incus", text.replace("exec incus", f"PATH={PATH} exec incus"), 0o755
        )
        self.environ: Mapping[str, str] = {"PATH": f"{client.parent}:{PATH}"}
        self._host = host

    @property
    def calls(self) -> list[str]:
        """What clients were started for; two that start at once are in any order."""
        return self._calls.read_text().split()

    def answers(self) -> None:
        self._host.write(self._go, "")


@pytest.fixture
def host(host: Host) -> Iterator[Host]:
    """Its sessions run on where a test leaves them: they are ended after it."""
    yield host
    host.sweep()


@pytest.fixture
def daemon_held(host: Host) -> Daemon:
    return Daemon(host)


def lock_of(host: Host, slot: int = 1) -> Path:
    return host.coi_home / "locks" / f"{host.instance(slot)}.lock"


def known(host: Host) -> Known:
    """What the first session's lock remembers."""
    found = noted(host.instance(), Lock(lock_of(host)).read())
    assert found is not None
    return found


def runs(host: Host) -> None:
    """A session that has come up: what has just started a busy daemon cannot always enter, and
    coi tries that again once it has been told."""
    background(host)
    booted(host.instance())


def talks_and_leaves(host: Host, screen: Screen) -> None:
    """It is this session, and it is saved."""
    ask(screen, "remember CODE-PLUM")
    screen.detach()
    screen.ended()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def inside(screen: Screen) -> list[int]:
    """The clients that this coi has for an exec."""
    found = []
    for pid in children(screen.pid):
        with suppress(OSError):
            if b"\0exec\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_the_prompt_is_there_before_the_daemon_has_answered(
    host: Host, daemon_held: Daemon
) -> None:
    runs(host)
    for name in (None, host.instance()):
        assert recall(lock_of(host).parent, host.prefix, name) == known(host)
    assert known(host).user.uid == host.user.uid
    screen = host.screen("attach", environ=daemon_held.environ)
    screen.expect(PROMPT)
    ask(screen, "remember CODE-PLUM")
    daemon_held.answers()
    screen.detach()
    screen.ended()
    assert sorted(daemon_held.calls[:2]) == ["exec", "query"]
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


@pytest.mark.parametrize("what", ["start", "user"])
def test_what_is_known_is_of_another(host: Host, daemon_held: Daemon, what: str) -> None:
    """Nobody gets in by it; the daemon has the last word."""
    runs(host)
    user, start = known(host).user, known(host).start
    wrong = note(user, uuid.uuid4().hex) if what == "start" else note(NOBODY, start)
    host.write(lock_of(host), wrong)
    screen = host.screen("attach", environ=daemon_held.environ)
    wait_for(lambda: len(daemon_held.calls) == 2, timeout=20, what="it has tried")
    wait_for(lambda: not inside(screen), timeout=20, what="the client has ended")
    assert "dummy>" not in screen.text
    daemon_held.answers()
    screen.expect(PROMPT)
    assert sorted(daemon_held.calls) == ["exec", "exec", "query", "query"]
    talks_and_leaves(host, screen)


def test_one_that_is_no_more(host: Host) -> None:
    background(host)
    lock = lock_of(host)
    text = Lock(lock).read()
    host.coi("kill", "--force", host.instance()).ok()
    host.settled()
    assert not lock.exists()
    host.write(lock, text)
    screen = host.screen("attach")
    screen.ended()
    assert screen.log.rstrip().endswith("No active sessions")
    assert "Error" not in screen.log, "what the client said of it is nobody's business"
    named = host.screen("attach", host.instance())
    named.ended(3)
    assert f"{host.instance()} not found or not running" in named.log
    assert named.log.count("Error") == 1
    lock.unlink()


def test_one_that_came_beside_it(host: Host, daemon_held: Daemon) -> None:
    """The locks know of one, the daemon of two: they are listed, as ever."""
    runs(host)
    background(host, "--slot", "2")
    lock_of(host, 2).unlink()
    screen = host.screen("attach", environ=daemon_held.environ)
    screen.expect(PROMPT)
    daemon_held.answers()
    screen.ended()
    assert "Active sessions:" in screen.log
    assert host.instance(2) in screen.log
    assert not host.saved()


def test_a_lock_without_a_note_is_doubt(host: Host) -> None:
    """An earlier coi noted nothing."""
    background(host)
    background(host, "--slot", "2")
    host.write(lock_of(host, 2), "")
    assert recall(lock_of(host).parent, host.prefix, None) is None
    assert recall(lock_of(host).parent, host.prefix, host.instance()) == known(host)


def test_another_is_recovered_first(host: Host, daemon_held: Daemon) -> None:
    """What that says is not written on the session's screen."""
    runs(host)
    background(host, "--slot", "2")
    incus("stop", "--force", host.instance(2)).ok()
    screen = host.screen("attach", host.instance(), environ=daemon_held.environ)
    screen.expect(PROMPT)
    daemon_held.answers()
    screen.expect_log(f"Recovering session .* of {host.instance(2)}")
    screen.expect(PROMPT)
    assert len(host.saved()) == 1
    assert "Recovering" not in screen.text
    screen.detach()
    screen.ended()
    host.settled({host.instance(): "Running"})


def test_another_name_of_the_user(host: Host, daemon_held: Daemon) -> None:
    """The home has the mark, and lets him in; the daemon puts him out."""
    runs(host)
    user, start = known(host).user, known(host).start
    host.write(lock_of(host), note(SessionUser("dev", user.uid, user.gid, user.home), start))
    screen = host.screen("attach", environ=daemon_held.environ)
    screen.expect(PROMPT)
    daemon_held.answers()
    wait_for(lambda: len(daemon_held.calls) == 4, timeout=20, what="it goes in anew")
    screen.expect(PROMPT)
    talks_and_leaves(host, screen)


def test_ended_once_the_daemon_has_answered(host: Host) -> None:
    background(host)
    screen = host.screen("attach")
    screen.expect(PROMPT)
    ask(screen, "remember CODE-PLUM")
    wait_for(lambda: held(lock_of(host)), timeout=20, what="it attends to the session")
    os.kill(screen.pid, signal.SIGTERM)
    screen.ended(130)
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_deleted_under_it(host: Host) -> None:
    """Nothing is remembered of it."""
    background(host)
    screen = host.screen("attach")
    screen.expect(PROMPT)
    wait_for(lambda: held(lock_of(host)), timeout=20, what="it attends to the session")
    incus("delete", "--force", host.instance()).ok()
    screen.ended()
    assert "Container is gone" in screen.log
    assert not lock_of(host).exists()


def test_a_kept_one_is_not_gone_to(host: Host) -> None:
    screen = start(host, "--persistent")
    assert known(host)
    power_off(screen)
    screen.ended()
    assert host.instances() == {host.instance(): "Stopped"}
    assert Lock(lock_of(host)).read() == ""
    background(host, "--persistent")
    assert known(host)
    incus("stop", "--force", host.instance()).ok()
    assert "Recovering session" in host.coi("list").ok().err
    assert Lock(lock_of(host)).read() == ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ended_before_the_daemon_has_answered(
    host: Host, daemon_held: Daemon, signum: signal.Signals
) -> None:
    """A daemon that hangs holds nobody; the session runs on."""
    runs(host)
    screen = host.screen("attach", environ=daemon_held.environ)
    screen.expect(PROMPT)
    os.kill(screen.pid, signum)
    screen.ended(130)
    assert host.instances() == {host.instance(): "Running"}
    again = host.screen("attach")
    again.expect(PROMPT)
    again.detach()
    again.ended()


@pytest.mark.parametrize(
    ("flags", "code"), [(["--network=restricted"], 5), (["-v"], 0), (["--bash"], 0)]
)
def test_where_the_daemon_is_asked_first(
    host: Host, daemon_held: Daemon, flags: list[str], code: int
) -> None:
    """The network must be seen, -v writes on the screen, and a shell comes in as root."""
    runs(host)
    screen = host.screen("attach", host.instance(), *flags, environ=daemon_held.environ)
    wait_for(lambda: daemon_held.calls, timeout=20, what="its first call")
    daemon_held.answers()
    if code:
        screen.ended(code)
        assert daemon_held.calls == ["query"]
        assert "runs with --network open, not restricted" in screen.log
        return
    screen.expect(r"/workspace\S*[$#] ?$" if flags == ["--bash"] else PROMPT)
    assert daemon_held.calls == ["query", "exec"]
    screen.line("exit") if flags == ["--bash"] else screen.detach()
    screen.ended()
