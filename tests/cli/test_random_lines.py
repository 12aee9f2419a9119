"""Command lines that are wrong by construction: one error each, and nothing changes in Incus."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeIncus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_help import COI, COMMANDS, root, walk

from coi.cli.main import run
from coi.cli.options import global_parameters

EXAMPLES = 300
FORMATS = {"text", "json", "table", "pretty", "raw"}
OPTIONAL_VALUE = {"--resume", "--continue"}
ROOT = [name for name, _ in walk(root(), None, "") if " " not in name]
NOUNS: dict[str, set[str]] = {}
for _path in COMMANDS:
    if " " in _path:
        NOUNS.setdefault(_path.split()[0], set()).add(_path.split()[1])
FIRST_WORDS = {*ROOT, *NOUNS}

# -- words

_NASTY = (
    "", " ", "\n", "\t", "\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x7f", "\r", "\u202etxt",
    "$(reboot)", "'; --", '"', "%s%n", "{}", "[red]x[/red]", "..", "../../etc", "/", "~", "*",
    "é", "容器", "\U0001f4a5", "\udcff\udc80", "9" * 400, "-0", "0", "1e400", "a" * 5000, "NaN",
)  # fmt: skip
_LETTERS = st.characters(exclude_characters="\0", codec="utf-8")
words = st.one_of(st.sampled_from(_NASTY), st.text(_LETTERS, max_size=30))
plain = words.filter(lambda word: not word.startswith("-"))


def options_of(command: Any) -> list[Any]:
    return [p for p in command.params if hasattr(p, "is_flag")]


def arguments_of(command: Any) -> list[Any]:
    return [p for p in command.params if not hasattr(p, "is_flag")]


def names_of(command: Any) -> set[str]:
    return {name for p in options_of(command) for name in (*p.opts, *p.secondary_opts)}


def required(command: Any) -> list[str]:
    """What makes the command's line complete."""
    line = []
    for option in options_of(command):
        if option.required:
            line += [option.opts[0], "1"]
    return line + ["x" for argument in arguments_of(command) if argument.required]


# -- flags that are right, for either side

_RIGHT = (
    ["-q"], ["-v"], ["--verbose"], ["--slot", "2"], ["--slot=0"], ["--persistent"],
    ["--no-persistent"], ["-e", "A=b c"], ["--env=B="], ["--image", "coi"], ["--network", "open"],
    ["--tool=claude"], ["-w", "."], ["--storage", "."],
)  # fmt: skip
flags = st.lists(st.sampled_from(_RIGHT), max_size=3).map(
    lambda found: [word for flag in found for word in flag]
)
paths = st.sampled_from(sorted(COMMANDS))


@st.composite
def unknown_command(draw: st.DrawFn) -> list[str]:
    word = draw(plain.filter(lambda w: w not in FIRST_WORDS))
    return [*draw(flags), word, *draw(st.lists(words, max_size=4))]


@st.composite
def unknown_subcommand(draw: st.DrawFn) -> list[str]:
    noun = draw(st.sampled_from(sorted(NOUNS)))
    word = draw(plain.filter(lambda w: w not in NOUNS[noun]))
    return [*draw(flags), noun, word, *draw(st.lists(words, max_size=3))]


@st.composite
def unknown_option(draw: st.DrawFn) -> list[str]:
    path = draw(paths)
    known = names_of(COMMANDS[path])
    name = draw(
        st.one_of(
            st.from_regex(r"--[a-z][a-z-]{0,12}", fullmatch=True),
            st.sampled_from(["-Z", "-Z9", "---", "--\x1b[2J", "--é", "--\udcff", "--=", "-\n"]),
        ).filter(lambda n: n not in known and n not in ("--help", "-h"))
    )
    value = draw(st.sampled_from(["", "=", "=1", "=\x1b[31m"])) if name.startswith("--") else ""
    after = draw(st.lists(words, max_size=3))
    return [*draw(flags), *path.split(), *draw(flags), name + value, *after]


