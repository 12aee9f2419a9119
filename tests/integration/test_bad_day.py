"""What goes wrong on the way: the daemon, the image, the disk."""

from __future__ import annotations

from dummy import PROMPT, ask, power_off, said
from harness import Host

# A client whose first exec of each kind fails as the real one does now and then while
# an instance boots, and which then is the real one.
_FLAKY = """#!/bin/sh
if [ "$1" = exec ]; then
  kind=$3
  if [ ! -e "{marks}/$kind" ]; then
    : >"{marks}/$kind"
    echo 'Error: Failed to retrieve PID of executing child process' >&2
    exit 1
  fi
fi
exec /usr/bin/incus "$@"
"""


def test_the_daemon_could_not_enter_the_container(host: Host) -> None:
    marks = host.directory("marks")
    host.write("bin/incus", _FLAKY.format(marks=marks), 0o755)
    path = f"{host.root / 'bin'}:{host.environ['PATH']}"
    screen = host.screen("shell", "-v", environ={"PATH": path})
    screen.expect(PROMPT)
    assert {mark.name for mark in marks.iterdir()} == {"-T", "-t"}
    ask(screen, "remember CODE-PLUM")
    (marks / "-T").unlink()  # and once more for the save
    power_off(screen)
    screen.ended()
    assert "Container removed" in screen.log
    assert (marks / "-T").exists()
    assert "CODE-PLUM" in said(host.state_file(host.saved()[0]["id"]))
