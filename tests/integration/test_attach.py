"""Going in before the daemon has told who is there: what is known may have become wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.counting import Counter
from dummy import PROMPT, ask, background, said

from coi.session.known import Known, note, recall
from coi.session.locks import Lock
from coi.testing.host import Host
from coi.testing.machine import incus, wait_for
from coi.workspace.ownership import SessionUser

NOBODY = SessionUser("nobody", 65534, 65534, "/nonexistent")


@pytest.fixture
def host(host: Host) -> Iterator[Host]:
    """Its sessions run on where a test leaves them: they are ended after it."""
    yield host
    host.sweep()


def lock_of(host: Host, slot: int = 1) -> Path:
    return host.coi_home / "locks" / f"{host.instance(slot)}.lock"


def test_the_client_runs_before_the_list_is_there(host: Host) -> None:
    background(host)
    known = recall(lock_of(host).parent, None)
    assert known is not None
    assert known == recall(lock_of(host).parent, host.instance())
    assert (known.instance, known.user.uid) == (host.instance(), host.user.uid)
    counter = Counter(host)
    counter.begin()
    screen = host.screen("attach", environ=counter.environ)
    screen.expect(PROMPT)
    counter.stop(screen.pid)
    ask(screen, "remember CODE-PLUM")
    screen.detach()
    screen.ended()
    assert [call[0] for call in counter.taken().calls] == ["exec", "query"]
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_another_user_than_was_known(host: Host) -> None:
    """Somebody's note: the daemon has the last word."""
    background(host)
    host.write(lock_of(host), note(NOBODY))
    screen = host.screen("attach")
    screen.expect(PROMPT)
    ask(screen, "remember CODE-PLUM")
    screen.detach()
    screen.ended()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


def test_one_that_is_no_more(host: Host) -> None:
    background(host)
    lock = lock_of(host)
    text = Lock(lock).read()
    host.coi("kill", "--force", host.instance()).ok()
    host.settled()
    assert not lock.exists()
    host.write(lock, text)
    assert isinstance(recall(lock.parent, None), Known)
    screen = host.screen("attach")
    screen.ended()
    assert screen.log.rstrip().endswith("No active sessions")
    assert "Error" not in screen.log
    named = host.screen("attach", host.instance())
    named.ended(3)
    assert f"{host.instance()} not found or not running" in named.log
    assert named.log.count("Error") == 1, "what the client said of it is nobody's business"
    lock.unlink()


def test_one_that_came_beside_it(host: Host) -> None:
    """A lock knows of one, the daemon of two: they are listed, as ever."""
    background(host)
    background(host, "--slot", "2")
    host.write(lock_of(host, 2), "")
    assert recall(lock_of(host).parent, None) is not None
    screen = host.screen("attach")
    screen.ended()
    assert "Active sessions:" in screen.log
    assert host.instance(2) in screen.log


def test_another_is_recovered_behind_the_screen(host: Host) -> None:
    background(host)
    background(host, "--slot", "2")
    incus("stop", "--force", host.instance(2)).ok()
    screen = host.screen("attach", host.instance())
    screen.expect(PROMPT)
    wait_for(lambda: len(host.saved()) == 1, timeout=30, what="the other one is saved")
    wait_for(lambda: host.instance(2) not in host.instances(), timeout=30, what="it is removed")
    assert "Recovering" not in screen.log
    assert "Recovering" not in ask(screen, "remember CODE-PLUM")
    screen.detach()
    screen.ended()
    assert re.search(f"Recovering session .* of {host.instance(2)}", screen.log)
    assert host.instances() == {host.instance(): "Running"}


@pytest.mark.parametrize("bash", [False, True])
def test_nobody_goes_in_before_the_network_is_seen(host: Host, bash: bool) -> None:
    background(host)
    counter = Counter(host)
    counter.begin()
    words = ["attach", host.instance(), *(["--bash"] if bash else []), "--network=restricted"]
    screen = host.screen(*words, environ=counter.environ)
    screen.ended(5)
    assert [call[0] for call in counter.taken().calls] == ["query"]
    assert "runs with --network open, not restricted" in screen.log