@st.composite
def bad_value(draw: st.DrawFn) -> list[str]:
    numbers: list[tuple[str, Any]] = []
    formats: list[tuple[str, Any]] = []
    for path, command in COMMANDS.items():
        for option in options_of(command):
            if option.type.name in ("integer", "integer range", "float", "float range"):
                numbers.append((path, option))
            elif option.opts == ["--format"]:
                formats.append((path, option))
    path, option = draw(st.sampled_from([*numbers, *formats]))
    if (path, option) in formats:
        value = draw(words.filter(lambda w: w not in FORMATS))
    else:
        texts = words.filter(lambda w: not re.fullmatch(r"\s*[-+]?[\d_.]+(e\d+)?\s*|nan", w, re.I))
        texts = texts.filter(lambda w: not any(c.isdigit() for c in w))
        value = draw(st.one_of(texts, st.sampled_from(["-1", "0x10", "1.5.2", "--", "1,5"])))
        if value.strip().lower().lstrip("+-") in ("inf", "infinity", "nan"):
            value = "no number"
    name = draw(st.sampled_from(option.opts))
    given_ = [f"{name}={value}"] if name.startswith("--") else [name, value]
    return [*draw(flags), *path.split(), *given_, *required(COMMANDS[path])]


@st.composite
def missing_value(draw: st.DrawFn) -> list[str]:
    path = draw(st.sampled_from(["", *sorted(COMMANDS)]))
    options = options_of(COMMANDS[path]) if path else global_parameters()
    with_value = [o for o in options if not o.is_flag and not OPTIONAL_VALUE & set(o.opts)]
    name = draw(st.sampled_from([name for o in with_value for name in o.opts]))
    return [*draw(flags), *path.split(), *draw(flags), name]


@st.composite
def missing_argument(draw: st.DrawFn) -> list[str]:
    short = [p for p, c in COMMANDS.items() if any(a.required for a in arguments_of(c))]
    path = draw(st.sampled_from([*short, "kill", "shutdown", "persist", "build custom"]))
    needed = sum(a.required for a in arguments_of(COMMANDS[path]))
    there = draw(st.lists(plain, max_size=max(needed - 1, 0)))
    options = [w for o in options_of(COMMANDS[path]) if o.required for w in (o.opts[0], "1")]
    return [*draw(flags), *path.split(), *options, *draw(flags), *there]


@st.composite
def extra_argument(draw: st.DrawFn) -> list[str]:
    fixed = [
        path
        for path, command in COMMANDS.items()
        if all(a.nargs == 1 for a in arguments_of(command)) and not hasattr(command, "commands")
    ]
    path = draw(st.sampled_from(sorted(fixed)))
    count = len(arguments_of(COMMANDS[path]))
    much = draw(st.lists(plain, min_size=count + 1, max_size=count + 3))
    end = draw(st.sampled_from([[], ["--"]]))
    options = [w for o in options_of(COMMANDS[path]) if o.required for w in (o.opts[0], "1")]
    return [*draw(flags), *path.split(), *options, *end, *much]


_UNKNOWN: dict[str, Callable[[str], list[str]]] = {
    "kill": lambda name: ["kill", "--force", "--", name],
    "shutdown": lambda name: ["shutdown", "--timeout", "1", "--", name],
    "persist": lambda name: ["persist", "--", name],
    "attach": lambda name: ["attach", "--", name],
    "info": lambda name: ["info", "--", name],
    "tool info": lambda name: ["tool", "info", "--", name],
    "image delete": lambda name: ["image", "delete", "--", name],
    "image publish": lambda name: ["image", "publish", "--", name, "alias"],
    "image publish as": lambda name: ["image", "publish", "--", "coi-none", name],
    "build custom": lambda name: ["build", "custom", "made", "--script", f"/none/{name}"],
    "tmux send": lambda name: ["tmux", "send", "--", name, "text"],
    "tmux capture": lambda name: ["tmux", "capture", "--", name],
    "file pull": lambda name: ["file", "pull", "--", f"{name}:/x", "."],
    "help": lambda name: ["help", "--", f"no{name}"],
}


@st.composite
def unknown_name(draw: st.DrawFn) -> list[str]:
    usual = st.from_regex(r"zz-[a-z0-9-]{0,20}", fullmatch=True)
    ids = st.uuids(version=4).map(str)
    name = draw(st.one_of(usual, ids, words))
    line = _UNKNOWN[draw(st.sampled_from(sorted(_UNKNOWN)))](name)
    return [*draw(flags), *line]


