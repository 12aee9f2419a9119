"""``coi tool``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from coi.cli.shapes import JSON_KEYS, keys_of

PLUGIN = """
from coi.api import HostFile, Tool, hookimpl

class It(Tool):
    name = "it"
    binary = "it"
    state = (".it",)
    secrets = (".it/key",)
    host_variables = ("IT_KEY", "IT_URL")
    def install(self, image): return "true"
    def command(self, launch): return ["it"]
    def host_files(self, host_environment):
        return (HostFile(".it/key", ".it/key", secret=True), HostFile(".it/set", ".it/set"))

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


def coi(site: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from coi.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env={"PATH": "/nonexistent", "HOME": str(site), "PYTHONPATH": str(site), **variables},
        cwd=site,
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
    assert "  Host files:  ~/.it/key (credential), ~/.it/set" in lines
    assert "  Variables:   IT_KEY, IT_URL" in lines
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


def test_what_would_go_in_now(site: Path) -> None:
    def told(**variables: str) -> tuple[list[tuple[object, ...]], dict[str, str], str]:
        done = coi(site, "tool", "info", "it", "--format", "json", **variables)
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)
        for where, keys in keys_of(data).items():
            assert keys == JSON_KEYS["tool info"][where]
        files = [
            tuple(row[key] for key in ("target", "status", "reason")) for row in data["host_files"]
        ]
        text = coi(site, "tool", "info", "it", **variables).stdout
        return files, {row["name"]: row["status"] for row in data["host_variables"]}, text

    (site / ".it").mkdir()
    (site / ".it/key").write_text("canary-content")
    files, variables, text = told(IT_KEY="canary-value", IT_URL="")
    assert files == [(".it/key", "present", None), (".it/set", "absent", None)]
    assert variables == {"IT_KEY": "set", "IT_URL": "unset"}
    assert "~/.it/key (credential, present)," in text
    assert "IT_KEY (set)," in text
    assert "canary" not in text

    (site / ".it/key").unlink()
    (site / ".it/key").symlink_to("/etc/passwd")
    (site / ".coi.toml").write_text("[tool.it]\ncredentials = ['.it/key']\n")
    files, variables, text = told(IT_KEY="canary-value")
    assert files[0] == (".it/key", "refused", f"a link out of {site}")
    assert variables == {"IT_KEY": "kept out", "IT_URL": "kept out"}
    assert f"(credential, refused: a link out of {site})" in text

    (site / ".coi.toml").write_text("[tool.it]\ncredentials = []\n")
    assert told(IT_KEY="x")[0] == [(".it/key", "kept out", None), (".it/set", "absent", None)]
    (site / ".coi.toml").write_text("[defaults]\nmount_claude_config = false\n")
    files, variables, _ = told(IT_KEY="x")
    assert {row[1] for row in files} | set(variables.values()) == {"kept out"}
    (site / ".coi.toml").write_text("[tool.it]\ncredentials = ['IT_KEYS', '\\u001b[2Jx']\n")
    done = coi(site, "tool", "info", "it")
    assert done.returncode == 2
    assert "credentials" in done.stderr


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
