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


def keep(locks: Path, name: str, text: str) -> None:
    """A lock that was held, and what its holder noted."""
    lock = Lock(locks / f"{name}.lock")
    assert lock.try_acquire()
    lock.write(text)
    lock.release()


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@given(st.text())
def test_notes_of_any_kind(text: str) -> None:
    user = noted(text)
    assert user is None or noted(note(user)) == user


@pytest.mark.parametrize(
    "text",
    ["", "a3f2-session", "1000", "1000:1000:code:", "1000:1000:code:home", "-1:0:root:/root",
     "1000:1000:code:/home/code\n", "99999999999:0:root:/root", "\u0661:0:root:/root"],
)  # fmt: skip
def test_what_is_no_note(text: str) -> None:
    assert noted(text) is None


@pytest.mark.parametrize("user", [USER, OTHER])
def test_a_note_comes_back(user: SessionUser) -> None:
    assert noted(note(user)) == user


def test_the_only_one_is_meant(locks: Path) -> None:
    assert recall(locks, None) is None, "there is not even a directory"
    keep(locks, "coi-a-1", note(USER))
    assert recall(locks, None) == Known("coi-a-1", USER)
    keep(locks, "coi-a-2", "5f0c-is-being-started")
    keep(locks, "coi-a-3", "")
    assert recall(locks, None) == Known("coi-a-1", USER), "in the others nobody is"
    keep(locks, "coi-b-1", note(OTHER))
    assert recall(locks, None) is None, "there are two"


def test_the_one_that_is_named(locks: Path) -> None:
    keep(locks, "coi-a-1", note(USER))
    keep(locks, "coi-b-1", note(OTHER))
    keep(locks, "coi-c-1", "")
    keep(locks.parent, "outside", note(USER))
    assert recall(locks, "coi-b-1") == Known("coi-b-1", OTHER)
    for name in ("coi-c-1", "coi-d-1", "", "../outside", "coi-a-1.lock", "*"):
        assert recall(locks, name) is None


def test_half_a_note_is_none(locks: Path) -> None:
    """What is longer than a lock's note may be would be cut, and name another home."""
    keep(locks, "coi-a-1", note(SessionUser("code", 1000, 1000, "/" + "ü" * 400)))
    assert recall(locks, "coi-a-1") is None
