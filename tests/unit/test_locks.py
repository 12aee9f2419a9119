"""Locks, between real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coi.errors import CoiError
from coi.session.locks import Lock, locked

HOLDER = """
import sys
from pathlib import Path
from coi.session.locks import Lock
lock = Lock(Path(sys.argv[1]))
print("held" if lock.try_acquire() else "busy", flush=True)
sys.stdin.read()
if "remove" in sys.argv:
    lock.release(remove=True)
"""

# Counts up in a file, under the lock alone; a lost update shows that two held it. The
# lock's file is removed at every other release: the race that a naive lock loses.
COUNTER = """
import os, sys
from pathlib import Path
from coi.session.locks import Lock
path, counter, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
done = 0
while done < rounds:
    lock = Lock(path)
    if not lock.try_acquire():
        os.sched_yield()
        continue
    value = int(counter.read_text())
    os.sched_yield()
    counter.write_text(str(value + 1))
    lock.release(remove=done % 2 == 0)
    done += 1
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "coi-1a2b3c4d-1.lock"


def test_held_by_another_process(path: Path) -> None:
    with start(HOLDER, str(path)) as holder:
        assert first_line(holder) == "held"
        lock = Lock(path)
        assert not lock.try_acquire()
        assert not lock.held
        holder.communicate("")
    assert lock.try_acquire()
    lock.release()


def test_kill_9_frees_it(path: Path) -> None:
    with start(HOLDER, str(path)) as holder:
        assert first_line(holder) == "held"
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    lock = Lock(path)
    assert lock.try_acquire()
    lock.release()


def test_a_stopped_holder_still_holds(path: Path) -> None:
    with start(HOLDER, str(path)) as holder:
        assert first_line(holder) == "held"
        holder.send_signal(signal.SIGSTOP)
        try:
            assert not Lock(path).try_acquire()
        finally:
            holder.send_signal(signal.SIGCONT)
        holder.communicate("")


def test_two_processes_never_hold_one(path: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [start(COUNTER, str(path), str(counter), "400") for _ in range(4)]
    for process in processes:
        assert process.wait(60) == 0
        process.communicate()
    assert counter.read_text() == "1600"


def test_a_removed_file_does_not_give_the_lock_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between open and flock the holder removes the file: the lock is then on a dead inode."""
    import fcntl

    holder = Lock(path)
    assert holder.try_acquire()
    real = fcntl.flock
    calls: list[int] = []

    def slow(fd: int, operation: int) -> None:
        if not calls:
            calls.append(fd)
            holder.release(remove=True)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    late = Lock(path)
    assert late.try_acquire()
    assert path.exists(), "it took a lock on the removed file"
    assert not Lock(path).try_acquire()
    late.release(remove=True)
    assert not path.exists()


def test_children_do_not_keep_it(path: Path) -> None:
    """A tool's process that outlives coi must not hold its lock."""
    from coi.incus.process import Runner

    lock = Lock(path)
    assert lock.try_acquire()
    with Runner("sleep").spawn(["60"]):
        lock.release()
        with start(HOLDER, str(path)) as other:
            assert first_line(other) == "held"
            other.communicate("")


def test_release_twice_and_acquire_twice(path: Path) -> None:
    lock = Lock(path)
    assert lock.try_acquire()
    assert lock.try_acquire()
    assert lock.held
    lock.release()
    lock.release(remove=True)  # not held: another's file stays
    assert path.exists()
    assert not lock.held


def test_modes(path: Path) -> None:
    lock = Lock(path)
    assert lock.try_acquire()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    lock.release()


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CoiError, match="cannot lock") as caught:
        Lock(path).try_acquire()
    assert "symbolic links" in caught.value.details
    assert not (tmp_path / "elsewhere").exists()


def test_no_descriptor_leaks(path: Path) -> None:
    holder = Lock(path)
    assert holder.try_acquire()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        assert not Lock(path).try_acquire()
    holder.release()
    for _ in range(50):
        lock = Lock(path)
        assert lock.try_acquire()
        lock.release(remove=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1


def test_waiting_has_an_end(path: Path) -> None:
    with locked(path, 0.0) as lock:
        assert lock.held
        with pytest.raises(CoiError, match="another coi is busy"):
            Lock(path).acquire(0.05)
    assert not lock.held
    with locked(path, 0.0):
        pass


def test_a_note_outlives_its_holder(path: Path) -> None:
    lock = Lock(path)
    assert lock.read() == ""
    lock.write("nobody holds it")
    assert not path.exists()
    assert lock.try_acquire()
    lock.write("a long note")
    lock.write("note")
    assert Lock(path).read() == "note"
    lock.release()
    assert Lock(path).read() == "note"
    assert lock.try_acquire()
    lock.write("")
    assert Lock(path).read() == ""
    lock.release(remove=True)
    assert Lock(path).read() == ""


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_lock_has_no_note(kind: str, path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    if kind == "link":
        other = tmp_path / "other"
        other.write_text("note")
        path.symlink_to(other)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert Lock(path).read() == ""
