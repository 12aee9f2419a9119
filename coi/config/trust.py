"""Reading a workspace's `.coi.toml`, and which ones the user approved.

The file is read once, through one descriptor that follows no link, and what
is hashed, shown and parsed are those same bytes. An approval is a file of its
own under ``<coi home>/trust``, so that two `coi trust` at once do not undo
each other; it holds the path and the SHA-256 of the approved bytes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from coi.config.paths import PROJECT_CONFIG
from coi.config.text import printable
from coi.errors import CoiError
from coi.files import make_private, read_all, read_private, replace_file, sync_directory
from coi.records import path_text, typed

MAX_SIZE = 64 * 1024  # bytes of a .coi.toml
_MAX_ENTRY = 16 * 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class ProjectFile(NamedTuple):
    """A `.coi.toml` as it was read: where it is, and its bytes."""

    path: Path
    data: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, in hex."""
        from coi.digest import sha256

        return sha256(self.data).hexdigest()


class Unusable(NamedTuple):
    """A `.coi.toml` that coi does not read, and why."""

    path: Path
    reason: str


class Approval(NamedTuple):
    """An approved file. ``state`` is ``trusted``, ``changed`` or ``missing``."""

    path: Path
    digest: str
    approved_at: str
    state: str


def project_path(workspace: Path) -> Path:
    """Where the workspace's file is; links on the way to it are resolved."""
    return Path(os.path.realpath(workspace)) / PROJECT_CONFIG


def read_project(workspace: Path) -> ProjectFile | Unusable | None:
    """The workspace's `.coi.toml`, None when there is none."""
    try:
        path = project_path(workspace)
        descriptor = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
        return None
    except OSError as error:
        reason = "is a symbolic link" if error.errno == errno.ELOOP else "cannot be read"
        if error.errno != errno.ELOOP and error.strerror:
            reason += f" ({error.strerror})"
        return Unusable(Path(workspace) / PROJECT_CONFIG, reason)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return Unusable(path, "is not a regular file")
        data = read_all(descriptor, MAX_SIZE + 1)
    except OSError as error:
        return Unusable(path, f"cannot be read ({error.strerror})")
    finally:
        os.close(descriptor)
    if len(data) > MAX_SIZE:
        return Unusable(path, f"is larger than {MAX_SIZE // 1024} KiB")
    return ProjectFile(path, data)


def is_trusted(home: Path, file: ProjectFile) -> bool:
    """Whether the user approved exactly these bytes at this path.

    An approval counts only where this user alone could have written it.

    Args:
        home: coi's home.
    """
    entry = _read_entry(home / "trust", _entry_name(file.path))
    if entry is None:
        return False
    return entry["path"] == str(file.path) and entry["sha256"] == file.digest


def approve(home: Path, file: ProjectFile) -> None:
    """Remember that the user approved these bytes at this path.

    Raises:
        CoiError: the approval cannot be written.
    """
    import json
    import time

    directory = home / "trust"
    entry = {
        "path": str(file.path),
        "sha256": file.digest,
        "approved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        make_private(directory)
        replace_file(directory / _entry_name(file.path), json.dumps(entry).encode())
    except OSError as error:
        raise CoiError(
            "cannot remember the approval", details=printable(str(error)), hint=_HINT
        ) from error


_HINT = "COI_HOME (default ~/.coi) must be a directory that you can write to"


def revoke(home: Path, path: Path) -> bool:
    """Forget the approval of the file at ``path``; False where there was none.

    Raises:
        CoiError: it cannot be removed.
    """
    directory = home / "trust"
    try:
        (directory / _entry_name(path)).unlink()
        sync_directory(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise CoiError("cannot revoke the approval", details=printable(str(error))) from error
    return True


def approvals(home: Path) -> tuple[Approval, ...]:
    """Every approval, sorted by path."""
    directory = home / "trust"
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names are wanted
    except OSError:
        return ()
    found: list[Approval] = []
    for name in names:
        entry = None if name.startswith(".") else _read_entry(directory, name)
        if entry is None:
            continue
        path = Path(entry["path"])
        now = read_project(path.parent)
        state = "missing" if now is None else "changed"
        if isinstance(now, ProjectFile) and is_trusted(home, now) and now.path == path:
            state = "trusted"
        found.append(Approval(path, entry["sha256"], entry["approved_at"], state))
    return tuple(sorted(found, key=lambda approval: str(approval.path)))


def _entry_name(path: Path) -> str:
    from coi.digest import sha256

    return sha256(os.fsencode(path)).hexdigest() + ".json"


def _read_entry(directory: Path, name: str) -> Mapping[str, str] | None:
    import json

    data = read_private(directory / name, _MAX_ENTRY)
    try:
        entry: dict[str, str] = json.loads(data or b"")
        typed(entry, path=str, sha256=str, approved_at=str)
        path_text(entry["path"])
    except (ValueError, RecursionError):
        return None
    return entry
