"""Saved sessions on disk: whatever fails, the previous save stands."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.errors import CoiError, NotFoundError, RefusedError, UsageError
from coi.files import make_private
from coi.session.naming import new_session_id
from coi.session.store import METADATA, SavedSession, Store

ID = "3f0c1a5e-8d2b-4c6f-9a71-5b2e8c0d4f13"
WORKSPACE = Path("/home/user/project")


class Crash(BaseException):
    """The machine stops here: nothing that follows runs."""


def save(
    store: Store, data: bytes, *, session: str = ID, at: str = "2026-01-01", tool: str = "dummy"
) -> SavedSession:
    with store.writing(tool, session) as pending:
        pending.file.write(data)
        return pending.commit(
            SavedSession(
                id=session, tool=tool, workspace=str(WORKSPACE), container="coi-1a2b3c4d-1",
                saved_at=at, path=pending.directory, state=pending.name, size=len(data),
                skipped=((".tool/x", "not a regular file"),),
            )
        )  # fmt: skip


def snapshot(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()} if directory.exists() else {}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_round_trip(store: Store) -> None:
    saved = save(store, b"one")
    found = store.find(ID)
    assert found == saved
    assert found.state_path
    assert found.state_path.read_bytes() == b"one"
    assert store.latest(WORKSPACE, tool="dummy") == saved
    assert list(store.all()) == [saved]
    assert store.of_container("coi-1a2b3c4d-1", "dummy") == saved


def test_a_save_replaces_and_leaves_two_files(store: Store) -> None:
    save(store, b"one")
    save(store, b"two", at="2026-01-02")
    directory = store.directory("dummy", ID)
    names = sorted(snapshot(directory))
    assert names[0] == METADATA
    assert len(names) == 2
    state = store.find(ID).state_path
    assert state
    assert state.read_bytes() == b"two"


def test_modes_keep_others_out(store: Store) -> None:
    before = os.umask(0)
    try:
        saved = save(store, b"one")
    finally:
        os.umask(before)
    assert saved.path.stat().st_mode & 0o777 == 0o700
    for file in saved.path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_leaving_without_commit_changes_nothing(store: Store) -> None:
    with store.writing("dummy", ID) as pending:
        pending.file.write(b"never")
    assert not store.directory("dummy", ID).exists()
    save(store, b"one")
    before = snapshot(store.directory("dummy", ID))
    with suppress(KeyError), store.writing("dummy", ID) as pending:
        pending.file.write(b"never")
        raise KeyError
    assert snapshot(store.directory("dummy", ID)) == before


# -- a fault at every call -----------------------------------------------------------------

CALLS = ("open", "mkdir", "fsync", "rename", "replace", "unlink", "rmdir", "write")


@contextmanager
def faults(at: int, error: Callable[[], BaseException]) -> Iterator[list[str]]:
    """Let the ``at``-th of the calls that change the disk raise; all that were made."""
    made: list[str] = []
    patch = pytest.MonkeyPatch()

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            made.append(name)
            if len(made) == at:
                raise error()
            return real(*args, **kwargs)

        return call

    class File:
        """A file object whose writes are counted: C code does not call os.write."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def _counted(self, name: str, *args: Any) -> Any:
            made.append(name)
            if len(made) == at:
                raise error()
            return getattr(self._file, name)(*args)

        def write(self, data: Any) -> Any:
            return self._counted("write", data)

        def flush(self) -> Any:
            return self._counted("flush")

    real_fdopen = os.fdopen
    patch.setattr(os, "fdopen", lambda *args, **kwargs: File(real_fdopen(*args, **kwargs)))
    for name in CALLS:
        patch.setattr(os, name, wrapped(name))
    try:
        yield made
    finally:
        patch.undo()


def calls_of_a_save(tmp_path: Path) -> list[str]:
    store = Store(tmp_path / "count")
    save(store, b"one")
    with faults(0, Crash) as made:
        save(store, b"two")
    return list(made)


