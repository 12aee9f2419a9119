"""Qwen Code, for coi. Measured with version 0.24.4 in a container."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from coi.api import (
    Answer,
    HostFile,
    ImageContext,
    JsonMerge,
    Launch,
    Register,
    SavedState,
    Tool,
    hookimpl,
    json_lines,
    newest,
)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHATS = ".qwen/projects/-workspace/chats"  # the directory with / as -
_SETTINGS = ".qwen/settings.json"


class Qwen(Tool):
    """Qwen Code."""

    name = "qwen"
    title = "Qwen Code"
    binary = "qwen"
    state = (".qwen",)
    state_exclude = (
        ".qwen/.openai-logs-cleanup-*",
        ".qwen/debug/*",
        ".qwen/extension-store/lock*",
        ".qwen/extension-store/staging/*",
        ".qwen/logs/*",
        ".qwen/projects/*/chats/*.runtime.json",
        ".qwen/sessions/*",  # of running processes
        ".qwen/tmp/*",
        ".qwen/usage*",
    )
    secrets = (
        ".qwen/.env",
        ".qwen/mcp-oauth-tokens*.json",
        ".qwen/oauth_creds.json",
        ".qwen/*credentials.json",
    )
    # Keys may be in both; the host's come with its file at each start.
    secret_keys: Mapping[str, tuple[str, ...]] = {
        _SETTINGS: ("env", "security", "modelProviders"),
    }
    host_variables = (
        "DASHSCOPE_API_KEY",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_MODEL",
        "QWEN_MODEL",
    )

    def install(self, image: ImageContext) -> str:
        """The registry's package; it needs node 22."""
        return """\
npm install --global --no-audit --no-fund @qwen-code/qwen-code
home=$(mktemp -d)
HOME="$home" qwen --version
rm -rf "$home"
"""

    def command(self, launch: Launch) -> Sequence[str]:
        """``--resume`` wants a conversation that there is, ``--session-id`` a new id."""
        argv = [launch.binary or self.binary, "--yolo"]
        if launch.tool_session_id:
            return [*argv, "--resume", launch.tool_session_id]
        return [*argv, "--session-id", launch.session_id]

    def headless(self, launch: Launch) -> Sequence[str]:
        """``--prompt`` prints events, a line each; a positional could not begin with ``-``."""
        return [*self.command(launch), "-o", "stream-json", f"--prompt={launch.prompt}"]

    def answer(self, output: str) -> Answer:
        """``result`` and ``session_id``, which every event has."""
        text, found = "", None
        for event in json_lines(output):
            if isinstance(event.get("session_id"), str):
                found = event["session_id"]
            if event.get("type") == "result":
                text = str(event.get("result") or event.get("error") or "")
        return Answer(text, found)

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """The login and the settings, without the host's MCP servers and commands."""
        host_only = ("mcpServers", "hooks", "telemetry")
        return (
            HostFile(".qwen/oauth_creds.json", ".qwen/oauth_creds.json", secret=True),
            HostFile(".qwen/.env", ".qwen/.env", secret=True),
            HostFile(_SETTINGS, _SETTINGS, without=host_only),
            HostFile(".qwen/QWEN.md", ".qwen/QWEN.md"),
        )

    def merges(self, launch: Launch) -> Sequence[JsonMerge]:
        """No question about trust, no updates, no statistics."""
        quiet = {
            "general": {"enableAutoUpdate": False},
            "privacy": {"usageStatisticsEnabled": False},
            "security": {"folderTrust": {"enabled": False}},
        }
        return (JsonMerge(_SETTINGS, quiet),)

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """The container is the sandbox that it would ask for."""
        return {"QWEN_CODE_SUPPRESS_YOLO_WARNING": "1", "QWEN_TELEMETRY_ENABLED": "false"}

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """Of the newest conversation; a file is written with the first message, not before."""
        for entry in newest(saved, f"{_CHATS}/*.jsonl"):
            if _UUID.fullmatch(entry.path.stem):
                return entry.path.stem
        return None


@hookimpl
def coi_register_tools(register: Register) -> None:
    """Register the tool."""
    register(Qwen())
