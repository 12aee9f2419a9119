"""What coi demands of a plugin's tool and of what the tool's methods return."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from coi.api import API_VERSION, Tool

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_BINARY = re.compile(r"[A-Za-z0-9_./+][A-Za-z0-9_./+-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def tool_fault(tool: object) -> str:
    """Why an object cannot be used as a tool; '' when it can."""
    if isinstance(tool, type):
        return f"it registered the class {tool.__name__}, not an instance"
    if not isinstance(tool, Tool):
        return f"it registered a {type(tool).__name__}, which is no coi.api.Tool"
    try:
        return _attribute_fault(tool)
    except (Exception, SystemExit) as error:  # an attribute may be a property that fails
        return f"an attribute cannot be read: {type(error).__name__}"


def _attribute_fault(tool: Tool) -> str:
    if tool.api_version != API_VERSION:
        return f"it is for version {tool.api_version!r} of coi.api, this is {API_VERSION}"
    name: Any = tool.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return (
            f"bad tool name {str(name)[:40]!r}: lower-case letters, digits and dashes, at most 32"
        )
    if not isinstance(tool.binary, str) or not _BINARY.fullmatch(tool.binary):
        return f"tool {name}: bad binary {str(tool.binary)[:80]!r}"
    if not isinstance(tool.title, str) or _CONTROL.search(tool.title):
        return f"tool {name}: bad title"
    for attribute in ("state", "state_exclude", "secrets", "scratch"):
        paths: Any = getattr(tool, attribute)
        if not isinstance(paths, (tuple, list)):
            return f"tool {name}: {attribute} must be a tuple of strings"
        for path in paths:
            if fault := path_fault(path):
                return f"tool {name}: {attribute} has {str(path)[:80]!r}: {fault}"
    variables: Any = tool.host_variables
    if not isinstance(variables, (tuple, list)):
        return f"tool {name}: host_variables must be a tuple of strings"
    for variable in variables:
        if fault := variable_fault(variable, ""):
            return f"tool {name}: host_variables: {fault}"
    keys: Any = tool.secret_keys
    if not isinstance(keys, Mapping) or not all(
        not path_fault(path) and isinstance(names, (tuple, list)) for path, names in keys.items()
    ):
        return f"tool {name}: secret_keys must map paths to tuples of keys"
    for method in ("install", "command"):
        if getattr(type(tool), method) is getattr(Tool, method):
            return f"tool {name}: {method}() is not defined"
    return ""


def path_fault(path: object) -> str:
    """Why a path or pattern is not one below the home; '' when it is."""
    if not isinstance(path, str):
        return "not a string"
    if not path or _CONTROL.search(path):
        return "empty, or with control characters"
    if path.startswith(("/", "~")):
        return "not relative to the home"
    if path != str(PurePosixPath(path)) or ".." in path.split("/") or path == ".":
        return "not a plain path below the home"
    return ""


def variable_fault(name: object, value: object) -> str:
    """Why a name and value cannot be an environment variable; '' when they can."""
    if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
        return f"bad variable name {str(name)[:40]!r}"
    if not isinstance(value, str) or "\0" in value:
        return f"bad value of {name}"
    return ""
