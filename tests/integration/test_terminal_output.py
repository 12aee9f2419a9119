"""What a container hands to coi to print is text on the terminal, never a command to it."""

from __future__ import annotations

import re

from coi.testing.host import Host
from coi.testing.screen import Screen

# A title, a colour, the screen cleared in one byte of C1, the clipboard, two questions, the
# end of a paste, a line overdrawn and the direction of writing.
EVIL = (
    "\x1b]0;pwned\x07\x1b[35mpurple\x1b[m\x9b2J\x1b]52;c;cHduZWQ=\x07\x1bP$qm\x1b\\\x1b[21t"
    "\x1b[201~\rover\u202eside"
)
OBEYED = re.compile(
    rb"\x1b\]|\x07|\x1b\[35m|\xc2\x9b|(?<!\xc2)\x9b2J|\x1bP|\x1b\[21t|\x1b\[201~|\xe2\x80\xae"
)
OCTAL = "".join(f"\\{byte:03o}" for byte in EVIL.encode())

# As root: programs that coi runs inside say it, on both streams, and fail.
PROGRAMS = f"""
for name in tar tmux find; do
  path=$(command -v $name)
  mv $path $path.real
  printf '#!/bin/sh\\nprintf "{OCTAL}"; printf "{OCTAL}\\\\n" >&2; exit 2\\n' >$path
  chmod 755 $path
done
"""


def _printed(host: Host, *args: str) -> Screen:
    """``coi args`` on a terminal, to its end."""
    screen = host.screen(*args, size=(240, 60))
    screen.end()
    assert not OBEYED.search(screen.output), (args, OBEYED.search(screen.output), screen.output)
    return screen


def test_nothing_that_coi_prints_is_obeyed(host: Host) -> None:
    host.write("ws/.git/config", "[core]\n")
    host.write("ws/.coi.toml", '"\\u001b]0;pwned\\u0007purple" = 1\n')
    refused = _printed(host, "list")
    assert "purple" in refused.log, "the key of a repository's file"
    (host.workspace / ".coi.toml").unlink()
    host.coi("shell", "--background").ok()
    name = host.instance()
    host.inside("systemctl is-system-running --wait", ok=False)  # an exec may fail before

    # Names: in the workspace at protected paths, in the state that is saved, to be pulled.
    host.inside(
        f'evil="$(printf "{OCTAL}")"; set -e; mkdir -p /workspace/.git/hooks /evil; '
        'cd /workspace; echo "$evil" >.envrc; echo "$evil" >>.git/hooks/"x$evil"; '
        'mkfifo "/evil/$evil"; cd /home/code/.dummy; ln -s / "$evil"; echo >"x$evil"; '
        'chown -h code: *; hostname "$(printf "\\033]0;pwned\\007purple")" || true; '
        'ip link add "$(printf "\\033]0;\\007")" type dummy || true'
    )
    pulled = _printed(host, "file", "pull", "-r", f"{name}:/evil", "got")
    assert "purple" in pulled.log
    missing = _printed(host, "file", "pull", f"{name}:/{EVIL}", "got")
    assert "Error: " in missing.log

    ended = _printed(host, "shutdown", name)
    assert ".git/hooks" in ended.log, "the report at the end"
    host.settled()
    assert "Session Data: Present" in _printed(host, "info").log
    (kept,) = host.coi("protect", "list", "--format", "json").ok().json
    assert "purple" in _printed(host, "protect", "diff", kept["id"]).log
    for args in (("protect", "list"), ("list", "--all")):
        _printed(host, *args)

    # Programs: what they say is quoted in errors.
    host.coi("shell", "--background").ok()
    host.inside(PROGRAMS)
    # Control: what says it is heard, where coi is not in between.
    raw = host.screen(command=["incus", "exec", name, "-t", "--", "tar"])
    raw.end()
    assert len(OBEYED.findall(raw.output)) > 5
    sent = str(host.write("ws/sent", "x"))
    said = [
        _printed(host, *args).log
        for args in (
            ("tmux", "capture", name),
            ("tmux", "send", name, "x"),
            ("file", "pull", f"{name}:/etc/hostname", "got2"),
            ("file", "push", sent, f"{name}:/root/sent"),
            ("shutdown", name),
        )
    ]
    assert sum("purple" in log for log in said) >= 3, said
    host.drop()
