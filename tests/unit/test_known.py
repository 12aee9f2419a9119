"""What a lock remembers of who is inside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.session.known import Known, note, noted, recall
from coi.session.locks import Lock
from coi.workspace.ownership import SessionUser

USER = SessionUser("code", 1000, 1000, "/home/code")
OTHER = SessionUser("dev", 1001, 100, "/srv/ein Heim: ü")
START = "5d1f0c"
NAMES = st.from_regex(r"[^:/\s]+", fullmatch=True)
NUMBERS = st.integers(0, 2**32 - 1)


def keep(locks: Path, name: str, text: str) -> None:
    """A lock that was held, and what its holder noted."""
    lock = Lock(locks / f"{name}.lock")
    assert lock.try_acquire()
    lock.write(text)
    lock.release()


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@given(st.text() | st.from_regex(r"[a-z0-9:]{,9}(:[0-9]{1,11}){2}:[a-z:]*:[/a-z\n]*"))
def test_notes_of_any_kind(text: str) -> None:
    known = noted("coi-a-1", text)
    assert known is None or noted("coi-a-1", note(known.user, known.start)) == known


@given(NAMES, NUMBERS, NUMBERS, st.from_regex(r"/[^\n]*", fullmatch=True))
def test_a_note_comes_back(name: str, uid: int, gid: int, home: str) -> None:
    user = SessionUser(name, uid, gid, home)
    assert noted("coi-a-1", note(user, START)) == Known("coi-a-1", user, START)


@pytest.mark.parametrize(
    "text",
    ["", "a3f2-session", "s:1000", "s:1000:1000:code:", "s:1000:1000:code:home",
     "s:-1:0:root:/root", "s:1000:1000:code:/home/code\n", "s:99999999999:0:root:/root",
     "s:\u0661:0:root:/root", ":0:0:root:/root", "s:0:0:../x:/root"],
)  # fmt: skip
def test_what_is_no_note(text: str) -> None:
    assert noted("coi-a-1", text) is None


def test_the_only_one_is_meant(locks: Path) -> None:
    assert recall(locks, "coi-", None) is None, "there is not even a directory"
    keep(locks, "coi-a-1", note(OTHER, START))
    keep(locks, "build-coi", "")
    assert recall(locks, "coi-", None) == Known("coi-a-1", OTHER, START)
    assert recall(locks, "dev-", None) is None


@pytest.mark.parametrize("text", ["", "5f0c-is-being-started", note(USER, "another")])
def test_a_second_one_is_doubt(locks: Path, text: str) -> None:
    keep(locks, "coi-a-1", note(USER, START))
    keep(locks, "coi-a-2", text)
    assert recall(locks, "coi-", None) is None
    assert recall(locks, "coi-", "coi-a-1") == Known("coi-a-1", USER, START)


def test_the_one_that_is_named(locks: Path) -> None:
    keep(locks, "coi-a-1", note(USER, START))
    keep(locks, "coi-c-1", "")
    keep(locks.parent, "outside", note(USER, START))
    for name in ("coi-c-1", "coi-d-1", "", "../outside", "coi-a-1.lock", "*"):
        assert recall(locks, "coi-", name) is None


def test_half_a_note_is_none(locks: Path) -> None:
    """What is longer than a lock's note may be would be cut, and name another home."""
    keep(locks, "coi-a-1", note(SessionUser("code", 1000, 1000, "/" + "ü" * 400), START))
    assert recall(locks, "coi-", "coi-a-1") is None
