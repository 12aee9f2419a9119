"""The types of configuration values: what is allowed, and reading it.

A kind turns what TOML holds, or the text of a variable or a flag, into the
value the model holds, or says precisely what it wanted instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from coi.config.model import NO_LIMIT, SHARE, Name
from coi.config.text import printable

MAX_OPTION_DEPTH = 8  # tables within a [tool.<name>] table
MAX_PATH = 1024  # characters of a path of the workspace
MAX_CREDENTIAL = 1024  # characters
CREDENTIALS = "credentials"  # the key of a [tool.<name>] table that is coi's own
NETWORK_BACKENDS = ("auto", "bridge", "ovn", "nic")
PROTECT_ACTIONS = ("report", "restore")  # each stricter than the one before
NETWORK_MODES = ("open", "restricted", "allowlist")  # each stricter than the one before

_UNLIMITED = ("", NO_LIMIT)
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
TOOL_NAME = r"[a-z][a-z0-9-]{0,62}"
VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
PROFILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


class Wrong(ValueError):
    """A value is not what its key takes; the message reads ``must be ...``."""


class Kind(NamedTuple):
    """One type of value.

    Attributes:
        title: what is allowed, for the reference and the errors.
        check: a value from TOML to the model's; raises :class:`Wrong`.
        from_text: the text of a variable or flag to what ``check`` takes;
            None where text cannot say it.
        array: an empty text stands for an empty array.
    """

    title: str
    check: Callable[[Any], Any]
    from_text: Callable[[str], Any] | None
    array: bool = False


def describe(value: object) -> str:
    """A short, safe account of a wrong value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string '{printable(value, 60)}'"
    if isinstance(value, (int, float)):
        return f"the number {printable(_number(value), 40)}"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        return "an array"
    return "a date or time"


def _number(value: float) -> str:
    # An int of thousands of digits refuses to become text; hex() does not.
    return repr(value) if isinstance(value, float) or value.bit_length() < 200 else hex(value)


def wrong(title: str, value: object) -> Wrong:
    """The error for a value that is not ``title``."""
    return Wrong(f"must be {title}, not {describe(value)}")


def boolean() -> Kind:
    """true or false; 0 and 1 are no booleans in a file."""
    title = "true or false"
    words = dict.fromkeys(("true", "1", "yes", "on"), True)
    words.update(dict.fromkeys(("false", "0", "no", "off"), False))

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise wrong(title, value)
        return value

    def from_text(text: str) -> bool:
        try:
            return words[text.strip().lower()]
        except KeyError:
            raise wrong(title, text) from None

    return Kind(title, check, from_text)


