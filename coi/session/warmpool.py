"""The pool of warm instances: refilled behind a start, and looked after."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from coi.digest import sha256
from coi.errors import CoiError
from coi.incus.batch import look
from coi.incus.errors import MissingError
from coi.session.body import WARM, made_by_coi
from coi.session.locks import locked, place_of
from coi.session.warm import OPERATIONS, Seen, base, busy_of, fault, fresh, is_warm, look_around

if TYPE_CHECKING:
    from coi.incus.images import Image
    from coi.incus.instances import Instance
    from coi.session.model import Engine

_LOCK = "warm.lock"  # in coi's home: who holds it counts and refills
_WAIT = 3.0  # seconds that a refill waits for another one


def refill(engine: Engine, image: str) -> None:
    """See that as many stand ready as are wanted; the daemon makes them, nobody waits.

    What is stale goes. There are never more than that, whatever their images: where all are of
    others, the oldest one makes room for one of this image. Without a word when it cannot be
    done: the next start tries again, and `coi doctor` tells what there is.

    Args:
        image: the alias that a start has asked for a moment ago.
    """
    with suppress(CoiError, OSError), locked(engine.home / _LOCK, _WAIT):
        seen = look_around(engine, image)
        if seen.busy is None or not seen.target:
            return
        kept, coming = _standing(engine, seen, image)
        size = engine.config.warm.size
        full = len(kept) + len(coming) >= size
        if full and kept and not coming and all(base(row) != seen.target for row in kept):
            oldest = min(kept, key=lambda row: row.created_at)
            if oldest.name not in seen.busy and _drop(engine, oldest, lambda _: True):
                kept.remove(oldest)
        for _ in range(size - len(kept) - len(coming)):
            body = warm_body(engine, image)
            engine.client.query("POST", "/1.0/instances", body=body, action="keep one warm")


def _standing(engine: Engine, seen: Seen, image: str) -> tuple[list[Instance], set[str]]:
    """Those there are, without the stale ones, which go; and the names of those to come, which
    the daemon has not listed yet."""
    busy = seen.busy or frozenset()
    targets = {image: seen.target}
    own = [row for row in seen.rows if is_warm(engine, row)]
    kept = []
    for row in own:
        stale = row.name not in busy and bool(fault(row, targets))
        if not stale or not _drop(engine, row, lambda now: bool(fault(now, targets))):
            kept.append(row)
    form = re.compile(rf".*warm-{_tag(engine)}[0-9a-f]{{6}}")
    coming = {name for name in busy if form.fullmatch(name)} - {row.name for row in own}
    return kept, coming


def warm_body(engine: Engine, image: str) -> dict[str, Any]:
    """``POST /1.0/instances`` for a warm instance."""
    name = f"{engine.prefix}warm-{_tag(engine)}{os.urandom(3).hex()}"
    locks = place_of(engine.home / "locks")
    return {
        "name": name,
        "type": "container",
        "source": {"type": "image", "alias": image},
        "config": made_by_coi(WARM, image=image, locks=locks, warm=name),
    }


def _tag(engine: Engine) -> str:
    """Four digits of whose it is: a name is all that is known of one that is being made."""
    whose = f"{os.getuid()} {place_of(engine.home / 'locks')}"
    return sha256(whose.encode()).hexdigest()[:4]


def _drop(engine: Engine, row: Instance, still: Callable[[Instance], bool]) -> bool:
    """Remove a stopped one that nobody claims; whether it is gone.

    Args:
        still: whether what is there now is to go.
    """
    lock = engine.lock(row.name)
    if not lock.try_acquire():
        return False
    gone = False
    try:
        now = engine.instances.find(row.name)
        if now is not None and now.coi("state") == WARM and now.stopped and still(now):
            engine.instances.delete(row.name)
            now = None
        gone = now is None
    except MissingError:
        gone = True
    except CoiError:
        return False
    finally:
        lock.release(remove=gone)
    return gone


def abandon(engine: Engine, row: Instance) -> bool:
    """Remove one whose coi was killed while it claimed it; whether it is gone.

    Args:
        row: an instance whose ``user.coi.state`` is WARM.
    """
    if row.coi("warm") == row.name or not row.stopped or not engine.attends(row):
        return False
    return _drop(engine, row, lambda now: now.coi("warm") != now.name)


def unwanted(
    engine: Engine,
    rows: Iterable[Instance],
    images: Collection[Image] | None,
    *,
    everything: bool,
) -> list[tuple[str, str]]:
    """The warm instances that `coi clean` takes away, and why.

    Args:
        rows: all instances, as listed a moment ago.
        images: all images, where they were listed a moment ago.
        everything: all of them.
    """
    own = [row for row in rows if row.coi("state") == WARM and engine.attends(row) and row.stopped]
    if not own:
        return []
    busy = busy_of(look(engine.client, {"operations": OPERATIONS})["operations"])
    if busy is None:
        return []
    if images is None:
        from coi.incus.images import Images

        images = Images(engine.client).all()
    targets = dict.fromkeys((row.coi("image") for row in own), "")
    targets.update({alias: image.fingerprint for image in images for alias in image.aliases})
    found, good = [], []
    for seen in own:
        if seen.name in busy or _held(engine, seen.name):
            continue
        # It may have come to its end between the two looks.
        row = seen if fresh(seen) else engine.instances.find(seen.name)
        if row is None or row.coi("state") != WARM or not row.stopped:
            continue
        if row.coi("warm") != row.name:
            found.append((row.name, "its coi is gone"))
        elif why := fault(row, targets):
            found.append((row.name, f"warm, but {why}"))
        elif everything:
            found.append((row.name, "warm"))
        else:
            good.append(row)
    surplus = len(good) - engine.config.warm.size
    oldest = sorted(good, key=lambda row: row.created_at)[: max(surplus, 0)]
    return found + [(row.name, "warm, and more than warm.size") for row in oldest]


def _held(engine: Engine, name: str) -> bool:
    """Whether somebody claims it."""
    lock = engine.lock(name)
    known = lock.path.exists()
    if not lock.try_acquire():
        return True
    lock.release(remove=not known)
    return False


def count(engine: Engine, rows: Iterable[Instance]) -> int:
    """How many are whole and stand ready, whatever their images."""
    return sum(is_warm(engine, row) and fresh(row) for row in rows)
