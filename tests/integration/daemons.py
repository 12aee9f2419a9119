"""The daemon's end and its return."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from coi.testing.machine import query, wait_for

SYSTEMD = Path("/run/systemd/system")
INSTALL = Path(__file__).parents[2] / "install.sh"


def restart_daemon() -> None:
    """The daemon ends and comes again; containers go on."""
    if SYSTEMD.is_dir():
        subprocess.run(["systemctl", "restart", "incus.service"], check=True)
        return
    end_daemon(signal.SIGTERM)
    start_daemon()


def start_daemon() -> None:
    """The daemon comes again."""
    if SYSTEMD.is_dir():
        subprocess.run(["systemctl", "start", "incus.service"], check=True)
        return
    done = subprocess.run(
        [INSTALL, "--start"], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr


def end_daemon(number: signal.Signals) -> None:
    """The daemon ends by a signal; what it has forked does not, containers' monitors above all."""
    _kill(["-x", "-f", r"([^ ]*/)?incusd( -.*)?"], number)


def power_cut() -> None:
    """Each process of the daemon's and of its containers is gone, with the networks that it had
    made; what it has on disk is as it was."""
    rows = query("/1.0/networks?recursion=1")
    bridges = [row["name"] for row in rows if row["managed"] and row["type"] == "bridge"]
    instances = query("/1.0/instances?recursion=2&all-projects=true")
    inits = [row["state"]["pid"] for row in instances if row["state"]["pid"] > 0]
    end_daemon(signal.SIGKILL)
    _kill(["-f", r"^\[lxc monitor\] /.*/incus/"], signal.SIGKILL)
    for pid in inits:  # and with it all that is in the container
        with suppress(ProcessLookupError):  # it dies with its monitor, as a rule
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inits))
    _kill(["-x", "-f", r"dnsmasq .*/incus/networks/.*"], signal.SIGKILL)
    for name in bridges:
        subprocess.run(["ip", "link", "delete", name], check=True)
    subprocess.run(["nft", "delete", "table", "inet", "incus"], check=False)


def _kill(pattern: list[str], number: signal.Signals) -> None:
    """Signal the processes that pgrep finds, and wait until they are gone."""
    done = subprocess.run(["pgrep", *pattern], capture_output=True, check=False)
    for pid in done.stdout.split():
        os.kill(int(pid), number)
    entries = [Path(f"/proc/{int(pid)}") for pid in done.stdout.split()]
    wait_for(lambda: not any(entry.exists() for entry in entries), what=f"the end of {pattern}")
