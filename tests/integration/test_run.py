"""coi run: one command in a container that is gone afterwards."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from bench.budgets import calls
from piping import feed, module_host, start

from coi.testing.host import Host
from coi.testing.machine import User, query, wait_for

BASE_KEYS = {
    "security.nesting": "true",
    "security.syscalls.intercept.mknod": "true",
    "security.syscalls.intercept.setxattr": "true",
    "boot.autostart": "false",
}


@pytest.fixture(scope="module")
def world(image: str, user: User) -> Iterator[Host]:
    """One world for the tests that start nothing but runs."""
    with module_host(Host.make(user, image)) as host:
        yield host


def runs(host: Host) -> list[str]:
    return [name for name in host.instances() if "-r" in name]


def listed(host: Host, **environ: str) -> list[dict[str, Any]]:
    """What `coi list` says of this world, in one call."""
    done = host.coi("-v", "list", "--format", "json", environ=environ).ok()
    assert len(done.incus_calls) == calls("list")
    rows: list[dict[str, Any]] = done.json["active_containers"]
    return [row for row in rows if row["name"].startswith(host.prefix)]


def leftovers(host: Host, **environ: str) -> str:
    """What `coi clean` would take away, without doing it: there is no terminal to ask on."""
    return host.coi("clean", environ=environ).err


def running(host: Host) -> str:
    """The name of the run that is under way, once its command has begun."""
    wait_for(lambda: (host.workspace / "begun").exists(), what="the command begins")
    (name,) = runs(host)
    return name


def test_what_a_command_writes_and_how_it_ends_pass_through(world: Host) -> None:
    cases = {
        "printf 'out\\0\\377\\n'; echo err >&2": (0, b"out\0\xff\n", b"err\n"),
        "echo x; exit 1": (1, b"x\n", b""),
        "exit 42": (42, b"", b""),
        "exit 255": (255, b"", b""),
        "kill -9 $$": (137, b"", b""),
        "kill -TERM $$": (143, b"", b""),
    }
    started = {line: start(world, "-q", "run", line) for line in cases}
    for line, expected in cases.items():
        out, err = started[line].communicate(timeout=90)
        assert (started[line].returncode, out, err) == expected, line
    missing = world.coi("run", "no-such-command", "x")
    assert missing.code == 127
    assert missing.out == ""
    assert "no-such-command" in missing.err


def test_several_words_are_an_argv_and_keep_their_options(world: Host) -> None:
    done = world.coi("run", "printf", "<%s>", "a b", "$HOME", "--resume", "-v", "--", "*", "")
    assert done.ok().out == "<a b><$HOME><--resume><-v><--><*><>"
    assert world.coi("run", "--", "printf", "%s", "--version").ok().out == "--version"
    assert world.coi("run", "x=1; echo $((x+1)) | cat").ok().out == "2\n"


def test_the_command_is_the_session_s_user_in_the_workspace(world: Host) -> None:
    done = world.coi("run", "id -un; pwd; sudo -n id -u; touch made; echo $HOME $TERM $IS_SANDBOX")
    assert done.ok().out.splitlines() == [
        "code", "/workspace", "0", "/home/code xterm-256color 1",
    ]  # fmt: skip
    made = (world.workspace / "made").stat()
    assert (made.st_uid, made.st_gid) == (world.user.uid, world.user.gid)


def test_its_surroundings_are_ready_when_it_begins(world: Host) -> None:
    done = world.coi("run", "echo kept > /tmp/x; ip route show default; sleep 2; cat /tmp/x")
    assert done.ok().out.startswith("default via ")
    assert done.out.endswith("kept\n"), "the boot has emptied /tmp under the command"


def test_values_arrive_byte_for_byte_and_are_in_no_argv(world: Host) -> None:
    values = {
        "PLAIN": "hello world",
        "QUOTES": 'it\'s "quoted" `x` $HOME \\n',
        "UNICODE": "".join(map(chr, range(0xA1, 0x250))) + "✓",
        "BLANK": "  lead and trail\t ",
        "EMPTY": "",
        "LONG": "x" * 100_000,
    }
    flags = [word for key, value in values.items() for word in ("-e", f"{key}={value}")]
    shown = world.coi("-v", *flags, "run", "env -0").ok()
    got = dict(item.split("=", 1) for item in shown.out.split("\0") if item)
    assert {key: got.get(key) for key in values} == values
    assert "hello world" not in shown.err
    assert "xxxx" not in shown.err
    assert len(shown.incus_calls) == calls("run"), "values go in with the command"
    assert set(got) <= {
        *values, "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "TERM", "IS_SANDBOX",
        "PWD", "SHLVL", "_", "PIP_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    }  # fmt: skip


@pytest.mark.parametrize("flags", [(), ("-e", "A=1")])
def test_standard_input_passes_byte_for_byte(world: Host, flags: tuple[str, ...]) -> None:
    data = os.urandom(10 << 20)
    done = feed(world, data, "run", *flags, "sha256sum; echo ${A-none}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        hashlib.sha256(data).hexdigest().encode(), b"-", b"1" if flags else b"none",
    ]  # fmt: skip


def test_output_of_any_size_comes_whole_and_as_it_is_written(world: Host) -> None:
    line = "echo first; until [ -e go ]; do sleep 0.02; done; head -c 30000000 /dev/zero"
    process = start(world, "run", line)
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    world.write("ws/go", "")  # the command waits for it: its first line did not
    rest, _ = process.communicate(timeout=60)
    assert len(rest) == 30_000_000


def test_a_reader_that_goes_away_ends_the_run(world: Host) -> None:
    process = start(world, "run", "yes")
    assert process.stdout is not None
    assert process.stdout.read(4) == b"y\ny\n"
    process.stdout.close()
    assert process.wait(60) != 0
    wait_for(lambda: not runs(world), what="the container goes")


def test_an_open_standard_input_holds_nothing_up(world: Host) -> None:
    process = start(world, "run", "-e", "A=1", "echo $A", stdin=subprocess.PIPE)
    assert process.wait(60) == 0
    assert process.stdout is not None
    assert process.stdout.read() == b"1\n"


def test_the_timeout_kills_the_whole_tree(world: Host) -> None:
    line = "setsid sh -c 'while :; do date +%N > beat; sleep 0.02; done' & trap '' TERM; sleep 99"
    began = time.monotonic()
    done = world.coi("run", "--timeout", "1.5", line)
    assert done.code == 124
    assert done.out == ""
    assert "1.5 s" in done.err
    assert time.monotonic() - began < 40
    beat = (world.workspace / "beat").read_text()
    time.sleep(0.3)  # what still ran would have written
    assert (world.workspace / "beat").read_text() == beat
    assert world.coi("run", "--timeout", "30", "exit 5").code == 5


def test_capture(world: Host) -> None:
    line = "echo out; printf 'bad \\377'; printf '\\033[31merr' >&2; exit 3"
    done = world.coi("run", "--capture", "--format", "json", line)
    assert done.code == 3
    assert done.json == {"stdout": "out\nbad �", "stderr": "\x1b[31merr", "exit_code": 3}
    pretty = feed(world, b"", "-q", "run", "--capture", line)
    assert (pretty.returncode, pretty.stdout, pretty.stderr) == (
        3, b"out\nbad \xff", b"\x1b[31merr",
    )  # fmt: skip
    late = world.coi("run", "--format=json", "--timeout=1", "echo partly; sleep 60")
    assert late.code == 124
    assert late.json == {"stdout": "partly\n", "stderr": "", "exit_code": 124}


def test_no_waiting_for_the_deletion(world: Host) -> None:
    done = world.coi("-v", "run", "--", "true").ok()
    stop = done.incus_calls[-1]
    assert '"action":"stop"' in stop
    assert "--wait" not in stop


def test_a_run_is_listed_and_has_what_every_instance_has(host: Host) -> None:
    host.directory("more")
    process = start(host, "--mount", f"{host.root}/more:/more:ro", "run", "touch begun; sleep 60")
    name = running(host)
    (row,) = listed(host)
    assert {key: row[key] for key in ("name", "slot", "persistent", "status", "workspace")} == {
        "name": name, "slot": None, "persistent": False, "status": "Running",
        "workspace": str(host.workspace),
    }  # fmt: skip
    made = query(f"/1.0/instances/{name}")
    assert made["ephemeral"] is True
    assert BASE_KEYS.items() <= made["config"].items()
    assert made["devices"]["workspace"]["source"] == str(host.workspace)
    assert made["devices"]["mount1"]["readonly"] == "true"
    assert name not in leftovers(host)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert listed(host) == []
    assert name not in leftovers(host)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(host: Host, signum: signal.Signals) -> None:
    process = start(host, "run", "trap '' INT TERM HUP; touch begun; sleep 90")
    running(host)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    host.settled()


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.5, 1.0])
def test_a_signal_at_any_moment_leaves_nothing(host: Host, delay: float) -> None:
    process = start(host, "run", "sleep 90")
    wait_for(lambda: list((host.coi_home / "locks").glob("*")), what="the run begins")
    time.sleep(delay)  # the moments differ on purpose
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    host.settled()
    assert not list((host.coi_home / "locks").glob("*"))


def test_a_killed_run_is_ended_by_the_next_coi(host: Host) -> None:
    process = start(host, "run", "touch begun; sleep 90")
    name = running(host)
    process.kill()
    process.wait()
    assert host.instances() == {name: "Running"}
    assert f"{name}: its coi is gone" in leftovers(host)
    assert name not in host.coi("list").ok().out
    host.settled()
    assert not list((host.coi_home / "locks").glob(f"{name}*"))


def test_another_home_s_runs_are_left_alone(host: Host) -> None:
    process = start(host, "run", "touch begun; sleep 90")
    name = running(host)
    other = {"COI_HOME": str(host.directory("other"))}
    assert listed(host, **other) == []
    assert name not in leftovers(host, **other)
    assert host.instances() == {name: "Running"}
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["run"], 2, "COMMAND"),
        (["run", "--format", "xml", "true"], 2, "invalid format"),
        (["run", "--timeout", "-1", "true"], 2, "--timeout"),
        (["run", "--timeout", "soon", "true"], 2, "--timeout"),
        (["run", "-e", "1A=x", "true"], 2, "--env"),
        (["--image", "no-such-image", "run", "true"], 3, "coi build"),
        (["-w", "/nowhere", "run", "true"], 3, "does not exist"),
        (["--mount", "/nowhere:/x", "run", "true"], 3, "nothing to mount"),
    ],
)
def test_errors_say_what_and_leave_nothing(
    world: Host, args: list[str], code: int, said: str
) -> None:
    done = world.coi(*args)
    assert done.code == code, done.err
    assert said in done.err
    assert done.out == ""
    assert done.err.count("Error:") == 1
    assert "Usage:" not in done.err
