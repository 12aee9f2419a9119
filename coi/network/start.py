"""From the configuration to the fence that a start is made behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from coi.network import answers as record
from coi.network.answers import Answer, Lookup, system_lookup
from coi.network.attachment import Scope
from coi.network.fence import Fence
from coi.network.host import view
from coi.network.policy import Policy, usable

if TYPE_CHECKING:
    from coi.config.model import Network
    from coi.incus.client import Client


def scope_of(home: Path, prefix: str) -> Scope:
    """The scope of one coi home.

    Args:
        home: coi's own directory.
        prefix: of the instances.
    """
    from coi.files import make_private

    directory = home / "network"
    make_private(directory)
    found = directory.stat()
    return Scope(prefix, os.getuid(), directory, f"{found.st_dev}:{found.st_ino}")


def fence(
    client: Client,
    network: Network,
    *,
    prefix: str,
    home: Path,
    report: Callable[[str], None],
    lookup: Lookup = system_lookup,
) -> Fence | None:
    """The fence that the configuration asks for; None where the mode is open.

    Args:
        home: coi's own directory.
        prefix: of instance names.
        report: takes a line for the user.
        lookup: how names are resolved.

    Raises:
        UsageError: the allowlist has an entry that cannot be.
        RefusedError: the daemon is on another host.
    """
    policy = Policy.of(network)
    if policy is None:
        return None
    scope = scope_of(home, prefix)
    host = view()
    answers = current(
        policy,
        scope.directory,
        host.addresses,
        minutes=network.refresh_interval_minutes,
        report=report,
        lookup=lookup,
    )
    return Fence(
        client,
        scope,
        policy,
        answers,
        host=host,
        backend=network.backend,
        minutes=network.refresh_interval_minutes,
        log=network.logging.path,
        report=report,
    )


def current(
    policy: Policy,
    directory: Path,
    own: frozenset[IPv4Address],
    *,
    minutes: int,
    report: Callable[[str], None],
    lookup: Lookup = system_lookup,
) -> dict[str, tuple[IPv4Address, ...]]:
    """The addresses of an allowlist's names: the last good ones while they are new enough.

    Args:
        directory: ``<coi home>/network``.
        own: the host's addresses, which no name may lead to.
        minutes: how old an answer may be; 0: any age.
    """
    if not policy.domains:
        return {}
    last = record.load(directory, policy.hash)
    names = record.stale(policy.domains, last, minutes)
    if names:
        last = renewed(policy, last, names, own, report=report, lookup=lookup)
        record.save(directory, policy.hash, last)
        for name in policy.domains:
            if name not in last:
                report(f"{name} does not resolve and cannot be reached")
    return {name: answer.addresses for name, answer in last.items()}


def renewed(
    policy: Policy,
    last: Mapping[str, Answer],
    names: list[str],
    own: frozenset[IPv4Address],
    *,
    report: Callable[[str], None],
    lookup: Lookup = system_lookup,
) -> dict[str, Answer]:
    """The answers for the policy, after some names have been asked for again.

    Args:
        own: the host's addresses, which no name may lead to.
    """
    checked = usable(record.resolve(names, lookup), policy, own)
    for name in checked.refused:
        report(f"{name} resolves to an address that the policy does not let through")
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S+00:00")
    return record.merge(policy.domains, last, checked.kept, now)
