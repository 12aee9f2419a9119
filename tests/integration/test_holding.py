"""A power-off inside waits until the session's state is read (coi.session.holding)."""

from __future__ import annotations

import signal
import time

from dummy import PROMPT, ask, booted, codes, power_off, said, start

from coi.incus.payload import Payload
from coi.testing.host import Host
from coi.testing.machine import incus, wait_for
from coi.testing.screen import Screen

_AT_ONCE = 4.0  # seconds: nothing was waited for; a shutdown that waits in vain takes 5 longer


def _as_root(name: str, script: str) -> str:
    done = incus("exec", name, "-T", "--", "sh", "-c", script)
    assert done.code == 0, done.err
    return done.out


def _session(host: Host) -> Screen:
    """Somebody at a session that has something to lose, its container booted."""
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    booted(host.instance())
    return screen


def _kept(host: Host) -> None:
    """What was said is saved, and the container is gone."""
    host.settled()
    (saved,) = host.saved()
    assert said(host.state_file(saved["id"])) == "remember CODE-PLUM\n"


def _next_coi(host: Host) -> None:
    wait_for(lambda: host.instances() == {host.instance(): "Stopped"}, what="it has stopped")
    wait_for(lambda: host.coi("list").ok() and not host.instances(), what="the next coi's save")


def _seconds_to_stop(name: str) -> float:
    payload = Payload(name, "default")
    assert payload.known
    begun = time.monotonic()
    # Not by the exec itself: where that is the last to end, which on a busy machine it is at
    # times, it is no child of init, whose wait of 10 s for all to end goes on (measured).
    _as_root(name, "setsid systemctl poweroff >/dev/null 2>&1 </dev/null &")
    assert payload.wait_gone(30)
    return time.monotonic() - begun


def test_without_it_the_session_is_saved_all_the_same(host: Host) -> None:
    """The container is started once more then, as for another init."""
    screen = _session(host)
    name = host.instance()
    _as_root(name, 'kill -KILL "$(cat /dev/coi/holder)"')
    power_off(screen)
    screen.ended()
    assert "Container removed" in screen.log
    _kept(host)


def test_what_is_written_at_the_last_moment_is_saved(host: Host) -> None:
    """A process that takes its time when it is told to end."""
    screen = _session(host)
    slow = (
        'trap "sleep 1; echo at last >>~/.dummy/late.log; exit" TERM; while :; do sleep 0.1; done'
    )
    for line in ("exit", f"(setsid bash -c '{slow}' >/dev/null 2>&1 &)"):
        screen.line(line)
        screen.expect(r"\S*[$#] ?$")
    screen.line("sudo poweroff")
    screen.ended()
    assert "Container removed" in screen.log
    host.settled()
    (saved,) = host.saved()
    assert "at last" in said(host.state_file(saved["id"]))


def test_nobody_attached_is_not_waited_for(host: Host) -> None:
    screen = _session(host)
    name = host.instance()
    screen.detach()
    screen.ended()
    assert _seconds_to_stop(name) < _AT_ONCE
    _next_coi(host)
    _kept(host)


def test_a_coi_that_was_killed_is_waited_for_a_while(host: Host) -> None:
    """The control of the one before; nothing is lost by it."""
    screen = _session(host)
    name = host.instance()
    screen.close()
    assert _as_root(name, "cat /dev/coi/attended") == "yes\n"
    assert _seconds_to_stop(name) > _AT_ONCE
    _next_coi(host)
    _kept(host)


def test_a_resume_from_elsewhere_waits_for_the_coi_that_is_with_it(host: Host) -> None:
    """While it powers off, there is no terminal in it to go to."""
    screen = _session(host)
    screen.detach()
    screen.ended()
    (saved,) = host.saved()
    screen = host.screen("attach")
    ask(screen, "and CODE-PEAR")
    screen.child.kill(signal.SIGSTOP)
    name = host.instance()
    _as_root(name, "systemctl --no-block poweroff")
    wait_for(
        lambda: "systemd-shutdow" in incus("exec", name, "-T", "--", "cat", "/proc/1/comm").out
    )
    resumed = host.screen("shell", f"--resume={saved['id']}")
    resumed.expect_log("Waiting for the coi that saves session")
    assert set(host.instances()) == {name}
    screen.child.kill(signal.SIGCONT)
    screen.ended()
    assert "Session data saved" in screen.log
    resumed.expect(PROMPT)
    assert codes(resumed) == ["CODE-PLUM", "CODE-PEAR"]
    power_off(resumed)
    resumed.end()
    host.settled()


def test_a_container_that_says_so_and_goes_on_is_ended(host: Host) -> None:
    """Its own programs tell that it is powering off, and it is not."""
    screen = _session(host)
    name = host.instance()
    lie = "#!/bin/bash\\ncase $* in *patience*) tar -c -f - -T /dev/null; exit 77;; esac\\n"
    _as_root(
        name,
        f"printf '{lie}exec bash \"$@\"\\n' >/tmp/sh && chmod 755 /tmp/sh && mv /tmp/sh /bin/sh",
    )
    begun = time.monotonic()
    screen.detach()
    screen.ended(timeout=60)
    assert "Container removed" in screen.log
    assert time.monotonic() - begun < 30
    host.settled()


def test_a_reboot_is_not_held(host: Host) -> None:
    """What is started again is not told that it goes."""
    screen = _session(host)
    screen.line("exit")
    screen.expect(r"\S*[$#] ?$")
    screen.line("sudo reboot")
    screen.ended()
    _kept(host)
