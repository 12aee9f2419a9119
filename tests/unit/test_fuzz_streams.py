"""Archives with any content, beside those of test_state.py and test_extract.py."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tars import END, TOP, land, member, names, number, raw

from coi.errors import CoiError
from coi.session.state import TarState

NUMBERS = st.integers(0, 2**66) | st.sampled_from([0, 511, 512, 2**33, 2**63 - 1, 2**63])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4),
    NUMBERS,
    st.binary(max_size=600),
    st.binary(min_size=12, max_size=12) | st.none(),
)
@example([(0, 5)], 5, b"12345", None).via("a sound one")
@example([(0, 5)], 5, b"12345", b"\xff" * 12).via("a number below zero")
@example([(0, 5)], 5, b"12345", b"\0" * 12).via("no number")
@example([(0, 5)], 5, b"12345", b"0_0\0        ").via("a number that only Python takes for one")
def test_maps_of_sparse_files_of_any_kind(
    pieces: list[tuple[int, int]], size: int, body: bytes, odd: bytes | None
) -> None:
    """A file arrives with what its map says, or nothing does."""
    table = b"".join(number(offset) + number(length) for offset, length in pieces)
    table = odd + table[12:] if odd else table
    head = raw(b"S", b"sparse", number(len(body)), at386=table, at483=number(size))
    data = member(*TOP) + bytes(head) + body + bytes(-len(body) % 512) + END
    with TemporaryDirectory(prefix="coi-fuzz-") as top:
        try:
            tally = land(data, Path(top) / "got", size=1 << 30)
        except CoiError:
            assert names(Path(top)) == []
            return
        got = Path(top) / "got/sparse"
        assert got.stat().st_size == size == tally.size
        assert tally.moved == len(body) == sum(length for _, length in pieces)
        if odd is None:
            with got.open("rb") as file:
                at = 0
                for offset, length in pieces:
                    file.seek(offset)
                    assert file.read(length) == body[at : at + length]
                    at += length


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


FILES = {".tool/a": b"one", ".tool/b": b"two" * 300, ".tool/long" + "x" * 120: b""}


@given(st.lists(st.tuples(st.integers(0, 8 << 10), st.integers(0, 255)), max_size=6),
       st.integers(0, 20 << 10), st.binary(max_size=40))  # fmt: skip
@example([], 20 << 10, b"").via("a sound one")
@example([], 700, b"").via("one that is cut off in a file")
@example([], 0, b"").via("an empty one")
def test_a_saved_archive_of_any_kind(changes: list[tuple[int, int]], cut: int, tail: bytes) -> None:
    """Files of what is there, or an error of coi's own: a disk may lie as well."""
    whole = archive(FILES)
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    with TemporaryDirectory(prefix="coi-fuzz-") as top:
        path = Path(top) / "state-00.tar"
        path.write_bytes(bytes(data[:cut]) + tail)
        state = TarState(path)
        try:
            entries = state.entries()
        except CoiError:
            return
        for entry in entries:
            assert len(state.read(entry.path, 1 << 20)) <= entry.size
        if bytes(data[:cut]) == whole and not tail:
            assert {str(e.path): state.read(e.path) for e in entries} == FILES
