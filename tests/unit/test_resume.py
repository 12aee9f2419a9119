"""What a start goes on with, where several coi are at one session, or where a save failed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from test_session_machine import Sessions

from coi.api import Tool
from coi.errors import CoiError, NotFoundError, RefusedError
from coi.session import lifecycle, resume
from coi.session.finish import Outcome, finish, finish_stopped
from coi.session.model import SAVED, Session, from_instance, superseded
from coi.session.recover import due, recover
from coi.session.resume import Found


@pytest.fixture
def life() -> Iterator[Sessions]:
    machine = Sessions()
    yield machine
    machine.teardown()


def test_a_resumed_session_is_not_another_that_runs_in_its_slot(life: Sessions) -> None:
    first = life.begin(1, False, None)
    assert first
    life.daemon.boxes[first.instance].log = ["one"]
    first.lock.release()
    lifecycle.shutdown(life.engine, life.engine.instances.get(first.instance), timeout=1)
    other = life.begin(1, True, None)
    assert other
    life.attended[other.instance] = other
    again = life.begin(1, True, first.id)
    assert again
    life.attended[again.instance] = again
    assert (again.id, again.instance != other.instance) == (first.id, True)
    assert life.daemon.boxes[again.instance].log == ["one"]


@pytest.mark.parametrize("way", ["resumed", "resumed in it", "another in it"])
def test_what_could_not_be_saved_is_neither_begun_anew_nor_written_over(
    life: Sessions, way: str
) -> None:
    first = life.begin(1, True, None)
    assert first
    box = life.daemon.boxes[first.instance]
    box.log = ["one"]
    finish(life.engine, first)
    box.log = ["one", "two"]
    box.running = False
    first.lock.release()
    life.daemon.broken.add(box.name)
    session = life.begin(1, way != "resumed", None if way == "another in it" else first.id)
    if way == "another in it":
        assert session
        assert session.instance != box.name
        life.attended[session.instance] = session
    else:
        assert session is None
    assert (box.log, box.running) == (["one", "two"], False)
    life.daemon.broken.clear()
    again = life.begin(1, True, first.id)
    assert again
    life.attended[again.instance] = again
    assert life.daemon.boxes[again.instance].log == ["one", "two"]


def test_one_that_powers_off_is_resumed_once_it_is_saved(
    life: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the coi that is with it, which is not done yet; its container runs again meanwhile."""
    first = powering_off(life)
    steps: list[float] = []

    def sleeps(seconds: float) -> None:
        steps.append(seconds)
        life.daemon.boxes[first.instance].running = len(steps) < 3
        if len(steps) == 3:
            assert finish_stopped(life.engine, first, keep=False) is Outcome.REMOVED
            first.lock.release(remove=True)

    monkeypatch.setattr(time, "sleep", sleeps)
    again = None
    for wanted in (first.id, ""):
        again = life.begin(0, False, wanted)
        assert again
        assert again.id == first.id
        assert life.daemon.boxes[again.instance].log == ["one", "two"]
        if again.lock.held:
            life.attended[again.instance] = again
    assert len(steps) == 3
    assert sum(line.startswith("Waiting for") for line in life.told) == 1
    assert again
    assert [path.stem for path in (life.home / "locks").glob("*")] == [again.instance]


def powering_off(life: Sessions) -> Session:
    """A session that has stopped, with what its coi has not saved yet."""
    first = life.begin(1, False, None)
    assert first
    box = life.daemon.boxes[first.instance]
    box.log = ["one"]
    assert finish(life.engine, first) is Outcome.RUNNING
    box.log.append("two")
    box.running = False
    return first


