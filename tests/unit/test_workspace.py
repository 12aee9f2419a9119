"""Which directories may be a workspace, and what it is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.errors import CoiError, NotFoundError, RefusedError, UsageError
from coi.workspace.directory import absolute, resolve

NAMES = {
    "plain": "project",
    "spaces": "my new  project ",
    "single quote": "it's",
    "double quote": 'the "best"',
    "dollar": "$HOME",
    "backquote": "`id`",
    "leading dash": "-rf",
    "unicode": "проект-😀",
    "comma": "a,b=c",
    "percent": "100%",
    "backslash": "a\\040b",
    "colon": "a:b",
    "glob": "[a]*?",
    "only dots": "...",
    "tilde inside": "a~b",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """coi's own directory."""
    (tmp_path / "home" / ".coi").mkdir(parents=True)
    return tmp_path / "home" / ".coi"


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_names_that_work(
    case: str, relative: bool, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / NAMES[case]
    place.mkdir()
    monkeypatch.chdir(tmp_path)
    found = resolve(Path(NAMES[case]) if relative else place, private=home)
    assert found.path == found.source == place
    assert found.path.is_absolute()


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "\x1b[31m", "a\rb", "\x7f", "a\0b"])
def test_control_characters_are_refused(name: str, tmp_path: Path, home: Path) -> None:
    if "\0" not in name:
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="control character") as caught:
        resolve(tmp_path / name, private=home)
    assert caught.value.hint
    assert not set("\n\x1b\r") & set(caught.value.brief)


def test_not_utf_8(tmp_path: Path, home: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    with pytest.raises(UsageError, match="not UTF-8"):
        resolve(place, private=home)


def test_below_a_directory_that_is_not_utf_8(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.` names it as well as its whole path does."""
    place = tmp_path / os.fsdecode(b"caf\xe9") / "sub"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    with pytest.raises(UsageError, match="not UTF-8"):
        resolve(Path(), private=home)


def test_below_a_directory_with_a_newline(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a\nb" / "sub"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    with pytest.raises(UsageError, match="control character"):
        resolve(Path(), private=home)
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(UsageError, match="control character"):
        resolve(tmp_path / "link", private=home)


@pytest.mark.parametrize("name", ["none", "none/deeper", "file/below"])
def test_missing(name: str, tmp_path: Path, home: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotFoundError, match="does not exist") as caught:
        resolve(tmp_path / name, private=home)
    assert caught.value.exit_code == 3
    assert "--workspace" in caught.value.hint


def test_dangling_and_circular_links(tmp_path: Path, home: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NotFoundError):
        resolve(tmp_path / "dangling", private=home)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(CoiError, match="cannot read"):
        resolve(tmp_path / "circle", private=home)


def test_not_a_directory(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (file, fifo, Path("/dev/null")):
        with pytest.raises(UsageError, match="not a directory"):
            resolve(path, private=home)


def test_name_too_long(tmp_path: Path, home: Path) -> None:
    with pytest.raises(CoiError, match="cannot read"):
        resolve(tmp_path / ("x" * 300), private=home)


UNREADABLE = """
import os, sys
from pathlib import Path
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
from coi.errors import CoiError
from coi.workspace.directory import resolve
for name in sys.argv[1:]:
    try:
        resolve(Path(name), private=Path("/nonexistent/.coi"))
    except CoiError as error:
        print(error.exit_code, error.brief.partition(":")[0], "|", error.hint)
"""


def test_unreadable_as_an_ordinary_user(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir()
    (place / "inner").mkdir()
    listing_only = tmp_path / "listing"
    listing_only.mkdir()
    for parent in (tmp_path, *tmp_path.parents):
        if parent != Path("/") and parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    place.chmod(0)
    listing_only.chmod(0o444)
    try:
        done = subprocess.run(
            [sys.executable, "-c", UNREADABLE, str(place), str(place / "inner"), str(listing_only)],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
    finally:
        place.chmod(0o700)
        listing_only.chmod(0o700)
    if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip("another user cannot import coi from here")
    assert done.stdout.splitlines() == [
        "1 the workspace is not readable | coi runs with your own rights: chmod or chown the "
        "directory",
        "1 cannot read the workspace | each directory on the way must let you through, each link "
        "lead somewhere",
        "1 the workspace is not readable | coi runs with your own rights: chmod or chown the "
        "directory",
    ]


def test_a_link_keeps_its_name(tmp_path: Path, home: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    found = resolve(tmp_path / "link", private=home)
    assert found.path == tmp_path / "link"
    assert found.source == tmp_path / "real"


def test_dot_is_the_directory_as_the_shell_shows_it(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "link")
    monkeypatch.setenv("PWD", str(tmp_path / "link"))
    assert resolve(Path(), private=home).path == tmp_path / "link"
    monkeypatch.setenv("PWD", str(tmp_path))  # it lies
    assert resolve(Path(), private=home).path == tmp_path / "real"
    monkeypatch.setenv("PWD", "relative")
    assert resolve(Path(), private=home).path == tmp_path / "real"
    monkeypatch.delenv("PWD")
    assert resolve(Path(), private=home).path == tmp_path / "real"


def test_a_removed_current_directory(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    with pytest.raises(NotFoundError, match="does not exist"):
        resolve(Path(), private=home)


def test_tilde(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home.parent))
    (home.parent / "project").mkdir()
    assert resolve(Path("~/project"), private=home).path == home.parent / "project"


def test_tilde_of_nobody(home: Path) -> None:
    with pytest.raises(CoiError):
        resolve(Path("~no-such-user/x"), private=home)


def test_what_holds_cois_own_data_is_refused(tmp_path: Path, home: Path) -> None:
    (tmp_path / "link").symlink_to(home.parent)
    for path in (Path("/"), home, home.parent, tmp_path, tmp_path / "link"):
        with pytest.raises(RefusedError, match="will not share") as caught:
            resolve(path, private=home)
        assert caught.value.exit_code == 5
    (home.parent / "project").mkdir()
    assert resolve(home.parent / "project", private=home)


def test_inside_cois_own_data_is_refused(home: Path) -> None:
    """Saved sessions and the list of trusted projects are not for a container."""
    (home / "sessions-claude").mkdir()
    with pytest.raises(RefusedError):
        resolve(home / "sessions-claude", private=home)


def test_home_is_refused_before_coi_has_a_directory(tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        resolve(tmp_path, private=tmp_path / ".coi")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_absolute_is_absolute_and_normal(text: str) -> None:
    path = absolute(Path(text))
    assert path.is_absolute()
    assert ".." not in path.parts
    assert absolute(path) == path
