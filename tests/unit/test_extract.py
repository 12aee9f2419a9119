"""Unpacking what a hostile container sends: inside the destination, or not at all."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
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
    links_stay,
    member,
    naive,
    names,
    number,
    raw,
    snapshot,
)

from coi.errors import CoiError
from coi.session import tarstream
from coi.session.extract import MAX_DEPTH, Limits, Tally, TooLargeError, unpack
from coi.session.landing import ARRIVING, Landing
from coi.session.tarstream import DamagedStreamError, StreamLimitError, reading

GB = 1 << 30


def land(
    data: bytes | io.RawIOBase,
    destination: Path | str,
    *,
    name: str = "",
    size: int = GB,
    entries: int = 10_000,
    umask: int = 0o022,
) -> Tally:
    """A pull without a container."""
    tally = Tally()
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    with Landing(str(destination), name) as landing:
        with reading(source) as reader:
            directory = unpack(
                reader, landing.root, ARRIVING,
                limits=Limits(size, entries), tally=tally, umask=umask,
            )  # fmt: skip
        landing.commit(directory=directory)
    return tally


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the destination, with a file that must stay as it is."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "victim").write_text("secret")
    return directory


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


def sparse(
    pieces: list[tuple[int, int]], size: int, body: bytes, stored: int | None = None
) -> bytes:
    """A sparse member of at most four pieces, as GNU tar writes it."""
    table = b"".join(number(offset) + number(length) for offset, length in pieces)
    head = raw(
        b"S", b"sparse", number(len(body) if stored is None else stored),
        at386=table, at483=number(size),
    )  # fmt: skip
    return bytes(head) + body + bytes(-len(body) % 512)


def test_sparse_files(tmp_path: Path) -> None:
    size = 1 << 40
    data = member(*TOP) + sparse([(4096, 3), (1 << 39, 2), (size, 0)], size, b"abcde") + END
    with pytest.raises(TooLargeError):
        land(data, tmp_path / "got", size=GB)
    assert names(tmp_path) == []
    tally = land(data, tmp_path / "got", size=2 << 40)
    got = tmp_path / "got/sparse"
    assert got.stat().st_size == size
    assert got.stat().st_blocks * 512 < 1 << 20
    with got.open("rb") as file:
        assert os.pread(file.fileno(), 5, 4095) == b"\0abc\0"
        assert os.pread(file.fileno(), 4, (1 << 39) - 1) == b"\0de\0"
    assert tally.moved == 5
    assert tally.size == size


@pytest.mark.parametrize(
    ("pieces", "size", "stored"),
    [
        ([(0, 5), (3, 5)], 100, 10),  # they overlap
        ([(50, 5), (0, 5)], 100, 10),  # backwards
        ([(98, 10)], 100, 10),  # beyond the end
        ([(0, 4)], 100, 10),  # less than is stored
        ([(0, 11)], 100, 10),  # more than is stored
        ([(1 << 63, 10)], 1 << 63, 10),  # no file is so long
    ],
)
def test_lying_maps(tmp_path: Path, pieces: list[tuple[int, int]], size: int, stored: int) -> None:
    data = member(*TOP) + sparse(pieces, size, b"x" * 10, stored) + END
    with pytest.raises(DamagedStreamError):
        land(data, tmp_path / "got")
    assert names(tmp_path) == []


class Endless(io.RawIOBase):
    """A beginning, then the same block over and over; notes how much was read."""

    def __init__(self, head: bytes, block: bytes) -> None:
        self._data = io.BytesIO(head)
        self._block = block
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._data.read(size) or (self._block * (size // len(self._block) + 1))[:size]
        self.given += len(data)
        return data


def test_an_endless_map_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarstream, "MAX_PIECES", 2000)
    head = raw(b"S", b"s", number(0), at482=b"\1", at483=number(1 << 40))
    block = (number(1) + number(1)) * 21 + b"\1" + bytes(7)
    source = Endless(member(*TOP) + bytes(head), block)
    with pytest.raises(StreamLimitError):
        land(source, tmp_path / "got")
    assert source.given < 1 << 20


def test_endless_headers_are_cut_off(tmp_path: Path) -> None:
    long = bytes(raw(b"L", b"././@LongLink", number(512))) + b"n" * 512
    source = Endless(member(*TOP), long)
    with pytest.raises(StreamLimitError):
        land(source, tmp_path / "got")
    assert source.given < 1 << 20


@pytest.mark.parametrize("kind", [b"L", b"K", b"x"])
def test_oversized_headers_are_not_read(tmp_path: Path, kind: bytes) -> None:
    source = Endless(member(*TOP) + bytes(raw(kind, b"h", number(GB))), bytes(512))
    with pytest.raises(StreamLimitError):
        land(source, tmp_path / "got")
    assert source.given < 1 << 20


def pax(records: dict[str, str], kind: bytes = b"x") -> bytes:
    """A pax header by hand."""
    body = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        length = len(text) + len(str(len(text)))
        length = len(text) + len(str(length))
        body += str(length).encode() + text
    return bytes(raw(kind, b"pax", number(len(body)))) + body + bytes(-len(body) % 512)


LIES: dict[str, bytes] = {
    "garbage": b"garbage" * 200,
    "a checksum that is wrong": member("f", "file", "x").replace(b"ustar", b"Ustar") + END,
    "a negative size": bytes(raw(b"0", b"f", b"\xff" * 12)) + END,
    "a size that no file has": bytes(raw(b"0", b"f", b"\x80" + b"\x7f" * 11)) + END,
    "a size that is no number": bytes(raw(b"0", b"f", b"zzzzzzzzzzz")) + END,
    "more data than there is": bytes(raw(b"0", b"f", number(1 << 20))) + b"x" * 512 + END,
    "a long name and nothing after": bytes(raw(b"L", b"l", number(512))) + b"n" * 512 + END,
    "a global header": pax({"path": "../../x"}, b"g") + member("f", "file", "x") + END,
    "a pax size that is no number": pax({"size": "-5"}) + member("f", "file", "x") + END,
    "a pax sparse file": pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                              "GNU.sparse.realsize": "5"}) + member("f", "file", "x") + END,
    "an old pax sparse file": pax({"GNU.sparse.map": "0,1", "GNU.sparse.size": "5"})
    + member("f", "file", "x") + END,
    "two sizes for a sparse file": pax({"size": "1"}) + sparse([(0, 600)], 9000, b"x" * 600) + END,
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_lies(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedStreamError):
        land(member(*TOP) + LIES[name], tmp_path / "got")
    assert names(tmp_path) == []


@pytest.mark.parametrize("mtime", ["inf", "-inf", "nan", "1e300", "-1", "99999999999"])
def test_times_that_no_file_has(tmp_path: Path, mtime: str) -> None:
    data = member(*TOP) + pax({"mtime": mtime}) + member("f", "file", "x") + END
    land(data, tmp_path / "got")
    assert 0 <= (tmp_path / "got/f").stat().st_mtime <= 1 << 33


def test_a_cut_stream_is_noticed_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = archive([("d", "dir", ""), ("d/f", "file", "x" * 700), ("n" * 200, "file", "y")])
    for end in range(0, len(whole) - 512, 64):
        with pytest.raises(DamagedStreamError):
            land(whole[:end], tmp_path / "got")
        assert names(tmp_path) == [], end
    with tarfile.open(fileobj=io.BytesIO(whole[:1024]), mode="r|") as tar:
        assert len(list(tar)) == 2, "tarfile takes a stream cut between members for a whole one"


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


# -- where it lands


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


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    before = len(names("/proc/self/fd"))
    yield
    assert len(names("/proc/self/fd")) == before
