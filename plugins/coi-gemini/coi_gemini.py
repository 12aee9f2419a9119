"""Gemini CLI by Google, for coi. Measured with version 0.61.0 in a container."""

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

_SESSION = re.compile(rb'"sessionId": ?"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')
_SETTINGS = ".gemini/settings.json"
# Of what the user has said, not of the context that goes before it.
_SAID = re.compile(rb'^\{"id":"[^"]*","timestamp":"[^"]*","type":"user"', re.MULTILINE)


class Gemini(Tool):
    """Gemini CLI."""

    name = "gemini"
    title = "Gemini CLI"
    binary = "gemini"
    state = (".gemini",)
    state_exclude = (
        ".gemini/*.tmp",
        ".gemini/tmp/bin/*",
        ".gemini/tmp/*/logs/*",
        ".gemini/tmp/*/otel/*",
    )
    secrets = (
        ".gemini/.env",
        ".gemini/a2a-oauth-tokens.json",
        ".gemini/gemini-credentials.json",
        ".gemini/mcp-oauth-tokens*.json",
        ".gemini/oauth_creds.json",
    )
    host_variables = (
        "GEMINI_API_KEY",
        "GEMINI_MODEL",
        "GOOGLE_API_KEY",
        "GOOGLE_CLOUD_LOCATION",
        "GOOGLE_CLOUD_PROJECT",
        "GOOGLE_GEMINI_BASE_URL",
        "GOOGLE_GENAI_USE_VERTEXAI",
        "GOOGLE_VERTEX_BASE_URL",
    )

    def install(self, image: ImageContext) -> str:
        """The registry's package; it needs node 20, which every image has."""
        return """\
npm install --global --no-audit --no-fund @google/gemini-cli
home=$(mktemp -d)
HOME="$home" gemini --version
rm -rf "$home"
"""

    def command(self, launch: Launch) -> Sequence[str]:
        """``--resume`` wants a conversation that there is, ``--session-id`` a new id."""
        argv = [launch.binary or self.binary, "--yolo", "--skip-trust"]
        if launch.tool_session_id:
            return [*argv, "--resume", launch.tool_session_id]
        used = launch.saved is not None and any(
            entry.path.match(f"chats/session-*-{launch.session_id[:8]}.jsonl")
            for entry in launch.saved.entries()
        )
        return argv if used else [*argv, "--session-id", launch.session_id]

    def headless(self, launch: Launch) -> Sequence[str]:
        """``--prompt`` prints events, a line each."""
        return [*self.command(launch), "-o", "stream-json", f"--prompt={launch.prompt}"]

    def answer(self, output: str) -> Answer:
        """What the assistant said after the last call of a tool, and the ``init`` event's id."""
        text, found = "", None
        for event in json_lines(output):
            kind = event.get("type")
            if kind == "init" and isinstance(event.get("session_id"), str):
                found = event["session_id"]
            elif kind == "message" and event.get("role") == "assistant":
                text += str(event.get("content", ""))
            elif kind in ("tool_use", "tool_result"):
                text = ""
            elif kind == "error" and not text:
                text = str(event.get("message", ""))
        return Answer(text, found)

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """The login and the settings, without the host's MCP servers and commands."""
        host_only = ("mcpServers", "hooks", "telemetry")
        return (
            HostFile(".gemini/oauth_creds.json", ".gemini/oauth_creds.json", secret=True),
            HostFile(".gemini/.env", ".gemini/.env", secret=True),
            HostFile(".gemini/google_accounts.json", ".gemini/google_accounts.json"),
            HostFile(_SETTINGS, _SETTINGS, without=host_only),
            HostFile(".gemini/GEMINI.md", ".gemini/GEMINI.md"),
        )

    def merges(self, launch: Launch) -> Sequence[JsonMerge]:
        """No question about trust; a key is used where the user has chosen no other way."""
        quiet = {
            "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
            "privacy": {"usageStatisticsEnabled": False},
            "security": {"folderTrust": {"enabled": False}},
        }
        merges = [JsonMerge(_SETTINGS, quiet)]
        if launch.environment.get("GEMINI_API_KEY"):
            by_key = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
            merges.append(JsonMerge(_SETTINGS, by_key, default=True))
        return merges

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """Of the newest conversation of the workspace in which something was said."""
        for entry in newest(saved, ".gemini/tmp/*/chats/session-*.jsonl"):
            data = saved.read(entry.path)
            match = _SESSION.search(data)
            if match and _SAID.search(data) and _is_workspaces(saved, str(entry.path.parents[1])):
                return match[1].decode()
        return None


def _is_workspaces(saved: SavedState, project: str) -> bool:
    """Whether a project's directory is that of /workspace."""
    try:
        return saved.read(f"{project}/.project_root").strip() == b"/workspace"
    except KeyError:
        return False


@hookimpl
def coi_register_tools(register: Register) -> None:
    """Register the tool."""
    register(Gemini())
