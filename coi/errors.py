"""Errors that a user of coi meets.

Each carries what happened (``brief``), why (``details``), what mends it
(``hint``) and the exit code of the command line (0-5 and 130, see
docs/commands.md). Anything else that escapes is a bug of coi.
"""

from __future__ import annotations

import errno

FAILED = 1
USAGE = 2
NOT_FOUND = 3
UNAVAILABLE = 4
REFUSED = 5
INTERRUPTED = 130

# What a file system says that is full, read-only or broken: errno(3).
FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class CoiError(Exception):
    """An operation failed.

    Args:
        brief: one line, no full stop, shown after ``Error: ``.
        details: the reason, possibly several lines; untrusted text is allowed,
            the renderer strips terminal escapes.
        hint: what the user can do, shown after ``Hint: ``.
    """

    exit_code = FAILED

    def __init__(self, brief: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint


class UsageError(CoiError):
    """The command line, a name or a value is not acceptable (exit 2)."""

    exit_code = USAGE


class ConfigError(UsageError):
    """A configuration file has a wrong key, type or syntax (exit 2)."""

    _where = "docs/configuration.md lists the keys and what each takes"

    def __init__(self, brief: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(brief, details=details, hint=hint or self._where)


class NotFoundError(CoiError):
    """A named instance, image, session, tool or file does not exist (exit 3)."""

    exit_code = NOT_FOUND


class UnavailableError(CoiError):
    """Incus is missing, not running, or not open to this user (exit 4)."""

    exit_code = UNAVAILABLE


class RefusedError(CoiError):
    """Refused for safety: untrusted configuration, unenforceable policy (exit 5)."""

    exit_code = REFUSED


class Interrupted(BaseException):
    """A signal ends the operation (exit 130); it carries what a :class:`CoiError` does.

    No error, as ``KeyboardInterrupt`` is none: what goes on after an error, an
    ``except CoiError``, is not to go on after this.
    """

    exit_code = INTERRUPTED

    def __init__(self, brief: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint


def disk_error(error: OSError) -> CoiError | None:
    """The error for a file that the system refuses, None where that is not what it is."""
    if error.errno not in FAILING | {errno.EACCES, errno.EPERM}:
        return None
    where = f" {error.filename}" if error.filename else ""
    return CoiError(
        f"cannot read or write{where}",
        details=error.strerror or "",
        hint="free space, or mend its permissions; COI_HOME names another place than ~/.coi",
    )
