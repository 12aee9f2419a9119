"""Names that scripts rely on: instances, tmux sessions, session ids."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from coi.errors import UsageError

DEFAULT_PREFIX = "coi-"
_PREFIX = re.compile(r"[a-z][a-z0-9-]{0,30}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def prefix(environ: Mapping[str, str] = os.environ) -> str:
    """The prefix of every instance name, ``COI_CONTAINER_PREFIX`` or ``coi-``.

    Raises:
        UsageError: it is not usable in an instance name (RFC 1123 label).
    """
    value = environ.get("COI_CONTAINER_PREFIX") or DEFAULT_PREFIX
    if not _PREFIX.fullmatch(value):
        raise UsageError(
            f"COI_CONTAINER_PREFIX is not usable: {value!r}",
            hint="a lower-case letter, then letters, digits and dashes (31 at most)",
        )
    return value


def workspace_id(path: Path) -> str:
    """First 8 hex digits of the SHA-256 of the absolute path, links not resolved."""
    from coi.digest import sha256

    return sha256(os.fsencode(path)).hexdigest()[:8]


def instance_name(prefix: str, workspace: Path, slot: int) -> str:
    """``<prefix><workspace id>-<slot>``."""
    return f"{prefix}{workspace_id(workspace)}-{slot}"


def tmux_session(instance: str) -> str:
    """The tmux session inside an instance: ``coi-<instance name>``."""
    return f"coi-{instance}"


def new_session_id() -> str:
    """A random UUID (version 4), of the kernel's making (random(4)): the module uuid asks the
    platform for its name first, 3 ms."""
    return Path("/proc/sys/kernel/random/uuid").read_text(encoding="ascii").strip()


def new_start() -> str:
    """What tells one start of a container from those before it."""
    return os.urandom(4).hex()


def is_session_id(value: str) -> bool:
    """Whether it has the form of a session id, in lower case."""
    return _UUID.fullmatch(value) is not None


def check_session_id(value: str) -> str:
    """``value`` in lower case, when it has the form of a session id.

    Raises:
        UsageError: it has not; a path such as ``../x`` never gets further.
    """
    lowered = value.strip().lower()
    if not is_session_id(lowered):
        raise UsageError(
            f"not a session id: {value!r}", hint="coi list --all shows the saved sessions"
        )
    return lowered
