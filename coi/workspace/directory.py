"""The workspace: the one directory of the host that a session works in."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath

from coi.errors import CoiError, NotFoundError, RefusedError, UsageError
from coi.records import record

INSIDE = "/workspace"


@record(frozen=True)
class Workspace:
    """A directory that exists.

    Attributes:
        path: absolute, as the user named it, links not resolved: the identity
            that instance names and saved sessions are scoped to.
        source: the same directory with links resolved: what is mounted.
    """

    path: Path
    source: Path


def absolute(path: Path) -> Path:
    """Absolute and normalised, links kept, as the shell shows it.

    ``.`` means $PWD where that names the current directory (POSIX `pwd -L`).
    """
    if not path.is_absolute():
        logical = os.environ.get("PWD", "")
        try:
            same = logical.startswith("/") and Path(logical).samefile(".")
        except OSError:
            same = False
        path = (Path(logical) if same else Path.cwd()) / path
    return Path(os.path.normpath(path))


def resolve(path: Path, *, private: Path) -> Workspace:
    """The workspace at ``path``.

    Args:
        path: from the command line; relative to the current directory.
        private: coi's own directory: a workspace that contains it would let a
            container change what is trusted and read every saved session.

    Raises:
        NotFoundError: it does not exist.
        UsageError: it is not a directory, or its path cannot be carried.
        CoiError: this user cannot read it.
        RefusedError: it is /, contains ``private`` or is in it.
    """
    text = os.fspath(path)
    check_text(text, "the workspace's path")
    try:
        place = absolute(path.expanduser())
        mode = place.stat().st_mode
        source = place.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"the workspace does not exist: {text}", hint="-w/--workspace names a directory"
        ) from None
    except (OSError, RuntimeError) as error:
        raise CoiError(
            f"cannot read the workspace: {text}",
            details=str(error),
            hint="each directory on the way must let you through, each link lead somewhere",
        ) from error
    for found in (place, source):  # `.` may be below a directory of any name
        check_text(os.fspath(found), "the workspace's path")
    if not stat.S_ISDIR(mode):
        raise UsageError(
            f"the workspace is not a directory: {text}", hint="-w/--workspace names a directory"
        )
    if not os.access(source, os.R_OK | os.X_OK):
        raise CoiError(
            f"the workspace is not readable: {text}",
            hint="coi runs with your own rights: chmod or chown the directory",
        )
    inner = private.resolve()
    if source == Path("/") or overlap(inner, source):
        raise RefusedError(
            f"will not share {text} with a container",
            details=f"{inner} has your saved sessions and the projects that you trust",
            hint="cd into a project, or name one with -w",
        )
    return Workspace(place, source)


def check_text(text: str, what: str) -> None:
    """Refuse a path that neither a terminal nor Incus can carry.

    Raises:
        UsageError: a control character, or not UTF-8.
    """
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
        raise UsageError(
            f"{what} has a control character: {text!r}",
            hint="rename the directory: a path with newlines cannot be mounted",
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{what} is not UTF-8: {text!r}", hint="rename the directory") from None


def overlap(one: PurePath, other: PurePath) -> bool:
    """Whether one of two directories is, or contains, the other."""
    return one.is_relative_to(other) or other.is_relative_to(one)
