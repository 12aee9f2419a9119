"""Policies' networks and ACLs that nothing uses any more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress

from coi.incus.acls import NetworkAcl, NetworkAcls
from coi.incus.client import Client
from coi.incus.errors import IncusError, MissingError
from coi.incus.instances import CONFIG_PREFIX
from coi.incus.networks import Network, Networks
from coi.network import attachment, duty
from coi.network.attachment import Scope
from coi.network.fence import lock_path
from coi.network.lock import Busy, locked
from coi.network.names import asked_by


def swept(client: Client, scope: Scope) -> list[str]:
    """The names of what :func:`sweep` would remove now; two calls."""
    return unused(Networks(client).all(), NetworkAcls(client).all(), scope)


def unused(networks: list[Network], acls: list[NetworkAcl], scope: Scope) -> list[str]:
    """As :func:`swept`, of what was listed a moment ago."""
    found = set(_sweep_networks(networks, scope, lambda _name: True))
    found |= {acl.name for acl in acls if _idle_acl(acl, scope, found)}
    return sorted(found)


def sweep(client: Client, scope: Scope) -> list[str]:
    """Remove networks and ACLs of this scope that nothing uses; their names.

    Two calls, and one for each removal. What another coi makes or is about to use is left.
    """
    networks, acls = Networks(client), NetworkAcls(client)
    removed = set(
        _sweep_networks(networks.all(), scope, lambda name: _removed(scope, name, networks.delete))
    )
    gone = {
        acl.name
        for acl in acls.all()
        if _idle_acl(acl, scope, ()) and _removed(scope, acl.name, acls.delete)
    }
    duty.forget(scope.directory, gone)
    with suppress(OSError):
        for name in gone:
            attachment.record_path(scope, name).unlink(missing_ok=True)
    return sorted(removed | gone)


def _sweep_networks(
    rows: list[Network], scope: Scope, remove: Callable[[str], bool]
) -> Iterator[str]:
    """Remove what nothing uses; a resolver of names once the bridge that asks it has gone."""
    there = {row.name for row in rows}
    for row in sorted(rows, key=lambda row: row.name):  # coi-x before coi-x-n
        asking = asked_by(row.name)
        idle = row.managed and not row.used_by and _swept(row.config, scope)
        if idle and asking not in there and remove(row.name):
            there.discard(row.name)
            yield row.name


def _idle_acl(acl: NetworkAcl, scope: Scope, going: Collection[str]) -> bool:
    """Whether nothing uses it but networks that go."""
    used = [use for use in acl.used_by if use[0] != "networks" or use[1] not in going]
    return not used and _swept(acl.config, scope)


def _swept(config: Mapping[str, str], scope: Scope) -> bool:
    wanted = {"owner": str(scope.owner), "prefix": scope.prefix, "locks": scope.place}
    return all(config.get(CONFIG_PREFIX + key) == value for key, value in wanted.items())


def _removed(scope: Scope, name: str, delete: Callable[[str], None]) -> bool:
    """Delete it, unless a coi has it in hand or something uses it by now."""
    with ExitStack() as stack:
        try:
            of = asked_by(name) or name
            for kind in ("make", "use"):
                stack.enter_context(locked(lock_path(scope, of, kind), timeout=0.0))
            delete(name)
        except (Busy, IncusError, MissingError):
            return False
        return True
