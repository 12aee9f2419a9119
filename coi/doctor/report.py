"""What a check found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from coi.errors import CoiError
from coi.records import record

Status = Literal["ok", "warn", "fail"]
_SHOWN = 3  # of a list
VERSION = 1  # of the JSON form; keys are added to it, never renamed or removed


@record(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: of the check, the same at every run.
        text: what was found, one sentence.
        mend: what mends it: a command, or words where there is none.
        details: more of it, for scripts.
    """

    name: str
    status: Status
    text: str
    mend: str = ""
    details: tuple[str, ...] = ()


def ok(name: str, text: str) -> Check:
    """All is well."""
    return Check(name, "ok", text)


def warn(name: str, text: str, mend: str = "", details: Sequence[str] = ()) -> Check:
    """It works, and could be better."""
    return Check(name, "warn", text, mend, tuple(details))


def fail(name: str, text: str, mend: str = "", details: Sequence[str] = ()) -> Check:
    """Something of coi does not work, or is not safe, as it is."""
    return Check(name, "fail", text, mend, tuple(details))


def worst(checks: Sequence[Check]) -> Status:
    """The status of the whole."""
    found = {check.status for check in checks}
    return "fail" if "fail" in found else "warn" if "warn" in found else "ok"


def few(words: Sequence[str]) -> str:
    """The first of a list, for people; the JSON form has the rest."""
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def said(error: CoiError) -> str:
    """An error on one line."""
    return f"{error.brief}: {error.details.splitlines()[0]}" if error.details else error.brief


def as_data(checks: Sequence[Check]) -> dict[str, Any]:
    """The report for JSON."""
    return {
        "version": VERSION,
        "status": worst(checks),
        "checks": [
            {
                "name": check.name,
                "status": check.status,
                "text": check.text,
                "mend": check.mend or None,
                "details": list(check.details),
            }
            for check in checks
        ],
    }
