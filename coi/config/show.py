"""The effective configuration as text that is valid TOML, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coi.config import schema
from coi.config.layers import Loaded, Setting
from coi.config.model import NO_LIMIT, Mount, Name
from coi.config.text import dotted, printable, toml_value

_COLUMN = 44  # where origins begin


def effective(loaded: Loaded) -> Iterator[tuple[Name, Any]]:
    """Every key with its value, in the order of the schema; None: not set.

    Values are strings, booleans, numbers, sequences and mappings.
    """
    config = loaded.config
    for key in schema.KEYS:
        parts = key.parts
        if parts[0] == "limits":
            yield parts, config.limits.get(parts[1], NO_LIMIT)
            continue
        value: Any = config
        for part in parts:
            value = getattr(value, part)
        if key.name == "mounts.default":
            value = [_mount(mount) for mount in value]
        elif parts[0] == "paths" or key.name == "network.logging.path":
            value = str(value)
        yield parts, list(value) if isinstance(value, tuple) else value
        if key.name == "tool.binary":
            for tool, table in config.tool.options.items():
                yield from _leaves(("tool", tool), table)
    for name, value in config.environment.items():
        yield ("environment", name), value


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "host": str(mount.host),
        "container": mount.container,
        "readonly": mount.readonly,
    }


def _leaves(prefix: Name, table: Any) -> Iterator[tuple[Name, Any]]:
    # Tables last: a TOML table has one header, and all its own values below it.
    for key, value in table.items():
        if not isinstance(value, dict):
            yield (*prefix, key), value
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves((*prefix, key), value)


def as_text(loaded: Loaded, *, origin: bool = False) -> str:
    """The configuration as a TOML file that says the same again.

    Args:
        origin: end each line with a comment that names where its value is from.
    """
    lines: list[str] = []
    if loaded.config.profiles:
        lines += [f"# profiles: {', '.join(loaded.config.profiles)}"]
    if loaded.profile is not None:
        lines += [f"# selected profile: {printable(loaded.profile)}"]
    table: Name = ()
    for name, value in effective(loaded):
        # An environment exists in profiles only.
        where = (
            name[:-1] if name[0] != "environment" else ("profiles", str(loaded.profile), *name[:-1])
        )
        if where != table:
            table = where
            lines += ["", f"[{dotted(table)}]"] if lines else [f"[{dotted(table)}]"]
        key = dotted(name[-1:])
        line = f"# {key} is not set" if value is None else f"{key} = {toml_value(value)}"
        if origin:
            comment = printable(loaded.origins.get(dotted(name), ""))
            line = f"{line.ljust(_COLUMN)}  # {comment}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def as_data(loaded: Loaded, *, origin: bool = False) -> dict[str, Any]:
    """The same for JSON: ``config``, ``profile``, ``profiles``, ``untrusted``,
    ``withheld`` and, where asked for, ``origins`` by dotted key."""
    tree: dict[str, Any] = {"environment": {}}
    for name, value in effective(loaded):
        table = tree
        for part in name[:-1]:
            table = table.setdefault(part, {})
        table[name[-1]] = value
    data: dict[str, Any] = {
        "config": tree,
        "profile": loaded.profile,
        "profiles": list(loaded.config.profiles),
        "untrusted": None if loaded.untrusted is None else str(loaded.untrusted),
        "withheld": list(loaded.withheld),
    }
    if origin:
        data["origins"] = dict(loaded.origins)
    return data


def setting(item: Setting) -> str:
    """One key of a file as a line of TOML, whole and safe to print."""
    value = item.value
    if item.name[-2:] == ("mounts", "default"):
        value = [{"host": h, "container": c, "readonly": r} for h, c, r in value]
    return f"{dotted(item.name)} = {toml_value(value)}"
