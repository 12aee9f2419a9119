"""A container to copy files from and to."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coi.testing.host import Host
from coi.testing.machine import Result, incus


@dataclass
class Box:
    """A running container with the keys of a session, and nothing else of one."""

    host: Host
    name: str

    def run(self, script: str, *, ok: bool = True) -> str:
        """Output of a shell script, as root inside."""
        done = incus("exec", self.name, "-T", "--", "sh", "-c", script, timeout=120)
        return done.ok().out if ok else done.out

    def push(self, *args: str) -> Result:
        return self.host.coi("file", "push", *args, timeout=120)

    def pull(self, *args: str) -> Result:
        return self.host.coi("file", "pull", *args, timeout=120)

    def listing(self, path: str) -> dict[str, tuple[str, ...]]:
        """Below a path inside: type, mode, owner, and checksum or target."""
        script = f"cd {path} && find . -mindepth 1 -printf '%P\\t%y\\t%m\\t%U:%G\\t%l\\0'"
        rows = [row.split("\t") for row in self.run(script).split("\0") if row]
        return {row[0]: tuple(row[1:]) for row in rows}


@pytest.fixture
def box(host: Host) -> Iterator[Box]:
    name = f"{host.prefix}box"
    user = host.user
    incus(
        "launch", host.image, name, "--quiet",
        "-c", f"user.coi.uid={user.uid}", "-c", f"user.coi.gid={user.gid}",
    ).ok()  # fmt: skip
    yield Box(host, name)
    host.drop()


def contents(top: Path) -> dict[str, object]:
    """Below a path here: mode and content or target."""
    found: dict[str, object] = {}
    for path in top.rglob("*"):
        status = path.lstat()
        what: object = None
        if stat.S_ISLNK(status.st_mode):
            what = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(top))] = (stat.filemode(status.st_mode), what)
    return found
