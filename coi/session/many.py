"""The same work for several names, side by side.

Each name gets a process of its own: ``sh`` forks, and forking beside threads
is not safe. One that fails does not stop the rest.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Sequence

from coi.errors import CoiError, Interrupted
from coi.incus.shield import shielded, unshielded

LIMIT = 8  # processes at a time


class RemoteError(CoiError):
    """An error of one of the processes, with its own exit code."""

    def __init__(self, brief: str, details: str, hint: str, exit_code: int) -> None:
        super().__init__(brief, details=details, hint=hint)
        self.exit_code = exit_code


def side_by_side(
    items: Sequence[str],
    work: Callable[[str], None],
    *,
    limit: int = LIMIT,
    progress: Callable[[int], None] = lambda ended: None,
) -> dict[str, CoiError | None]:
    """Run ``work`` for every item; what became of each, in the order given.

    A single item is worked on in this process: what is no CoiError goes through.

    Args:
        work: raises CoiError when it fails; anything else it raises counts as
            a failure too, named by its type.
        limit: how many at a time.
        progress: told how many of several have ended, 0 first.
    """
    outcome: dict[str, CoiError | None] = {}
    if len(items) == 1:
        try:
            work(items[0])
        except CoiError as error:
            return {items[0]: error}
        return {items[0]: None}
    waiting = list(dict.fromkeys(items))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    running: dict[int, tuple[str, int]] = {}  # pid -> item, read end of its pipe
    try:
        while waiting or running:
            progress(len(outcome))
            while waiting and len(running) < limit:
                item = waiting.pop(0)
                with shielded():  # a signal finds a worker known here, or not yet made
                    running.update([_fork(item, work, mask)])
            pid = _next(running)
            item, read_end = running[pid]
            outcome[item] = _read(read_end, item)
            with shielded():
                os.waitpid(pid, 0)
                del running[pid]
                os.close(read_end)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        for pid, (_item, read_end) in running.items():
            os.waitpid(pid, 0)
            os.close(read_end)
    return {item: outcome[item] for item in dict.fromkeys(items)}


def _next(running: dict[int, tuple[str, int]]) -> int:
    """One of the running processes that reports, or is gone."""
    fds = {read_end: pid for pid, (_item, read_end) in running.items()}
    ready, _, _ = select.select(list(fds), [], [])
    return fds[ready[0]]


def _fork(
    item: str, work: Callable[[str], None], mask: set[int | signal.Signals]
) -> tuple[int, tuple[str, int]]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, (item, read_end)
    code = 1
    try:
        os.close(read_end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to pass on
        unshielded()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(json.dumps(_attempt(item, work)).encode())
        code = 0
    finally:
        os._exit(code)


def _attempt(item: str, work: Callable[[str], None]) -> list[str | int]:
    try:
        work(item)
    except (CoiError, Interrupted) as error:
        return [error.brief, error.details[:8000], error.hint, error.exit_code]
    except BaseException as error:
        return [f"{item}: {type(error).__name__}", str(error)[:8000], "", 1]
    return []


def _read(read_end: int, item: str) -> CoiError | None:
    """What a process reported: read to its end before the process is waited for,
    which may still be writing."""
    with os.fdopen(read_end, "rb", closefd=False) as pipe:
        data = pipe.read()
    try:
        report = json.loads(data)
        return RemoteError(*report) if report != [] else None
    except (ValueError, TypeError, RecursionError):
        return CoiError(f"{item}: its process died")
