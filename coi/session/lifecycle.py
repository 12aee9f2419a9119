"""What is done to sessions from outside: shut down, kill, persist, clean."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from coi.errors import CoiError, NotFoundError, RefusedError, UnavailableError, UsageError
from coi.incus.errors import MissingError
from coi.incus.instances import CONFIG_PREFIX, Instance
from coi.records import record
from coi.session import guard
from coi.session.body import RUN, WARM
from coi.session.finish import (
    Outcome,
    dismiss,
    finish,
    finish_stopped,
    powered_off,
    wait_stopped,
)
from coi.session.inside import Saving
from coi.session.model import (
    REMOVING,
    Engine,
    from_instance,
    is_headless,
    is_session,
    superseded,
)
from coi.session.network import watch
from coi.session.recover import deserted, recover
from coi.session.run import going, ours
from coi.session.save import ExecFailedError, StoppingError, save_running

if TYPE_CHECKING:
    from coi.incus.images import Image

_POLL = 0.05  # seconds
_FIRST = 5  # seconds until a stop that systemd may not have heard is asked for again
_REMOVAL = 5.0  # seconds that the daemon has to delete what it was told to
_STOPPING = 10.0  # seconds that one has which was told to stop at once
_OTHER = 60.0  # seconds that another coi, attached to the session, has to finish it


def select(engine: Engine, names: Sequence[str], *, everything: bool) -> dict[str, Instance | None]:
    """The instances meant, by name, in one call; None where there is none of coi's.

    What is not meant, but was left by a coi that is gone, is finished on the way.

    Args:
        everything: all sessions of this user and coi home.

    Raises:
        UsageError: neither names nor ``everything``, or both.
    """
    if everything and names:
        raise UsageError("--all and container names exclude each other")
    if not everything and not names:
        raise UsageError("no container names provided - use 'coi list'")
    rows = {row.name: row for row in engine.instances.all()}
    watch(engine.home, rows.values())
    if everything:
        return {n: row for n, row in rows.items() if is_session(row) and engine.attends(row)}
    recover(engine, rows.values(), but=names)
    own = {n: row for n, row in rows.items() if is_coi(row)}
    return {name: own.get(name) for name in dict.fromkeys(names)}


def is_coi(row: Instance) -> bool:
    """Whether coi made the instance, as a session or by `coi container launch`."""
    return any(key.startswith(CONFIG_PREFIX) for key in row.config)


def found(row: Instance | None, name: str) -> Instance:
    """The row.

    Raises:
        NotFoundError: there is none.
        RefusedError: it is another user's; their state would be saved here.
    """
    if row is None:
        raise NotFoundError(f"no container of coi named {name}", hint="coi list")
    owner = row.coi("owner")
    if owner and owner != str(os.getuid()):
        raise RefusedError(f"{name} belongs to another user (uid {owner})", hint="coi list")
    return row


def kill(engine: Engine, row: Instance) -> None:
    """Stop at once and delete, saving nothing.

    The instance is marked first: a coi that is attached does not start it again to save it.
    """
    lock = engine.lock(row.name)
    held = lock.try_acquire()
    try:
        with suppress(MissingError):
            engine.instances.update(row.name, config={f"{CONFIG_PREFIX}state": REMOVING})
            try:
                engine.instances.remove(row.name)
            except CoiError:  # another coi may have begun to delete it
                if wait_gone(engine, [row.name], time.monotonic() + _REMOVAL):
                    raise
        guard.settle(engine, row.coi("session-id") or row.name, row.name)
    finally:
        if held:
            lock.release(remove=True)


def persist(engine: Engine, row: Instance) -> None:
    """Keep the container when its session ends.

    Raises:
        CoiError: it is not a session.
    """
    if not is_session(row):
        raise CoiError(f"{row.name} is not a session", hint="coi list")
    if is_headless(row):
        raise CoiError(f"{row.name} answers a prompt, and goes with its answer")
    engine.instances.update(row.name, config={f"{CONFIG_PREFIX}persistent": "true"})


def shutdown(engine: Engine, row: Instance, *, timeout: int) -> None:
    """Stop gracefully, by force after ``timeout`` seconds; save the session; delete.

    A coi that is attached to the session finishes it; otherwise this one does.

    Raises:
        RefusedError: the session is saved in another coi home.
        CoiError: the session could not be saved: the container is kept.
    """
    if is_session(row) and not engine.attends(row):
        raise RefusedError(
            f"{row.name} is a session of another COI_HOME",
            details=f"this one is {engine.home}",
            hint=f"set it as it was, or lose what was said: coi kill {row.name}",
        )
    saves = is_session(row) and row.running and not superseded(engine, row)
    if saves and _power_off(engine, row, timeout):
        return
    if not _stop(engine, row, timeout):
        _forget(engine, row)
        return
    if not is_session(row):
        with suppress(MissingError):  # an ephemeral one has deleted itself
            engine.instances.remove(row.name)
        _forget(engine, row)
        return
    lock = engine.lock(row.name)
    lock.acquire(_OTHER)
    outcome = None
    try:
        # One that is powering off by itself refuses to be stopped.
        now = wait_stopped(engine, row.name, time.monotonic() + _STOPPING)
        if now is None or now.coi("state") == REMOVING:
            outcome = Outcome.GONE
            return
        session = from_instance(engine, now, attached=False)
        if not now.stopped:
            raise CoiError(f"{row.name} does not stop", hint=f"coi kill {row.name}")
        if superseded(engine, now):
            engine.instances.remove(row.name)
            outcome = Outcome.REMOVED
            return
        outcome = finish_stopped(engine, session, keep=False)
    finally:
        lock.release(remove=outcome in (Outcome.GONE, Outcome.REMOVED))


def _forget(engine: Engine, row: Instance) -> None:
    """Of one that is no more nothing is left."""
    guard.settle(engine, row.coi("session-id") or row.name, row.name)
    engine.lock(row.name).discard()


def _power_off(engine: Engine, row: Instance, timeout: int) -> bool:
    """End one that keeps its shutdown waiting until its state is read.

    Returns:
        False where it does not, or another coi attends to it: it is stopped from outside.
    """
    lock = engine.lock(row.name)
    if not lock.try_acquire():
        return False
    outcome = None
    try:
        session = from_instance(engine, row, attached=False)
        try:
            if not save_running(engine, session, how=Saving.ENDING, patience=timeout):
                return False
        except (StoppingError, ExecFailedError):
            return False
        outcome = powered_off(engine, session, row=row)
    finally:
        lock.release(remove=outcome is not None)
    return True


def _stop(engine: Engine, row: Instance, timeout: int) -> bool:
    """Stop an instance gracefully, then by force; False when it is gone.

    systemd does not hear the request right after its start: it is made twice.
    """
    steps = (min(timeout, _FIRST), timeout - _FIRST) if row.running else ()
    for seconds in (step for step in steps if step > 0):
        try:
            engine.instances.set_state(row.name, "stop", timeout=seconds)
        except MissingError:
            return False
        except UnavailableError:
            raise
        except CoiError:
            continue
        return True
    if not row.stopped:
        try:
            engine.instances.set_state(row.name, "stop", force=True)
        except UnavailableError:
            raise
        except CoiError:  # whoever looks at it next sees whether it runs
            return True
    return True


def wait_gone(engine: Engine, names: Iterable[str], deadline: float) -> set[str]:
    """Wait until the daemon has deleted what it was told to delete; what is left."""
    left = set(names)
    while left and time.monotonic() < deadline:
        left &= {row.name for row in engine.instances.all()}
        if left:
            time.sleep(_POLL)
    return left


@record(frozen=True)
class Leftover:
    """Something to clean.

    Attributes:
        kind: ``container``, ``lock``, ``save`` or ``session``.
        name: of it.
        why: for people.
    """

    kind: str
    name: str
    why: str


def leftovers(
    engine: Engine,
    *,
    sessions: bool,
    everything: bool,
    rows: list[Instance] | None = None,
    images: Collection[Image] | None = None,
) -> list[Leftover]:
    """What `coi clean` would take away: containers, stale locks, saved sessions.

    Args:
        rows: all instances, where they were listed a moment ago.
        images: all images, where they were.
    """
    result: list[Leftover] = []
    if rows is None:
        rows = engine.instances.all()
    watch(engine.home, rows)
    removing = [r.name for r in rows if r.coi("state") == REMOVING and engine.attends(r)]
    if removing:  # most are on their way out
        wait_gone(engine, removing, time.monotonic() + _REMOVAL)
        rows = engine.instances.all()
    for row in filter(engine.attends, rows):
        if row.coi("state") == RUN and (not ours(engine, row) or going(engine, row)):
            continue  # its locks are elsewhere, or it is being deleted
        if row.coi("state") == WARM:
            continue
        lock = engine.lock(row.name)
        known = lock.path.exists()
        if not lock.try_acquire():
            continue  # somebody attends to it
        lock.release(remove=not known)
        if row.coi("state") == REMOVING:
            result.append(Leftover("container", row.name, "half deleted"))
        elif row.coi("state") == RUN or (deserted(engine, row) and not _kept(row)):
            result.append(Leftover("container", row.name, "its coi is gone"))
        elif row.stopped and (everything or not _kept(row)):
            result.append(Leftover("container", row.name, "stopped"))
    if any(row.coi("state") == WARM for row in rows):
        from coi.session.warmpool import unwanted

        found = unwanted(engine, rows, images, everything=everything)
        result += [Leftover("container", name, why) for name, why in found]
    names = {row.name for row in rows}
    for path in sorted((engine.home / "locks").glob("*.lock")):
        if path.stem not in names and not path.stem.startswith("build-"):  # coi build's own
            lock = engine.lock(path.stem)
            if lock.try_acquire():
                lock.release()
                result.append(Leftover("lock", path.stem, "its container is gone"))
    result += [
        Leftover("save", str(path.relative_to(engine.home)), "cut off")
        for path in engine.store.torn()
    ]
    if sessions or everything:
        result += [
            Leftover("session", saved.id, f"saved {saved.saved_at}")
            for saved in engine.store.all()
            if saved.container not in names
        ]
    return result


def _kept(row: Instance) -> bool:
    return row.coi("persistent") == "true"


def clean(engine: Engine, item: Leftover) -> None:
    """Take one thing away; a stopped session is saved first.

    Raises:
        CoiError: somebody is at it, or has started it since it was found.
    """
    if item.kind == "session":
        engine.store.delete(engine.store.find(item.name))
        return
    if item.kind == "save":
        try:
            engine.store.sweep(engine.home / item.name)
        except OSError as error:
            raise CoiError(f"cannot clean {item.name}", details=str(error)) from error
        return
    lock = engine.lock(item.name)
    if not lock.try_acquire():
        raise CoiError(f"{item.name} is in use")
    try:
        if item.kind == "container":
            row = engine.instances.find(item.name)
            if row is not None and row.stopped and superseded(engine, row):
                engine.instances.remove(row.name)
            elif row is not None and is_session(row) and row.stopped:
                session = from_instance(engine, row, attached=False)
                finish_stopped(engine, session, keep=False)
            elif row is not None and deserted(engine, row):
                finish(engine, from_instance(engine, row, attached=False), how=Saving.LAST)
            elif row is not None and row.running and row.coi("state") in (REMOVING, RUN):
                dismiss(engine, row.name)
            elif row is not None and not row.stopped:
                raise CoiError(f"{row.name} was started meanwhile")
            elif row is not None:
                engine.instances.remove(row.name)
    finally:
        lock.release(remove=True)