def test_a_save_has_the_calls_that_make_it_durable(tmp_path: Path) -> None:
    """State and metadata are synced before the rename, the directory before and after it."""
    made = calls_of_a_save(tmp_path)
    rename = made.index("replace")
    assert made[:rename].count("fsync") == 3
    assert "fsync" in made[rename:]
    assert "unlink" not in made[:rename]
    assert made.index("unlink") > rename


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "EROFS"])
def test_an_error_at_every_call(kind: str, earlier: bool, tmp_path: Path) -> None:
    import errno

    number = getattr(errno, kind)
    total = len(calls_of_a_save(tmp_path))
    assert total > 8
    for at in range(1, total + 1):
        store = Store(tmp_path / f"home-{at}")
        directory = store.directory("dummy", ID)
        if earlier:
            save(store, b"one")
        before = snapshot(directory)
        with faults(at, lambda: OSError(number, os.strerror(number))) as made:
            try:
                save(store, b"two", at="2026-01-02")
            except CoiError as error:
                failed: CoiError | None = error
            else:
                failed = None
        renamed = "replace" in made[: at - 1]
        if failed and not renamed:
            assert snapshot(directory) == before, f"call {at} ({made[at - 1]})"
            assert os.strerror(number) in failed.details
            assert "previous save" in failed.hint
        else:
            state = store.find(ID).state_path
            assert state
            assert state.read_bytes() == b"two", f"call {at} ({made[at - 1]})"
        check_next_save(store)


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "later"])
def test_a_crash_at_every_call(earlier: bool, tmp_path: Path) -> None:
    """Not even the clean-up runs: as after kill -9 or a power cut."""
    total = len(calls_of_a_save(tmp_path))
    for at in range(1, total + 1):
        store = Store(tmp_path / f"home-{at}")
        directory = store.directory("dummy", ID)
        if earlier:
            save(store, b"one")
        before = snapshot(directory)
        child = os.fork()
        if child == 0:
            with faults(at, lambda: os._exit(9)):
                save(store, b"two", at="2026-01-02")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        after = snapshot(directory)
        try:
            state = store.find(ID).state_path
        except NotFoundError:
            assert not earlier
            assert METADATA not in after
        else:
            assert state
            data = state.read_bytes()
            assert data in ((b"one", b"two") if earlier else (b"two",))
            if data == b"one":
                assert before.items() <= after.items(), "the previous save is byte for byte"
        check_sweep(store)
        check_next_save(store)


def check_sweep(store: Store) -> None:
    """What the failed one has left goes, and nothing else."""
    saved = list(store.all())
    for directory in store.torn():
        store.sweep(directory)
    assert store.torn() == []
    left = snapshot(store.directory("dummy", ID))
    assert set(left) == ({METADATA, saved[0].state} if saved else set())
    assert store.directory("dummy", ID).exists() is bool(saved)
    assert list(store.all()) == saved


