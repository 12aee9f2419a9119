"""The build's own rules: names, versions, leftovers, logs, signals, progress."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from coi.errors import CoiError, Interrupted, NotFoundError, UsageError
from coi.image import build as build_module
from coi.image.builder import is_version, old_versions
from coi.image.container import (
    OWNER,
    TAG,
    Log,
    leftovers,
    new_name,
)
from coi.image.progress import Silent, clean, last_line
from coi.image.signals import deferred, interruptible, uninterrupted
from coi.incus.images import Image
from coi.incus.instances import Instance
from coi.incus.process import Runner

COI = {"coi.recipe": "x"}


@pytest.mark.parametrize("name", ["coi", "my-image", "a.b_c", "coi-2026", "x" * 63])
def test_names(name: str) -> None:
    build_module._check_name(name)


@pytest.mark.parametrize(
    "name", ["", "-x", "a/b", "a b", "a:b", "é", "x" * 64, "a\n", "coi-20261123-101500"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="not a usable image name"):
        build_module._check_name(name)


def test_versions() -> None:
    assert is_version("coi-20261123-101500", "coi")
    assert not is_version("coi", "coi")
    assert not is_version("coi-x-20261123-101500", "coi")
    assert not is_version("other-20261123-101500", "coi")


def test_old_versions_are_coi_s_own_and_nameless() -> None:
    def image(number: int, *aliases: str, properties: dict[str, str] | None = None) -> Image:
        return Image(str(number) * 64, aliases, COI if properties is None else properties)

    images = [
        image(1, "coi-20260101-000000"),
        image(2, "coi-20260301-000000"),
        image(3, "coi-20260201-000000"),
        image(4, "coi", "coi-20260401-000000"),
        image(5, "coi-20251201-000000", "keep-this"),
        image(6, "coi-20251101-000000", properties={}),
        image(7, "coi-rust-20251001-000000"),
        image(8),
    ]
    found = old_versions(images, "coi", "4" * 64)
    assert [i.fingerprint[0] for i in found] == ["2", "3", "1"]


def test_leftovers_are_of_this_image_and_home() -> None:
    def row(name: str, **config: str) -> Instance:
        return Instance(name, "Running", "", False, "default", config)

    rows = [
        row("a", **{TAG: "coi", OWNER: "me"}),
        row("b", **{TAG: "coi", OWNER: "other"}),
        row("c", **{TAG: "rust", OWNER: "me"}),
        row("d"),
    ]
    assert leftovers(rows, image="coi", owner="me") == ["a"]


def test_build_containers_have_the_prefix_and_no_name_twice() -> None:
    names = {new_name("t1-") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("t1-build-") and len(name) <= 63 for name in names)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo\n", "two"),
        ("one\n\n  \n", "one"),
        ("10%\r20%\r30%", "30%"),
        ("\x1b[1;32mgreen\x1b[0m", "green"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("a\x07b\x00c", "abc"),
        ("\u202eevil", "evil"),
        ("", ""),
        ("x" * 500, "x" * 200),
    ],
)
def test_the_line_that_is_shown(text: str, line: str) -> None:
    assert last_line(text) == line


def test_clean_keeps_lines() -> None:
    assert clean("a\x1b[2J\r\nb\tc\n") == "a\nb\tc\n"


class Seen(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def output(self, line: str) -> None:
        self.lines.append(line)


def shell(log: Log, script: str, **options: float) -> int:
    with Runner("sh").spawn(["-c", script], stdout=log.fd, stderr=log.fd) as process:
        return log.follow(process, options.get("timeout", 20.0))


def test_log(tmp_path: Path) -> None:
    seen = Seen()
    log = Log(tmp_path / "logs/build.log", seen)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700
    log.section("First")
    assert shell(log, "echo first") == 0
    log.section("Second")
    assert shell(log, "seq 1 100; echo to stderr >&2; exit 7") == 7
    tail = log.tail(3).splitlines()
    assert tail == ["99", "100", "to stderr"]
    assert "first" not in log.tail(1000)
    assert seen.lines[0] == "first"
    assert seen.lines[-1] == "to stderr"
    assert log.path.read_text().startswith("==> First\nfirst\n==> Second\n1\n")
    log.close(remove=True)
    assert not log.path.exists()


def test_log_never_overwrites(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.log", Silent())
    with pytest.raises(FileExistsError):
        Log(tmp_path / "x.log", Silent())
    log.close(remove=False)
    assert log.path.exists()


def test_a_process_that_runs_for_too_long_is_ended(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.log", Silent())
    begin = time.monotonic()
    with pytest.raises(CoiError, match="gave up after"):
        shell(log, "exec sleep 30", timeout=0.3)
    assert time.monotonic() - begin < 5
    log.close(remove=True)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_once(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    cleaned = []

    def work() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signum)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signum)  # the impatient second one
                time.sleep(0.05)
                with uninterrupted():
                    os.kill(os.getpid(), signum)
                    time.sleep(0.05)
                    cleaned.append(True)

    with pytest.raises(Interrupted, match="interrupted"):
        work()
    assert cleaned == [True]
    assert signal.getsignal(signum) is before


def test_a_signal_ends_the_running_process(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.log", Silent())

    class Killing(Silent):
        def tick(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    log._progress = Killing()
    begin = time.monotonic()
    with pytest.raises(Interrupted), interruptible():
        shell(log, "exec sleep 30")
    assert time.monotonic() - begin < 5
    log.close(remove=True)


def test_custom_scripts_are_read(tmp_path: Path) -> None:
    script = tmp_path / "s.sh"
    with pytest.raises(NotFoundError, match="does not exist"):
        build_module._read_script(script)
    with pytest.raises(CoiError, match="cannot read"):
        build_module._read_script(tmp_path)
    script.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        build_module._read_script(script)
    script.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="1 MiB"):
        build_module._read_script(script)
    script.write_text("echo ünï\n")
    assert build_module._read_script(script) == "echo ünï\n"


def test_plain_progress(capsys: pytest.CaptureFixture[str]) -> None:
    from coi.cli.output import Output
    from coi.cli.progress import PlainProgress

    progress = PlainProgress(Output())
    progress.plan(["One", "Two"])
    progress.begin(0, "One")
    progress.output("not shown")
    progress.end(0, 12.3, True)
    progress.begin(1, "Two")
    progress.note("mind this")
    progress.end(1, 0.12, False)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "==> [1/2] One\n    done in 12 s\n==> [2/2] Two\n    note: mind this\n"
        "    failed after 0.1 s\n"
    )


def test_live_progress_shows_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from coi.cli.progress import LiveProgress

    live = LiveProgress()
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=True, width=60, highlight=False)
    live.plan(["One", "Two \x1b[2J", "Three"])
    live.begin(0, "One")
    live.end(0, 75.0, True)
    live.begin(1, "Two")
    live.output("Unpacking \x1b[31mred")
    console.print(live._render())
    text = clean(buffer.getvalue())
    assert [word in text for word in ("One", "75 s", "Two", "Unpacking red", "Three")] == [True] * 5
    live.end(1, 1.0, False)
    buffer.truncate(0)
    console.print(live._render())
    assert "✗" in buffer.getvalue()


def test_a_deferred_signal_arrives_afterwards() -> None:
    done = []

    def work() -> None:
        with interruptible():
            with deferred():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
                done.append("request")
            done.append("not reached")

    with pytest.raises(Interrupted):
        work()
    assert done == ["request"]
