"""Whether coi's own directory is fit to be trusted."""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from coi.errors import RefusedError


def check_home(directory: Path) -> None:
    """See that coi's own directory is this user's alone, where there is one.

    A link is followed if it is this user's, or root's. What others may only read is closed.

    Raises:
        RefusedError: others own it, could have written to it, or it is no directory.
    """
    try:
        status = directory.lstat()
        link = stat.S_ISLNK(status.st_mode)
        theirs = link and status.st_uid not in (os.geteuid(), 0)
        if link:
            status = directory.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RefusedError(f"cannot use {directory}", details=error.strerror or "") from error
    if not stat.S_ISDIR(status.st_mode):
        raise RefusedError(f"{directory} is not a directory", hint="move it away")
    if theirs or status.st_uid != os.geteuid():
        raise RefusedError(
            f"{directory} belongs to another user",
            details="Whoever owns it could put sessions and approvals there.",
            hint="move it away, or name another directory: COI_HOME=DIR",
        )
    if status.st_mode & 0o022:
        raise RefusedError(
            f"others may write to {directory}",
            details="They could have put sessions and approvals there.",
            hint=f"see what is in it, then: chmod go= {shlex.quote(str(directory))}",
        )
    if status.st_mode & 0o077:
        with suppress(OSError):
            directory.chmod(0o700)
