"""``[limits]`` as keys and devices of Incus, and what is too little or cannot be held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from coi.cli.context import parse_limits
from coi.config.model import LIMITS
from coi.errors import CoiError, RefusedError, UsageError
from coi.incus.client import Client
from coi.incus.errors import TooSmallError, classify
from coi.incus.instances import ROOM, Instance, Instances, bytes_of
from coi.session.limits import KEYS, Limits, limits_of

BUILT_IN = {key: value for key, value in LIMITS.items() if value != "none"}
ROOT = {"type": "disk", "path": "/", "pool": "p"}


class Daemon(Client):
    """Knows one profile and one pool."""

    def __init__(self, driver: str = "btrfs", **devices: Mapping[str, str]) -> None:
        super().__init__()
        self.driver, self.devices = driver, devices
        self.asked: list[str] = []

    def query(self, method: str, path: str, **_: Any) -> Any:
        self.asked.append(path)
        if path == "/1.0/profiles/default":
            return {"name": "default", "devices": self.devices}
        assert path == "/1.0/storage-pools/p"
        return {"name": "p", "driver": self.driver}


def row(**config: str) -> Instance:
    return Instance("c-1", "Running", "", False, "default", config={**config})


@pytest.mark.parametrize(
    ("values", "config"),
    [
        (BUILT_IN, {"limits.cpu.allowance": "100%", "limits.memory": "75%",
                    "limits.processes": "4096"}),
        ({}, {}),
        ({"cpu": "2"}, {"limits.cpu": "2", "limits.cpu.allowance": "100%"}),
        ({"cpu": "0-1"}, {"limits.cpu": "0-1", "limits.cpu.allowance": "100%"}),
        ({"memory": "64MiB", "processes": "32"},
         {"limits.memory": "64MiB", "limits.processes": "32"}),
    ],
)  # fmt: skip
def test_keys_without_a_call(values: Mapping[str, str], config: Mapping[str, str]) -> None:
    daemon = Daemon()
    found = limits_of(daemon, values, flag=False)
    assert (found.config, found.devices, daemon.asked) == (config, {}, [])


@pytest.mark.parametrize(
    "values", [{"memory": "63MiB"}, {"memory": "1000"}, {"memory": "1kB"}, {"processes": "31"}]
)
def test_too_little_to_start_is_wrong_usage(values: Mapping[str, str]) -> None:
    with pytest.raises(UsageError, match="too little") as caught:
        limits_of(Daemon(), values, flag=False)
    assert caught.value.hint.startswith("at least ")


def test_a_disk_limit_is_the_profiles_root_with_a_size() -> None:
    daemon = Daemon(disk0={**ROOT, "io.cache": "unsafe"}, home={"type": "disk", "path": "/home"})
    found = limits_of(daemon, {"disk": "5GiB"}, flag=True)
    assert found.devices == {"disk0": {**ROOT, "io.cache": "unsafe", "size": "5GiB"}}
    assert found.config == {"user.coi.disk": "5GiB"}
    assert len(daemon.asked) == 2


def test_a_disk_limit_that_nothing_would_hold_is_refused() -> None:
    with pytest.raises(RefusedError, match="the pool 'p' has no quotas") as caught:
        limits_of(Daemon("dir", root=ROOT), {"disk": "5GiB"}, flag=False)
    assert "--limit disk=none" in caught.value.hint
    with pytest.raises(CoiError, match="has no root disk"):
        limits_of(Daemon(), {"disk": "5GiB"}, flag=False)


def test_what_an_earlier_start_set_is_taken_back() -> None:
    changes = Limits({"limits.memory": "1GiB"}).changes
    assert set(changes) == {*KEYS, "user.coi.disk"}
    assert {key for key, value in changes.items() if value} == {"limits.memory"}
    limited = Instance(
        "c-1", "Stopped", "", False, "default",
        config={"user.coi.disk": "1GiB"}, devices={"disk0": ROOT, "x": {"path": "/x"}},
    )  # fmt: skip
    assert Limits().going(limited) == ["disk0"]
    assert Limits({"user.coi.disk": "2GiB"}, {"disk0": ROOT}).going(limited) == []
    assert Limits().going(row()) == []


def test_the_limit_of_a_disk_that_is_there_is_not_lowered() -> None:
    said: list[str] = []
    root = {"root": {**ROOT, "size": "2GiB"}}
    asked = Limits({"user.coi.disk": "2GiB", "limits.memory": "1GiB"}, root)
    for before in ("2GiB", "1GiB"):
        assert asked.onto(row(**{"user.coi.disk": before}), said.append) is asked
    assert Limits().onto(row(**{"user.coi.disk": "1GiB"}), said.append) == Limits()
    assert said == []
    for before in ("", "3GiB"):
        there = row(**{"user.coi.disk": before})
        kept = asked.onto(there, said.append)
        assert (kept.devices, kept.changes["user.coi.disk"]) == ({}, before)
        assert kept.changes["limits.memory"] == "1GiB"
        assert kept.going(there) == []
        with pytest.raises(RefusedError, match="which is not lowered"):
            Limits(asked.config, root, flag=True).onto(there, said.append)
    assert said == [
        "c-1 keeps its disk limit: none, not 2GiB", "c-1 keeps its disk limit: 3GiB, not 2GiB",
    ]  # fmt: skip


def test_a_running_one_agrees_or_is_told_of() -> None:
    said: list[str] = []
    asked = {"limits.memory": "75%", "limits.processes": "4096"}
    Limits(asked, flag=True).agree(row(**asked), said.append)
    assert said == []
    Limits(asked).agree(row(**{"limits.memory": "1GiB", "user.coi.disk": "9GB"}), said.append)
    assert said == [
        "c-1 keeps the limits it was started with: memory 1GiB, not 75%, "
        "processes none, not 4096, disk 9GB, not none"
    ]
    with pytest.raises(RefusedError, match="memory 75%, not none"):
        Limits(flag=True).agree(row(**asked), said.append)


class Full(Client):
    """Refuses the first of each change, as a daemon does whose note does not fit on the disk."""

    def __init__(self, size: str) -> None:
        super().__init__()
        self.root = {**ROOT, **({"size": size} if size else {})}
        self.bodies: list[Any] = []

    def query(self, method: str, path: str, *, body: Any = None, **_: Any) -> Any:
        if method == "GET":
            return {"name": "c-1", "status": "Running", "expanded_devices": {"disk0": self.root}}
        self.bodies.append(body)
        if len(self.bodies) == 1:
            raise classify("Failed to write backup file: open x: disk quota exceeded")
        return None

    def ask(self, path: str, **_: Any) -> Callable[[], Any]:
        return lambda: self.query("GET", path)


def test_what_is_full_gets_room_to_be_changed() -> None:
    full = Full("1GiB")
    Instances(full).update("c-1", config={"a": "b"})
    raised = {"disk0": {**ROOT, "size": f"{(1 << 30) + ROOM}B"}}
    change = {"config": {"a": "b"}}
    assert full.bodies == [change, {"devices": raised}, change]
    for size in ("", "odd"):
        with pytest.raises(TooSmallError):
            Instances(Full(size)).update("c-1", config={"a": "b"})


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GiB", 20 << 30), ("5GB", 5 * 10**9), ("1000", 1000), ("7B", 7), ("1kB", 1000),
     ("1KiB", 1024), ("10%", None), ("", None), ("1 GB", None)],
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    assert bytes_of(text) == size


def test_the_flag() -> None:
    assert parse_limits(["memory=1GiB", "cpu=2", "memory=none"]) == {
        "limits.memory": "none", "limits.cpu": "2",
    }  # fmt: skip
    for wrong in ("memory", "memory=", "swap=1", "=1", "", "limits.cpu=1", "MEMORY=1GiB"):
        with pytest.raises(UsageError, match="--limit needs KEY=VALUE"):
            parse_limits([wrong])


@pytest.mark.parametrize(
    "text",
    [
        "Error: Failed creating instance from image: Failed to run: btrfs qgroup limit -e none "
        "0/265 /var/lib/incus/storage-pools/p/containers/c: exit status 1 (ERROR: unable to limit "
        "requested quota group: Disk quota exceeded)",  # recorded from 6.0.4
        "Error: Failed creating instance from image: Source image size (5368709120) exceeds "
        "specified volume size (5000003584)",
    ],
)
def test_a_limit_below_the_image_is_no_full_pool(text: str) -> None:
    error = classify(text, action="create c-1")
    assert isinstance(error, TooSmallError)
    assert error.brief == "cannot create c-1: the disk limit is used up, or smaller than the image"
