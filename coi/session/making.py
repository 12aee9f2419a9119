"""Make an instance: of a warm one where one is ready, else by a creation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coi.incus.client import Pending
    from coi.session.model import Engine
    from coi.session.warm import Seen


def begin(
    engine: Engine,
    body: Mapping[str, Any],
    seen: Seen | None,
    verify: Callable[[], object],
) -> Pending:
    """Begin to make and start an instance, whose lock is held.

    Args:
        body: of :func:`coi.session.body.instance_body`.
        seen: what there is of warm ones; None: none are kept.
        verify: sees that the rules of its network stand. A warm one is not started before;
            beside a creation the caller calls it.

    Returns:
        the start of one that exists, or its creation.

    Raises:
        CoiError: there is nothing of that name then, or it is somebody else's.
    """
    if seen is not None:
        from coi.session.warm import take

        started = take(engine, body, seen, verify)
        if started is not None:
            return started
    return engine.instances.start_create(body)


def look(engine: Engine, image: str) -> Seen | None:
    """What there is of warm instances; no call and no import where none are kept."""
    if not engine.config.warm.size:
        return None
    from coi.session.warm import look_around

    return look_around(engine, image)


def refill(engine: Engine, image: str) -> None:
    """Begin to make what lacks of warm instances, without a word if that cannot be."""
    if engine.config.warm.size:
        from coi.session.warmpool import refill as fill

        fill(engine, image)
