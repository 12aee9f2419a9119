"""Aider, a built-in tool.

It has no ids of its own: a conversation is a file, and each of coi's sessions gets
one. What it writes and asks was measured with version 0.86.2 in a container.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from coi.api import Answer, HostFile, ImageContext, Launch, SavedState, Tool, hookimpl, newest

_SESSIONS = ".aider/sessions"
_CHAT = "chat.md"
_SAID = re.compile(rb"^#### ", re.MULTILINE)  # what the user said, in a chat.md

# Of the output of a headless run: what aider says of itself before the answer, and what it cost.
_HEAD = re.compile(r"\A(?:.*\n)*?Aider v.*\n(?:.+\n)*")
_TOKENS = re.compile(r"^Tokens: .* sent, .* received\..*\n*", re.MULTILINE)

# The launcher. Left alone, aider keeps an index in the workspace, makes a repository where
# there is none, and writes a placeholder for your name into one that has none.
_LAUNCHER = """\
#!/opt/aider/bin/python
import os
import subprocess
import sys


def git(*words):
    return subprocess.run(("git", *words), capture_output=True).returncode == 0


if not git("rev-parse", "--git-dir"):
    os.environ["AIDER_GIT"] = "false"
for key, value in (("user.name", "aider"), ("user.email", "aider@localhost")):
    if not git("config", "--get", key):
        count = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
        os.environ[f"GIT_CONFIG_KEY_{count}"] = key
        os.environ[f"GIT_CONFIG_VALUE_{count}"] = value
        os.environ["GIT_CONFIG_COUNT"] = str(count + 1)

from aider.repomap import RepoMap

RepoMap.TAGS_CACHE_DIR = os.path.expanduser("~/.cache/aider/tags")

from aider.main import main

sys.exit(main())
"""


class Aider(Tool):
    """Aider, pair programming in a terminal."""

    name = "aider"
    title = "Aider"
    binary = "aider"
    state = (".aider",)
    state_exclude = (".aider/caches/*",)
    secrets = (".aider/oauth-keys.env",)
    scratch = (".cache/aider",)
    host_variables = (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        "DEEPSEEK_API_KEY",
        "GEMINI_API_KEY",
        "GROQ_API_KEY",
        "MISTRAL_API_KEY",
        "OPENAI_API_BASE",
        "OPENAI_API_KEY",
        "OPENROUTER_API_KEY",
        "XAI_API_KEY",
        "AIDER_MODEL",
    )

    def install(self, image: ImageContext) -> str:
        """A venv of its own in /opt, by a Python that aider supports: 3.10 to 3.12."""
        return f"""\
for python in python3.12 python3.11 python3.10 python3; do
    ! command -v "$python" >/dev/null ||
        ! "$python" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' ||
        break
    [ "$python" != python3 ] || {{ echo 'aider needs Python 3.10, 3.11 or 3.12' >&2; exit 1; }}
done
rm -rf /opt/aider
"$python" -m venv /opt/aider
/opt/aider/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check \\
    --no-input aider-chat
cat >/usr/local/bin/aider <<'END_OF_LAUNCHER'
{_LAUNCHER}END_OF_LAUNCHER
chmod 0755 /usr/local/bin/aider
home=$(mktemp -d)
HOME="$home" /usr/local/bin/aider --version
rm -rf "$home"
"""

    def command(self, launch: Launch) -> Sequence[str]:
        """Everything is in the environment: a conversation is resumed by its file."""
        return [launch.binary or self.binary]

    def headless(self, launch: Launch) -> Sequence[str]:
        """``--message``, in plain text."""
        plain = ("--no-pretty", "--no-stream", "--no-fancy-input")
        return [*self.command(launch), *plain, f"--message={launch.prompt}"]

    def answer(self, output: str) -> Answer:
        """The output without aider's announcements; its session is found in the state."""
        return Answer(_TOKENS.sub("", _HEAD.sub("", output, count=1)).strip())

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """The configuration, which may hold keys, and definitions of models."""
        return (
            HostFile(".aider.conf.yml", ".aider.conf.yml", secret=True),
            HostFile(".aider/oauth-keys.env", ".aider/oauth-keys.env", secret=True),
            HostFile(".aider.model.settings.yml", ".aider.model.settings.yml"),
            HostFile(".aider.model.metadata.json", ".aider.model.metadata.json"),
        )

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Every option has a variable, which wins over the user's file and not over flags."""
        base = f"{launch.home}/{_SESSIONS}/{launch.tool_session_id or launch.session_id}"
        width = {"COLUMNS": "4096"} if launch.prompt else {}  # an answer is not wrapped
        return {
            **width,
            "AIDER_CHAT_HISTORY_FILE": f"{base}/{_CHAT}",
            "AIDER_INPUT_HISTORY_FILE": f"{base}/input",
            "AIDER_RESTORE_CHAT_HISTORY": "true",
            "AIDER_YES_ALWAYS": "true",
            "AIDER_AUTO_COMMITS": "false",
            "AIDER_DIRTY_COMMITS": "false",
            "AIDER_GITIGNORE": "false",
            "AIDER_ANALYTICS": "false",
            "AIDER_CHECK_UPDATE": "false",
            "AIDER_SHOW_RELEASE_NOTES": "false",
            "AIDER_SHOW_MODEL_WARNINGS": "false",
            "AIDER_DISABLE_PLAYWRIGHT": "true",
            "AIDER_DETECT_URLS": "false",  # it would fetch each, and always say yes
        }

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """The directory of the newest conversation in which something was said."""
        for entry in newest(saved, f"{_SESSIONS}/*/{_CHAT}"):
            if _SAID.search(saved.read(entry.path)):
                return entry.path.parent.name
        return None


@hookimpl
def coi_register_tools(register: Callable[[Tool], None]) -> None:
    """Register the tool."""
    register(Aider())
