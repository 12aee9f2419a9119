"""Codex by OpenAI, for coi. Measured with version 0.171.0 in a container."""

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

_ROLLOUT = re.compile(r"rollout-.*-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_HOME = "CODEX_HOME"


class Codex(Tool):
    """Codex.

    Its databases are not saved: it fills them anew from ``sessions``, and a copy that is
    made while it writes would be damaged.
    """

    name = "codex"
    title = "Codex"
    binary = "codex"
    state = (".codex",)
    state_exclude = (
        ".codex/.sandbox_migration",
        ".codex/.tmp*",
        ".codex/*.lock",
        ".codex/*.sqlite*",
        ".codex/log/*",
        ".codex/shell_snapshots/*",
        ".codex/skills/.system/*",
        ".codex/thread-writer-locks/*",
        ".codex/tmp/*",
        ".codex/version.json",
    )
    secrets = (".codex/auth.json", ".codex/.credentials.json")
    host_variables = ("OPENAI_API_KEY", "CODEX_API_KEY", "OPENAI_BASE_URL")

    def install(self, image: ImageContext) -> str:
        """The package's own executable, without the node that starts it."""
        return """\
npm install --global --no-audit --no-fund @openai/codex
native=$(find /usr/local/lib/node_modules/@openai/codex -path '*/vendor/*/bin/codex' -type f)
ln -sf "$native" /usr/local/bin/codex
home=$(mktemp -d)
HOME="$home" /usr/local/bin/codex --version
rm -rf "$home"
"""

    def command(self, launch: Launch) -> Sequence[str]:
        """``resume ID``, or nothing: a new conversation cannot be given an id."""
        resume = ["resume", launch.tool_session_id] if launch.tool_session_id else []
        return [launch.binary or self.binary, *resume, *_settings(launch)]

    def headless(self, launch: Launch) -> Sequence[str]:
        """``exec --json`` prints events, a line each."""
        resume = ["resume", launch.tool_session_id] if launch.tool_session_id else []
        return [
            launch.binary or self.binary,
            "exec",
            *resume,
            "--json",
            "--skip-git-repo-check",
            *_settings(launch),
            "--",
            launch.prompt,
        ]

    def answer(self, output: str) -> Answer:
        """The last ``agent_message``, and the ``thread_id`` of the first event."""
        text, found = "", None
        for event in json_lines(output):
            item = event.get("item")
            if event.get("type") == "thread.started" and isinstance(event.get("thread_id"), str):
                found = event["thread_id"]
            elif isinstance(item, dict) and item.get("type") == "agent_message":
                text = str(item.get("text", ""))
            elif event.get("type") in ("error", "turn.failed") and not text:
                text = str(event.get("message") or event.get("error") or "")
        return Answer(text, found)

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """The login, and the settings without other projects and the host's MCP servers."""
        moved = host_environment.get(_HOME, "")
        directory = moved.rstrip("/") if moved.startswith("/") else ".codex"
        host_only = ("projects", "mcp_servers", "notify", "hooks")
        return (
            HostFile(f"{directory}/auth.json", ".codex/auth.json", secret=True),
            HostFile(f"{directory}/config.toml", ".codex/config.toml", without=host_only),
            HostFile(f"{directory}/AGENTS.md", ".codex/AGENTS.md"),
        )

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """Of the newest rollout; one is written with the first message, not before."""
        for entry in newest(saved, ".codex/sessions/*/*/*/rollout-*.jsonl"):
            if match := _ROLLOUT.fullmatch(entry.path.stem):
                return match[1]
        return None


def _settings(launch: Launch) -> list[str]:
    """Settings for unattended use, as flags: nothing of the user's file is touched."""
    trusted = f'projects={{"{launch.workspace}"={{trust_level="trusted"}}}}'
    settings = (
        trusted,
        "check_for_update_on_startup=false",
        "analytics.enabled=false",
        "features.daemon_auto_start=false",  # a daemon that outlives the session
    )
    flags = [word for setting in settings for word in ("-c", setting)]
    return ["--dangerously-bypass-approvals-and-sandbox", *flags]


@hookimpl
def coi_register_tools(register: Register) -> None:
    """Register the tool."""
    register(Codex())
