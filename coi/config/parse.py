"""From the bytes of a file, from variables and from flags to checked values.

Every error is a :class:`coi.errors.ConfigError` that names the place, the key
and what is allowed. The bytes may be anything: a file of the workspace is
written by whoever wrote the repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from coi.config import kinds, schema
from coi.config.kinds import Wrong
from coi.config.model import LIMITS, Name
from coi.config.text import dotted, printable
from coi.errors import ConfigError

MAX_SIZE = 1 << 20  # bytes of a configuration file of the user or the system
MEND = "mend the file, or move it away: coi needs none"
_TABLE = "a table"


class Layer(NamedTuple):
    """What one place says.

    Attributes:
        values: checked values by key.
        profiles: the same for each ``[profiles.<name>]``, where
            ``("environment", NAME)`` are variables.
    """

    values: Mapping[Name, Any]
    profiles: Mapping[str, Mapping[Name, Any]]


def parse(data: bytes, place: str) -> Layer:
    """Read a TOML file.

    Args:
        data: its bytes.
        place: its path, as errors show it.

    Raises:
        ConfigError: not UTF-8, not TOML, an unknown key, a wrong type or value.
    """
    import tomli

    place = printable(place)
    try:
        table = tomli.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{place} is not UTF-8 text", details=f"at byte {error.start}", hint=MEND
        ) from None
    except RecursionError:
        raise ConfigError(
            f"{place} is not acceptable", details="nested too deeply", hint=MEND
        ) from None
    except ValueError as error:  # TOMLDecodeError, and int() of thousands of digits
        raise ConfigError(
            f"{place} is not valid TOML", details=printable(str(error), 300), hint=MEND
        ) from None
    return _Reader(place).file(table)


class _Reader:
    """Walks one file's tables; ``place`` is its path, safe to show."""

    def __init__(self, place: str) -> None:
        self.place = place

    def file(self, table: Mapping[str, Any]) -> Layer:
        profiles: dict[str, Mapping[Name, Any]] = {}
        defined = table.get("profiles", {})
        if not isinstance(defined, dict):
            raise self._wrong(("profiles",), kinds.wrong(_TABLE, defined))
        for name, body in defined.items():
            prefix = ("profiles", name)
            if not re.fullmatch(kinds.PROFILE_NAME, name):
                raise self._wrong(
                    prefix, Wrong("must have a name of letters, digits, dots, dashes and _")
                )
            if not isinstance(body, dict):
                raise self._wrong(prefix, kinds.wrong(_TABLE, body))
            profiles[name] = self._profile(prefix, body)
        rest = {key: value for key, value in table.items() if key != "profiles"}
        return Layer(self._table((), rest, ()), profiles)

    def _profile(self, prefix: Name, body: Mapping[str, Any]) -> dict[Name, Any]:
        values: dict[Name, Any] = {}
        rest = dict(body)
        for short, name in schema.PROFILE_SHORT_FORMS.items():
            if short in rest:
                section = body.get(name[0])
                if isinstance(section, dict) and name[1] in section:
                    raise self._twice((*prefix, short), (*prefix, *name))
                values[name] = self._check((*prefix, short), name, rest.pop(short))
        variables = rest.pop("environment", {})
        if not isinstance(variables, dict):
            raise self._wrong((*prefix, "environment"), kinds.wrong(_TABLE, variables))
        for key, value in variables.items():
            try:
                values["environment", key] = kinds.variable(key, value)
            except Wrong as error:
                raise self._wrong((*prefix, "environment", key), error) from None
        values.update(self._table((), rest, prefix))
        return values

    def _table(self, at: Name, table: Mapping[str, Any], prefix: Name) -> dict[Name, Any]:
        """The values below the schema's table ``at``; ``prefix`` is only shown."""
        values: dict[Name, Any] = {}
        known = schema.by_name()
        for part, value in table.items():
            name = (*at, part)
            if name in known:
                target = known[name].parts
                if target in values:
                    raise self._twice((*prefix, *name), (*prefix, *target))
                values[target] = self._check((*prefix, *name), target, value)
            elif name in schema.tables():
                if not isinstance(value, dict):
                    raise self._wrong((*prefix, *name), kinds.wrong(_TABLE, value))
                values.update(self._table(name, value, prefix))
            elif at == ("tool",) and isinstance(value, dict):
                values.update(self._options(name, value, prefix))
            else:
                raise self._unknown(name, prefix)
        return values

    def _options(self, name: Name, table: Mapping[str, Any], prefix: Name) -> dict[Name, Any]:
        try:
            kinds.tool_name(name[1])
        except Wrong as error:
            raise self._wrong((*prefix, *name), error) from None
        try:
            return kinds.options(name, table)
        except Wrong as error:
            raise ConfigError(f"{self.place}: {error}") from None

    def _check(self, shown: Name, name: Name, value: Any) -> Any:
        try:
            return schema.by_name()[name].kind.check(value)
        except Wrong as error:
            raise self._wrong(shown, error) from None

    def _wrong(self, name: Name, error: Wrong) -> ConfigError:
        return ConfigError(f"{self.place}: {_shown(name)} {error}")

    def _twice(self, first: Name, second: Name) -> ConfigError:
        return ConfigError(
            f"{self.place}: {_shown(first)} and {_shown(second)} are the same setting",
            hint="keep one of them",
        )

    def _unknown(self, name: Name, prefix: Name) -> ConfigError:
        at = name[:-1]
        allowed = list(schema.tables()[at])
        if not at:
            allowed += ["image", "persistent", "environment"] if prefix else ["profiles"]
        where = f"[{_shown((*prefix, *at))}]" if prefix or at else "the file"
        guess = nearest(name, allowed)
        hint = f"did you mean {dotted((*prefix, *guess))}?" if guess else ""
        if name == ("environment",):
            hint = "variables belong to a profile: [profiles.NAME.environment]"
        return ConfigError(
            f"{self.place}: unknown key {_shown((*prefix, *name))}",
            details=f"{where} may hold: {', '.join(allowed)}"
            + (", and a table for each tool" if at == ("tool",) else ""),
            hint=hint,
        )


