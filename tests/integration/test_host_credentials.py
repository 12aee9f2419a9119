"""What of the host goes in with a tool, and that it is never changed from inside."""

from __future__ import annotations

import json
import tarfile

from prompting import obedient

from coi.testing.host import Host
from coi.testing.machine import incus, wait_for

KEY = "sk-ant-canary-0123456789abcdefghijklmnop"
HOST = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "http://127.0.0.1:1", "AWS_SECRET": "no"}
LOGIN = json.dumps({"claudeAiOauth": {"accessToken": "canary-login"}})
SHOW = "env | grep -e ANTHROPIC -e AWS; cat ~/.claude/.credentials.json ~/.claude/settings.json"


def login(host: Host) -> Host:
    host.write("home/.claude/.credentials.json", LOGIN, 0o600)
    host.write("home/.claude/settings.json", '{"model": "canary-model"}')
    host.write("home/.claude.json", '{"primaryApiKey": "canary-primary", "theme": "light"}')
    return host


def shown(host: Host, script: str = SHOW, *args: str, **environ: str) -> str:
    done = host.coi("run", "-q", *args, "--prompt", script, environ={**HOST, **environ})
    return done.out + done.err


def test_variables_go_in_afresh_and_the_users_own_win(host: Host) -> None:
    obedient(login(host), "claude")
    first = host.coi("run", "--format", "json", "--prompt", SHOW, environ=HOST).ok().json
    for value in (f"ANTHROPIC_API_KEY={KEY}", "canary-login", "canary-model", "127.0.0.1:1"):
        assert value in first["answer"]
    assert "AWS" not in first["answer"]
    saved = host.state_file(first["session_id"]).read_bytes()
    for secret in (KEY, KEY[-20:], "canary-login", "canary-primary"):
        assert secret.encode() not in saved
    assert b"canary-model" in saved, "the look is a real one"
    resumed = f"--resume={first['session_id']}"
    again = shown(host, SHOW, resumed, ANTHROPIC_API_KEY="fresh-key", ANTHROPIC_BASE_URL="")
    assert "ANTHROPIC_API_KEY=fresh-key" in again
    assert KEY not in again
    assert "ANTHROPIC_BASE_URL" not in again
    own = shown(host, SHOW, "-e", "ANTHROPIC_API_KEY=of-the-command-line")
    assert "ANTHROPIC_API_KEY=of-the-command-line" in own
    host.settled()


def test_they_go_into_a_terminals_session_and_nowhere_else(host: Host) -> None:
    login(host)
    host.coi("shell", "--background", "--tool", "claude", environ=HOST).ok()
    environment = host.inside("su code -c 'sh -c \". ~/.coi/env; env\"'")
    assert f"ANTHROPIC_API_KEY={KEY}" in environment
    assert "AWS" not in environment
    account = json.loads(host.inside("cat /home/code/.claude.json"))
    assert account["customApiKeyResponses"]["approved"] == [KEY[-20:]]
    assert host.inside("stat -c '%a %U' /home/code/.coi/env") == "600 code\n"
    assert KEY not in incus("config", "show", "--expanded", host.instance()).ok().out
    host.drop()
    # a command is no tool
    assert KEY not in host.coi("run", "--tool", "claude", "env", environ=HOST).ok().out


def test_what_is_not_listed_stays_out(host: Host) -> None:
    cases = {
        "[tool.claude]\ncredentials = []\n": set[str](),
        '[tool.claude]\ncredentials = ["ANTHROPIC_API_KEY"]\n': {KEY},
        '[tool.claude]\ncredentials = ["~/.claude/.credentials.json"]\n': {"canary-login"},
    }
    secrets = {KEY, "canary-login", "canary-primary", "127.0.0.1:1"}
    for more, wanted in cases.items():
        obedient(login(host), "claude", more)
        text = shown(host, SHOW + " ~/.claude.json")
        assert {secret for secret in secrets if secret in text} == wanted, more
        assert "canary-model" in text, "settings without a credential go in"
        assert "light" in text
    # a repository that nobody trusts may keep more out, and let nothing in
    obedient(login(host), "claude", '[tool.claude]\ncredentials = ["ANTHROPIC_API_KEY"]\n')
    project = '[tool.claude]\ncredentials = [".claude/.credentials.json"]\n'
    host.write("ws/.coi.toml", project)
    text = shown(host)
    assert not {secret for secret in secrets if secret in text}
    assert "canary-model" in text
    (host.workspace / ".coi.toml").unlink()
    obedient(login(host), "claude", '[tool.claude]\ncredentials = ["ANTHROPIC_API_KEYS"]\n')
    wrong = host.coi("run", "--prompt", SHOW)
    assert wrong.code == 2
    assert "Claude Code has no 'ANTHROPIC_API_KEYS'" in wrong.err
    assert "allowed are: .claude/.credentials.json, .claude.json, ANTHROPIC_API_KEY" in wrong.err
    host.settled()


