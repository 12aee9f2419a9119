"""The GitHub Copilot CLI, for coi. Measured with version 1.0.102 in a container."""

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

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOME = "COPILOT_HOME"
_PACKAGE = "/opt/copilot"  # where it is unpacked, instead of in each home


class Copilot(Tool):
    """GitHub Copilot CLI.

    Its config.json is no JSON (it begins with comments) and may hold tokens: it comes
    from the host alone. The trust that it would hold is in the environment instead.
    """

    name = "copilot"
    title = "GitHub Copilot CLI"
    binary = "copilot"
    state = (".copilot",)
    state_exclude = (
        ".copilot/*.lock",
        ".copilot/logs/*",
        ".copilot/pkg/*",
        ".copilot/session-state/.session-operation-locks/*",
        ".copilot/session-store.db*",  # an index of session-state, made anew
    )
    secrets = (".copilot/config.json", ".copilot/mcp-oauth-config/*")
    scratch = (".cache/Microsoft", ".cache/copilot")
    # Not GH_TOKEN and GITHUB_TOKEN: those may do more than Copilot needs.
    host_variables = (
        "COPILOT_GITHUB_TOKEN",
        "COPILOT_MODEL",
        "COPILOT_PROVIDER_API_KEY",
        "COPILOT_PROVIDER_BASE_URL",
        "COPILOT_PROVIDER_TYPE",
        "COPILOT_PROVIDER_WIRE_API",
    )

    def install(self, image: ImageContext) -> str:
        """The package's own executable, and what it unpacks at its first start (234 MB)."""
        return f"""\
npm install --global --no-audit --no-fund @github/copilot
native=$(find /usr/local/lib/node_modules/@github/copilot -path '*linux*/copilot' -type f)
ln -sf "$native" /usr/local/bin/copilot
home=$(mktemp -d)
rm -rf {_PACKAGE}
HOME="$home" COPILOT_PKG_CACHE_HOME={_PACKAGE} /usr/local/bin/copilot --version
chmod -R u=rwX,go=rX {_PACKAGE}
rm -rf "$home"
"""

    def command(self, launch: Launch) -> Sequence[str]:
        """``--session-id`` resumes the conversation of that id, or begins it."""
        session = launch.tool_session_id or launch.session_id
        argv = [launch.binary or self.binary, "--yolo", "--disable-client-telemetry"]
        return [*argv, f"--session-id={session}"]

    def headless(self, launch: Launch) -> Sequence[str]:
        """``--prompt`` prints events, a line each."""
        how = ("--no-ask-user", "--output-format=json")
        return [*self.command(launch), *how, f"--prompt={launch.prompt}"]

    def answer(self, output: str) -> Answer:
        """The last message of the assistant, and ``sessionId`` of the ``result``."""
        text, found = "", None
        for event in json_lines(output):
            data = event.get("data")
            content = data.get("content") if isinstance(data, dict) else None
            if event.get("type") == "assistant.message" and content:
                text = str(content)
            elif event.get("type") == "result" and isinstance(event.get("sessionId"), str):
                found = event["sessionId"]
        return Answer(text, found)

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """The login, where it is not in the host's keyring, and the settings."""
        moved = host_environment.get(_HOME, "")
        directory = moved.rstrip("/") if moved.startswith("/") else ".copilot"
        host_only = ("hooks", "mcpServers", "statusLine", "trustedFolders")
        return (
            HostFile(f"{directory}/config.json", ".copilot/config.json", secret=True),
            HostFile(f"{directory}/settings.json", ".copilot/settings.json", without=host_only),
            HostFile(f"{directory}/copilot-instructions.md", ".copilot/copilot-instructions.md"),
        )

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """No updates; ``true``, and no other word, also trusts the workspace."""
        return {
            "COPILOT_ALLOW_ALL": "true",
            "COPILOT_AUTO_UPDATE": "false",
            "COPILOT_PKG_CACHE_HOME": _PACKAGE,
        }

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """Of the newest conversation in which something was said."""
        for entry in newest(saved, ".copilot/session-state/*/events.jsonl"):
            name = entry.path.parent.name
            if _UUID.fullmatch(name) and b'"user.message"' in saved.read(entry.path):
                return name
        return None


@hookimpl
def coi_register_tools(register: Register) -> None:
    """Register the tool."""
    register(Copilot())