_STARTS = (["shell", "--background"], ["run"])
_BAD_SETTINGS = (
    ["-e", "1X=2"], ["-e", ""], ["-e", "=x"], ["-e", "A B=c"], ["-e", "NO_SUCH_VARIABLE_HERE"],
    ["-e", "A=b\nc"], ["-e", "\x1b[2J=x"], ["--mount", "nothing"], ["--mount", ""],
    ["--mount", ".:relative"], ["--mount", ".:/"], ["--mount", ".:/workspace"],
    ["--mount", "/none/such:/x"], ["--mount", ".:/x:rx"], ["--mount", ".:/../x\x1b"],
    ["--storage", "/none/such"], ["-w", "/none/such"], ["-w", "/etc/passwd"],
    ["--network", "none-such"], ["--profile", "none-such"],
)  # fmt: skip
_BAD_TOOLS = (["--tool", "none-such"], ["--tool", "\x1b[31m"], ["--tool="])


@st.composite
def bad_setting(draw: st.DrawFn) -> list[str]:
    start = draw(st.sampled_from(_STARTS))
    which = _BAD_SETTINGS if start == ["run"] else _BAD_SETTINGS + _BAD_TOOLS
    before, after = draw(st.permutations([draw(st.sampled_from(which)), []]))
    return [*before, *start, *after, *(["true"] if start == ["run"] else [])]


def unusable_resume() -> st.SearchStrategy[list[str]]:
    return words.filter(str.strip).map(lambda w: ["shell", "--background", f"--resume={w}"])


lines = st.one_of(
    unknown_command(),
    unknown_subcommand(),
    unknown_option(),
    bad_value(),
    missing_value(),
    missing_argument(),
    extra_argument(),
    unknown_name(),
    bad_setting(),
    unusable_resume(),
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeIncus:
    """A home and a workspace with nothing in them, and the fake before everything on PATH."""
    for name in list(os.environ):
        if name.startswith(("COI_", "XDG_")):
            monkeypatch.delenv(name)
    for name in ("bin", "home", "work"):
        (tmp_path / name).mkdir()
    found = FakeIncus.make(tmp_path / "bin")
    monkeypatch.setenv("PATH", found.path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COI_HOME", str(tmp_path / "coi"))
    monkeypatch.chdir(tmp_path / "work")
    return found


def in_process(argv: list[str]) -> tuple[int, str]:
    """Exit code and stderr, on streams that encode as the interpreter's own do."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with redirect_stdout(out), redirect_stderr(err):
        code = run(argv)
        out.flush()
        err.flush()
    return code, err.buffer.getvalue().decode()


def check(code: int, err: str, fake: FakeIncus) -> None:
    assert code in (2, 3), err
    assert len(re.findall(r"^Error: .*\S", err, re.M)) == 1, err
    assert err.count("Error:") == 1, err
    assert "Traceback" not in err
    assert "Usage:" not in err
    assert "does not handle" not in err, err
    unsafe = {c for c in err if unicodedata.category(c) in ("Cc", "Cf")} - {"\n", "\t"}
    assert not unsafe, err
    assert fake.changes() == []


def test_random_invalid_lines(fake: FakeIncus) -> None:
    seen: set[tuple[str, ...]] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(lines)
    def invalid(argv: list[str]) -> None:
        seen.add(tuple(argv))
        fake.forget()
        check(*in_process(argv), fake)

    invalid()
    assert len(seen) >= 200


@pytest.mark.parametrize(
    "argv",
    [
        [b"kill", b"\xff\xfe"],
        [b"\xffshell"],
        [b"list", b"--\xff"],
        [b"--slot", b"\xe2\x80\xae", b"list"],
        [b"image", b"delete", b"\x1b[2J"],
        [b"info", b"a" * 100_000],
        [b"shell", b"--background", b"-w", b"/none/\xff"],
    ],
)
def test_bytes_that_are_not_text(argv: list[bytes], fake: FakeIncus) -> None:
    done = subprocess.run(
        [*map(os.fsencode, COI), *argv], capture_output=True, timeout=60, check=False
    )
    assert sys.getfilesystemencoding() == "utf-8"
    check(done.returncode, done.stderr.decode(), fake)


def test_the_fake_sees_changes(fake: FakeIncus) -> None:
    """A line that is right reaches the daemon: the check above can fail."""
    code, err = in_process(["--network=open", "container", "launch", "coi", "new-one"])
    assert code == 1, err
    assert any("POST" in change for change in fake.changes())
    assert run(["list", "-q"]) == 0
