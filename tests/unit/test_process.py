"""The runner, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from coi.errors import UNAVAILABLE, CoiError, UnavailableError
from coi.incus.process import Runner, memory_file, read_all
from coi.incus.shield import shielded


@pytest.fixture
def sh() -> Runner:
    return Runner("sh")


def open_files() -> dict[str, str]:
    """This process's descriptors and what they are."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except FileNotFoundError:  # the descriptor of the directory itself
            continue
    return found


def children() -> list[str]:
    """Processes that this one has started and not waited for."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_output_and_error_are_apart_and_binary(sh: Runner) -> None:
    done = sh.run(["-c", r"printf '\000\377out'; printf 'err\n' >&2"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, b"\0\xffout", b"err\n")
    assert done.error_text == "err"
    assert Path(done.argv[0]).name == "sh"


def test_large_output_arrives_whole(sh: Runner) -> None:
    size = 50 << 20
    done = sh.run(["-c", f"head -c {size} /dev/zero; head -c {size} /dev/zero >&2"], timeout=60)
    assert len(done.stdout) == len(done.stderr) == size


def test_stdin_is_empty_unless_given(sh: Runner) -> None:
    assert sh.run(["-c", "cat; echo end"], timeout=10).stdout == b"end\n"


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 5 << 20])
def test_stdin_bytes_arrive(sh: Runner, size: int) -> None:
    data = os.urandom(size)
    assert sh.run(["-c", "cat"], stdin=data, timeout=30).stdout == data


def test_stdin_descriptor(sh: Runner, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"from a file")
    with path.open("rb") as file:
        assert sh.run(["-c", "cat"], stdin=file.fileno()).stdout == b"from a file"
        assert not file.closed


@pytest.mark.parametrize("code", [0, 1, 7, 75, 126, 127, 128, 255])
def test_exit_codes_pass_through(sh: Runner, code: int) -> None:
    assert sh.run(["-c", f"exit {code}"]).exit_code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP])
def test_a_signal_is_a_negative_code(sh: Runner, number: signal.Signals) -> None:
    assert sh.run(["-c", f"kill -{int(number)} $$"], timeout=10).exit_code == -number


def test_timeout_kills_even_what_ignores_sigterm(
    sh: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coi.incus.process.Process.stop.__defaults__", (0.2,), raising=False)
    pid = tmp_path / "pid"
    began = time.monotonic()
    script = f"trap '' TERM; echo $$ > {pid}; while :; do read x < /dev/zero; done"
    with pytest.raises(TimeoutError, match=r"still runs after 0\.3 s"):
        sh.run(["-c", f"exec 2>/dev/null; {script}"], timeout=0.3)
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_timeout_of_a_quiet_process(sh: Runner) -> None:
    before = children()
    with pytest.raises(TimeoutError):
        sh.run(["-c", "exec sleep 60"], timeout=0.05)
    assert children() == before


def test_leaving_the_block_ends_the_process(sh: Runner) -> None:
    with pytest.raises(KeyError), sh.spawn(["-c", "exec sleep 60"]) as process:
        raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_stop_returns_the_signal(sh: Runner) -> None:
    process = sh.spawn(["-c", "exec sleep 60"])
    assert not process.poll()
    assert process.stop() == -signal.SIGTERM
    assert process.poll()
    process.send(signal.SIGTERM)  # it is gone: nothing happens


def test_missing_executable_is_exit_code_4() -> None:
    runner = Runner("no-such-program")
    assert not runner.available()
    with pytest.raises(UnavailableError, match="no-such-program is not installed") as caught:
        runner.run([])
    assert caught.value.exit_code == UNAVAILABLE
    assert "install.sh" in caught.value.hint


def test_not_startable(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(CoiError, match="cannot start") as caught:
        Runner(str(broken)).run([])
    assert "No such file" in caught.value.details
    assert "\n" not in caught.value.details


@pytest.mark.parametrize("arguments", [["a\0b"], ["-c", "true", "\0"]])
def test_nul_is_refused_before_anything_starts(sh: Runner, arguments: list[str]) -> None:
    with pytest.raises(CoiError, match="NUL"):
        sh.run(arguments)
    assert sh.calls == []


@pytest.mark.parametrize(
    "argument",
    ["", " ", "a b", "'", '"', "$HOME", "`id`", "--flag", "*", "\n", "\\", "ü€😀", "x" * 100_000],
    ids=lambda value: ascii(value[:8]),
)
def test_arguments_arrive_byte_for_byte(sh: Runner, argument: str) -> None:
    done = sh.run(["-c", 'printf %s "$1"', "sh", argument])
    assert done.stdout == argument.encode()


def test_an_argument_that_is_not_utf_8_is_refused(sh: Runner) -> None:
    with pytest.raises(CoiError, match="not UTF-8"):
        sh.run(["-c", "true", os.fsdecode(b"\xff\xfe")])
    assert sh.calls == []


def test_an_environment_that_is_not_utf_8_passes(
    sh: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD", os.fsdecode(b"\xff\xfe"))
    assert sh.run(["-c", 'printf %s "$ODD"']).stdout == b"\xff\xfe"


def test_locale_is_fixed_and_the_environment_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PASSED", "on")
    done = Runner("sh", environment={"ADDED": "1"}).run(["-c", "echo $LC_ALL $PASSED $ADDED"])
    assert done.stdout == b"C.UTF-8 on 1\n"


def test_cwd(sh: Runner, tmp_path: Path) -> None:
    assert sh.run(["-c", "pwd -P"], cwd=tmp_path).stdout.strip() == os.fsencode(tmp_path.resolve())


def test_calls_and_trace() -> None:
    seen: list[tuple[str, ...]] = []
    runner = Runner("sh", trace=lambda argv: seen.append(tuple(argv)))
    runner.run(["-c", "true"])
    assert runner.calls == seen == [("sh", "-c", "true")]


def test_nothing_leaks(sh: Runner) -> None:
    """Neither descriptors nor zombies, after 200 runs of all kinds."""
    sh.run(["-c", "true"])
    files, processes = open_files(), children()
    for number in range(200):
        sh.run(["-c", f"exit {number % 3}"], stdin=b"x" if number % 2 else None)
    with pytest.raises(TimeoutError):
        sh.run(["-c", "exec sleep 60"], timeout=0.01)
    assert open_files() == files
    assert children() == processes


def test_children_get_no_descriptors_of_ours(sh: Runner, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        listing = sh.run(["-c", "ls -l /proc/$$/fd"]).stdout.decode()
    assert "secret" not in listing


CTRL_C = """
import os, sys, time
from coi.incus.process import Runner
out = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
process = Runner("sh").spawn(["-c", "trap 'echo hit; exit 3' INT; echo ready; "
    "n=0; while [ $n -lt 400 ]; do sleep 0.05; n=$((n+1)); done"], stdout=out,
    terminal=sys.argv[2] == "terminal")
