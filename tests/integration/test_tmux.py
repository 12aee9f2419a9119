"""coi tmux: sessions' terminals, for automation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from piping import feed, module_host

from coi.testing.host import Host
from coi.testing.machine import User, wait_for


@pytest.fixture(scope="module")
def world(image: str, user: User) -> Iterator[Host]:
    """A world with a session of bash in slot 1."""
    with module_host(Host.make(user, image)) as host:
        host.coi("--tool", "claude", "shell", "--background", "--debug").ok()
        yield host


def shown(host: Host, text: str, slot: int = 1) -> str:
    """The pane's text, once ``text`` is in it."""

    def look() -> str:
        seen = host.coi("tmux", "capture", host.instance(slot)).ok().out
        return seen if text in seen else ""

    return wait_for(look, timeout=20, what=lambda: f"{text!r} in the pane")


def send(host: Host, text: str, slot: int = 1) -> None:
    name = host.instance(slot)
    done = host.coi("tmux", "send", name, text).ok()
    assert done.out == f"Sent command to session coi-{name}\n"


def test_list(world: Host) -> None:
    name = world.instance()
    text = world.coi("tmux", "list").ok().out
    assert text.startswith("Active sessions:\n")
    assert f"  {name}  coi-{name}  {world.workspace}\n" in text
    found = world.coi("tmux", "list", "--format", "json").ok().json
    (row,) = [row for row in found if row["name"] == name]
    assert row == {
        "name": name, "session": f"coi-{name}", "workspace": str(world.workspace),
        "tool": "claude",
    }  # fmt: skip


def test_text_arrives_literally(world: Host) -> None:
    send(world, "cat > received")
    lines = ['it\'s "quoted" $HOME `id` \\n !x', "  ünï✓  #{pane_id} ;", "tab\there", "-l --"]
    wait_for(lambda: world.inside("pgrep -x cat", ok=False), what="cat runs")
    send(world, "\n".join(lines))
    world.coi("tmux", "send", world.instance(), "--", "-l -t x").ok()
    world.inside("sleep 0.3; pkill -x cat")
    received = world.inside("cat /workspace/received")
    assert received == "\n".join([*lines, "-l -t x"]) + "\n"


def test_several_lines_are_one_paste_and_run_in_order(world: Host) -> None:
    send(world, "clear; for w in one two; do\n  echo \"<$w>\"\ndone; echo all-'done'")
    seen = shown(world, "all-done\n")
    assert seen.index("<one>\n") < seen.index("<two>\n")


def test_a_value_with_a_secret_is_in_no_argv(world: Host) -> None:
    done = world.coi("-v", "tmux", "send", world.instance(), ": hush-hush").ok()
    assert "hush-hush" not in done.err


def test_capture_is_plain_and_raw_is_raw(world: Host) -> None:
    send(world, "clear; printf '\\033[31mred\\033[0m %s\\n' end-of-it")
    seen = shown(world, "red end-of-it")
    assert "\x1b" not in seen
    raw = feed(world, b"", "tmux", "capture", "--raw", world.instance())
    assert raw.returncode == 0
    assert b"\x1b[31mred" in raw.stdout


def test_a_pane_that_scrolls_back_takes_the_text(world: Host) -> None:
    inside = f"TMUX_TMPDIR=/home/code/.coi tmux copy-mode -t coi-{world.instance()}"
    world.inside(inside, user="code")
    send(world, "clear; echo after-'scrolling'")
    shown(world, "after-scrolling")


def test_a_session_that_root_started(host: Host) -> None:
    name = f"{host.prefix}box"
    host.coi("container", "launch", host.image, name).ok()
    nothing = host.coi("tmux", "capture", name)
    assert nothing.code == 1
    assert "No tmux session found" in nothing.err
    assert host.coi("tmux", "send", name, "x").code == 1
    host.coi("container", "exec", name, "tmux", "new-session", "-d", "-s", f"coi-{name}").ok()
    assert name in host.coi("tmux", "list").ok().out
    host.coi("tmux", "send", name, "id -un; echo 'a  $b'").ok()
    wait_for(
        lambda: "root\na  $b\n" in host.coi("tmux", "capture", name).ok().out, what="its output"
    )
    host.coi("container", "stop", "--force", name).ok()
    for args in (("send", name, "x"), ("capture", name)):
        done = host.coi("tmux", *args)
        assert done.code == 1
        assert "is not running" in done.err
    assert name not in host.coi("tmux", "list").ok().out
    host.drop()


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["send", "{free}", "x"], 3, "not found"),
        (["capture", "{free}"], 3, "not found"),
        (["send", "{name}"], 2, "TEXT"),
        (["send", "a b", "x"], 2, "not a container's name"),
        (["list", "--format", "xml"], 2, "invalid format"),
    ],
)
def test_errors(world: Host, args: list[str], code: int, said: str) -> None:
    words = {"free": f"{world.prefix}free", "name": world.instance()}
    done = world.coi("tmux", *(word.format(**words) for word in args))
    assert done.code == code, done.err
    assert said in done.err
    assert done.out == ""
    assert "Usage:" not in done.err
