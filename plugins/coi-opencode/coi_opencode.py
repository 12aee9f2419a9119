"""opencode, for coi. Measured with version 1.18.33 in a container."""

from __future__ import annotations

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
)

_DATA = ".local/share/opencode"
_CONFIG = ".config/opencode"


class OpenCode(Tool):
    """opencode.

    Its conversations are rows of a database, whose ids no plugin can read: the last one
    that was used is gone on with, which in a session's own state is the session's.
    """

    name = "opencode"
    title = "opencode"
    binary = "opencode"
    state = (_DATA, ".local/state/opencode", _CONFIG)
    state_exclude = (
        f"{_DATA}/bin/*",
        f"{_DATA}/log/*",
        f"{_DATA}/opencode.db-shm",  # made anew from the -wal
        f"{_DATA}/repos/*",
        ".local/state/opencode/locks/*",
        f"{_CONFIG}/node_modules/*",
        f"{_CONFIG}/package-lock.json",
    )
    secrets = (f"{_DATA}/auth.json", f"{_DATA}/mcp-auth.json")
    scratch = (".cache/opencode", ".npm")
    host_variables = (
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        "GROQ_API_KEY",
        "OPENAI_API_KEY",
        "OPENCODE_API_KEY",
        "OPENROUTER_API_KEY",
    )

    def install(self, image: ImageContext) -> str:
        """One executable that needs no node; for x86_64 the build that runs on all of them."""
        baseline = "-baseline" if image.npm_architecture == "x64" else ""
        package = f"opencode-linux-{image.npm_architecture}{baseline}"
        return f"""\
npm install --global --no-audit --no-fund {package}
ln -sf ../lib/node_modules/{package}/bin/opencode /usr/local/bin/opencode
home=$(mktemp -d)
HOME="$home" opencode --version
rm -rf "$home"
"""

    def command(self, launch: Launch) -> Sequence[str]:
        """``--continue`` takes the newest conversation; ``--auto`` asks no permission."""
        return [launch.binary or self.binary, *_how(launch)]

    def headless(self, launch: Launch) -> Sequence[str]:
        """``run`` prints events, a line each.

        It puts an argument that has a space into quotes and joins all with spaces: the
        prompt goes in word by word.
        """
        words = launch.prompt.split(" ")
        argv = [launch.binary or self.binary, "run", *_how(launch), "--format", "json"]
        return [*argv, "--", *words]

    def answer(self, output: str) -> Answer:
        """The texts of the last message, and the ``sessionID`` that every event has."""
        message, texts, found = None, list[str](), None
        for event in json_lines(output):
            if isinstance(event.get("sessionID"), str):
                found = event["sessionID"]
            part = event.get("part")
            if event.get("type") == "text" and isinstance(part, dict):
                if part.get("messageID") != message:
                    message, texts = part.get("messageID"), []
                texts.append(str(part.get("text", "")))
            elif event.get("type") == "error" and not texts:
                texts.append(str(event.get("error", "")))
        return Answer("\n".join(texts), found)

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """The logins and the settings, without the host's MCP servers."""
        moved = {
            key: value.rstrip("/")
            for key in ("XDG_DATA_HOME", "XDG_CONFIG_HOME")
            if (value := host_environment.get(key, "")).startswith("/")
        }
        data = f"{moved.get('XDG_DATA_HOME', '.local/share')}/opencode"
        config = f"{moved.get('XDG_CONFIG_HOME', '.config')}/opencode"
        return (
            HostFile(f"{data}/auth.json", f"{_DATA}/auth.json", secret=True),
            HostFile(f"{config}/opencode.json", f"{_CONFIG}/opencode.json", without=("mcp",)),
            HostFile(f"{config}/AGENTS.md", f"{_CONFIG}/AGENTS.md"),
        )

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Settings for unattended use, over whatever the user's file says."""
        return {"OPENCODE_DISABLE_AUTOUPDATE": "true", "OPENCODE_DISABLE_SHARE": "true"}

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """coi's own, where there is a database: see the class."""
        databases = (f"{_DATA}/opencode.db", f"{_DATA}/opencode.db-wal")
        for entry in saved.entries():
            if str(entry.path) in databases and entry.size > 0:
                return session_id
        return None


def _how(launch: Launch) -> list[str]:
    return ["--continue", "--auto"] if launch.tool_session_id else ["--auto"]


@hookimpl
def coi_register_tools(register: Register) -> None:
    """Register the tool."""
    register(OpenCode())
