"""The process that keeps a policy's rules right while instances run behind it.

For most of its time it sleeps, and looks at three files every few seconds: what there is to
do, how old the answers are, and the kernel's routing tables, where an address that the host
has got shows. What it then does is done by a child (:mod:`coi.network.upkeep`), so that the
process stays small: 13 MB resident, half of it shared with other Pythons (measured).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from coi.network.answers import load as load_answers
from coi.network.answers import path_of, stale
from coi.network.duty import Duty, load
from coi.network.lock import Busy, locked

POLL = 5.0  # seconds between looks at the files; no call
LOOK = 60.0  # seconds between looks at the instances; one call, and one for the profile
RETRY = 60.0  # seconds after something that failed
PROBE = 2.0  # seconds for others to have looked whether there is a process

# What a child is to do, and how it ends.
Task = Literal["look", "mend", "tell"]
DONE, FAILED, OVER = 0, 1, 3

_TABLES = Path("/proc/net/fib_trie")


def main() -> None:
    """Entry point; the argument is the file."""
    os.umask(0o077)
    with suppress(Busy):
        attend(Path(sys.argv[1]))


def attend(
    path: Path,
    *,
    work: Callable[[Task, Path], int] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    tables: Path = _TABLES,
) -> None:
    """Do what there is to do until no instance runs behind the policy, or the file is gone.

    Args:
        work: does one thing and says how it ended: :data:`DONE`, :data:`FAILED`, or
            :data:`OVER` where nothing runs any more.

    Raises:
        Busy: another process does.
    """
    does = work or _in_child
    with locked(path.with_suffix(".lock"), timeout=PROBE):
        looked = time.monotonic()
        not_before = dict.fromkeys(("mend", "tell"), 0.0)
        mended = told = b""
        while True:
            sleep(POLL)
            duty = load(path)
            if duty is None:
                return
            now = time.monotonic()
            seen = _read(tables)
            old = _due(path.parent, duty) and now >= not_before["mend"]
            if old or now - looked >= LOOK:
                looked = now
                if does("look", path) == OVER:
                    return
            if old or (seen != mended and now >= not_before["mend"]):
                if does("mend", path) == DONE:
                    mended = seen
                else:
                    not_before["mend"] = now + RETRY
            written = _read(path_of(path.parent, duty.hash)) if duty.inside else b""
            if written != told and now >= not_before["tell"]:
                if does("tell", path) == DONE:
                    told = written
                else:
                    not_before["tell"] = now + RETRY


def _due(directory: Path, duty: Duty) -> bool:
    """Whether a name is to be resolved anew."""
    if not duty.minutes or not duty.domains:
        return False
    return bool(stale(duty.domains, load_answers(directory, duty.hash), duty.minutes))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _in_child(task: Task, path: Path) -> int:
    """Have a child do it, whose memory goes with it."""
    child = os.fork()
    if child == 0:
        code = FAILED
        with suppress(BaseException):  # it has nobody to tell, and must not go on as a parent
            from coi.network.upkeep import do

            code = do(task, path)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
