"""The plugin manager: which tools there are, and what is wrong with the rest.

Built-in tools are found in a table and third-party ones through their entry
points; both register through the same pluggy hook. Asking for one tool
imports only the module behind the entry point of that name. A plugin that
cannot be used becomes a :class:`Problem` and never stops another.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from coi import __version__
from coi.api import Tool
from coi.errors import Interrupted, NotFoundError
from coi.records import record
from coi.tools.calls import describe
from coi.tools.check import UnsoundError, sound
from coi.tools.discover import EntryPoint, entry_points
from coi.tools.hookspec import ENTRY_POINT_GROUP, plugin_manager

BUILTIN: Mapping[str, str] = MappingProxyType(
    {"claude": "coi.tools.claude", "aider": "coi.tools.aider"}
)
DISABLED_VARIABLE = "COI_DISABLED_PLUGINS"
_OWN_DISTRIBUTION = "code-on-incus"


@record(frozen=True)
class Registered:
    """A usable tool.

    Attributes:
        tool: the plugin's object, checked.
        origin: ``built-in`` or ``plugin``.
        distribution: name and version of the package it came with.
    """

    tool: Tool
    origin: str
    distribution: str


@record(frozen=True)
class Problem:
    """A plugin, or one tool of it, that was skipped.

    Attributes:
        name: the entry point and its distribution, for people.
        reason: one line; it may quote the plugin's own error.
    """

    name: str
    reason: str


class Manager:
    """The tools of this installation. Make it with :meth:`load`."""

    def __init__(self, disabled: Iterable[str], path: list[str] | None = None) -> None:
        self._disabled = frozenset(disabled)
        self._path = path
        self._plugins = plugin_manager()
        self._seen: set[EntryPoint] = set()
        self._found: tuple[EntryPoint, ...] | None = None
        self._done: set[str] = set()  # values: two names may share a module
        self._tools: dict[str, Registered] = {}
        self._problems: list[Problem] = []
        self._builtin = tuple(
            EntryPoint(name, module, f"{_OWN_DISTRIBUTION} {__version__}")
            for name, module in BUILTIN.items()
        )

    @classmethod
    def load(
        cls, disabled: Iterable[str] | None = None, *, path: list[str] | None = None
    ) -> Manager:
        """A manager; nothing is imported or searched for yet.

        Args:
            disabled: names of entry points or distributions to leave alone;
                by default the comma-separated ``COI_DISABLED_PLUGINS``.
            path: directories to search for distributions, ``sys.path`` by default.
        """
        if disabled is None:
            disabled = os.environ.get(DISABLED_VARIABLE, "").split(",")
        return cls((name.strip() for name in disabled if name.strip()), path)

    @property
    def tools(self) -> Mapping[str, Registered]:
        """Every usable tool by name, built-in ones first; imports all plugins."""
        self._load_all()
        order = dict.fromkeys([*BUILTIN, *sorted(self._tools)])
        return {name: self._tools[name] for name in order if name in self._tools}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was skipped, and why; imports all plugins."""
        self._load_all()
        return tuple(self._problems)

    def get(self, name: str) -> Tool:
        """The tool of that name.

        Raises:
            NotFoundError: there is none; the hint lists those there are.
        """
        for point in self._candidates(name):
            self._load(point)
            if name in self._tools:
                return self._tools[name].tool
        self._load_all()
        if name in self._tools:
            return self._tools[name].tool
        raise NotFoundError(
            f"there is no tool named {name!r}",
            details="\n".join(
                f"{problem.name}: {problem.reason}"
                for problem in self._problems
                if name in problem.name.split(" ")
            ),
            hint=f"installed tools: {', '.join(self.tools) or 'none'}",
        )

    def _candidates(self, name: str) -> Iterator[EntryPoint]:
        yield from (point for point in self._builtin if point.name == name)
        if name not in BUILTIN:
            yield from (point for point in self._external() if point.name == name)

    def _external(self) -> tuple[EntryPoint, ...]:
        """Third-party entry points; coi's own lines are in the table already."""
        if self._found is None:
            self._found = tuple(
                point
                for point in entry_points(ENTRY_POINT_GROUP, self._path)
                if point.distribution.split(" ")[0] != _OWN_DISTRIBUTION
            )
        return self._found

    def _load_all(self) -> None:
        for point in (*self._builtin, *self._external()):
            self._load(point)

    def _load(self, point: EntryPoint) -> None:
        """Import one plugin and take its tools, once."""
        if point in self._seen:
            return
        self._seen.add(point)
        title = f"{point.name} ({point.distribution})"
        builtin = point in self._builtin
        if not self._disabled.isdisjoint((point.name, point.distribution.split(" ")[0])):
            self._skip(title, f"disabled by {DISABLED_VARIABLE}")
            return
        if not builtin and (point.name in BUILTIN or point.value in BUILTIN.values()):
            self._skip(title, f"{point.name!r} is a built-in tool's name")
            return
        if point.value in self._done:
            return
        self._done.add(point.value)
        offered: list[object] = []
        try:
            # What a plugin prints must not get into a result on stdout.
            with contextlib.redirect_stdout(sys.stderr):
                self._call_hook(point, offered)
        except (KeyboardInterrupt, Interrupted):
            raise
        except BaseException as error:  # a SystemExit of a plugin is not ours
            self._skip(title, describe(error))
            return
        if not offered:
            self._skip(title, "it registered no tool")
        for tool in offered:
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    checked = sound(tool)
            except UnsoundError as error:
                self._skip(title, str(error))
            except (KeyboardInterrupt, Interrupted):
                raise
            except BaseException as error:  # an attribute may be a property that fails
                self._skip(title, f"an attribute cannot be read: {describe(error)}")
            else:
                self._take(checked, point, title, builtin=builtin)

    def _skip(self, title: str, reason: str) -> None:
        """Note a problem, on one line whatever the plugin had to say."""
        self._problems.append(Problem(" ".join(title.split()), " ".join(reason.split())[:400]))

    def _call_hook(self, point: EntryPoint, offered: list[object]) -> None:
        module, _, attribute = point.value.partition(":")
        plugin: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            plugin = getattr(plugin, part)
        others = self._plugins.get_plugins()
        self._plugins.register(plugin, name=f"{point.distribution}:{point.name}")
        hook = self._plugins.subset_hook_caller("coi_register_tools", others)
        if not any(found.plugin is plugin for found in hook.get_hookimpls()):
            raise ImportError(f"{point.value} does not implement coi_register_tools")

        def register(tool: Tool) -> None:
            offered.append(tool)

        hook(register=register)

    def _take(self, tool: Tool, point: EntryPoint, title: str, *, builtin: bool) -> None:
        name = tool.name
        fault = ""
        # The name is the entry point's before it is anybody else's, so that
        # loading one tool and loading all agree on whose it is.
        rivals = (other for other in self._candidates(name) if other.value != point.value)
        owner = next(rivals, None)
        if name in self._disabled:
            fault = f"tool {name!r} is disabled by {DISABLED_VARIABLE}"
        elif not builtin and name in BUILTIN:
            fault = f"{name!r} is a built-in tool's name"
        elif owner is not None and point.name != name:
            fault = f"the name {name!r} belongs to the entry point of {owner.distribution}"
        elif name in self._tools:
            owned = self._tools[name].distribution
            fault = f"a tool named {name!r} is already registered by {owned}"
        if fault:
            self._skip(title, fault)
            return
        origin = "built-in" if builtin else "plugin"
        self._tools[name] = Registered(tool, origin, point.distribution)
