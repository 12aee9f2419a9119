"""What coi says about itself: help, examples, completion, version, tables."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
import typer
from fakes import FakeIncus

from coi import PROJECT_URL, __version__
from coi.cli.context import Context
from coi.cli.main import app, run
from coi.cli.options import global_parameters

COI = [sys.executable, "-c", "import sys; from coi.cli.main import main; sys.exit(main())"]


def root() -> Any:
    """`coi` as :func:`coi.cli.main.run` makes it."""
    command: Any = typer.main.get_command(app)
    command.params = [*command.params, *global_parameters()]
    return command


def walk(group: Any, context: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        full = f"{path} {name}".strip()
        if hasattr(command, "list_commands"):
            yield from walk(command, typer.Context(command, parent=context), full)
            if not hasattr(command, "_global"):
                continue  # a noun: it has no work of its own
        yield full, command


COMMANDS = dict(walk(root(), typer.Context(root()), ""))


def parse(words: list[str]) -> str:
    """Parse a command line, running nothing; the command it means.

    Raises what the parser raises when the line is not one of coi's.
    """
    command = root()
    context = command.make_context("coi", list(words), obj=Context())
    path = []
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        if not rest:
            break
        name, command, rest = command.resolve_command(context, rest)
        path.append(name)
        context = command.make_context(name, rest, parent=context)
    return " ".join(path)


def example(command: Any) -> str:
    return " ".join((command.help or "").partition("Example:")[2].split())


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_command_has_an_example_that_parses(path: str) -> None:
    line = example(COMMANDS[path])
    assert line, f"coi {path} --help has no example"
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    own = words[: next((i for i, w in enumerate(words) if w in ("&&", "|", ">", ";")), len(words))]
    assert own[0] == "coi"
    assert parse(own[1:]) == path


def test_an_example_that_does_not_parse_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["list", "--frmat", "json"])
    with pytest.raises(Exception, match="there is no command"):
        parse(["lst"])


@pytest.mark.parametrize("path", ["", *sorted(COMMANDS)])
def test_help(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([*path.split(), "--help"], [*path.split(), "-h"], ["help", *path.split()]):
        assert run(words) == 0
        shown = capsys.readouterr()
        assert f"Usage: coi {path}".rstrip() in shown.out
        assert "Example: coi" in shown.out or not path
        assert shown.err == ""


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["shel"], "shell"),
        (["shutdwn"], "shutdown"),
        (["lsit"], "list"),
        (["--slot", "2", "atach"], "attach"),
        (["image", "lst"], "list"),
        (["image", "pulbish", "a", "b"], "publish"),
    ],
)
def test_a_mistyped_command_suggests_the_nearest(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    err = capsys.readouterr().err
    assert re.search(f"[Dd]id you mean '{meant}'", err), err
    assert err.count("Error:") == 1
    assert "Usage" not in err


def test_nothing_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["qqqqqqqq"]) == 2
    err = capsys.readouterr().err
    assert "did you mean" not in err
    assert "Hint: coi --help" in err


@pytest.mark.parametrize("noun", sorted({path.split()[0] for path in COMMANDS if " " in path}))
def test_a_noun_alone(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    if noun in COMMANDS:
        pytest.skip(f"coi {noun} is a command")
    assert run([noun]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"Error: coi {noun} needs a command")
    assert f"coi {noun} " in shown.err.partition("Hint:")[2]


def coi(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """With no incus, no home and no configuration in sight."""
    return subprocess.run(
        [*COI, *args],
        env={"PATH": "/nonexistent", "HOME": "/nonexistent", **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version_without_incus(words: list[str]) -> None:
    done = coi(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"code-on-incus (coi) v{__version__}\n{PROJECT_URL}\n"


SHELLS = {
    "bash": (["bash", "-n"], "complete -o default -F _coi_completion coi"),
    "zsh": (["zsh", "-n"], "#compdef coi"),
    "fish": (["fish", "--no-execute"], "complete --command coi"),
}


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    done = coi("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    check, line = SHELLS[shell]
    assert line in done.stdout
    script = tmp_path / "script"
    script.write_text(done.stdout)
    try:
        checked = subprocess.run(
            [*check, str(script)], capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError:
        pytest.skip(f"there is no {shell} here to check the syntax")
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("sh", {"shell", "shutdown"}),
        ("image cl", {"cleanup"}),
        ("completion z", {"zsh"}),
        ("list --al", {"--all"}),
        ("list --work", {"--workspace"}),
    ],
)
def test_completing_in_bash(typed: str, expected: set[str], tmp_path: Path) -> None:
    program = tmp_path / "coi"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COI)} "$@"\n')
    program.chmod(0o755)
    words = ["coi", *typed.split()]
    script = f"""
        eval "$(coi completion bash)"
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        _coi_completion coi
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == expected


ROW = {
    "fingerprint": "0123456789ab" + "c" * 52,
    "aliases": [{"name": "coi"}],
    "properties": {
        "description": "\x1b[31mred\x1b]0;title\x07 [bold]text[/bold]\nsecond line",
        "coi.tools": "claude,aider",
        "coi.base": "debian:bookworm",
    },
    "size": 540 << 20,
    "uploaded_at": "2026-01-02T03:04:05Z",
}


@pytest.fixture
def image_list(tmp_path: Path) -> dict[str, str]:
    """The environment of a `coi image list` that finds one image."""
    (tmp_path / "bin").mkdir()
    fake = FakeIncus.make(tmp_path / "bin", images=[ROW])
    return {"PATH": fake.path, "HOME": str(tmp_path), "LANG": "C.UTF-8"}


def test_a_table_in_a_pipe_is_plain_and_aligned(image_list: dict[str, str]) -> None:
    done = coi("image", "list", env=image_list)
    assert (done.returncode, done.stderr) == (0, "")
    title, head, row = done.stdout.splitlines()
    assert title == "COI Images:"
    assert head.split() == ["ALIAS", "FINGERPRINT", "SIZE", "CREATED", "TOOLS", "DESCRIPTION"]
    for column, cell in (
        ("FINGERPRINT", "0123456789ab"),
        ("SIZE", "540 MiB"),
        ("CREATED", "2026-01-02 03:04"),
        ("TOOLS", "claude,aider"),
        ("DESCRIPTION", "red [bold]text[/bold] second line"),
    ):
        assert row[head.index(column) :].startswith(cell)
    assert "\x1b" not in done.stdout


def on_a_terminal(*args: str, env: dict[str, str]) -> str:
    """All that it writes to a terminal of 140 columns."""
    whole = {**os.environ, "TERM": "xterm-256color", **env}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        whole.pop(name, None) if name not in env else None
    child = pexpect.spawn(
        COI[0], [*COI[1:], *args], env=whole, dimensions=(40, 140), timeout=60, encoding="utf-8"
    )
    output = child.read()
    child.close()
    assert child.exitstatus == 0, output
    return str(output)


COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")


def test_a_table_on_a_terminal_is_drawn(image_list: dict[str, str]) -> None:
    output = on_a_terminal("image", "list", env=image_list)
    assert "─" in output
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert "red [bold]text[/bold] second line" in plain
    assert "\x1b[31m" not in output, "a colour of the description's own"
    assert "title" not in output


@pytest.mark.parametrize("words", [["image", "list"], ["--help"], ["help", "list"]])
def test_no_color(words: list[str], image_list: dict[str, str]) -> None:
    plain = on_a_terminal(*words, env={**image_list, "NO_COLOR": "1"})
    assert not COLOUR.search(plain)
    if "image" not in words:  # the table has no colour to begin with
        assert COLOUR.search(on_a_terminal(*words, env=image_list))
