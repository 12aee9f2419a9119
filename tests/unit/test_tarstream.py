"""Streams that lie about themselves."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from tars import END, GB, TOP, archive, land, member, names, number, raw

from coi.session import tarstream
from coi.session.extract import TooLargeError
from coi.session.tarstream import DamagedStreamError, StreamLimitError


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
