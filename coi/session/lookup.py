"""A container by the name that somebody gave."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from coi.errors import CoiError, NotFoundError, UsageError
from coi.session.network import watch

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.session.model import Engine

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def check_name(name: str) -> str:
    """``name``, when Incus takes it for an instance.

    Incus: letters, digits and dashes; begins with a letter, does not end with
    a dash; at most 63 (``IsInstanceName`` of its instance type package).

    Raises:
        UsageError: it is another.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"not a container's name: {name!r}",
            hint="letters, digits and dashes; a letter first, no dash last; 63 at most",
        )
    return name


def find(engine: Engine, name: str) -> Instance | None:
    """The container, or None."""
    row = engine.instances.find(check_name(name))
    watch(engine.home, [row] if row else ())
    return row


def running(engine: Engine, name: str) -> Instance:
    """The container, which runs.

    Raises:
        NotFoundError: there is none.
        CoiError: it does not run.
    """
    row = find(engine, name)
    if row is None:
        raise NotFoundError(f"{name} not found", hint="coi list")
    if not row.running:
        raise CoiError(f"{name} is not running", hint=f"coi container start {name}")
    return row