def check_next_save(store: Store) -> None:
    """The next save works and leaves nothing of a failed one."""
    save(store, b"three", at="2026-01-03")
    left = snapshot(store.directory("dummy", ID))
    assert sorted(left.values()) == sorted([b"three", left[METADATA]])


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A tmpfs of 64 KiB: the save fails, says so, and the previous one is as it was."""
    if os.getuid() != 0:
        pytest.skip("needs root to mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount here")
    try:
        store = Store(place)
        save(store, b"one" * 1000)
        before = snapshot(store.directory("dummy", ID))
        with pytest.raises(CoiError, match="cannot save") as caught:
            save(store, os.urandom(200_000), at="2026-01-02")
        assert "No space left" in caught.value.details
        assert snapshot(store.directory("dummy", ID)) == before
        filler = place / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        with pytest.raises(CoiError, match="cannot save"):
            save(store, b"tiny", at="2026-01-02")
        assert snapshot(store.directory("dummy", ID)) == before
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_directory_without_rights(store: Store, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the directory should be")
    with pytest.raises(CoiError, match="cannot save"):
        save(store, b"one")


# -- reading --------------------------------------------------------------------------------


def test_latest_is_of_this_workspace_and_tool(store: Store) -> None:
    ids = [new_session_id() for _ in range(3)]
    for number, session in enumerate(ids):
        save(store, b"x", session=session, at=f"2026-01-0{number + 1}")
    save(store, b"x", session=new_session_id(), at="2027", tool="other")
    latest = store.latest(WORKSPACE, tool="dummy")
    assert latest
    assert latest.id == ids[2]
    assert store.latest(Path("/elsewhere"), tool="dummy") is None
    assert len(list(store.all())) == 4
    assert len(list(store.all(tool="other"))) == 1


@given(stamps=st.lists(st.datetimes(), min_size=1, max_size=6))
def test_the_latest_is_what_was_saved_last_whatever_the_clock_said(
    stamps: list[datetime], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("home"))
    for stamp in stamps:
        saved = save(store, b"x", session=new_session_id(), at=stamp.isoformat())
        assert store.latest(WORKSPACE, tool="dummy") == saved
        assert store.of_container(saved.container, "dummy") == saved


def test_a_save_of_before_there_was_an_order_comes_before(store: Store) -> None:
    old = save(store, b"x", session=new_session_id(), at="2099")
    data = old.to_json()
    del data["order"]
    (old.path / METADATA).write_text(json.dumps(data))
    new = save(store, b"x", session=new_session_id(), at="2026")
    assert store.latest(WORKSPACE) == new


BROKEN: dict[str, str] = {
    "empty": "",
    "not JSON": "{",
    "a list": "[]",
    "null": "null",
    "keys missing": "{}",
    "number for a name": '{"id": 1, "tool": "d", "workspace": "w", "container": "c",'
    ' "saved_at": 1}',
    "state elsewhere": '{"id": "i", "tool": "d", "workspace": "w", "container": "c",'
    ' "saved_at": "s", "state": "../../etc/passwd"}',
    "skipped is a number": '{"id": "i", "tool": "d", "workspace": "w", "container": "c",'
    ' "saved_at": "s", "skipped": 5}',
    "order is text": '{"id": "i", "tool": "d", "workspace": "w", "container": "c",'
    ' "saved_at": "s", "order": "5"}',
    "state is a number": '{"id": "i", "tool": "d", "workspace": "w", "container": "c",'
    ' "saved_at": "s", "state": 5}',
    "not UTF-8": "\udcff",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_metadata_is_no_session_and_no_crash(case: str, store: Store) -> None:
    good = save(store, b"x")
    other = store.directory("dummy", new_session_id())
    other.mkdir()
    (other / METADATA).write_bytes(BROKEN[case].encode("utf-8", "surrogateescape"))
    assert list(store.all()) == [good]
    with pytest.raises(NotFoundError):
        store.find(other.name)


def test_unknown_keys_of_a_later_version_are_left_alone(store: Store) -> None:
    saved = save(store, b"x")
    path = saved.path / METADATA
    path.write_text(json.dumps({**json.loads(path.read_text()), "new": [1]}))
    assert store.find(ID) == saved


def test_a_missing_state_file(store: Store) -> None:
    saved = save(store, b"x")
    assert saved.state_path
    saved.state_path.unlink()
    assert store.find(ID).state_path is None
    assert replace(saved, state="").state_path is None


@pytest.mark.parametrize("session", ["..", "../../x", "", "x" * 36])
def test_ids_that_are_none(session: str, store: Store) -> None:
    with pytest.raises(UsageError):
        store.find(session)
    with pytest.raises(UsageError):
        store.directory("dummy", session)


@pytest.mark.parametrize("tool", ["", "..", "a/b", "A", "-x", "x" * 41])
def test_tools_that_are_none(tool: str, store: Store) -> None:
    with pytest.raises(CoiError, match="not a tool"):
        store.directory(tool, ID)


def test_delete(store: Store) -> None:
    saved = save(store, b"x")
    store.delete(saved)
    assert not saved.path.exists()
    with pytest.raises(NotFoundError):
        store.find(ID)
    store.home.mkdir(exist_ok=True)
    assert list(store.all()) == []


def test_delete_takes_what_a_crash_left(store: Store) -> None:
    saved = save(store, b"x")
    (saved.path / f".{METADATA}.state-0123456789abcdef.tar").write_text("cut off")
    (saved.path / "state-0123456789abcdef.tar").write_text("cut off")
    store.delete(saved)
    assert not saved.path.exists()


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "later"])
def test_a_save_under_way_is_not_swept(earlier: bool, store: Store) -> None:
    if earlier:
        save(store, b"one")
    with store.writing("dummy", ID) as pending:
        pending.file.write(b"two")
        torn = pending.directory / "state-0123456789abcdef.tar"
        torn.write_text("cut off")
        beside = pending.directory / f".{METADATA}.0123456789abcdef"
        beside.write_text("its own, for all that one can see")
        store.sweep(pending.directory)
        assert (pending.directory / pending.name).exists()
        assert beside.exists()
    check_sweep(store)


def test_what_is_being_saved_is_not_deleted(store: Store) -> None:
    saved = save(store, b"one")
    before = snapshot(saved.path)
    with store.writing("dummy", ID):
        with pytest.raises(RefusedError, match="is being saved"):
            store.delete(saved)
        assert before.items() <= snapshot(saved.path).items()
    store.delete(saved)
    assert not saved.path.exists()


def test_an_entry_that_is_no_file_keeps_nothing_else(store: Store, tmp_path: Path) -> None:
    """What saves have left goes all the same, and no link is followed."""
    saved = save(store, b"one")
    outside = tmp_path / "outside"
    outside.write_text("x")
    (saved.path / "state-00.tar").symlink_to(outside)
    (saved.path / "state-01.tar").mkdir()
    (saved.path / "state-02.tar").write_text("cut off")
    beside = saved.path / f".{METADATA}.03"
    beside.write_text("cut off")
    for directory in store.torn():
        store.sweep(directory)
    assert {path.name for path in saved.path.iterdir()} == {
        METADATA, saved.state, "state-00.tar", "state-01.tar",
    }  # fmt: skip
    assert outside.read_text() == "x"
    assert store.torn() == []


def test_a_save_whose_file_was_taken_away_is_not_named(store: Store) -> None:
    saved = save(store, b"one")

    def save_what_goes() -> None:
        with store.writing("dummy", ID) as pending:
            (pending.directory / pending.name).unlink()
            pending.commit(replace(saved, state=pending.name))

    with pytest.raises(CoiError, match="cannot save"):
        save_what_goes()
    assert list(store.all()) == [saved]
    assert saved.state_path


def test_what_another_version_has_saved_is_not_swept(store: Store) -> None:
    saved = save(store, b"one")
    (saved.path / METADATA).write_text('{"format": 2}')
    before = snapshot(saved.path)
    assert store.torn() == []
    store.sweep(saved.path)
    assert snapshot(saved.path) == before


NAMES = st.one_of(
    st.from_regex(r"state-[0-9a-f]{1,8}\.tar", fullmatch=True),
    st.from_regex(r"\.metadata\.json\.[0-9a-f]{0,8}", fullmatch=True),
    st.from_regex(r"(state-|\.|metadata)[a-z.-]{0,8}(\.tar)?", fullmatch=True),
).filter(lambda name: name not in (".", "..", METADATA))


@given(
    names=st.sets(NAMES, max_size=6),
    metadata=st.sampled_from(["none", "good", "of another version"]),
    session=st.sampled_from([ID, ID.upper(), "x"]),
)
def test_what_goes_of_any_names_is_what_saves_have_left(
    names: set[str], metadata: str, session: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(tmp_path_factory.mktemp("home"))
    directory = store.home / "sessions-dummy" / session
    directory.mkdir(parents=True)
    kept = set()
    if metadata == "good" and session == ID:
        kept = {METADATA, save(store, b"one").state}
    elif metadata != "none":
        (directory / METADATA).write_text('{"format": 2}')
        kept = {METADATA}
    for name in names:
        (directory / name).write_text("it")
    states = {name for name in names if re.fullmatch(r"state-[0-9a-f]+\.tar", name)}
    beside = {name for name in names if name.startswith(f".{METADATA}.")}
    kept |= names - states - beside
    if metadata == "of another version" or (metadata == "good" and session != ID):
        kept |= states
    if session != ID:
        kept |= names
    for torn in store.torn():
        store.sweep(torn)
    assert snapshot(directory).keys() == kept
    assert directory.exists() is (bool(kept) or session != ID)


def test_a_save_begins_anew_where_it_is_swept_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory before its file is in it, then the file before it is locked."""
    directory = store.directory("dummy", ID)
    made = 0

    def make(path: Path) -> None:
        nonlocal made
        made += 1
        make_private(path)
        if made == 1:
            store.sweep(path)
            raise FileNotFoundError(path)  # it looks at what it has made
        if made == 2:
            store.sweep(path)

    locked = 0

    def lock(descriptor: int, how: int) -> None:
        nonlocal locked
        if not how & fcntl.LOCK_NB:
            locked += 1
            if locked == 1:
                store.sweep(directory)
        flock(descriptor, how)

    flock = fcntl.flock
    monkeypatch.setattr("coi.session.store.make_private", make)
    monkeypatch.setattr(fcntl, "flock", lock)
    saved = save(store, b"one")
    assert (made, locked) == (4, 2)
    assert snapshot(directory).keys() == {METADATA, saved.state}


def test_delete_is_never_half_found(store: Store) -> None:
    total = 0
    saved = save(store, b"x")
    with faults(0, Crash) as made:
        store.delete(saved)
    total = len(made)
    for at in range(1, total + 1):
        saved = save(store, b"x")
        error = pytest.raises(CoiError, match="cannot remove")
        with faults(at, lambda: OSError(5, "Input/output error")), error:
            store.delete(saved)
        for found in store.all():
            assert found.state_path
        check_next_save(store)


def test_an_empty_home(store: Store) -> None:
    assert list(store.all()) == []
    assert store.latest(WORKSPACE) is None
