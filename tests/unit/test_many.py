"""Work side by side, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from coi.errors import CoiError, NotFoundError, RefusedError, UsageError
from coi.session.many import side_by_side

ITEMS = [f"item-{n}" for n in range(12)]


def held() -> set[tuple[str, str]]:
    """The open descriptors and what they are, and the children, running or not."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the directory's own
            found.add((entry.name, str(entry.readlink())))
    for children in Path("/proc/self/task").glob("*/children"):
        found |= {("child", pid) for pid in children.read_text().split()}
    return found


def settle(before: set[tuple[str, str]]) -> None:
    """No child is left and no descriptor is open that was not."""
    assert held() == before


def test_nothing() -> None:
    assert side_by_side([], lambda _: None) == {}


@pytest.mark.parametrize("items", [ITEMS[:1], ITEMS])
def test_order_is_the_order_given(items: list[str], tmp_path: Path) -> None:
    before = held()

    def work(item: str) -> None:
        time.sleep(0.002 * (len(items) - int(item.rpartition("-")[2])))  # the last is done first
        (tmp_path / item).touch()

    outcome = side_by_side(items, work)
    assert list(outcome) == items
    assert set(outcome.values()) == {None}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(items)
    settle(before)


def test_each_has_a_process_of_its_own_and_they_overlap(tmp_path: Path) -> None:
    """Each waits until all have come: one after the other would never end."""

    def work(item: str) -> None:
        (tmp_path / f"{item}.{os.getpid()}").touch()
        deadline = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 4:
            if time.monotonic() > deadline:
                raise CoiError("alone")
            time.sleep(0.005)

    assert set(side_by_side(ITEMS[:4], work).values()) == {None}
    pids = {path.suffix for path in tmp_path.iterdir()}
    assert len(pids) == 4
    assert f".{os.getpid()}" not in pids


def test_at_most_so_many_at_a_time(tmp_path: Path) -> None:
    def work(item: str) -> None:
        mark = tmp_path / item
        mark.touch()
        time.sleep(0.01)
        found = len(list(tmp_path.iterdir()))
        mark.unlink()
        if found > 3:
            raise CoiError(f"{found} at a time")

    assert set(side_by_side(ITEMS, work, limit=3).values()) == {None}


def test_a_name_given_twice_is_done_once(tmp_path: Path) -> None:
    def work(item: str) -> None:
        (tmp_path / item).mkdir()

    assert side_by_side(["a", "a"], work) == {"a": None}
    assert side_by_side(["b", "a", "b"], lambda _: None) == {"b": None, "a": None}


def test_a_failure_stops_nobody_and_keeps_all_it_said(tmp_path: Path) -> None:
    before = held()
    errors: dict[str, CoiError] = {
        "item-1": NotFoundError("not there", details="why\nso", hint="look"),
        "item-4": UsageError("wrong"),
        "item-5": RefusedError("no", details="\x1b[31m\udcff"),
        "item-9": CoiError("failed", details="\U0001f4a5" * 8000, hint="h" * 8000),
    }

    def work(item: str) -> None:
        if item in errors:
            raise errors[item]
        (tmp_path / item).touch()

    outcome = side_by_side(ITEMS, work)
    assert [item for item in ITEMS if outcome[item] is None] == [
        i for i in ITEMS if i not in errors
    ]
    assert len(list(tmp_path.iterdir())) == len(ITEMS) - len(errors)
    for item, error in errors.items():
        got = outcome[item]
        assert got is not None
        assert (got.brief, got.hint, got.exit_code) == (error.brief, error.hint, error.exit_code)
        assert got.details == error.details
    settle(before)


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(7), RecursionError()])
def test_anything_else_is_a_failure_too(error: BaseException) -> None:
    items = ITEMS[:3]

    def work(item: str) -> None:
        if item == "item-0":
            raise error

    outcome = side_by_side(items, work)
    got = outcome["item-0"]
    assert isinstance(got, CoiError)
    assert (got.brief, got.details, got.exit_code) == (
        f"item-0: {type(error).__name__}",
        str(error),
        1,
    )
    assert all(outcome[item] is None for item in items[1:])


def test_a_single_one_is_done_here() -> None:
    pids = []
    assert side_by_side(["a"], lambda _: pids.append(os.getpid())) == {"a": None}
    assert pids == [os.getpid()]
    wanted = NotFoundError("gone")

    def fail(error: BaseException) -> None:
        raise error

    assert side_by_side(["a"], lambda _: fail(wanted)) == {"a": wanted}
    with pytest.raises(ValueError, match="odd"):
        side_by_side(["a"], lambda _: fail(ValueError("odd")))


def _kill_hard() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _leave() -> None:
    os._exit(0)  # "done", without having said so


@pytest.mark.parametrize("death", [_kill_hard, _leave])
def test_a_worker_that_dies(death: Callable[[], None], tmp_path: Path) -> None:
    before = held()

    def work(item: str) -> None:
        if item == "item-2":
            death()
        (tmp_path / item).touch()

    outcome = side_by_side(ITEMS[:5], work)
    got = outcome["item-2"]
    assert isinstance(got, CoiError)
    assert got.brief == "item-2: its process died"
    assert len(list(tmp_path.iterdir())) == 4
    settle(before)


def test_other_children_are_left_alone() -> None:
    with subprocess.Popen(["true"]) as other:
        while Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.005)
        assert side_by_side(ITEMS[:3], lambda _: None) == dict.fromkeys(ITEMS[:3])
        assert other.wait() == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_parent_ends_its_workers(signum: signal.Signals, tmp_path: Path) -> None:
    """As coi does it: the parent turns the signal into an exception, the workers get SIGTERM."""
    script = textwrap.dedent(
        f"""
        import os, signal, sys, time
        from pathlib import Path
        from coi.cli.signals import ended
        from coi.session.many import side_by_side
        here = Path({str(tmp_path)!r})
        signal.signal(signal.SIGTERM, ended)
        def work(item):
            (here / f"{{item}}.{{os.getpid()}}").touch()
            try:
                time.sleep(60)
            finally:
                (here / f"tidied-{{item}}").touch()
        try:
            side_by_side(["a", "b"], work)
        except BaseException as error:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                sys.exit(9)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        pids = [path.suffix[1:] for path in tmp_path.iterdir()]
        parent.send_signal(signum)
        assert parent.wait(20) == 9
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert {path.name for path in tmp_path.glob("tidied-*")} == {"tidied-a", "tidied-b"}


def test_a_small_pipe_does_not_block_a_worker() -> None:
    """Who has many pipes gets pipes of one page: a long report must not fill one for ever."""
    import fcntl

    real = os.pipe

    def small() -> tuple[int, int]:
        ends = real()
        fcntl.fcntl(ends[1], 1031, 4096)  # F_SETPIPE_SZ
        return ends

    def work(item: str) -> None:
        raise CoiError(item, details="x" * 7999)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pipe", small)
        before = signal.alarm(20)
        outcome = side_by_side(ITEMS[:3], work)
        signal.alarm(before)
    assert [error.details for error in outcome.values() if error] == ["x" * 7999] * 3


def test_progress_counts_what_has_ended() -> None:
    seen: list[int] = []
    side_by_side(["a", "b", "c"], lambda _name: None, limit=1, progress=seen.append)
    assert seen == [0, 1, 2]
    side_by_side(["a"], lambda _name: None, progress=seen.append)
    assert seen == [0, 1, 2], "one alone needs none"
