"""Warm instances: made beforehand, never started, and claimed by a start.

On a storage pool without copy-on-write a creation unpacks the whole image (8 to 20 s), a
rename, a change and a start take 1 to 2. A warm instance is what a creation makes of the image
and nothing more: no device, no workspace, no policy, nothing of any session. Who claims one
holds its lock and renames it, which Incus grants to one alone; it is given all that a creation
would have given it, its network too, and is started last.

The daemon renames an instance that it is still unpacking, and what comes of that is broken
(measured on 6.0.4). ``volatile.apply_template`` is ``create`` from the end of the unpacking to
the first start, and an operation of the daemon names the instance until the very end: both are
looked at. One that was ever started is never warm again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError, UnavailableError
from coi.incus.batch import look
from coi.incus.client import listed
from coi.incus.errors import AlreadyExistsError, MissingError
from coi.incus.instances import CONFIG_PREFIX, Instance
from coi.incus.shield import shielded
from coi.incus.urls import segment, uses
from coi.records import record
from coi.session.body import WARM
from coi.session.limits import PROFILE

if TYPE_CHECKING:
    from coi.incus.client import Pending
    from coi.session.model import Engine

_ENDED = 200  # status codes of operations that are over (Incus, "Status codes")
_KEYS = ("state", "owner", "version", "image", "locks", "warm")
_OWN = frozenset(CONFIG_PREFIX + key for key in _KEYS)
_IDENTITY = frozenset(CONFIG_PREFIX + key for key in ("state", "owner", "locks", "session-id"))
_TEMPLATE = "volatile.apply_template"
_POWER = "volatile.last_state.power"
OPERATIONS = "/1.0/operations?recursion=1"


@record(frozen=True)
class Seen:
    """What there was a moment ago.

    Attributes:
        rows: all instances.
        target: the fingerprint that the image's alias names; '' where there is none.
        busy: names of instances that the daemon is at work on; None: it is not known.
    """

    rows: tuple[Instance, ...]
    target: str
    busy: frozenset[str] | None


def look_around(engine: Engine, image: str) -> Seen:
    """Three looks side by side.

    Args:
        image: the alias that is asked for.

    Raises:
        CoiError: the instances cannot be listed.
    """
    found = look(
        engine.client,
        {
            "rows": "/1.0/instances?recursion=1",
            "alias": f"/1.0/images/aliases/{segment(image)}",
            "operations": OPERATIONS,
        },
    )
    rows, alias = found["rows"], found["alias"]
    if isinstance(rows, CoiError):
        raise rows
    target = str(alias.get("target") or "") if isinstance(alias, dict) else ""
    return Seen(tuple(listed(Instance.parse, rows)), target, busy_of(found["operations"]))


def busy_of(operations: Any) -> frozenset[str] | None:
    """The instances that operations are about which are not over; None where it is not known."""
    if isinstance(operations, CoiError):
        return None
    try:
        paths = [
            path
            for group in (operations or {}).values()
            for operation in group or ()
            if int(operation.get("status_code") or 0) < _ENDED
            for path in (operation.get("resources") or {}).get("instances") or ()
        ]
        return frozenset(use.name for use in uses(paths))
    except (AttributeError, TypeError, ValueError, OverflowError):  # of another form
        return None


def is_warm(engine: Engine, row: Instance) -> bool:
    """Whether an instance was made as a warm one of this user and coi home, and nobody has
    begun to claim it."""
    return row.coi("state") == WARM and row.coi("warm") == row.name and engine.attends(row)


def fresh(row: Instance) -> bool:
    """Whether a warm instance is as it was made: whole, never started, and nothing added."""
    return (
        row.stopped
        and row.unused
        and row.config.get(_TEMPLATE) == "create"
        and _POWER not in row.config
        and not row.ephemeral
        and not row.devices
        and row.profiles == (PROFILE,)
        and {key for key in row.config if not key.startswith(("volatile.", "image."))} == _OWN
    )


def base(row: Instance) -> str:
    """The fingerprint of the image that an instance was made of."""
    return row.config.get("volatile.base_image", "")


def ready(engine: Engine, seen: Seen, body: Mapping[str, Any]) -> list[Instance]:
    """The warm instances that can become what ``body`` describes, the oldest first."""
    busy = seen.busy
    if busy is None or not seen.target:
        return []
    roots = {d.get("pool", "") for d in body["devices"].values() if d.get("path") == "/"}
    fit = [
        row
        for row in seen.rows
        if is_warm(engine, row)
        and fresh(row)
        and row.name not in busy
        and base(row) == seen.target
        and roots <= _pools(row)
    ]
    return sorted(fit, key=lambda row: row.created_at)


def _pools(row: Instance) -> set[str]:
    """The storage pool of an instance's root disk."""
    return {d.get("pool", "") for d in row.expanded.values() if d.get("path") == "/"}