while not os.fstat(out).st_size:
    os.sched_yield()
try:
    print("ready", flush=True)
    while True:  # pause() would sleep through a signal that comes just before it
        time.sleep(0.05)
except KeyboardInterrupt:
    print("interrupted", flush=True)
if sys.argv[2] == "terminal":
    print("child", process.wait(5), flush=True)
else:
    print("alive", not process.poll(0.2), flush=True)
    process.stop()
"""


@pytest.mark.parametrize("kind", ["terminal", "other"])
def test_ctrl_c_reaches_only_children_on_the_terminal(kind: str, tmp_path: Path) -> None:
    """A real terminal's Ctrl-C goes to its foreground group: coi, and what is on the terminal."""
    import pexpect

    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(CTRL_C))
    out = tmp_path / "out"
    child = pexpect.spawn(sys.executable, [str(script), str(out), kind], timeout=15)
    child.expect("ready")
    child.sendintr()
    child.expect("interrupted")
    if kind == "terminal":
        child.expect("child 3")
        assert b"hit" in out.read_bytes()
    else:
        child.expect("alive True")
        assert b"hit" not in out.read_bytes()
    child.expect(pexpect.EOF)
    child.close()


def test_die_with_parent(tmp_path: Path) -> None:
    """A child that must not outlive coi gets SIGTERM when coi is killed."""
    code = f"""
import os, signal
from coi.incus.process import Runner
out = os.open({str(tmp_path / "out")!r}, os.O_RDWR | os.O_CREAT)
Runner("sh").spawn(["-c", "trap 'echo ended; exit' TERM; echo ready; "
    "n=0; while [ $n -lt 200 ]; do sleep 0.02; n=$((n+1)); done; echo late"],
    stdout=out, die_with_parent=True)
while not os.fstat(out).st_size:
    os.sched_yield()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=20, check=False)
    assert ended.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while b"ended" not in (text := (tmp_path / "out").read_bytes()) and b"late" not in text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert text == b"ready\nended\n"


def test_shielded_puts_signals_off() -> None:
    order: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda _n, _f: order.append("signal"))
    try:
        with shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            order.append("inside")
        order.append("after")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert order == ["inside", "signal", "after"]


def test_a_shielded_child_can_be_ended(sh: Runner) -> None:
    """The mask must not be inherited: SIGTERM would never arrive."""
    with shielded():
        process = sh.spawn(["-c", "exec sleep 60"])
        began = time.monotonic()
        assert process.stop(grace=5) == -signal.SIGTERM
    assert time.monotonic() - began < 4


def test_memory_file_round_trip() -> None:
    data = os.urandom(3 << 20)
    fd = memory_file(data)
    try:
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        assert read_all(fd) == data
    finally:
        os.close(fd)
