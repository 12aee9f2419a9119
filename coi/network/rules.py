"""A policy's rules as a backend needs them, and an ACL that has them.

The facade and the three backends share this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from coi.errors import CoiError, RefusedError
from coi.incus.acls import NetworkAcls
from coi.incus.client import Client
from coi.incus.errors import AlreadyExistsError, PermissionDeniedError
from coi.incus.shield import shielded
from coi.network.addresses import RangeSet
from coi.network.attachment import Attachment, Backend, digest, same_tags
from coi.network.names import raw_dnsmasq
from coi.network.policy import DNS_PORT, Policy, Surroundings, compile_acl

ALTERNATIVES = (
    "ask for an OVN network in the profile, where nothing needs to be made but an ACL; "
    "or network.backend = 'nic', where the kernel can; or do without: --network open"
)


def rules(policy: Policy, around: Surroundings, backend: Backend) -> dict[str, Any]:
    """``egress`` and ``ingress`` of the ACL.

    An allowlist on OVN gets one more kind of rule. Incus lets every NIC on an OVN network
    ask the resolvers that the network hands out, below the rules of ACLs (priority 200,
    a reject of an ACL has 400; measured), and a resolver that forwards is a way out.
    """
    made: dict[str, Any] = compile_acl(policy, around).as_json()
    if backend == "ovn" and policy.mode == "allowlist" and around.nameservers:
        servers = RangeSet.of(*around.nameservers).text()
        made["egress"] += [
            {
                "action": "reject",
                "state": "enabled",
                "destination": servers,
                "protocol": protocol,
                "destination_port": str(DNS_PORT),
                "description": "no name server",
            }
            for protocol in ("tcp", "udp")
        ]
    return made


def sealed(made: Attachment, policy: Policy, seen: Surroundings) -> Attachment:
    """With the digests of the rules and names that are right now."""
    names = raw_dnsmasq(policy, seen) if made.backend == "bridge" else ""
    now = digest([rules(policy, seen, made.backend), names])
    return replace(made, rules=now, names=digest(names))


def around(
    made: Attachment,
    host: frozenset[IPv4Address],
    answers: Mapping[str, tuple[IPv4Address, ...]],
) -> Surroundings:
    """What the policy meets where it is attached."""
    return Surroundings(host, made.gateway, made.nameservers, answers)


def hold_acl(
    client: Client,
    name: str,
    tags: Mapping[str, str],
    wanted: Mapping[str, Any],
    *,
    new: bool = False,
) -> bool:
    """See to an ACL of these rules, one or two calls; whether it was made now.

    Args:
        new: it is not expected to be there: one call less where it is not.

    Raises:
        RefusedError: the name is another's.
    """
    acls = NetworkAcls(client)
    for attempt in range(3):
        found = None if new and not attempt else acls.find(name)
        if found is not None:
            if not same_tags(found.config, tags):
                raise foreign("network ACL", name)
            if found.rules != wanted:
                acls.replace(name, found.config, wanted)
            return False
        try:
            acls.create(name, tags, wanted)
        except AlreadyExistsError:
            continue
        except BaseException:  # it may be there: an answer can be lost, a signal come
            with shielded():
                drop_acl(client, name)
            raise
        return True
    raise CoiError(f"cannot make network ACL {name}", details="it comes and goes")


def drop_acl(client: Client, name: str) -> None:
    """Take back an ACL that was made; it stays where it is in use."""
    with suppress(CoiError):
        NetworkAcls(client).delete(name)


def logged(policy: Policy) -> dict[str, str]:
    """Keys of a network or NIC that have what is rejected logged."""
    if not policy.logged:
        return {}
    return {f"security.acls.default.{way}.logged": "true" for way in ("egress", "ingress")}


def foreign(kind: str, name: str) -> RefusedError:
    """The error for something of ours that is not."""
    return RefusedError(
        f"cannot enforce the network policy: {kind} {name} is not coi's",
        details="Its user.coi.* keys are not those of this policy, user and prefix.",
        hint="look at it (incus network list, incus network acl list), and rename or delete it",
    )


def refusal(error: CoiError, what: str) -> CoiError:
    """``error``, as a refusal where Incus does not let this user do it."""
    text = error.details.lower()
    if isinstance(error, PermissionDeniedError) and ("unix" in text or "needed perm" in text):
        return error  # not about this: Incus is not open to the user at all
    if isinstance(error, PermissionDeniedError) or any(word in text for word in _NOT_ALLOWED):
        return RefusedError(
            f"cannot enforce the network policy: not allowed to {what}",
            details=error.details,
            hint=ALTERNATIVES,
        )
    return error


_NOT_ALLOWED: Iterable[str] = (
    "does not support non-default projects",
    "not allowed in project",
    "not authorized",
    "forbidden",
)
