"""The keys of every JSON output: added to, never renamed or removed.

docs/commands.md lists them, and the integration tests hold what the commands
print against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_IMAGE = ("alias", "fingerprint", "description", "size", "created_at", "tools", "base")
_TOOL = (
    "name", "title", "binary", "origin", "distribution", "state", "state_exclude", "credentials",
    "host_files", "host_variables",
)  # fmt: skip
_HOST_FILE = ("source", "target", "credential")
_SEEN_FILE = (*_HOST_FILE, "status", "reason")

JSON_KEYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "list": {
        "": ("active_containers", "saved_sessions"),
        "active_containers[]": (
            "name", "status", "created_at", "image", "persistent", "ipv4", "workspace", "slot",
            "session_id", "tool", "network", "network_backend",
        ),
        "saved_sessions[]": (
            "id", "saved_at", "workspace", "tool", "container", "persistent", "size",
        ),
    },
    "info": {
        "": (
            "id", "container", "saved_at", "workspace", "tool", "persistent", "data", "size",
            "files", "path", "left_out",
        ),
    },
    "run": {
        "": ("stdout", "stderr", "exit_code"),
        "--prompt": (
            "session_id", "tool", "tool_session_id", "answer", "exit_code", "stderr", "timed_out",
            "truncated", "saved",
        ),
    },
    "container exec": {"": ("stdout", "stderr", "exit_code")},
    "tmux list": {"[]": ("name", "session", "workspace", "tool")},
    "image list": {"": ("images",), "images[]": _IMAGE},
    "images": {"": ("images",), "images[]": _IMAGE},
    "image publish": {"": ("fingerprint", "alias")},
    "network status": {
        "[]": ("acl", "mode", "backend", "network", "used_by", "refreshing"),
    },
    "network explain": {"": ("address", "port", "allowed", "rule")},
    "network route": {"": ("container", "network", "address", "reached", "how", "command")},
    "network log": {"[]": ("at", "way", "peer", "protocol", "port")},
    "protect list": {
        "[]": ("id", "at", "workspace", "session", "path", "items"),
        "[].items[]": ("path", "what", "stored", "left_as", "restored"),
    },
    "doctor": {
        "": ("version", "status", "checks"),
        "checks[]": ("name", "status", "text", "mend", "details"),
    },
    "tool list": {
        "": ("tools", "problems"),
        "tools[]": _TOOL,
        "tools[].host_files[]": _HOST_FILE,
        "tools[].host_variables[]": ("name",),
        "problems[]": ("name", "reason"),
    },
    "tool info": {
        "": _TOOL, "host_files[]": _SEEN_FILE, "host_variables[]": ("name", "status"),
    },
}  # fmt: skip


def keys_of(value: Any, path: str = "") -> dict[str, tuple[str, ...]]:
    """The keys in a JSON value, as :data:`JSON_KEYS` writes them; lists by their first element."""
    if isinstance(value, list):
        return keys_of(value[0], f"{path}[]") if value else {}
    found: dict[str, tuple[str, ...]] = {}
    if isinstance(value, dict):
        found[path] = tuple(value)
        for key, inner in value.items():
            if isinstance(inner, list):
                found.update(keys_of(inner, f"{path}.{key}".lstrip(".")))
    return found
