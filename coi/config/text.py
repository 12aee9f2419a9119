"""Text of untrusted origin, made safe to show, and values written as TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def printable(text: str, limit: int = 0, keep: str = "") -> str:
    """``text`` with control, bidirectional and other invisible characters escaped.

    Args:
        limit: cut to so many characters, ``...`` included; 0 for no limit.
        keep: characters that stay as they are (``"\\n\\t"`` for a whole file).
    """
    if limit and len(text) > limit:
        text = text[: limit - 3] + "..."
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def dotted(name: tuple[str, ...]) -> str:
    """A key as TOML writes it: ``tool.claude."odd key"``."""
    return ".".join(part if _bare(part) else toml_string(part) for part in name)


def _bare(part: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]+", part) is not None


def toml_string(text: str) -> str:
    """A TOML basic string; what is not printable is escaped."""
    return '"' + "".join(_escape(c) for c in text) + '"'


def _escape(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    if c.isprintable():
        return c
    number = ord(c)
    if 0xD800 <= number <= 0xDFFF:  # an undecodable byte of a path: TOML cannot hold it
        number = 0xFFFD
    return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"


def toml_value(value: Any) -> str:
    """A str, bool, int, float, sequence or mapping as one line of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{dotted((str(k),))} = {toml_value(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return toml_string(str(value))
