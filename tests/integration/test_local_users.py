"""Other users of this host: what coi leaves open, and what they have prepared for it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from coi.testing.host import Host
from coi.testing.machine import User


def _of_the_workspace(parts: tuple[str, ...]) -> bool:
    """Whether this keeps the mode that it has in the workspace: the copies of protected paths
    that are mounted, and what was put aside. Above it nobody else may enter."""
    put_aside = parts[0:1] == ("quarantine",) and len(parts) > 2 and parts[2].isdigit()
    return put_aside or "mounts" in parts[:-2]


class Careless(User):
    """A user whose shell has `umask 0`."""

    def become(self) -> None:
        super().become()
        os.umask(0)


def _open(home: Path) -> dict[str, str]:
    """What of coi's directory others could reach, if they got there."""
    found = {}
    for path in (home, *home.rglob("*")):
        status = path.lstat()
        parts = path.relative_to(home).parts
        if _of_the_workspace(parts) or stat.S_ISLNK(status.st_mode):
            continue
        if stat.S_IMODE(status.st_mode) not in (0o600, 0o700):
            found[str(path)] = oct(status.st_mode)
    return found


def test_nothing_is_open_after_any_command(make_host: Callable[..., Host], user: User) -> None:
    """Under umask 0, at each moment that a command has ended."""
    host = make_host(Careless(user.name, user.uid, user.gid, user.groups))
    host.write("ws/.git/hooks/pre-push", "#!/bin/sh\n", 0o755)
    host.write("ws/.git/config", "[core]\n")
    host.write("ws/.coi.toml", '[limits]\nmemory = "1GiB"\n')
    (host.root / "out").mkdir(mode=0o755)
    os.chown(host.root / "out", user.uid, user.gid)
    name = host.instance()
    logged = {"COI_NETWORK_LOGGING_ENABLED": "true"}
    for args in (
        ["trust", "--yes"],
        ["shell", "--background"],
        ["file", "pull", "-r", f"{name}:/etc/apt", str(host.root / "out" / "apt")],
        ["container", "exec", name, "--", "sh", "-c", "echo evil >/workspace/.envrc"],
        ["shutdown", name],
        ["--network=restricted", "run", "true"],
        ["run", "--prompt", "hello"],
        ["clean", "--force"],
    ):
        done = host.coi(*args, environ=logged)
        assert done.code == 0, (args, done.err)
        assert _open(host.coi_home) == {}, args
    kept = {path.relative_to(host.coi_home).parts[0] for path in host.coi_home.rglob("*")}
    assert {"trust", "sessions-dummy", "quarantine", "network", "locks"} <= kept
    # Control: the umask is what it should be, and what does not guard itself is open.
    control = host.root / "out" / "control"
    subprocess.run(["touch", control], preexec_fn=host.user.become, check=True)
    assert stat.S_IMODE(control.stat().st_mode) == 0o666


@pytest.mark.parametrize("way", ["theirs", "link", "writable"])
def test_a_home_that_others_prepared_is_refused(host: Host, as_root: None, way: str) -> None:
    """Where coi is to keep its files another user has been before."""
    prepared = host.root / "prepared"
    prepared.mkdir()
    prepared.chmod(0o777)
    if way == "writable":
        os.chown(prepared, host.user.uid, host.user.gid)
    elif way == "link":
        os.chown(prepared, host.user.uid, host.user.gid)
        prepared.chmod(0o700)
        host.coi_home.symlink_to(prepared)
        os.chown(host.coi_home, 65534, 65534, follow_symlinks=False)
    else:
        os.chown(prepared, 65534, 65534)
    if way != "link":
        prepared.rename(host.coi_home)
    commands = {
        "theirs": (("shell", "--background"), ("list", "--all"), ("trust", "--yes")),
        "link": (("run", "true"), ("info",), ("protect", "list")),
        "writable": (("shell", "--background"), ("clean",), ("build", "--if-changed")),
    }
    for args in commands[way]:
        done = host.coi(*args)
        assert done.code == 5, (args, done.err)
        assert str(host.coi_home) in done.err
        assert "Hint: " in done.err
    assert list(host.coi_home.iterdir()) == [], "nothing was put there"
    assert "files" in host.coi("doctor").out
    # Control: once it is this user's alone, all is as ever.
    if way == "link":
        os.chown(host.coi_home, host.user.uid, host.user.gid, follow_symlinks=False)
    os.chown(host.coi_home, host.user.uid, host.user.gid)
    host.coi_home.chmod(0o750)
    host.coi("run", "true").ok()
    assert _open(host.coi_home) == {}
