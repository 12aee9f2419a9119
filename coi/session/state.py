"""A tool's saved state: one tar file that is never unpacked on the host.

It comes out of a container as a stream that the container's root may have
written, and goes back into a container. On the host it is only filtered:
regular files and directories below the tool's declared paths pass, with plain
modes and within limits; links, devices, FIFOs and everything else do not.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from coi.api import StateEntry
from coi.errors import CoiError
from coi.records import record

MAX_FILE = 1 << 30  # bytes of one file; `find -size` inside leaves larger ones out
MAX_TOTAL = 4 << 30  # bytes of all files
MAX_ENTRIES = 200_000
_MAX_HEADER = 1 << 16  # bytes of a long name or pax header
_MAX_CHAIN = 4  # headers before one entry; tar writes two at most, tarfile recurses for each
_MAX_TIME = 1 << 40  # seconds; what tells a later time is not believed
_SHOWN = 200  # characters of a skipped name
_MAX_REWRITTEN = 16 << 20  # bytes of a file that secrets are taken out of
_MAX_PATH = 4096
EXCLUDED = "excluded"  # the reason of what the tool itself does not want saved
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


Rewrite = Callable[[bytes], "bytes | None"]


class StateError(CoiError):
    """The stream is not an acceptable state; nothing of it is kept."""


class StateLimitError(StateError):
    """The state is larger than a save may be."""


@record(frozen=True)
class Limits:
    """What one saved state may hold; see the module's constants."""

    file: int = MAX_FILE
    total: int = MAX_TOTAL
    entries: int = MAX_ENTRIES


@record
class Summary:
    """What passed: number of files, bytes, and (path, reason) of what did not."""

    files: int = 0
    size: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


class _CheckedInfo(tarfile.TarInfo):
    """Refuses what would make tarfile read without bounds, or end before the stream does.

    tarfile reads an extended header whole, calls itself for the entry that
    follows it, keeps global headers, builds the whole map of a sparse file, and
    takes a damaged or missing header for the end. tar writes none of those.
    """

    chain = 0

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _CheckedInfo:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the zeros at the end
        except tarfile.HeaderError as error:
            raise StateError("the state stream is damaged", details=str(error)) from error
        if info.type == tarfile.GNUTYPE_SPARSE or info.type == tarfile.XGLTYPE:
            raise StateError("the state stream has an entry that tar does not write here")
        if info.size < 0:
            raise StateError("the state stream is damaged", details="negative size")
        cls.chain = cls.chain + 1 if info.type in _EXTENDED else 0
        if cls.chain and (info.size > _MAX_HEADER or cls.chain > _MAX_CHAIN):
            raise StateLimitError("the state stream has an oversized header")
        return info

    def _proc_gnusparse_10(self, *_args: Any) -> None:
        raise StateError("the state stream has a sparse file")


