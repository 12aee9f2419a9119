"""Rows of one session: its start, its resumption, its ends."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from bench.row import PROMPT, TOOL, Row
from bench.stage import NotEnteredError
from coi.testing.machine import incus, wait_for
from coi.testing.screen import Screen

_BASH = r"\S*[$#] ?$"


class Shell(Row):
    name = "shell"
    what = "`coi shell` to the tool's prompt, in a fresh container"
    floor_is = (
        "create and start in one request, then `incus exec -t NAME -- tmux new-session TOOL` to "
        "its prompt"
    )

    def ready(self) -> None:
        self.session()

    def prompt(self, screen: Screen) -> None:
        """Wait for the prompt.

        Raises:
            NotEnteredError: the daemon could not enter the container.
        """
        try:
            screen.expect(PROMPT)
        except AssertionError as error:
            if "Failed to retrieve PID" in screen.log:
                raise NotEnteredError(screen.log) from error
            raise

    def leave(self, screen: Screen) -> None:
        """The session is thrown away, and saved by nobody."""
        screen.close()
        self.stage.drop()

    def open_tool(self, name: str, *tool: str) -> Screen:
        """The tool on a terminal, by hand."""
        command = self.stage.enter(name, "tmux", "new-session", "-s", "floor", *(tool or TOOL))
        screen = self.stage.terminal(command)
        self.prompt(screen)
        return screen

    def floor(self) -> float:
        begun = time.perf_counter()
        screen = self.open_tool(self.stage.create(self.session(), f"f{secrets.token_hex(2)}"))
        seconds = time.perf_counter() - begun
        self.leave(screen)
        return seconds

    def opened(self, *args: str) -> tuple[float, Screen]:
        """Seconds of ``coi args`` to the prompt, and its screen."""
        begun = time.perf_counter()
        screen = self.stage.screen(*args)
        self.prompt(screen)
        seconds = time.perf_counter() - begun
        self.stage.stop(screen)
        return seconds, screen

    def coi(self) -> float:
        seconds, screen = self.opened("shell")
        self.leave(screen)
        return seconds


class Restart(Shell):
    name = "restart"
    what = "`coi shell --persistent` to the tool's prompt, its container stopped"
    floor_is = "start, then `incus exec -t NAME -- tmux new-session TOOL` to its prompt"

    def ready(self) -> None:
        self._bare = self.stage.create(self.stage.body("shell", "--background"), "floor")
        self.stage.booted(self._bare)
        self.stage.stop_instance(self._bare, force=True, wait=True)
        screen = self.stage.host.screen("shell", "--persistent")
        self._power_off(screen)

    def _power_off(self, screen: Screen) -> None:
        screen.expect(PROMPT)
        self.stage.booted(self.stage.host.instance())
        screen.line("exit")
        screen.expect(_BASH)
        screen.line("sudo poweroff")
        screen.ended()

    def anew(self) -> None:
        self.stage.booted(self._bare)
        self.stage.stop_instance(self._bare, force=True, wait=True)

    def floor(self) -> float:
        begun = time.perf_counter()
        self.stage.send("PUT", f"/1.0/instances/{self._bare}/state", {"action": "start"})
        screen = self.open_tool(self._bare)
        seconds = time.perf_counter() - begun
        screen.close()
        self.stage.booted(self._bare)
        self.stage.stop_instance(self._bare, force=True, wait=True)
        return seconds

    def coi(self) -> float:
        seconds, screen = self.opened("shell", "--persistent")
        self._power_off(screen)
        return seconds


class Attach(Shell):
    name = "attach"
    what = "`coi attach` to the tool's prompt"
    floor_is = "`incus exec -t NAME -- tmux attach` to the same session"

    def ready(self) -> None:
        self._name = self.background()
        self.stage.booted(self._name)

    def anew(self) -> None:
        """The session stays."""

    def floor(self) -> float:
        begun = time.perf_counter()
        screen = self.stage.terminal(self.attach(self._name))
        self.prompt(screen)
        seconds = time.perf_counter() - begun
        screen.detach()
        screen.ended()
        return seconds

    def coi(self) -> float:
        seconds, screen = self.opened("attach")
        screen.detach()
        screen.ended()
        return seconds


class Detach(Attach):
    name = "detach"
    what = "from the keys that detach to the host's prompt; coi saves meanwhile"
    floor_is = "the same keys in `incus exec -t NAME -- tmux attach`: nothing is saved"

    def _detached(self, screen: Screen) -> float:
        self.prompt(screen)
        self.stage.begin(screen)
        begun = time.perf_counter()
        screen.detach()
        screen.ended()
        return time.perf_counter() - begun

    def floor(self) -> float:
        return self._detached(self.stage.terminal(self.attach(self._name)))

    def coi(self) -> float:
        return self._detached(self.stage.screen("attach"))


class Background(Row):
    name = "background"
    what = "`coi shell --background`"
    floor_is = "create and start in one request, then `incus exec NAME -- tmux new-session -d TOOL`"

    def ready(self) -> None:
        self.session()

    def floor(self) -> float:
        begun = time.perf_counter()
        self.bare_session(f"f{secrets.token_hex(2)}")
        seconds = time.perf_counter() - begun
        self.stage.drop()
        return seconds

    def coi(self) -> float:
        seconds = self.stage.coi("shell", "--background")
        self.stage.drop()
        return seconds


class Resume(Shell):
    floor_is = (
        "create and start in one request, the saved tar into `incus exec NAME -- tar -x`, then "
        "`incus exec -t NAME -- tmux new-session TOOL` to its prompt"
    )

    def __init__(self, mib: int) -> None:
        self.name = f"resume-{mib}m"
        self.what = f"`coi shell --resume=ID` to the tool's prompt, {mib} MiB of state"
        self._mib = mib

    def ready(self) -> None:
        self.stage.room(4 * self._mib << 20)
        super().ready()
        name = self.background()
        host = self.stage.host
        host.coi("tmux", "send", name, "remember CODE-PLUM").ok()
        home = "/root" if host.user.uid == 0 else "/home/code"
        said = ["exec", name, "-T", "--", "sh", "-c", f"cat {home}/.dummy/*.log"]
        wait_for(lambda: "CODE-PLUM" in incus(*said).out, what="the conversation")
        fill = f"head -c {self._mib}M /dev/urandom >{home}/.dummy/blob"
        enter = self.stage.enter(name, "sh", "-c", fill)
        self.stage.incus(*("-T" if word == "-t" else word for word in enter[1:]))
        self.stage.booted(name)
        host.coi("shutdown", "--force", name).ok()
        host.settled()
        (saved,) = host.saved()
        self._id = str(saved["id"])
        self._state: Path = host.state_file(self._id)
        assert self._state.stat().st_size > self._mib << 20

    def floor(self) -> float:
        begun = time.perf_counter()
        name = self.stage.create(self.session(), f"f{secrets.token_hex(2)}")
        home = "/root" if self.stage.host.user.uid == 0 else "/home/code"
        enter = self.stage.enter(name, "tar", "-x", "-C", home)
        with self._state.open("rb") as state:
            words = ("-T" if word == "-t" else word for word in enter[1:])
            self.stage.incus(*words, stdin=state)
        screen = self.open_tool(name, "dummy-tool", "--resume", self._id)
        seconds = time.perf_counter() - begun
        self.leave(screen)
        return seconds

    def coi(self) -> float:
        self.stage.room(2 * self._mib << 20)
        seconds, screen = self.opened("shell", f"--resume={self._id}")
        assert "resumed 1 turns" in screen.text
        self.leave(screen)
        return seconds


class Finish(Row):
    name = "finish"
    what = "from `sudo poweroff` inside to the host's prompt: saved, the container removed"
    floor_is = (
        "`poweroff` in `incus exec -t NAME -- bash` to its end, the instance ephemeral: nothing is "
        "saved, and its deletion is not waited for"
    )

    def ready(self) -> None:
        self.session()

    def _off(self, screen: Screen, command: str) -> float:
        screen.expect(_BASH)
        self.stage.begin(screen)
        begun = time.perf_counter()
        screen.line(command)
        screen.end()
        seconds = time.perf_counter() - begun
        self.stage.host.settled()
        return seconds

    def floor(self) -> float:
        body = {**self.session(), "ephemeral": True}
        name = self.stage.create(body, f"f{secrets.token_hex(2)}")
        self.stage.booted(name)
        return self._off(
            self.stage.terminal(["incus", "exec", name, "-t", "--", "bash"]), "poweroff"
        )

    def coi(self) -> float:
        self.stage.booted(self.background())
        screen = self.stage.screen("attach")
        screen.expect(PROMPT)
        screen.line("exit")
        seconds = self._off(screen, "sudo poweroff")
        assert "Session data saved" in screen.log, screen.dump()
        return seconds