def fault(row: Instance, targets: Mapping[str, str]) -> str:
    """Why a warm instance is of no use any more, '' where it is; one that runs is let be.

    Args:
        row: one that the daemon is not at work on.
        targets: alias to fingerprint; of others nothing is known.
    """
    if not row.stopped:
        return ""
    if not fresh(row):
        return "it is not whole, or was changed" if row.unused else "it was started or changed"
    target = targets.get(row.coi("image"))
    if target is None or target == base(row):
        return ""
    return "its image was replaced" if target else "its image is gone"


def take(
    engine: Engine, body: Mapping[str, Any], seen: Seen, verify: Callable[[], object]
) -> Pending | None:
    """Have a warm instance become what a creation of ``body`` would make, and begin to start it.

    Args:
        verify: called before it is started, when it is on its network.

    Returns:
        its start; None: none is ready, or could be made such: create one, or hear why not.

    Raises:
        AlreadyExistsError: the name is taken.
        CoiError: what ``verify`` raises, or Incus is lost; nothing of the name is left.
    """
    for row in ready(engine, seen, body):
        lock = engine.lock(row.name)
        if not lock.try_acquire():
            continue
        try:
            return _become(engine, row.name, body, verify)
        except _GoneError:
            continue
        finally:
            lock.release(remove=True)
    return None


class _GoneError(Exception):
    """Another coi was faster, or somebody deleted it."""


def _become(
    engine: Engine, warm: str, body: Mapping[str, Any], verify: Callable[[], object]
) -> Pending | None:
    """:func:`take` with a certain one.

    Raises:
        _GoneError: it is not there.
    """
    name, instances = body["name"], engine.instances
    given = {**body, "config": {**body["config"], CONFIG_PREFIX + "warm": ""}}
    renamed = False
    try:
        with shielded():  # the daemon goes on with what it was told, and then is to be undone
            try:
                instances.rename(warm, name)
            except AlreadyExistsError:
                raise
            except MissingError as error:
                raise _GoneError from error
            except CoiError as error:
                _discard(engine, warm, body)  # it may be renamed, where the answer was lost
                if isinstance(error, UnavailableError):
                    raise
                return None
            renamed = True
            try:
                instances.become(name, given)
            except UnavailableError:
                raise
            except CoiError:  # a creation tells what is wrong as it always does
                _discard(engine, warm, body)
                return None
        verify()
        return instances.start_made(name)
    except BaseException:
        if renamed:
            _discard(engine, warm, body)
        raise


def _discard(engine: Engine, warm: str, body: Mapping[str, Any]) -> None:
    """Remove what was claimed: it is not made warm again."""
    with shielded(), suppress(CoiError):
        row = engine.instances.find(body["name"])
        if row is None:
            return
        own = {key: value for key, value in body["config"].items() if key in _IDENTITY}
        became = all(row.config.get(key) == value for key, value in own.items())
        if row.coi("warm") == warm or became:
            engine.instances.remove(row.name)
