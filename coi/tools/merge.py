"""Merging JSON settings: objects by key, lists united, other values set.

Plain functions over parsed JSON. Nothing here changes its arguments, and a
result may share parts with them.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


class MalformedError(ValueError):
    """Not a JSON object that could be written back as JSON."""


def deep_merge(base: Any, over: Any) -> Any:
    """``over`` laid over ``base``.

    Two objects merge key by key, base's keys first; two lists become base's
    items followed by those of ``over`` that base does not have; in every
    other case, types that differ included, the result is ``over``. Merging
    the same ``over`` again changes nothing.
    """
    if isinstance(base, dict) and isinstance(over, dict):
        merged = dict(base)
        for key, value in over.items():
            merged[key] = deep_merge(base[key], value) if key in base else value
        return merged
    if isinstance(base, list) and isinstance(over, list):
        have = {canonical(item) for item in base}
        united = list(base)
        for item in over:
            key = canonical(item)
            if key not in have:
                have.add(key)
                united.append(item)
        return united
    return over


def canonical(value: Any) -> str:
    """A text that two JSON values share when they are equal as JSON (1 is not true)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def load_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        MalformedError: not UTF-8 or not JSON, not an object, nested too deeply, or
            with numbers that JSON does not have (NaN, 1e999).
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)[:200]) from error
    if not isinstance(value, dict):
        raise MalformedError("the file holds no JSON object")
    return value


def dump_object(value: dict[str, Any]) -> bytes:
    """JSON text as tools write it: two spaces, a final newline, ASCII escapes.

    Raises:
        MalformedError: a value that JSON does not have.
    """
    try:
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedError(str(error)[:200]) from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
