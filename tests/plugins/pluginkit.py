"""Throw-away distributions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from coi.api import Launch, Tool
from coi.tools.manager import Manager
from coi.tools.prepare import Prepared, prepare

ROOT = Path(__file__).parents[2]

# The tools beside claude, and two ids of conversations.
TOOLS = ("aider", "codex", "copilot", "cursor", "gemini", "opencode", "qwen")
ID = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"

PLUGIN = """
from coi.api import Tool, hookimpl

class It(Tool):
    name = {name!r}
    binary = "it"
    state = (".it",)
    def install(self, image): return "true"
    def command(self, launch): return ["it"]

@hookimpl
def coi_register_tools(register):
    register(It())
"""


@dataclass
class Site:
    """A directory of installed distributions."""

    path: Path

    def install(
        self,
        distribution: str,
        entry_points: Mapping[str, str],
        modules: Mapping[str, str],
        version: str = "1.0",
    ) -> None:
        """Write modules and a .dist-info with entry points of coi's group."""
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nAbout it.\n"
        )
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[coi.tools]", *lines, ""]))
        for name, text in modules.items():
            (self.path / f"{name}.py").write_text(dedent(text))

    def tool(self, name: str, distribution: str | None = None) -> None:
        """A sound plugin with one tool; its module has the distribution's name."""
        distribution = distribution or f"coi-{name}"
        module = distribution.replace("-", "_")
        self.install(distribution, {name: module}, {module: PLUGIN.format(name=name)})


def tool(name: str) -> Tool:
    """An installed tool."""
    return Manager.load().get(name)


def run(name: str, home: Path, launch: Launch | None = None, **how: Any) -> Prepared:
    """What would go in for a start of an installed tool."""
    launch = launch or Launch(ID)
    how = {"host_environment": {}, "saved": launch.saved, "with_host_files": True, **how}
    return prepare(tool(name), launch, host_home=home, **how)
