"""The built-in tool's rules, as measured with Claude Code 2.1.330."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from coi.api import ImageContext, Launch
from coi.errors import CoiError
from coi.testing import saved
from coi.tools.claude import Claude
from coi.tools.prepare import Prepared, find_session_id, prepare, without_secret_keys

ID = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
TALK = b'{"type":"mode"}\n{"type":"user","message":{"role":"user","content":"hi"}}\n'
PROJECT = ".claude/projects/-workspace"


def run(home: Path, launch: Launch | None = None, **how: Any) -> Prepared:
    launch = launch or Launch(ID)
    how = {"host_environment": {}, "saved": launch.saved, "with_host_files": True, **how}
    return prepare(Claude(), launch, host_home=home, **how)


def read(prepared: Prepared, path: str) -> Any:
    return json.loads(next(file.data for file in prepared.files if file.path == path))


def test_a_bare_host_gets_no_questions(tmp_path: Path) -> None:
    prepared = run(tmp_path)
    assert read(prepared, ".claude.json") == {
        "hasCompletedOnboarding": True,
        "projects": {"/workspace": {"hasTrustDialogAccepted": True}},
    }
    assert read(prepared, ".claude/settings.json") == {"skipDangerousModePermissionPrompt": True}
    assert len(prepared.files) == 2
    assert prepared.command == ("claude", "--dangerously-skip-permissions", "--session-id", ID)
    assert prepared.environment["IS_SANDBOX"] == "1"
    assert prepared.environment["DISABLE_AUTOUPDATER"] == "1"


def test_a_projects_settings_can_be_left_unread(tmp_path: Path) -> None:
    asked = run(tmp_path, Launch(ID, options={"project_settings": False})).command
    assert asked[1:4] == ("--dangerously-skip-permissions", "--setting-sources", "user")
    read_ = run(tmp_path, Launch(ID, options={"project_settings": True})).command
    assert "--setting-sources" not in read_
    with pytest.raises(CoiError) as refused:
        run(tmp_path, Launch(ID, options={"project_settings": "false"}))
    assert "true or false" in f"{refused.value} {refused.value.details}"


def test_a_given_key_is_approved_by_its_tail(tmp_path: Path) -> None:
    key = "sk-ant-api03-" + "x" * 30 + "0123456789abcdefghij"
    prepared = run(tmp_path, Launch(ID, environment={"ANTHROPIC_API_KEY": key}))
    approved = read(prepared, ".claude.json")["customApiKeyResponses"]["approved"]
    assert approved == ["0123456789abcdefghij"]
    assert prepared.environment["ANTHROPIC_API_KEY"] == key


@pytest.mark.parametrize("moved", [False, True])
def test_the_hosts_login_and_settings_come_along(tmp_path: Path, moved: bool) -> None:
    home = tmp_path / "home"
    directory = tmp_path / "moved" if moved else home / ".claude"
    directory.mkdir(parents=True)
    account = {
        "oauthAccount": {"emailAddress": "a@b.example"},
        "primaryApiKey": "key",
        "theme": "light",
        "hasCompletedOnboarding": False,
        "projects": {"/home/me/other": {"history": ["CANARY"]}},
        "mcpServers": {"gh": {"command": "x", "env": {"TOKEN": "CANARY"}}},
        "githubRepoPaths": {"a": ["CANARY"]},
        "installMethod": "native",
    }
    login = {"claudeAiOauth": {"accessToken": "T"}, "mcpOAuth": {"x": {"accessToken": "CANARY"}}}
    (directory / ".credentials.json").write_text(json.dumps(login))
    (directory / "settings.json").write_text('{"model": "m", "permissions": {"deny": ["x"]}}')
    (directory / "CLAUDE.md").write_text("Be brief.")
    ((directory if moved else home) / ".claude.json").write_text(json.dumps(account))
    environment = {"CLAUDE_CONFIG_DIR": str(directory)} if moved else {}
    prepared = run(home, host_environment=environment)
    assert not prepared.notices
    assert read(prepared, ".claude/.credentials.json") == {"claudeAiOauth": {"accessToken": "T"}}
    assert read(prepared, ".claude.json") == {
        "oauthAccount": {"emailAddress": "a@b.example"},
        "primaryApiKey": "key",
        "theme": "light",
        "hasCompletedOnboarding": True,
        "projects": {"/workspace": {"hasTrustDialogAccepted": True}},
    }
    assert read(prepared, ".claude/settings.json") == {
        "model": "m",
        "permissions": {"deny": ["x"]},
        "skipDangerousModePermissionPrompt": True,
    }
    assert not any(b"CANARY" in file.data for file in prepared.files)
    without = run(home, host_environment=environment, with_host_files=False)
    assert {file.path for file in without.files} == {".claude.json", ".claude/settings.json"}
    assert not any(b"oauth" in file.data for file in without.files)


def test_a_login_is_passed_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    for text in (b'{ "claudeAiOauth":{}}', b"not json", b"[]"):
        (tmp_path / ".claude/.credentials.json").write_bytes(text)
        files = {file.path: file.data for file in run(tmp_path).files}
        assert files[".claude/.credentials.json"] == text


@pytest.mark.parametrize("text", ["[]", "{", "7"])
def test_a_malformed_account_file_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / ".claude.json").write_text(text)
    prepared = run(tmp_path)
    assert read(prepared, ".claude.json")["hasCompletedOnboarding"] is True
    assert "~/.claude.json of the host is left out" in prepared.notices[0]


def test_the_newest_conversation_of_the_workspace_is_resumed(tmp_path: Path) -> None:
    state = saved(
        {
            f"{PROJECT}/{ID}.jsonl": (TALK, 1.0),
            f"{PROJECT}/{OTHER}.jsonl": (TALK, 2.0),
            f"{PROJECT}/{'7' * 8}-2222-4333-8444-{'5' * 12}.jsonl": (b"", 3.0),
            f"{PROJECT}/{'8' * 8}-2222-4333-8444-{'5' * 12}.jsonl": (b'{"type":"mode"}\n', 4.0),
            f"{PROJECT}/agent-1234.jsonl": (TALK, 5.0),
            f"{PROJECT}/{OTHER}/sub/{ID}.jsonl": (TALK, 6.0),
            f".claude/projects/-elsewhere/{ID}.jsonl": (TALK, 7.0),
            f"{PROJECT}/{ID}.json": (TALK, 8.0),
        }
    )
    found = find_session_id(Claude(), state, ID)
    assert found == OTHER
    prepared = run(tmp_path, Launch(ID, resume=True, tool_session_id=found, saved=state))
    assert prepared.command[2:] == ("--resume", OTHER)


def test_of_two_at_the_same_time_the_choice_is_by_name() -> None:
    names = [f"{PROJECT}/{uuid}.jsonl" for uuid in (OTHER, ID)]
    for order in (names, names[::-1]):
        assert find_session_id(Claude(), saved(dict.fromkeys(order, (TALK, 1.0))), ID) == OTHER


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert find_session_id(Claude(), saved({}), ID) is None
    state = saved({f"{PROJECT}/{ID}.jsonl": b'{"type":"mode"}\n'})
    assert find_session_id(Claude(), state, ID) is None
    # The id is neither unused nor resumable: Claude Code refuses it both ways.
    prepared = run(tmp_path, Launch(ID, resume=True, saved=state))
    assert prepared.command == ("claude", "--dangerously-skip-permissions")


def test_a_long_conversation_is_not_searched_to_its_end() -> None:
    class Long:
        """A state whose one conversation is large."""

        def entries(self) -> Any:
            return saved({f"{PROJECT}/{ID}.jsonl": b"x" * ((1 << 20) + 1)}).entries()

        def read(self, path: object, limit: int = 0) -> bytes:
            raise AssertionError("read")

    assert find_session_id(Claude(), Long(), ID) == ID


def test_a_headless_run(tmp_path: Path) -> None:
    prepared = run(tmp_path, Launch(ID, prompt="-x: do it", binary="claude-next"))
    assert prepared.command[0] == "claude-next"
    assert prepared.command[-4:] == ("--output-format", "json", "--", "-x: do it")


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (".claude/.credentials.json", False),
        (".claude/.credentials.json.tmp.1", False),
        (".claude/backups/.claude.json.backup.1795462874806", False),
        (".claude/sessions/393.json", False),
        (".claude/sessions/393.db8e.key", False),
        (".claude/shell-snapshots/snapshot-bash-1-x.sh", False),
        (".claude/debug/a/b.txt", False),
        (".claude/ide/1.lock", False),
        (f"{PROJECT}/{ID}.jsonl", True),
        (f"{PROJECT}/memory/debug/cache/sessions/note.md", True),
        (".claude/history.jsonl", True),
        (".claude/settings.json", True),
        (".claude/todos/x.json", True),
        (".claude/file-history/x/y", True),
        (".claude.json", True),
    ],
)
def test_what_is_saved(path: str, kept: bool) -> None:
    tool = Claude()
    assert any(path == root or path.startswith(f"{root}/") for root in tool.state)
    left_out = any(fnmatchcase(path, p) for p in (*tool.state_exclude, *tool.secrets))
    assert left_out is not kept


def test_keys_are_not_saved_with_the_account() -> None:
    data = b'{"primaryApiKey": "k", "customApiKeyResponses": {"approved": ["t"]}, "theme": "x"}'
    kept = without_secret_keys(Claude(), ".claude.json", data)
    assert json.loads(kept or b"") == {"theme": "x"}


@pytest.mark.parametrize(("machine", "package"), [("x86_64", "x64"), ("aarch64", "arm64")])
def test_install(machine: str, package: str) -> None:
    script = Claude().install(ImageContext("debian", "12", machine))
    assert f"@anthropic-ai/claude-code-linux-{package} " in script
