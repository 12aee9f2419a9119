"""Push and pull with a shell of this machine in the container's place."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tars import END, TOP, archive, member, names, snapshot

from coi.cli.file import human, parse_size
from coi.errors import CoiError, NotFoundError, UsageError
from coi.incus.client import Client
from coi.incus.instances import Instance, Instances
from coi.incus.process import Runner
from coi.session import transfer
from coi.session.channel import Channel, StalledError
from coi.session.extract import Tally, TooLargeError
from coi.session.pack import Packer


class Local(Instances):
    """Runs what would run inside here, or another command in its place."""

    def __init__(self, instead: str = "", *, status: str = "Running") -> None:
        super().__init__(Client(Runner("env")))
        self._instead = instead
        self._status = status

    def get(self, name: str) -> Instance:
        owner = {"user.coi.uid": str(os.getuid()), "user.coi.gid": str(os.getgid())}
        return Instance(name, self._status, "", False, "default", owner)

    def exec_args(
        self,
        name: str,
        command: Sequence[str],
        *,
        user: int | None = None,
        group: int | None = None,
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
        tty: bool = False,
    ) -> list[str]:
        return ["sh", "-c", self._instead] if self._instead else list(command)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A tree with one of everything."""
    top = tmp_path / "host/src"
    (top / "empty").mkdir(parents=True)
    (top / "ü and space").mkdir()
    (top / "ü and space/-dash").write_text("dash")
    (top / "latin-\udce9").write_text("latin")
    (top / "new\nline").write_text("line")
    (top / ("n" * 200)).write_text("long")
    (top / "tool").write_text("#!/bin/sh\n")
    (top / "tool").chmod(0o751)
    (top / "empty").chmod(0o2770)
    (top / "link").symlink_to("tool")
    (top / "out").symlink_to("/etc/passwd")
    (top / "directory link").symlink_to("ü and space")
    return top


def push(source: Path | str, target: Path | str, **how: bool) -> transfer.Copied:
    return transfer.push(
        Local(), str(source), "c", str(target), recursive=how.get("recursive", True)
    )


def pull(
    source: Path | str, target: Path | str, command: str = "", **how: object
) -> transfer.Copied:
    return transfer.pull(
        Local(command), "c", str(source), str(target), **{"recursive": True, **how}  # type: ignore[arg-type]
    )  # fmt: skip


# -- push


