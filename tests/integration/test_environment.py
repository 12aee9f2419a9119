"""What a session's processes find in their environment, and what they do not."""

from __future__ import annotations

import json

from dummy import ask, background, power_off, start

from coi.testing.host import Host
from coi.testing.machine import incus

NASTY = {
    "SPACES": "hello  world ",
    "SINGLE": "it's 'quoted'",
    "DOUBLE": 'say "hi" \\" \\',
    "SHELL_": "$HOME `id` $(id) ${X:-y} !! ; & | > < * ? ~ #",
    "UNICODE": "Grüße, 世界 🚀 \u202e",
    "TAB": "a\tb",
    "EMPTY": "",
    "EQUALS": "a=b=c",
    "PERCENT": "%s %n \\n \\x41",
    "LONG": "x" * 5000,
    "DASH": "-n -e",
}


def _environ(host: Host, pattern: str) -> dict[str, str]:
    """The environment of the one process inside whose command line matches."""
    script = f"cat /proc/$(pgrep -o -f '{pattern}')/environ"
    raw = host.inside(script)
    return dict(item.split("=", 1) for item in raw.split("\0") if item)


def test_values_arrive_byte_for_byte(host: Host) -> None:
    flags = [word for key, value in NASTY.items() for word in ("-e", f"{key}={value}")]
    screen = start(host, *flags, "-e", "FROM_HOST", environ={"FROM_HOST": "a 'b' $c"})
    wanted = {**NASTY, "FROM_HOST": "a 'b' $c"}
    tool = _environ(host, "[d]ummy-tool --session-id")
    assert {key: tool.get(key) for key in wanted} == wanted
    assert tool["IS_SANDBOX"] == "1"
    assert tool["HOME"] == "/home/code"
    assert tool["DUMMY_MODE"] == "quiet"
    screen.detach()
    screen.ended()
    back = host.screen("attach")
    assert "SINGLE=it's 'quoted'" in ask(back, "env SINGLE")
    # in the shell after the tool, in a further tmux window and in a further shell too
    check = "python3 -c 'import os,json; print(json.dumps(dict(os.environ)))' > /workspace/{}.json"
    back.line("exit")
    back.expect("This is a shell inside")
    back.line(f"{check.format('after')}; echo DONE-1")
    back.expect("^DONE-1$")
    back.send("\x02c")
    back.expect(r"1:bash\*")
    back.line(f"{check.format('window')}; echo DONE-2")
    back.expect("^DONE-2$")
    further = host.screen("attach", host.instance(), "--bash")
    further.expect(r"[$#] ?$")
    further.line(f"{check.format('further')}; echo DONE-3")
    further.expect("^DONE-3$")
    further.line("exit")
    further.ended()
    for name in ("after", "window", "further"):
        found = json.loads((host.workspace / f"{name}.json").read_text())
        assert {key: found.get(key) for key in wanted} == wanted, name
    back.line("sudo poweroff")
    back.ended()


def test_a_profile_can_be_overridden(host: Host) -> None:
    host.config(
        f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n'
        '[profiles.p]\nenvironment = { ONE = "profile", TWO = "profile" }\n'
    )
    background(host, "--profile", "p", "-e", "TWO=flag", "-e", "DUMMY_MODE=mine")
    tool = _environ(host, "[d]ummy-tool --session-id")
    assert (tool["ONE"], tool["TWO"], tool["DUMMY_MODE"]) == ("profile", "flag", "mine")
    host.drop()


def test_nothing_else_of_the_host_is_inside(host: Host) -> None:
    canary = "canary-4711-of-the-host"
    screen = start(
        host,
        environ={
            "SECRET_TOKEN": canary, "LC_CANARY": canary, "EDITOR": canary, "TERM": "xterm-ghostty",
            "SSH_AUTH_SOCK": f"/{canary}", "DISPLAY": canary, "TMUX": canary,
        },
    )  # fmt: skip
    everywhere = host.inside(
        "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; "
        "export TMUX_TMPDIR=/home/code/.coi; su code -c "
        f"'TMUX_TMPDIR=/home/code/.coi tmux show-environment -t coi-{host.instance()}; "
        "TMUX_TMPDIR=/home/code/.coi tmux show-environment -g'; "
        "find /home /root /run /tmp /var/tmp /etc -xdev -type f -size -100k -exec cat {} + "
        "2>/dev/null | tr -d '\\0'"
    )
    assert "IS_SANDBOX=1" in everywhere, "the look is a real one"
    assert canary not in everywhere
    assert str(host.root) not in everywhere.replace(f"{host.workspace}", "")
    config = incus("config", "show", "--expanded", host.instance()).ok().out
    assert canary not in config
    clients = host.inside(
        "su code -c 'TMUX_TMPDIR=/home/code/.coi tmux list-clients -F \"#{client_termname}\"'"
    )
    assert clients.split() == ["xterm-256color"], "xterm-ghostty is not in the image's terminfo"
    tool = _environ(host, "[d]ummy-tool --session-id")
    of_the_image = host.inside("sed -n 's/=.*//p' /etc/coi/environment", ok=False).split()
    known = {
        "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "TERM", "TERM_PROGRAM",
        "TERM_PROGRAM_VERSION", "TMUX", "TMUX_PANE", "TMUX_TMPDIR", "PWD", "OLDPWD", "SHLVL", "_",
        "IS_SANDBOX", "DUMMY_MODE",
    }  # fmt: skip
    assert set(tool) - known - set(of_the_image) == set()
    power_off(screen)
    screen.ended()
