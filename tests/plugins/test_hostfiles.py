"""Reading the host's files: links, kinds, sizes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from coi.tools.hostfiles import HostFileError, read_below


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / ".it").mkdir(parents=True)
    (home / ".it/file").write_bytes(b"content")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"not yours")
    return home


def test_a_plain_file(home: Path) -> None:
    assert read_below(home, ".it/file") == b"content"


@pytest.mark.parametrize("path", ["gone", ".it/gone", "gone/file", ".it/file/below"])
def test_nothing_there(home: Path, path: str) -> None:
    assert read_below(home, path) is None


def test_the_home_itself_may_be_a_link(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    assert read_below(tmp_path / "link", ".it/file") == b"content"


@pytest.mark.parametrize("relative", [True, False])
def test_links_inside_the_home_are_followed(home: Path, relative: bool) -> None:
    (home / "dotfiles/it").mkdir(parents=True)
    (home / "dotfiles/it/file").write_bytes(b"kept in a repository")
    (home / ".file").symlink_to("dotfiles/it/file" if relative else home / "dotfiles/it/file")
    (home / ".dir").symlink_to("dotfiles/it" if relative else home / "dotfiles/it")
    (home / ".twice").symlink_to(".dir")
    for path in (".file", ".dir/file", ".twice/file"):
        assert read_below(home, path) == b"kept in a repository"


@pytest.mark.parametrize("target", ["../outside/file", "/etc/passwd", ".it/../../outside/file"])
def test_links_out_of_the_home_are_refused(home: Path, target: str) -> None:
    (home / ".file").symlink_to(target)
    with pytest.raises(HostFileError, match="a link out of"):
        read_below(home, ".file")


def test_a_linked_directory_out_of_the_home_is_refused(home: Path) -> None:
    (home / ".dir").symlink_to("../outside")
    with pytest.raises(HostFileError, match="a link out of"):
        read_below(home, ".dir/file")


@pytest.mark.parametrize("target", ["nowhere", ".loop"])
def test_dangling_and_circular_links(home: Path, target: str) -> None:
    (home / ".loop").symlink_to(target)
    with pytest.raises(HostFileError):
        read_below(home, ".loop")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_a_link_to_another_users_file_is_refused(home: Path) -> None:
    os.chown(home / ".it/file", 4242, 4242)
    (home / ".file").symlink_to(".it/file")
    assert read_below(home, ".it/file") == b"content"
    with pytest.raises(HostFileError, match="another user"):
        read_below(home, ".file")


@pytest.mark.timeout(10)
def test_only_regular_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(home / ".fifo")
    (home / ".null").symlink_to("/dev/null")
    monkeypatch.chdir(home)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(".socket")
        for path in (".fifo", ".socket", ".it", ".null"):
            with pytest.raises(HostFileError):
                read_below(home, path)


def test_size_limit(home: Path) -> None:
    assert read_below(home, ".it/file", limit=7) == b"content"
    with pytest.raises(HostFileError, match="larger than"):
        read_below(home, ".it/file", limit=6)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../outside/file", ".it/../../outside/file"])
def test_only_paths_below(home: Path, path: str) -> None:
    with pytest.raises(HostFileError, match="not a path below"):
        read_below(home, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(home: Path) -> None:
    (home / ".it/file").chmod(0)
    with pytest.raises(HostFileError, match="Permission denied"):
        read_below(home, ".it/file")


def test_no_descriptor_is_left_open(home: Path) -> None:
    (home / ".out").symlink_to("/etc/passwd")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for path in (".it/file", ".out", "gone", ".it", ".it/file/below"):
        try:
            read_below(home, path)
        except HostFileError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