def test_a_tree_arrives_as_it_is(tmp_path: Path, src: Path) -> None:
    done = push(src, tmp_path / "new/dir/copy")
    assert done.directory
    assert done.target == f"{tmp_path}/new/dir/copy"
    assert snapshot(tmp_path / "new/dir/copy") == snapshot(src)
    assert names(tmp_path / "new/dir") == ["copy"]
    times = {p.lstat().st_mtime_ns // 10**9 for p in (src / "tool", tmp_path / "new/dir/copy/tool")}
    assert len(times) == 1


def test_into_a_directory_then_merged(tmp_path: Path, src: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir(mode=0o700)
    done = push(f"{src}/", inside)
    assert done.target == f"{inside}/src"
    assert snapshot(inside / "src") == snapshot(src)
    (inside / "src/kept").write_text("kept")
    (inside / "src/tool").write_text("other")
    (inside / "src").chmod(0o711)
    assert push(src, f"{inside}/").target == f"{inside}/src"
    assert (inside / "src/kept").read_text() == "kept"
    (inside / "src/kept").unlink()
    assert snapshot(inside / "src") == snapshot(src)
    assert (inside / "src").stat().st_mode & 0o777 == 0o711, "what is there keeps its mode"
    push(f"{src}/.", inside)
    assert names(inside) == sorted([*names(src), "src"])
    assert inside.stat().st_mode & 0o777 == 0o700


def test_the_content_as_a_new_directory(
    tmp_path: Path, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(src)
    push(".", tmp_path / "copy")
    assert snapshot(tmp_path / "copy") == snapshot(src)


def test_files(tmp_path: Path, src: Path) -> None:
    inside = tmp_path / "inside"
    done = push(src / "tool", inside / "a b/renamed", recursive=False)
    assert not done.directory
    assert (inside / "a b/renamed").stat().st_mode & 0o777 == 0o751
    assert push(src / "link", inside, recursive=False).target == f"{inside}/link"
    assert not (inside / "link").is_symlink(), "a link that is named is followed"
    assert push(src / "new\nline", f"{inside}/made/", recursive=False).target.endswith("/new\nline")
    assert (inside / "made/new\nline").read_text() == "line"
    push(src / "ü and space/-dash", inside, recursive=False)
    assert (inside / "-dash").read_text() == "dash"
    (inside / "old").symlink_to("renamed")
    push(src / "link", inside / "old", recursive=False)
    assert not (inside / "old").is_symlink()
    assert not [name for name in names(inside) if name.startswith(".coi")]


@pytest.mark.parametrize(
    ("source", "target", "error", "why"),
    [
        ("tool", "file/x", CoiError, "no directory is in the way"),
        (".", "file", CoiError, "no directory is in the way"),
        ("", "file", CoiError, "no directory is in the way"),
        ("tool", "has", CoiError, "cannot put it"),
        ("missing", "x", NotFoundError, "does not exist"),
    ],
)
def test_what_cannot_be_pushed(
    tmp_path: Path, src: Path, source: str, target: str, error: type[CoiError], why: str
) -> None:
    inside = tmp_path / "inside"
    (inside / "has/tool").mkdir(parents=True)
    (inside / "file").write_text("mine")
    before = snapshot(inside)
    with pytest.raises(error, match=why):
        push(f"{src}/{source}" if source else src, inside / target)
    assert snapshot(inside) == before


def test_a_directory_needs_recursive(tmp_path: Path, src: Path) -> None:
    with pytest.raises(UsageError, match="is a directory") as caught:
        push(src, tmp_path / "x", recursive=False)
    assert "-r" in caught.value.hint


def test_sockets_and_fifos_are_left_out(tmp_path: Path, src: Path) -> None:
    os.mkfifo(src / "fifo")
    before = Path.cwd()
    os.chdir(src)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
    finally:
        os.chdir(before)
    done = push(src, tmp_path / "copy")
    assert sorted(done.tally.skipped) == [
        (f"{src}/fifo", "a FIFO"),
        (f"{src}/socket", "a socket"),
    ]
    assert not {"fifo", "socket"} & set(names(tmp_path / "copy"))
    for name in ("fifo", "socket"):
        with pytest.raises(CoiError):
            push(src / name, tmp_path / "x")


def test_sparse_files_stay_sparse(tmp_path: Path, src: Path) -> None:
    size = 10 << 30
    with (src / "sparse").open("wb") as file:
        for offset in range(0, 60):
            file.seek(offset * (160 << 20))
            file.write(b"%05d" % offset)
        file.truncate(size)
    done = push(src / "sparse", tmp_path / "copy")
    assert done.tally.size == size
    assert done.tally.moved < 1 << 20
    with (tmp_path / "copy").open("rb") as file:
        for offset in range(0, 60):
            assert os.pread(file.fileno(), 6, offset * (160 << 20)) == b"%05d\0" % offset
    assert (tmp_path / "copy").stat().st_size == size
    assert (tmp_path / "copy").stat().st_blocks * 512 < 2 << 20
    again = pull(tmp_path / "copy", tmp_path / "back")
    assert again.tally.size == size
    assert (tmp_path / "back").stat().st_blocks * 512 < 2 << 20
    with (tmp_path / "back").open("rb") as file:
        assert os.pread(file.fileno(), 6, 59 * (160 << 20)) == b"00059\0"


@pytest.mark.parametrize("change", ["shrinks", "grows"])
def test_a_file_that_changes_meanwhile(
    tmp_path: Path, src: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    big = src / "aaa"
    big.write_bytes(b"x" * (1 << 20))
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if offset == 1 << 18:
            with big.open("r+b") as file:
                file.truncate(1 << 18 if change == "shrinks" else 2 << 20)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    done = push(src, tmp_path / "copy")
    got = (tmp_path / "copy/aaa").read_bytes()
    assert len(got) == 1 << 20
    assert names(tmp_path / "copy") == names(src), "what follows it arrives whole"
    assert (tmp_path / "copy/tool").read_text() == "#!/bin/sh\n"
    if change == "shrinks":
        assert got == b"x" * (1 << 18) + bytes(3 << 18)
        assert done.tally.warnings == [f"{big} became shorter while it was read; its end is zeros"]
    else:
        assert got == b"x" * (1 << 20)
        assert done.tally.warnings == []


def test_a_directory_swapped_for_a_link_is_not_followed(
    tmp_path: Path, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("key")
    real = os.stat

    def look(path: object, **how: object) -> os.stat_result:
        status = real(path, **how)  # type: ignore[arg-type]
        if path in ("empty", "tool") and not (src / str(path)).is_symlink():
            if path == "empty":
                (src / "empty").rmdir()
                (src / "empty").symlink_to(secret)
            else:
                (src / "tool").unlink()
                (src / "tool").symlink_to(secret / "key")
        return status

    monkeypatch.setattr(os, "stat", look)
    done = push(src, tmp_path / "copy")
    assert sorted(path for path, _why in done.tally.skipped) == [f"{src}/empty", f"{src}/tool"]
    assert not {"empty", "tool"} & set(names(tmp_path / "copy"))


def test_a_cut_push_leaves_nothing(tmp_path: Path, src: Path) -> None:
    """The stream is cut between two members, where tar itself notices nothing."""
    inside = tmp_path / "inside"
    inside.mkdir()
    command = [
        "sh",
        "-c",
        transfer._PUSH,
        "coi",
        f"{inside}/x",
        f"{os.getuid()}:{os.getgid()}",
        "directory",
    ]
    for whole in (False, True):
        with Channel(Runner("env"), command, feed=True) as channel:
            packer = Packer(channel.write, (os.getuid(), os.getgid()), Tally())
            fd = os.open(src, os.O_RDONLY)
            packer.tree(fd, "tree/src", "src")
            os.close(fd)
            if whole:
                packer.end("whole")
            exit_code, _text = channel.finish(20)
        assert (exit_code == 0) is whole
        assert names(inside) == (["x"] if whole else [])


def test_interrupted_push_leaves_nothing(
    tmp_path: Path, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (src / "big").write_bytes(bytes(8 << 20))
    seen: list[list[str]] = []

    def step(tally: Tally) -> None:
        if tally.moved > 4 << 20:
            seen.append(names(inside))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer.push(Local(), str(src / "big"), "c", f"{inside}/x", recursive=False, step=step)
    assert seen[0][0].startswith(".coi-push-")
    assert names(inside) == []


# -- pull


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
from test_transfer import Local
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


# -- names


@pytest.mark.parametrize("text", ["", "c", ":", ":/x", "c:", "-c:/x", "a/b:/x", "c\n:/x", "ä:/x"])
def test_malformed_sides(text: str) -> None:
    with pytest.raises(UsageError, match="container:path"):
        transfer.split_remote(text, "source")


@pytest.mark.parametrize("text", ["c:x", "c:./x", "c:../x", "c:~/x", "c:/\udce9"])
def test_paths_that_cannot_be_used(text: str) -> None:
    with pytest.raises(UsageError, match=r"absolute|UTF-8"):
        transfer.split_remote(text, "source")


@given(st.text())
def test_any_text_is_a_side_or_a_usage_error(text: str) -> None:
    try:
        name, path = transfer.split_remote(text, "source")
    except UsageError:
        return
    assert text == f"{name}:{path}"
    assert path.startswith("/")


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("5", 5), ("1k", 1024), ("1.5M", 3 << 19), ("2GiB", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1P", "1 2", "M", "inf"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_human() -> None:
    assert [human(n) for n in (0, 1023, 1024, 1 << 30, 5 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.0 GiB", "5.0 TiB",
    ]  # fmt: skip


def test_signals_still_work_after_a_transfer(tmp_path: Path, src: Path) -> None:
    push(src / "tool", tmp_path / "x")
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
