"""The few things of Incus that the life of a session needs, in memory, at the runner's boundary.

What it answers is what the recordings of a real daemon say (fixtures/incus). What it cannot
tell is how long anything takes, and what else goes wrong: tests/integration asks the real one.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from recordings import AtOnce

from coi.incus.process import Completed, Process
from coi.session.inside import NOT_BEGUN, STOPPING, Saving

LOG = ".dummy/log"  # what the tool of these sessions writes: a line for each thing said


@dataclass
class Box:
    """An instance.

    Attributes:
        log: what is in LOG inside.
        begun: the mark of the start that came to its end inside, as the home there tells.
    """

    name: str
    config: dict[str, str]
    devices: dict[str, dict[str, str]]
    running: bool = True
    ephemeral: bool = False
    created: str = ""
    log: list[str] = field(default_factory=list)
    begun: str = ""

    @property
    def reaches_workspace(self) -> bool:
        """Whether it is mounted."""
        return self.devices.get("workspace", {}).get("type") == "disk"

    def row(self) -> dict[str, Any]:
        """As ``GET /1.0/instances?recursion=1`` has it."""
        return {
            "name": self.name, "status": "Running" if self.running else "Stopped",
            "created_at": self.created, "ephemeral": self.ephemeral,
            "project": "default", "config": self.config, "devices": self.devices, "state": None,
        }  # fmt: skip


class Ended(Process):
    """A process that has ended by the time that it is looked at."""

    def __init__(self, argv: Sequence[str], exit_code: int) -> None:
        self.argv = tuple(argv)
        self._code = exit_code
        self._pidfd = None

    def wait(self, timeout: float | None = None) -> int:
        return self._code


class Daemon(AtOnce):
    """An ``incus`` and its daemon.

    Args:
        keep: where the state is written after each call, for what forks: its parent reads it.

    Attributes:
        boxes: the instances by name.
        broken: the names of those whose state cannot be read.
    """

    def __init__(self, keep: Path) -> None:
        super().__init__()
        self.keep = keep
        self.boxes: dict[str, Box] = {}
        self.broken: set[str] = set()

    def write(self) -> None:
        """Write the state: nothing of it is lost with the process."""
        rows = [vars(box) for box in self.boxes.values()]
        self.keep.write_text(json.dumps(rows))

    def read(self) -> None:
        """Take over what another process has written."""
        self.boxes = {row["name"]: Box(**row) for row in json.loads(self.keep.read_text())}

    # -- The runner -------------------------------------------------------------

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: bytes | int | None = None,
        timeout: float | None = None,
        cwd: Path | None = None,
    ) -> Completed:
        self.calls.append(("incus", *args))
        done = self._do(list(args))
        self.write()
        return done

    def spawn(
        self,
        args: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        cwd: Path | None = None,
        terminal: bool = False,
        die_with_parent: bool = False,
    ) -> Process:
        done = self.run(args)
        for descriptor, data in ((stdout, done.stdout), (stderr, done.stderr)):
            if descriptor is not None:
                os.write(descriptor, data)
        return Ended(done.argv, done.exit_code)

    # -- The daemon -------------------------------------------------------------

    def _do(self, args: list[str]) -> Completed:
        if args[:2] == ["query", "--raw"]:
            return self._query(args[2:])
        if args[:2] == ["delete", "--force"]:
            if self.boxes.pop(args[2], None) is None:
                return _said("Error: Failed checking instance exists: Instance not found")
            return _said("", 0)
        if args[0] == "exec":
            return self._exec(args[1], args[args.index("--") + 1 :])
        raise AssertionError(args)

    def _query(self, args: list[str]) -> Completed:
        method, body = "GET", {}
        while len(args) > 1:
            option = args.pop(0)
            if option == "-X":
                method = args.pop(0)
            elif option == "-d":
                body = json.loads(args.pop(0))
        path = args[0].partition("?")[0]
        if path == "/1.0/instances":
            if method == "POST":
                return self._create(body)
            return _answer([box.row() for box in self.boxes.values()])
        name, _, rest = path.removeprefix("/1.0/instances/").partition("/")
        box = self.boxes.get(unquote(name))
        if box is None:
            return _answer(None, error_code=404, error="Instance not found")
        act: Callable[[Box, dict[str, Any]], Completed] = {
            ("GET", ""): lambda box, _: _answer(box.row()),
            ("PATCH", ""): self._patch,
            ("PUT", "state"): self._state,
        }[method, rest]
        return act(box, body)

    def _create(self, body: dict[str, Any]) -> Completed:
        if body["name"] in self.boxes:
            return _said('Error: Failed creating instance record: Instance "x" already exists')
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        box = Box(
            body["name"], body["config"], body["devices"], created=now,
            ephemeral=body.get("ephemeral", False),
        )  # fmt: skip
        self.boxes[box.name] = box
        return _answer({"id": "x"})

    def _patch(self, box: Box, body: dict[str, Any]) -> Completed:
        merged = {**box.config, **body.get("config", {})}
        box.config = {key: value for key, value in merged.items() if value}
        box.devices = {**box.devices, **body.get("devices", {})}
        box.ephemeral = body.get("ephemeral", box.ephemeral)
        return _answer({})

    def _state(self, box: Box, body: dict[str, Any]) -> Completed:
        if (body["action"] == "start") is box.running:
            return _said(
                f"Error: The instance is already {'running' if box.running else 'stopped'}"
            )
        box.running = body["action"] == "start"
        if not box.running and box.ephemeral:
            del self.boxes[box.name]
        return _answer({})

    def _exec(self, name: str, command: list[str]) -> Completed:
        box = self.boxes.get(name)
        if box is None:
            return _said("Error: Failed to fetch instance: Instance not found")
        if not box.running:
            return _said("Error: Instance is not running")
        assert command[:2] == ["sh", "-c"], command  # the state is read; nothing else is done here
        if Saving.ENDING.value in command:  # nothing inside keeps a shutdown waiting
            return Completed(("incus", "exec"), STOPPING, b"", b"")
        if name in self.broken:
            return Completed(("incus", "exec"), 2, b"", b"tar: it is broken")
        if box.begun != command[5]:
            return Completed(("incus", "exec"), NOT_BEGUN, b"", b"")
        return Completed(("incus", "exec"), 0, archive(box.log), b"")


def archive(log: list[str]) -> bytes:
    """The state of the tool, as tar inside writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(LOG)
        data = "".join(f"{line}\n" for line in log).encode()
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def log_of(state: bytes) -> list[str]:
    """The reverse of :func:`archive`."""
    with tarfile.open(fileobj=io.BytesIO(state)) as tar:
        return cast("io.BufferedReader", tar.extractfile(LOG)).read().decode().splitlines()


def _answer(metadata: Any, *, error_code: int = 0, error: str = "") -> Completed:
    text = json.dumps({"error_code": error_code, "error": error, "metadata": metadata})
    return Completed(("incus", "query"), 0, text.encode(), b"")


def _said(text: str, code: int = 1) -> Completed:
    return Completed(("incus",), code, b"", text.encode())
