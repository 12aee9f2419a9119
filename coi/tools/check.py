"""What coi demands of a plugin's tool and of what the tool's methods return."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from coi.api import API_VERSION, Tool

MAX_ENTRIES = 1000  # of one attribute
MAX_TEXT = 1024  # characters of a path, pattern or key

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_BINARY = re.compile(r"[A-Za-z0-9_./+][A-Za-z0-9_./+-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PATHS = ("state", "state_exclude", "secrets", "scratch")
# What the container has of its own: a host's value would break what runs inside, or lead
# the loader to files of the workspace.
_INSIDE = re.compile(
    r"HOME|USER|LOGNAME|SHELL|PATH|PWD|OLDPWD|LANG|LC_.*|TERM|TMUX.*|IS_SANDBOX|LD_.*|BASH_.*|ENV"
    r"|IFS|PYTHONPATH|PYTHONHOME|NODE_OPTIONS|COI_.*"
)


class UnsoundError(Exception):
    """An object cannot be used as a tool; the text says why."""


def sound(tool: object) -> Tool:
    """The tool, its attributes read once, checked, and fixed.

    An attribute may be a property, of which nobody knows what it says the next time: a
    session that runs is to be saved with the paths that it was begun with.

    Raises:
        UnsoundError: it cannot be used.
    """
    if isinstance(tool, type):
        raise UnsoundError(f"it registered the class {tool.__name__}, not an instance")
    if not isinstance(tool, Tool):
        raise UnsoundError(f"it registered a {type(tool).__name__}, which is no coi.api.Tool")
    if tool.api_version != API_VERSION:
        raise UnsoundError(
            f"it is for version {str(tool.api_version)[:40]} of coi.api, this is {API_VERSION}"
        )
    name = tool.name
    if type(name) is not str or not _NAME.fullmatch(name):
        raise UnsoundError(
            f"bad tool name {str(name)[:40]!r}: lower-case letters, digits and dashes, at most 32"
        )
    try:
        values: dict[str, object] = {"name": name, **_texts(tool), **_lists(tool)}
        values["secret_keys"] = _keys(tool.secret_keys)
    except UnsoundError as error:
        raise UnsoundError(f"tool {name}: {error}") from None
    for method in ("install", "command"):
        if getattr(type(tool), method) is getattr(Tool, method):
            raise UnsoundError(f"tool {name}: {method}() is not defined")
    return _fixed(tool, values)


def _fixed(tool: Tool, values: Mapping[str, object]) -> Tool:
    """The same object with these values, whatever its class made of them."""
    kind: Any = type(tool)
    vars(tool).update(values)
    # Properties of the class come before what the object itself holds.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    tool.__class__ = type(kind)(kind.__name__, (kind,), {**names, **values})
    return tool


def _texts(tool: Tool) -> dict[str, object]:
    binary, title = tool.binary, tool.title
    if type(binary) is not str or len(binary) > MAX_TEXT or not _BINARY.fullmatch(binary):
        raise UnsoundError(f"bad binary {str(binary)[:80]!r}")
    if type(title) is not str or len(title) > MAX_TEXT or _CONTROL.search(title):
        raise UnsoundError("bad title")
    return {"binary": binary, "title": title}


def _lists(tool: Tool) -> dict[str, object]:
    found: dict[str, object] = {}
    for attribute in (*_PATHS, "host_variables"):
        entries = _entries(attribute, getattr(tool, attribute))
        for entry in entries:
            if attribute != "host_variables":
                reason = path_fault(entry)
            elif not (reason := variable_fault(entry, "")) and _INSIDE.fullmatch(entry):
                reason = "the container has its own"
            if reason:
                raise UnsoundError(f"{attribute} has {str(entry)[:80]!r}: {reason}")
        found[attribute] = entries
    return found


def _entries(attribute: str, entries: Any) -> tuple[Any, ...]:
    if not isinstance(entries, (tuple, list)):
        raise UnsoundError(f"{attribute} must be a tuple of strings")
    if len(entries) > MAX_ENTRIES:
        raise UnsoundError(f"{attribute} has more than {MAX_ENTRIES} entries")
    return tuple(entries)


def _keys(found: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(found, Mapping) or len(found) > MAX_ENTRIES:
        raise UnsoundError("secret_keys must map paths to tuples of keys")
    keys: dict[str, tuple[str, ...]] = {}
    for path, names in found.items():
        if (
            path_fault(path)
            or not isinstance(names, (tuple, list))
            or not all(type(name) is str for name in names)
        ):
            raise UnsoundError("secret_keys must map paths to tuples of keys")
        keys[path] = _entries("secret_keys", names)
    return keys


def path_fault(path: object) -> str:
    """Why a path or pattern is not one below the home; '' when it is."""
    if type(path) is not str:
        return "not a string"
    if not path or _CONTROL.search(path):
        return "empty, or with control characters"
    if len(path) > MAX_TEXT:
        return "too long"
    if path.startswith(("/", "~")):
        return "not relative to the home"
    if path != str(PurePosixPath(path)) or ".." in path.split("/") or path == ".":
        return "not a plain path below the home"
    return ""


def variable_fault(name: object, value: object) -> str:
    """Why a name and value cannot be an environment variable; '' when they can."""
    if type(name) is not str or len(name) > MAX_TEXT or not _VARIABLE.fullmatch(name):
        return f"bad variable name {str(name)[:40]!r}"
    if type(value) is not str or "\0" in value:
        return f"bad value of {name}"
    return ""
