"""The dummy plugin: installed for real, its program run for real."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pexpect
import pytest
from pluginkit import ROOT

from coi.api import ImageContext, Launch, Tool
from coi.testing import saved
from coi.tools.manager import Manager
from coi.tools.prepare import find_session_id, prepare

SOURCE = ROOT / "fixtures/coi-dummy"
ID = "11111111-2222-4333-8444-555555555555"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coi_dummy", SOURCE / "coi_dummy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool(module: ModuleType) -> Tool:
    return module.Dummy()  # type: ignore[no-any-return]


@pytest.fixture
def program(tool: Tool, tmp_path: Path) -> Path:
    """The program as the install script writes it, into another directory."""
    script = tool.install(ImageContext("debian", "12", "x86_64"))
    script = script.replace("/usr/local/bin", str(tmp_path))
    done = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "dummy-tool 0.1.0\n"
    return tmp_path / "dummy-tool"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def talk(program: Path, home: Path, *args: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *args],
        input=said,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "GIVEN": "a 'b' $c"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_it_echoes_and_remembers(program: Path, home: Path) -> None:
    said = "hello CODE-PLUM\nCODE-KIWI and CODE-PLUM\ncodes?\nexit\nnot reached\n"
    done = talk(program, home, "--session-id", ID, said=said)
    assert done.stdout == (
        "dummy> you said: hello CODE-PLUM\ndummy> you said: CODE-KIWI and CODE-PLUM\n"
        "dummy> codes: CODE-PLUM CODE-KIWI\ndummy> "
    )
    assert done.returncode == 0
    log = home / f".dummy/{ID}.log"
    assert log.read_text() == "hello CODE-PLUM\nCODE-KIWI and CODE-PLUM\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_it_resumes(program: Path, home: Path) -> None:
    talk(program, home, "--session-id", ID, said="CODE-PLUM\nx\n")
    done = talk(program, home, "--resume", ID, said="history\n")
    assert done.stdout.startswith("resumed 2 turns\ndummy> codes: CODE-PLUM\n")


def test_an_id_is_used_once_and_resumed_only_when_used(program: Path, home: Path) -> None:
    assert talk(program, home, "--resume", ID).returncode == 1
    talk(program, home, "--session-id", ID, said="x\n")
    again = talk(program, home, "--session-id", ID, said="x\n")
    assert (again.returncode, "already in use" in again.stderr) == (1, True)
    assert talk(program, home).returncode == 2


def test_environment_and_headless(program: Path, home: Path) -> None:
    said = "env GIVEN\nenv NOT_GIVEN\nenv a[$(touch x)]\n"
    done = talk(program, home, "--session-id", ID, said=said)
    assert "GIVEN=a 'b' $c\n" in done.stdout
    assert "NOT_GIVEN=(unset)\n" in done.stdout
    assert "no such name" in done.stdout
    assert talk(program, home, "--session-id", ID, "-p", "hi").stdout == "you said: hi\n"


def test_on_a_terminal_the_prompt_is_there_at_once_and_ctrl_c_keeps_it(
    program: Path, home: Path
) -> None:
    began = time.monotonic()
    child = pexpect.spawn(
        str(program), ["--session-id", ID], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}
    )
    child.expect_exact("dummy> ", timeout=5)
    assert time.monotonic() - began < 2
    child.sendline("one")
    child.expect_exact("you said: one\r\ndummy> ", timeout=5)
    child.sendintr()
    child.expect_exact("dummy> ", timeout=5)
    child.sendline("exit")
    child.expect(pexpect.EOF, timeout=5)
    child.close()
    assert child.exitstatus == 0


def test_the_program_is_sound_shell(program: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", str(program)], check=True)


def test_what_goes_in(tool: Tool, home: Path) -> None:
    (home / ".dummy").mkdir()
    (home / ".dummy/credentials").write_text("token")
    (home / ".dummy/settings.json").write_text('{"tools": ["mine"], "quiet": false}')
    state = saved({f".dummy/{ID}.log": b"x\n", ".dummy/notes.txt": b"kept"})
    launch = Launch(ID, resume=True, tool_session_id=find_session_id(tool, state, ID), saved=state)
    prepared = prepare(
        tool, launch, host_home=home, host_environment={}, saved=state, with_host_files=True
    )
    files = {file.path: file.data for file in prepared.files}
    assert files[".dummy/credentials"] == b"token"
    assert json.loads(files[".dummy/settings.json"]) == {
        "tools": ["mine", "shell"],
        "quiet": True,
        "trusted": {"/workspace": True},
    }
    assert ".dummy/notes.txt" not in files
    assert prepared.command == ("dummy-tool", "--resume", ID)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plugin as pip installs it; its build backend comes from the registry."""
    target = tmp_path / "target"
    copy = tmp_path / "coi-dummy"
    shutil.copytree(SOURCE, copy)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(target), str(copy)], check=True, timeout=200)
    monkeypatch.syspath_prepend(str(target))
    yield target
    sys.modules.pop("coi_dummy", None)


def test_pip_installs_it_and_coi_finds_it(installed: Path) -> None:
    manager = Manager.load((), path=[str(installed)])
    assert manager.get("dummy").title == "Dummy"
    assert manager.tools["dummy"].distribution == "coi-dummy 0.1.0"
    assert manager.problems == ()
