"""The client that coi calls, behind a script that counts its calls and spoils one of them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from coi.records import record
from coi.testing.host import Host

# Two calls at the same time have two numbers: mkdir succeeds for one.
_CLIENT = """#!/bin/sh
case "$*" in
  {match})
    n=1
    while ! mkdir "$CALLS/$n" 2>/dev/null; do n=$((n+1)); done
    printf '%s' "$*" >"$CALLS/$n/line"
    if [ "$n" = "$COUNT" ]; then
      case $HOW in
        refused) echo "$REPLY"; exit 0 ;;
        unreachable)
          echo 'Error: Get "http://unix.socket/1.0": EOF' >&2; exit 1 ;;
        lost)
          /usr/bin/incus "$@" >/dev/null 2>&1
          echo 'Error: Post "http://unix.socket/1.0": EOF' >&2; exit 1 ;;
        unsent) kill -KILL "$PPID"; exit 1 ;;
        both)
          /usr/bin/incus "$@" &
          sleep 0.02
          kill -KILL "$PPID" 0 ;;
        KILL|TERM|INT)
          /usr/bin/incus "$@"; code=$?
          kill -$HOW "$PPID"; exit $code ;;
        waits)
          : >"$CALLS/waits"
          while [ ! -e "$CALLS/goes" ]; do sleep 0.05; done ;;
      esac
    fi ;;
esac
exec /usr/bin/incus "$@"
"""
_FORBIDDEN = {"type": "error", "status": "", "status_code": 0, "operation": "",
              "error_code": 403, "error": "not authorized", "metadata": None}  # fmt: skip

# What happens to the call: coi is killed (before it is made, while it is under way and the
# client with it, after it), or hears a signal after it; or it fails in one of three ways.
KILLED = ("unsent", "both", "KILL")
SIGNALS = ("KILL", "TERM", "INT")
FAILED = ("refused", "unreachable", "lost")


@record
class Spoilt:
    """One run of coi with such a client.

    Attributes:
        directory: of its calls.
        environ: for the run.
    """

    directory: Path
    environ: dict[str, str]

    @property
    def calls(self) -> list[str]:
        """The arguments of each call so far, in order."""
        lines = {int(p.parent.name): p.read_text() for p in self.directory.glob("*/line")}
        return [lines[number] for number in sorted(lines)]

    def came(self, count: int) -> bool:
        """Whether the call was made."""
        return (self.directory / str(count)).exists()

    @property
    def waits(self) -> Path:
        """There as soon as the call waits."""
        return self.directory / "waits"

    def go(self) -> None:
        """Have the call that waits go on."""
        (self.directory / "goes").touch()


def spoil(host: Host, how: str, count: int, match: str = "*") -> Spoilt:
    """A client whose COUNTth call is spoilt.

    Args:
        match: a pattern of the shell for the words of the calls that count.
    """
    directory = host.directory(f"marks/{secrets.token_hex(4)}")
    name = f"{directory.relative_to(host.root)}/bin/incus"
    program = host.write(name, _CLIENT.format(match=match), 0o755)
    environ = {
        "PATH": f"{program.parent}:{host.environ['PATH']}",
        "HOW": how,
        "COUNT": str(count),
        "CALLS": str(directory),
        "REPLY": json.dumps(_FORBIDDEN),
    }
    return Spoilt(directory, environ)
