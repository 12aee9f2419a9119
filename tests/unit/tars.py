"""Hostile and honest tar streams, and what a directory looked like before them."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coi.session.extract import Limits, Tally, unpack
from coi.session.landing import ARRIVING, Landing
from coi.session.tarstream import reading

END = bytes(1024)
TOP = ("./", "dir", "")  # what GNU tar writes first for a directory

Member = tuple[str, str, str]  # name, kind, data or target


def info(name: str, kind: str, data: str = "", **more: Any) -> tarfile.TarInfo:
    """A header. Kinds: file, dir, link, hard, fifo, char, block."""
    made = tarfile.TarInfo(name)
    made.type = {
        "file": tarfile.REGTYPE,
        "dir": tarfile.DIRTYPE,
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "char": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
    }[kind]
    made.mode = 0o755 if kind == "dir" else 0o644
    made.mtime = 1_700_000_000
    if kind in ("link", "hard"):
        made.linkname = data
    elif kind == "file":
        made.size = len(data.encode("utf-8", "surrogateescape"))
    elif kind == "char":
        made.devmajor, made.devminor = 1, 3
    for key, value in more.items():
        setattr(made, key, value)
    return made


def member(name: str, kind: str, data: str = "", *, pax: bool = False, **more: Any) -> bytes:
    """One member as bytes."""
    made = info(name, kind, data, **more)
    if pax:
        head = made.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    else:
        head = made.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    body = data.encode("utf-8", "surrogateescape") if kind == "file" else b""
    return head + body + bytes(-len(body) % 512)


def archive(members: Iterable[Member], *, top: bool = True) -> bytes:
    """A whole archive, the directory ``./`` first."""
    rows = [TOP, *members] if top else list(members)
    return b"".join(member(*row) for row in rows) + END


def raw(kind: bytes, name: bytes = b"x", size: bytes = b"0", **fields: bytes) -> bytearray:
    """A header by hand, the checksum right and the rest as it is given."""
    head = bytearray(512)
    head[0 : len(name)] = name
    head[100:108], head[108:116], head[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    head[124 : 124 + len(size)] = size
    head[136:148] = b"00000000000\0"
    head[156:157] = kind
    head[257:265] = b"ustar  \0"
    for key, value in fields.items():
        at = int(key.removeprefix("at"))
        head[at : at + len(value)] = value
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return head


def number(value: int) -> bytes:
    """A field of twelve bytes."""
    return b"%011o\0" % value if value < 8**11 else b"\x80" + value.to_bytes(11, "big")


@dataclass(frozen=True)
class Attack:
    """A stream, and the mark it leaves outside where nothing guards.

    Attributes:
        members: made from the path of the directory outside.
        mark: tells, after the event, that it worked; gets the directory outside
            and the destination.
    """

    members: Callable[[Path], list[Member]]
    mark: Callable[[Path, Path], bool]


def _planted(outside: Path, _destination: Path) -> bool:
    return (outside / "planted").exists()


def _overwritten(outside: Path, _destination: Path) -> bool:
    return (outside / "victim").read_text() == "evil"


ATTACKS: dict[str, Attack] = {
    "dot dot": Attack(lambda _o: [("../outside/planted", "file", "evil")], _planted),
    "dot dot below a directory": Attack(
        lambda _o: [("a", "dir", ""), ("a/../../outside/planted", "file", "evil")], _planted
    ),
    "absolute name": Attack(lambda o: [(f"{o}/planted", "file", "evil")], _planted),
    "through a link": Attack(
        lambda _o: [("l", "link", "../outside"), ("l/planted", "file", "evil")], _planted
    ),
    "through an absolute link": Attack(
        lambda o: [("l", "link", str(o)), ("l/planted", "file", "evil")], _planted
    ),
    "through a chain of links": Attack(
        lambda _o: [
            ("a/b/c", "dir", ""),
            ("a/b/c/up", "link", "../.."),
            ("x", "link", "a/b/c/up/../../outside"),
            ("x/planted", "file", "evil"),
        ],
        _planted,
    ),
    "through a link to a link": Attack(
        lambda _o: [
            ("one", "link", "."),
            ("two", "link", "one/.."),
            ("three", "link", "two/outside"),
            ("three/planted", "file", "evil"),
        ],
        _planted,
    ),
    "a directory through a link": Attack(
        lambda _o: [("l", "link", "../outside"), ("l/planted", "dir", "")], _planted
    ),
    "a link, then a file of its name": Attack(
        lambda _o: [("f", "link", "../outside/victim"), ("f", "file", "evil")], _overwritten
    ),
    "a file, then a link of its name, then a file behind it": Attack(
        lambda _o: [
            ("d", "file", "x"),
            ("d", "link", "../outside"),
            ("d/planted", "file", "evil"),
        ],
        _planted,
    ),
    "a hard link out, then a file of its name": Attack(
        lambda _o: [("h", "hard", "../outside/victim"), ("h", "file", "evil")], _overwritten
    ),
    "a hard link to a link out": Attack(
        lambda _o: [
            ("s", "link", "../outside/victim"),
            ("h", "hard", "s"),
            ("h", "file", "evil"),
        ],
        _overwritten,
    ),
    "a link left for the next program": Attack(
        lambda _o: [("l", "link", "../outside/victim")],
        lambda _o, d: (d / "l").exists() and (d / "l").read_text() == "secret",
    ),
    "an absolute link left for the next program": Attack(
        lambda o: [("l", "link", f"{o}/victim")],
        lambda _o, d: (d / "l").exists() and (d / "l").read_text() == "secret",
    ),
    "a FIFO": Attack(lambda _o: [("p", "fifo", "")], lambda _o, d: (d / "p").is_fifo()),
    "an escape sequence in a name": Attack(
        lambda _o: [("\x1b]0;evil\x07", "file", "x")],
        lambda _o, d: any("\x1b" in p.name for p in d.iterdir()),
    ),
    "an 8-bit escape sequence in a name": Attack(
        lambda _o: [("\udc9b31m", "file", "x")],
        lambda _o, d: any(b"\x9b" in os.fsencode(p.name) for p in d.iterdir()),
    ),
    "a newline in a name": Attack(
        lambda _o: [("a\nb", "file", "x")], lambda _o, d: any("\n" in p.name for p in d.iterdir())
    ),
    "an escape sequence in a link": Attack(
        lambda _o: [("l", "link", "\x1b[31m")], lambda _o, d: (d / "l").is_symlink()
    ),
}


def naive(data: bytes, destination: Path) -> None:
    """What the attacks work against: tarfile without a filter, errors passed over."""
    destination.mkdir(exist_ok=True)
    trusted: dict[str, Any] = (
        {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.errorlevel = 0
        tar.extractall(destination, **trusted)  # noqa: S202 - that is the point


def snapshot(directory: Path, *, without: Path | None = None) -> dict[str, tuple[object, ...]]:
    """Everything below a directory: path to kind, mode, content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for place, directories, files in os.walk(directory):
        if without is not None and Path(place) == without:
            directories.clear()
            continue
        for name in [*directories, *files]:
            path = Path(place) / name
            if path == without:
                continue
            status = path.lstat()
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            elif stat.S_ISREG(status.st_mode):
                content = (status.st_nlink, path.read_bytes() if status.st_size < 1 << 20 else "")
            found[str(path.relative_to(directory))] = (
                stat.S_IFMT(status.st_mode),
                stat.S_IMODE(status.st_mode),
                content,
            )
    return found


def names(directory: Path | str) -> list[str]:
    """What is in a directory."""
    return sorted(path.name for path in Path(directory).iterdir())


def _loops(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def links_stay(destination: Path) -> None:
    """AssertionError when a link inside leads out."""
    top = destination.resolve()
    for place, directories, files in os.walk(destination):
        for name in [*directories, *files]:
            path = Path(place) / name
            if path.is_symlink() and not _loops(path):
                real = Path(os.path.realpath(path))
                assert real == top or top in real.parents, f"{path} -> {path.readlink()}"


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


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    before = len(names("/proc/self/fd"))
    yield
    assert len(names("/proc/self/fd")) == before