def integer(low: int, high: int) -> Kind:
    """A whole number from ``low`` to ``high``; booleans are not numbers."""
    title = f"a whole number from {low} to {high}"

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(title, value)
        return value

    def from_text(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
            raise wrong(title, text)
        return int(text)

    return Kind(title, check, from_text)


def text(title: str, pattern: str, *, empty: bool = False) -> Kind:
    """A string that matches ``pattern`` wholly, or is empty where allowed."""

    def check(value: Any) -> str:
        if isinstance(value, str) and (
            (empty and not value) or (value.isprintable() and re.fullmatch(pattern, value))
        ):
            return value
        raise wrong(title, value)

    return Kind(title, check, str)


def choice(*allowed: str) -> Kind:
    """One of a few words."""
    title = "one of " + ", ".join(allowed)

    def check(value: Any) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        raise wrong(title, value)

    return Kind(title, check, str)


def sequence(title: str, item: Callable[[Any], Any], text_form: bool = True) -> Kind:
    """An array; in text, comma-separated. Repeated items count once."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise wrong(title, value)
        found: dict[Any, None] = {}
        for number, entry in enumerate(value, 1):
            try:
                found[item(entry)] = None
            except Wrong as error:
                raise Wrong(f"must be {title}; entry {number} {error}") from None
        return tuple(found)

    def from_text(words: str) -> list[str]:
        return [word.strip() for word in words.split(",") if word.strip()]

    return Kind(title, check, from_text if text_form else None, array=True)


def host_path(*, empty: bool = False) -> Kind:
    """A path of the host; kept as written, expanded when the model is built."""
    return text("a path that begins with / or ~/", r"(/|~/).*|~", empty=empty)


def tool_name(value: Any) -> str:
    """The name of a tool."""
    if isinstance(value, str) and re.fullmatch(TOOL_NAME, value):
        return value
    raise wrong("a tool's name (lower case, digits and dashes)", value)


def address(value: Any) -> str:
    """An IPv4 or IPv6 address."""
    if isinstance(value, str) and _is_address(value):
        return value
    raise wrong("an IPv4 or IPv6 address", value)


def _is_address(value: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def mount(value: Any) -> tuple[str, str, bool]:
    """One ``[[mounts.default]]`` table: host, container, readonly."""
    if not isinstance(value, dict):
        raise wrong("a table with host and container", value)
    for key in value:
        if key not in ("host", "container", "readonly"):
            raise Wrong(
                f"has the unknown key {printable(key, 60)}; allowed are host, container, readonly"
            )
    parts: list[str] = []
    for key in ("host", "container"):
        if key not in value:
            raise Wrong(f"needs {key}")
        try:
            parts.append((host_path() if key == "host" else inside_path()).check(value[key]))
        except Wrong as error:
            raise Wrong(f"has a wrong {key}: it {error}") from None
    readonly = value.get("readonly", False)
    if not isinstance(readonly, bool):
        raise Wrong(f"has a wrong readonly: it {wrong('true or false', readonly)}")
    return parts[0], parts[1], readonly


def inside_path() -> Kind:
    """An absolute path inside, without ``.`` and ``..``."""
    return text("an absolute path below / without . and ..", r"(/(?!\.{1,2}(/|$))[^/]+)+/?")


def workspace_path(value: Any) -> str:
    """A path below the workspace, in its one spelling: no ``.``, no ``..``, no doubled slash."""
    if isinstance(value, str) and value.isprintable() and len(value) <= MAX_PATH:
        parts = value.rstrip("/").split("/")
        if value.rstrip("/") not in (".git", "") and not {"", ".", ".."} & set(parts):
            return "/".join(parts)
    raise wrong("a relative path without . and .., such as .vscode or .git/hooks", value)


def cpu_limit() -> Kind:
    """A number of CPUs, or which ones: ``2``, ``"2"``, ``"0-3"``, ``"0,2"``; ``share``: all of
    them, as one service of the host."""
    title = 'a number of CPUs, a set of them ("0-3", "0,2"), share or none'

    def check(value: Any) -> str:
        value = _digits(value)
        if value in _UNLIMITED:
            return NO_LIMIT
        if isinstance(value, str) and (
            value == SHARE or re.fullmatch(r"[1-9][0-9]{0,3}", value) or _cpu_set(value)
        ):
            return value
        raise wrong(title, value)

    return Kind(title, check, str)


def _cpu_set(value: str) -> bool:
    part = "[0-9]{1,4}(-[0-9]{1,4})?"
    if len(value) > 200 or value.isdigit() or not re.fullmatch(f"{part}(,{part})*", value):
        return False
    ranges = (piece.partition("-") for piece in value.split(","))
    return all(int(first) <= int(last or first) for first, _, last in ranges)


def size_limit(*, percent: bool) -> Kind:
    """Bytes with an optional unit as Incus has them, or a percentage."""
    title = 'a size ("512MiB", "10GB")' + (', a percentage ("50%")' if percent else "") + " or none"
    pattern = r"[1-9][0-9]{0,17}(B|([kMGTPE]|[KMGTPE]i)B)?" + (
        r"|[1-9][0-9]?%|100%" if percent else ""
    )

    def check(value: Any) -> str:
        value = _digits(value)
        if value in _UNLIMITED:
            return NO_LIMIT
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        raise wrong(title, value)

    return Kind(title, check, str)


def count_limit() -> Kind:
    """A positive number, also as a string."""
    title = "a whole number from 1, or none"

    def check(value: Any) -> str:
        value = _digits(value)
        if value in _UNLIMITED:
            return NO_LIMIT
        if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,8}", value):
            return value
        raise wrong(title, value)

    return Kind(title, check, str)


def _digits(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**18:
        return str(value)
    return value


def variable(name: str, value: Any) -> str:
    """The value of an environment variable called ``name``."""
    if not re.fullmatch(VARIABLE_NAME, name):
        raise Wrong("is not a variable's name (letters, digits and _, no digit first)")
    if not isinstance(value, str) or any(c in value for c in "\0\n\r"):
        raise wrong("a string without newline and NUL", value)
    return value


def options(prefix: Name, table: Mapping[str, Any]) -> dict[Name, Any]:
    """The values of a ``[tool.<name>]`` table under their full keys.

    Raises:
        Wrong: a date, a number that JSON cannot hold, or too deep a nesting;
            the message begins with the key's name.
    """
    from coi.config.text import dotted

    found: dict[Name, Any] = {}
    for key, value in table.items():
        name = (*prefix, key)
        if name[2:] == (CREDENTIALS,):
            try:
                found[name] = sequence("an array of credentials", credential).check(value)
            except Wrong as error:
                raise Wrong(f"{printable(dotted(name), 120)} {error}") from None
            continue
        if isinstance(value, dict):
            if len(name) > MAX_OPTION_DEPTH:
                raise Wrong(f"{printable(dotted(name), 120)}: tables are nested too deeply")
            found.update(options(name, value))
            continue
        try:
            found[name] = _plain(value, MAX_OPTION_DEPTH)
        except Wrong as error:
            raise Wrong(f"{printable(dotted(name), 120)} {error}") from None
    return found


def _plain(value: Any, depth: int) -> Any:
    if depth == 0:
        raise Wrong("is nested too deeply")
    if isinstance(value, list):
        return tuple(_plain(entry, depth - 1) for entry in value)
    if isinstance(value, dict):
        return {key: _plain(entry, depth - 1) for key, entry in value.items()}
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and value - value == 0:
        return value
    raise wrong("a string, a finite number, true, false, an array or a table", value)


def credential(value: Any) -> str:
    """The name of a credential of a tool: a path below the home, or a variable's name."""
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_CREDENTIAL:
        return value.removeprefix("~/")
    raise wrong("a file's path below the home or a variable's name", value)


IMAGE = text(
    "an image's name, such as coi or images:ubuntu/22.04",
    r"[A-Za-z0-9][A-Za-z0-9._/:@+-]*",
)
WORD = text("a name of letters, digits, dots, dashes and underscores", _WORD)
USER = text("a user's or group's name", r"[a-z_][a-z0-9_-]{0,31}")
MIRROR = text("an http:// or https:// address", r"https?://[^\s]+", empty=True)
BINARY = text("a command's name or path", r"[^-].*", empty=True)
