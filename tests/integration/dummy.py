"""Talking to the dummy tool (fixtures/coi-dummy) on a screen."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

from coi.testing.host import Host
from coi.testing.machine import incus, wait_for
from coi.testing.screen import Screen

PROMPT = r"^dummy> ?$"


def start(host: Host, *args: str, **how: object) -> Screen:
    """``coi shell args`` up to the tool's prompt."""
    screen: Screen = host.screen("shell", *args, **how)  # type: ignore[arg-type]
    screen.expect(PROMPT)
    return screen


def ask(screen: Screen, text: str) -> str:
    """Say something and return the screen with the answer, the prompt back."""
    before = screen.text.count("dummy> ")
    screen.line(text)
    screen.until(
        lambda: screen.text.count("dummy> ") > before and re.search(PROMPT, screen.text, re.M),
        what=f"an answer to {text!r}",
    )
    return screen.text


def codes(screen: Screen) -> list[str]:
    """What the conversation remembers."""
    text = ask(screen, "codes?")
    answers = re.findall(r"^codes: (.*)$", text, re.M)
    assert answers, screen.dump()
    return [] if answers[-1] == "-" else answers[-1].split()


def to_bash(screen: Screen) -> None:
    """Leave the tool for the shell that follows it."""
    screen.line("exit")
    screen.expect(r"ended with exit code 0")
    screen.expect(r"\S*[$#] ?$")


def booted(name: str, *, timeout: float = 60) -> None:
    """Wait until the system inside has come up: before that it does not hear a stop."""
    ask_it = ("exec", name, "-T", "--", "systemctl", "is-system-running", "--wait")
    wait_for(
        lambda: incus(*ask_it).out.strip() in ("running", "degraded"),
        timeout=timeout,
        what=f"{name} has booted",
    )


def power_off(screen: Screen) -> None:
    """End the session from inside; systemd may still be on its way up."""
    to_bash(screen)
    screen.line("until sudo poweroff 2>/dev/null; do sleep 0.1; done")


def background(host: Host, *args: str) -> str:
    """``coi shell --background args``; what it said on stderr."""
    done = host.coi("shell", "--background", *args).ok()
    assert done.out == "", "progress belongs on stderr"
    return done.err


def said(state: Path) -> str:
    """The conversations in a saved state."""
    with tarfile.open(state) as tar:
        files = [tar.extractfile(m) for m in tar if m.isreg() and m.name.endswith(".log")]
        return "".join(file.read().decode() for file in files if file)
