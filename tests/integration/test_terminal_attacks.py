"""What is inside writes to the terminal, and pushes into it: the host's shell sees nothing."""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dummy import PROMPT, start
from piping import module_host
from terminals import WRECK, clients, left_on, obeying

from coi.session.terminal import _HEAR
from coi.testing.host import Host
from coi.testing.machine import User, query, wait_for
from coi.testing.screen import Screen


@pytest.fixture(scope="module")
def world(daemon: None, image: str, user: User) -> Iterator[Host]:
    """A world with a session that runs in the background."""
    with module_host(Host.make(user, image)) as host:
        host.coi("shell", "--background").ok()
        yield host


def _raw(host: Host, data: bytes, slot: int = 1) -> None:
    """As root inside, write to the terminal of whoever is attached."""
    (client,) = wait_for(lambda: clients(host, slot), what="a client of tmux inside")
    octal = "".join(f"\\{byte:03o}" for byte in data)
    host.inside(f"printf '{octal}' >{client}", slot=slot)


def _client(host: Host) -> int:
    """The process of `incus exec -t`."""
    (found,) = [pid for pid, line in host.pids().items() if "incus exec" in line and " -t " in line]
    return found


def _wreck(host: Host, screen: Screen) -> None:
    _raw(host, WRECK)
    screen.until(lambda: WRECK in screen.output)
    screen.detach()


def _kill_client(host: Host, _screen: Screen) -> None:
    os.kill(_client(host), signal.SIGKILL)


def _kill_tmux_client(host: Host, _screen: Screen) -> None:
    host.inside("pkill -KILL -x 'tmux: client'")


def _kill_tmux(host: Host, _screen: Screen) -> None:
    host.inside("pkill -KILL -x 'tmux: server'")


def _kill_init(host: Host, _screen: Screen) -> None:
    os.kill(query(f"/1.0/instances/{host.instance()}/state")["pid"], signal.SIGKILL)


ENDS: dict[str, Callable[[Host, Screen], None]] = {
    "wrecked by root inside": _wreck,
    "incus client killed": _kill_client,
    "tmux client killed": _kill_tmux_client,
    "tmux server killed": _kill_tmux,
    "init killed": _kill_init,
}


def test_the_terminal_comes_back_whatever_is_killed(host: Host, as_root: None) -> None:
    for what, end in ENDS.items():
        if what == "init killed":
            host.coi("kill", host.instance()).ok()  # it has no tmux any more
        screen = host.screen(*(["attach"] if clients(host) or host.instances() else ["shell"]))
        before = termios.tcgetattr(screen.child.child_fd)
        screen.expect(PROMPT)
        end(host, screen)
        screen.ended()
        assert left_on(screen.output) == set(), what
        assert termios.tcgetattr(screen.child.child_fd) == before, what
        clean = what == "tmux client killed"  # tmux's server sees to it
        assert bool(left_on(screen.output.partition(_HEAR.encode())[0])) is not clean, what
    host.settled()


def test_the_terminal_comes_back_when_coi_is_killed(host: Host) -> None:
    screen = start(host)
    assert "alternate screen" in left_on(screen.output)
    screen.child.kill(signal.SIGKILL)
    screen.end()
    screen.rest(0.5)
    assert left_on(screen.output) == set()
    host.drop()


def test_answers_of_the_terminal_are_not_typed_into_the_shell(world: Host) -> None:
    """What root inside asks the terminal at the last moment is answered to nobody."""
    pwned = world.workspace / "pwned"
    shell = obeying(world)
    shell.expect("^host>")
    shell.line(f"$COI attach {world.instance()}")
    shell.expect(PROMPT)
    shell.held = b"[detached"
    _raw(world, b"\x1b[21t" * 20)
    shell.until(lambda: shell.asked == 20)
    assert shell.told == 0
    shell.detach()
    shell.expect("Container kept running.*\n(.*\n)*host> ?$")
    shell.line("echo $((40 + 2))-th$(:)e shell")
    shell.expect("^42-the shell")
    assert shell.told == 20
    assert not pwned.exists()
    # Control: the same question, where coi is not in between.
    shell.line(f"incus exec {world.instance()} -t -- printf '\\033[21t'")
    shell.until(pwned.exists, what="the answer to be run by the shell")
    pwned.unlink()
    shell.line("exit")
    shell.end()


