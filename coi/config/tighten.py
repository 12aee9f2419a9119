"""What a `.coi.toml` that nobody approved may set.

Whoever wrote the repository wrote the file, and the session writes to it too.
Such a file may make the session narrower than the user's own configuration
does, and may choose among what the user already has; nothing else of it is
applied before ``coi trust``. The user's own configuration means the layers
below the file: built-in, system, user.

``UNTRUSTED`` is the whole list. A key that is not in it waits for approval,
whatever its value. Some that may look harmless and still wait:

- ``defaults.image``: an image decides what runs, and as whom.
- ``defaults.persistent``: true keeps what a session leaves behind for the
  next one, false deletes a container that the user meant to keep.
- ``tool.binary``, ``[tool.<name>]``, environment, ``[profiles.*]``: they
  decide what runs and where the tool's requests go (ANTHROPIC_BASE_URL). Of
  ``[tool.<name>]`` only ``credentials`` may be said: fewer than otherwise.
- ``incus.*``, ``paths.*``, ``mounts.*``, ``ports.*``, ``build.*``, ``network.logging``:
  they name things of the host.
- ``warm.size``: what stands ready is shared by all projects of the user.

Approved by nobody, a file that says what the lower layers say anyway is no
widening: a key with the value that already holds is never withheld.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from coi.config.kinds import CREDENTIALS, NETWORK_MODES, PROTECT_ACTIONS
from coi.config.model import NO_LIMIT, SHARE, Name

WITHHELD: Any = object()
"""Returned by a rule for a value that is not applied."""

Rule = Callable[[Any, Any], Any]
"""(value of the lower layers, wanted value) -> the value to apply, or WITHHELD."""


def only_false(_current: Any, wanted: Any) -> Any:
    """may only be switched off"""
    return WITHHELD if wanted else wanted


def only_true(_current: Any, wanted: Any) -> Any:
    """may only be switched on"""
    return wanted if wanted else WITHHELD


def lower(current: Any, wanted: Any) -> Any:
    """may only be lowered"""
    return wanted if wanted < current else WITHHELD


def shorter(current: Any, wanted: Any) -> Any:
    """may only be shortened, not to 0 and not from 0"""
    return wanted if 0 < wanted < current else WITHHELD


def stricter(current: Any, wanted: Any) -> Any:
    """may only go from open to restricted to allowlist"""
    return wanted if NETWORK_MODES.index(wanted) > NETWORK_MODES.index(current) else WITHHELD


def subset(current: Any, wanted: Any) -> Any:
    """only those of them that the user's configuration has"""
    return tuple(entry for entry in wanted if entry in current)


def more(current: Any, wanted: Any) -> Any:
    """may only be added to"""
    return tuple(dict.fromkeys((*current, *wanted)))


def restoring(_current: Any, wanted: Any) -> Any:
    """may only be restore"""
    return wanted if wanted == PROTECT_ACTIONS[-1] else WITHHELD


def fewer(current: Any, wanted: Any) -> Any:
    """only those of them that may go in otherwise"""
    return wanted if current is None else subset(current, wanted)


def any_of_them(_current: Any, wanted: Any) -> Any:
    """free choice among the installed tools"""
    return wanted


def fewer_cpus(current: Any, wanted: Any) -> Any:
    """may only be lowered; of a set of CPUs, to a part of it"""
    if wanted == NO_LIMIT:
        return WITHHELD
    if current == NO_LIMIT:
        return wanted
    if wanted == SHARE:
        return WITHHELD
    if current == SHARE:
        return wanted
    have, want = _cpus(current), _cpus(wanted)
    if isinstance(have, int):
        return wanted if (want if isinstance(want, int) else len(want)) <= have else WITHHELD
    return wanted if not isinstance(want, int) and want <= have else WITHHELD


def smaller(current: Any, wanted: Any) -> Any:
    """may only be lowered"""
    if wanted == NO_LIMIT:
        return WITHHELD
    if current == NO_LIMIT:
        return wanted
    (have, have_percent), (want, want_percent) = size(current), size(wanted)
    return wanted if have_percent == want_percent and want < have else WITHHELD


def less_memory(current: Any, wanted: Any) -> Any:
    """may only be lowered"""
    if current.endswith("%") and wanted != NO_LIMIT and not wanted.endswith("%"):
        # What a percentage comes to is known on the daemon's own host alone.
        pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        share = pages * page * int(current[:-1]) // 100
        return wanted if size(wanted)[0] < share else WITHHELD
    return smaller(current, wanted)


UNTRUSTED: Mapping[str, Rule] = {
    "defaults.mount_claude_config": only_false,
    "defaults.max_slots": lower,
    "tool.name": any_of_them,
    "network.mode": stricter,
    "network.allowed_domains": subset,
    "network.refresh_interval_minutes": shorter,
    "network.allow_local_network_access": only_false,
    "network.block_private_networks": only_true,
    "network.block_metadata_endpoint": only_true,
    "protect.enabled": only_true,
    "protect.paths": more,
    "protect.on_change": restoring,
    "limits.cpu": fewer_cpus,
    "limits.memory": less_memory,
    "limits.processes": smaller,
    "limits.disk": smaller,
}
"""Dotted key to the rule of what an unapproved file may do with it."""


def rule_of(name: Name) -> Rule | None:
    """What an unapproved file may do with a key; None: it waits."""
    if name[0] == "tool" and name[2:] == (CREDENTIALS,):
        return fewer
    return UNTRUSTED.get(".".join(name))


def admit(
    values: Mapping[Name, Any], current: Mapping[Name, Any]
) -> tuple[dict[Name, Any], list[Name]]:
    """Split an unapproved file's values.

    Args:
        values: what the file says.
        current: the effective values of the layers below it.

    Returns:
        What is applied, and the keys that wait for approval. A list of which
        only a part is applied is in both.
    """
    admitted: dict[Name, Any] = {}
    withheld: list[Name] = []
    for name, wanted in values.items():
        if name in current and same(wanted, current[name]):
            continue
        rule = rule_of(name)
        if rule is less_memory and current.get(("incus", "remote")) != "local":
            rule = smaller
        value = rule(current.get(name), wanted) if rule else WITHHELD
        if value is not WITHHELD:
            admitted[name] = value
        if value is WITHHELD or not same(value, wanted):
            withheld.append(name)
    return admitted, withheld


def same(one: Any, other: Any) -> bool:
    """Equal, and of one type: 1 is not true, 1.0 is not 1."""
    return bool(one == other) and repr(one) == repr(other)


_UNITS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def size(text: str) -> tuple[int, bool]:
    """Bytes (or a plain number), and whether it is a percentage instead."""
    if text.endswith("%"):
        return int(text[:-1]), True
    match = re.fullmatch(r"([0-9]+)(?:([kKMGTPE]?)(i?)B)?", text)
    if match is None:
        raise ValueError(text)
    unit = _UNITS[(match[2] or "").replace("K", "k")]
    return int(match[1]) * (1024 if match[3] else 1000) ** unit, False


def _cpus(text: str) -> int | frozenset[int]:
    """How many CPUs, or which ones."""
    if text.isdigit():
        return int(text)
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
