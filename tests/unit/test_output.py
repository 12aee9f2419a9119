"""What reaches the terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.cli.output import Output, clean
from coi.errors import CoiError
from coi.session.terminal import terminal_name

ANYTHING = st.text(st.characters(exclude_categories=()))
HOSTILE = st.lists(
    st.sampled_from(
        ["\x1b", "[", "]", "0", ";", "m", "\x9b", "\x9d", "\x07", "\\", "P", "_", "^", "\r", "\b",
         "\u202e", "\u2066", "\u200f", "\u200b", "\ufeff", "\x7f", "\x00", "a", " ", "\n", "\ud800"]
    ),
    max_size=30,
).map("".join)  # fmt: skip
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(ANYTHING | HOSTILE)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    left = clean(text)
    assert "\x1b" not in left
    assert not BIDI & set(left)
    controls = {c for c in left if unicodedata.category(c) in ("Cc", "Cf", "Cs")}
    assert controls <= {"\n", "\t"}
    left.encode()
    assert clean(left) == left


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=60))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Htop", "top"),
        ("a\x1bcb", "ab"),
        ("\x9b31mred", "red"),
        ("line\rover", "lineover"),
        ("a\tb\nc", "a\tb\nc"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\x1bP1$r\x1b\\x", "x"),
    ],
)
def test_sequences_go_whole(text: str, left: str) -> None:
    assert clean(text) == left


def test_error(capsys: pytest.CaptureFixture[str]) -> None:
    Output().error(CoiError("it\x1b[31m broke", details="one\n\n\x1b[2Jtwo", hint="mend\x07 it"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Error: it broke\n  one\n  two\nHint: mend it\n"


def test_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output(quiet=True).error(CoiError("broke"))
    assert capsys.readouterr().err == "Error: broke\n"


def test_results_and_notices_are_apart(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.result("result\x1b[1m")
    output.notice("notice")
    Output(quiet=True).notice("quiet")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("result\n", "notice\n")


@given(ANYTHING | HOSTILE)
def test_json_keeps_every_character(text: str) -> None:
    buffer = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", buffer)
        Output().data({"value": text})
    assert buffer.getvalue().isascii()
    assert json.loads(buffer.getvalue()) == {"value": text}


PIPE = """
from coi.cli.output import Output
for number in range(20000):
    Output().result(f"line {number}")
    Output().notice("a notice")
"""


def test_a_closed_pipe_is_no_error() -> None:
    """`coi list | head -1`: neither a traceback nor a broken notice."""
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", PIPE], stdout=write, stderr=subprocess.PIPE
    ) as process:
        os.close(write)
        assert os.read(read, 4)
        os.close(read)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert set(errors.splitlines()) == {b"a notice"}


def test_a_terminal_that_is_gone_is_no_error() -> None:
    code = "import os; from coi.cli.output import Output; os.close(2); Output().notice('x')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("xterm", "xterm"),
        ("xterm-256color", "xterm-256color"),
        ("screen-256color", "screen-256color"),
        ("tmux-256color", "tmux-256color"),
        ("rxvt-unicode-256color", "rxvt-unicode-256color"),
        ("linux", "linux"),
        ("vt100", "vt100"),
        ("xterm-ghostty", "xterm-256color"),
        ("xterm-kitty", "xterm-256color"),
        ("alacritty", "xterm-256color"),
        ("dumb", "xterm-256color"),
        ("", "xterm-256color"),
        ("xterm\n", "xterm-256color"),
        ("../../x", "xterm-256color"),
    ],
)
def test_terminal_name(name: str, inside: str) -> None:
    assert terminal_name({"TERM": name}) == inside
    assert terminal_name({}) == "xterm-256color"