def filter_stream(
    source: IO[bytes],
    target: IO[bytes],
    *,
    roots: Sequence[str],
    exclude: Sequence[str] = (),
    rewrite: Mapping[str, Rewrite] | None = None,
    limits: Limits | None = None,
) -> Summary:
    """Copy an untrusted tar stream, leaving out what has no business in it.

    Args:
        source: read to its end, never sought.
        target: receives a pax tar; its owner is 0:0 throughout.
        roots: the tool's state paths relative to the home.
        exclude: ``fnmatch`` patterns, relative to the home.
        rewrite: for some paths, what of the file's content is kept; None leaves
            the file out.
        limits: of size and number.

    Raises:
        StateError: not a tar, a header that lies, or more than the limits.
    """
    limits = limits or Limits()
    summary = Summary()
    seen: set[int] = set()  # hashes, as names may be long; str hashes are keyed and 64 bits
    checked = type("_CheckedInfo", (_CheckedInfo,), {})  # its chain is this stream's
    try:
        with (
            tarfile.open(fileobj=source, mode="r|", tarinfo=checked) as reader,
            tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as writer,
        ):
            for count, member in enumerate(reader):
                # tarfile remembers every header on both sides: a million of them is 1 GB.
                cast(Any, reader).members = []
                cast(Any, writer).members = []
                if count >= limits.entries:
                    raise StateLimitError(f"the state has more than {limits.entries} entries")
                name, reason = _accept(member, roots, exclude)
                if not reason and member.isreg() and member.size > limits.file:
                    raise StateLimitError(
                        f"a state file is larger than {limits.file} bytes", details=repr(name)
                    )
                if not reason and hash(name) in seen:
                    reason = "named twice"
                if reason:
                    if len(summary.skipped) < 100:
                        summary.skipped.append((name[:_SHOWN], reason))
                    continue
                seen.add(hash(name))
                info = tarfile.TarInfo(name)
                info.mtime = _time(member.mtime)
                if member.isdir():
                    info.type, info.mode = tarfile.DIRTYPE, 0o700
                    writer.addfile(info)
                    continue
                content: IO[bytes] | None = reader.extractfile(member)
                info.size = member.size
                if rewrite and name in rewrite:
                    data = _rewritten(content, member.size, rewrite[name])
                    if data is None:
                        summary.skipped.append((name, "its secrets cannot be taken out"))
                        continue
                    info.size, content = len(data), io.BytesIO(data)
                info.mode = 0o700 if member.mode & 0o100 else 0o600
                summary.files += 1
                summary.size += info.size
                if summary.size > limits.total:
                    raise StateLimitError(f"the state is larger than {limits.total} bytes")
                writer.addfile(info, content)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the stream's: ENOSPC and friends
        raise StateError("the state stream is damaged", details=str(error)) from error
    return summary


def _rewritten(content: IO[bytes] | None, size: int, rewrite: Rewrite) -> bytes | None:
    if content is None or size > _MAX_REWRITTEN:
        return None
    return rewrite(content.read())


def _time(value: float) -> float:
    """A modification time as it is written: a pax header may say inf or nan."""
    return float(value) if 0 <= value < _MAX_TIME else 0.0


def _accept(
    member: tarfile.TarInfo, roots: Sequence[str], exclude: Sequence[str]
) -> tuple[str, str]:
    """The member's normalised name, and why it is left out ('' when it is not)."""
    name = member.name
    while name.startswith("./"):
        name = name[2:]
    name = name.rstrip("/")
    parts = name.split("/")
    if "\0" in name or {"", ".", ".."} & set(parts):
        return name, "bad path"
    if len(name) > _MAX_PATH or any(len(part.encode("utf-8", "replace")) > 255 for part in parts):
        return name, "path too long"
    if not any(name == root or name.startswith(root + "/") for root in roots):
        return name, "outside the tool's state"
    if any(fnmatchcase(name, pattern) for pattern in exclude):
        return name, EXCLUDED
    if member.size < 0 or member.issparse() or not (member.isreg() or member.isdir()):
        return name, "not a regular file"
    return name, ""


class TarState:
    """A saved state file, read only: :class:`coi.api.SavedState`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index: dict[str, tarfile.TarInfo] | None = None

    def entries(self) -> list[StateEntry]:
        """All regular files, in the order they were saved.

        Raises:
            StateError: the file is damaged.
        """
        return [
            StateEntry(PurePosixPath(name), info.size, float(info.mtime))
            for name, info in self._members().items()
        ]

    def read(self, path: PurePosixPath | str, limit: int = 1 << 20) -> bytes:
        """The first ``limit`` bytes of a file; KeyError when it is not there."""
        info = self._members()[str(path)]
        with self.path.open("rb") as raw:
            raw.seek(info.offset_data)
            return raw.read(min(limit, info.size))

    def _members(self) -> dict[str, tarfile.TarInfo]:
        if self._index is None:
            try:
                with tarfile.open(self.path, "r:") as tar:
                    self._index = {info.name: info for info in _regular(tar)}
            except (tarfile.TarError, ValueError, EOFError, RecursionError) as error:
                raise StateError(
                    "the saved state is damaged", details=f"{self.path}: {error}"
                ) from error
        return self._index


def _regular(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return (info for info in tar if info.isreg())
