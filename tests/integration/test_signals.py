"""SIGTERM, a closed terminal and Ctrl-C at any moment of `coi shell`: what was said
is saved, and nothing is left that should not be."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from dummy import PROMPT, ask, codes, power_off, said, start

from coi.testing.host import Host
from coi.testing.machine import wait_for
from coi.testing.screen import Screen


def _terminate(screen: Screen) -> None:
    os.kill(screen.pid, signal.SIGTERM)


def _interrupt(screen: Screen) -> None:
    screen.send("\x03")


WAYS = {"SIGTERM": _terminate, "closed": Screen.hang_up, "Ctrl-C": _interrupt}

# What is on the terminal (with -v) when the signal comes.
MOMENTS = {
    "at once": "",
    "creating": r"^\+ incus query --raw -X POST",
    "created": "Auto-allocated slot 1",
    "starting": r"Setting up session",
    "attaching": r"^Workspace:",
}


def _settle(host: Host, screen: Screen) -> bool:
    """Wait for coi's end; whether it left a running session, which must be whole."""
    screen.wait_exit()
    wait_for(lambda: not host.pids(), what=lambda: str(host.pids()), timeout=20)

    def whole() -> bool:
        found = host.instances()
        if not found:
            return True
        if found != {host.instance(): "Running"}:
            return False
        return "dummy-tool" in host.inside("ps -eo args", ok=False)

    wait_for(whole, what=lambda: f"{host.instances()}{screen.dump()}", timeout=20)
    return bool(host.instances())


def _detach_if_it_runs(screen: Screen) -> None:
    """Ctrl-C may have been the tool's already: then there is a prompt."""
    while screen.pump(0.05) and screen.alive():
        if "dummy>" in screen.text:
            screen.detach()
            break


@pytest.mark.parametrize("way", WAYS)
def test_while_it_starts(host: Host, way: str) -> None:
    left = {}
    saved: list[dict[str, Any]] = []
    for moment, pattern in MOMENTS.items():
        screen = host.screen("shell", "-v")
        screen.expect_log(pattern) if pattern else screen.until(lambda: host.pids())
        WAYS[way](screen)
        if way == "Ctrl-C" and moment in ("starting", "attaching"):
            _detach_if_it_runs(screen)
        left[moment] = _settle(host, screen)
        if left[moment]:
            host.drop()  # what it saved stays
            saved = host.saved()
        else:
            assert host.saved() == saved
    assert not any(left[moment] for moment in ("at once", "creating", "created")), left
    after = start(host)
    assert "Auto-allocated slot 1" in after.log, "no lock and no name was left"
    power_off(after)
    after.ended()


@pytest.mark.parametrize("way", ["SIGTERM", "closed"])
def test_while_attached(host: Host, way: str) -> None:
    screen = start(host)
    ask(screen, "remember CODE-PLUM")
    WAYS[way](screen)
    assert screen.wait_exit() == 130
    wait_for(lambda: not host.pids(), timeout=10)
    assert host.instances() == {host.instance(): "Running"}
    (saved,) = host.saved()
    assert "CODE-PLUM" in said(host.state_file(saved["id"]))
    back = host.screen("shell", "--resume")
    back.expect("you said: remember CODE-PLUM")
    assert codes(back) == ["CODE-PLUM"]
    power_off(back)
    back.ended()


def test_ctrl_c_is_the_tools(host: Host) -> None:
    screen = start(host)
    screen.line("sleep 600")
    host_side = host.pids()
    screen.send("\x03")
    screen.until(lambda: screen.text.count("dummy>") > 1)
    screen.expect(PROMPT)
    assert set(host.pids()) == set(host_side)
    assert ask(screen, "remember CODE-PLUM")
    power_off(screen)
    screen.ended()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))


@pytest.mark.parametrize("way", ["SIGTERM", "closed", "Ctrl-C"])
def test_while_saving(host: Host, way: str) -> None:
    screen = start(host, "-v")
    ask(screen, "remember CODE-PLUM")
    power_off(screen)
    screen.expect_log("Saving session data")
    WAYS[way](screen)
    screen.wait_exit()
    wait_for(lambda: not host.pids(), timeout=20)

    def recovered() -> bool:
        host.coi("list").ok()
        return not host.instances()

    wait_for(recovered, what=lambda: str(host.instances()))
    (saved,) = host.saved()
    assert "CODE-PLUM" in said(host.state_file(saved["id"])), "by this coi or by the next"
