"""A signal that comes while a process is being started is neither lost nor does it lose
the process: Python runs handlers within fork's own hooks, and drops what they raise."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from coi.errors import Interrupted
from coi.incus.process import Runner
from coi.incus.shield import shielded

_armed: list[int] = []


def _strike() -> None:
    if _armed:
        os.kill(os.getpid(), _armed.pop())


os.register_at_fork(after_in_parent=_strike)


@pytest.fixture
def handled() -> Iterator[None]:
    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise Interrupted("ended")

    before = signal.signal(signal.SIGTERM, stop)
    yield
    _armed.clear()
    signal.signal(signal.SIGTERM, before)


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.fixture(params=["alone", "beside a thread"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """A thread that takes the process's signals: the main thread's mask is not its own."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    if request.param != "alone":
        thread.start()
    yield
    over.set()
    if request.param != "alone":
        thread.join()


def test_a_signal_in_the_middle_of_a_fork(handled: None, threads: None) -> None:
    before = _children()
    _armed.append(signal.SIGTERM)
    with pytest.raises(Interrupted):
        Runner("sleep").spawn(["60"])
    assert _children() == before, "the process that nobody was handed has been ended"
    assert Runner("true").run([]).exit_code == 0


def test_what_comes_in_a_shield_comes_after_it(handled: None, threads: None) -> None:
    went_on = []

    def work() -> None:
        with shielded():
            with shielded():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.02)  # another thread may take it a moment later
            went_on.append(True)

    with pytest.raises(Interrupted):
        work()
    assert went_on
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler
