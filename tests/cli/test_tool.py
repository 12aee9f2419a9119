"""``coi tool``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = """
from coi.api import HostFile, Tool, hookimpl

class It(Tool):
    name = "it"
    binary = "it"
    state = (".it",)
    secrets = (".it/key",)
    def install(self, image): return "true"
    def command(self, launch): return ["it"]
    def host_files(self, host_environment): return (HostFile(".it/key", ".it/key", secret=True),)

@hookimpl
def coi_register_tools(register):
    register(It())
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """One good and one broken plugin."""
    for module, text in (("coi_it", PLUGIN), ("coi_bad", "raise SystemExit('\\x1b[2J gone')")):
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {module.replace('_', '-')}\nVersion: 1.0\n")
        name = module.removeprefix("coi_")
        (info / "entry_points.txt").write_text(f"[coi.tools]\n{name} = {module}\n")
    return tmp_path


def coi(site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from coi.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env={"PATH": "/nonexistent", "HOME": str(site), "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_list(site: Path) -> None:
    done = coi(site, "tool", "list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    names = [line for line in lines if not line.startswith(" ")]
    assert names[0] == "claude:"
    assert "it:" in names
    assert "bad:" not in names
    assert "  From:        coi-it 1.0 (plugin)" in lines
    assert "  State:       ~/.claude, ~/.claude.json" in lines
    assert "  Credentials: ~/.it/key" in lines
    assert "  Host files:  ~/.it/key (credential)" in lines
    assert "Skipped bad (coi-bad 1.0): SystemExit" in done.stderr
    assert "\x1b" not in done.stderr


def test_list_as_json(site: Path) -> None:
    report = json.loads(coi(site, "tool", "list", "--format", "json").stdout)
    tools = {tool["name"]: tool for tool in report["tools"]}
    assert {"claude", "it"} <= set(tools)
    assert tools["it"]["origin"] == "plugin"
    assert tools["it"]["distribution"] == "coi-it 1.0"
    assert tools["it"]["credentials"] == [".it/key"]
    assert [problem["name"] for problem in report["problems"]] == ["bad (coi-bad 1.0)"]


def test_info(site: Path) -> None:
    done = coi(site, "tool", "info", "it")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("it:\n")
    data = json.loads(coi(site, "tool", "info", "claude", "--format", "json").stdout)
    assert data["binary"] == "claude"
    assert data["state"] == [".claude", ".claude.json"]


def test_new(site: Path, tmp_path: Path) -> None:
    where = tmp_path / "a b"
    done = coi(site, "tool", "new", "parrot", "--dir", str(where))
    assert (done.returncode, done.stdout) == (0, f"Wrote {where}\n")
    assert f"Next: cd '{where}'" in done.stderr
    assert f"{sys.executable} -m pip install ." in done.stderr
    assert "coi shell --tool parrot --image coi-parrot" in done.stderr
    assert (where / "coi_parrot.py").is_file()
    again = coi(site, "tool", "new", "parrot", "--dir", str(where))
    assert (again.returncode, again.stdout) == (1, "")
    assert f"Error: {str(where)!r} is there already" in again.stderr
    assert "Hint: coi tool new parrot --dir ANOTHER" in again.stderr
    taken = coi(site, "tool", "new", "it", "--dir", str(tmp_path / "it"))
    assert (taken.returncode, taken.stdout) == (2, "")
    assert "the name 'it' is taken by coi-it 1.0" in taken.stderr
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["info", "nope"], 3, "Hint: installed tools: claude, "),
        (["info"], 2, "coi tool info --help"),
        (["new"], 2, "coi tool new --help"),
        (["new", "No/Name"], 2, "bad tool name 'No/Name'"),
        (["info", "it", "--format", "xml"], 2, "invalid format"),
        (["list", "--format", "xml"], 2, "invalid format"),
        ([], 2, "coi tool list"),
    ],
)
def test_wrong_use(site: Path, args: list[str], code: int, text: str) -> None:
    done = coi(site, "tool", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