def test_one_that_is_begun_anew_by_the_coi_that_has_it_is_not_waited_for(
    life: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = powering_off(life)
    life.attended[first.instance] = first
    steps: list[float] = []

    def sleeps(seconds: float) -> None:
        steps.append(seconds)
        box = life.daemon.boxes[first.instance]
        box.running, box.config["user.coi.start"] = True, "anew"
        box.begun = f"{first.id} anew"

    monkeypatch.setattr(resume, "_LOOK", 0.0)
    monkeypatch.setattr(time, "sleep", sleeps)
    again = life.begin(0, False, first.id)
    assert again
    assert (again.instance, again.attached, len(steps)) == (first.instance, True, 1)


@pytest.mark.parametrize("wanted", [True, False])
def test_one_that_powers_off_is_not_resumed_from_an_older_save(
    life: Sessions, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setattr(resume, "WAIT", 0.0)
    first = life.begin(1, False, None)
    assert first
    life.attended[first.instance] = first
    assert finish(life.engine, first) is Outcome.RUNNING
    life.daemon.boxes[first.instance].running = False
    assert life.begin(2, False, first.id if wanted else "") is None
    assert set(life.daemon.boxes) == {first.instance}


def test_a_shutdown_of_what_is_half_deleted_leaves_nothing(life: Sessions) -> None:
    first = life.begin(1, False, None)
    assert first
    first.lock.release()
    row = life.engine.instances.get(first.instance)
    life.engine.instances.update(row.name, ephemeral=True, config={"user.coi.state": "removing"})
    lifecycle.shutdown(life.engine, life.engine.instances.get(row.name), timeout=1)
    assert life.daemon.boxes == {}
    assert list((life.home / "locks").glob("*")) == []
    life.what_runs_is_protected()


@pytest.mark.parametrize("step", range(1, 100))
def test_killed_while_an_older_container_is_begun_again(life: Sessions, step: int) -> None:
    first = life.kept(1, "one")
    second = life.begin(2, False, first.id)
    assert second
    life.daemon.boxes[second.instance].log.append("two")
    second.lock.release()
    lifecycle.shutdown(life.engine, life.engine.instances.get(second.instance), timeout=1)
    life.nothing_saved_is_lost()
    life.in_a_process_of_its_own(lambda: life.begin(1, True, first.id), step)
    life.look()
    life.nothing_saved_is_lost()
    third = life.begin(1, True, first.id)
    assert third
    life.attended[third.instance] = third
    assert life.daemon.boxes[third.instance].log == ["one", "two"]


def test_one_that_another_coi_is_starting_is_not_waited_for(
    life: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped until it runs; what is resumed is what was saved."""
    monkeypatch.setattr(resume, "WAIT", 0.0)
    saved = life.kept(1, "one")
    other = life.begin(2, False, None)
    assert other
    other.starts()  # as while it is made
    life.daemon.boxes[other.instance].running = False
    again = life.begin(0, False, "")
    assert again
    life.attended[again.instance] = again
    assert again.id == saved.id
    life.daemon.boxes[other.instance].running = True
    other.begins()
    other.lock.release()


def test_one_that_turns_out_to_be_starting_is_not_waited_for(
    life: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = powering_off(life)
    row = life.engine.instances.get(other.instance)
    life.attended[other.instance] = other
    steps: list[float] = []

    def sleeps(seconds: float) -> None:
        steps.append(seconds)
        if len(steps) == 1:
            other.starts()
        else:
            other.begins()
            life.daemon.boxes[other.instance].running = True

    monkeypatch.setattr(resume, "_LOOK", 0.0)
    monkeypatch.setattr(time, "sleep", sleeps)
    resume.wait(life.engine, row.name, other.id, row.coi("start"))
    assert len(steps) == 2


def in_the_meantime(life: Sessions, slot: int) -> str:
    """Another coi begins in a kept container, says something and leaves; the container's name."""
    other = life.begin(slot, True, None)
    assert other
    assert not other.created
    life.daemon.boxes[other.instance].log.append("meanwhile")
    other.lock.release()
    return other.instance


def is_as_it_was_left(life: Sessions, name: str) -> None:
    box = life.daemon.boxes[name]
    assert (box.running, box.config["user.coi.state"], box.log[-1]) == (
        True,
        "session",
        "meanwhile",
    )
    session_id = box.config["user.coi.session-id"]
    lifecycle.shutdown(life.engine, life.engine.instances.get(name), timeout=1)
    assert life.saved()[session_id][-1] == "meanwhile"


def test_what_was_begun_since_it_was_listed_is_not_recovered(life: Sessions) -> None:
    first = life.begin(1, True, None)
    assert first
    life.daemon.boxes[first.instance].log = ["one"]
    life.daemon.boxes[first.instance].running = False
    first.lock.release()
    rows = life.engine.instances.all()  # listed; then it takes its time
    name = in_the_meantime(life, 1)
    done = recover(life.engine, rows)
    assert (done.gone, done.unsaved) == (set(), set())
    is_as_it_was_left(life, name)


def test_what_was_begun_since_it_was_listed_is_not_begun_anew(
    life: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.kept(1, "one")
    real = resume.look
    names: list[str] = []

    def look(*args: Any) -> Found:
        found = real(*args)
        if not names:
            names.append("")
            names[0] = in_the_meantime(life, 1)
        return found

    monkeypatch.setattr(resume, "look", look)
    second = life.begin(1, True, None)
    assert second
    life.attended[second.instance] = second
    assert second.instance != names[0]
    is_as_it_was_left(life, names[0])


def test_what_is_due(life: Sessions) -> None:
    """Who attaches need not see to what runs, what is saved, and what another coi is at."""
    first = life.begin(1, True, None)
    assert first
    box = life.daemon.boxes[first.instance]
    box.log = ["one"]

    def now() -> bool:
        return due(life.engine, life.engine.instances.all())

    assert not now(), "it runs"
    box.running = False
    assert not now(), "its own coi is at it"
    first.lock.release()
    assert now()
    recover(life.engine, life.engine.instances.all())
    assert not now(), "it is saved, and kept"
    assert first.lock.read() == "", "nobody is in it"


@pytest.mark.parametrize("wanted", [True, False])
def test_a_kept_container_that_could_not_be_started_is_begun_again(
    life: Sessions, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    """As with a port that is taken: there is nothing in it that is not saved."""
    first = life.kept(1, "one")
    real = life.engine.instances.__class__.set_state

    def refuses(*args: Any, **more: Any) -> None:
        if args[2] == "start":
            raise CoiError("the port is taken")
        real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(life.engine.instances.__class__, "set_state", refuses)
        assert life.begin(1, True, first.id if wanted else None) is None
        recover(life.engine, life.engine.instances.all())
    life.daemon.broken.add(first.instance)
    again = life.begin(1, True, first.id)
    assert again
    life.attended[again.instance] = again
    life.daemon.broken.clear()
    assert again.instance == first.instance
    assert life.daemon.boxes[again.instance].log == ["one"]


@pytest.mark.parametrize("wanted", [True, False])
def test_what_was_never_saved_is_not_called_unknown(life: Sessions, wanted: bool) -> None:
    """Nor is an older one resumed in its place."""
    life.kept(1, "one")
    second = life.begin(2, False, None)
    assert second
    life.daemon.boxes[second.instance].log = ["two"]
    life.power_off_of(second.instance)
    second.lock.release()
    life.daemon.broken.add(second.instance)
    with pytest.raises(RefusedError, match=f"{second.id} could not be saved from"):
        resume.look(life.engine, life.request(0, False, second.id if wanted else ""))
    assert sum(line.startswith("Could not recover") for line in life.told) == 1
    life.daemon.broken.clear()


def test_an_older_container_that_was_started_by_hand(life: Sessions) -> None:
    first = life.kept(1, "one")
    second = life.begin(2, False, first.id)
    assert second
    life.daemon.boxes[second.instance].log.append("two")
    second.lock.release()
    lifecycle.shutdown(life.engine, life.engine.instances.get(second.instance), timeout=1)
    box = life.daemon.boxes[first.instance]
    box.running = True
    row = life.engine.instances.get(first.instance)
    assert (row.coi("state"), superseded(life.engine, row)) == (SAVED, True)
    for persistent in (False, True):
        third = life.begin(1, persistent, None if persistent else first.id)
        assert third
        life.attended[third.instance] = third
        assert third.instance != first.instance
        assert life.daemon.boxes[third.instance].log == ([] if persistent else ["one", "two"])
    lifecycle.shutdown(life.engine, row, timeout=1)
    assert first.instance not in life.daemon.boxes
    assert life.saved() == {first.id: ["one", "two"]}


def test_the_tool_of_what_runs_is_looked_up_when_it_is_used(life: Sessions) -> None:
    """An attach waits for no plugin, and goes to a session whose tool is gone."""
    first = life.begin(1, False, None)
    assert first
    first.lock.release()
    row = life.engine.instances.get(first.instance)

    def gone(name: str) -> Tool:
        raise NotFoundError(f"there is no tool named {name!r}")

    engine = replace(life.engine, tool=gone)
    session = from_instance(engine, row, attached=True)
    assert (session.tool.name, session.id, session.start) == ("dummy", first.id, first.start)
    with pytest.raises(NotFoundError):
        _ = session.tool.state
    with pytest.raises(NotFoundError):
        finish(engine, session)
    assert life.daemon.boxes[first.instance].running
    assert from_instance(life.engine, row, attached=True).tool.state == (".dummy",)
    with pytest.raises(NotFoundError):
        from_instance(engine, row, attached=False)


def test_what_a_save_left_that_was_cut_off_is_cleaned(
    life: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = life.kept(1, "one")
    torn = life.engine.store.directory("dummy", first.id) / ".metadata.json.0123456789abcdef"
    torn.write_text("cut off")
    (item,) = lifecycle.leftovers(life.engine, sessions=False, everything=False)
    assert (item.kind, item.name) == ("save", f"sessions-dummy/{first.id}")

    def fails(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", fails)
        with pytest.raises(CoiError, match=r"cannot clean .*\n?") as caught:
            lifecycle.clean(life.engine, item)
    assert "Read-only" in (caught.value.details or "")
    lifecycle.clean(life.engine, item)
    assert not torn.exists()
    assert life.saved() == {first.id: ["one"]}
