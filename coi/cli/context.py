"""What a command line was asked for, and the parts a command is made of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coi.cli.output import Output
from coi.errors import UsageError
from coi.records import record

if TYPE_CHECKING:
    from coi.config import Loaded
    from coi.incus.client import Client
    from coi.incus.process import Runner
    from coi.session.model import Engine
    from coi.tools.manager import Manager

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@record
class Context:
    """The global flags, and what they lead to, made when first used.

    Attributes:
        values: the flags that were given, by parameter name.
    """

    values: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Output:
        return Output(quiet=bool(self.values.get("quiet")))

    @property
    def workspace(self) -> Path:
        """The workspace as it was named; it may not exist."""
        return Path(self.values.get("workspace") or ".")

    @property
    def profile(self) -> str | None:
        return self.values.get("profile")

    @property
    def slot(self) -> int:
        """0 is the first free one."""
        return int(self.values.get("slot") or 0)

    @property
    def resume(self) -> str | None:
        """None: not asked for; '': the latest; else a session id."""
        value = self.values.get("resume")
        return value if value is not None else self.values.get("continue_")

    @property
    def flags(self) -> dict[str, object]:
        """The flags that are configuration keys."""
        keys = {
            "image": "defaults.image",
            "persistent": "defaults.persistent",
            "network": "network.mode",
            "tool": "tool.name",
        }
        found = {
            key: self.values[name]
            for name, key in keys.items()
            if self.values.get(name) is not None
        }
        return {**found, **parse_limits(self.values.get("limit") or ())}

    @cached_property
    def home(self) -> Path:
        """coi's own directory.

        Raises:
            RefusedError: it is not this user's alone.
        """
        from coi.config.home import check_home
        from coi.config.paths import coi_home

        home = coi_home(os.environ)
        check_home(home)
        return home

    @cached_property
    def loaded(self) -> Loaded:
        """The effective configuration; its notices are shown once."""
        from coi.config import load
        from coi.workspace.directory import absolute

        loaded = load(absolute(self.workspace), profile=self.profile, flags=self.flags)
        for notice in loaded.notices:
            self.output.notice(notice)
        return loaded

    def load(self) -> Loaded:
        """The effective configuration."""
        return self.loaded

    @cached_property
    def runner(self) -> Runner:
        from coi.incus.process import Runner

        return Runner(trace=self._trace if self.values.get("verbose") else None)

    def _trace(self, argv: Sequence[str]) -> None:
        import shlex

        self.output.notice("+ " + shlex.join(argv))

    @cached_property
    def client(self) -> Client:
        from coi.incus.client import Client

        incus = self.loaded.config.incus
        return Client(self.runner, remote=incus.remote, project=incus.project)

    @cached_property
    def manager(self) -> Manager:
        from coi.tools.manager import Manager

        return Manager.load()

    @cached_property
    def engine(self) -> Engine:
        from coi.session.model import Engine
        from coi.session.naming import prefix

        return Engine(
            config=self.loaded.config,
            client=self.client,
            home=self.home,
            prefix=prefix(),
            report=self.output.notice,
            tool=lambda name: self.manager.get(name),
            warn=self.output.warning,
        )

    def environment(self) -> dict[str, str]:
        """The profile's variables and ``--env``; KEY alone takes the host's value.

        Raises:
            UsageError: a name or value that cannot be carried.
        """
        result = dict(self.loaded.config.environment)
        result.update(parse_environment(self.values.get("env") or (), os.environ))
        return result


def parse_limits(items: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` of ``--limit`` to configuration keys; the last of a key holds.

    Raises:
        UsageError: no such limit, or no value.
    """
    from coi.config.model import LIMITS

    found: dict[str, str] = {}
    for item in items:
        what, _, value = item.partition("=")
        if what not in LIMITS or not value:
            raise UsageError(
                f"--limit needs KEY=VALUE, not {item!r}",
                hint="--limit memory=2GiB, cpu=2, processes=500, disk=20GiB; none lifts one",
            )
        found[f"limits.{what}"] = value
    return found


def parse_environment(items: Sequence[str], host: Mapping[str, str]) -> dict[str, str]:
    """``KEY=VALUE`` and ``KEY`` to a mapping.

    Raises:
        UsageError: no name, not a variable's name, or a newline or NUL in a value.
    """
    result: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise UsageError(
                f"--env needs KEY=VALUE, not {item.partition('=')[0]!r}"
                if equals
                else f"--env needs KEY=VALUE or KEY, not {item!r}",
                hint="a name is letters, digits and underscores, and does not begin with a digit",
            )
        if not equals:
            if name not in host:
                raise UsageError(
                    f"--env {name}: the host has no such variable",
                    hint=f"give the value: --env {name}=VALUE",
                )
            value = host[name]
        if "\n" in value or "\0" in value or "\r" in value:
            raise UsageError(
                f"--env {name}: the value has a newline or NUL",
                hint="a value is a single line; a file can be mounted: --mount HOST:CONTAINER:ro",
            )
        result[name] = value
    return result
