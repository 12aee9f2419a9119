"""What goes into an exec, and what of its standard error is the command's own."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from coi.incus.errors import NotEnteredError
from coi.incus.process import Runner, memory_file, read_all
from coi.session.feed import READ_HEADER, Fed, NotBegunError, execute, header
from coi.session.sinks import Kept

BEGIN = "printf '\\000coi\\000' >&2\n"
LOST = "Error: Failed to retrieve PID of executing child process\n"


@pytest.fixture
def sh() -> Runner:
    return Runner("sh")


def heard(sh: Runner, script: str) -> tuple[int, bytes]:
    """The exit code, and what came out as standard error."""
    errors = os.memfd_create("errors")
    try:
        with Fed(
            sh, ["-c", BEGIN + script], head=b"", source=None, stdout=errors, stderr=errors
        ) as child:
            code = child.wait(30)
        return code, read_all(errors)
    finally:
        os.close(errors)


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("printf 'a\\0b' >&2; echo 'Error: Command not found' >&2; exit 127", 127, b"a\0b"),
        ("echo 'Error: Command not executable' >&2; exit 126", 126, b""),
        # all that is not the client's last word, at its own exit code, is the command's
        ("echo 'Error: Command not found' >&2; exit 1", 1, b"Error: Command not found\n"),
        ("printf 'Error: Command not' >&2; exit 127", 127, b"Error: Command not"),
        ("exit 255", 255, b""),
        ("kill -9 $$", 137, b""),
    ],
)
def test_the_client_s_last_word_is_not_the_command_s(
    sh: Runner, script: str, code: int, said: bytes
) -> None:
    assert heard(sh, script) == (code, said)


def test_the_same_line_twice_is_the_command_s_once(sh: Runner) -> None:
    line = "echo 'Error: Command not found' >&2;"
    assert heard(sh, f"{line} {line} exit 127") == (127, b"Error: Command not found\n")


def test_megabytes_of_it_come_whole(sh: Runner) -> None:
    code, said = heard(sh, "head -c 5000000 /dev/zero >&2; exit 3")
    assert (code, len(said)) == (3, 5_000_000)


def test_it_comes_as_it_is_written(sh: Runner, tmp_path: Path) -> None:
    """A command that waits for its reader's answer gets it."""
    read, write = os.pipe()
    script = f"printf 'Error: Comm' >&2; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    done: list[int] = []

    def run() -> None:
        with Fed(
            sh, ["-c", BEGIN + script], head=b"", source=None, stdout=1, stderr=write
        ) as child:
            done.append(child.wait(30))

    thread = threading.Thread(target=run)
    thread.start()
    assert os.read(read, 100) == b"Error: Comm"
    (tmp_path / "go").touch()
    thread.join(30)
    assert done == [0]
    os.close(read)
    os.close(write)


def test_a_reader_that_takes_nothing_does_not_hold_up_the_deadline(sh: Runner) -> None:
    read, write = os.pipe()
    begun = time.monotonic()
    with (
        Fed(
            sh,
            ["-c", BEGIN + "exec cat /dev/zero >&2"],
            head=b"",
            source=None,
            stdout=write,
            stderr=write,
        ) as child,
        pytest.raises(TimeoutError),
    ):
        child.wait(0.3)
    assert time.monotonic() - begun < 10
    os.close(read)
    os.close(write)


def test_a_reader_that_has_gone_ends_the_child(sh: Runner) -> None:
    read, write = os.pipe()
    os.close(read)
    with Fed(sh, ["-c", BEGIN + "yes >&2"], head=b"", source=None, stdout=1, stderr=write) as child:
        assert child.wait(30) in (1, 141)
    os.close(write)


MARKED = BEGIN + "cat >/dev/null; " + BEGIN


def test_pieces_come_to_who_takes_them(sh: Runner) -> None:
    out, errors = Kept(1 << 20), Kept(1 << 20)
    script = BEGIN + "cat; echo said >&2; printf 'end'; exit 5"
    sources = [memory_file(b"one "), memory_file(b""), memory_file(b"x" * 300_000)]
    with Fed(sh, ["-c", script], head=b"zero ", source=sources, stdout=out, stderr=errors) as child:
        assert child.wait(30) == 5
    for fd in sources:
        os.close(fd)
    assert (out.text, errors.text) == ("zero one " + "x" * 300_000 + "end", "said\n")
    assert not out.cut


def test_what_is_kept_is_bounded(sh: Runner) -> None:
    out = Kept(1000)
    with Fed(
        sh,
        ["-c", BEGIN + "head -c 20000000 /dev/zero | tr '\\0' x"],
        head=b"",
        source=None,
        stdout=out,
        stderr=Kept(10),
    ) as child:
        assert child.wait(60) == 0
    assert (out.text, out.cut) == ("x" * 1000, True)
    exact = Kept(3)
    exact(b"ab")
    exact(b"c")
    assert (exact.text, exact.cut) == ("abc", False)
    exact(b"d")
    assert (exact.text, exact.cut) == ("abc", True)


