"""Flags on both sides of the command, the optional value of --resume, `coi` alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import coi.cli.shell
from coi.cli.context import Context, parse_environment
from coi.cli.main import run
from coi.cli.options import global_parameters, with_resume_value
from coi.errors import UsageError

ID = "3f0c1a5e-8d2b-4c6f-9a71-5b2e8c0d4f13"
OPTIONS = [p for p in global_parameters() if hasattr(p, "is_flag")]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What each `coi shell` that is run would start with."""
    calls: list[dict[str, Any]] = []

    def start(context: Context, **options: bool) -> None:
        calls.append({**context.values, **{k: v for k, v in options.items() if k != "tmux" and v}})

    monkeypatch.setattr(coi.cli.shell, "start_and_attend", start)
    monkeypatch.setenv("COI_HOME", str(tmp_path / "coi"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return calls


GIVEN: dict[str, tuple[list[str], Any]] = {
    "workspace": (["--workspace", "/x"], "/x"),
    "slot": (["--slot", "2"], 2),
    "persistent": (["--persistent"], True),
    "resume": ([f"--resume={ID}"], ID),
    "continue_": ([f"--continue={ID}"], ID),
    "profile": (["--profile", "work"], "work"),
    "image": (["--image", "mine"], "mine"),
    "env": (["--env", "A=1"], ["A=1"]),
    "storage": (["--storage", "/s"], "/s"),
    "mount": (["--mount", "/a:/b"], ["/a:/b"]),
    "limit": (["--limit", "cpu=2"], ["cpu=2"]),
    "network": (["--network", "open"], "open"),
    "publish": (["--publish", "8080:80"], ["8080:80"]),
    "tool": (["--tool", "dummy"], "dummy"),
    "verbose": (["--verbose"], True),
    "quiet": (["--quiet"], True),
}


def test_every_global_flag_has_its_case() -> None:
    assert {p.name for p in OPTIONS} == set(GIVEN) | {"version"}


@pytest.mark.parametrize("name", GIVEN)
def test_both_sides_are_the_same(name: str, seen: list[dict[str, Any]]) -> None:
    words, value = GIVEN[name]
    for line in ([*words, "shell"], ["shell", *words], words):
        assert run(line) == 0
    assert seen == [{name: value}] * 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-w", "/x"], {"workspace": "/x"}),
        (["-w/x"], {"workspace": "/x"}),
        (["-e", "A=1", "-e", "B=2"], {"env": ["A=1", "B=2"]}),
        (["-vq"], {"verbose": True, "quiet": True}),
        (["--no-persistent"], {"persistent": False}),
        (["--slot=3"], {"slot": 3}),
        (["--resume"], {"resume": ""}),
        (["--continue"], {"continue_": ""}),
        (["--resume", "--slot", "2"], {"resume": "", "slot": 2}),
        (["--slot", "2", "--resume"], {"resume": "", "slot": 2}),
        (["--workspace=--resume"], {"workspace": "--resume"}),
        (["-w", "--resume"], {"workspace": "--resume"}),
        (["-e", "A=--resume"], {"env": ["A=--resume"]}),
    ],
    ids=" ".join,
)
def test_forms(words: list[str], expected: dict[str, Any], seen: list[dict[str, Any]]) -> None:
    for line in ([*words, "shell"], ["shell", *words], words):
        assert run(line) == 0
    assert seen == [expected] * 3


def test_both_sides_at_once(seen: list[dict[str, Any]]) -> None:
    line = "--slot 1 -e A=1 --persistent -q shell --slot 2 -e B=2 --no-persistent"
    assert run(line.split()) == 0
    assert seen == [{"slot": 2, "env": ["A=1", "B=2"], "persistent": False, "quiet": True}]


def test_alone_is_shell(seen: list[dict[str, Any]]) -> None:
    assert run([]) == 0
    assert run(["--slot", "4"]) == 0
    assert seen == [{}, {"slot": 4}]


def test_shells_own_flags_need_the_command(
    seen: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["shell", "--background"]) == 0
    assert seen == [{"background": True}]
    assert run(["--background"]) == 2
    assert "Hint:" in capsys.readouterr().err


SPACED = [
    ["shell", "--resume", ID],
    ["--resume", ID],
    ["--resume", ID, "shell"],
    ["shell", "--continue", ID],
    ["shell", "--slot", "2", "--resume", "latest"],
]


