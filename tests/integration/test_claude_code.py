"""The real Claude Code against the stub model, beyond what test_conformance.py has of it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from coi.testing.host import Host
from coi.testing.machine import incus, wait_for
from coi.testing.screen import Screen
from coi.testing.stub_model import running

KEY = "sk-ant-api03-canary-0123456789abcdefghij"
READY = "bypass permissions on"


@pytest.fixture
def model(gateway: str, tmp_path: Path) -> Iterator[str]:
    """The stub model server, where containers reach it; its URL."""
    with running(gateway, tmp_path / "model.log") as url:
        yield url


def claude(host: Host, model: str, *args: str) -> Screen:
    """``coi shell --tool claude args`` up to its prompt; no dialog comes first."""
    screen: Screen = host.screen(
        "shell", "--tool", "claude", *args,
        "-e", f"ANTHROPIC_BASE_URL={model}", "-e", f"ANTHROPIC_API_KEY={KEY}",
    )  # fmt: skip
    screen.expect(re.escape(READY))
    for dialog in ("Do you trust", "Choose the text style", "Yes, I accept", "Select login method"):
        assert dialog not in screen.log
    return screen


def ask(screen: Screen, text: str, answer: str) -> None:
    """Type a prompt, as it were by hand, and wait for the model's answer."""
    screen.send(text)
    screen.expect(re.escape(text))
    screen.send("\r")
    screen.expect(answer)


def leave(screen: Screen) -> None:
    """Out of Claude Code into the shell that follows."""
    screen.send("/exit")
    screen.expect(r"/exit")
    screen.send("\r")
    screen.expect("sudo poweroff ends the session")


def test_a_conversation_survives_kill_9_of_coi(host: Host, model: str) -> None:
    screen = claude(host, model)
    ask(screen, "remember CODE-PLUM please", r"STUBREPLY n=1 codes=CODE-PLUM")
    os.kill(screen.pid, signal.SIGKILL)
    screen.end()
    assert host.saved() == [], "nobody could save it yet"

    # Any coi command leaves it running and resumable ...
    rows = host.coi("list", "--format=json").ok().json["active_containers"]
    assert {row["name"]: row["status"] for row in rows}[host.instance()] == "Running"
    resumed = claude(host, model, "--resume")
    assert "is still running in" in resumed.log
    ask(resumed, "which codes do you know?", r"STUBREPLY n=2 codes=CODE-PLUM")
    os.kill(resumed.pid, signal.SIGKILL)
    resumed.end()

    # ... and once its container has stopped, any coi command saves it.
    incus("exec", host.instance(), "--", "poweroff")
    wait_for(lambda: host.instances() == {host.instance(): "Stopped"}, what="power-off")
    # The daemon leaves an instance out of a full listing for a moment while it ends.
    wait_for(lambda: "Recovering session" in host.coi("list").ok().err, timeout=10, what="recovery")
    host.settled()
    again = claude(host, model, "--resume")
    ask(again, "and now?", r"STUBREPLY n=3 codes=CODE-PLUM")
    again.detach()
    again.ended()
    host.coi("kill", host.instance()).ok()
