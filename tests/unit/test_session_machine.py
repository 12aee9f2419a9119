"""The life of sessions in any order, with coi killed anywhere: nothing that was saved is lost.

coi's own code for locks, claims, saves, protected paths and cleaning runs on a real file system;
the daemon is one in memory (fakedaemon.py). Each rule is one thing that somebody does: a user
with a terminal or without, the tool inside, who has root there, Incus itself, or a kill -9.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
from fakedaemon import Box, Daemon, log_of
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coi.api import ImageContext, Launch, Tool
from coi.config.model import Config, Defaults, Paths
from coi.errors import CoiError
from coi.incus.client import Client
from coi.session import lifecycle, resume
from coi.session.baseline import records
from coi.session.claim import claim
from coi.session.finish import Outcome, finish
from coi.session.model import SAVED, Engine, Session, StartRequest, from_instance
from coi.session.recover import recover
from coi.session.settlement import all_of
from coi.session.undo import Undo
from coi.workspace.directory import Workspace
from coi.workspace.ownership import SessionUser

SHM = Path("/dev/shm")
GIT = "[core]\n\tbare = false\n"
STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "fcntl.flock")
"""Events of the interpreter (sys.audit) before which a coi is killed."""


class Dummy(Tool):
    name = "dummy"
    binary = "dummy"
    state = (".dummy",)

    def install(self, image: ImageContext) -> str:
        return "true"

    def command(self, launch: Launch) -> list[str]:
        return ["dummy"]


class Sessions(RuleBasedStateMachine):
    """What the sessions of one workspace go through.

    Attributes:
        attended: those that a coi with a terminal is with; it holds their locks.
        seen: what was found saved of each session the last time.
        evil: what was written into the workspace from inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(mkdtemp(prefix="coi-machine-", dir=SHM if SHM.is_dir() else None))
        self.home = self.top / "home"
        self.work = self.top / "work"
        (self.work / ".git").mkdir(parents=True)
        (self.work / ".git/HEAD").write_text("ref: refs/heads/main\n")
        (self.work / ".git/config").write_text(GIT)
        self.daemon = Daemon(self.top / "daemon.json")
        self.daemon.write()
        self.told: list[str] = []
        paths = Paths(self.home, self.home, self.home)
        self.engine = Engine(
            Config(paths, defaults=Defaults(max_slots=3)), Client(self.daemon), self.home, "coi-",
            self.told.append, lambda _name: Dummy(), self.told.append,
        )  # fmt: skip
        self.attended: dict[str, Session] = {}
        self.seen: dict[str, list[str]] = {}
        self.evil: list[str] = []
        self.said = 0

    # -- What is there ----------------------------------------------------------

    def boxes(self, *, running: bool | None = None, attended: bool | None = None) -> list[Box]:
        return [
            box
            for box in self.daemon.boxes.values()
            if running in (None, box.running) and attended in (None, box.name in self.attended)
        ]

    def pick(self, data: st.DataObject, boxes: list[Box]) -> Box:
        return self.daemon.boxes[data.draw(st.sampled_from(sorted(box.name for box in boxes)))]

    def row(self, box: Box) -> Any:
        return self.engine.instances.get(box.name)

    def saved(self) -> dict[str, list[str]]:
        """What is saved, by session."""
        found = {}
        for saved in self.engine.store.all():
            path = saved.state_path
            assert path is not None, "a session's state is there where its metadata is"
            assert saved.size == sum(map(len, log_of(path.read_bytes()))) + len(
                log_of(path.read_bytes())
            )
            found[saved.id] = log_of(path.read_bytes())
        return found

    # -- A user with a terminal -------------------------------------------------

    def request(self, slot: int, persistent: bool, resume: str | None) -> StartRequest:
        return StartRequest(
            Workspace(self.work, self.work), Dummy(),
            SessionUser("code", 1000, 1000, "/home/code"),
            slot=slot, persistent=persistent, resume=resume,
        )  # fmt: skip

    def begin(self, slot: int, persistent: bool, resume: str | None) -> Session | None:
        request = self.request(slot, persistent, resume)
        undo = Undo(self.engine)
        try:
            session = claim(self.engine, request, undo)
        except CoiError:
            return None
        if not session.attached:
            box = self.daemon.boxes[session.instance]
            box.begun = session.mark
            if session.saved is not None:
                path = session.saved.state_path
                assert path is not None
                box.log = log_of(path.read_bytes())
            self.daemon.write()
            session.begins()
        undo.nothing()
        return session

    def kept(self, slot: int, *log: str) -> Session:
        """A session in a container that is stopped, saved and kept."""
        session = self.begin(slot, True, None)
        assert session
        box = self.daemon.boxes[session.instance]
        box.log, box.running = [*log], False
        assert finish(self.engine, session) is Outcome.KEPT
        session.lock.release()
        return session

    @rule(slot=st.integers(0, 3), persistent=st.booleans())
    def start(self, slot: int, persistent: bool) -> None:
        session = self.begin(slot, persistent, None)
        if session is None:
            assert len({*self.daemon.boxes, *self.attended}) == 3, "there is a free slot"
        elif session.lock.held:
            assert session.instance not in self.attended
            self.attended[session.instance] = session

    @rule(data=st.data(), slot=st.integers(0, 2), persistent=st.booleans())
    def resume(self, data: st.DataObject, slot: int, persistent: bool) -> None:
        wanted = ["", *self.seen][data.draw(st.integers(0, len(self.seen)))]
        session = self.begin(slot, persistent, wanted)
        if session is None:
            return
        if wanted:
            assert session.id == wanted
            log = self.daemon.boxes[session.instance].log
            assert log[: len(self.seen[wanted])] == self.seen[wanted], "it goes on where it was"
        if session.lock.held and session.instance not in self.attended:
            self.attended[session.instance] = session

    @precondition(lambda self: self.boxes(running=True, attended=False))
    @rule(data=st.data())
    def attach(self, data: st.DataObject) -> None:
        box = self.pick(data, self.boxes(running=True, attended=False))
        recover(self.engine, self.engine.instances.all())
        if box not in self.boxes(running=True):
            return  # its start was cut off
        session = from_instance(self.engine, self.row(box), attached=True)
        assert session.lock.try_acquire(), "nobody is with it"
        self.attended[box.name] = session

    @precondition(lambda self: self.attended)
    @rule(data=st.data(), again=st.booleans())
    def detach(self, data: st.DataObject, again: bool) -> None:
        """Or whatever else ended the terminal: coi saves, and sees what has become of it."""
        self.detach_of(data.draw(st.sampled_from(sorted(self.attended))), again=again)

    def detach_of(self, name: str, *, again: bool = False) -> None:
        session = self.attended.pop(name)
        box = self.daemon.boxes.get(name)
        outcome = finish(self.engine, session)
        if again and outcome is not Outcome.GONE:
            before = self.saved()
            with suppress(CoiError):
                assert finish(self.engine, session) in (outcome, Outcome.GONE)
            assert self.saved() == before, "a second end changes nothing"
        session.lock.release(remove=outcome is Outcome.REMOVED)
        if box is not None and outcome is not Outcome.GONE and box.log:
            assert self.saved()[session.id] == box.log

    @precondition(lambda self: self.attended)
    @rule(data=st.data())
    def its_coi_is_killed(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.attended)))
        self.attended.pop(name).lock.release()  # which is all that the kernel does

    # -- Inside, and Incus ------------------------------------------------------

    @precondition(lambda self: self.boxes(running=True))
    @rule(data=st.data())
    def say(self, data: st.DataObject) -> None:
        self.said += 1
        self.pick(data, self.boxes(running=True)).log.append(f"line {self.said}")
        self.daemon.write()

    @precondition(lambda self: any(box.reaches_workspace for box in self.boxes(running=True)))
    @rule()
    def attack(self) -> None:
        """From one that has the workspace, which one has not that is started again to be saved.
        Root inside has taken the mounts away and writes what git of the host obeys."""
        self.evil.append(f"[core]\n\tfsmonitor = evil{len(self.evil)}\n")
        (self.work / ".git/config").write_text(self.evil[-1])

    @precondition(lambda self: self.boxes(running=True))
    @rule(data=st.data())
    def power_off(self, data: st.DataObject) -> None:
        self.power_off_of(self.pick(data, self.boxes(running=True)).name)

    def power_off_of(self, name: str) -> None:
        box = self.daemon.boxes[name]
        box.running = False
        if box.ephemeral:
            del self.daemon.boxes[box.name]
        self.daemon.write()

    @precondition(lambda self: self.boxes())
    @rule(data=st.data())
    def delete_from_outside(self, data: st.DataObject) -> None:
        del self.daemon.boxes[self.pick(data, self.boxes()).name]
        self.daemon.write()

    # -- A user without a terminal ----------------------------------------------

    @precondition(lambda self: self.boxes(attended=False))
    @rule(data=st.data())
    def shut_down(self, data: st.DataObject) -> None:
        box = self.pick(data, self.boxes(attended=False))
        session_id, log, was_saved = self.state_of(box)
        lifecycle.shutdown(self.engine, self.row(box), timeout=1)
        assert box.name not in self.daemon.boxes
        if log and not was_saved:
            assert self.saved()[session_id] == log
        assert not self.engine.lock(box.name).path.exists()

    @precondition(lambda self: self.boxes())
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        box = self.pick(data, self.boxes())
        lifecycle.kill(self.engine, self.row(box))
        assert box.name not in self.daemon.boxes

    @precondition(lambda self: self.boxes())
    @rule(data=st.data())
    def persist(self, data: st.DataObject) -> None:
        with suppress(CoiError):
            lifecycle.persist(self.engine, self.row(self.pick(data, self.boxes())))

    @rule()
    def look(self) -> None:
        """`coi list`: what nobody attends to is finished, and what is shown is there."""
        states = [self.state_of(box) for box in self.boxes(running=False, attended=False)]
        rows = self.engine.instances.all()
        gone = recover(self.engine, rows).gone
        assert {row.name for row in rows} - gone == set(self.daemon.boxes)
        for box in self.boxes(running=False, attended=False):
            assert box.config["user.coi.state"] == SAVED, self.told[-3:]
        saved = self.saved()
        for session_id, log, was_saved in states:
            assert was_saved or not log or saved[session_id] == log
        kept = {kept.instance for record in records(self.home) for kept in record.sessions.values()}
        assert kept <= {box.name for box in self.boxes(running=True)} | set(self.attended)

    @rule(everything=st.booleans())
    def clean(self, everything: bool) -> None:
        for item in lifecycle.leftovers(self.engine, sessions=False, everything=everything):
            if item.kind != "session":  # those go only where the user says so
                lifecycle.clean(self.engine, item)
        again = lifecycle.leftovers(self.engine, sessions=False, everything=everything)
        left = [item for item in again if item.kind != "session"]
        assert left == [], "it finds at once all that it takes away"

    def state_of(self, box: Box) -> tuple[str, list[str], bool]:
        """Its session, what was said in it, and whether it is to be saved no more, or not yet."""
        session_id, state, start = (
            box.config[f"user.coi.{key}"] for key in ("session-id", "state", "start")
        )
        begun = box.begun == f"{session_id} {start}"
        return session_id, list(box.log), state != "session" or not begun

    # -- A coi that is killed between any two steps ------------------------------

    @rule(data=st.data(), step=st.integers(1, 90))
    def killed(self, data: st.DataObject, step: int) -> None:
        acts: dict[str, Callable[[], object]] = {
            "start": lambda: self.begin(0, False, None),
            "start, to be kept": lambda: self.begin(1, True, None),
            "look": lambda: recover(self.engine, self.engine.instances.all()),
            "clean": lambda: self.clean(True),
        }
        for box in sorted(self.boxes(), key=lambda box: box.name):
            row = self.row(box)
            acts[f"kill {box.name}"] = partial(lifecycle.kill, self.engine, row)
            if box.name not in self.attended:
                act = partial(lifecycle.shutdown, self.engine, row, timeout=1)
                acts[f"shut down {box.name}"] = act
        for name, session in self.attended.items():
            acts[f"finish {name}"] = partial(finish, self.engine, session)
        for number, wanted in enumerate(self.seen):
            acts[f"resume {number}"] = partial(self.begin, 0, False, wanted)
        what = data.draw(st.sampled_from(sorted(acts)))
        ended = self.in_a_process_of_its_own(acts[what], step)
        assert ended in (0, -signal.SIGKILL), what
        if what.startswith("finish"):
            self.attended.pop(what.removeprefix("finish ")).lock.release()

    def in_a_process_of_its_own(self, act: Callable[[], object], step: int) -> int:
        """Do it and die before the ``step``-th change or opening of a file; how it ended."""
        pid = os.fork()
        if pid == 0:
            left = step

            def count(event: str, args: tuple[Any, ...]) -> None:
                nonlocal left
                if event in STEPS and not str(args[0]).endswith((".py", ".pyc")):
                    left -= 1
                    if left <= 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            code = 1
            try:
                sys.addaudithook(count)
                act()
                code = 0
            except CoiError:
                code = 0
            finally:
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.daemon.read()
        return ended

    # -- What holds always ------------------------------------------------------

    @invariant()
    def nothing_saved_is_lost(self) -> None:
        now = self.saved()
        for session_id, log in self.seen.items():
            assert now[session_id][: len(log)] == log, "replaced by what is older"
        new = sorted((log, name) for name, log in now.items() if name not in self.seen)
        self.seen = {name: now[name] for name in (*self.seen, *(name for _, name in new))}

    @invariant()
    def a_session_runs_once(self) -> None:
        ids = [
            box.config["user.coi.session-id"]
            for box in self.boxes(running=True)
            if box.config["user.coi.state"] == "session"
        ]
        assert len(ids) == len(set(ids))

    @invariant()
    def no_lock_is_left_held(self) -> None:
        for path in list((self.home / "locks").glob("*.lock")):
            lock = self.engine.lock(path.stem)
            free = lock.try_acquire()
            lock.release()
            assert free is (path.stem not in self.attended), path.name

    @invariant()
    def what_runs_is_protected(self) -> None:
        kept = {token for record in records(self.home) for token in record.sessions}
        for box in self.boxes(running=True):
            if box.config["user.coi.state"] == "session":
                assert box.config["user.coi.session-id"] in kept
        if not kept:
            assert (self.work / ".git/config").read_text() == GIT, "put back"

    @invariant()
    def nothing_is_thrown_away(self) -> None:
        """What stood at a protected path is there, or put aside."""
        path = self.work / ".git/config"
        now = path.read_text() if path.exists() else ""  # a killed coi has not put it back yet
        if self.evil and now != self.evil[-1]:
            aside = [
                (kept.directory / item.stored).read_text()
                for kept in all_of(self.home)
                for item in kept.items
                if item.stored and item.path == ".git/config"
            ]
            assert self.evil[-1] in aside

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            for session in self.attended.values():
                session.lock.release()
            rmtree(self.top)

    def end(self) -> None:
        """The host is restarted: all stops, and every coi is gone. Then all is cleaned."""
        for session in self.attended.values():
            session.lock.release()
        self.attended.clear()
        for box in self.boxes():
            box.running = False
        self.look()
        self.clean(True)
        self.nothing_saved_is_lost()
        assert self.daemon.boxes == {}
        assert list((self.home / "locks").glob("*")) == []
        assert not (self.home / "protect").exists()
        assert (self.work / ".git/config").read_text() == GIT
        stray = [p.name for p in self.home.glob("sessions-*/*/*") if p.name.startswith(".")]
        assert stray == []