# Arguments: what is pushed. Tries every terminal that there is, and those that it can make.
PUSH = r"""
import fcntl, glob, os, stat, sys, termios
text = sys.argv[1].encode().decode("unicode_escape").encode()
made = []
for major, minor in [(5, 0), (5, 1), (4, 0), (4, 1), *((136, n) for n in range(40))]:
    name = f"/run/tty-{major}-{minor}"
    try:
        os.mknod(name, 0o600 | stat.S_IFCHR, os.makedev(major, minor))
        made.append(name)
    except OSError:
        pass
places = ["/dev/tty", "/dev/console", *glob.glob("/dev/tty?*"), *glob.glob("/dev/pts/[0-9]*"),
          *glob.glob("/proc/[0-9]*/fd/[012]"), *made]
def push(fd):
    pushed = 0
    for byte in text:
        try:
            fcntl.ioctl(fd, termios.TIOCSTI, bytes([byte]))
            pushed += 1
        except OSError:
            break
    for sub in (b"\x02" + b"\0" * 11, b"\x03"):  # TIOCLINUX: select, paste
        try: fcntl.ioctl(fd, termios.TIOCLINUX, sub)
        except OSError: pass
    return pushed
found = [push(0)]
for place in places if os.getuid() == 0 else ():
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            fd = os.open(place, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            if os.isatty(fd):
                try: fcntl.ioctl(fd, termios.TIOCSCTTY, 1)
                except OSError: pass
                code = 0 if push(fd) else 1
        except OSError: pass
        os._exit(code)
    os.waitpid(child, 0)
print("pushed", found[0], "made", len(made))
"""


def test_nothing_is_pushed_into_the_hosts_terminal(world: Host) -> None:
    """TIOCSTI and TIOCLINUX on every terminal inside, as root on the terminal of an exec."""
    pwned, script = world.workspace / "pwned", world.write("push.py", PUSH)
    name = world.instance()
    world.inside(f"cat >/run/push.py <<'EOF'\n{PUSH}\nEOF")
    shell = obeying(world)
    shell.expect("^host>")
    for number, client in enumerate(("$COI container exec", "incus exec")):
        push = f"python3 /run/push.py '\\ntouch {pwned}\\n'"
        shell.line(f"{client} -t {name} -- {push}; echo en''d{number}")
        shell.expect_log(rf"^pushed \d+ made 0\n(.*\n)*end{number}\n")
        shell.line(f"echo $((40 + {number}))-th$(:)e shell")
        shell.expect_log(f"^4{number}-the shell")
        assert not pwned.exists(), client
    if Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "1":
        # Control: on a terminal of the host's own it works.
        shell.line(f"python3 {script} '\\ntouch {pwned}\\n'")
        shell.until(pwned.exists, what="what was pushed to be run by the shell")
        pwned.unlink()
    shell.line("exit")
    shell.end()


def _terminals(pid: int) -> set[tuple[int, int]]:
    """The terminals that a process has open: where each is, and which."""
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            status = entry.stat()
            if os.major(status.st_rdev) in (4, 5, *range(136, 144)):
                found.add((status.st_dev, status.st_rdev))
    except OSError:
        pass
    return found


def test_the_hosts_terminal_is_not_inside(world: Host, as_root: None) -> None:
    """No process of the container has the terminal, nor any of the host's."""
    screen = world.screen("attach")
    screen.expect(PROMPT)
    mine = _terminals(screen.pid) & _terminals(_client(world))
    assert mine, "the control: coi and its client have it"
    init = query(f"/1.0/instances/{world.instance()}/state")["pid"]
    space = Path(f"/proc/{init}/ns/pid").readlink()
    inside: set[tuple[int, int]] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "ns/pid").readlink() == space:
                inside |= _terminals(int(entry.name))
        except OSError:
            continue
    assert inside, "there are terminals inside"
    assert {place for place, _ in inside}.isdisjoint(place for place, _ in mine)
    screen.detach()
    screen.ended()
