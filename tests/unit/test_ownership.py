"""Whose files they are: the user inside, idmapped mounts, and raw.idmap without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from coi.errors import CoiError, RefusedError
from coi.workspace.ownership import SessionUser, idmap, session_user, uses_shift

TABLES = Path(__file__).parents[2] / "fixtures" / "mounts"
USER = SessionUser("code", 1000, 1000, "/home/code")


@pytest.mark.parametrize(
    ("table", "source", "users", "shift"),
    [
        ("plain", "/home/user/project", ["root", "user"], True),
        ("plain", "/srv", ["root", "lima"], True),
        ("colima", "/Users/user/project", ["root", "lima"], False),
        ("colima", "/Users/user", ["root"], False),
        ("colima", "/home/lima/project", ["root", "lima"], False),
        ("colima", "/home/user/project", ["root", "user"], True),
        ("colima", "/Users/username", ["root", "user"], True),
        ("lima", "/Users/user/project", ["root"], False),
        ("lima", "/tmp/lima/x", ["root"], False),
        ("lima", "/home/user", ["root"], True),
        ("odd", "/home/user/my shared\tdir/x", ["user"], False),
        ("odd", "/home/user/my shared\tdir/inner/x", ["user"], True),
        ("odd", "/over/x", ["user"], True),
        ("missing", "/x", ["lima"], True),
    ],
)
def test_shift_is_found_out(table: str, source: str, users: list[str], shift: bool) -> None:
    found = uses_shift(Path(source), disabled=None, mounts=TABLES / table, users=users)
    assert found is shift


@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize("table", ["plain", "colima"])
def test_the_configuration_decides(table: str, disabled: bool) -> None:
    path = Path("/Users/user/x")
    assert uses_shift(path, disabled=disabled, mounts=TABLES / table, users=[]) is not disabled


def test_this_machine_has_an_answer(tmp_path: Path) -> None:
    assert uses_shift(tmp_path, disabled=None) in (True, False)


@pytest.mark.parametrize(
    ("uid", "gid", "expected"),
    [
        (1000, 1000, SessionUser("code", 1000, 1000, "/home/code")),
        (1234, 100, SessionUser("code", 1234, 100, "/home/code")),
        (0, 0, SessionUser("root", 0, 0, "/root")),
        (1000, 0, SessionUser("code", 1000, 1000, "/home/code")),
    ],
)
def test_user_inside(
    uid: int, gid: int, expected: SessionUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: uid)
    monkeypatch.setattr("os.getgid", lambda: gid)
    user = session_user("code")
    assert user == expected
    assert user.root is (uid == 0)


def test_user_inside_by_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setattr("os.getgid", lambda: 0)
    assert session_user("dev", uid=1500) == SessionUser("dev", 1500, 1500, "/home/dev")


def subids(tmp_path: Path, text: str, group_text: str | None = None) -> tuple[Path, Path]:
    uid, gid = tmp_path / "subuid", tmp_path / "subgid"
    uid.write_text(text)
    gid.write_text(text if group_text is None else group_text)
    return uid, gid


@pytest.mark.parametrize(
    "text",
    [
        "root:1000:1\n",
        "root:1000000:65536\nroot:1000:1",
        "0:1000:1\n",
        "# words\n\nroot:500:1000\n",
        "root:0:4294967295\n",
    ],
)
def test_mapping_that_is_allowed(text: str, tmp_path: Path) -> None:
    assert idmap(USER, subids=subids(tmp_path, text)) == "uid 1000 1000\ngid 1000 1000"


@pytest.mark.parametrize(
    "text",
    ["", "root:1000000:1000000000\n", "user:1000:1\n", "root:1001:1", "root:999:1", "root:x:1",
     "root:1000", "root:1000:0", "root:-1:5000", "root:1000:1:1"],
)  # fmt: skip
def test_mapping_that_is_not_allowed(text: str, tmp_path: Path) -> None:
    with pytest.raises(CoiError, match="does not let Incus map id 1000") as caught:
        idmap(USER, subids=subids(tmp_path, text))
    assert "root:1000:1" in caught.value.hint
    assert "subuid" in caught.value.hint


def test_the_group_has_a_file_of_its_own(tmp_path: Path) -> None:
    user = SessionUser("code", 1234, 100, "/home/code")
    files = subids(tmp_path, "root:1234:1\n", "root:100:1\n")
    assert idmap(user, subids=files) == "uid 1234 1234\ngid 100 100"
    with pytest.raises(CoiError, match="map id 100") as caught:
        idmap(user, subids=subids(tmp_path, "root:1234:1\n", "root:1234:1\n"))
    assert "subgid" in caught.value.hint


def test_a_file_that_cannot_be_read_is_the_daemons_business(tmp_path: Path) -> None:
    missing = (tmp_path / "none", tmp_path / "none")
    assert idmap(USER, subids=missing).startswith("uid 1000 1000")


def test_root_is_never_mapped(tmp_path: Path) -> None:
    root = SessionUser("root", 0, 0, "/root")
    with pytest.raises(RefusedError) as caught:
        idmap(root, subids=subids(tmp_path, "root:0:1\n"))
    assert caught.value.exit_code == 5