@pytest.mark.parametrize("line", SPACED, ids=" ".join)
def test_a_space_after_resume(
    line: list[str], seen: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    word = "latest" if "latest" in line else ID
    assert re.search(rf"did you mean --(resume|continue)={word}\?", capsys.readouterr().err)
    assert seen == []


@pytest.mark.parametrize(
    "line",
    [
        ["--slot"],
        ["-w"],
        ["--tool"],
        ["-e"],
        ["shell", "--slot"],
        ["--slot", "x"],
        ["--slot", "-1"],
        ["shell", "--slot", "1.5"],
        ["--no-such-flag"],
        ["shell", "--no-such-flag"],
        ["shell", "extra"],
        ["no-such-command"],
        ["--quiet=yes"],
        ["list", "--format", "yaml"],
        ["shell", "--background", "--no-tmux"],
    ],
    ids=" ".join,
)
def test_wrong_usage(
    line: list[str], seen: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert "Usage:" not in captured.err
    assert "Traceback" not in captured.err
    assert seen == []


@pytest.mark.parametrize(
    "line", [["--help"], ["-h"], ["shell", "--help"], ["list", "-h"]], ids=" ".join
)
def test_help(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line) == 0
    assert "Usage: coi" in capsys.readouterr().out


@pytest.mark.parametrize("line", [["--version"], ["version"], ["list", "--version"]], ids=" ".join)
def test_version(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"code-on-incus \(coi\) v\d+\.\d+\.\d+.*", lines[0])
    assert lines[1].startswith("https://")


# -- with_resume_value ----------------------------------------------------------------------

WORDS = st.lists(
    st.sampled_from(
        ["--resume", "--continue", "--resume=x", "--slot", "2", "-w", "shell", "--", "-", "-v", "x"]
    ),
    max_size=8,
)


@given(WORDS)
def test_only_bare_resumes_change(words: list[str]) -> None:
    rewritten = with_resume_value(words, OPTIONS)
    assert len(rewritten) == len(words)
    for before, after in zip(words, rewritten, strict=True):
        assert after == before or (before in ("--resume", "--continue") and after == f"{before}=")
    assert with_resume_value(rewritten, OPTIONS) == rewritten


@given(WORDS, WORDS)
def test_nothing_after_a_double_dash_changes(before: list[str], after: list[str]) -> None:
    words = [w for w in before if w.startswith("-") and w not in ("-", "--", "-w", "--slot")]
    result = with_resume_value([*words, "--", *after], OPTIONS)
    assert result[len(words) + 1 :] == after


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run -- --resume", "run -- --resume"),
        ("run tool --resume", "run tool --resume"),
        ("--resume run --resume", "--resume= run --resume"),
        ("-w --resume", "-w --resume"),
        ("--slot 2 --resume", "--slot 2 --resume="),
    ],
)
def test_rewriting(words: str, expected: str) -> None:
    assert with_resume_value(words.split(), OPTIONS) == expected.split()


# -- --env -----------------------------------------------------------------------------------

HOST = {"HOME": "/home/user", "EMPTY": "", "TWO": "a\nb"}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], {}),
        (["A=1"], {"A": "1"}),
        (["A="], {"A": ""}),
        (["A=b=c"], {"A": "b=c"}),
        (["A=1", "A=2"], {"A": "2"}),
        (["HOME"], {"HOME": "/home/user"}),
        (["EMPTY"], {"EMPTY": ""}),
        (["_a1= x "], {"_a1": " x "}),
        (["A='q' \"d\" $H `b` \\ ü"], {"A": "'q' \"d\" $H `b` \\ ü"}),
    ],
)
def test_environment(items: list[str], expected: dict[str, str]) -> None:
    assert parse_environment(items, HOST) == expected


SECRET = "s3cr3t"  # noqa: S105 - a canary


@pytest.mark.parametrize(
    "item",
    ["", "=", f"={SECRET}", "A B=1", "1A=x", "A-B=x", f"A=x\n{SECRET}", f"A=\0{SECRET}", "A=\r",
     "NONE", "TWO", "ä=1", "A\n=x", " A=1", "-e", f"A;x={SECRET}"],
    ids=ascii,
)  # fmt: skip
def test_bad_environment(item: str) -> None:
    with pytest.raises(UsageError, match="--env") as caught:
        parse_environment([item], HOST)
    assert caught.value.exit_code == 2
    assert SECRET not in f"{caught.value.brief}{caught.value.details}{caught.value.hint}"


@given(st.lists(st.text(max_size=20), max_size=4))
def test_environment_is_parsed_or_refused(items: list[str]) -> None:
    try:
        result = parse_environment(items, HOST)
    except UsageError:
        return
    for name, value in result.items():
        assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
        assert not set("\n\r\0") & set(value)
