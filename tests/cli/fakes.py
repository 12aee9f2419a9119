"""An `incus` that answers lists with recordings, notes every call, and refuses the rest."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parents[2] / "fixtures" / "incus"
STRANGER = "4242"  # the uid that owns the recorded sessions: nobody who runs the tests

_SCRIPT = """#!/bin/sh
printf '%s\\0' "$@" >>{calls}
printf '\\n' >>{calls}
case "$*" in
  'query --raw /1.0/instances?recursion='[12]) cat {instances} ;;
  'query --raw /1.0/instances/'*) cat {missing} ;;
  'query --raw /1.0/images?recursion=1') cat {images} ;;
  'query --raw /1.0/images/aliases/'*) cat {missing} ;;
  *) echo "Error: the fake incus does not do this: $*" >&2; exit 1 ;;
esac
"""


@dataclass(frozen=True)
class FakeIncus:
    """A directory for the front of PATH, and what was called.

    Attributes:
        directory: holds the executable.
        log: every call's arguments, NUL-separated, a line each.
    """

    directory: Path
    log: Path

    @classmethod
    def make(cls, root: Path, *, images: list[dict[str, Any]] | None = None) -> FakeIncus:
        """In an empty directory; ``images`` instead of the recorded ones."""
        calls = root / "calls"
        calls.touch()
        answers = {
            "instances": _sessions_of_a_stranger(),
            "images": _reply("images") if images is None else _envelope(images),
            "missing": _reply("instance-missing"),
        }
        paths = {"calls": calls}
        for name, answer in answers.items():
            paths[name] = root / f"{name}.json"
            paths[name].write_text(json.dumps(answer))
        executable = root / "incus"
        executable.write_text(
            _SCRIPT.format(**{key: shlex.quote(str(path)) for key, path in paths.items()})
        )
        executable.chmod(0o755)
        return cls(root, calls)

    @property
    def path(self) -> str:
        """For PATH: this one, then the system's programs."""
        return f"{self.directory}:/usr/bin:/bin"

    def calls(self) -> list[list[str]]:
        """The arguments of every call since the last :meth:`forget`."""
        lines = self.log.read_bytes().split(b"\0\n")
        return [line.decode("utf-8", "replace").split("\0") for line in lines if line]

    def changes(self) -> list[list[str]]:
        """The calls that are more than a look: anything but a plain GET."""
        return [call for call in self.calls() if call[:2] != ["query", "--raw"] or "-X" in call]

    def forget(self) -> None:
        """Begin a new log."""
        self.log.write_bytes(b"")


def _reply(name: str) -> dict[str, Any]:
    recording = json.loads((RECORDINGS / f"{name}.json").read_text())
    reply: dict[str, Any] = json.loads(recording["stdout"])
    return reply


def _envelope(metadata: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_reply("images-none"), "metadata": metadata}


def _sessions_of_a_stranger() -> dict[str, Any]:
    reply = _reply("instances-2")
    for row in reply["metadata"]:
        if row.get("config") and "user.coi.owner" in row["config"]:
            row["config"]["user.coi.owner"] = STRANGER
    return reply
