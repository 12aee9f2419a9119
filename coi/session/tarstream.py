"""Reading tar streams that the root of a container may have written.

Python's tarfile reads them, with what it leaves open closed: headers that are
read whole into memory are bounded, chains of extended headers and the maps of
sparse files too, members are not remembered, and a stream that ends early or
turns to garbage is an error rather than a shorter archive.
"""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Iterator
from typing import IO, Any, Protocol, cast

from coi.errors import CoiError

MAX_HEADER = 1 << 17  # bytes of a long name or pax header; a path has 4096 at most
MAX_PIECES = 1_000_000  # of one sparse file; 16 bytes of memory each
_MAX_CHAIN = 8  # extended headers before one member; honest writers use three
_MAX_SIZE = 1 << 62  # bytes of a member; what fits the kernel's off_t, and sums of it
_LATEST = 1 << 33  # seconds: the year 2242, which every file system can hold
_BLOCK = 512
_BUFFER = 1 << 15  # tarfile copies what is left of it at every read: large is slow
_EXTENDED = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_GLOBAL = (tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_HEADER_ERROR: type[Exception] = cast(Any, tarfile).HeaderError
_END_OF_ARCHIVE: type[Exception] = cast(Any, tarfile).EOFHeaderError


class Readable(Protocol):
    """What a stream must have."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


class DamagedStreamError(CoiError):
    """Not a tar, cut short, or a header that lies."""


class StreamLimitError(DamagedStreamError):
    """A header asks for more memory than an honest one needs."""


def _damaged(why: str) -> DamagedStreamError:
    return DamagedStreamError("the stream is damaged", details=why)


class CheckedInfo(tarfile.TarInfo):
    """A member whose headers are bounded.

    Attributes:
        pieces: of a sparse file (old GNU format), the offset and the length of
            each stretch of data, one after the other; None of any other member.
        stored: bytes of data in the stream.
    """

    pieces: array[int] | None = None
    stored = 0
    _map_goes_on = False
    _real_size = 0

    @property
    def seconds(self) -> int:
        """The time of modification, whatever the header says, as a usable number."""
        value = self.mtime
        return int(min(max(value, 0), _LATEST)) if value == value else 0  # NaN is not itself

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> CheckedInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _GLOBAL:
            raise _damaged("a header for all members")
        if info.type in _EXTENDED and info.size > MAX_HEADER:
            raise StreamLimitError("the stream has an oversized header")
        if info.type == tarfile.GNUTYPE_SPARSE:
            info.pieces = array("Q")
            _add_pieces(info.pieces, buf, 386, 4)
            info._map_goes_on = bool(buf[482])
            info._real_size = _number(buf[483:495])
        return info

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> CheckedInfo:
        """As tarfile's; the end of the archive is told from garbage."""
        reader = cast(CheckedReader, tarfile)
        if reader.chain >= _MAX_CHAIN:
            raise StreamLimitError("the stream has a chain of extended headers")
        reader.chain += 1
        try:
            info = super().fromtarfile(reader)
        except _END_OF_ARCHIVE:  # after an extended header tarfile makes it another
            raise
        except (_HEADER_ERROR, ValueError, ArithmeticError, LookupError) as error:
            raise _damaged(str(error)) from error
        finally:
            reader.chain -= 1
        if not 0 <= info.size < _MAX_SIZE:
            raise _damaged("a size that no file has")
        if info.pieces is None:
            info.stored = info.size
        elif info.size != info._real_size:
            raise _damaged("two sizes for a sparse file")
        return info

    def _proc_sparse(self, reader: CheckedReader) -> CheckedInfo:
        """The rest of a sparse file's map; tarfile's own reads it without end."""
        pieces = self.pieces if self.pieces is not None else array("Q")
        stream: Any = reader.fileobj
        more = self._map_goes_on
        while more:
            block = stream.read(_BLOCK)
            _add_pieces(pieces, block, 0, 21)
            if len(pieces) > 2 * MAX_PIECES:
                raise StreamLimitError(f"a sparse file has more than {MAX_PIECES} pieces")
            more = bool(block[504])
        end = total = 0
        for offset, length in zip(pieces[::2], pieces[1::2], strict=True):
            if offset < end:
                raise _damaged("pieces of a sparse file that overlap")
            end, total = offset + length, total + length
        if end > self._real_size or total != self.size:
            raise _damaged("a sparse file's map does not fit its size")
        self.pieces, self.stored = pieces, self.size
        self.offset_data = stream.tell()
        cast(Any, reader).offset = self.offset_data + -(-self.stored // _BLOCK) * _BLOCK
        self.size = self._real_size
        return self

    def _refuse(self, *_args: Any) -> None:
        raise _damaged("a sparse file in a format that was not asked for")

    # The pax formats of sparse files, read into memory by tarfile without limit.
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


class CheckedReader(tarfile.TarFile):
    """Reads a stream; open with :func:`reading`."""

    tarinfo = CheckedInfo
    chain = 0

    def each(self) -> Iterator[CheckedInfo]:
        """The members. Each one's data is to be read before the next is asked for.

        Raises:
            DamagedStreamError: the stream is no whole, honest archive.
        """
        while True:
            try:
                member = self.next()
            except tarfile.TarError as error:
                raise _damaged(str(error)) from error
            if member is None:
                return
            self.members: list[tarfile.TarInfo] = []  # a million headers are 1 GB
            yield cast(CheckedInfo, member)

    def data(self, size: int) -> bytes:
        """The next bytes of the current member's data, exactly ``size`` of them."""
        return cast(bytes, cast(Any, self.fileobj).read(size))


class _Unbroken:
    """A stream whose end is an error: an archive ends before its stream does."""

    def __init__(self, source: Readable | IO[bytes]) -> None:
        self._read = source.read

    def read(self, size: int) -> bytes:
        data = self._read(size)
        if not data:
            raise _damaged("it ends early")
        return data


def reading(source: Readable | IO[bytes]) -> CheckedReader:
    """Begin to read an archive; use as a context manager.

    Args:
        source: read forward only, and up to 32 KiB beyond the archive's end.

    Raises:
        DamagedStreamError: it does not begin as an archive does.
    """
    try:
        return CheckedReader.open(
            fileobj=cast(Any, _Unbroken(source)),
            mode="r|",
            bufsize=_BUFFER,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except tarfile.TarError as error:
        raise _damaged(str(error)) from error


def _number(field: bytes | bytearray) -> int:
    """A number of a header: octal digits, or base 256 with the top bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _MAX_SIZE
    else:
        digits = bytes(field).split(b"\0")[0].strip()
        try:
            value = int(digits or b"0", 8)
        except ValueError:
            raise _damaged("a number that is none") from None
    if not 0 <= value < _MAX_SIZE:
        raise _damaged("a number that no file has")
    return value


def _add_pieces(pieces: array[int], block: bytes | bytearray, start: int, count: int) -> None:
    for position in range(start, start + 24 * count, 24):
        offset = _number(block[position : position + 12])
        length = _number(block[position + 12 : position + 24])
        if length:  # an empty one marks the end of the file, or is none at all
            pieces.extend((offset, length))