def test_all_of_it_can_be_switched_off(host: Host) -> None:
    obedient(login(host), "claude")
    host.config(
        f'[defaults]\nimage = "{host.image}"\nmount_claude_config = false\n'
        '[tool]\nname = "claude"\nbinary = "/workspace/obey"\n'
    )
    text = shown(host, SHOW + " ~/.claude.json")
    for value in (KEY, "canary-login", "canary-primary", "canary-model", "light"):
        assert value not in text
    assert "hasCompletedOnboarding" in text
    host.settled()


def test_what_is_refreshed_inside_stays_inside(host: Host) -> None:
    obedient(login(host), "claude")
    path = host.home / ".claude/.credentials.json"
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    script = (
        "echo refreshed-token > ~/.claude/.credentials.json; "
        "echo refreshed-token > ~/.claude/settings.json; cat ~/.claude/.credentials.json"
    )
    done = host.coi("run", "--format=json", "--prompt", script).ok().json
    assert done["answer"] == "refreshed-token\n", "it was changed inside"
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    with tarfile.open(host.state_file(done["session_id"])) as tar:
        settings = tar.extractfile(".claude/settings.json")
        assert settings
        assert settings.read() == b"refreshed-token\n", "what is no credential is saved"
        assert ".claude/.credentials.json" not in tar.getnames()
    resumed = host.coi("run", "-q", "--resume", "--prompt", "cat ~/.claude/.credentials.json")
    assert resumed.ok().out == LOGIN + "\n"
    assert path.read_bytes() == before[0]
    host.settled()


def test_a_plugin_that_fails_leaves_nothing(host: Host) -> None:
    site = host.directory("site")
    host.directory("site/coi_broken-1.0.dist-info")
    host.write("site/coi_broken-1.0.dist-info/METADATA", "Name: coi-broken\nVersion: 1.0\n")
    host.write(
        "site/coi_broken-1.0.dist-info/entry_points.txt", "[coi.tools]\nbroken = coi_broken\n"
    )
    plugin = (
        "from coi.api import Tool, hookimpl\n"
        "class Broken(Tool):\n"
        "    name, binary, state = 'broken', 'dummy-tool', ('.broken',)\n"
        "    def install(self, image): return 'true'\n"
        "    def command(self, launch): raise SystemExit('\\x1b[2Jgone')\n"
        "    def headless(self, launch): return ['sh', '-c', 'mkdir ~/.broken; "
        "echo x > ~/.broken/x; echo said']\n"
        "    def answer(self, output): 1 / 0\n"
        "    def find_session_id(self, saved, session_id): return object()\n"
        "@hookimpl\n"
        "def coi_register_tools(register): register(Broken())\n"
    )
    host.write("site/coi_broken.py", plugin)
    environ = {"PYTHONPATH": str(site)}
    done = host.coi("shell", "--background", "--tool", "broken", environ=environ)
    assert (done.code, done.out) == (1, "")
    assert "Error: the plugin of tool 'broken' failed in command()\n  SystemExit: gone" in done.err
    assert "COI_DISABLED_PLUGINS" in done.err
    host.settled()
    assert host.saved() == []
    # one that fails after its tool has answered takes nothing from the answer
    done = host.coi(
        "run", "--format=json", "--tool", "broken", "--prompt", "x", environ=environ
    ).ok()
    assert (done.json["answer"], done.json["tool_session_id"]) == ("said\n", None)
    assert done.json["saved"]
    for method in ("answer", "find_session_id"):
        lines = [line for line in done.err.splitlines() if f"failed in {method}()" in line]
        assert len(lines) == 1
    host.settled()
    refused = host.coi(
        "run", "--tool", "broken", "--prompt", "x",
        environ={**environ, "COI_DISABLED_PLUGINS": "broken"},
    )  # fmt: skip
    assert refused.code == 3
    assert "disabled by COI_DISABLED_PLUGINS" in refused.err
    wait_for(lambda: not host.instances())
