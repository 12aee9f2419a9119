"""coi container: single containers, thin and exact."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from piping import feed, module_host, start
from test_run import BASE_KEYS, listed

from coi.testing.host import Host
from coi.testing.machine import User, query, wait_for


@pytest.fixture(scope="module")
def world(image: str, user: User) -> Iterator[Host]:
    """A world with one running container, which the tests share."""
    with module_host(Host.make(user, image)) as host:
        host.coi("container", "launch", image, name_of(host)).ok()
        yield host


def name_of(host: Host) -> str:
    return f"{host.prefix}box"


def execute(host: Host, *args: str) -> tuple[int, str, str]:
    """``coi container exec`` in the shared container: exit code, stdout, stderr."""
    done = host.coi("container", "exec", name_of(host), *args)
    return done.code, done.out, done.err


def test_launch_tags_what_it_makes_and_gives_it_the_keys(world: Host) -> None:
    made = query(f"/1.0/instances/{name_of(world)}")
    assert made["ephemeral"] is False
    assert BASE_KEYS.items() <= made["config"].items()
    assert made["config"]["user.coi.state"] == "container"
    assert made["config"]["user.coi.owner"] == str(world.user.uid)
    assert made["config"]["user.coi.version"]
    (row,) = listed(world)
    assert (row["name"], row["slot"], row["persistent"]) == (name_of(world), None, True)


def test_a_life(host: Host) -> None:
    name = f"{host.prefix}life"

    def coi(*args: str) -> tuple[int, str]:
        done = host.coi("container", *args)
        assert done.out == ""
        return done.code, done.err

    assert coi("exists", name) == (1, f"{name} does not exist\n")
    assert coi("running", name) == (1, f"{name} does not exist\n")
    host.coi("container", "launch", host.image, name).ok()
    code, said = coi("launch", host.image, name)
    assert code == 1
    assert "already exists" in said
    assert coi("exists", name) == (0, "")
    assert coi("running", name) == (0, "")
    code, said = coi("delete", name)
    assert code == 1
    assert "running" in said
    began = time.monotonic()
    assert coi("stop", name)[0] == 0  # right after its boot, gracefully
    assert time.monotonic() - began < 30
    assert coi("running", name) == (1, f"{name} is not running\n")
    assert coi("exists", name) == (0, "")
    code, said = coi("stop", name)
    assert code == 1
    assert "is not running" in said
    code, said = coi("exec", name, "--", "true")
    assert code == 1
    assert "is not running" in said
    assert coi("start", name)[0] == 0
    code, said = coi("start", name)
    assert code == 1
    assert "already running" in said
    assert coi("stop", "--force", name)[0] == 0
    assert coi("delete", name)[0] == 0
    assert coi("exists", name)[0] == 1


def test_an_ephemeral_one_goes_when_it_stops(host: Host) -> None:
    name = f"{host.prefix}brief"
    host.coi("container", "launch", "--ephemeral", host.image, name).ok()
    assert query(f"/1.0/instances/{name}")["ephemeral"] is True
    host.coi("container", "stop", name).ok()
    host.settled()
    host.coi("container", "launch", host.image, name, "--ephemeral").ok()
    host.coi("container", "delete", "--force", name).ok()
    assert host.instances() == {}


def test_exec_passes_streams_and_the_exit_code(world: Host) -> None:
    done = feed(
        world, b"in\0\xff", "container", "exec", name_of(world), "--", "sh", "-c",
        "cat; echo err >&2; exit 7",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\0\xff", b"err\n")
    for code in (0, 1, 42, 255):
        assert execute(world, "--", "sh", "-c", f"exit {code}") == (code, "", "")
    assert execute(world, "--", "sh", "-c", "kill -9 $$")[0] == 137
    assert execute(world, "--", "no-such-command")[0] == 127
    assert execute(world, "--", "/etc/passwd")[0] == 126


def test_exec_is_root_in_the_workspace_and_the_words_are_exact(world: Host) -> None:
    code, out, err = execute(world, "--", "sh", "-c", 'id -u; id -g; pwd; echo "$HOME"')
    assert (code, out.split(), err) == (0, ["0", "0", "/workspace", "/root"], "")
    words = ["a  b", "$HOME", "*", "", "--capture", "-e", "'", "--"]
    assert execute(world, "--", "printf", "<%s>", *words)[1] == "".join(f"<{w}>" for w in words)
    assert execute(world, "printf", "%s", "--verbose")[1] == "--verbose"  # no -- needed


def test_exec_as_somebody_somewhere(world: Host) -> None:
    code, out, _ = execute(
        world, "--user", "1000", "--group", "4", "--cwd", "/tmp", "--",
        "sh", "-c", 'id -u; id -g; pwd; echo "$HOME"',
    )  # fmt: skip
    assert (code, out.split()) == (0, ["1000", "4", "/tmp", "/home/code"])
    assert execute(world, "--user", "1234", "--", "id", "-g")[1] == "1234\n"
    code, out, err = execute(world, "--cwd", "/no where", "--", "true")
    assert (code, out) == (125, "")
    assert "/no where" in err
    code, out, err = execute(world, "--cwd", "-x; id", "--", "true")
    assert (code, out) == (125, "")


def test_exec_without_a_workspace_is_in_the_root(world: Host) -> None:
    assert execute(world, "--", "mv", "/workspace", "/elsewhere")[0] == 0
    try:
        assert execute(world, "--", "pwd") == (0, "/\n", "")
    finally:
        assert execute(world, "--", "mv", "/elsewhere", "/workspace")[0] == 0


def test_exec_variables_arrive_byte_for_byte_and_are_in_no_argv(world: Host) -> None:
    values = {"A": 'it\'s "q" `x` $HOME \\n', "U": "ÁÈ✓", "B": " lead ", "E": "", "HOME": "/x y"}
    flags = [word for key, value in values.items() for word in ("--env", f"{key}={value}")]
    data = os.urandom(10 << 20)
    script = 'for v in "$A" "$U" "$B" "$E" "$HOME"; do printf "<%s>" "$v"; done; sha256sum'
    done = feed(
        world, data, "-v", "container", "exec", *flags, name_of(world), "--", "sh", "-c", script
    )
    assert done.returncode == 0
    expected = "".join(f"<{value}>" for value in values.values())
    assert done.stdout.decode() == f"{expected}{hashlib.sha256(data).hexdigest()}  -\n"
    assert b"lead" not in done.stderr
    assert done.stderr.count(b"+ incus") == 1


def test_exec_capture(world: Host) -> None:
    script = "echo out; printf '\\377'; echo err >&2; exit 3"
    done = world.coi("container", "exec", name_of(world), "--capture", "--", "sh", "-c", script)
    assert done.code == 3
    assert done.json == {"stdout": "out\n�", "stderr": "err\n", "exit_code": 3}
    raw = feed(
        world, b"", "container", "exec", name_of(world), "--capture", "--format=raw", "--",
        "sh", "-c", script,
    )  # fmt: skip
    assert (raw.returncode, raw.stdout, raw.stderr) == (3, b"out\n\xff", b"err\n")


@pytest.mark.parametrize("values", [(), ("-e", "A=b 'c'", "--env", "U=✓")])
def test_exec_on_a_terminal(world: Host, values: tuple[str, ...]) -> None:
    screen = world.screen(
        "container", "exec", name_of(world), "--tty", *values, "--",
        "sh", "-c", 'tty; echo "term $TERM a ${A-none} u ${U-none}"; read x; echo "got $x"; exit 9',
    )  # fmt: skip
    screen.expect("/dev/pts/")
    screen.expect("term xterm-256color a b 'c' u ✓" if values else "a none u none")
    screen.line("typed")
    screen.expect("got typed")
    assert screen.end() == 9
    assert execute(world, "--", "sh", "-c", "ls /tmp/.coi-env-*")[1] == ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_exec_ends_its_command(world: Host, signum: signal.Signals) -> None:
    process = start(world, "container", "exec", name_of(world), "--", "sleep", "4321")
    look = ("--", "pgrep", "-f", "^sleep 4321")
    wait_for(lambda: execute(world, *look)[0] == 0, what="the command runs")
    process.send_signal(signum)
    assert process.wait(30) == 130
    wait_for(lambda: execute(world, *look)[0] == 1, what="the command is gone")


def test_an_open_standard_input_holds_nothing_up(world: Host) -> None:
    process = start(
        world, "container", "exec", "-e", "A=1", name_of(world), "printenv", "A",
        stdin=subprocess.PIPE,
    )  # fmt: skip
    assert process.wait(30) == 0
    assert process.stdout is not None
    assert process.stdout.read() == b"1\n"


def test_mount(world: Host) -> None:
    world.write("shared/file", "from outside")
    name = name_of(world)
    mount = ("container", "mount", name, "shared", f"{world.root}/shared", "/mnt/shared")
    world.coi(*mount).ok()
    code, out, _ = execute(world, "--", "sh", "-c", "cat /mnt/shared/file; stat -c %u /mnt/shared")
    assert (code, out) == (0, f"from outside{world.user.uid}\n")
    again = world.coi(*mount)
    assert again.code == 1
    assert "already has a device" in again.err
    plain = ("container", "mount", name, "plain", "../shared", "/mnt/plain", "--no-shift")
    world.coi(*plain).ok()
    assert execute(world, "--", "stat", "-c", "%u", "/mnt/plain")[1] == "65534\n"
    assert "shift" not in query(f"/1.0/instances/{name}")["devices"]["plain"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["launch", "{image}", "-x"], 2, ""),
        (["launch", "{image}", "--", "-x"], 2, "not a container's name"),
        (["launch", "{image}", "a=b"], 2, "not a container's name"),
        (["launch", "{image}", "a\nb"], 2, "not a container's name"),
        (["launch", "{image}", "a/b"], 2, "not a container's name"),
        (["launch", "{image}", "x" * 64], 2, "not a container's name"),
        (["launch", "no-such-image", "{free}"], 3, "coi build"),
        (["launch", "{image}"], 2, "NAME"),
        (["start", "{free}"], 3, "not found"),
        (["stop", "{free}"], 3, "not found"),
        (["delete", "{free}"], 3, "not found"),
        (["delete", "--force", "{free}"], 3, "not found"),
        (["exists", "a b"], 2, "not a container's name"),
        (["exec", "{free}", "--", "true"], 3, "not found"),
        (["exec", "{name}"], 2, "CMD"),
        (["exec", "{name}", "--format", "json", "--", "true"], 2, "invalid format"),
        (["exec", "{name}", "--capture", "--format", "xml", "--", "true"], 2, "invalid format"),
        (["exec", "{name}", "--capture", "--tty", "--", "true"], 2, "exclude"),
        (["exec", "{name}", "--user", "code", "--", "true"], 2, "--user"),
        (["exec", "{name}", "--env", "A B=c", "--", "true"], 2, "--env"),
        (["mount", "{name}", "d", "/nowhere", "/mnt/x"], 3, "nothing to mount"),
        (["mount", "{name}", "d", "/tmp", "mnt"], 2, "absolute"),
        (["mount", "{name}", "d", "/tmp", "/"], 2, "absolute"),
        (["mount", "{name}", "d=e", "/tmp", "/mnt/x"], 2, "device"),
        (["mount", "{name}", "d", "{root}", "/mnt/x"], 5, "coi's own data"),
        (["mount", "{free}", "d", "/tmp", "/mnt/x"], 3, "not found"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_errors_say_what_and_change_nothing(
    world: Host, args: list[str], code: int, said: str
) -> None:
    words = {
        "image": world.image, "free": f"{world.prefix}free", "name": name_of(world),
        "root": str(world.root),
    }  # fmt: skip
    before = query(f"/1.0/instances/{name_of(world)}")["devices"]
    done = world.coi("container", *(word.format(**words) for word in args))
    assert done.code == code, done.err
    assert said in done.err
    assert done.out == ""
    assert done.err.count("Error:") == 1
    assert "Usage:" not in done.err
    assert world.instances() == {name_of(world): "Running"}
    assert query(f"/1.0/instances/{name_of(world)}")["devices"] == before
