"""How every tool beside Claude Code is started and installed, and what its output means.

As measured with the real ones; one table for each thing that a tool says.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomli
from pluginkit import ID, OTHER, ROOT, TOOLS, run, tool

from coi.api import ImageContext, Launch
from coi.testing import saved
from coi.tools.prepare import answer

PROMPT = '-x: say "hi"  twice'


# -- how it is started

STARTS = {
    "aider": ([], []),
    "codex": ([], ["resume", OTHER]),
    "copilot": ([f"--session-id={ID}"], [f"--session-id={OTHER}"]),
    "cursor": ([], ["--resume", OTHER]),
    "gemini": (["--session-id", ID], ["--resume", OTHER]),
    "opencode": ([], ["--continue"]),
    "qwen": (["--session-id", ID], ["--resume", OTHER]),
}
ASKS = {
    "aider": [f"--message={PROMPT}"],
    "codex": ["--json", "--skip-git-repo-check", "--", PROMPT],
    "copilot": ["--output-format=json", f"--prompt={PROMPT}"],
    "cursor": ["--print", "--trust", "--output-format", "json", "--", PROMPT],
    "gemini": ["-o", "stream-json", f"--prompt={PROMPT}"],
    "opencode": ["run", "--format", "json", "--", *PROMPT.split(" ")],
    "qwen": ["-o", "stream-json", f"--prompt={PROMPT}"],
}
UNATTENDED = {
    "aider": [],
    "codex": ["--dangerously-bypass-approvals-and-sandbox"],
    "copilot": ["--yolo"],
    "cursor": ["--force"],
    "gemini": ["--yolo", "--skip-trust"],
    "opencode": ["--auto"],
    "qwen": ["--yolo"],
}


def assert_in_order(words: list[str], argv: tuple[str, ...]) -> None:
    rest = iter(argv)
    assert all(word in rest for word in words), f"{words} not in {argv}"


@pytest.mark.parametrize("prompt", ["", PROMPT])
@pytest.mark.parametrize("name", TOOLS)
def test_start_and_resume(name: str, prompt: str, tmp_path: Path) -> None:
    fresh, resumed = STARTS[name]
    launches = (
        (fresh, Launch(ID, prompt=prompt, binary="other")),
        (resumed, Launch(ID, prompt=prompt, resume=True, tool_session_id=OTHER)),
    )
    for words, launch in launches:
        argv = run(name, tmp_path, launch).command
        assert argv[0] == (launch.binary or tool(name).binary)
        assert_in_order(words, argv)
        assert_in_order(UNATTENDED[name], argv)
        if prompt:
            assert_in_order(ASKS[name], argv)
            assert argv[-1].endswith("twice")
        else:
            assert not any("twice" in word for word in argv)
    assert not set(resumed) & set(run(name, tmp_path).command)


def test_a_conversation_of_gemini_that_cannot_be_resumed_gets_another_id(tmp_path: Path) -> None:
    state = saved({f".gemini/tmp/workspace/chats/session-2026-11-28T12-20-{ID[:8]}.jsonl": b"{}"})
    launch = Launch(ID, resume=True, saved=state)
    assert "--session-id" not in run("gemini", tmp_path, launch).command


def test_aider_writes_nothing_into_the_workspace(tmp_path: Path) -> None:
    environment = run("aider", tmp_path, Launch(ID, home="/root")).environment
    files = {value for key, value in environment.items() if key.endswith("_FILE")}
    assert files == {f"/root/.aider/sessions/{ID}/{file}" for file in ("chat.md", "input")}
    for option in ("AUTO_COMMITS", "DIRTY_COMMITS", "GITIGNORE"):
        assert environment[f"AIDER_{option}"] == "false"
    resumed = run("aider", tmp_path, Launch(ID, tool_session_id=OTHER)).environment
    assert resumed["AIDER_CHAT_HISTORY_FILE"].endswith(f"/{OTHER}/chat.md")


def test_codex_gets_its_settings_as_flags(tmp_path: Path) -> None:
    argv = run("codex", tmp_path).command
    settings = [word for flag, word in itertools.pairwise(argv) if flag == "-c"]
    merged: dict[str, Any] = {}
    for setting in settings:
        merged |= tomli.loads(setting)
    assert merged["projects"] == {"/workspace": {"trust_level": "trusted"}}
    assert merged["check_for_update_on_startup"] is False
    assert run("codex", tmp_path).files == ()


# -- what it says

SAID = {
    "aider": (
        "some notice\nAider v0.86.2\nModel: x with whole edit format\nGit repo: none\n\n"
        "The answer.\n\nIts second part.\n\n"
        "Tokens: 10 sent, 5 received. Cost: $0.01 message.\n\na.py\nApplied edit to a.py\n",
        "The answer.\n\nIts second part.\n\na.py\nApplied edit to a.py",
        None,
    ),
    "codex": (
        f'{{"type":"thread.started","thread_id":"{OTHER}"}}\n'
        '{"type":"item.completed","item":{"type":"error","message":"fallback"}}\n'
        '{"type":"item.completed","item":{"type":"agent_message","text":"Wait."}}\n'
        '{"type":"item.completed","item":{"type":"agent_message","text":"The\\nanswer"}}\n'
        '{"type":"turn.completed","usage":{}}\n',
        "The\nanswer",
        OTHER,
    ),
    "copilot": (
        '{"type":"assistant.message","data":{"content":"Wait.","toolRequests":[{}]}}\n'
        '{"type":"assistant.message_delta","data":{"deltaContent":"The"}}\n'
        '{"type":"assistant.message","data":{"content":"The\\nanswer"}}\n'
        '{"type":"assistant.message","data":{"content":""}}\n'
        f'{{"type":"result","sessionId":"{OTHER}","exitCode":0}}\n',
        "The\nanswer",
        OTHER,
    ),
    "cursor": (
        f'{{"type":"result","is_error":false,"result":"The\\nanswer","session_id":"{OTHER}"}}\n',
        "The\nanswer",
        OTHER,
    ),
    "gemini": (
        f'{{"type":"init","session_id":"{OTHER}","model":"m"}}\n'
        '{"type":"message","role":"user","content":"hi"}\n'
        '{"type":"message","role":"assistant","content":"Wait.","delta":true}\n'
        '{"type":"tool_use","tool_name":"x"}\n{"type":"tool_result","output":"y"}\n'
        '{"type":"message","role":"assistant","content":"The\\n","delta":true}\n'
        '{"type":"message","role":"assistant","content":"answer","delta":true}\n'
        '{"type":"result","status":"success"}\n',
        "The\nanswer",
        OTHER,
    ),
    "opencode": (
        '{"type":"text","sessionID":"ses_1","part":{"messageID":"msg_1","text":"Wait."}}\n'
        '{"type":"text","sessionID":"ses_1","part":{"messageID":"msg_2","text":"The"}}\n'
        '{"type":"text","sessionID":"ses_1","part":{"messageID":"msg_2","text":"answer"}}\n',
        "The\nanswer",
        "ses_1",
    ),
    "qwen": (
        f'{{"type":"system","subtype":"init","session_id":"{OTHER}"}}\n'
        '{"type":"assistant","message":{"content":[{"type":"text","text":"Wait."}]}}\n'
        f'{{"type":"result","is_error":false,"result":"The\\nanswer","session_id":"{OTHER}"}}\n',
        "The\nanswer",
        OTHER,
    ),
}


@pytest.mark.parametrize("name", TOOLS)
def test_the_answer_and_the_id(name: str) -> None:
    output, text, found = SAID[name]
    said = answer(tool(name), output)
    assert (said.text, said.session_id) == (text, found)
    deep = '{"a":' * 9000
    noisy = answer(tool(name), f"a warning\n{output}{deep}\n{{not json}}\n[1]\n")
    assert noisy.session_id == found
    assert text in noisy.text


@pytest.mark.parametrize("name", TOOLS)
def test_an_output_that_is_cut_off_or_nonsense_breaks_nothing(name: str) -> None:
    it, output = tool(name), SAID[name][0]
    for cut in range(0, len(output), 7):
        answer(it, output[:cut])
    kinds = set(re.findall(r'"type":"([^"]*)"', output)) | {"error"}
    keys = set(re.findall(r'"(\w+)":', output)) - {"type"}
    values: list[Any] = [None, 7, [], {}, "x"]
    for kind, value in itertools.product(kinds, values):
        answer(it, json.dumps({"type": kind, **dict.fromkeys(keys, value)}))


# -- how it gets into an image

PACKAGES = {
    "aider": " aider-chat\n",
    "codex": " @openai/codex\n",
    "copilot": " @github/copilot\n",
    "cursor": "https://cursor.com/install ",
    "gemini": " @google/gemini-cli\n",
    "opencode": " opencode-linux-{arch}\n",
    "qwen": " @qwen-code/qwen-code\n",
}


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "x64-baseline"), ("aarch64", "arm64")])
@pytest.mark.parametrize("name", TOOLS)
def test_install(name: str, machine: str, arch: str) -> None:
    script = tool(name).install(ImageContext("debian", "12", machine))
    assert PACKAGES[name].format(arch=arch) in script
    checked = subprocess.run(
        ["sh", "-n"], input=script, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_launcher_of_aider_is_python() -> None:
    script = tool("aider").install(ImageContext("debian", "12", "x86_64"))
    launcher = script.split("<<'END_OF_LAUNCHER'\n")[1].split("END_OF_LAUNCHER\n")[0]
    compile(launcher, "aider", "exec")


def test_the_packages_are_what_the_table_says() -> None:
    folders = {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    assert folders == {f"coi-{name}" for name in TOOLS if name != "aider"}
    for folder in folders:
        project = tomli.loads((ROOT / "plugins" / folder / "pyproject.toml").read_text())
        name = folder.removeprefix("coi-")
        assert project["project"]["entry-points"]["coi.tools"] == {name: f"coi_{name}"}
        source = (ROOT / "plugins" / folder / f"coi_{name}.py").read_text()
        imported = [
            line for line in source.splitlines() if line.startswith(("from coi", "import coi"))
        ]
        assert imported == ["from coi.api import ("], "a plugin sees coi.api alone"
