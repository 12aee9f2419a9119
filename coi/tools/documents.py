"""Structured files of the user's without some of their top-level keys.

What is left is written anew: comments of a TOML file do not come along.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from coi.tools.merge import MalformedError, dump_object, load_object

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def kind_of(path: str) -> str:
    """``TOML`` for a path that ends so, else ``JSON``."""
    return "TOML" if path.endswith(".toml") else "JSON"


def without_keys(path: str, data: bytes, keys: Iterable[str]) -> bytes:
    """A JSON object or TOML document without these keys; ``data`` itself where it has none.

    Args:
        path: its name tells which of the two it is.

    Raises:
        MalformedError: it cannot be parsed.
    """
    toml = kind_of(path) == "TOML"
    values = _load_toml(data) if toml else load_object(data)
    kept = {key: value for key, value in values.items() if key not in set(keys)}
    if len(kept) == len(values):
        return data
    return dump_toml(kept) if toml else dump_object(kept)


def dump_toml(values: Mapping[str, Any]) -> bytes:
    """A TOML 1.0 document: one line for each top-level key, tables written inline."""
    lines = [f"{_key(key)} = {_value(value)}\n" for key, value in values.items()]
    return "".join(lines).encode()


def _load_toml(data: bytes) -> dict[str, Any]:
    import tomli

    try:
        return tomli.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)[:200]) from error


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are TOML's; DEL is the one character that only TOML escapes.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    return repr(value)  # a number; nan and inf are words of TOML too
