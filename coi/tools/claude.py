"""Claude Code, the built-in tool.

What it writes and asks, and which settings spare the questions, was measured
with version 2.1.330 in a container.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from coi.api import (
    Answer,
    HostFile,
    ImageContext,
    JsonMerge,
    Launch,
    SavedState,
    Tool,
    hookimpl,
    newest,
)

_PACKAGE = "@anthropic-ai/claude-code-linux"
_CONFIG_DIR = "CLAUDE_CONFIG_DIR"
_KEY_TAIL = 20  # of an API key, what Claude Code remembers an approval by
_LOOK = 1 << 20  # bytes of a conversation that are searched for a message
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CONVERSATIONS = PurePosixPath(".claude/projects/-workspace")  # the directory with / as -

# Of the host's .claude.json: other projects' history and paths; servers that are the
# host's commands, with credentials of other services in their environment; and how
# the host's copy was installed, which makes the one inside complain about itself.
_HOST_ONLY = (
    "projects",
    "githubRepoPaths",
    "mcpServers",
    "installMethod",
    "autoUpdates",
    "autoUpdatesProtectedForNative",
)
# Of the host's .credentials.json: logins to other services.
_OTHER_LOGINS = ("mcpOAuth", "mcpOAuthClientConfig", "mcpXaaIdp", "pluginSecrets")


class Claude(Tool):
    """Claude Code by Anthropic."""

    name = "claude"
    title = "Claude Code"
    binary = "claude"
    state = (".claude", ".claude.json")
    state_exclude = (
        ".claude/backups/*",  # earlier copies of .claude.json
        ".claude/cache/*",
        ".claude/child-logs/*",
        ".claude/daemon*",
        ".claude/debug/*",
        ".claude/downloads/*",
        ".claude/dump-prompts/*",
        ".claude/feedback*",
        ".claude/gh-pr-status-cache.json",
        ".claude/ide/*",  # sockets and tokens of running editors
        ".claude/local/*",
        ".claude/logs/*",
        ".claude/mcp-discovery-cache/*",
        ".claude/mcp-needs-auth-cache.json",
        ".claude/sessions/*",  # by process id, with a key each: of no use elsewhere
        ".claude/shell-snapshots/*",
        ".claude/startup-perf/*",
        ".claude/statsig/*",
        ".claude/telemetry/*",
        ".claude/traces/*",
    )
    secrets = (".claude/.credentials.json", ".claude/.credentials.json.*")
    scratch = (".local/share/applications/claude-code-url-handler.desktop",)
    # The key of a console login, and the last 20 characters of approved ones.
    secret_keys: Mapping[str, tuple[str, ...]] = {
        ".claude.json": ("primaryApiKey", "customApiKeyResponses")
    }
    host_variables = (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_BASE_URL",
        "CLAUDE_CODE_OAUTH_TOKEN",
    )

    def install(self, image: ImageContext) -> str:
        """The registry's package for the architecture holds one executable that needs no node."""
        package = f"{_PACKAGE}-{image.npm_architecture}"
        return f"""\
work=$(mktemp -d /var/tmp/claude.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent --cache "$work/cache" {package} >/dev/null
tar -xzf ./*.tgz --no-same-owner package/claude
chmod 0755 package/claude
mv -f package/claude /usr/local/bin/claude
cd /
HOME="$work" DISABLE_AUTOUPDATER=1 /usr/local/bin/claude --version
"""

    def command(self, launch: Launch) -> Sequence[str]:
        """``--resume`` wants an id under which something was said, ``--session-id`` an unused one.

        An id can be neither: then Claude Code gives itself a new one. The project's settings
        may set its model's address, a helper for its key and hooks, and ``.mcp.json`` names
        servers; without them it reads no CLAUDE.md and no skills of the project either.
        """
        argv = [launch.binary or self.binary, "--dangerously-skip-permissions"]
        if not _reads_project(launch):
            argv += ["--setting-sources", "user"]
        if launch.tool_session_id:
            argv += ["--resume", launch.tool_session_id]
        elif not _is_used(launch):
            argv += ["--session-id", launch.session_id]
        return argv

    def headless(self, launch: Launch) -> Sequence[str]:
        """``-p`` prints one JSON object: ``result``, ``session_id``, ``is_error``."""
        return [*self.command(launch), "-p", "--output-format", "json", "--", launch.prompt]

    def answer(self, output: str) -> Answer:
        """``result`` and ``session_id`` of that object."""
        try:
            said = json.loads(output)
        except (ValueError, RecursionError):
            return Answer(output)
        if not isinstance(said, dict) or not isinstance(said.get("result"), str):
            return Answer(output)
        found = said.get("session_id")
        return Answer(said["result"], found if isinstance(found, str) else None)

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """Credentials, account and settings; CLAUDE_CONFIG_DIR moves all of them."""
        moved = host_environment.get(_CONFIG_DIR, "")
        directory, account = ".claude", ".claude.json"
        if moved.startswith("/"):
            directory = moved.rstrip("/")
            account = f"{directory}/.claude.json"
        return (
            HostFile(
                f"{directory}/.credentials.json",
                ".claude/.credentials.json",
                secret=True,
                transform=_credentials,
            ),
            HostFile(account, ".claude.json", without=_HOST_ONLY),
            HostFile(f"{directory}/settings.json", ".claude/settings.json"),
            HostFile(f"{directory}/CLAUDE.md", ".claude/CLAUDE.md"),
        )

    def merges(self, launch: Launch) -> Sequence[JsonMerge]:
        """The answers to first-run questions: all of them default to No and would wait."""
        account: dict[str, object] = {
            "hasCompletedOnboarding": True,
            "projects": {launch.workspace: {"hasTrustDialogAccepted": True}},
        }
        if key := launch.environment.get("ANTHROPIC_API_KEY"):
            account["customApiKeyResponses"] = {"approved": [key[-_KEY_TAIL:]]}
        return (
            JsonMerge(".claude.json", account),
            JsonMerge(".claude/settings.json", {"skipDangerousModePermissionPrompt": True}),
        )

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """No updates of the image's copy, nothing sent but the model's own calls."""
        return {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_INSTALLATION_CHECKS": "1",
            "IS_SANDBOX": "1",
        }

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """The newest conversation of the workspace, which ``/clear`` may have begun anew."""
        for entry in newest(saved, f"{_CONVERSATIONS}/*.jsonl"):
            # One in which nothing was said cannot be resumed.
            if _UUID.fullmatch(entry.path.stem) and (
                entry.size > _LOOK or b'"type":"user"' in saved.read(entry.path, _LOOK)
            ):
                return entry.path.stem
        return None


def _reads_project(launch: Launch) -> bool:
    """``[tool.claude] project_settings``: true unless it is said otherwise.

    Raises:
        ValueError: it is neither true nor false.
    """
    value = launch.options.get("project_settings", True)
    if not isinstance(value, bool):
        raise ValueError("tool.claude.project_settings is true or false")  # noqa: TRY004
    return value


def _is_used(launch: Launch) -> bool:
    """Whether the state has a conversation file by coi's id, if only an empty one."""
    path = _CONVERSATIONS / f"{launch.session_id}.jsonl"
    return launch.saved is not None and any(e.path == path for e in launch.saved.entries())


def _credentials(data: bytes) -> bytes:
    """The login alone: not the tokens of MCP servers, which stay on the host as they do."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return data  # Claude Code itself shall say what it thinks of it
    if not isinstance(values, dict) or not any(key in values for key in _OTHER_LOGINS):
        return data
    return json.dumps({k: v for k, v in values.items() if k not in _OTHER_LOGINS}).encode()


@hookimpl
def coi_register_tools(register: Callable[[Tool], None]) -> None:
    """Register the tool."""
    register(Claude())
