"""Rows of commands that end by themselves."""

from __future__ import annotations

import secrets
import time
from typing import Any

import rows as made

from bench.counting import Taken
from bench.row import Row
from bench.stage import bare
from coi.session.settle import settled


class Version(Row):
    name = "version"
    what = "`coi version`"
    floor_is = "`python -c ''` of the same interpreter: no Incus is asked"

    def floor(self) -> float:
        return self.stage.python()

    def coi(self) -> float:
        return self.stage.coi("version")


class Help(Version):
    name = "help"
    what = "`coi --help`"

    def coi(self) -> float:
        return self.stage.coi("--help")


class List(Row):
    """With stopped sessions without files: they cost nothing, and are listed like others."""

    floor_is = "`incus query /1.0/instances?recursion=2`"

    def __init__(self, count: int) -> None:
        self.name = f"list-{count}"
        self.what = f"`coi list --format json` with {count} containers"
        self._count = count

    def ready(self) -> None:
        host = self.stage.host
        for number in range(1, self._count + 1):
            made.make(host, f"l{number}", slot=str(number), persistent="true")

    def floor(self) -> float:
        begun = time.perf_counter()
        self.stage.incus("query", "--raw", self.stage.path("/1.0/instances?recursion=2"))
        return time.perf_counter() - begun

    def coi(self) -> float:
        return self.stage.coi("list", "--format", "json")


class Exec(Row):
    name = "exec"
    what = "`coi container exec NAME -- true`"
    floor_is = "`incus exec NAME -- true`"

    def ready(self) -> None:
        self._box = f"{self.stage.host.prefix}box"
        self.stage.host.coi("container", "launch", self.stage.host.image, self._box).ok()
        self.stage.booted(self._box)

    def anew(self) -> None:
        """The box stays."""

    def floor(self) -> float:
        begun = time.perf_counter()
        self.stage.incus("exec", self._box, "-T", "--cwd", "/workspace", "--", "true")
        return time.perf_counter() - begun

    def coi(self) -> float:
        return self.stage.coi("container", "exec", self._box, "--", "true")


class Run(Row):
    """The bodies are those that coi itself sent in the counted round."""

    name = "run"
    what = "`coi run true`"
    floor_is = "create and start in one request, `incus exec NAME -- true`, a stop not waited for"
    _flags: tuple[str, ...] = ()

    def know(self, taken: Taken) -> None:
        self._body = bare(taken.bodies("/1.0/instances")[0])

    def command(self) -> list[str]:
        """What the floor runs inside."""
        return ["true"]

    def floor(self) -> float:
        begun = time.perf_counter()
        name = self.stage.create(self._body, f"f{secrets.token_hex(2)}")
        self.stage.incus("exec", name, "-T", "--cwd", "/workspace", "--", *self.command())
        self.stage.stop_instance(name, force=True, wait=False)
        seconds = time.perf_counter() - begun
        self.stage.host.settled()
        return seconds

    def coi(self) -> float:
        seconds = self.stage.coi(*self._flags, "run", "true")
        self.stage.host.settled()
        return seconds


class RunBooted(Run):
    """What is left is coi's own: of the difference of `run` the most is the boot."""

    name = "run-booted"
    floor_is = "as `run`, its exec waiting for the boot and the network as coi's does"

    def command(self) -> list[str]:
        return settled(["true"])


class NetworkExisting(RunBooted):
    name = "network-existing"
    what = "`coi --network=restricted run true`, the policy's network standing"
    floor_is = "as `run-booted`, with the same NIC"
    _flags = ("--network=restricted",)

    def ready(self) -> None:
        self.stage.host.coi(*self._flags, "run", "true").ok()
        self.stage.host.settled()


class NetworkNew(RunBooted):
    name = "network-new"
    what = "`coi --network=restricted run true`, the policy met for the first time"
    floor_is = "the ACL and the bridge created, then as `run-booted` with that NIC"
    _flags = ("--network=restricted",)

    def know(self, taken: Taken) -> None:
        super().know(taken)
        self._acl = bare(taken.bodies("/1.0/network-acls")[0])
        self._bridge = bare(taken.bodies("/1.0/networks")[0])

    def floor(self) -> float:
        name = f"cb{secrets.token_hex(3)}"
        renamed = (_renamed(part, self._acl["name"], name) for part in (self._acl, self._bridge))
        acl, bridge = renamed
        self._body = _renamed(self._body, self._acl["name"], name)
        begun = time.perf_counter()
        self.stage.send("POST", "/1.0/network-acls", acl, wait=False)
        self.stage.send("POST", "/1.0/networks", bridge, wait=False)
        seconds = time.perf_counter() - begun + super().floor()
        self._body = _renamed(self._body, name, self._acl["name"])
        for kind in ("networks", "network-acls"):
            self.stage.incus("query", "-X", "DELETE", self.stage.path(f"/1.0/{kind}/{name}"))
        return seconds

    def coi(self) -> float:
        seconds = super().coi()
        self.stage.host.coi("clean", "--force").ok()
        return seconds


def _renamed(value: Any, old: str, new: str) -> Any:
    """The same with another name in it wherever it was."""
    if isinstance(value, dict):
        return {key: _renamed(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value
