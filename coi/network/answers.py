"""What the names of an allowlist resolve to, and the last good answers on disk.

One file for each policy, ``<policy's hash>.json``. A name that does not resolve today
keeps the addresses it had: a refresh never empties a list.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from coi.errors import CoiError
from coi.files import make_private, read_private, replace_file
from coi.records import record, texts

FORMAT = 1
MAX_SIZE = 4 << 20  # bytes of a file: some 200,000 addresses
DEADLINE = 5.0  # seconds for all names together
_WORKERS = 32  # names that are asked for at once

Lookup = Callable[[str], Collection[str]]
"""A name to the text of its IPv4 addresses; OSError where it does not resolve."""


@record(frozen=True)
class Answer:
    """The addresses of a name, sorted, never none, and when they were found (RFC 3339, UTC)."""

    addresses: tuple[IPv4Address, ...]
    resolved_at: str


Known = Mapping[str, Answer]
"""Answers by name."""


def system_lookup(name: str) -> list[str]:
    """Ask the host's resolver; it may take as long as it likes.

    Raises:
        OSError: no answer.
    """
    import socket

    found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def resolve(
    domains: Collection[str], lookup: Lookup = system_lookup, deadline: float = DEADLINE
) -> dict[str, tuple[IPv4Address, ...]]:
    """The addresses of the names that resolve, sorted, as far as they are known in time.

    getaddrinfo(3) cannot be interrupted. The names are asked for in daemon threads, which
    are left behind at the deadline and do not keep the process from ending.

    Args:
        deadline: seconds for all of them together.
    """
    waiting = deque(domains)
    found: dict[str, tuple[IPv4Address, ...]] = {}
    until = time.monotonic() + deadline

    def work() -> None:
        while time.monotonic() < until:
            try:
                name = waiting.popleft()
            except IndexError:
                return
            addresses = _ask(name, lookup)
            if addresses:
                found[name] = addresses

    workers = [
        threading.Thread(target=work, name="coi-resolve", daemon=True)
        for _ in range(min(len(domains), _WORKERS))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
    return dict(found)  # a copy: a thread that was left behind may still add to it


def _ask(name: str, lookup: Lookup) -> tuple[IPv4Address, ...]:
    try:
        return tuple(sorted({IPv4Address(text) for text in lookup(name)}))
    except (OSError, ValueError):  # ValueError: no address, or a name that has no encoding
        return ()


def merge(
    domains: Collection[str],
    last: Mapping[str, Answer],
    found: Mapping[str, tuple[IPv4Address, ...]],
    now: str,
) -> dict[str, Answer]:
    """The new answers, and the last good ones of the names that have none.

    Args:
        domains: the policy's; others are dropped.
        found: what may be used of what was found (:func:`coi.network.policy.usable`),
            so that an answer of refused addresses alone counts as none.
        now: RFC 3339, UTC.
    """
    merged: dict[str, Answer] = {}
    for domain in domains:
        if addresses := found.get(domain, ()):
            merged[domain] = Answer(tuple(sorted(addresses)), now)
        elif domain in last:
            merged[domain] = last[domain]
    return merged


def stale(domains: Collection[str], last: Known, minutes: int) -> list[str]:
    """The names that have no answer, or one older than that; 0: any age."""
    return [name for name in domains if _stale(last.get(name), minutes)]


def _stale(answer: Answer | None, minutes: int) -> bool:
    if answer is None:
        return True
    if minutes == 0:
        return False
    age = datetime.now(timezone.utc) - _when(answer.resolved_at)
    return not timedelta(0) <= age < timedelta(minutes=minutes)


def _when(text: str) -> datetime:
    """One reader for all: what is taken from a file is understood afterwards."""
    if not text.isascii():
        raise ValueError("digits of another script")
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")


def path_of(directory: Path, policy: str) -> Path:
    """The file of a policy's answers."""
    return directory / f"{policy}.json"


def load(directory: Path, policy: str) -> dict[str, Answer]:
    """The last good answers for a policy; none where the file is missing or damaged.

    A file that somebody else could have written is not read: its addresses would be
    allowed.

    Args:
        directory: ``<coi home>/network``.
        policy: its hash.
    """
    data = read_private(path_of(directory, policy), MAX_SIZE)
    try:
        return _parse(json.loads(data or b""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _parse(document: Any) -> dict[str, Answer]:
    if document["format"] != FORMAT:
        return {}
    found: dict[str, Answer] = {}
    for domain, entry in document["answers"].items():
        resolved_at = entry["resolved_at"]
        _when(resolved_at)
        addresses = tuple(sorted({IPv4Address(text) for text in texts(entry["addresses"])}))
        if addresses:
            found[domain] = Answer(addresses, resolved_at)
    return found


def save(directory: Path, policy: str, answers: Mapping[str, Answer]) -> None:
    """Keep the answers for a policy.

    Raises:
        CoiError: the disk refused; what was kept before stands.
    """
    document = {
        "format": FORMAT,
        "answers": {
            domain: {
                "addresses": [str(address) for address in answer.addresses],
                "resolved_at": answer.resolved_at,
            }
            for domain, answer in answers.items()
        },
    }
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    try:
        make_private(directory)
        replace_file(path_of(directory, policy), text.encode())
    except OSError as error:
        raise CoiError(
            "cannot keep the addresses of allowed domains", details=str(error)
        ) from error
