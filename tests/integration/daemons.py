"""The daemon's end and its return."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from coi.testing.machine import wait_for

INSTALL = Path(__file__).parents[2] / "install.sh"


def restart_daemon() -> None:
    """The daemon ends and comes again; containers go on."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "restart", "incus.service"], check=True)
        return
    end_daemon(signal.SIGTERM)
    done = subprocess.run(
        [INSTALL, "--start"], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr


def end_daemon(number: signal.Signals) -> None:
    """The daemon ends by a signal; what it has forked does not, containers' monitors above all."""
    whole = ["-x", "-f", r"([^ ]*/)?incusd( -.*)?"]
    found = subprocess.run(["pgrep", *whole], capture_output=True, check=True).stdout.split()
    for pid in found:
        os.kill(int(pid), number)
    entries = [Path(f"/proc/{int(pid)}") for pid in found]
    wait_for(lambda: not any(entry.exists() for entry in entries), what="the daemon's end")
