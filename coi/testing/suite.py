"""The conformance suite: what every tool's plugin has to show, each for real.

``pytest --coi-tool NAME`` adds it to whatever else is collected; alone it is
``pytest --coi-tool NAME --pyargs coi.testing.suite``.
"""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest

from coi.api import ImageContext, Launch, Tool
from coi.testing.bench import AT_REST, Bench, new_code
from coi.testing.fixtures import (  # noqa: F401
    First,
    bare,
    bench,
    first,
    image,
    make,
    model,
    setup,
    tool,
)
from coi.testing.memory import MemoryState
from coi.testing.plugin import TOOLS
from coi.testing.screen import Screen
from coi.tools.manager import Manager
from coi.tools.prepare import answer, find_session_id, host_files, prepare

SESSION = "01234567-89ab-4cde-8f01-23456789abcd"
TRACEBACK = "Traceback (most recent call last)"
# What coi and the shell of a session write into the home by themselves.
NOT_THE_TOOLS = (".coi", ".bash_history", ".sudo_as_admin_successful")
CONTEXTS = [
    ImageContext(name, release, architecture)
    for name, release in (("debian", "12"), ("ubuntu", "22.04"))
    for architecture in ("x86_64", "aarch64")
]

container = pytest.mark.coi_container


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Everything for each tool that ``--coi-tool`` names."""
    if "name" in metafunc.fixturenames:
        names = dict.fromkeys(metafunc.config.getoption(TOOLS))
        metafunc.parametrize("name", list(names), scope="module")


# -- without a container


def test_it_is_registered(name: str) -> None:
    """coi finds the tool, and has nothing against what else the distribution registers."""
    manager = Manager.load()
    assert name in manager.tools, [f"{p.name}: {p.reason}" for p in manager.problems]
    distribution = manager.tools[name].distribution
    assert not [p.reason for p in manager.problems if f"({distribution})" in p.name]


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda c: f"{c.distribution}-{c.architecture}")
def test_its_installation_is_a_script(tool: Tool, context: ImageContext) -> None:
    """For every image that coi makes."""
    script = tool.install(context)
    assert isinstance(script, str)
    assert script.strip()
    assert "\0" not in script


@pytest.mark.parametrize("prompt", ["", "What is this?"], ids=["terminal", "headless"])
@pytest.mark.parametrize("root", [False, True], ids=["user", "root"])
def test_it_says_how_it_starts_and_resumes(
    tool: Tool, tmp_path: Path, prompt: str, root: bool
) -> None:
    """An argv for a first start and for a resumed one, and nothing that coi would refuse."""
    home = "/root" if root else "/home/code"
    common: dict[str, Any] = {"home": home, "root": root, "binary": tool.binary, "prompt": prompt}
    first = Launch(SESSION, **common)
    if prompt and tool.headless(first) is None:
        pytest.skip("it takes no prompt from outside")
    again = Launch(SESSION, resume=True, tool_session_id=SESSION, saved=MemoryState(), **common)
    for launch in (first, again):
        prepared = prepare(
            tool,
            launch,
            host_home=tmp_path,
            host_environment={},
            saved=launch.saved,
            with_host_files=True,
        )
        assert prepared.command[0] == tool.binary
        assert prompt in " ".join(prepared.command)
    find_session_id(tool, MemoryState(), SESSION)
    for output in ("", "{", "\x1b[31mno", "[]\n{}\n"):
        answer(tool, output)


def test_its_state_holds_no_credential(tool: Tool) -> None:
    """A credential of the host within the state is one of ``secrets`` or has ``secret_keys``."""
    assert tool.state, "it names no state: nothing could be resumed"
    kept = [
        wanted.target
        for wanted in host_files(tool, {})
        if wanted.secret
        and _within(wanted.target, tool.state)
        and not _within(wanted.target, (*tool.secrets, *tool.secret_keys))
    ]
    assert not kept, "would be saved with the conversation"


# -- in containers


@container
def test_it_is_installed(tool: Tool, image: str, bare: list[str]) -> None:
    """The session's user has the executable."""
    assert bare[0], f"the image {image!r} has no {tool.binary}"


@container
def test_it_reaches_its_prompt_and_answers(first: First) -> None:
    """On a terminal, with no question before it and no key pressed."""
    assert first.known == {first.code}
    assert TRACEBACK not in first.log


@container
def test_it_stays_within_its_paths(tool: Tool, first: First) -> None:
    """In the home it writes its state, its scratch files and what the plugin puts there."""
    launch = Launch(SESSION, binary=tool.binary)
    declared = [
        *tool.state,
        *tool.scratch,
        *NOT_THE_TOOLS,
        *(file.target for file in host_files(tool, {})),
        *(merge.target for merge in tool.merges(launch)),
        *(text.target for text in tool.files(launch)),
    ]
    assert [path for path in first.home if not _within(path, declared)] == []


@container
def test_it_leaves_the_workspace_clean(first: First) -> None:
    """A conversation alone changes no file of the project."""
    before, after = first.workspace
    assert after == before


@container
def test_it_saves_and_keeps_no_secret(tool: Tool, first: First) -> None:
    """The conversation is in the saved state, no credential is."""
    state = first.bench.state()
    assert state, "nothing was saved"
    assert_no_secret(first.bench, state)
    for path, keys in tool.secret_keys.items():
        if path in state:
            assert not set(json.loads(state[path])) & set(keys), path


