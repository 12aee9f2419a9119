"""coi is killed at every call to Incus that it makes: nothing that was said is lost, the next
coi works, and what is left is found."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pexpect
import pytest
from dummy import said
from spoilt import KILLED, Spoilt, spoil

from coi.testing.host import Host
from coi.testing.machine import DEADLINE, Result, incus, wait_for
from coi.testing.screen import Screen

# systemd may still be on its way up.
_POWER_OFF = "until systemctl poweroff 2>/dev/null; do sleep 0.1; done"
_MOST = 40  # calls that no command makes


def running(host: Host) -> list[str]:
    """The instances that run."""
    return [name for name, status in host.instances().items() if status == "Running"]


def say(host: Host, name: str, text: str) -> None:
    """Have the tool of a session in the background remember something."""
    log = f"grep -rqF '{text}' /home/code/.dummy"
    wait_for(lambda: "dummy>" in host.coi("tmux", "capture", name).out)
    host.coi("tmux", "send", name, text).ok()
    wait_for(lambda: incus("exec", name, "-T", "--", "sh", "-c", log).code == 0)


def held(host: Host) -> str:
    """All that was said, as far as it is saved or in a container that runs."""
    texts = [said(host.state_file(row["id"])) for row in host.saved()]
    read = "cat /home/code/.dummy/*.log 2>/dev/null"
    texts += [incus("exec", name, "-T", "--", "sh", "-c", read).out for name in running(host)]
    return "".join(texts)


Run = Callable[[Host, Spoilt], Result | None]


def _command(*args: str) -> Run:
    def run(host: Host, spoilt: Spoilt) -> Result | None:
        return host.coi(*args, environ=spoilt.environ)

    return run


def _on_screen(*args: str, end: str) -> Run:
    """On a terminal, until the prompt is there; then ``end`` it."""

    def run(host: Host, spoilt: Spoilt) -> Result | None:
        screen: Screen = host.screen(*args, environ=spoilt.environ)
        deadline = time.monotonic() + DEADLINE
        while "dummy>" not in screen.text and screen.pump(0.1) and screen.alive():
            assert time.monotonic() < deadline, screen.dump()
        with suppress(OSError, pexpect.ExceptionPexpect):
            if screen.alive() and end == "detach":
                screen.detach()
            elif screen.alive():
                for name in running(host):
                    incus("exec", name, "-T", "--", "sh", "-c", _POWER_OFF)
        screen.wait_exit()
        screen.close()
        return None

    return run


# What is killed: what stands before, and the command.
RESUMED = ("shell", "--background", "--resume")
FLOWS: dict[str, tuple[tuple[str, ...], Run]] = {
    "start": ((), _command(*RESUMED)),
    "shell and power-off": ((), _on_screen("shell", "--resume", end="power-off")),
    "attach and detach": (RESUMED, _on_screen("attach", end="detach")),
    "shutdown": (RESUMED, _command("shutdown", "--all", "--force")),
    "persistent start": ((), _command(*RESUMED, "--persistent")),
    "persistent shutdown": (
        (*RESUMED, "--persistent"), _command("shutdown", "--all", "--force"),
    ),
    "prompt": ((), _command("run", "--prompt", "remember CODE-ASKED")),
    "run": ((), _command("run", "true")),
    "clean": (RESUMED, _command("clean", "--force")),
}  # fmt: skip


class Trial:
    """A world in which coi is killed again and again."""

    def __init__(self, host: Host, flow: str) -> None:
        self.host = host
        self.flow = flow
        self.before, self.run = FLOWS[flow]
        host.coi("run", "--prompt", "remember CODE-FIRST").ok()
        self.codes = ["CODE-FIRST"]

    def step(self, how: str, count: int) -> tuple[list[str], bool]:
        """Kill it once: what is wrong afterwards, and whether there was such a call."""
        host, bad = self.host, []
        if self.before:
            host.coi(*self.before).ok()
            (name,) = running(host)
            code = f"CODE-{how}{count}".upper()
            say(host, name, f"remember {code}")
            self.codes.append(code)
            if self.flow == "clean":  # which takes what is stopped
                incus("stop", "--force", name).ok()
        spoilt = spoil(host, how, count)
        done = self.run(host, spoilt)
        was = spoilt.came(count)
        if done is not None and was and how != "both" and done.code != -9:
            bad.append(f"it was not killed: {done.code} {done.err}")
        wait_for(lambda: not host.pids(), what=lambda: str(host.pids()))
        wait_for(lambda: not host.under_way(), what="the daemon to be done")
        bad += self.afterwards()
        if bad:
            bad += [f"{how} {count}", *(spoilt.calls[count - 1][:150] for _ in range(was))]
        return bad, was

    def afterwards(self) -> list[str]:
        """What is wrong for the next coi."""
        host, bad = self.host, []
        for args in (("list", "--all"), RESUMED):
            done = host.coi(*args)
            if done.code != 0 or "Traceback" in done.err or "Could not" in done.err:
                bad.append(f"{args}: {done.code} {done.err}")
        text = held(host)
        bad += [f"lost: {code}" for code in self.codes if code not in text]
        if not bad:
            # a prompt is a session of its own, and the latest as soon as it is saved
            first = "CODE-" if self.flow == "prompt" else "CODE-FIRST"
            logs = f"grep -rlF {first} /home/code/.dummy"
            going = [n for n in running(host) if incus("exec", n, "--", "sh", "-c", logs).out]
            bad += [] if going else ["the session does not go on"]
        # by force: what was said is saved, or was lost above
        host.coi("shutdown", "--all", "--force")
        host.coi("kill", "--all", "--force")
        swept = host.coi("clean", "--force")
        if swept.code != 0:
            bad.append(f"clean: {swept.err}")
        kept = {row["name"] for row in host.listed() if row["persistent"]}
        with suppress(AssertionError):
            wait_for(lambda: not set(host.instances()) - kept, timeout=20)
        bad += [f"left: {name}" for name in set(host.instances()) - kept]
        host.drop()
        return bad


def test_what_was_recovered_may_be_started_by_hand(host: Host) -> None:
    """The start that was killed is over: nobody stops what a user starts."""
    spoilt = spoil(host, "KILL", 1, '*" -X POST "*')
    host.coi("shell", "--background", "--persistent", environ=spoilt.environ)
    (name,) = running(host)
    wait_for(lambda: not host.pids())
    assert "Recovering" in host.coi("list").ok().err
    host.settled({name: "Stopped"})
    host.coi("container", "start", name).ok()
    assert "Recovering" not in host.coi("list").ok().err
    assert running(host) == [name]
    host.drop()


QUICK = ("start",)  # in the default run, once; the others take their time


@pytest.mark.parametrize(
    ("flow", "shift"),
    [
        pytest.param(flow, shift, marks=() if flow in QUICK and not shift else pytest.mark.slow)
        for flow in FLOWS
        for shift in range(len(KILLED))
    ],
)
@pytest.mark.timeout(900)
def test_at_every_call(host: Host, flow: str, shift: int) -> None:
    """In turn, and in turn before, amid and after it; shifted, each call in each way."""
    trial, wrong = Trial(host, flow), []
    for count in range(1, _MOST):
        bad, was = trial.step(KILLED[(count + shift) % len(KILLED)], count)
        wrong += [bad] if bad else []
        if not was:
            break
    else:
        raise AssertionError("no end of calls")
    assert not wrong, "\n".join("\n  ".join(map(str, bad)) for bad in wrong)
    assert count > 2
