"""Small files: whole or not at all, and read only where nobody else wrote them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coi.config.home import check_home
from coi.errors import RefusedError
from coi.files import make_private, read_private, replace_file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "home" / "network"
    make_private(directory)
    return directory


@pytest.fixture
def as_root() -> None:
    if os.getuid() != 0:
        pytest.skip("only root makes what is another user's")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_private_from_the_first_moment(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_private(tmp_path / "home" / "network")
        replace_file(tmp_path / "home" / "network" / "a.json", b"x")
    finally:
        os.umask(old)
    assert mode(tmp_path / "home") == mode(tmp_path / "home" / "network") == 0o700
    assert mode(tmp_path / "home" / "network" / "a.json") == 0o600


def test_an_open_directory_is_closed(place: Path) -> None:
    place.chmod(0o777)
    make_private(place)
    assert mode(place) == 0o700


def test_a_directory_of_another_user_is_refused(tmp_path: Path, as_root: None) -> None:
    """What they made before us, open to all, and what a link of theirs leads to."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    os.chown(theirs, 65534, 65534)
    with pytest.raises(PermissionError, match="directory of another user"):
        make_private(theirs)
    assert mode(theirs) == 0o777
    mine = tmp_path / "mine"
    make_private(mine)
    mine.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(mine)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(PermissionError, match="link of another user"):
        make_private(link)
    assert mode(mine) == 0o755


def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o775)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    make_private(tmp_path / "link")
    make_private(tmp_path / "link" / "locks")
    assert mode(tmp_path / "disk") == mode(tmp_path / "disk" / "locks") == 0o700


def test_the_home_is_ours_alone(tmp_path: Path, as_root: None) -> None:
    home = tmp_path / "coi"
    check_home(home)  # there is none
    home.mkdir(mode=0o755)
    check_home(home)
    assert mode(home) == 0o700, "what others could read is closed"
    link = tmp_path / "link"
    link.symlink_to(home)
    check_home(link)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(RefusedError, match="another user"):
        check_home(link)
    for wrong in (0o770, 0o702, 0o1777):
        home.chmod(wrong)
        with pytest.raises(RefusedError, match="others may write"):
            check_home(home)
        assert mode(home) == wrong, "somebody is to look first"
    home.chmod(0o700)
    os.chown(home, 65534, 65534)
    with pytest.raises(RefusedError, match="another user"):
        check_home(home)
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError, match="not a directory"):
        check_home(tmp_path / "file")
    with pytest.raises(RefusedError, match="cannot use"):
        check_home(tmp_path / "file" / "below")


def test_a_replacement_is_whole_and_leaves_nothing_else(place: Path) -> None:
    target = place / "a.json"
    replace_file(target, b"one, which is longer")
    replace_file(target, b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in place.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["open", "fdopen", "fsync", "replace"])
def test_a_failure_keeps_what_was(call: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = place / "a.json"
    replace_file(target, b"one")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            replace_file(target, b"two")
    assert target.read_bytes() == b"one"
    assert [path.name for path in place.iterdir()] == ["a.json"]


def test_what_is_not_read(place: Path) -> None:
    target = place / "a.json"
    assert read_private(target, 9) is None
    replace_file(target, b"one")
    assert read_private(target, 9) == b"one"
    assert read_private(target, 2) == b"on"
    (place / "link").symlink_to(target)
    assert read_private(place / "link", 9) is None
    os.mkfifo(place / "pipe", 0o600)
    assert read_private(place / "pipe", 9) is None
    assert read_private(place / "a\0", 9) is None
    assert read_private(place, 9) is None
    target.chmod(0o620)
    assert read_private(target, 9) is None
    target.chmod(0o644)
    assert read_private(target, 9) == b"one"
    place.chmod(0o777)
    assert read_private(target, 9) is None


def test_all_that_is_missing_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(0o022)
    try:
        make_private(tmp_path / "coi" / "sessions-x" / "id")
    finally:
        os.umask(before)
    made = [tmp_path / "coi", tmp_path / "coi/sessions-x", tmp_path / "coi/sessions-x/id"]
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * 3
    assert tmp_path.stat().st_mode & 0o777 == 0o755, "what was there is left as it was"
