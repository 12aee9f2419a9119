"""Where a pull lands, and what it meets there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tars import Member, archive, land, names, snapshot
from tars import no_descriptor_left as no_descriptor_left
from tars import outside as outside

from coi.errors import CoiError


@pytest.fixture
def tree() -> bytes:
    return archive([("f", "file", "new"), ("d", "dir", ""), ("d/g", "file", "new")])


def texts(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()
    }


def test_a_new_name(tmp_path: Path, tree: bytes) -> None:
    land(tree, tmp_path / "not/yet/there", name="src")
    assert texts(tmp_path) == {"not/yet/there/f": "new", "not/yet/there/d/g": "new"}
    land(tree, f"{tmp_path}/slash/", name="src")
    assert texts(tmp_path / "slash") == {"f": "new", "d/g": "new"}


def test_into_a_directory_under_its_name(tmp_path: Path, tree: bytes) -> None:
    land(tree, tmp_path, name="src")
    assert texts(tmp_path) == {"src/f": "new", "src/d/g": "new"}


def test_merging(tmp_path: Path, tree: bytes) -> None:
    (tmp_path / "src/d").mkdir(parents=True)
    (tmp_path / "src/d/kept").write_text("old")
    (tmp_path / "src/f").write_text("old")
    (tmp_path / "src").chmod(0o700)
    land(tree, tmp_path, name="src")
    assert texts(tmp_path) == {"src/f": "new", "src/d/g": "new", "src/d/kept": "old"}
    assert stat.S_IMODE((tmp_path / "src").stat().st_mode) == 0o700, "its own mode stays"
    land(archive([("h", "file", "content")]), tmp_path / "src", name="")
    assert (tmp_path / "src/h").read_text() == "content"
    assert {p.name for p in (tmp_path / "src").iterdir()} == {"f", "d", "h"}


def test_many_files_are_merged(tmp_path: Path) -> None:
    rows: list[Member] = [(f"{n}", "file", "x") for n in range(9000)]
    (tmp_path / "5").write_text("old")
    land(archive(rows), tmp_path)
    assert len(names(tmp_path)) == 9000
    assert (tmp_path / "5").read_text() == "x"


@pytest.mark.parametrize("obstacle", ["file for directory", "directory for file", "link", "fifo"])
def test_what_is_in_the_way_stops_all(
    tmp_path: Path, outside: Path, tree: bytes, obstacle: str
) -> None:
    got = tmp_path / "got"
    got.mkdir()
    if obstacle == "file for directory":
        (got / "d").write_text("mine")
    elif obstacle == "directory for file":
        (got / "f").mkdir()
    elif obstacle == "link":
        (got / "d").symlink_to("../outside")
    else:
        os.mkfifo(got / "f")
    before = snapshot(tmp_path)
    with pytest.raises(CoiError, match="in the way"):
        land(tree, got, name="")
    assert snapshot(tmp_path) == before


def test_the_users_links_are_not_followed(tmp_path: Path, outside: Path, tree: bytes) -> None:
    got = tmp_path / "got"
    got.mkdir()
    (got / "f").symlink_to("../outside/victim")
    land(tree, got, name="")
    assert (got / "f").read_text() == "new"
    assert not (got / "f").is_symlink()
    assert (outside / "victim").read_text() == "secret"
    (got / "src").symlink_to("../outside")
    with pytest.raises(CoiError, match="symbolic link to a directory"):
        land(tree, got, name="src")
    assert sorted(p.name for p in outside.iterdir()) == ["victim"]


def test_files_and_what_they_meet(tmp_path: Path, outside: Path) -> None:
    data = archive([("f", "file", "new")], top=False)
    (tmp_path / "old").write_text("old")
    land(data, tmp_path / "old", name="f")
    assert (tmp_path / "old").read_text() == "new"
    land(data, f"{tmp_path}/new/dir/", name="f")
    assert (tmp_path / "new/dir/f").read_text() == "new"
    land(data, tmp_path / "new", name="f")
    assert (tmp_path / "new/f").read_text() == "new"
    (tmp_path / "link").symlink_to("outside/victim")
    land(data, tmp_path / "link", name="f")
    assert (outside / "victim").read_text() == "secret"
    os.mkfifo(tmp_path / "fifo")
    for bad, why in [
        (f"{tmp_path}/old/", "is not a directory"),
        (f"{tmp_path}/old/x", "is not a directory"),
        (f"{tmp_path}/fifo", "not a regular file"),
        ("/dev/null", "not a regular file"),
        (f"{tmp_path}/no/../x", "does not exist"),
    ]:
        with pytest.raises(CoiError, match=why):
            land(data, bad, name="f")
    (tmp_path / "into/f").mkdir(parents=True)
    with pytest.raises(CoiError, match="is a directory"):
        land(data, tmp_path / "into", name="f")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("exists", [False, True])
def test_an_end_in_mid_transfer_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, exists: bool
) -> None:
    got = tmp_path / "got"
    if exists:
        got.mkdir()
        (got / "f").write_text("old")
    before = snapshot(tmp_path)
    calls = iter(range(100))
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if next(calls) == 2:
            raise error
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(type(error)):
            land(archive([(f"d/f{n}", "file", "x") for n in range(5)]), got)
    assert next(calls) == 3
    assert snapshot(tmp_path) == before


def test_a_directory_that_cannot_be_written(tmp_path: Path, tree: bytes) -> None:
    if os.getuid() == 0:
        pytest.skip("root writes everywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(CoiError, match="cannot write"):
        land(tree, tmp_path / "got")
