"""Which warm instance is taken, and what a refill makes and removes: a script is the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coi.config.layers import built_in
from coi.config.model import Warm
from coi.errors import CoiError
from coi.incus.client import Client
from coi.incus.errors import AlreadyExistsError, IncusError, classify
from coi.incus.images import Image
from coi.incus.instances import Instance
from coi.incus.process import Runner
from coi.session import warmpool
from coi.session.body import instance_body
from coi.session.limits import Limits
from coi.session.locks import locked, place_of
from coi.session.model import Engine
from coi.session.warm import busy_of, look_around, ready

NOW, OLD = "b" * 64, "a" * 64
_SCRIPT = """#!/bin/sh
printf '%s\\n' "$*" >>{at}/log
for path; do :; done
case "$*" in
  *'-X POST'*|*'-X DELETE'*) cat {at}/changed ;;
  *) cat "{at}/$(printf %s "$path" | tr '/?=' ___)" 2>/dev/null ||
    echo '{{"type":"error","error_code":404,"error":"Instance not found"}}' ;;
esac
"""


class World:
    """An engine, and what the daemon says to it."""

    def __init__(self, at: Path, size: int) -> None:
        self.at = at
        script = at / "incus"
        script.write_text(_SCRIPT.format(at=at))
        script.chmod(0o755)
        self.changed({"type": "sync", "status_code": 200, "metadata": {}})
        config = replace(built_in(at), warm=Warm(size))
        self.engine = Engine(
            config, Client(Runner(str(script))), at, "t-", lambda _: None, lambda _: None  # type: ignore[arg-type, return-value]
        )  # fmt: skip
        (at / "locks").mkdir()
        self.locks = place_of(at / "locks")
        self.says("/1.0/images/aliases/coi", {"name": "coi", "target": NOW})
        self.operations()
        self.rows()

    def write(self, path: str, answer: object) -> None:
        for char in "/?=":
            path = path.replace(char, "_")
        (self.at / path).write_text(json.dumps(answer))

    def says(self, path: str, metadata: object) -> None:
        self.write(path, {"type": "sync", "status_code": 200, "metadata": metadata})

    def fails(self, path: str) -> None:
        self.write(path, {"type": "error", "error_code": 500, "error": "no"})

    def changed(self, answer: object) -> None:
        """What the daemon answers to changes."""
        (self.at / "changed").write_text(json.dumps(answer))

    def rows(self, *rows: dict[str, Any]) -> None:
        self.says("/1.0/instances?recursion=1", list(rows))
        for row in rows:
            self.says(f"/1.0/instances/{row['name']}", row)

    def operations(self, *names: str, code: int = 103) -> None:
        """Operations on instances."""
        paths = [f"/1.0/instances/{name}?project=x" for name in names]
        about = [{"status_code": code, "resources": {"instances": [path]}} for path in paths]
        self.says("/1.0/operations?recursion=1", {"running": about} if about else None)

    def row(self, name: str = "t-warm-1", base: str = NOW, **changes: Any) -> dict[str, Any]:
        """A warm instance that is ready, but for ``changes``."""
        own = {
            "state": "warm", "owner": os.getuid(), "version": "1", "image": "coi",
            "locks": self.locks, "warm": name, **changes.pop("own", {}),
        }  # fmt: skip
        config = {f"user.coi.{key}": str(value) for key, value in own.items()}
        config |= {"volatile.base_image": base, "volatile.apply_template": "create",
                   "image.os": "debian", **changes.pop("config", {})}  # fmt: skip
        config = {key: value for key, value in config.items() if value != ""}
        root = {"type": "disk", "path": "/", "pool": "default"}
        return {
            "name": name, "status": "Stopped", "ephemeral": False, "profiles": ["default"],
            "devices": {}, "expanded_devices": {"root": root}, "config": config,
            "created_at": "2026-11-28T12:00:00Z", "last_used_at": "1970-01-01T00:00:00Z", **changes,
        }  # fmt: skip

    def refill(self) -> tuple[int, list[str]]:
        """How many a refill begins to make, and which it removes."""
        (self.at / "log").write_text("")
        warmpool.refill(self.engine, "coi")
        lines = (self.at / "log").read_text().splitlines()
        made = [line for line in lines if "-X POST" in line]
        assert not [line for line in made if "--wait" in line], "nobody waits"
        gone = [line.rpartition("/")[2] for line in lines if "-X DELETE" in line]
        return len(made), gone


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, 2)


def chosen(world: World, disk: Mapping[str, Mapping[str, str]] | None = None) -> list[str]:
    body = instance_body("t-x-1", "coi", {}, limits=Limits(devices=disk or {}))
    return [row.name for row in ready(world.engine, look_around(world.engine, "coi"), body)]


def test_the_oldest_that_fits_is_first(world: World) -> None:
    world.rows(
        world.row("t-warm-2", created_at="2026-11-28T12:00:02Z"), world.row("t-warm-1"),
        world.row("t-x-1", own={"state": "session", "warm": ""}),
    )  # fmt: skip
    assert chosen(world) == ["t-warm-1", "t-warm-2"]
    world.operations("t-warm-1", code=200)
    assert chosen(world) == ["t-warm-1", "t-warm-2"], "that one is over"
    root = {"type": "disk", "path": "/", "pool": "default", "size": "9GiB"}
    assert chosen(world, {"root": root}) == ["t-warm-1", "t-warm-2"]


UNFIT: dict[str, dict[str, Any]] = {
    "started once": {"last_used_at": "2026-11-28T12:00:00Z"},
    "started, by its power": {"config": {"volatile.last_state.power": "STOPPED"}},
    "started, by its template": {"config": {"volatile.apply_template": ""}},
    "renamed while it was made": {"config": {"volatile.apply_template": "rename"}},
    "running": {"status": "Running"},
    "of an older image": {"base": OLD},
    "ephemeral": {"ephemeral": True},
    "a device": {"devices": {"workspace": {"type": "disk", "source": "/", "path": "/w"}}},
    "another profile": {"profiles": ["default", "gpu"]},
    "no profile": {"profiles": []},
    "a key of Incus": {"config": {"security.privileged": "true"}},
    "a key of a session": {"own": {"session-id": "x"}},
    "a key of somebody": {"config": {"user.note": "mine"}},
    "being claimed": {"own": {"warm": "t-warm-9"}},
    "another state": {"own": {"state": "session"}},
    "another owner": {"own": {"owner": 1 + os.getuid()}},
    "another home": {"own": {"locks": "elsewhere:1:/locks"}},
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_is_not_taken(world: World, what: str) -> None:
    world.rows(world.row(**UNFIT[what]))
    assert chosen(world) == []
    world.rows(world.row())
    assert chosen(world) == ["t-warm-1"], "the control"


def test_nor_what_the_daemon_is_at_work_on_or_another_pools(world: World) -> None:
    world.rows(world.row())
    root = {"type": "disk", "path": "/", "pool": "other", "size": "9GiB"}
    assert chosen(world, {"root": root}) == []
    world.operations("t-warm-1")
    assert chosen(world) == []
    world.fails("/1.0/operations?recursion=1")
    assert chosen(world) == [], "it is not known"
    world.operations()
    world.fails("/1.0/images/aliases/coi")
    assert chosen(world) == [], "nor is the image"
    world.fails("/1.0/instances?recursion=1")
    with pytest.raises(CoiError):
        chosen(world)


def test_operations() -> None:
    assert busy_of(None) == busy_of({}) == frozenset()
    assert busy_of({"running": [{"status_code": 103, "resources": None}], "x": None}) == frozenset()
    assert busy_of(CoiError("no")) is None


def test_a_refill_makes_what_lacks_and_never_more(world: World) -> None:
    tag = warmpool.warm_body(world.engine, "coi")["name"][:-6]
    assert world.refill() == (2, [])
    world.rows(world.row())
    assert world.refill() == (1, [])
    world.operations(f"{tag}0123ab", "t-other-1")
    assert world.refill() == (0, []), "one is there, one is coming"
    world.operations(f"{tag}0123ab", f"{tag}4567ab")
    assert world.refill() == (0, []), "even if both come, and that is one too many"
    world.operations("t-warm-1")
    world.rows(world.row(config={"volatile.apply_template": ""}))
    assert world.refill() == (1, []), "it is being made, and is one"
    world.operations()
    world.rows(world.row(), world.row("t-warm-2"), world.row("t-warm-3"))
    assert world.refill() == (0, []), "what is too much is left to coi clean"
    theirs = [world.row(f"t-warm-{n}", own={"locks": "elsewhere:1:/l"}) for n in (1, 2, 3)]
    world.rows(*theirs)
    assert world.refill() == (2, []), "those are another home's"


def test_what_is_made_is_nothing_of_a_session(world: World) -> None:
    body = warmpool.warm_body(world.engine, "coi")
    assert body["name"].startswith("t-warm-")
    assert body["name"] != warmpool.warm_body(world.engine, "coi")["name"]
    assert set(body) == {"name", "type", "source", "config"}, "not started, no device"
    assert set(body["config"]) == {
        f"user.coi.{key}" for key in ("state", "owner", "version", "image", "locks", "warm")
    }
    made = world.row(body["name"])
    made["config"] = {**body["config"], "volatile.base_image": NOW,
                      "volatile.apply_template": "create"}  # fmt: skip
    world.rows(made)
    assert chosen(world) == [body["name"]], "what is made is what is taken"


@pytest.mark.parametrize(
    "change",
    [{"base": OLD}, {"last_used_at": "2026-11-28T12:00:00Z"}, {"config": {"user.note": "x"}},
     {"config": {"volatile.apply_template": ""}}],
)  # fmt: skip
def test_the_stale_ones_go(world: World, change: dict[str, Any]) -> None:
    world.rows(world.row(**change), world.row("t-warm-2"))
    assert world.refill() == (1, ["t-warm-1"])
    assert list((world.at / "locks").iterdir()) == [], "and their locks"
    world.operations("t-warm-1")
    assert world.refill() == (0, []), "not while the daemon is at work on it"
    world.operations()
    lock = world.engine.lock("t-warm-1")
    assert lock.try_acquire()
    assert world.refill() == (0, []), "nor while somebody has it"
    lock.release()
    world.rows(world.row(status="Running", last_used_at="2026-11-28T12:00:00Z"))
    assert world.refill() == (1, []), "one that somebody has started is theirs to stop"


def test_another_image_gets_one_in_the_place_of_the_oldest(world: World) -> None:
    others = [world.row(f"t-warm-{n}", OLD, own={"image": "rust"},
                        created_at=f"2026-11-28T12:00:0{n}Z") for n in (2, 1)]  # fmt: skip
    world.rows(*others)
    assert world.refill() == (1, ["t-warm-1"])
    world.rows(others[0], world.row())
    assert world.refill() == (0, []), "both have one"


def test_without_a_word_where_it_cannot_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmpool, "_WAIT", 0.05)
    other = locked(world.at / "warm.lock", 1)
    with other:
        assert world.refill() == (0, []), "another coi is at it"
    assert world.refill() == (2, []), "the control"
    world.fails("/1.0/operations?recursion=1")
    assert world.refill() == (0, [])
    world.operations()
    world.changed({"type": "error", "error_code": 403, "error": "not allowed"})
    assert world.refill() == (1, []), "the first is refused, and that is that"
    (world.at / "__1.0_images_aliases_coi".replace("__", "_")).unlink()
    assert world.refill() == (0, []), "no image"


def abandoned(world: World, **change: Any) -> tuple[bool, str]:
    """Whether a row counts as left by a coi that was killed, and what was done."""
    row = world.row("t-x-1", own={"warm": "t-warm-1", **change.pop("own", {})}, **change)
    world.rows(row)
    (world.at / "log").write_text("")
    return warmpool.abandon(world.engine, Instance.parse(row)), (world.at / "log").read_text()


def test_what_a_killed_coi_left_is_removed(world: World) -> None:
    done, log = abandoned(world)
    assert done
    assert "-X DELETE" in log
    for change in (
        {"status": "Running"}, {"own": {"owner": 1 + os.getuid()}}, {"own": {"warm": "t-x-1"}},
    ):  # fmt: skip
        assert abandoned(world, **change) == (False, "")
    lock = world.engine.lock("t-x-1")
    assert lock.try_acquire()
    assert abandoned(world) == (False, ""), "its coi lives"


def test_what_clean_takes(world: World) -> None:
    def names(size: int, *, everything: bool = False) -> dict[str, str]:
        engine = replace(world.engine, config=replace(world.engine.config, warm=Warm(size)))
        found = warmpool.unwanted(
            engine, map(Instance.parse, listed), images, everything=everything
        )
        return dict(found)

    images: list[Image] = [Image(NOW, ("coi",))]
    listed = [world.row(f"t-warm-{n}", created_at=f"2026-11-28T12:00:0{n}Z") for n in (1, 2, 3)]
    world.rows(*listed)
    assert names(3) == {}
    assert names(2) == {"t-warm-1": "warm, and more than warm.size"}
    assert set(names(0)) == {"t-warm-1", "t-warm-2", "t-warm-3"}
    assert set(names(3, everything=True)) == {"t-warm-1", "t-warm-2", "t-warm-3"}
    world.operations("t-warm-1")
    assert set(names(0)) == {"t-warm-2", "t-warm-3"}
    world.operations()
    images[:] = [Image(OLD, ("coi",))]
    assert names(3)["t-warm-1"] == "warm, but its image was replaced"
    images[:] = [Image(NOW, ("other",))]
    assert names(3)["t-warm-1"] == "warm, but its image is gone"
    images[:] = [Image(NOW, ("coi",))]
    used = {"last_used_at": "2026-11-28T12:00:00Z"}
    listed = [
        world.row("t-warm-1", **used), world.row("t-warm-2", status="Running", **used),
        world.row("t-warm-3", own={"owner": 1 + os.getuid()}),
        world.row("t-x-1", own={"warm": "t-warm-4"}),
    ]  # fmt: skip
    world.rows(*listed)
    wanted = {"t-warm-1": "warm, but it was started or changed", "t-x-1": "its coi is gone"}
    assert names(3) == wanted
    assert names(0, everything=True) == wanted, "not what runs, not what is another's"
    world.rows(world.row("t-warm-1"))
    listed = [world.row("t-warm-1", config={"volatile.apply_template": ""})]
    assert names(1) == {}, "it came to its end while it was looked at"


def test_off_it_costs_nothing() -> None:
    script = """
        import sys
        from coi.session import claim, headless, making, recover, run
        from types import SimpleNamespace as N
        off = N(config=N(warm=N(size=0)))
        assert making.look(off, "coi") is None
        assert making.refill(off, "coi") is None
        asked = N(instances=N(start_create=lambda body: body))
        assert making.begin(asked, {"name": "x"}, None, lambda: 1 / 0) == {"name": "x"}
        own = {"coi.session.warm", "coi.session.warmpool", "coi.incus.batch"}
        assert not own & set(sys.modules)
        on = N(config=N(warm=N(size=1)))
        try:
            making.look(on, "coi")
        except AttributeError:
            pass
        assert "coi.session.warm" in sys.modules
    """
    subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(script)], check=True, timeout=30)


def test_a_name_that_is_taken_is_no_port_that_is() -> None:
    taken = classify('Name "t-x-1" already in use', action="rename t-warm-1")
    assert type(taken) is AlreadyExistsError
    port = 'Error starting proxy device "port1": listen tcp 127.0.0.1:80: address already in use'
    assert type(classify(port)) is not AlreadyExistsError


def test_a_start_that_fails_takes_no_name(world: World) -> None:
    """A creation's error that something exists means the name: another slot is tried."""
    path = "/1.0/instances/t-x-1/state"
    answer = {"type": "error", "error_code": 409, "error": "device already exists"}
    world.write(path, answer)
    pending = world.engine.instances.start_made("t-x-1")
    with pytest.raises(IncusError) as failed:
        pending.result()
    assert type(failed.value) is IncusError
    assert not pending.unmade
    created = world.engine.client.begin("PUT", path)
    with pytest.raises(AlreadyExistsError):
        created.result()
