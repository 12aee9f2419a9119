"""The one hook of coi's plugins, for pluggy (project name ``coi``)."""

from __future__ import annotations

import pluggy

from coi.api import Register

PROJECT = "coi"
ENTRY_POINT_GROUP = "coi.tools"

hookspec = pluggy.HookspecMarker(PROJECT)


class Hooks:
    """What pluggy validates a plugin's implementations against."""

    @hookspec
    def coi_register_tools(self, register: Register) -> None:
        """Call ``register`` once for each tool that the plugin brings."""


def plugin_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows the hook and no plugin yet."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    return manager
