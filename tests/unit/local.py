"""A shell of this machine in a container's place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from coi.incus.client import Client
from coi.incus.instances import Instance, Instances
from coi.incus.process import Runner
from coi.session import transfer
from coi.session.transfer import Copied


class Local(Instances):
    """Runs what would run inside here, or another command in its place."""

    def __init__(self, instead: str = "", *, status: str = "Running") -> None:
        super().__init__(Client(Runner("env")))
        self._instead = instead
        self._status = status

    def get(self, name: str) -> Instance:
        owner = {"user.coi.uid": str(os.getuid()), "user.coi.gid": str(os.getgid())}
        return Instance(name, self._status, "", False, "default", owner)

    def exec_args(
        self,
        name: str,
        command: Sequence[str],
        *,
        user: int | None = None,
        group: int | None = None,
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
        tty: bool = False,
    ) -> list[str]:
        return ["sh", "-c", self._instead] if self._instead else list(command)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A tree with one of everything."""
    top = tmp_path / "host/src"
    (top / "empty").mkdir(parents=True)
    (top / "ü and space").mkdir()
    (top / "ü and space/-dash").write_text("dash")
    (top / "latin-\udce9").write_text("latin")
    (top / "new\nline").write_text("line")
    (top / ("n" * 200)).write_text("long")
    (top / "tool").write_text("#!/bin/sh\n")
    (top / "tool").chmod(0o751)
    (top / "empty").chmod(0o2770)
    (top / "link").symlink_to("tool")
    (top / "out").symlink_to("/etc/passwd")
    (top / "directory link").symlink_to("ü and space")
    return top


def push(source: Path | str, target: Path | str, **how: bool) -> Copied:
    return transfer.push(
        Local(), str(source), "c", str(target), recursive=how.get("recursive", True)
    )


def pull(source: Path | str, target: Path | str, command: str = "", **how: object) -> Copied:
    return transfer.pull(
        Local(command), "c", str(source), str(target), **{"recursive": True, **how}  # type: ignore[arg-type]
    )  # fmt: skip
