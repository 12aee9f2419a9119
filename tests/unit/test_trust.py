"""Reading .coi.toml and remembering approvals."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from configs import Place

from coi.config import trust
from coi.config.trust import MAX_SIZE, ProjectFile, Unusable
from coi.errors import CoiError


@pytest.fixture
def here(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.project.write_text("[defaults]\nimage = 'x'\n")
    return place


def read(here: Place) -> ProjectFile:
    file = trust.read_project(here.workspace)
    assert isinstance(file, ProjectFile)
    return file


def entry(here: Place) -> Path:
    (path,) = (here.coi_home / "trust").iterdir()
    return path


def test_approval_is_remembered_privately(here: Place) -> None:
    assert not trust.is_trusted(here.coi_home, read(here))
    previous = os.umask(0)
    try:
        here.trust()
    finally:
        os.umask(previous)
    assert trust.is_trusted(here.coi_home, read(here))
    assert stat.S_IMODE(entry(here).stat().st_mode) == 0o600
    for directory in (here.coi_home, here.coi_home / "trust"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert here.load().config.defaults.image == "x"


@pytest.mark.parametrize("change", [b" ", b"\n", b"#"])
def test_any_changed_byte_asks_again(here: Place, change: bytes) -> None:
    here.trust()
    approved = here.project.read_bytes()
    here.project.write_bytes(approved + change)
    assert here.load().withheld == ("defaults.image",)
    here.project.write_bytes(approved)
    assert here.load().withheld == ()


def test_an_approval_is_for_one_path(here: Place, tmp_path: Path) -> None:
    here.trust()
    other = tmp_path / "other"
    other.mkdir()
    (other / ".coi.toml").write_bytes(here.project.read_bytes())
    file = trust.read_project(other)
    assert isinstance(file, ProjectFile)
    assert not trust.is_trusted(here.coi_home, file)
    # An approval that is renamed to look like another one's says its own path.
    entry(here).rename(entry(here).with_name(trust._entry_name(file.path)))
    assert not trust.is_trusted(here.coi_home, file)


def test_a_workspace_behind_a_link_is_the_same_workspace(here: Place, tmp_path: Path) -> None:
    here.trust()
    (tmp_path / "link").symlink_to(here.workspace)
    file = trust.read_project(tmp_path / "link")
    assert isinstance(file, ProjectFile)
    assert trust.is_trusted(here.coi_home, file)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_approval_that_others_could_write_does_not_count(here: Place, mode: int) -> None:
    here.trust()
    entry(here).chmod(mode)
    assert not trust.is_trusted(here.coi_home, read(here))
    entry(here).chmod(0o600)
    (here.coi_home / "trust").chmod(0o777)
    assert not trust.is_trusted(here.coi_home, read(here))
    here.trust()  # mends it
    assert trust.is_trusted(here.coi_home, read(here))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 99999, b'{"path": 1}'])
def test_a_damaged_approval_does_not_count(here: Place, data: bytes) -> None:
    here.trust()
    entry(here).write_bytes(data)
    assert not trust.is_trusted(here.coi_home, read(here))
    assert trust.approvals(here.coi_home) == ()


def test_a_linked_approval_does_not_count(here: Place, tmp_path: Path) -> None:
    here.trust()
    path = entry(here)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not trust.is_trusted(here.coi_home, read(here))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs chown")
def test_an_approval_of_another_user_does_not_count(here: Place) -> None:
    here.trust()
    os.chown(entry(here), 1234, 1234)
    assert not trust.is_trusted(here.coi_home, read(here))


def test_revoke(here: Place) -> None:
    here.trust()
    assert trust.revoke(here.coi_home, here.project)
    assert not trust.is_trusted(here.coi_home, read(here))
    assert not trust.revoke(here.coi_home, here.project)
    assert not trust.revoke(here.home / "nowhere", here.project)


def test_the_list_and_its_states(here: Place, tmp_path: Path) -> None:
    assert trust.approvals(here.coi_home) == ()
    here.trust()
    for name in ("b-changed", "c-gone"):
        workspace = tmp_path / name
        workspace.mkdir()
        (workspace / ".coi.toml").write_text("")
        file = trust.read_project(workspace)
        assert isinstance(file, ProjectFile)
        trust.approve(here.coi_home, file)
    (tmp_path / "b-changed" / ".coi.toml").write_text("#")
    (tmp_path / "c-gone" / ".coi.toml").unlink()
    found = trust.approvals(here.coi_home)
    assert [(a.path, a.state) for a in found] == [
        (tmp_path / "b-changed" / ".coi.toml", "changed"),
        (tmp_path / "c-gone" / ".coi.toml", "missing"),
        (here.project, "trusted"),
    ]
    assert json.loads(entry_of(here.coi_home, found[0].path).read_text())["sha256"] == (
        found[0].digest
    )


def entry_of(home: Path, path: Path) -> Path:
    return home / "trust" / trust._entry_name(path)


def test_many_at_once_all_stand(here: Place, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom coi.config import trust\n"
        "for n in range(20):\n"
        "    file = trust.read_project(Path(sys.argv[2]) / str(n % 5))\n"
        "    trust.approve(Path(sys.argv[1]), file)\n"
    )
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / ".coi.toml").write_text("")
    argv = [sys.executable, "-c", code, str(here.coi_home), str(tmp_path)]
    running = [subprocess.Popen(argv) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert [a.state for a in trust.approvals(here.coi_home)] == ["trusted"] * 5
    assert len(list((here.coi_home / "trust").iterdir())) == 5


def test_an_approval_that_cannot_be_written(here: Place) -> None:
    here.coi_home.write_text("a file")
    with pytest.raises(CoiError, match="cannot remember the approval") as caught:
        here.trust()
    assert "COI_HOME" in caught.value.hint


def test_no_file(here: Place, tmp_path: Path) -> None:
    here.project.unlink()
    assert trust.read_project(here.workspace) is None
    assert trust.read_project(tmp_path / "nowhere") is None
    assert trust.read_project(Path("/etc/passwd")) is None
    assert trust.read_project(Path("a\0b")) is None


def refused(here: Place, reason: str) -> None:
    """The file is not read, the rest of the configuration is, and a notice says so."""
    file = trust.read_project(here.workspace)
    assert isinstance(file, Unusable)
    assert file.reason == reason
    loaded = here.load()
    assert loaded.untrusted == here.project
    assert loaded.notices == (f"{here.project} is ignored: it {reason}",)
    assert loaded.config.defaults.image == "coi"


def test_a_link_is_refused(here: Place, tmp_path: Path) -> None:
    here.trust()
    here.project.rename(tmp_path / "real.toml")
    here.project.symlink_to(tmp_path / "real.toml")
    refused(here, "is a symbolic link")
    here.project.unlink()
    here.project.symlink_to(tmp_path / "dangling")
    refused(here, "is a symbolic link")


def test_a_fifo_is_refused_without_waiting(here: Place) -> None:
    here.project.unlink()
    os.mkfifo(here.project)
    refused(here, "is not a regular file")


def test_a_directory_is_refused(here: Place) -> None:
    here.project.unlink()
    here.project.mkdir()
    refused(here, "is not a regular file")


def test_a_socket_is_refused(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    here.project.unlink()
    monkeypatch.chdir(here.workspace)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(".coi.toml")
        refused(here, "cannot be read (No such device or address)")


def test_a_large_file_is_refused(here: Place) -> None:
    here.project.write_bytes(b"#" * MAX_SIZE)
    assert isinstance(trust.read_project(here.workspace), ProjectFile)
    here.project.write_bytes(b"#" * (MAX_SIZE + 1))
    refused(here, "is larger than 64 KiB")
    with here.project.open("wb") as stream:
        stream.truncate(1 << 40)
    refused(here, "is larger than 64 KiB")


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")
def test_an_unreadable_file_is_refused(here: Place) -> None:
    here.project.chmod(0o600)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom coi.config import trust\n"
        "os.setuid(1234)\nprint(trust.read_project(Path(sys.argv[1])).reason)\n"
    )
    for directory in here.workspace.parents:
        if directory.stat().st_uid == 0 and directory not in (Path("/"), Path("/tmp")):
            directory.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(here.workspace)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "cannot be read (Permission denied)\n"


def test_the_bytes_are_read_once(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapping the file after it was read changes neither hash nor content."""
    here.trust()
    real = trust.is_trusted

    def swap(home: Path, file: ProjectFile) -> bool:
        here.project.write_text("[defaults]\nimage = 'evil'\n")
        return real(home, file)

    monkeypatch.setattr(trust, "is_trusted", swap)
    assert here.load().config.defaults.image == "x"
    assert here.load().withheld == ("defaults.image",)