@container
def test_it_remembers_across_power_off(first: First) -> None:
    """Resumed in a fresh container, it knows what was said in the one that is gone."""
    bench = first.bench
    screen = bench.start("--resume")
    code = new_code()
    assert bench.ask(screen, code) == {first.code, code}
    bench.end(screen)


@container
def test_two_slots_have_two_conversations(bench: Bench) -> None:
    """At once, in one workspace."""
    one, two = bench.start(), bench.start()
    codes = new_code(), new_code()
    assert bench.ask(one, codes[0]) == {codes[0]}
    assert bench.ask(two, codes[1]) == {codes[1]}
    assert len(bench.host.instances()) == 2
    for screen in (one, two):
        screen.detach()
        screen.ended()
    bench.host.drop()


@container
def test_it_answers_a_prompt_without_a_terminal(tool: Tool, bench: Bench) -> None:
    """``coi run --prompt``: one JSON object, by whose session the next prompt goes on."""
    asked = [*bench.setup.prompts(first := new_code()), *bench.setup.prompts(second := new_code())]
    if tool.headless(Launch(SESSION, binary=tool.binary, prompt=asked[0])) is None:
        refused = bench.run(asked[0])
        assert refused.code == 2, refused
        assert "takes no prompt" in refused.err
        return
    answers: list[str] = []
    resume: list[str] = []
    for prompt in asked:
        said = bench.run(prompt, *resume).ok().json
        assert set(said) >= {"session_id", "tool", "tool_session_id", "answer", "exit_code"}
        assert (said["tool"], said["exit_code"]) == (tool.name, 0)
        answers.append(said["answer"])
        resume = [f"--resume={said['session_id']}"]
    assert len({row["id"] for row in bench.host.saved()}) == 1, "one conversation"
    assert bench.setup.codes(first, answers[len(asked) // 2 - 1]) == {first}
    assert bench.setup.codes(second, answers[-1]) == {first, second}
    assert_no_secret(bench, bench.state())


@container
def test_it_runs_what_the_model_asks_for(bench: Bench) -> None:
    """Unattended: no question stands before a command, which changes the workspace."""
    if not bench.setup.runs_commands:
        pytest.skip("its setup does not say that it runs commands")
    screen = bench.start()
    bench.ask(screen, code := new_code())
    bench.type(screen, f"run command: echo {code} > /workspace/made")
    made = bench.host.workspace / "made"
    screen.until(made.exists, timeout=bench.setup.patience, what="the command's file")
    bench.end(screen)
    assert made.read_text() == f"{code}\n"
    assert made.stat().st_uid == bench.host.user.uid


@container
def test_it_survives_kill_9_of_coi(bench: Bench) -> None:
    """The session goes on without coi, and is found again."""
    screen = bench.start()
    first, second = new_code(), new_code()
    bench.ask(screen, first)
    bench.kill_coi(screen)
    assert list(bench.host.instances().values()) == ["Running"]
    again = bench.start("--resume")
    assert bench.ask(again, second) == {first, second}
    bench.end(again)


@container
def test_it_survives_kill_9_of_itself(bench: Bench) -> None:
    """Killed, it leaves a conversation that a fresh container goes on with."""
    screen = bench.start()
    first, second = new_code(), new_code()
    bench.ask(screen, first)
    bench.kill_tool()
    screen.expect(r"ended with exit code \d+")
    bench.host.inside("poweroff", ok=False)
    screen.ended()
    bench.host.settled()
    again = bench.start("--resume")
    assert bench.ask(again, second) == {first, second}
    bench.end(again)


@container
def test_it_bears_having_no_credentials(bench: Bench) -> None:
    """A message of the tool's is fine, a traceback is not."""
    bench.without_credentials()
    _look(bench, bench.shell())


@container
def test_it_bears_broken_credentials(tool: Tool, bench: Bench) -> None:
    """The host's files of credentials are nonsense, and are not saved either."""
    for wanted in host_files(tool, bench.host.environ):
        if wanted.secret and not wanted.source.startswith("/"):
            bench.host.write(Path("home", wanted.source), f"{{{bench.key}\x01", 0o600)
    _look(bench, bench.shell())
    assert_no_secret(bench, bench.state())


def _look(bench: Bench, screen: Screen) -> None:
    """What becomes of a session on the screen, then its end by ``coi shutdown``."""
    screen.expect_log("Session ID: ")
    screen.rest(AT_REST, timeout=bench.setup.patience)
    assert TRACEBACK not in screen.log, screen.dump()
    done = bench.host.coi("shutdown", bench.host.instance()).ok()
    assert TRACEBACK not in done.err
    screen.end()
    assert TRACEBACK not in screen.log, screen.dump()


def assert_no_secret(bench: Bench, state: dict[str, bytes]) -> None:
    """No file that is declared secret is in a saved state, and the key in none of them."""
    assert not [path for path in state if _within(path, bench.tool.secrets)]
    assert not [path for path, data in state.items() if bench.key.encode() in data]


def _within(path: str, declared: Any) -> bool:
    """Whether a path is one of the declared, matches one or is below one."""
    return any(
        path == entry or path.startswith(f"{entry}/") or fnmatch.fnmatchcase(path, entry)
        for entry in declared
    )
