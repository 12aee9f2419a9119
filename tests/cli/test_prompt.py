"""``coi run --prompt``: what is wrong with it is said before anything is made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from commandline import COI, CommandLine, assert_error
from fakes import FakeIncus

OPEN = "--network=open"


@pytest.fixture
def coi(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (("--prompt", "x", "ls"), "--prompt and a COMMAND exclude each other", "--tool"),
        (("--prompt", ""), "the prompt is empty", "--prompt - < FILE"),
        (("--prompt", " \n\t"), "the prompt is empty", "--prompt TEXT"),
        (("--prompt", "x" * (1 << 17)), "longer than 131071 bytes", "file of the workspace"),
        (("--prompt", "ü" * (1 << 16)), "longer than 131071 bytes", "file of the workspace"),
        (("--prompt", "\udcff"), "not UTF-8", "UTF-8"),
        ((), "coi run needs a COMMAND, or --prompt TEXT", "--prompt"),
        (("--prompt", "x", "--format", "xml"), "invalid format", "pretty or"),
        (("--prompt", "x", "--persistent"), "--persistent and --prompt", "removed"),
        (("--prompt", "x", "--resume=../x"), "not a session id", "coi list --all"),
        (("--prompt", "x", "--timeout", "-1"), "-1", "--help"),
    ],
)
def test_wrong_use(coi: CommandLine, arguments: tuple[str, ...], words: str, hint: str) -> None:
    done = coi("run", OPEN, *arguments)
    assert_error(done, 2, words, hint=hint)
    assert coi.left() == []


def test_standard_input_is_a_prompt_too(coi: CommandLine) -> None:
    for data in (b"", b"\n\n", b"x" * (1 << 18), b"\xff"):
        done = subprocess.run(
            [COI, "run", "--prompt", "-"],
            input=data, env=coi.environment, cwd=coi.home, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, data[:10]
        assert b"Error: the prompt is" in done.stderr


def test_a_tool_that_takes_no_prompt(coi: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    incus = FakeIncus.make(tmp_path / "fake")
    site = tmp_path / "site"
    (site / "coi_mute-1.0.dist-info").mkdir(parents=True)
    (site / "coi_mute-1.0.dist-info/METADATA").write_text("Name: coi-mute\nVersion: 1.0\n")
    (site / "coi_mute-1.0.dist-info/entry_points.txt").write_text("[coi.tools]\nmute = coi_mute\n")
    (site / "coi_mute.py").write_text(
        "from coi.api import Tool, hookimpl\n"
        "class Mute(Tool):\n"
        "    name = binary = 'mute'\n"
        "    def install(self, image): return 'true'\n"
        "    def command(self, launch): return ['mute']\n"
        "@hookimpl\n"
        "def coi_register_tools(register): register(Mute())\n"
    )
    done = coi.installed(
        "run", OPEN, "--tool", "mute", "--prompt", "x",
        environment={"PATH": incus.path, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert_error(done, 2, "mute takes no prompt from outside", hint="coi shell --tool mute")
    assert incus.calls() == []
