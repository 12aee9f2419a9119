"""What tests do on the machine: run Incus's client, be a user, wait.

Commands run as an ordinary user of the machine also when the tests run as root, and
are the installed console script, not an import.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from coi.records import record

COI = Path(sys.executable).parent / "coi"
DEADLINE = 60.0  # seconds for anything that a test waits for
_POLL = 0.02  # seconds between two looks

T = TypeVar("T")


def wait_for(
    look: Callable[[], T], *, timeout: float = DEADLINE, what: str | Callable[[], str] = ""
) -> T:
    """Call ``look`` until it returns something true; return that.

    Raises:
        AssertionError: it did not within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {timeout:.0f} s: {text or look}")
        time.sleep(_POLL)


@record(frozen=True)
class User:
    """Who runs coi in a test."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def named(cls, name: str) -> User:
        """A user of the password database, with all their groups."""
        entry = pwd.getpwnam(name)
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        return cls(name, entry.pw_uid, entry.pw_gid, groups)

    @classmethod
    def current(cls) -> User:
        """Who runs coi: this user, or for root the one that COI_TEST_USER names."""
        name = os.environ.get("COI_TEST_USER") if os.getuid() == 0 else ""
        return cls.named(name or pwd.getpwuid(os.getuid()).pw_name)

    def become(self) -> None:
        """In a child between fork and exec: be this user."""
        if os.getuid() == 0 and self.uid != 0:
            os.setgroups(self.groups)
            os.setgid(self.gid)
            os.setuid(self.uid)
        os.umask(0o022)


@record(frozen=True)
class Result:
    """A finished command."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str

    def ok(self) -> Result:
        """Itself; AssertionError when it failed."""
        assert self.code == 0, f"{self.args} ended with {self.code}\n{self.out}\n{self.err}"
        return self

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def incus_calls(self) -> list[str]:
        """The commands that ``-v`` showed."""
        return [line[2:] for line in self.err.splitlines() if line.startswith("+ incus ")]


# Incus 6.0.4 loses what a command writes at its very end, 2 to 6 of 100 times where six
# execs go on at once on busy processors (measured; none of 500 that end a little later).
_LINGER = ("sh", "-c", '"$@"; code=$?; sleep 0.1; exit $code', "sh")


_NOT_ENTERED = b"Failed to retrieve PID of executing child process"  # of a busy daemon


def lingering(command: Sequence[str]) -> list[str]:
    """argv of ``incus exec`` for a command whose output is to be seen."""
    return [*_LINGER, *command]


def incus(*args: str, stdin: bytes | None = None, timeout: float = DEADLINE) -> Result:
    """The client as the tests' own user, for looking at what coi did."""
    if args[0] == "exec":
        cut = args.index("--") + 1
        args = (*args[:cut], *lingering(args[cut:]))
    for _ in range(10):
        done = subprocess.run(
            ["incus", *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        if not (done.returncode == 255 and _NOT_ENTERED in done.stderr):
            break
    out, err = (data.decode("utf-8", "replace") for data in (done.stdout, done.stderr))
    return Result(("incus", *args), done.returncode, out, err)


def query(path: str, *args: str) -> Any:
    """``metadata`` of a REST call, None when there is no such thing.

    In the project that INCUS_PROJECT names, as the client's own commands are.
    """
    if project := os.environ.get("INCUS_PROJECT"):
        path += ("&" if "?" in path else "?") + f"project={project}"
    done = incus("query", "--raw", *args, path).ok()
    reply = json.loads(done.out)
    return None if reply.get("error_code") else reply["metadata"]


def children(pid: int) -> Iterator[int]:
    """The processes below one, deepest last."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield int(child)
                yield from children(int(child))


def bridge_address() -> str:
    """The host's address on the network of the default profile, where containers reach it.

    Raises:
        LookupError: it has none there; the text says why.
    """
    devices = query("/1.0/profiles/default")["devices"]
    names = [d["network"] for d in devices.values() if d["type"] == "nic" and "network" in d]
    if not names:
        raise LookupError("the default profile has no network of Incus's")
    network = query(f"/1.0/networks/{names[0]}")
    address = str((network or {}).get("config", {}).get("ipv4.address", "none")).split("/")[0]
    if network is None or network["type"] != "bridge" or address == "none":
        raise LookupError(f"the network {names[0]} gives the host no IPv4 address")
    return address
