"""What runs inside: the scripts, the files that go in, and how values travel."""

from __future__ import annotations

import io
import os
import re
import shutil
import string
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coi.incus.process import Runner
from coi.network.hosts import with_hosts
from coi.session import holding, inside
from coi.session.state import filter_stream
from coi.testing.screen import Screen
from coi.workspace.ownership import SessionUser

SCRIPTS = {
    name: value
    for name, value in (vars(holding) | vars(inside)).items()
    if isinstance(value, str)
    and "\n" in value
    and name.lstrip("_")[0].isupper()
    and "CONF" not in name
}
SHELLCHECK = shutil.which("shellcheck") or shutil.which(
    "shellcheck", path=Path(sys.executable).parent
)
BASH = ("_ATTACH",)  # the others are for any sh
ROOT = SessionUser("root", 0, 0, "/root")
ID = "0e7b3f9e-5f0c-4f43-9a57-3f1f5a1a6f0b"  # of a session
CODE = SessionUser("code", 1000, 1000, "/home/code")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="changes the user: needs root")


def test_all_scripts_are_looked_at() -> None:
    assert set(SCRIPTS) >= {"_BECOME", "UNPACK", "_START_TMUX", "_ATTACH", "_SAVE", "_HOLDER"}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_scripts_are_syntax(name: str, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    if name in BASH:
        shell = "bash"
    subprocess.run([shell, "-n"], input=SCRIPTS[name].encode(), check=True)


@pytest.mark.parametrize("name", [*SCRIPTS, "environment", "launcher"])
def test_shellcheck(name: str) -> None:
    if SHELLCHECK is None:
        pytest.skip("no shellcheck")
    shell = "bash" if name in BASH else "sh"
    if name == "environment":
        script = inside.environment_file({"A": "it's $HOME `id`\n\\", "B": ""}).decode()
    elif name == "launcher":
        shell, script = "bash", inside.launcher(["my tool", "--it's"]).decode()
    else:
        script = SCRIPTS[name]
    level = "warning" if name in ("environment", "launcher") else "style"
    # 1090/1091: the sourced file is not here. 2164: `cd` may fail: then it is the home.
    done = subprocess.run(
        [SHELLCHECK, "-s", shell, "-S", level, "-e", "SC1090,SC1091,SC2164", "-"],
        input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_scripts_are_constant() -> None:
    """A value in a script would be in the process list, and would be code."""
    user = SessionUser("it's", 7, 8, "/home/it's")
    for argv in (
        inside.become(user, "cmd"),
        inside.start_tmux(user, "se's", 80, 24, "mark"),
        inside.unpack(user),
        inside.attach("se's", start="it's", wait=1),
        inside.save(user, "it's", ["it's"], max_file=1024, patience=1),
    ):
        scripts = [argv[n + 1] for n, word in enumerate(argv) if word == "-c"]
        assert scripts
        for script in scripts:
            assert script in SCRIPTS.values()


def test_exit_codes_have_meanings() -> None:
    scripts = [*SCRIPTS.values(), *with_hosts([], "true")]  # what runs before them, too
    used = {int(code) for text in scripts for code in re.findall(r"exit (\d+)", text)}
    for code in inside.MEANING:
        assert code in used
    assert not {inside.STOPPING, inside.NOT_BEGUN} & set(inside.MEANING)


# -- the environment -----------------------------------------------------------------------

VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
NASTY = {
    "empty": "", "space": " ", "spaces around": "  a  ", "single": "'", "many single": "'''",
    "double": '"', "dollar": "$HOME", "command": "$(touch /tmp/x)", "backquote": "`id`",
    "backslash": "\\", "backslashes": "\\\\'\\", "newline": "a\nb", "trailing newline": "a\n",
    "newlines": "\n\n", "carriage": "a\r\nb", "tab": "\t", "bang": "!!", "hash": "#x", "tilde": "~",
    "glob": "*?[a]", "braces": "{a,b}", "semicolon": "; exit 1", "pipe": "| cat", "amp": "&",
    "unicode": "ü€😀", "escape": "\x1b[31m", "bell": "\a", "high": "\x7f\x80", "equals": "a=b",
    "dash": "-n", "long": "x" * 100_000, "heredoc": "<<EOF", "quote at the end": "\\'",
}  # fmt: skip


def sourced(shell: str, file: Path, names: list[str], home: Path) -> list[bytes]:
    """The values that variables have after a shell read the file, in a child of it."""
    script = '. "$1"; shift; exec printenv -0 "$@"'
    done = subprocess.run(
        [shell, "-c", script, "sh", str(file), *names],
        env={"HOME": str(home), "PATH": os.environ["PATH"]}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.stderr == b""
    return done.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("case", NASTY)
def test_a_value_arrives_byte_for_byte(case: str, shell: str, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(inside.environment_file({"FIRST": NASTY[case], "LAST": "end"}))
    assert sourced(shell, file, ["FIRST", "LAST"], tmp_path) == [NASTY[case].encode(), b"end"]
    assert not (tmp_path / "x").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(values=st.lists(VALUES, min_size=1, max_size=20))
def test_any_values_arrive(values: list[str], tmp_path: Path) -> None:
    file = tmp_path / "env"
    variables = {f"V_{number}": value for number, value in enumerate(values)}
    file.write_bytes(inside.environment_file(variables))
    expected = [value.encode() for value in values]
    assert sourced("bash", file, list(variables), tmp_path) == expected


def test_undecodable_values_arrive(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(inside.environment_file({"V": os.fsdecode(b"\xff'\xfe")}))
    assert sourced("bash", file, ["V"], tmp_path) == [b"\xff'\xfe"]


@pytest.mark.parametrize("name", ["UID", "EUID", "PPID", "BASHOPTS", "SHELLOPTS", "IFS", "PATH"])
def test_no_name_hides_the_others(name: str, tmp_path: Path) -> None:
    """bash does not let its own variables be set; what follows them must still be."""
    file = tmp_path / "env"
    file.write_bytes(inside.environment_file({name: "/usr/bin:/bin", "LAST": "end"}))
    done = subprocess.run(
        ["bash", "-c", '. "$1"; printf %s "$LAST"', "bash", str(file)],
        env={"HOME": str(tmp_path)}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.stdout == b"end"


# -- the launcher --------------------------------------------------------------------------


KILLED = r"""
printf '\\033[?1049h\\033[2J\\033[3;9r\\033[?25l\\033[?1003h\\033[7mfirst\\n'
printf '\\033[20;1Hbelow\\033[5;30H'
stty raw -echo
kill -KILL $$
"""


def test_a_tool_that_was_killed_leaves_no_terminal_behind(tmp_path: Path) -> None:
    """It had the alternate screen, raw mode, lines that scroll, the mouse, no cursor."""
    (tmp_path / ".coi").mkdir()
    (tmp_path / ".coi" / "env").write_bytes(inside.environment_file({}))
    launch = tmp_path / ".coi" / "launch"
    launch.write_bytes(inside.launcher(["bash", "-c", KILLED]))
    screen = Screen(
        ["bash", "--norc", str(launch)],
        cwd=tmp_path, environ={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "TERM": "xterm"},
        become=lambda: None,
    )  # fmt: skip
    screen.expect(r"^bash ended with exit code 137\. This is a shell inside the container\.$")
    screen.expect(r"^sudo poweroff ends the session; Ctrl-b d leaves it running\.$")
    assert "Killed" not in screen.log
    screen.line("stty -a | tr ' ' '\\n' | grep -cxE 'icanon;?|opost|onlcr|isig;?|echo'")
    screen.expect("^5$")
    modes: list[bytes] = re.findall(rb"\x1b\[\?(?:1003|25|1049)[hl]", screen.output)
    assert modes[-3:] == [b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1003l"]
    screen.line("exit")
    screen.end()


def launched(home: Path, command: list[str] | None, environment: dict[str, str]) -> bytes:
    """Put coi's files into a home and run what tmux would run."""
    packed = inside.pack(inside.files_for(ID, environment, command))
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(home)  # noqa: S202 - made by the line above
    return subprocess.run(
        ["bash", str(home / ".coi" / "launch")],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        input=b"echo shell\n", capture_output=True, check=False, cwd=home, timeout=10,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("case", NASTY)
def test_the_tools_arguments_arrive(case: str, tmp_path: Path) -> None:
    out = launched(tmp_path, ["printf", r"<%s>\n", NASTY[case], "$V"], {"V": "x"})
    assert out.startswith(b"<" + NASTY[case].encode() + b">\n<$V>\n")


def test_the_tool_has_the_environment_and_a_shell_follows(tmp_path: Path) -> None:
    out = launched(tmp_path, ["sh", "-c", 'echo "$KEY"; exit 7'], {"KEY": "a 'b'"})
    lines = out.decode().splitlines()
    assert lines[0] == "a 'b'"
    assert "sh ended with exit code 7." in out.decode()
    assert "sudo poweroff" in out.decode()
    assert lines[-1] == "shell"


def test_a_missing_tool_leaves_a_shell(tmp_path: Path) -> None:
    out = launched(tmp_path, ["no such tool %s"], {})
    assert b"no such tool %s ended with exit code 127." in out
    assert out.endswith(b"shell\n")


def test_debug_is_a_shell_alone(tmp_path: Path) -> None:
    assert launched(tmp_path, None, {}) == b"shell\n"


# -- pack ----------------------------------------------------------------------------------

PART = st.text(string.ascii_letters + " .-_é", min_size=1, max_size=8).filter(
    lambda part: part not in (".", "..") and part.strip(". ") == part and part
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    files=st.dictionaries(
        st.lists(PART, min_size=1, max_size=4).map("/".join), st.binary(max_size=2000), max_size=6
    )
)
def test_real_tar_unpacks_a_pack(files: dict[str, bytes]) -> None:
    paths = set(files)
    if any(other.startswith(path + "/") for path in paths for other in paths):
        return  # a file cannot be a directory too
    home = Path(os.environ.get("TMPDIR", "/tmp")) / f"coi-pack-{os.getpid()}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    try:
        packed = inside.pack((path, data, 0o600) for path, data in files.items())
        command = ["tar", "-x", "-i", "-p", "-f", "-", "-C", str(home)]
        subprocess.run(command, input=packed, check=True)
        found = {str(p.relative_to(home)): p for p in home.rglob("*") if p.is_file()}
        assert {name: p.read_bytes() for name, p in found.items()} == files
        assert all(p.stat().st_mode & 0o777 == 0o600 for p in found.values())
        for directory in (p for p in home.rglob("*") if p.is_dir()):
            assert directory.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(home)


def test_pack_does_not_change_the_home_itself() -> None:
    """An entry for "." over a directory of another owner fails (facts: Incus, Calls)."""
    with tarfile.open(fileobj=io.BytesIO(inside.pack([(".coi/env", b"x", 0o600)]))) as tar:
        assert tar.getnames() == [".coi", ".coi/env"]


def test_a_state_and_a_pack_in_one_stream(tmp_path: Path) -> None:
    """`tar -i` reads on past the zeros that end the saved state."""
    state = inside.pack([(".tool/a", b"old", 0o600), (".tool/b", b"kept", 0o600)])
    state += b"\0" * (-len(state) % 10240)
    fresh = inside.pack([(".tool/a", b"new", 0o600)])
    command = ["tar", "-x", "-i", "-p", "-f", "-", "-C", str(tmp_path)]
    subprocess.run(command, input=state + fresh, check=True)
    assert (tmp_path / ".tool" / "a").read_bytes() == b"new"
    assert (tmp_path / ".tool" / "b").read_bytes() == b"kept"


# -- become, unpack and save, for real -----------------------------------------------------


@as_root
def test_become_has_a_clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "canary")
    user = SessionUser("root", 0, 0, str(tmp_path))
    done = Runner("env").run(inside.become(user, "env", "-0"))
    variables = dict(item.split(b"=", 1) for item in done.stdout.split(b"\0") if item)
    assert set(variables) == {b"HOME", b"USER", b"LOGNAME", b"SHELL", b"LANG", b"PATH"}
    assert variables[b"HOME"] == os.fsencode(tmp_path)


@as_root
def test_become_of_nobody_known() -> None:
    user = SessionUser("no-such-user", 12345, 12345, "/nonexistent")
    assert Runner("env").run(inside.become(user, "true")).exit_code == inside.NO_USER


@as_root
@pytest.mark.parametrize("command", [["printf", "%s|", "a b", "'", "$X"], ["sh", "-c", "exit 7"]])
def test_become_passes_argv_and_exit_code(command: list[str], tmp_path: Path) -> None:
    user = SessionUser("root", 0, 0, str(tmp_path))
    done = Runner("env").run(inside.become(user, *command))
    expected = (0, b"a b|'|$X|") if command[0] == "printf" else (7, b"")
    assert (done.exit_code, done.stdout) == expected


@as_root
def test_unpack(tmp_path: Path) -> None:
    user = SessionUser("root", 0, 0, str(tmp_path))
    packed = inside.pack(inside.files_for(ID, {"A": "1"}, ["sh"]))
    assert Runner("env").run(inside.unpack(user), stdin=packed).exit_code == 0
    assert (tmp_path / ".coi").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / ".coi" / "env").stat().st_mode & 0o777 == 0o600
    broken = Runner("env").run(inside.unpack(user), stdin=b"no tar")
    assert broken.exit_code == inside.NO_UNPACK
    for missing in ("no-such-tool", "/etc/passwd", "./no-such-tool", "cd"):
        packed = inside.pack(inside.files_for(ID, {}, [missing]))
        assert Runner("env").run(inside.unpack(user), stdin=packed).exit_code == inside.NO_TOOL


def asked(home: Path, command: list[str]) -> tuple[int, bytes, bytes]:
    """A tool without a terminal: exit code and what it wrote."""
    packed = inside.pack(inside.files_for(ID, {"A": "1"}, command, attended=False))
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(home)  # noqa: S202 - made by the line above
    done = subprocess.run(
        ["bash", str(home / ".coi" / "launch")],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        input=b"not for the tool", capture_output=True, check=False, cwd=home, timeout=10,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.replace(b"cd: /workspace", b"")


def test_a_tool_by_itself_ends_as_it_does(tmp_path: Path) -> None:
    script = "cat; echo out $A; echo err >&2; kill -9 $$"
    code, out, err = asked(tmp_path, ["sh", "-c", script])
    assert (code, out) == (137, b"out 1\n")
    assert err.endswith(b"err\n"), "bash does not add its own words"
    code, out, _ = asked(tmp_path, ["sh", "-c", "ls /proc/$$/fd; exit 7"])
    assert (code, out) == (7, b"0\n1\n2\n")


@as_root
@pytest.mark.parametrize(
    ("how", "alive"), [(inside.Saving.RUNNING, b"yes"), (inside.Saving.LAST, b"no")]
)
def test_the_last_save_kills_what_was_forked_off(
    how: inside.Saving, alive: bytes, tmp_path: Path
) -> None:
    """In processes of their own: the script's parent is their init."""
    home_of(tmp_path)
    command = inside.save(CODE, ID, [".tool"], max_file=1 << 30, how=how, patience=1)
    command[4] = str(tmp_path)
    script = (
        'setsid sh -c \'trap "" TERM; sleep 600\' & pid=$!; "$@" >/dev/null; '
        "for _ in $(seq 20); do kill -0 $pid 2>/dev/null || break; sleep 0.02; done; "
        "kill -0 $pid 2>/dev/null && echo yes || echo no"
    )
    alone = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    done = subprocess.run(
        [*alone, "bash", "-c", script, "bash", *command], capture_output=True, check=True
    )
    assert done.stdout.strip() == alive, done.stderr


def home_of(home: Path, session: str = ID) -> None:
    """A home that was made ready for a session."""
    (home / ".coi").mkdir(exist_ok=True)
    (home / ".coi" / "session").write_text(f"{session}\n")


@as_root
@pytest.mark.parametrize("how", inside.Saving)
def test_a_save_where_nothing_was_begun(how: inside.Saving, tmp_path: Path) -> None:
    """Not the state of a start that was cut off, nor that of the session before."""
    command = inside.save(CODE, ID, [".tool"], max_file=1 << 30, how=how, patience=1)
    command[4] = str(tmp_path)
    alone = ["unshare", "--fork", "--pid", "--kill-child", "sh", "-c", '"$@"; exit $?', "sh"]

    def code() -> int | None:
        return Runner("env").run([*alone, *command], timeout=20).exit_code

    assert code() == inside.NOT_BEGUN
    home_of(tmp_path, "another")
    assert code() == inside.NOT_BEGUN
    home_of(tmp_path, "")
    assert code() == inside.NOT_BEGUN
    home_of(tmp_path)
    assert code() == (inside.STOPPING if how is inside.Saving.ENDING else 0), "nothing waits here"
    (tmp_path / ".coi" / "session").unlink()
    os.mkfifo(tmp_path / ".coi" / "session")
    assert code() == inside.NOT_BEGUN, "without waiting"


@as_root
@pytest.mark.parametrize("cut", ["between files", "within a file"])
def test_what_is_cut_off_is_no_session(cut: str, tmp_path: Path) -> None:
    """Not in a fresh home, nor in one that was another start's."""
    user = SessionUser("root", 0, 0, str(tmp_path))
    packed = inside.pack([(".tool/a", b"a" * 5000, 0o600), *inside.files_for(ID, {}, ["sh"])])
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        launch = tar.getmember(".coi/launch")
    half = packed[: launch.offset if cut == "between files" else launch.offset_data + 10]
    command = inside.save(user, ID, [".tool"], max_file=1 << 30, patience=1)
    for whole in (None, packed):
        if whole is not None:
            assert Runner("env").run(inside.unpack(user), stdin=whole).exit_code == 0
            assert Runner("env").run(command).exit_code == 0, "the control"
        assert Runner("env").run(inside.unpack(user), stdin=half).exit_code == inside.NO_UNPACK
        assert Runner("env").run(command).exit_code == inside.NOT_BEGUN


def saved(home: Path, roots: list[str], max_file: int = 1 << 30) -> dict[str, bytes]:
    """Run the save script in a home of this machine, through the filter."""
    user = SessionUser("code", 1000, 1000, str(home))
    home_of(home)
    done = Runner("env").run(
        inside.save(user, ID, roots, max_file=max_file, patience=1), timeout=20
    )
    assert done.exit_code == 0, done.error_text
    target = io.BytesIO()
    filter_stream(io.BytesIO(done.stdout), target, roots=roots)
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        files = {m.name: tar.extractfile(m) for m in tar if m.isreg()}
        return {name: file.read() if file else b"" for name, file in files.items()}


def test_save_script(tmp_path: Path) -> None:
    state = tmp_path / ".tool"
    (state / "deep" / "er").mkdir(parents=True)
    files = {"a": b"1", "deep/er/with space": b"2", "-dash": b"3", "new\nline": b"4", "é": b"5"}
    for name, data in files.items():
        (state / name).write_bytes(data)
    (state / "link").symlink_to("/etc/passwd")
    (state / "hard").hardlink_to(state / "a")
    os.mkfifo(state / "fifo")
    (tmp_path / ".tool.json").write_bytes(b"{}")
    (tmp_path / "private").write_bytes(b"no")
    expected = {f".tool/{name}": data for name, data in files.items()}
    expected |= {".tool/hard": b"1", ".tool.json": b"{}"}
    assert saved(tmp_path, [".tool", ".tool.json", ".none"]) == expected


def test_save_of_nothing(tmp_path: Path) -> None:
    assert saved(tmp_path, [".tool"]) == {}
    (tmp_path / ".tool").symlink_to("/etc")
    assert saved(tmp_path, [".tool"]) == {}


def test_save_leaves_out_what_is_too_large(tmp_path: Path) -> None:
    (tmp_path / ".tool").mkdir()
    (tmp_path / ".tool" / "small").write_bytes(b"x" * 1024)
    (tmp_path / ".tool" / "large").write_bytes(b"x" * 4097)
    assert set(saved(tmp_path, [".tool"], max_file=4096)) == {".tool/small"}


@given(st.text(string.printable, max_size=20))
def test_attach_takes_any_name_as_an_argument(name: str) -> None:
    assert inside.attach(name, start=name, wait=1.0)[-3:] == [name, name, "1"]


def test_attach_waits_for_its_own_start(tmp_path: Path) -> None:
    """What an earlier start has left is not it; waiting takes no processor time."""
    marked = tmp_path / ".coi" / "begun"
    marked.parent.mkdir()
    marked.write_text("earlier\n")
    (tmp_path / "bin").mkdir()
    tmux = tmp_path / "bin" / "tmux"
    tmux.write_text('#!/bin/sh\necho "$*"\n')
    tmux.chmod(0o755)
    env = [f"HOME={tmp_path}", f"PATH={tmux.parent}:/usr/bin:/bin"]

    def attach(wait: float, start: str = "now") -> list[str]:
        return [*env, *inside.attach("s", start=start, wait=wait)]

    assert Runner("env").run(attach(1.0)).exit_code == inside.NO_SESSION
    with ThreadPoolExecutor() as pool:
        before = os.times()
        waiting = pool.submit(Runner("env").run, attach(20.0))
        time.sleep(0.5)
        assert not waiting.done()
        marked.write_text("now\n")
        done = waiting.result()
        after = os.times()
    assert (done.exit_code, done.stdout) == (0, b"attach-session -t =s\n")
    used = sum(after[2:4]) - sum(before[2:4])
    assert used < 0.25

    assert Runner("env").run(attach(0)).stdout.splitlines()[-1] == b"attach-session -t =s"
    for wrong in (attach(0, "another"), attach(0, "no")):
        refused = Runner("env").run(wrong)
        assert (refused.exit_code, refused.stdout) == (inside.NO_SESSION, b""), "not even asked"
