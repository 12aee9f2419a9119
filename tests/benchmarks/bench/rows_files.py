"""Rows of files that go in and come out, and of an image built."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from pathlib import Path

from bench.counting import Taken
from bench.row import Row
from bench.stage import bare, fill
from coi.testing.machine import incus

GIB = 1 << 30
_TRIES = 5


class Files(Row):
    """Directories of so many files of so many bytes each, in and out by turns.

    Args:
        amount: for people, ``1`` or ``10k``.
    """

    def __init__(self, amount: str, files: int, size: int) -> None:
        self._files = files
        self._size = size
        self._amount = amount

    def ready(self) -> None:
        host = self.stage.host
        self.stage.room(self._files * self._size)
        self._source = host.directory("ws/source")
        for number in range(self._files):
            if number % 500 == 0:
                part = host.directory(f"ws/source/{number // 500}")
            fill(part / str(number), self._size)
        self._box = f"{host.prefix}box"
        host.coi("container", "launch", host.image, self._box).ok()
        self.stage.booted(self._box)

    def anew(self) -> None:
        """The box stays."""

    def inside(self, script: str) -> None:
        """As root, not measured."""
        incus("exec", self._box, "-T", "--", "sh", "-c", script, timeout=300).ok()

    def piped(self, first: list[str], second: list[str]) -> float:
        """Seconds of one command into another."""
        begun = time.perf_counter()
        giving = self.stage.start(first)
        assert giving.stdout
        taking = self.stage.start(second, stdin=giving.stdout)
        giving.stdout.close()
        giving.stdout = None
        self.stage.ended(taking)
        self.stage.ended(giving)
        return time.perf_counter() - begun

    def enter(self, *command: str) -> list[str]:
        """An exec as root."""
        return ["incus", "exec", self._box, "-T", "--cwd", "/root", "--", *command]


class Push(Files):
    floor_is = "`tar -c | incus exec NAME -- tar -x`"

    def __init__(self, amount: str, files: int, size: int) -> None:
        super().__init__(amount, files, size)
        self.name = f"push-{amount}"
        self.what = f"`coi file push -r` of {_told(files, size)}"

    def _seen(self, where: str) -> None:
        self.inside(f'[ "$(find {where} -type f | wc -l)" = {self._files} ] && rm -r {where}')

    def floor(self) -> float:
        self.stage.room(self._files * self._size)
        give = ["tar", "-c", "-C", str(self.stage.host.workspace), "source"]
        seconds = self.piped(give, self.enter("tar", "-x"))
        self._seen("/root/source")
        return seconds

    def coi(self) -> float:
        self.stage.room(self._files * self._size)
        seconds = self.stage.coi("file", "push", "-r", "source", f"{self._box}:/root/pushed")
        self._seen("/root/pushed")
        return seconds


class Pull(Files):
    floor_is = "`incus exec NAME -- tar -c | tar -x`"

    def __init__(self, amount: str, files: int, size: int) -> None:
        super().__init__(amount, files, size)
        self.name = f"pull-{amount}"
        self.what = f"`coi file pull -r` of {_told(files, size)}"

    def ready(self) -> None:
        super().ready()
        self.stage.host.coi("file", "push", "-r", "source", f"{self._box}:/root/there").ok()
        shutil.rmtree(self._source)

    def _arrived(self, where: Path) -> int:
        """How many files have; they are removed."""
        found = sum(1 for path in where.rglob("*") if path.is_file())
        shutil.rmtree(where)
        return found

    def floor(self) -> float:
        """By hand the end of what comes out is lost at times, without a word (Incus 6.0.4)."""
        self.stage.room(self._files * self._size)
        for _ in range(_TRIES):
            where = self.stage.host.directory("ws/floor")
            seconds = self.piped(self.enter("tar", "-c", "there"), ["tar", "-x", "-C", str(where)])
            found = self._arrived(where)
            if found == self._files:
                return seconds
        raise AssertionError(f"{found} files")

    def coi(self) -> float:
        self.stage.room(self._files * self._size)
        seconds = self.stage.coi("file", "pull", "-r", f"{self._box}:/root/there", "pulled")
        found = self._arrived(self.stage.host.workspace / "pulled")
        assert found == self._files, f"{found} files"
        return seconds


def _told(files: int, size: int) -> str:
    amount = f"{size >> 30} GiB" if size >= GIB else f"{size >> 10} KiB"
    return f"one file of {amount}" if files == 1 else f"{files:,} files of {amount}"


class Build(Row):
    name = "build"
    what = "`coi build custom` on a ready base, its script writes one file"
    floor_is = "create and start in one request, `incus exec NAME -- sh`, a stop, `incus publish`"
    most = 3  # the daemon packs the whole image each time

    def ready(self) -> None:
        self.stage.room(4 * GIB)
        self.stage.host.write("ws/steps.sh", "#!/bin/sh\necho built >/etc/built\n", 0o755)

    def know(self, taken: Taken) -> None:
        self._body = bare(taken.bodies("/1.0/instances")[0])

    def floor(self) -> float:
        alias = f"{self.stage.host.prefix}f{secrets.token_hex(2)}"
        begun = time.perf_counter()
        name = self.stage.create(self._body, f"f{secrets.token_hex(2)}")
        with (self.stage.host.workspace / "steps.sh").open("rb") as steps:
            self.stage.incus("exec", name, "-T", "--", "sh", stdin=steps)
        self.stage.stop_instance(name, force=True, wait=True)
        self.stage.ended(
            self.stage.start(
                ["incus", "publish", name, "--alias", alias], stdout=subprocess.DEVNULL
            )
        )
        self.stage.incus("delete", name)
        seconds = time.perf_counter() - begun
        incus("image", "delete", alias).ok()
        return seconds

    def coi(self) -> float:
        alias = f"{self.stage.host.prefix}c{secrets.token_hex(2)}"
        script = str(self.stage.host.workspace / "steps.sh")
        base = self.stage.host.image
        seconds = self.stage.coi("build", "custom", alias, "--script", script, "--base", base)
        incus("image", "delete", alias).ok()
        return seconds
