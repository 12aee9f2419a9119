"""`coi config show` and `coi trust` as they are typed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
import tomli

from coi.cli.main import run

Coi = Callable[..., tuple[int, str, str]]
WIDENING = "[defaults]\nmax_slots = 4\n[network]\nmode = 'open'\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("COI_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place.resolve()


@pytest.fixture
def coi(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Coi:
    def call(*argv: str) -> tuple[int, str, str]:
        code = run(list(argv))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_show_is_toml(coi: Coi) -> None:
    code, out, err = coi("config", "show")
    assert (code, err) == (0, "")
    assert tomli.loads(out)["defaults"]["image"] == "coi"


def test_show_origin(coi: Coi, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / ".coi.toml").write_text(WIDENING)
    monkeypatch.setenv("COI_TOOL_NAME", "codex")
    code, out, err = coi("--image", "mine", "config", "show", "--origin")
    lines = {tuple(part.strip() for part in line.split("  # ")) for line in out.splitlines()}
    assert code == 0
    assert ('image = "mine"', "--image") in lines
    assert ('name = "codex"', "COI_TOOL_NAME") in lines
    assert ("max_slots = 4", f"{workspace}/.coi.toml") in lines
    assert ('mode = "restricted"', "built-in") in lines
    assert err == (
        f"{workspace}/.coi.toml is not trusted: network.mode waits for approval "
        "(read it, then: coi trust)\n"
    )


def test_show_json(coi: Coi, workspace: Path) -> None:
    (workspace / ".coi.toml").write_text(WIDENING)
    code, out, _ = coi("config", "show", "--format", "json", "--origin")
    data = json.loads(out)
    assert code == 0
    assert set(data) == {"config", "profile", "profiles", "untrusted", "withheld", "origins"}
    assert data["withheld"] == ["network.mode"]
    assert data["config"]["defaults"]["max_slots"] == 4


def test_show_of_another_workspace(coi: Coi, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / ".coi.toml").write_text("[tool]\nname = 'aider'\n")
    assert 'name = "aider"' in coi("config", "show", "-w", str(other))[1]
    assert 'name = "claude"' in coi("config", "show")[1]


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("config", "show", "--format", "yaml"), 2, "Error: invalid format 'yaml'"),
        (("config",), 2, "Hint: coi config show"),
        (("--network", "none", "config", "show"), 2, "Error: --network must be one of open"),
        (("--profile", "rust", "config", "show"), 3, "Error: there is no profile rust"),
        (("trust",), 3, "Error: there is no "),
        (("trust", "--list", "--yes"), 2, "Error: --list stands alone"),
        (("trust", "--revoke", "--yes"), 2, "Error: --revoke does not ask"),
        (("trust", "--revoke"), 3, ".coi.toml is not trusted"),
    ],
)
def test_errors(coi: Coi, argv: tuple[str, ...], code: int, said: str) -> None:
    got, out, err = coi(*argv)
    assert (got, out) == (code, "")
    assert said in err
    assert "Usage" not in err


def test_a_wrong_file(coi: Coi, workspace: Path) -> None:
    (workspace / ".coi.toml").write_text('[defaults]\n"im\\u001b[2Jage" = 1\n')
    code, out, err = coi("config", "show")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {workspace}/.coi.toml: unknown key defaults.")
    assert "\x1b" not in err
    assert "[defaults] may hold: image, persistent" in err
    assert coi("trust", "--yes")[0] == 2


def test_trust_round_trip(coi: Coi, workspace: Path) -> None:
    file = workspace / ".coi.toml"
    file.write_text(WIDENING + "# \u202e\n")
    code, out, err = coi("trust", "--yes")
    assert (code, out) == (0, f"Trusted {file}\n")
    assert "\u202e" not in err
    assert "\\u202e" in err
    waits = err.index("Takes effect when you trust it:")
    assert err.index("In effect without approval:\n  defaults.max_slots = 4") < waits
    assert err.index('  network.mode = "open"') > waits
    assert 'mode = "open"' in coi("config", "show")[1]
    assert coi("trust")[1] == f"Already trusted {file}\n"
    assert coi("trust", "--list")[1].split()[::2] == ["trusted", str(file)]
    file.write_text(file.read_text() + "\n")
    assert coi("trust", "--list")[1].split()[0] == "changed"
    assert 'mode = "restricted"' in coi("config", "show")[1]
    assert coi("trust", "--revoke", str(file))[1] == f"Revoked {file}\n"
    assert coi("trust", "--list")[1:] == ("", "Nothing is trusted.\n")


def test_trust_of_a_named_workspace(coi: Coi, workspace: Path, tmp_path: Path) -> None:
    (workspace / ".coi.toml").write_text(WIDENING)
    os.chdir(tmp_path)
    assert coi("trust", "--yes", "work")[0] == 0
    assert coi("trust", "--revoke", "work/.coi.toml")[0] == 0
    assert coi("-w", "work", "trust", "--yes")[0] == 0


def test_trust_shows_long_values_whole(coi: Coi, workspace: Path) -> None:
    mounts = ", ".join(f'{{host = "/h{n}", container = "/c{n}"}}' for n in range(50))
    (workspace / ".coi.toml").write_text(f"[mounts]\ndefault = [{mounts}]\n")
    review = coi("trust", "--yes")[2].partition("Takes effect")[2]
    assert '{ host = "/h49", container = "/c49", readonly = false }' in review


def test_trust_refuses_without_a_terminal(
    coi: Coi, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / ".coi.toml").write_text(WIDENING)
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        code, out, err = coi("trust")
    assert (code, out) == (5, "")
    assert "Hint: read it, then: coi trust --yes" in err
    assert 'network.mode = "open"' in err
    assert coi("trust", "--list")[1] == ""


def test_trust_refuses_a_link(coi: Coi, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_text(WIDENING)
    (workspace / ".coi.toml").symlink_to(tmp_path / "real")
    code, _, err = coi("trust", "--yes")
    assert code == 5
    assert "is a symbolic link" in err
    code, _, err = coi("config", "show")
    assert code == 0
    assert "is ignored: it is a symbolic link" in err


@pytest.mark.parametrize(
    ("argv", "answer", "code", "said"),
    [
        (["trust"], "y", 0, "Trusted "),
        (["-q", "trust"], "yes", 0, "Trusted "),
        (["trust"], "", 1, "Not trusted."),
        (["trust"], "n", 1, "Not trusted."),
        (["trust"], "\x03", 130, "Error: interrupted"),
        (["trust"], "\x04", 130, "Error: interrupted"),
    ],
)
def test_trust_asks(workspace: Path, argv: list[str], answer: str, code: int, said: str) -> None:
    (workspace / ".coi.toml").write_text(WIDENING)
    child = pexpect.spawn(
        sys.executable,
        ["-c", "import sys; from coi.cli.main import main; sys.exit(main())", *argv],
        encoding="utf-8",
        timeout=30,
    )
    try:
        child.expect_exact('network.mode = "open"')
        child.expect_exact("Trust it? [y/N]: ")
        if answer in ("\x03", "\x04"):
            child.send(answer)
        else:
            child.sendline(answer)
        child.expect_exact(said)
        child.expect(pexpect.EOF)
    finally:
        child.close()
    assert child.exitstatus == code
    approved = workspace.parent / "home" / ".coi" / "trust"
    assert approved.exists() == (code == 0)