@pytest.mark.parametrize(
    ("script", "begun"), [(MARKED + "exit 7", True), (BEGIN + "cat; exit 7", False)]
)
def test_what_ends_before_the_last_mark_has_not_begun(sh: Runner, script: str, begun: bool) -> None:
    """It is fed after the first: what unpacks its files is not the command yet."""
    calls: list[str] = []
    out, source = Kept(100), memory_file(b"files")

    def run() -> int:
        return execute(
            sh,
            ["-c", script],
            head=b"",
            source=source,
            stdout=out,
            stderr=Kept(100),
            begin_within=30,
            on_begin=lambda: calls.append("begin"),
            on_end=lambda: calls.append("end"),
            marks=2,
        )

    if begun:
        assert run() == 7
    else:
        with pytest.raises(NotBegunError) as caught:
            run()
        assert (caught.value.code, out.text) == (7, "files")
    assert calls == (["begin"] if begun else ["end"])
    os.close(source)


def lost(tmp_path: Path, times: int, then: str) -> str:
    """A script that is not entered so many times, as the daemon and its client do it."""
    count = tmp_path / "count"
    return (
        f"echo x >>{count}; if [ $(wc -l <{count}) -le {times} ]; then"
        f" printf '{LOST[:-1]}\\n' >&2; exit 255; fi\n{then}"
    )


@pytest.mark.parametrize("within", [None, 30.0])
def test_begun_anew_with_the_same_input(sh: Runner, tmp_path: Path, within: float | None) -> None:
    read, write = os.pipe()
    os.write(write, b"typed")
    os.close(write)
    out, errors = os.memfd_create("out"), os.memfd_create("errors")
    head = header({"A": "1"})
    script = lost(tmp_path, 3, READ_HEADER + 'echo said >&2; echo "$A"; cat')
    args = ["-c", script, "coi", str(len(head))]
    code = execute(sh, args, head=head, source=read, stdout=out, stderr=errors, begin_within=within)
    assert (code, read_all(out), read_all(errors)) == (0, b"1\ntyped", b"said\n")
    for fd in (read, out, errors):
        os.close(fd)


def test_an_exec_that_nobody_is_with_runs_nothing(tmp_path: Path) -> None:
    """It may have begun although the daemon says that it has not: its streams are closed."""
    script = READ_HEADER + f"touch {tmp_path}/ran"
    head = header({})
    for cut in (b"", head[:-2], head[: len(head) // 2]):
        done = Runner("sh").run(["-c", script, "coi", str(len(head))], stdin=cut, timeout=30)
        assert done.exit_code != 0
    assert not (tmp_path / "ran").exists()


def test_never_entered_is_an_error(
    sh: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coi.session.feed.ENTER_DEADLINE", 0.2)
    errors = os.memfd_create("errors")
    with pytest.raises(NotEnteredError):
        execute(
            sh,
            ["-c", lost(tmp_path, 10**6, "")],
            head=header({}),
            source=None,
            stdout=errors,
            stderr=errors,
        )
    assert read_all(errors) == b""
    os.close(errors)


def test_what_ends_before_it_begins_says_why(sh: Runner) -> None:
    """As the script in front does where the image lacks something."""
    errors = os.memfd_create("errors")
    with Fed(
        sh, ["-c", "echo why >&2; exit 94"], head=b"x", source=None, stdout=1, stderr=errors
    ) as c:
        assert c.wait(30) == 94
    assert read_all(errors) == b"why\n"
    os.close(errors)


def test_values_come_ahead_of_standard_input(sh: Runner) -> None:
    head = header({"A": "it's $x `y`\\", "B": ""})
    source = memory_file(b"the rest")
    out = os.memfd_create("out")
    script = READ_HEADER + 'printf "%s|%s|" "$A" "$B"; cat'
    args = ["-c", script, "coi", str(len(head))]
    with Fed(sh, args, head=head, source=source, stdout=out, stderr=2) as child:
        assert child.wait(30) == 0
    assert read_all(out) == b"it's $x `y`\\||the rest"
    os.close(source)
    os.close(out)


def test_its_own_troubles_are_not_the_command_s(sh: Runner) -> None:
    """With a limit for the beginning, what comes before it is an error of its own."""
    errors = os.memfd_create("errors")
    head = header({})

    def run(script: str) -> int:
        args = ["-c", script, "coi", str(len(head))]
        return execute(
            sh, args, head=head, source=None, stdout=1, stderr=errors,
            timeout=0.5, begin_within=30,
        )  # fmt: skip

    for script in ("exit 91", "exec 2>&-; sleep 0.3; exit 91"):  # it is seen to end, or said all
        with pytest.raises(NotBegunError) as caught:
            run(f"echo why >&2; {script}")
        assert (caught.value.code, caught.value.text) == (91, "why")
        assert read_all(errors) == b""
    # the time until it begins does not count
    assert run("sleep 1\n" + READ_HEADER + "exit 7") == 7
    with pytest.raises(TimeoutError):
        run(READ_HEADER + "exec sleep 30")
    os.close(errors)


def test_what_does_not_begin_is_ended(sh: Runner) -> None:
    ended: list[bool] = []
    with pytest.raises(NotBegunError) as caught:
        execute(
            sh, ["-c", "exec sleep 30"], head=b"", source=None, stdout=1, stderr=2,
            begin_within=0.1, on_end=lambda: ended.append(True),
        )  # fmt: skip
    assert caught.value.code is None
    assert ended == [True]