@pytest.fixture
def life() -> Iterator[Sessions]:
    machine = Sessions()
    yield machine
    machine.teardown()


@pytest.mark.parametrize("end", ["shut down", "clean", "kill"])
def test_a_kept_container_whose_session_went_on_in_another(life: Sessions, end: str) -> None:
    """Its state is older than what is saved, and the session's protected paths are not its own."""
    first = life.kept(1, "one")
    life.nothing_saved_is_lost()
    second = life.begin(2, False, first.id)
    assert second
    assert second.instance != first.instance
    life.attended[second.instance] = second
    life.daemon.boxes[second.instance].log.append("two")
    finish(life.engine, second)
    assert life.saved() == {first.id: ["one", "two"]}
    row = life.engine.instances.get(first.instance)
    if end == "shut down":
        lifecycle.shutdown(life.engine, row, timeout=1)
    elif end == "clean":
        life.clean(True)
    else:
        lifecycle.kill(life.engine, row)
    assert first.instance not in life.daemon.boxes
    assert life.saved() == {first.id: ["one", "two"]}
    life.what_runs_is_protected()
    life.attack()
    life.power_off_of(second.instance)
    life.detach_of(second.instance)
    assert (life.work / ".git/config").read_text() == GIT


@pytest.mark.parametrize("step", range(1, 60))
def test_killed_while_it_puts_aside(life: Sessions, step: int) -> None:
    """What has been moved is shown as put aside, whatever was written of it."""
    session = life.begin(1, False, None)
    assert session
    life.attack()
    life.power_off_of(session.instance)
    session.lock.release()
    look = partial(life.engine.instances.all)
    life.in_a_process_of_its_own(lambda: recover(life.engine, look()), step)
    life.nothing_is_thrown_away()
    life.look()
    life.what_runs_is_protected()
    life.nothing_is_thrown_away()


def test_lives_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shrinking, which takes minutes: what failed is printed as it was."""
    monkeypatch.setattr(resume, "WAIT", 0.0)  # for one that this process attends
    run_state_machine_as_test(
        Sessions,
        settings=settings(
            max_examples=30, stateful_step_count=25, deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate], report_multiple_bugs=False,
        ),
    )  # fmt: skip
