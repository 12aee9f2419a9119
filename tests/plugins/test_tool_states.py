"""What of every tool beside Claude Code is saved, found again, and taken from the host."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import tomli
from pluginkit import ID, OTHER, TOOLS, run, tool

from coi.api import Launch
from coi.testing import saved
from coi.tools.prepare import Prepared, find_session_id, without_secret_keys


def read(prepared: Prepared, path: str) -> bytes:
    return next(file.data for file in prepared.files if file.path == path)


# -- what is saved, and found there

CODEX = ".codex/sessions/2026/11/28/rollout-2026-11-28T12-21-24"
GEMINI = ".gemini/tmp/workspace"
QWEN = ".qwen/projects/-workspace/chats"
TALK = (
    b'{"sessionId":"%s","kind":"main"}\n'
    b'{"id":"1","timestamp":"2","type":"user","content":[{"text":"hi"}]}\n'
)
SILENT = b'{"sessionId":"%s","kind":"main"}\n{"$set":{"messages":[{"id":"1","type":"user"}]}}\n'
STATES: dict[str, dict[str, bytes]] = {  # the oldest first
    "aider": {
        f".aider/sessions/{ID}/chat.md": b"\n# aider chat started\n\n#### hi\n",
        f".aider/sessions/{OTHER}/chat.md": b"\n# aider chat started\n\n#### hi\n",
        ".aider/sessions/silent/chat.md": b"\n# aider chat started\n\n> Aider v0.86.2\n",
        f".aider/sessions/{ID}/input": b"+hi\n",
    },
    "codex": {
        f"{CODEX}-{ID}.jsonl": b"{}",
        f"{CODEX}-{OTHER}.jsonl": b"{}",
        f"{CODEX}-not-an-id.jsonl": b"{}",
        f".codex/archived_sessions/rollout-x-{ID}.jsonl": b"{}",
    },
    "copilot": {
        f".copilot/session-state/{ID}/events.jsonl": b'{"type":"user.message"}\n',
        f".copilot/session-state/{OTHER}/events.jsonl": b'{"type":"user.message"}\n',
        f".copilot/session-state/{'7' * 8}{OTHER[8:]}/events.jsonl": b'{"type":"session.start"}\n',
        ".copilot/session-state/x/events.jsonl": b'{"type":"user.message"}\n',
    },
    "cursor": {
        f".cursor/chats/abc/{ID}/store.db": b"x",
        f".cursor/chats/abc/{OTHER}/store.db": b"x",
        ".cursor/chats/abc/x/store.db": b"x",
    },
    "gemini": {
        f"{GEMINI}/.project_root": b"/workspace",
        ".gemini/tmp/tmp/.project_root": b"/tmp",
        f"{GEMINI}/chats/session-1-{ID[:8]}.jsonl": TALK % ID.encode(),
        f"{GEMINI}/chats/session-1-{OTHER[:8]}.jsonl": TALK % OTHER.encode(),
        f"{GEMINI}/chats/session-1-77777777.jsonl": SILENT % ID.encode(),
        ".gemini/tmp/tmp/chats/session-1-11111111.jsonl": TALK % ID.encode(),
        ".gemini/tmp/gone/chats/session-1-11111111.jsonl": TALK % ID.encode(),
    },
    "qwen": {
        f"{QWEN}/{ID}.jsonl": b"{}",
        f"{QWEN}/{OTHER}.jsonl": b"{}",
        f"{QWEN}/x.jsonl": b"{}",
        f".qwen/projects/-tmp/chats/{ID}.jsonl": b"{}",
    },
}


@pytest.mark.parametrize("name", sorted(STATES))
def test_the_newest_conversation_of_the_workspace_is_found(name: str) -> None:
    timed = {path: (data, float(n)) for n, (path, data) in enumerate(STATES[name].items())}
    assert find_session_id(tool(name), saved(timed), ID) == OTHER
    assert find_session_id(tool(name), saved({}), ID) is None
    elsewhere = {path: data for path, data in timed.items() if OTHER not in path}
    elsewhere = {path: data for path, data in elsewhere.items() if OTHER[:8] not in path}
    assert find_session_id(tool(name), saved(elsewhere), ID) == ID


def test_opencode_goes_on_with_its_last_conversation() -> None:
    opencode = tool("opencode")
    assert find_session_id(opencode, saved({}), ID) is None
    log = ".local/share/opencode/log/opencode.log"
    assert find_session_id(opencode, saved({log: b"x"}), ID) is None
    for name in ("opencode.db", "opencode.db-wal"):
        assert find_session_id(opencode, saved({f".local/share/opencode/{name}": b"x"}), ID) == ID


KEPT = {
    "aider": (f".aider/sessions/{ID}/chat.md", ".aider/installs.json"),
    "codex": (f"{CODEX}-{ID}.jsonl", ".codex/config.toml", ".codex/skills/mine/SKILL.md"),
    "copilot": (f".copilot/session-state/{ID}/events.jsonl", ".copilot/settings.json"),
    "cursor": (f".cursor/chats/x/{ID}/store.db", ".cursor/cli-config.json"),
    "gemini": (f"{GEMINI}/chats/session-1-x.jsonl", ".gemini/projects.json", ".gemini/GEMINI.md"),
    "opencode": (
        ".local/share/opencode/opencode.db",
        ".local/share/opencode/opencode.db-wal",
        ".config/opencode/opencode.json",
    ),
    "qwen": (f"{QWEN}/{ID}.jsonl", ".qwen/settings.json", ".qwen/projects/-workspace/meta.json"),
}
LEFT_OUT = {
    "aider": (".aider/oauth-keys.env", ".aider/caches/versioncheck"),
    "codex": (
        ".codex/auth.json",
        ".codex/.credentials.json",
        ".codex/state_5.sqlite-wal",
        ".codex/skills/.system/x/SKILL.md",
        ".codex/.tmp/plugins/x",
    ),
    "copilot": (".copilot/config.json", ".copilot/logs/x.log", ".copilot/session-store.db-wal"),
    "cursor": (".config/cursor/auth.json",),
    "gemini": (
        ".gemini/oauth_creds.json",
        ".gemini/.env",
        ".gemini/gemini-credentials.json",
        ".gemini/mcp-oauth-tokens-v2.json",
        ".gemini/projects.json.1-2.tmp",
    ),
    "opencode": (
        ".local/share/opencode/auth.json",
        ".local/share/opencode/opencode.db-shm",
        ".config/opencode/node_modules/x/y.js",
        ".config/opencode/package-lock.json",
    ),
    "qwen": (".qwen/oauth_creds.json", ".qwen/.env", ".qwen/tmp/x/logs.json"),
}


@pytest.mark.parametrize("name", TOOLS)
def test_what_is_saved(name: str) -> None:
    it = tool(name)
    for path in (*KEPT[name], *LEFT_OUT[name]):
        assert any(path.startswith(f"{root}/") for root in it.state), path
        out = any(fnmatchcase(path, pattern) for pattern in (*it.state_exclude, *it.secrets))
        assert out is (path in LEFT_OUT[name]), path


def test_keys_in_the_settings_of_qwen_are_not_saved() -> None:
    data = b'{"env": {"K": "v"}, "security": {"auth": {"apiKey": "k"}}, "ui": {}}'
    kept = without_secret_keys(tool("qwen"), ".qwen/settings.json", data)
    assert json.loads(kept or b"") == {"ui": {}}


# -- what comes along from the host

HOST = {
    "aider": {".aider.conf.yml": "model: m\n", ".aider/oauth-keys.env": "K=v\n"},
    "codex": {
        ".codex/auth.json": '{"tokens": {}}',
        ".codex/config.toml": 'model = "m"\n[mcp_servers.gh.env]\nTOKEN = "CANARY"\n'
        '[projects."/home/me/CANARY"]\ntrust_level = "trusted"\n',
    },
    "copilot": {
        ".copilot/config.json": "// comment\n{}",
        ".copilot/settings.json": '{"model": "m", "mcpServers": {"x": "CANARY"}}',
    },
    "cursor": {".config/cursor/auth.json": "{}", ".cursor/cli-config.json": '{"model": "m"}'},
    "gemini": {
        ".gemini/oauth_creds.json": "{}",
        ".gemini/settings.json": '{"model": "m", "mcpServers": {"x": "CANARY"}, '
        '"security": {"auth": {"selectedType": "oauth-personal"}}}',
    },
    "opencode": {
        ".local/share/opencode/auth.json": "{}",
        ".config/opencode/opencode.json": '{"model": "m", "mcp": {"x": "CANARY"}}',
    },
    "qwen": {
        ".qwen/oauth_creds.json": "{}",
        ".qwen/settings.json": '{"model": "m", "mcpServers": {"x": "CANARY"}}',
    },
}


@pytest.mark.parametrize("name", TOOLS)
def test_the_hosts_login_and_settings_come_along(name: str, tmp_path: Path) -> None:
    for path, text in HOST[name].items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    prepared = run(name, tmp_path)
    assert not prepared.notices
    assert {file.path for file in prepared.files} == set(HOST[name])
    assert not any(b"CANARY" in file.data for file in prepared.files)
    for path, text in HOST[name].items():
        if path.endswith(".toml"):
            assert tomli.loads(read(prepared, path).decode()) == {"model": "m"}
        elif path.endswith("s.json") and "creds" not in path:
            assert json.loads(read(prepared, path))["model"] == "m"
        elif "CANARY" not in text:
            assert read(prepared, path) == text.encode(), "as it is written"
    without = run(name, tmp_path, with_host_files=False)
    assert {file.path for file in without.files} <= set(HOST[name])
    assert not any(b'"m"' in file.data for file in without.files)


@pytest.mark.parametrize(
    ("name", "variable", "file"),
    [
        ("codex", "CODEX_HOME", "auth.json"),
        ("copilot", "COPILOT_HOME", "config.json"),
        ("opencode", "XDG_DATA_HOME", "opencode/auth.json"),
    ],
)
def test_a_login_that_was_moved_is_found(
    name: str, variable: str, file: str, tmp_path: Path
) -> None:
    moved = tmp_path / "moved" / file
    moved.parent.mkdir(parents=True)
    moved.write_text('{"a":1}')
    host_environment = {variable: str(tmp_path / "moved")}
    (found,) = run(name, tmp_path / "home", host_environment=host_environment).files
    assert (Path(found.path).name, found.data) == (moved.name, b'{"a":1}')


def test_a_key_chooses_how_gemini_logs_in_where_the_user_has_not(tmp_path: Path) -> None:
    launch = Launch(ID, environment={"GEMINI_API_KEY": "k"})
    settings = json.loads(read(run("gemini", tmp_path, launch), ".gemini/settings.json"))
    assert settings["security"]["auth"] == {"selectedType": "gemini-api-key"}
    assert settings["security"]["folderTrust"] == {"enabled": False}
    (tmp_path / ".gemini").mkdir()
    (tmp_path / ".gemini/settings.json").write_text(HOST["gemini"][".gemini/settings.json"])
    settings = json.loads(read(run("gemini", tmp_path, launch), ".gemini/settings.json"))
    assert settings["security"]["auth"] == {"selectedType": "oauth-personal"}
