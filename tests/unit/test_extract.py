"""Unpacking what a hostile container sends: inside the destination, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tars import (
    ATTACKS,
    END,
    TOP,
    Member,
    archive,
    land,
    links_stay,
    member,
    naive,
    names,
    raw,
    snapshot,
)
from tars import no_descriptor_left as no_descriptor_left
from tars import outside as outside

from coi.errors import CoiError
from coi.session.extract import MAX_DEPTH, Tally, TooLargeError
from coi.session.tarstream import DamagedStreamError

# -- honest trees


def test_an_honest_tree_arrives(tmp_path: Path) -> None:
    long = "/".join(["n" * 60] * 20)
    rows: list[Member] = [
        ("./empty", "dir", ""),
        ("./sub", "dir", ""),
        ("./sub/ü and space", "file", "text\n"),
        ("./sub/-dash", "file", ""),
        ("./sub/latin-\udce9", "file", "x"),
        ("./sub/up", "link", "../empty"),
        ("./sub/dangling", "link", "nowhere/at/all"),
        (f"./{long}", "file", "deep"),
        ("./👩‍💻", "file", "joined"),
    ]
    tally = land(archive(rows), tmp_path / "got")
    got = tmp_path / "got"
    assert tally.skipped == []
    assert tally.files == 7
    assert (got / "sub/ü and space").read_text() == "text\n"
    assert (got / "sub/latin-\udce9").read_text() == "x"
    assert str((got / "sub/up").readlink()) == "../empty"
    assert str((got / "sub/dangling").readlink()) == "nowhere/at/all"
    assert (got / long).read_text() == "deep"
    assert list((got / "empty").iterdir()) == []
    assert (got / "sub/-dash").stat().st_mtime == 1_700_000_000
    assert names(tmp_path) == ["got"]


def test_modes_pass_the_umask_and_lose_what_is_special(tmp_path: Path) -> None:
    data = b"".join(
        [
            member("./", "dir", mode=0o2777),
            member("./tool", "file", "x", mode=0o6777),
            member("./private", "file", "x", mode=0o600),
            member("./read only", "dir", mode=0o1555),
            member("./read only/inside", "file", "x", mode=0o444),
            END,
        ]
    )
    land(data, tmp_path / "got")
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
    }
    assert modes == {
        "got": 0o755,
        "got/tool": 0o755,
        "got/private": 0o600,
        "got/read only": 0o755,
        "got/read only/inside": 0o444,
    }
    naive(data, tmp_path / "naive")
    assert (tmp_path / "naive/tool").stat().st_mode & 0o6000, "tarfile keeps set-uid"


def test_a_single_file_takes_the_name_it_is_given(tmp_path: Path) -> None:
    data = archive([("../../whatever", "file", "x"), ("second", "file", "y")], top=False)
    tally = land(data, tmp_path / "named")
    assert snapshot(tmp_path) == {"named": (stat.S_IFREG, 0o644, (1, b"x"))}
    assert tally.skipped == [("second", "a second member, where one file was asked for")]


@pytest.mark.parametrize(
    "first", [("l", "link", "/etc/passwd"), ("a/b", "dir", ""), ("p", "fifo", "")]
)
def test_a_stream_that_begins_otherwise_is_refused(tmp_path: Path, first: Member) -> None:
    with pytest.raises(CoiError, match="neither a file nor a directory"):
        land(archive([first], top=False), tmp_path / "got")
    assert names(tmp_path) == []


# -- attacks


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(tmp_path: Path, outside: Path, name: str) -> None:
    attack = ATTACKS[name]
    destination = tmp_path / "got"
    before = snapshot(tmp_path, without=destination)
    tally = land(archive(attack.members(outside)), destination)
    assert snapshot(tmp_path, without=destination) == before
    assert not attack.mark(outside, destination)
    assert tally.left_out >= 1, "what is left out is reported"
    links_stay(destination)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_works_where_nothing_guards(tmp_path: Path, outside: Path, name: str) -> None:
    attack = ATTACKS[name]
    naive(archive(attack.members(outside)), tmp_path / "got")
    assert attack.mark(outside, tmp_path / "got"), "a control that proves nothing"


@pytest.mark.parametrize("pax", [False, True])
def test_long_names_are_checked_as_short_ones(tmp_path: Path, outside: Path, pax: bool) -> None:
    name = "../" * 60 + "tmp/" + "n" * 120
    data = member(*TOP) + member(name, "file", "x", pax=pax) + END
    tally = land(data, tmp_path / "got")
    assert tally.skipped == [(name, "its name leads out of the directory")]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make devices")
def test_devices_are_left_out(tmp_path: Path) -> None:
    data = archive([("null", "char", "")])
    assert land(data, tmp_path / "got").skipped == [("null", "a device")]
    assert names(tmp_path / "got") == []
    naive(data, tmp_path / "naive")
    assert (tmp_path / "naive/null").is_char_device()


def test_unknown_types_are_left_out(tmp_path: Path) -> None:
    data = member(*TOP) + bytes(raw(b"V", b"label")) + END
    assert land(data, tmp_path / "got").skipped == [("label", "of an unknown type")]
    assert names(tmp_path / "got") == []


def test_the_first_of_two_counts(tmp_path: Path) -> None:
    rows: list[Member] = [
        ("f", "file", "first"),
        ("f", "file", "second"),
        ("f", "dir", ""),
        ("f/inside", "file", "x"),
        ("d", "dir", ""),
        ("d", "file", "x"),
        ("d", "dir", ""),
        ("d/inside", "file", "y"),
    ]
    tally = land(archive(rows), tmp_path / "got")
    assert (tmp_path / "got/f").read_text() == "first"
    assert (tmp_path / "got/d/inside").read_text() == "y"
    assert [path for path, _why in tally.skipped] == ["f", "f", "f/inside", "d"]


def test_depth_and_length_are_limited(tmp_path: Path) -> None:
    deep = "/".join("d" * (MAX_DEPTH + 1))
    rows: list[Member] = [
        (deep, "file", "x"),
        ("/".join("d" * MAX_DEPTH), "file", "x"),
        ("n" * 256, "file", "x"),
    ]
    tally = land(archive(rows), tmp_path / "got")
    assert [why for _path, why in tally.skipped] == [
        f"it is nested more than {MAX_DEPTH} levels deep",
        "its name is too long",
    ]
    assert tally.files == 1


def test_a_deep_tree_is_removed_again(tmp_path: Path) -> None:
    rows: list[Member] = [("/".join("d" * MAX_DEPTH), "file", "x")]
    with pytest.raises(DamagedStreamError):
        land(archive(rows)[: -len(END)], tmp_path / "got")
    assert names(tmp_path) == []


def test_what_is_left_out_is_counted_but_not_kept(tmp_path: Path) -> None:
    rows: list[Member] = [(f"p{number}", "fifo", "") for number in range(500)]
    tally = land(archive(rows), tmp_path / "got")
    assert tally.left_out == 500
    assert len(tally.skipped) == 100


# -- limits


def test_limits(tmp_path: Path) -> None:
    rows: list[Member] = [(f"f{n}", "file", "x" * 100) for n in range(10)]
    with pytest.raises(TooLargeError, match="more than 999 bytes"):
        land(archive(rows), tmp_path / "got", size=999)
    with pytest.raises(TooLargeError, match="more than 10 files"):
        land(archive(rows), tmp_path / "got", entries=10)
    assert names(tmp_path) == []
    land(archive(rows), tmp_path / "got", size=1000, entries=11)


def test_what_is_left_out_counts_too(tmp_path: Path) -> None:
    data = member(*TOP) + member("../x", "file", "y" * 2000) + END
    with pytest.raises(TooLargeError):
        land(data, tmp_path / "got", size=1000)


# -- anything at all

PARTS = st.sampled_from(["a", "b", "c", "..", ".", "", "\n", "\x1b[2J", "\u202e", "é", "x" * 260])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
TARGETS = NAMES | st.sampled_from(["/", "../outside", "../outside/victim", "/etc", "a/.."])
KINDS = st.sampled_from(["file", "file", "dir", "link", "link", "hard", "fifo"])


@st.composite
def rows(draw: st.DrawFn) -> Member:
    kind = draw(KINDS)
    data = draw(TARGETS) if kind in ("link", "hard") else "evil" if kind == "file" else ""
    return draw(NAMES), kind, data


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(members=st.lists(rows(), max_size=12), merge=st.booleans())
@example(members=[("a", "link", "x" * 260)], merge=False)
@example(members=[("a", "link", "a//a")], merge=False)
@example(
    members=[("a/b", "link", ".."), ("a/b/c", "link", "../.."), ("a/c", "file", "x")], merge=True
)
def test_nothing_is_ever_made_outside(
    tmp_path_factory: pytest.TempPathFactory, members: list[Member], merge: bool
) -> None:
    top = tmp_path_factory.mktemp("any")
    (top / "outside").mkdir()
    (top / "outside/victim").write_text("secret")
    destination = top / "got"
    if merge:  # with the user's own links in the way
        destination.mkdir()
        (destination / "a").symlink_to("../outside")
        (destination / "b").symlink_to("../outside/victim")
    before = snapshot(top, without=destination)
    tally = Tally()
    try:
        tally = land(archive(members), destination)
    except (CoiError, OSError):
        assert merge, "without anything in the way there is nothing to fail at"
        links = {"a": "../outside", "b": "../outside/victim"}
        assert {p.name: str(p.readlink()) for p in destination.iterdir()} == links
    assert snapshot(top, without=destination) == before
    assert tally.files + tally.left_out <= len(members)
    if not merge:
        links_stay(destination)
        for path in destination.rglob("*"):
            assert path.is_symlink() or path.is_dir() or path.is_file()
            assert not any(c in path.name for c in "\n\x1b\u202e")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=2000), cut=st.integers(0, 3000), at=st.integers(0, 3000))
def test_damaged_bytes_never_escape_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int, at: int
) -> None:
    top = tmp_path_factory.mktemp("bytes")
    whole = bytearray(archive([("d", "dir", ""), ("l", "link", "d"), ("n" * 150, "file", "x")]))
    whole[at : at + len(data)] = data
    try:
        land(bytes(whole[: max(cut, 512)]), top / "got")
    except CoiError:
        assert names(top) == []
