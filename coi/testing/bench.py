"""One tool, made ready for a test: a world of its own, the stub model's address, a key."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import secrets
import signal
import tarfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from coi.api import Tool
from coi.records import record
from coi.testing.host import Host
from coi.testing.machine import Result
from coi.testing.screen import Screen
from coi.testing.setup import KEY, ModelSetup
from coi.tools.discover import entry_points

SETUP_GROUP = "coi.testing"  # of entry points: a tool's name to its ModelSetup
RUN_TIMEOUT = 300.0  # seconds for a headless answer
AT_REST = 3.0  # seconds without output after which a screen is taken for drawn
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ"

# The processes on the session's terminal below the launcher; some may have ended by then.
_KILL = r"""
tree() { for child in $(cat /proc/"$1"/task/*/children); do echo "$child"; tree "$child"; done; }
export TMUX_TMPDIR="$HOME/.coi"
kill -9 $(tree "$(tmux list-panes -a -F '#{pane_pid}' | head -n 1)") || true
"""


def new_key() -> str:
    """20 characters that are nowhere else: Claude Code keeps so many of a key's end."""
    return "canary" + secrets.token_hex(7)


def new_code() -> str:
    """A code word, as the stub model knows them."""
    return "CODE-" + "".join(secrets.choice(_ALPHABET) for _ in range(6))


def find_setup(tool: str, given: str, directory: Path) -> ModelSetup:
    """The setup of a tool: the given one, its entry point's, else the defaults.

    Args:
        given: ``module:attribute`` or ``path/to/file.py:attribute``; '' when none is.
        directory: what a path is relative to.

    Raises:
        ValueError: there is none where one was named; the text says why.
    """
    points = [point.value for point in entry_points(SETUP_GROUP) if point.name == tool]
    where = given or (points[0] if points else "")
    if not where:
        return ModelSetup()
    place, _, attribute = where.partition(":")
    try:
        found: Any = _module(place, directory)
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except (ImportError, OSError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from error
    if isinstance(found, Mapping):
        found = found.get(tool, ModelSetup())
    if not isinstance(found, ModelSetup):
        raise ValueError(f"{where} is a {type(found).__name__}, not a coi.testing.ModelSetup")  # noqa: TRY004 - one kind of error for what was named wrongly
    return found


def _module(place: str, directory: Path) -> Any:
    if not place:
        raise ImportError("it names no module")
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location("coi_setup", directory / place)
    if spec is None or spec.loader is None:
        raise ImportError("it cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def toml_table(name: str, values: Mapping[str, Any]) -> str:
    """A table and those in it; strings, numbers, truth values and lists of them are as in JSON."""
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    own = [f"{json.dumps(k)} = {json.dumps(v)}\n" for k, v in values.items() if k not in inner]
    tables = [toml_table(f"{name}.{json.dumps(key)}", value) for key, value in inner.items()]
    return "".join([f"[{name}]\n", *own, *tables])


@record
class Bench:
    """A tool in a world of its own.

    Attributes:
        setup: with the address and the key in it.
        key: the credential that goes in, and must not come out.
        unfilled: the setup as its author wrote it.
    """

    tool: Tool
    host: Host
    setup: ModelSetup
    key: str
    unfilled: ModelSetup

    @classmethod
    def make(cls, tool: Tool, setup: ModelSetup, host: Host, url: str) -> Bench:
        """The host's files and configuration are written; the workspace is a git repository."""
        key = new_key()
        bench = cls(tool, host, setup.filled(url, key), key, setup)
        host.config(
            f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "{tool.name}"\n'
            + toml_table(f"tool.{tool.name}", bench.setup.options)
        )
        for path, text in bench.setup.files.items():
            host.write(Path("home", path), text, 0o600)
        host.write("ws/README.md", "# A project\n")
        host.write("ws/.git/HEAD", "ref: refs/heads/main\n")
        host.write("ws/.git/config", "[core]\n\trepositoryformatversion = 0\n\tbare = false\n")
        for name in ("objects", "refs"):
            host.directory(f"ws/.git/{name}")
        return bench

    def without_credentials(self) -> None:
        """Forget every variable and file that has the key in it."""
        for path, text in self.unfilled.files.items():
            if KEY in text:
                (self.host.home / path).unlink()
        kept = {
            name: value
            for name, value in self.setup.environment.items()
            if KEY not in self.unfilled.environment[name]
        }
        self.setup = replace(self.setup, environment=kept)

    # -- the tool on a terminal

    @property
    def flags(self) -> list[str]:
        """``-e NAME`` of what the tool does not take from the host by itself."""
        names = [n for n in self.setup.environment if n not in self.tool.host_variables]
        return [word for name in names for word in ("-e", name)]

    @property
    def ready(self) -> str:
        """Regular expression of the tool's prompt."""
        return self.setup.ready or rf"^{re.escape(self.tool.name)}> ?$"

    def shell(self, *args: str) -> Screen:
        """``coi shell args`` on a terminal of its own."""
        return self.host.screen(
            "shell", "--tool", self.tool.name, *args, *self.flags, environ=self.setup.environment
        )

    def start(self, *args: str) -> Screen:
        """``coi shell args`` up to the tool's prompt, with no key pressed."""
        screen = self.shell(*args)
        screen.expect(self.ready, timeout=self.setup.patience)
        for dialog in self.setup.dialogs:
            assert not re.search(dialog, screen.log), f"it asks: {dialog}{screen.dump()}"
        return screen

    def ask(self, screen: Screen, code: str) -> set[str]:
        """Tell the tool a code word; all that it knows then."""
        for text in self.setup.prompts(code):
            screen.expect(self.ready, timeout=self.setup.patience)
            self.type(screen, text)
        submitted = time.monotonic()

        def answered() -> set[str]:
            nonlocal submitted
            known = self.setup.codes(code, screen.text)
            if not known and 0 < self.setup.insists < time.monotonic() - submitted:
                screen.send(self.setup.submit)
                submitted = time.monotonic()
            return known

        found: set[str] = screen.until(
            answered,
            timeout=self.setup.patience,
            what=f"an answer with {code}",
        )
        return found

    def leave(self, screen: Screen) -> None:
        """Out of the tool, into the shell that follows; it may be at work on the last answer."""
        screen.rest(AT_REST, timeout=self.setup.patience)
        if self.setup.exit.isprintable():
            self.type(screen, self.setup.exit)
        else:
            screen.send(self.setup.exit)
        screen.expect(r"ended with exit code \d+")

    def power_off(self, screen: Screen) -> None:
        """End the session from its shell, as people do; systemd may still be on its way up."""
        screen.expect(r"\S*[$#] ?$")
        screen.line("until sudo poweroff 2>/dev/null; do sleep 0.1; done")
        screen.ended()
        self.host.settled()

    def end(self, screen: Screen) -> None:
        """Detach and remove the container, where its end is not what is looked at."""
        screen.detach()
        screen.ended()
        self.host.drop()

    def type(self, screen: Screen, text: str) -> None:
        """As it were by hand: what was typed is seen before it is submitted."""
        screen.send(text)
        screen.expect(re.escape(text), timeout=self.setup.patience)
        screen.send(self.setup.submit)

    def run(self, prompt: str, *args: str) -> Result:
        """``coi run --prompt``, its answer as JSON."""
        return self.host.coi(
            "run", "--tool", self.tool.name, "--prompt", prompt, "--format", "json", *args,
            *self.flags, environ=self.setup.environment, timeout=RUN_TIMEOUT,
        )  # fmt: skip

    def kill_coi(self, screen: Screen) -> None:
        """SIGKILL to coi itself."""
        screen.child.kill(signal.SIGKILL)
        screen.end()

    def kill_tool(self) -> None:
        """SIGKILL to the tool inside, and to whatever it has started."""
        self.host.inside(_KILL, user=self.user)

    # -- what it leaves

    @property
    def user(self) -> str:
        """The user inside."""
        return "root" if self.host.user.uid == 0 else "code"

    def state(self) -> dict[str, bytes]:
        """The files in what is saved; of several sessions by their ids."""
        found: dict[str, bytes] = {}
        sessions = [saved["id"] for saved in self.host.saved()]
        for session in sessions:
            below = f"{session}/" if len(sessions) > 1 else ""
            with tarfile.open(self.host.state_file(session)) as tar:
                for member in filter(tarfile.TarInfo.isreg, tar):
                    if file := tar.extractfile(member):
                        found[below + member.name.removeprefix("./")] = file.read()
        return found

    def workspace(self) -> dict[str, bytes]:
        """The files of the workspace, but for what git does with its objects."""
        root = self.host.workspace
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and (path.parent != root / ".git" or path.name in ("HEAD", "config"))
        }
