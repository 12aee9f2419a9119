"""Recordings of a real daemon (fixtures/record_incus.py) and a runner that plays them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coi.incus.client import Client
from coi.incus.process import Completed, Runner, Running

DIRECTORY = Path(__file__).parents[2] / "fixtures" / "incus"
PROJECT = "coi-recording"
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


@dataclass(frozen=True)
class Recording:
    """One process of the ``incus`` client."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str

    @property
    def completed(self) -> Completed:
        """As the runner would have returned it."""
        return Completed(self.argv, self.exit_code, self.stdout.encode(), self.stderr.encode())


def load(name: str) -> Recording:
    """A recording by its file's stem."""
    data = json.loads((DIRECTORY / f"{name}.json").read_text())
    return Recording(tuple(data["argv"]), data["exit_code"], data["stdout"], data["stderr"])


class Played(Running):
    """A command that has ended by the time that it is waited for."""

    def __init__(self, done: Completed) -> None:
        self._done = done

    def completed(self, timeout: float | None = None) -> Completed:
        return self._done


class AtOnce(Runner):
    """Begins nothing that :meth:`run` does not end."""

    def begin(
        self,
        args: Sequence[str],
        *,
        stdin: bytes | int | None = None,
        cwd: Path | None = None,
    ) -> Running:
        return Played(self.run(args, stdin=stdin, cwd=cwd))


class Player(AtOnce):
    """Answers with recordings, in order; each call must be the recorded one."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.tape = [load(name) for name in names]

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: bytes | int | None = None,
        timeout: float | None = None,
        cwd: Path | None = None,
    ) -> Completed:
        recording = self.tape.pop(0)
        assert ("incus", *args) == recording.argv
        self.calls.append(("incus", *args))
        return recording.completed


def player(*names: str) -> Client:
    """A client that meets the recorded daemon."""
    return Client(Player(*names), project=PROJECT)
