"""``coi file pull`` with a shell of this machine in the container's place."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local import Local, pull
from local import src as src
from tars import END, TOP, archive, member, names, snapshot

from coi.errors import CoiError, NotFoundError, UsageError
from coi.incus.process import Runner
from coi.session import transfer
from coi.session.channel import Channel, StalledError
from coi.session.extract import TooLargeError


def test_a_tree_comes_back(tmp_path: Path, src: Path) -> None:
    (src / "new\nline").unlink()
    (src / "out").unlink()
    (src / "empty").chmod(0o750)
    os.link(src / "tool", src / "hard link")
    done = pull(src, tmp_path / "got")
    assert done.directory
    assert done.tally.skipped == []
    expected = {
        name: (*row[:2], (1, row[2][1]) if isinstance(row[2], tuple) else row[2])
        for name, row in snapshot(src).items()
    }
    assert snapshot(tmp_path / "got") == expected
    assert pull(f"{src}/.", tmp_path / "got").target == f"{tmp_path}/got"
    assert pull(src, tmp_path / "got").target == f"{tmp_path}/got/src"
    assert snapshot(tmp_path / "got/src") == expected


def test_a_file_comes_back(tmp_path: Path, src: Path) -> None:
    assert pull(src / "tool", tmp_path, recursive=False).target == f"{tmp_path}/tool"
    assert (tmp_path / "tool").stat().st_mode & 0o777 == 0o751
    pull(src / "link", tmp_path / "followed", recursive=False)
    assert (tmp_path / "followed").read_text() == "#!/bin/sh\n"
    assert not (tmp_path / "followed").is_symlink()
    pull(src / "ü and space/-dash", tmp_path, recursive=False)
    assert (tmp_path / "-dash").read_text() == "dash"
    assert pull("/etc/hostname", tmp_path / "h").target == f"{tmp_path}/h"
    os.mkfifo(src / "fifo")
    for bad, error, why in [
        (src / "nothing", NotFoundError, "does not exist"),
        (src / "fifo", CoiError, "neither a file nor a directory"),
        (src, UsageError, "is a directory"),
    ]:
        with pytest.raises(error, match=why):
            pull(bad, tmp_path / "x", recursive=False)
    assert not (tmp_path / "x").exists()


def feed(tmp_path: Path, data: bytes) -> str:
    """A command that sends a stream."""
    (tmp_path / "stream").write_bytes(data)
    return f"cat {shlex.quote(str(tmp_path / 'stream'))}"


HONEST = archive([("f", "file", "x")])


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("exit 0", "ends early"),
        ("echo nonsense; exit 0", "damaged"),
        ("cat STREAM; exit 2", "broke off"),
        ("head -c 700 STREAM; exit 0", "ends early"),
        ("head -c 1024 STREAM; echo 'Error: websocket: close 1006' >&2; exit 1", "cannot copy"),
        ("cat STREAM; cat /dev/zero", "broke off"),
        ("cat /dev/zero", "damaged|sent nothing|nothing"),
        ("exit 127", "lacks the programs"),
        ("head -c 100000000 /dev/zero >&2; exit 2", "broke off"),
    ],
)
def test_a_command_that_does_not_do_its_work(tmp_path: Path, command: str, why: str) -> None:
    feed(tmp_path, HONEST)
    command = command.replace("STREAM", shlex.quote(str(tmp_path / "stream")))
    (tmp_path / "to").mkdir()
    with pytest.raises(CoiError) as caught:
        pull("/x", tmp_path / "to/got", command)
    assert any(part in f"{caught.value.brief} {caught.value.details}" for part in why.split("|"))
    assert len(caught.value.details) < 20_000
    assert names(tmp_path / "to") == []


def test_a_stalled_stream_is_given_up(tmp_path: Path) -> None:
    command = feed(tmp_path, HONEST[:700]) + "; sleep 100"
    began = time.monotonic()
    with pytest.raises(StalledError):
        pull("/x", tmp_path / "got", command, stall=0.2)
    assert time.monotonic() - began < 5
    assert names(tmp_path) == ["stream"]


def test_errors_without_end_do_not_keep_a_stalled_stream_alive(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(StalledError):
        pull("/x", tmp_path / "got", "while :; do echo noise >&2; done", stall=0.3)
    assert time.monotonic() - began < 8


def test_a_push_that_nobody_takes(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(4 << 20))
    with pytest.raises(StalledError):
        transfer.push(
            Local("exec sleep 30 <&0"), str(tmp_path / "big"), "c", "/x", recursive=False, stall=0.2
        )


def test_a_directory_is_not_taken_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(CoiError, match="sent a directory"):
        pull("/x", tmp_path / "got", feed(tmp_path, HONEST), recursive=False)
    assert names(tmp_path) == ["stream"]


def test_limits_of_a_pull(tmp_path: Path) -> None:
    data = member(*TOP) + b"".join(member(f"f{n}", "file", "x" * 1000) for n in range(9)) + END
    with pytest.raises(TooLargeError):
        pull("/x", tmp_path / "got", feed(tmp_path, data), max_size=8999)
    with pytest.raises(TooLargeError):
        pull("/x", tmp_path / "got", feed(tmp_path, data), max_entries=9)
    assert names(tmp_path) == ["stream"]
    pull("/x", tmp_path / "got", feed(tmp_path, data), max_size=9000, max_entries=10)


def test_stopped(tmp_path: Path) -> None:
    with pytest.raises(CoiError, match="is not running"):
        transfer.push(Local(status="Stopped"), __file__, "c", "/x", recursive=False)
    with pytest.raises(CoiError, match="is not running"):
        transfer.pull(Local(status="Frozen"), "c", "/x", f"{tmp_path}/x", recursive=False)


MEMORY = r"""
import re, sys
sys.path[:0] = {path!r}
from local import Local
from coi.session import transfer
{work}
# getrusage would count what the parent held before the exec.
print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def peak(work: str) -> int:
    """Peak memory in MiB of an interpreter that does something."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(path=sys.path, work=work)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return int(done.stdout.split()[-1])


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    count = 40_000
    command = feed(tmp_path, member(*TOP) + member("p" * 90, "fifo") * count + END)
    idle = peak("import tarfile, sh, hypothesis")
    copied = peak(
        f"done = transfer.pull(Local({command!r}), 'c', '/x', {str(tmp_path / 'got')!r},"
        f" recursive=True)\nassert done.tally.left_out == {count}"
    )
    assert copied - idle < 15, "tarfile alone would remember 40,000 headers: 50 MB"


def test_who_sends_waits_until_all_is_read() -> None:
    """What is not read when it ends is lost at times by the client."""
    script = "printf x; read -r _; exit 7"
    with Channel(Runner("env"), ["sh", "-c", script], feed=False) as channel:
        assert channel.read(10) == b"x"
        assert not channel._process.poll(0.3)
        assert channel.finish(5) == (7, "")
