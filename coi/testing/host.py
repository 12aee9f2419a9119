"""One test's world on this machine: a home, workspaces, and what coi makes for it.

A :class:`Host` has a home, a directory of coi's, workspaces and an instance prefix that no
other test has; :meth:`Host.leaks` tells what is left of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field
from pathlib import Path
from typing import Any

from coi.records import record
from coi.testing.machine import COI, DEADLINE, Result, User, incus, query, wait_for
from coi.testing.screen import Screen

BASE = Path("/var/tmp")  # not below a home: other users must get there
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FENCES = ("networks", "network-acls")


@record
class Host:
    """One test's world.

    Attributes:
        root: everything of the test on disk is below it.
        prefix: of its instances, images and whatever else it makes in Incus.
        environ: of the processes it starts, whole.
    """

    user: User
    image: str
    root: Path
    prefix: str
    environ: dict[str, str]
    screens: list[Screen] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def make(cls, user: User, image: str, tool: str = "dummy") -> Host:
        """A world with an empty workspace, a home and a configuration."""
        token = secrets.token_hex(3)
        root = BASE / f"coi-test-{token}"
        root.mkdir(mode=0o755)
        os.chown(root, user.uid, user.gid)
        environ = {
            "PATH": PATH,
            "HOME": str(root / "home"),
            "USER": user.name,
            "LOGNAME": user.name,
            "SHELL": "/bin/bash",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "COI_HOME": str(root / "coi"),
            "COI_CONTAINER_PREFIX": f"t{token}-",
        }
        host = cls(user, image, root, f"t{token}-", environ)
        host.directory("home")
        host.directory("ws")
        host.config(f'[defaults]\nimage = "{image}"\n[tool]\nname = "{tool}"\n')
        return host

    # -- files

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def coi_home(self) -> Path:
        return self.root / "coi"

    @property
    def workspace(self) -> Path:
        return self.root / "ws"

    def directory(self, name: str | Path) -> Path:
        """A directory of the user's below the root."""
        path = self.root / name
        for part in [*reversed(path.relative_to(self.root).parents), path.relative_to(self.root)]:
            place = self.root / part
            if not place.exists():
                place.mkdir(mode=0o755)
                os.chown(place, self.user.uid, self.user.gid)
        return path

    def write(self, name: str | Path, text: str, mode: int = 0o644) -> Path:
        """A file of the user's below the root."""
        path = self.root / name
        self.directory(path.parent.relative_to(self.root))
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, self.user.uid, self.user.gid)
        return path

    def config(self, text: str, *, network: str = "open") -> None:
        """The user's configuration file."""
        self.write("home/.config/coi/config.toml", f'{text}\n[network]\nmode = "{network}"\n')

    # -- processes

    def _environ(self, extra: Mapping[str, str | None] | None) -> dict[str, str]:
        merged: dict[str, str | None] = {**self.environ, **(extra or {})}
        return {key: value for key, value in merged.items() if value is not None}

    def popen(
        self,
        *args: str,
        cwd: Path | None = None,
        environ: Mapping[str, str | None] | None = None,
    ) -> subprocess.Popen[bytes]:
        """``coi args``, started."""
        process = subprocess.Popen(
            [str(COI), *args],
            cwd=cwd or self.workspace,
            env=self._environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=self.user.become,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def result(self, process: subprocess.Popen[bytes], timeout: float = DEADLINE) -> Result:
        """Wait for what :meth:`popen` started."""
        out, err = (data.decode("utf-8", "replace") for data in process.communicate(None, timeout))
        return Result(tuple(map(str, process.args)), process.returncode, out, err)  # type: ignore[arg-type]

    def coi(
        self,
        *args: str,
        cwd: Path | None = None,
        environ: Mapping[str, str | None] | None = None,
        timeout: float = DEADLINE,
    ) -> Result:
        """``coi args`` to its end, without a terminal."""
        return self.result(self.popen(*args, cwd=cwd, environ=environ), timeout)

    def screen(
        self,
        *args: str,
        cwd: Path | None = None,
        environ: Mapping[str, str | None] | None = None,
        command: Sequence[str] | None = None,
        size: tuple[int, int] = (120, 40),
    ) -> Screen:
        """``coi args`` (or ``command``) on a terminal of its own."""
        opened = Screen(
            [str(COI), *args] if command is None else command,
            cwd=cwd or self.workspace,
            environ=self._environ(environ),
            become=self.user.become,
            size=size,
        )
        self.screens.append(opened)
        return opened

    def listed(self) -> list[dict[str, Any]]:
        """What ``coi list`` says of the test's instances; other tests have theirs."""
        rows = self.coi("list", "--format", "json").ok().json["active_containers"]
        return [row for row in rows if row["name"].startswith(self.prefix)]

    # -- Incus

    def instances(self) -> dict[str, str]:
        """Name to status of the test's instances."""
        rows = query("/1.0/instances?recursion=1") or []
        return {r["name"]: r["status"] for r in rows if r["name"].startswith(self.prefix)}

    def instance(self, slot: int = 1, workspace: Path | None = None) -> str:
        """The name that a session of a workspace gets."""
        digest = hashlib.sha256(os.fsencode(workspace or self.workspace)).hexdigest()[:8]
        return f"{self.prefix}{digest}-{slot}"

    def inside(
        self, script: str, *, slot: int = 1, user: str | None = None, ok: bool = True
    ) -> str:
        """Output of a shell script inside, as root or as ``user``."""
        command = ["exec", self.instance(slot), "-T", "--", "sh", "-c", script]
        if user:
            command = ["exec", self.instance(slot), "-T", "--", "su", user, "-c", script]
        done = incus(*command)
        return done.ok().out if ok else done.out

    def under_way(self) -> list[str]:
        """What the daemon does with the test's instances just now, commands inside aside."""
        running = (query("/1.0/operations?recursion=1") or {}).get("running") or []
        return [
            path
            for operation in running
            for path in (operation["resources"] or {}).get("instances", ())
            if path.rsplit("/", 1)[1].startswith(self.prefix)
            and "exec" not in operation["description"].lower()
        ]

    def settled(self, expected: Mapping[str, str] | None = None) -> None:
        """Wait until the instances are these (name to status; none when left out)."""
        want = dict(expected or {})
        wait_for(lambda: self.instances() == want, what=lambda: f"{self.instances()} != {want}")

    def drop(self) -> None:
        """Delete the test's instances, for tests that end with one running on purpose."""
        for name in self.instances():
            incus("delete", "--force", name)
        self.settled()

    def sweep(self) -> None:
        """Delete the test's instances, then what ``coi clean`` finds: networks, above all.

        In this order: a network that an instance uses until just now is in no sweep.
        """
        self.drop()
        self.coi("clean", "--force").ok()

    # -- what coi keeps

    def saved(self, workspace: Path | None = None) -> list[dict[str, Any]]:
        """Metadata of the saved sessions, the newest first."""
        found = [
            json.loads(path.read_text())
            for path in self.coi_home.glob("sessions-*/*/metadata.json")
        ]
        if workspace is not None:
            found = [row for row in found if row["workspace"] == str(workspace)]
        return sorted(found, key=lambda row: (row.get("order", 0), row["saved_at"]), reverse=True)

    def state_file(self, session_id: str) -> Path:
        """The state that a session's metadata names."""
        (metadata,) = self.coi_home.glob(f"sessions-*/{session_id}/metadata.json")
        return metadata.parent / str(json.loads(metadata.read_text())["state"])

    # -- the end

    def pids(self) -> dict[int, str]:
        """Processes on this machine that carry the test's prefix, and their command lines."""
        mark = f"COI_CONTAINER_PREFIX={self.prefix}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    if line:
                        found[int(entry.name)] = line.decode("utf-8", "replace")
        return found

    def networks(self) -> list[str]:
        """The test's networks and network ACLs, as paths of the REST API, in the order in which
        they can be deleted."""
        rows = {kind: query(f"/1.0/{kind}?recursion=1") or [] for kind in _FENCES}
        return [
            f"/1.0/{kind}/{name}"
            for kind, found in rows.items()
            for name in sorted(str(row["name"]) for row in found if self._is_mine(row["config"]))
        ]

    def _is_mine(self, config: Mapping[str, str] | None) -> bool:
        return (config or {}).get("user.coi.prefix") == self.prefix

    def refreshers(self) -> list[int]:
        """Processes that keep policies of this world right; they carry none of its environment."""
        return refreshers(self.coi_home)

    def leaks(self) -> list[str]:
        """What is left of the test that should not be, after a moment's patience.

        A policy's network stays when its last session ends, by design: a test that makes one
        ends with ``coi clean``.
        """
        problems: list[str] = []
        for screen in self.screens:
            if screen.alive():
                problems.append(f"still on its terminal: {screen.command}")
        with suppress(AssertionError):
            wait_for(lambda: not self.instances(), timeout=20)
        problems += [f"instance {name}: {status}" for name, status in self.instances().items()]
        images = query("/1.0/images?recursion=1") or []
        problems += [
            f"image {alias['name']}"
            for image in images
            for alias in image.get("aliases") or ()
            if alias["name"].startswith(self.prefix)
        ]
        with suppress(AssertionError):
            wait_for(lambda: not self.pids(), timeout=10)
        problems += [f"process {pid}: {line}" for pid, line in self.pids().items()]
        problems += [f"{path} in Incus" for path in self.networks()]
        # one looks once a minute whether anything runs: no longer than that
        with suppress(AssertionError):
            wait_for(lambda: not self.refreshers(), timeout=75)
        problems += [f"process {pid} keeps addresses new" for pid in self.refreshers()]
        for lock in self.coi_home.glob("locks/*"):
            if held(lock):
                problems.append(f"lock held: {lock.name}")
        for directory in self.coi_home.glob("sessions-*/*"):
            names = {path.name for path in directory.iterdir()}
            with suppress(OSError, ValueError):
                names.discard(json.loads((directory / "metadata.json").read_text())["state"])
            if names - {"metadata.json"}:
                problems.append(f"unfinished save in {directory.name}: {sorted(names)}")
        return problems

    def close(self) -> None:
        """End and remove everything of the test, whatever state it is in."""
        for screen in self.screens:
            screen.close()
        for process in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        for pid in (*self.pids(), *self.refreshers()):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for name in self.instances():
            incus("delete", "--force", name)
        for path in self.networks():
            incus("query", "-X", "DELETE", path)
        shutil.rmtree(self.root, ignore_errors=True)


@contextmanager
def worlds(failed: Callable[[], bool]) -> Iterator[list[Host]]:
    """The worlds of a test, to be appended: at its end they are removed.

    Args:
        failed: whether the test did; what is left of it is no further fault then.

    Raises:
        AssertionError: something was left that should not be.
    """
    hosts: list[Host] = []
    try:
        yield hosts
    finally:
        problems = [] if failed() else [problem for host in hosts for problem in host.leaks()]
        for host in hosts:
            host.close()
    assert not problems, "the test left: " + "; ".join(problems)


def held(lock: Path) -> bool:
    """Whether somebody holds a lock's file."""
    try:
        fd = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def refreshers(home: Path) -> list[int]:
    """Processes that keep something of a coi home right; not the children that they have."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = os.fsdecode((entry / "cmdline").read_bytes()).split("\0")
                parent = int(
                    os.fsdecode((entry / "stat").read_bytes()).rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
            if "coi.network.refresher" in words and any(w.startswith(str(home)) for w in words):
                found[int(entry.name)] = parent
    return [number for number, parent in found.items() if parent not in found]
