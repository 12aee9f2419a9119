"""The effective configuration: layers, merged key by key.

Built-in < /etc/coi/config.toml < the user's file < the workspace's .coi.toml
< the selected profile < ``COI_*`` variables < flags. What a layer does not
name keeps the value of the layer below, also within a table; arrays replace.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coi.config import schema
from coi.config.model import (
    NO_LIMIT,
    Build,
    Config,
    Defaults,
    IncusSettings,
    Mount,
    Mounts,
    Name,
    Network,
    NetworkLogging,
    Paths,
    Ports,
    Protect,
    ToolSettings,
    Warm,
)
from coi.config.parse import MAX_SIZE, MEND, Layer, flags, nearest, parse, variables
from coi.config.paths import SYSTEM_CONFIG, coi_home, expand, user_config
from coi.config.text import dotted, printable
from coi.errors import ConfigError, NotFoundError, RefusedError
from coi.records import record

BUILT_IN = "built-in"
_NO_FLAGS: Mapping[str, object] = {}


@record(frozen=True)
class Loaded:
    """The configuration and where it came from.

    Attributes:
        config: the effective values.
        origins: dotted key to ``built-in``, a file, ``profile NAME (file)``,
            a variable or a flag.
        notices: lines for stderr, safe to print.
        untrusted: the workspace's file while it is not approved (or unusable).
        withheld: its keys that were not applied, or only in part.
        profile: the selected profile.
    """

    config: Config
    origins: Mapping[str, str]
    notices: tuple[str, ...] = ()
    untrusted: Path | None = None
    withheld: tuple[str, ...] = ()
    profile: str | None = None


class Setting(NamedTuple):
    """A key of the workspace's file, its value there, and whether it waits for
    approval."""

    name: Name
    value: Any
    waits: bool


class _Stack:
    """The layers merged so far."""

    def __init__(self, home: Path) -> None:
        self.values = schema.builtin(home)
        self.origins = dict.fromkeys(self.values, BUILT_IN)
        self.profiles: dict[str, dict[Name, tuple[Any, str]]] = {}
        self._chosen = self.values["tool", "name"]  # by a layer that is trusted
        self._binary_for = self._chosen

    def put(self, name: Name, value: Any, origin: str) -> None:
        if len(name) > 2 and name[0] == "tool":  # a value takes the place of a table, and back
            for other in [n for n in self.values if n != name and _overlap(n, name)]:
                del self.values[other], self.origins[other]
        self.values[name] = value
        self.origins[name] = origin

    def add(self, values: Mapping[Name, tuple[Any, str]], *, trusted: bool = True) -> None:
        """One layer, each value with its origin."""
        for name, (value, origin) in values.items():
            self.put(name, value, origin)
        if trusted and ("tool", "name") in values:
            self._chosen = self.values["tool", "name"]
        if ("tool", "binary") in values:
            self._binary_for = self._chosen

    def add_file(self, layer: Layer, origin: str, *, trusted: bool = True) -> None:
        self.add({name: (value, origin) for name, value in layer.values.items()}, trusted=trusted)
        for profile, values in layer.profiles.items():
            into = self.profiles.setdefault(profile, {})
            for name, value in values.items():
                for other in [n for n in into if n != name and _overlap(n, name)]:
                    del into[other]
                into[name] = (value, f"profile {profile} ({origin})")

    def settle(self) -> None:
        """A binary goes with the tool it was set for, which no unapproved file names."""
        if self._binary_for != self.values["tool", "name"] and self.values["tool", "binary"]:
            self.put(("tool", "binary"), "", self.origins["tool", "name"])


def _overlap(one: Name, other: Name) -> bool:
    shorter = min(len(one), len(other))
    return shorter > 2 and one[:shorter] == other[:shorter]


def built_in(home: Path) -> Config:
    """The built-in values alone.

    Args:
        home: coi's own directory.
    """
    return _build(_Stack(home), {})


def load(
    workspace: Path,
    *,
    profile: str | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] | None = None,
    system: Path = SYSTEM_CONFIG,
) -> Loaded:
    """Read the effective configuration.

    Args:
        workspace: whose ``.coi.toml`` counts.
        profile: the profile to select.
        environ: variables; ``HOME``, ``XDG_CONFIG_HOME``, ``COI_HOME`` and the keys'.
        flags: dotted key to value; None says nothing.
        system: the system's file.

    Raises:
        ConfigError: a file, variable or flag is wrong, or a file that exists
            cannot be read.
        NotFoundError: there is no such profile.
        RefusedError: the profile is defined by an unapproved file alone.
    """
    from coi.config import trust

    home = coi_home(environ)
    stack = _Stack(home)
    for file in (system, user_config(environ)):
        data = _read_file(file)
        if data is not None:
            stack.add_file(parse(data, str(file)), str(file))

    notices: list[str] = []
    untrusted: Path | None = None
    waiting: list[Name] = []
    project = trust.read_project(workspace)
    if isinstance(project, trust.Unusable):
        untrusted = project.path
        notices.append(f"{printable(str(project.path))} is ignored: it {project.reason}")
    elif project is not None:
        layer = parse(project.data, str(project.path))
        if trust.is_trusted(home, project):
            stack.add_file(layer, str(project.path))
        else:
            untrusted = project.path
            layer, waiting = _narrow(layer, stack)
            stack.add_file(layer, str(project.path), trusted=False)
            if waiting:
                notices.append(_waits(project.path, waiting))

    if profile is not None:
        stack.add(_profile(profile, stack, untrusted, waiting))
    if any(name.startswith("COI_") for name in environ):
        stack.add(variables(environ))
    stack.add(_flags(flags or _NO_FLAGS))
    stack.settle()
    return Loaded(
        config=_build(stack, environ),
        origins={dotted(name): printable(origin) for name, origin in stack.origins.items()},
        notices=tuple(notices),
        untrusted=untrusted,
        withheld=tuple(printable(dotted(name), 120) for name in waiting),
        profile=profile,
    )


_flags = flags  # load() has a parameter of that name


def project_settings(
    layer: Layer, environ: Mapping[str, str] = os.environ, system: Path = SYSTEM_CONFIG
) -> tuple[Setting, ...]:
    """What approving a workspace's file would apply, key by key.

    Raises:
        ConfigError: as :func:`load`.
    """
    stack = _Stack(coi_home(environ))
    for file in (system, user_config(environ)):
        data = _read_file(file)
        if data is not None:
            stack.add_file(parse(data, str(file)), str(file))
    waiting = set(_narrow(layer, stack)[1])
    found = [Setting(name, value, name in waiting) for name, value in layer.values.items()]
    for profile, values in layer.profiles.items():
        prefix = ("profiles", profile)
        waits = prefix in waiting
        found += [Setting((*prefix, *name), value, waits) for name, value in values.items()]
        if not values:
            found.append(Setting(prefix, {}, waits))
    return tuple(found)


def _narrow(layer: Layer, stack: _Stack) -> tuple[Layer, list[Name]]:
    """An unapproved layer reduced to what it may say, and the keys left out."""
    from coi.config.tighten import admit, same

    admitted, waiting = admit(layer.values, stack.values)
    for profile, values in layer.profiles.items():
        have = stack.profiles.get(profile)
        if have is None or any(
            name not in have or not same(have[name][0], value) for name, value in values.items()
        ):
            waiting.append(("profiles", profile))
    return Layer(admitted, {}), waiting


def _waits(path: Path, waiting: list[Name]) -> str:
    shown = [printable(dotted(name), 60) for name in waiting[:6]]
    if len(waiting) > 6:
        shown.append(f"{len(waiting) - 6} more")
    verb = "waits" if len(waiting) == 1 else "wait"
    return (
        f"{printable(str(path))} is not trusted: {', '.join(shown)} {verb} for approval "
        "(read it, then: coi trust)"
    )


def _profile(
    profile: str, stack: _Stack, untrusted: Path | None, waiting: list[Name]
) -> dict[Name, tuple[Any, str]]:
    found = stack.profiles.get(profile)
    if found is not None:
        return found
    shown = printable(profile, 60)
    if ("profiles", profile) in waiting:
        raise RefusedError(
            f"profile {shown} is defined only in a file that is not trusted",
            details=printable(str(untrusted)),
            hint="read the file, then approve it with: coi trust",
        )
    names = sorted(stack.profiles)
    guess = nearest((profile,), names)
    raise NotFoundError(
        f"there is no profile {shown}",
        details=f"defined are: {', '.join(names)}" if names else "no profile is defined",
        hint=f"did you mean {guess[0]}?"
        if guess and guess[0] in names
        else f"define it in the configuration: [profiles.{shown}]",
    )


def _read_file(path: Path) -> bytes | None:
    """The bytes of a file of the user or the system, None when there is none.

    One that is there and cannot be read is an error: what it forbids would be
    allowed without it.
    """
    from coi.files import read_all

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        data = read_all(descriptor, MAX_SIZE + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_SIZE:
        raise ConfigError(f"{printable(str(path))} is larger than {MAX_SIZE >> 20} MiB", hint=MEND)
    return data


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError(f"cannot read {printable(str(path))}", details=reason, hint=MEND)


def _build(stack: _Stack, environ: Mapping[str, str]) -> Config:
    """The model from the merged values."""
    sections: dict[str, dict[str, Any]] = {}
    logging: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for name, value in stack.values.items():
        if name[0] == "tool" and len(name) > 2:
            table = options.setdefault(name[1], {})
            for part in name[2:-1]:
                table = table.setdefault(part, {})
            table[name[-1]] = value
        elif len(name) == 3:
            logging[name[2]] = value
        else:
            sections.setdefault(name[0], {})[name[1]] = value
    paths = Paths(**{key: expand(text, environ) for key, text in sections["paths"].items()})
    log = logging["path"]
    return Config(
        paths=paths,
        defaults=Defaults(**sections["defaults"]),
        tool=ToolSettings(**sections["tool"], options=options),
        incus=IncusSettings(**sections["incus"]),
        network=Network(
            **sections["network"],
            logging=NetworkLogging(
                logging["enabled"], expand(log, environ) if log else paths.logs_dir / "network.log"
            ),
        ),
        mounts=Mounts(
            tuple(
                Mount(expand(host, environ), inside.rstrip("/"), readonly)
                for host, inside, readonly in sections["mounts"]["default"]
            )
        ),
        ports=Ports(**sections["ports"]),
        protect=Protect(**sections["protect"]),
        limits={key: value for key, value in sections["limits"].items() if value != NO_LIMIT},
        environment=sections.get("environment", {}),
        build=Build(**sections["build"]),
        warm=Warm(**sections["warm"]),
        profiles=tuple(sorted(stack.profiles)),
    )
