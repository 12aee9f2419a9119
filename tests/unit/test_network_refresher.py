"""The process that keeps a policy's rules right: when it does what, and what it is made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from coi.network import answers, refresher
from coi.network.answers import Answer
from coi.network.duty import FORMAT, Duty, attended, forget, load
from coi.network.lock import Busy, locked
from coi.network.refresher import DONE, FAILED, OVER, Task, attend

ACL = "coi-0123abcd"


def duty(path: Path, *, policy: Mapping[str, object] | None = None, **changes: object) -> Path:
    """A file of a duty; of an allowlist where it has domains."""
    whole = {
        "mode": "allowlist", "domains": [], "networks": [], "private": False,
        "local_ingress": False, "metadata": False, "logged": False, **(policy or {}),
    }  # fmt: skip
    row = {
        "prefix": "coi-", "place": "here", "project": "default", "profile": "default",
        "backend": "auto", "acl": ACL, "minutes": 0, "policy": whole, "hash": "a" * 32,
        "inside": False, "log": "", **changes,
    }  # fmt: skip
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, **row}))
    path.chmod(0o600)
    return path


class Clock:
    """Runs :func:`attend`; each of its sleeps is a step, before which the world changes."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.tables = path.parent / "fib_trie"
        self.tables.write_text("10.0.0.1")
        self.did: list[list[Task]] = []
        self.ends: dict[Task, int] = {"look": DONE, "mend": DONE, "tell": DONE}
        self.now = 1000.0
        monkeypatch.setattr("coi.network.refresher.time.monotonic", lambda: self.now)

    def run(self, *steps: Callable[[], object]) -> list[list[Task]]:
        """What was done after each step; the last is followed by the file's end."""
        waiting = iter(steps)

        def sleep(seconds: float) -> None:
            self.now += seconds
            step = next(waiting, None)
            if step is None:
                self.path.unlink()
                return
            self.did.append([])
            step()

        attend(self.path, work=self._work, sleep=sleep, tables=self.tables)
        return self.did

    def _work(self, task: Task, _path: Path) -> int:
        self.did[-1].append(task)
        return self.ends[task]

    def later(self, seconds: float) -> Callable[[], None]:
        def step() -> None:
            self.now += seconds

        return step


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(duty(tmp_path / "network" / "refresh-a.json"), monkeypatch)


def nothing() -> None:
    """A step in which nothing happens."""


def test_it_does_nothing_until_the_hosts_addresses_change(clock: Clock) -> None:
    moved = clock.tables.write_text
    did = clock.run(nothing, nothing, nothing, lambda: moved("10.0.0.1 203.0.113.9"), nothing)
    assert did == [["mend"], [], [], ["mend"], []]


def test_what_fails_is_tried_again_later(clock: Clock) -> None:
    clock.ends["mend"] = FAILED
    did = clock.run(nothing, nothing, clock.later(refresher.RETRY), nothing)
    assert did == [["mend"], [], ["mend", *did[2][1:]], []] or did[2] == ["look", "mend"]
    assert did[1] == did[3] == []


def test_it_looks_at_the_instances_and_ends_when_nothing_runs(clock: Clock) -> None:
    def over() -> None:
        clock.ends["look"] = OVER
        clock.now += refresher.LOOK

    did = clock.run(nothing, clock.later(refresher.LOOK), nothing, over, nothing, nothing)
    assert did == [["mend"], ["look"], [], ["look"]]
    assert clock.path.exists(), "the file is not the process's to take away"


@pytest.mark.parametrize(("minutes", "due"), [(5, True), (0, False)])
def test_names_are_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, due: bool
) -> None:
    """With refresh_interval_minutes = 0 they are never."""
    policy = {"domains": ["a.example"]}
    path = duty(tmp_path / "network" / "refresh-a.json", minutes=minutes, policy=policy)
    clock = Clock(path, monkeypatch)

    def old() -> None:
        found = {"a.example": Answer((), "2026-01-01T00:00:00+00:00")}
        answers.save(path.parent, "a" * 32, found)

    assert (
        clock.run(old, nothing) == [["look", "mend"], ["look", "mend"]] if due else [["mend"], []]
    )


def test_names_inside_follow_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = duty(tmp_path / "network" / "refresh-a.json", inside=True)
    clock = Clock(path, monkeypatch)
    file = answers.path_of(path.parent, "a" * 32)
    did = clock.run(nothing, lambda: file.write_text("new"), nothing)
    assert did == [["mend"], ["tell"], []]


def test_others_that_look_whether_it_is_there_do_not_end_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`coi network status` takes the lock for a moment."""
    monkeypatch.undo()  # the real clock
    held, free = threading.Event(), threading.Event()

    def status() -> None:
        with locked(clock.path.with_suffix(".lock")):
            held.set()
            free.wait(10)

    other = threading.Thread(target=status)
    other.start()
    assert held.wait(10)
    freeing = threading.Timer(0.2, free.set)
    freeing.start()
    assert clock.run(nothing) == [["mend"]]
    for thread in (other, freeing):
        thread.join()


def test_one_that_is_there_stays_the_only_one(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(refresher, "PROBE", 0.0)
    with locked(clock.path.with_suffix(".lock")), pytest.raises(Busy):
        attend(clock.path)


def test_what_there_is_to_do_is_forgotten_with_the_acl(tmp_path: Path) -> None:
    one = duty(tmp_path / "network" / "refresh-a.json")
    other = duty(tmp_path / "network" / "refresh-b.json", acl="coi-00000000")
    assert attended(tmp_path / "network") == {ACL: False, "coi-00000000": False}
    forget(tmp_path / "network", [ACL])
    assert (one.exists(), other.exists()) == (False, True)


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    path = duty(tmp_path / "network" / "refresh-a.json")
    found = load(path)
    assert isinstance(found, Duty)
    for text in ("", "[]", "{}", '{"format": 2}', '{"format": 1}'):
        path.write_text(text)
        assert load(path) is None


def test_it_is_small(tmp_path: Path) -> None:
    """It is there for as long as a session: 15 MB at most, and what is heavy is a child's."""
    code = (
        "import sys, coi.network.refresher\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.split('VmRSS:')[1].split()[0], *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
        cwd=tmp_path, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    size, *modules = done.stdout.split()
    assert int(size) < 15 << 10, "KiB"
    heavy = {"sh", "asyncio", "hashlib", "subprocess", "coi.network.fence", "coi.incus.client"}
    assert not heavy & set(modules)
