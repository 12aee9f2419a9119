"""Sessions whose coi is gone are finished by the next coi that lists instances.

Those whose instance has stopped, and those that run and have no business to: which answer a
prompt, or whose start was cut off.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from coi.errors import CoiError
from coi.incus.errors import MissingError
from coi.session.body import RUN, WARM
from coi.session.model import (
    REMOVING,
    SAVED,
    Engine,
    from_instance,
    is_headless,
    is_session,
)
from coi.session.network import watch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from coi.incus.instances import Instance
    from coi.session.locks import Lock


class Recovered(NamedTuple):
    """What has come of it.

    Attributes:
        gone: the names of the instances that are no more.
        unsaved: the names of those that are kept because they could not be saved.
        busy: the names of those whose lock another coi holds.
    """

    gone: set[str]
    unsaved: set[str]
    busy: set[str]


def recover(engine: Engine, rows: Iterable[Instance], *, but: Collection[str] = ()) -> Recovered:
    """Finish the sessions whose coi is gone and whose instance has stopped, and go on
    with keeping the rules of network policies right.

    Args:
        rows: all instances, as listed a moment ago.
        but: the names of those that are left alone.
    """
    rows = list(rows)
    watch(engine.home, rows)
    gone: set[str] = set()
    unsaved: set[str] = set()
    busy: set[str] = set()
    for row in rows:
        if row.name in but:
            continue
        if row.coi("state") == RUN:
            from coi.session.run import over

            gone |= {row.name} if over(engine, row) else set()
            continue
        if row.coi("state") == WARM:
            from coi.session.warmpool import abandon

            gone |= {row.name} if abandon(engine, row) else set()
            continue
        if not _ended(engine, row):
            continue
        lock = engine.lock(row.name)
        if row.coi("state") == REMOVING:
            with suppress(CoiError):
                engine.instances.remove(row.name)
                gone.add(row.name)
            continue
        removed = False
        try:
            if not lock.try_acquire():
                busy.add(row.name)
                continue
            now = engine.instances.find(row.name)
            removed = now is None or not is_session(now)  # somebody else was faster
            if now is not None and _still(engine, row, now):
                removed = _recover(engine, now, lock)
        except MissingError:
            removed = True
        except CoiError as error:
            engine.report(f"Could not recover {row.name}: {error.brief}; it is kept")
            if engine.began(row):  # else there is nothing in it that was said
                unsaved.add(row.name)
        finally:
            lock.release(remove=removed)
        if removed:
            gone.add(row.name)
    if engine.protects:
        from coi.session import guard

        guard.sweep(engine, [row for row in rows if row.name not in gone], but=but)
    return Recovered(gone, unsaved, busy)


def due(engine: Engine, rows: Iterable[Instance]) -> bool:
    """Whether :func:`recover` would have a session to finish, which nobody else is at. What runs of
    commands, what is kept warm and what the daemon deletes has time."""
    rows = list(rows)
    ended = [row for row in rows if row.coi("state") != REMOVING and _ended(engine, row)]
    if any(_free(engine, row.name) for row in ended):
        return True
    if not engine.protects:
        return False
    from coi.session import guard

    return any(_free(engine, instance) for _token, instance in guard.left(engine, rows))


def _free(engine: Engine, instance: str) -> bool:
    """Whether nobody holds its lock, or that cannot be told."""
    lock = engine.lock(instance)
    known = lock.path.exists()
    try:
        return lock.try_acquire()
    except CoiError:
        return True
    finally:
        lock.release(remove=not known)


def _ended(engine: Engine, row: Instance) -> bool:
    """Whether it is this user's, and is to be finished or deleted."""
    if not (row.stopped or deserted(engine, row)) or not engine.attends(row):
        return False
    state = row.coi("state")
    return state == REMOVING or (is_session(row) and state != SAVED)


def deserted(engine: Engine, row: Instance) -> bool:
    """Whether one that runs has no business to if nobody has its lock: it answers a prompt, or
    its start was cut off."""
    return row.running and is_session(row) and (is_headless(row) or not engine.began(row))


def _still(engine: Engine, row: Instance, now: Instance) -> bool:
    """Whether it is to be finished yet: in the seconds since it was listed another coi may have
    saved it, and begun it again."""
    same = all(row.coi(key) == now.coi(key) for key in ("session-id", "start", "state"))
    return same and (now.stopped or deserted(engine, now))


def _recover(engine: Engine, row: Instance, lock: Lock) -> bool:
    """Finish one whose lock is held; whether its instance is no more."""
    if row.stopped and row.unused and not engine.began(row):
        from coi.session import guard

        engine.instances.remove(row.name)  # a warm one: its start was cut off before it ran
        guard.settle(engine, row.coi("session-id"))
        return True
    from coi.session.finish import Outcome, finish, finish_stopped
    from coi.session.inside import Saving

    engine.report(f"Recovering session {row.coi('session-id')} of {row.name}")
    session = replace(from_instance(engine, row, attached=False), lock=lock)
    keep = row.coi("persistent") == "true"
    if row.running and keep:
        engine.instances.set_state(row.name, "stop", force=True)
    elif row.running:
        return finish(engine, session, how=Saving.LAST) is not Outcome.KEPT
    return finish_stopped(engine, session, keep=keep) is Outcome.REMOVED
