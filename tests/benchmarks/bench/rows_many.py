"""Rows of what is done to several sessions at once."""

from __future__ import annotations

import subprocess
import time

from bench.row import Row


class Many(Row):
    """So many sessions, made anew for each round."""

    count = 1

    def ready(self) -> None:
        self.session()

    def _ours(self) -> list[str]:
        names = [self.background(slot) for slot in range(1, self.count + 1)]
        self.stage.side_by_side(self.stage.booted, names)
        return names

    def _theirs(self) -> list[str]:
        names = [self.bare_session(f"f{number}") for number in range(self.count)]
        self.stage.side_by_side(self.stage.booted, names)
        return names

    def end(self, name: str) -> None:
        """Of one, by hand."""
        raise NotImplementedError

    def floor(self) -> float:
        names = self._theirs()
        begun = time.perf_counter()
        self.stage.side_by_side(self.end, names)
        seconds = time.perf_counter() - begun
        self.stage.host.settled()
        return seconds


class Shutdown(Many):
    floor_is = (
        "for each, eight at a time: its state by `incus exec NAME -- tar -c`, a graceful stop, "
        "a deletion"
    )

    def __init__(self, count: int) -> None:
        self.name = f"shutdown-{count}"
        self.what = f"`coi shutdown --force` of {count} session(s): stopped, saved, deleted"
        self.count = count

    def end(self, name: str) -> None:
        home = "/root" if self.stage.host.user.uid == 0 else "/home/code"
        words = ["incus", "exec", name, "-T", "--", "tar", "-c", "-C", home, ".dummy"]
        self.stage.ended(self.stage.start(words, stdout=subprocess.DEVNULL))
        self.stage.stop_instance(name, force=False, wait=True)
        self.stage.incus("delete", name)

    def coi(self) -> float:
        seconds = self.stage.coi("shutdown", "--force", *self._ours())
        self.stage.host.settled()
        return seconds


class Kill(Many):
    floor_is = "`incus delete --force NAME` for each, eight at a time"

    def __init__(self, count: int) -> None:
        self.name = f"kill-{count}"
        self.what = f"`coi kill --force` of {count} sessions"
        self.count = count

    def end(self, name: str) -> None:
        self.stage.incus("delete", "--force", name)

    def coi(self) -> float:
        seconds = self.stage.coi("kill", "--force", *self._ours())
        self.stage.host.settled()
        return seconds
