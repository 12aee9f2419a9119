"""The Cursor CLI, for coi.

From its documentation alone: its installer and its service are in no package registry,
so that nothing of this was run where coi is tested.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from coi.api import (
    Answer,
    HostFile,
    ImageContext,
    Launch,
    Register,
    SavedState,
    Tool,
    hookimpl,
    json_lines,
    newest,
)

INSTALLER = "https://cursor.com/install"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Cursor(Tool):
    """Cursor CLI."""

    name = "cursor"
    title = "Cursor CLI"
    binary = "cursor-agent"
    state = (".cursor", ".config/cursor")
    state_exclude = (".cursor/extensions/*", ".cursor/logs/*")
    secrets = (".config/cursor/auth.json",)
    scratch = (".cache/cursor*", ".local/share/cursor-agent")
    host_variables = ("CURSOR_API_KEY",)

    def install(self, image: ImageContext) -> str:
        """Cursor's own installer, which installs into a home."""
        return f"""\
export HOME=/opt/cursor
mkdir -p "$HOME"
curl -fsSL --retry 3 {INSTALLER} -o "$HOME/install"
bash "$HOME/install"
rm "$HOME/install"
chmod -R u=rwX,go=rX "$HOME"
ln -sf "$HOME/.local/bin/cursor-agent" /usr/local/bin/cursor-agent
"""

    def command(self, launch: Launch) -> Sequence[str]:
        """``--resume``, or nothing: a new conversation cannot be given an id."""
        resume = ["--resume", launch.tool_session_id] if launch.tool_session_id else []
        return [launch.binary or self.binary, "--force", *resume]

    def headless(self, launch: Launch) -> Sequence[str]:
        """``--print`` prints one JSON object on a line."""
        how = ("--print", "--trust", "--output-format", "json")
        return [*self.command(launch), *how, "--", launch.prompt]

    def answer(self, output: str) -> Answer:
        """``result`` and ``session_id`` of that object."""
        text, found = "", None
        for event in json_lines(output):
            if event.get("type") == "result":
                text = str(event.get("result", ""))
            if isinstance(event.get("session_id"), str):
                found = event["session_id"]
        return Answer(text, found)

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """The login and the settings."""
        login, settings = ".config/cursor/auth.json", ".cursor/cli-config.json"
        return (HostFile(login, login, secret=True), HostFile(settings, settings))

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """Of the newest conversation."""
        for entry in newest(saved, ".cursor/chats/*/*/store.db"):
            if _UUID.fullmatch(entry.path.parent.name):
                return entry.path.parent.name
        return None


@hookimpl
def coi_register_tools(register: Register) -> None:
    """Register the tool."""
    register(Cursor())
