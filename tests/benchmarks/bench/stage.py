"""Where the rows are measured: a project of Incus's with nothing else in it, and a world of tests.

A project of its own has nobody else's instances in it, a default profile on the pool that is
asked for, and the images and networks of the default project.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import IO, Any

from dummy import booted

from bench.counting import Counter, Taken
from coi.incus.errors import NOT_ENTERED
from coi.records import record
from coi.testing.host import Host
from coi.testing.machine import COI, User, incus, query, wait_for
from coi.testing.screen import Screen

SIDE_BY_SIDE = 8  # bare operations at a time, as coi has them
_LONG = 900.0  # seconds that one command may take
_OWN = ("images", "networks", "storage.volumes")  # features that the project has not


@record
class Stage:
    """What a row works with.

    Attributes:
        host: its home, its workspace, its prefix.
        project: of Incus.
        pool: that the instances are on.
        counting: the next commands of coi are counted, and not timed.
    """

    host: Host
    project: str
    pool: str
    counter: Counter
    counting: bool = False
    _bodies: dict[str, dict[str, Any]] = field(default_factory=dict)

    # -- coi

    def coi(self, *args: str) -> float:
        """Seconds of ``coi args``."""
        return self._seconds([str(COI), *args])

    def screen(self, *args: str) -> Screen:
        """``coi args`` on a terminal."""
        return self.host.screen(*args, environ=self.counter.environ if self.counting else None)

    def begin(self, screen: Screen) -> None:
        """What is counted begins here; the coi on the screen runs already."""
        if self.counting:
            self.counter.begin(screen.pid)

    def stop(self, screen: Screen) -> None:
        """What is counted ends here; the coi on the screen goes on."""
        if self.counting:
            self.counter.stop(screen.pid)

    def counted(self, act: Callable[[], float]) -> Taken:
        """Do something of coi's and count it."""
        self.counter.begin()
        self.counting = True
        try:
            act()
        finally:
            self.counting = False
        return self.counter.taken()

    def body(self, *args: str) -> dict[str, Any]:
        """The body with which ``coi args`` creates its instance, without the keys that would
        make another one a session to coi. The command is run once for it."""
        key = " ".join(args)
        if key not in self._bodies:
            taken = self.counted(lambda: self.coi(*args))
            self.drop()
            self._bodies[key] = bare(taken.bodies("/1.0/instances")[0])
        return self._bodies[key]

    # -- bare Incus, as the same user

    def _environ(self) -> dict[str, str]:
        environ = {**self.host.environ, "INCUS_PROJECT": self.project}
        return {**environ, **self.counter.environ} if self.counting else environ

    def start(
        self, argv: Sequence[str], *, stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """A command of the user's, begun."""
        process = subprocess.Popen(
            argv, cwd=self.host.workspace, env=self._environ(), stdin=stdin, stdout=stdout,
            stderr=subprocess.PIPE, preexec_fn=self.host.user.become, start_new_session=True,
        )  # fmt: skip
        self.host.processes.append(process)
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for a command to end well; its output."""
        out, err = process.communicate(timeout=_LONG)
        said = err.decode("utf-8", "replace").strip()
        if process.returncode and NOT_ENTERED in said:
            raise NotEnteredError(said)
        assert process.returncode == 0, f"{process.args!r} ended with {process.returncode}: {said}"
        return (out or b"").decode("utf-8", "replace")

    def _seconds(self, argv: Sequence[str]) -> float:
        begun = time.perf_counter()
        self.ended(self.start(argv))
        return time.perf_counter() - begun

    def incus(self, *args: str, stdin: int | IO[bytes] = subprocess.DEVNULL) -> str:
        """``incus args``; its output."""
        return self.ended(self.start(["incus", *args], stdin=stdin))

    def python(self) -> float:
        """Seconds of the interpreter that coi runs on, doing nothing."""
        return self._seconds([sys.executable, "-c", ""])

    def path(self, path: str) -> str:
        """A path of the REST API in the project."""
        return f"{path}{'&' if '?' in path else '?'}project={self.project}"

    def send(self, method: str, path: str, body: Mapping[str, Any], *, wait: bool = True) -> None:
        """A request of the REST API with a body."""
        waiting = ["--wait"] if wait else []
        words = ["query", "--raw", "-X", method, *waiting, "-d", json.dumps(body)]
        reply = json.loads(self.incus(*words, self.path(path)) or "{}")
        assert not (reply or {}).get("error_code"), reply

    def create(self, body: Mapping[str, Any], name: str) -> str:
        """An instance of a body, started; its name, which has the world's prefix."""
        full = self.host.prefix + name
        self.send("POST", "/1.0/instances", {**body, "name": full})
        return full

    def stop_instance(self, name: str, *, force: bool, wait: bool) -> None:
        """Stop one."""
        body = {"action": "stop", "force": force, "timeout": 60}
        self.send("PUT", f"/1.0/instances/{name}/state", body, wait=wait)

    def enter(self, name: str, *command: str) -> list[str]:
        """Arguments of an exec as the session's user on a terminal."""
        user = self.host.user
        home = "/root" if user.uid == 0 else "/home/code"
        return [
            "incus", "exec", name, "-t", "--user", str(user.uid), "--group", str(user.gid),
            "--cwd", "/workspace", "--env", f"HOME={home}", "--env", "TERM=xterm-256color",
            "--env", "LANG=C.UTF-8", "--", *command,
        ]  # fmt: skip

    def terminal(self, argv: Sequence[str]) -> Screen:
        """A command of the user's on a terminal."""
        return self.host.screen(command=argv, environ={"INCUS_PROJECT": self.project})

    def side_by_side(self, act: Callable[[str], object], names: Sequence[str]) -> None:
        """The same for several, as many at a time as coi does."""
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            list(pool.map(act, names))

    # -- beside what is measured

    def booted(self, name: str) -> None:
        """Wait until the system inside has come up: before that it does not hear a stop."""
        booted(name, timeout=120)

    def room(self, size: int) -> None:
        """Wait until the pool and the disk have twice that many bytes left, and 2 GiB.

        Raises:
            AssertionError: they have not.
        """
        need = 2 * size + (2 << 30)

        def enough() -> bool:
            space = query(f"/1.0/storage-pools/{self.pool}/resources")["space"]
            free = int(space["total"]) - int(space.get("used") or 0)
            return min(free, shutil.disk_usage(self.host.root).free) > need

        wait_for(enough, timeout=90, what=f"{need >> 20} MiB free on {self.pool} and the disk")

    def drop(self) -> None:
        """Delete every instance of the world, and wait until they are gone."""
        names = list(self.host.instances())
        self.side_by_side(lambda name: incus("delete", "--force", name), names)
        self.host.settled()

    def _without_networks(self) -> bool:
        """Delete them; one that an instance used until just now takes another try."""
        for path in self.host.networks():
            incus("query", "-X", "DELETE", path)
        return not self.host.networks()

    def tidy(self) -> None:
        """Nothing is left of a row, whatever state it is in."""
        for screen in self.host.screens:
            screen.close()
        for process in self.host.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        self.host.screens.clear()
        self.host.processes.clear()
        self.drop()
        for image in query("/1.0/images?recursion=1") or ():
            if any(row["name"].startswith(self.host.prefix) for row in image["aliases"] or ()):
                incus("query", "-X", "DELETE", "--wait", f"/1.0/images/{image['fingerprint']}")
        wait_for(self._without_networks, timeout=30, what="its networks are gone")
        for directory in (self.host.workspace, self.host.coi_home):
            for path in directory.iterdir() if directory.is_dir() else ():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


class NotEnteredError(AssertionError):
    """A busy daemon could not enter what it has just started: the round counts for nothing."""


def bare(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body without coi's own keys, but for the prefix, by which a test's things are found."""
    config = {
        key: value
        for key, value in body["config"].items()
        if not key.startswith("user.coi.") or key == "user.coi.prefix"
    }
    return {**body, "config": config}


def patiently(act: Callable[[], float], between: Callable[[], None], tries: int = 5) -> float:
    """A round, begun anew where the daemon could not enter the instance; coi does so too."""
    for _ in range(tries - 1):
        try:
            return act()
        except NotEnteredError:
            between()
    return act()


def find_image(given: str) -> str:
    """The image to measure with: the given one, else one with the dummy tool in it.

    Raises:
        LookupError: there is none.
    """
    for alias in [given] if given else ["coi", "coi-test"]:
        target = query(f"/1.0/images/aliases/{alias}")
        found = target and query(f"/1.0/images/{target['target']}")["properties"]
        if found and "dummy" in found.get("coi.tools", "").split(","):
            return alias
    raise LookupError(
        f"no image {given or 'coi or coi-test'} with the dummy tool; "
        "coi build --image coi-bench --tools dummy makes one: then --image coi-bench"
    )


@contextmanager
def staged(image: str, *, pool: str = "", driver: str = "") -> Iterator[Stage]:
    """A stage; nothing is left of it afterwards, and no signal cuts that short.

    Args:
        pool: a storage pool that there is; default: the default profile's.
        driver: a pool of this driver is made for the run (``dir`` needs nothing more).
    """
    host = Host.make(User.current(), image)
    project = f"coi-bench-{host.prefix.strip('-')}"
    devices: dict[str, dict[str, str]] = query("/1.0/profiles/default")["devices"]
    name = next(key for key, device in devices.items() if device.get("path") == "/")
    pool = project if driver else pool or devices[name]["pool"]
    devices[name] = {**devices[name], "pool": pool}
    before = os.environ.get("INCUS_PROJECT")
    try:
        if driver:
            incus("storage", "create", pool, driver).ok()
        features = [f"features.{what}=false" for what in _OWN]
        incus("project", "create", project, *(w for key in features for w in ("-c", key))).ok()
        os.environ["INCUS_PROJECT"] = host.environ["COI_INCUS_PROJECT"] = project
        body = json.dumps({"devices": devices})
        query("/1.0/profiles/default", "-X", "PATCH", "-d", body)
        yield Stage(host, project, pool, Counter(host))
    finally:
        held = [(which, signal.signal(which, signal.SIG_IGN)) for which in _ENDING]
        try:
            _strike(host, project, pool if driver else "")
        finally:
            os.environ.pop("INCUS_PROJECT", None)
            if before is not None:
                os.environ["INCUS_PROJECT"] = before
            for which, handler in held:
                signal.signal(which, handler)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _strike(host: Host, project: str, pool: str) -> None:
    """Take the stage down; ``pool`` where it was made for it."""
    if os.environ.get("INCUS_PROJECT") == project:
        Stage(host, project, pool, Counter(host)).tidy()
    host.close()
    incus("project", "delete", project)
    if pool:
        incus("storage", "delete", pool)
    left = [p for p in (f"/1.0/projects/{project}", pool and f"/1.0/storage-pools/{pool}") if p]
    os.environ.pop("INCUS_PROJECT", None)
    assert not [path for path in left if query(path)], f"{left} could not be deleted"


def fill(path: Path, size: int) -> None:
    """A file of so many bytes that no file system can store in fewer."""
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        file.write(os.urandom(size & ((1 << 20) - 1)))
