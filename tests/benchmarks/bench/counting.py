"""Counting what a command of coi takes, from outside: its calls, processor time and memory.

A directory holds an ``incus`` that notes its arguments and becomes the real one, and a
``sitecustomize`` that notes at the end of each of coi's own processes what it took. Both slow
coi down a little: a counted run is never a timed one.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.measure import Counts
from coi.records import record
from coi.testing.host import PATH, Host
from coi.testing.machine import wait_for

# A file for each call: two that write at once do not mix.
_CLIENT = """#!/bin/sh
printf '%s\\0' "$@" >{calls}/$$
exec {real} "$@"
"""

# Runs before anything of coi. What is forked ends with os._exit, or becomes another program;
# then it is coi no more, and what the process itself was until then is noted first.
_NOTES = """
import atexit, os, resource, sys

_first, _before = os.getpid(), set(sys.modules)

def _note():
    used = resource.getrusage(resource.RUSAGE_SELF)
    modules = sorted(set(sys.modules) - _before) if os.getpid() == _first else []
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    import json
    row = {"pid": os.getpid(), "cpu": used.ru_utime + used.ru_stime,
           "peak": int(peak.split()[1]), "modules": modules}
    with open(f"%s/{os.getpid()}.json", "w") as file:
        json.dump(row, file)

def _first_note(act, always):
    def noted(*args, **kwargs):
        if always or os.getpid() == _first:
            _note()
        return act(*args, **kwargs)
    return noted

atexit.register(_note)
os._exit = _first_note(os._exit, True)
os.execv = _first_note(os.execv, False)
os.execve = _first_note(os.execve, False)
"""


@record(frozen=True)
class Taken:
    """What was noted.

    Attributes:
        calls: the arguments of each call, in the order of their beginnings.
        modules: what the command had imported at its end, the interpreter's own aside.
        counts: in numbers.
    """

    calls: list[list[str]]
    modules: list[str]
    counts: Counts

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """The bodies of the POSTs to a path of the REST API, its query string aside."""
        return [
            json.loads(call[call.index("-d") + 1])
            for call in self.calls
            if call[0] == "query" and "POST" in call and call[-1].partition("?")[0] == path
        ]


class Counter:
    """The directory, and what has been noted in it.

    Args:
        host: the world whose commands are counted.
        real: the client; default: the one on PATH.
    """

    def __init__(self, host: Host, real: str | None = None) -> None:
        real = real or shutil.which("incus", path=PATH)
        assert real, "there is no incus"
        self._calls = host.directory("counted/calls")
        self._ends = host.directory("counted/ends")
        client = _CLIENT.format(calls=shlex.quote(str(self._calls)), real=shlex.quote(real))
        host.write("counted/bin/incus", client, 0o755)
        host.write("counted/python/sitecustomize.py", _NOTES % self._ends)
        self.environ: Mapping[str, str] = {
            "PATH": f"{host.root}/counted/bin:{PATH}",
            "PYTHONPATH": f"{host.root}/counted/python",
        }
        self._spent = 0.0
        self._stopped: Taken | None = None

    def begin(self, pid: int | None = None) -> None:
        """Forget what was noted.

        Args:
            pid: a process of coi that runs already: what it has taken so far does not count.
        """
        for path in (*self._calls.iterdir(), *self._ends.iterdir()):
            path.unlink()
        self._spent = _spent(pid) if pid else 0.0
        self._stopped = None

    def stop(self, pid: int) -> None:
        """What comes now does not count any more: the process is looked at while it runs."""
        calls, cpu = self._noted(), _spent(pid) - self._spent
        self._stopped = Taken(calls, [], Counts(len(calls), cpu, _peak(pid)))

    def taken(self) -> Taken:
        """What was noted since; without :meth:`stop`, at the end of coi's own processes.

        Raises:
            AssertionError: none has ended.
        """
        if self._stopped is not None:
            return self._stopped
        wait_for(lambda: list(self._ends.iterdir()), timeout=5, what="coi's own note of its end")
        rows = [self._row(path) for path in sorted(self._ends.iterdir())]
        calls = self._noted()
        cpu = sum(row["cpu"] for row in rows) - self._spent
        peak = max(row["peak"] for row in rows)
        modules = max((row["modules"] for row in rows), key=len)
        return Taken(calls, modules, Counts(len(calls), cpu, peak))

    def _noted(self) -> list[list[str]]:
        def begun(path: Path) -> tuple[int, int]:
            return path.stat().st_mtime_ns, int(path.name)  # two may be of one tick of that clock

        found = sorted(self._calls.iterdir(), key=begun)
        return [path.read_bytes().decode("utf-8", "replace").split("\0")[:-1] for path in found]

    @staticmethod
    def _row(path: Path) -> dict[str, Any]:
        """One process's note; it may still be at it."""
        deadline = time.monotonic() + 5
        while True:
            with suppress(ValueError):
                found: dict[str, Any] = json.loads(path.read_text())
                return found
            assert time.monotonic() < deadline, f"{path} is not whole"


def _spent(pid: int) -> float:
    """Seconds of processor time of a process's first thread; coi has no other."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _peak(pid: int) -> int:
    """KiB: the most that a running process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