def _shown(name: Name) -> str:
    return printable(dotted(name), 120)


def nearest(name: Name, allowed: list[str]) -> Name | None:
    """The known key that ``name`` was probably meant to be.

    First among its neighbours ``allowed``, then the same last part elsewhere.
    """
    from difflib import get_close_matches

    last = name[-1][:64]
    near = get_close_matches(last, allowed, 1, 0.6)
    if near:
        return (*name[:-1], near[0])
    for known in schema.by_name():
        if known[-1] == last:
            return known
    return None


def variables(environ: Mapping[str, str]) -> dict[Name, tuple[Any, str]]:
    """The ``COI_*`` layer: values and the variable each comes from.

    An empty variable counts as not set, except for arrays, which it empties.

    Raises:
        ConfigError: a value that its key does not take.
    """
    found: dict[Name, tuple[Any, str]] = {}
    for key in schema.KEYS:
        for variable in key.variables:
            text = environ.get(variable)
            if text is None or key.parts in found or not (text or key.kind.array):
                continue
            found[key.parts] = (_from_text(key, text, variable), variable)
    return found


FLAGS: Mapping[str, str] = {
    "defaults.image": "--image",
    "defaults.persistent": "--persistent",
    "tool.name": "--tool",
    "network.mode": "--network",
    **{f"limits.{what}": f"--limit {what}" for what in LIMITS},
}
"""The flags of the command line, for errors and origins."""


def flags(given: Mapping[str, object]) -> dict[Name, tuple[Any, str]]:
    """The topmost layer: dotted keys to values; None says nothing.

    Raises:
        ConfigError: an unknown key or a value that its key does not take.
    """
    found: dict[Name, tuple[Any, str]] = {}
    for dotted_key, value in given.items():
        if value is None:
            continue
        flag = FLAGS.get(dotted_key, f"flag {dotted_key}")
        key = schema.by_name().get(tuple(dotted_key.split(".")))
        if key is None:
            raise ConfigError(f"{printable(flag, 120)}: no such key")
        found[key.parts] = (_from_text(key, value, flag), flag)
    return found


def _from_text(key: schema.Key, value: Any, place: str) -> Any:
    try:
        if isinstance(value, str) and key.kind.from_text is not None:
            value = key.kind.from_text(value)
        return key.kind.check(value)
    except Wrong as error:
        raise ConfigError(f"{place} {error}", hint=f"it sets {key.name}") from None
