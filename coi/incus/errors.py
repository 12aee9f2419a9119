"""From what `incus` and the daemon say to typed errors, in one function.

Machine-readable codes come from ``incus query --raw`` (``error_code``); the
rest is English on stderr under ``LC_ALL=C.UTF-8``. The texts of 6.0.4 are
recorded from a real daemon in fixtures/incus, and a test classifies each; the
socket errors that are not there are how Go words them where the client does not.
"""

from __future__ import annotations

import os

from coi.errors import CoiError, NotFoundError, UnavailableError


class IncusError(CoiError):
    """Incus refused or failed an operation.

    Attributes:
        code: the REST ``error_code``, or 0 when only text is known.
    """

    def __init__(self, brief: str, *, details: str = "", hint: str = "", code: int = 0) -> None:
        super().__init__(brief, details=details, hint=hint)
        self.code = code


class AlreadyExistsError(IncusError):
    """The name is taken (409, or "already exists" in the text)."""


class MissingError(NotFoundError):
    """The instance, image, network or pool does not exist (404)."""


class ImageMissingError(MissingError):
    """The alias or fingerprint that an instance was to be made of is unknown."""


class PoolFullError(IncusError):
    """The storage pool has no space left."""


class TooSmallError(IncusError):
    """The root disk's limit is used up, or leaves no room for the image."""


class DaemonUnreachableError(UnavailableError):
    """incusd does not answer on its socket."""


class NotEnteredError(IncusError):
    """The daemon could not fork into a container that is starting, or busy."""


class PermissionDeniedError(UnavailableError):
    """This user may not open the daemon's socket."""


_ENDING_HINT = "it waits for what runs (incus operation list); try again once it is back"
_DAEMON_HINT = "start it: sudo systemctl start incus  (without systemd: sudo ./install.sh --start)"
NOT_BACKED_UP = "Failed to write backup file"
"""Part of what a change of an instance says whose disk limit is used up: the daemon cannot write
what `incus admin recover` would read there. The change is made all the same (measured)."""
NOT_ENTERED = "Failed to retrieve PID of executing child process"
"""What the client says, and ends with 255, when the daemon could not fork into the container:
seen in one of ten starts on a busy machine while the init inside sets itself up. Nothing has
run then."""

_GROUP = "incus-admin"
_GROUP_HINT = (
    f"join the group: sudo usermod -aG {_GROUP} $USER, then log in again (or run: newgrp {_GROUP})"
)
_SESSION_HINT = (
    f"you are in {_GROUP}, but this login session is older: log in again, or run: newgrp {_GROUP}"
)


def _permission_hint() -> str:
    """How this user comes to be let in, who may have joined the group a moment ago."""
    import grp
    import pwd

    try:
        group = grp.getgrnam(_GROUP)
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return _GROUP_HINT
    joined = name in group.gr_mem and group.gr_gid not in os.getgroups()
    return _SESSION_HINT if joined else _GROUP_HINT


_RESTRICTED_HINT = (
    "the project or this client's certificate is restricted: incus project show NAME tells by "
    "what; coi's own project is incus.project"
)
_SOURCE_HINT = "what is mounted must be there, on the host of the Incus daemon"
_PORT_HINT = "does something listen on that port of the host already? ss -tulpn shows it"


def classify(text: str, *, code: int = 0, action: str = "") -> CoiError:
    """The error that a message of Incus means.

    Args:
        text: stderr of the client or ``error`` of the REST answer.
        code: ``error_code`` of the REST answer, 0 when unknown.
        action: what was tried, e.g. ``start coi-1a2b3c4d-1``; begins the brief.
    """
    message = text.strip().removeprefix("Error:").strip()
    low = message.lower()
    message = _shortened(message)
    brief = f"cannot {action}" if action else "Incus failed"
    if (
        "permission denied" in low and "unix" in low
    ) or "you don't have the needed permissions" in low:
        return PermissionDeniedError(
            "no permission to talk to Incus", details=message, hint=_permission_hint()
        )
    if "daemon doesn't appear to be started" in low or (
        "no such file or directory" in low and "unix.socket" in low
    ):
        return DaemonUnreachableError(
            "Incus is installed but its daemon is not running", details=message, hint=_DAEMON_HINT
        )
    if "unix.socket" in low and ("connection refused" in low or "connect:" in low):
        return DaemonUnreachableError(
            "the Incus daemon does not answer", details=message, hint=_DAEMON_HINT
        )
    if code == 503 or low.endswith("shutting down"):
        return DaemonUnreachableError(
            f"{brief}: the Incus daemon is shutting down", details=message, hint=_ENDING_HINT
        )
    if "disk quota exceeded" in low or "exceeds specified volume size" in low:
        return TooSmallError(
            f"{brief}: the disk limit is used up, or smaller than the image",
            details=message,
            hint="give it more: --limit disk=SIZE  (limits.disk in the configuration)",
            code=code,
        )
    if "no space left on device" in low:
        return PoolFullError(
            f"{brief}: the storage pool is full",
            details=message,
            hint="see `incus storage info default`, then free space: coi clean, incus image list; "
            "or it is the container's own disk limit: --limit disk=SIZE",
            code=code,
        )
    if "image not provided for instance creation" in low or ("alias" in low and "not found" in low):
        return ImageMissingError(brief, details=message, hint="build the image first: coi build")
    named = low.startswith("name ") and low.endswith("already in use")  # of a rename
    raced = named or ("failed creating instance record" in low and "is busy running" in low)
    if code == 409 or raced or "already exists" in low or "unique constraint failed" in low:
        return AlreadyExistsError(brief, details=message, code=code)
    if low.startswith("the remote ") and low.endswith("doesn't exist"):
        return MissingError(
            brief, details=message, hint="see: incus remote list; coi's own is incus.remote"
        )
    if code == 404 or low.endswith("not found"):
        return MissingError(brief, details=message)
    if "missing source path" in low:
        return IncusError(brief, details=message, code=code, hint=_SOURCE_HINT)
    if "starting proxy device" in low:  # Incus does not always say why
        return IncusError(brief, details=message, code=code, hint=_PORT_HINT)
    if code == 403 or "user does not have permission" in low:
        return PermissionDeniedError(brief, details=message, hint=_RESTRICTED_HINT)
    if "failed checking if instance creation allowed" in low:
        return IncusError(brief, details=message, code=code, hint=_RESTRICTED_HINT)
    return IncusError(brief, details=message, code=code)


def _shortened(message: str) -> str:
    """At most 20 lines: the beginning, and the end, where the reason often is."""
    lines = message.splitlines()
    if len(lines) <= 20:
        return message
    return "\n".join([*lines[:15], f"... ({len(lines) - 19} lines)", *lines[-4:]])
