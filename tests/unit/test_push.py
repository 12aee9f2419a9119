"""``coi file push`` with a shell of this machine in the container's place."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from local import Local, pull, push
from local import src as src
from tars import names, snapshot

from coi.errors import CoiError, NotFoundError, UsageError
from coi.incus.process import Runner
from coi.session import transfer
from coi.session.channel import Channel
from coi.session.extract import Tally
from coi.session.pack import Packer


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


def test_signals_still_work_after_a_transfer(tmp_path: Path, src: Path) -> None:
    push(src / "tool", tmp_path / "x")
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
