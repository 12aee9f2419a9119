"""How a session is attached to its policy, and the record of it on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal, cast, get_args

from coi.errors import CoiError
from coi.files import make_private, read_private, replace_file
from coi.incus.instances import CONFIG_PREFIX
from coi.network.policy import Policy

FORMAT = 1
MAX_SIZE = 1 << 16  # bytes of a record

Backend = Literal["bridge", "ovn", "nic"]


@dataclass(frozen=True)
class Scope:
    """Whose networks: one coi home of one user on one host.

    Attributes:
        prefix: of the instances.
        owner: uid.
        directory: ``<coi home>/network``: records and locks.
        place: names that directory on this host and on no other.
    """

    prefix: str
    owner: int
    directory: Path
    place: str

    def name(self, policy: Policy, backend: Backend, parent: str = "") -> str:
        """Of the ACL, and of the network: 12 characters, interfaces have at most 15.

        Too short to say whose it is: the tags do, and what has the name without them is
        another's.

        Args:
            parent: the network that the NIC is on, where it is not one of ours.
        """
        return f"coi-{_digest(policy.hash, self.prefix, str(self.owner), backend, parent)[:8]}"

    def tags(self, policy: Policy, backend: Backend) -> dict[str, str]:
        """Configuration keys of whatever is made."""
        values = {
            "policy": policy.hash,
            "mode": policy.mode,
            "owner": str(self.owner),
            "prefix": self.prefix,
            "backend": backend,
            "locks": self.place,
        }
        return {CONFIG_PREFIX + key: value for key, value in values.items()}


def same_tags(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether something is ours; another coi home of the same user counts."""
    keys = ("policy", "owner", "prefix", "backend")
    return all(found.get(CONFIG_PREFIX + k) == wanted[CONFIG_PREFIX + k] for k in keys)


@dataclass(frozen=True)
class Attachment:
    """A policy that stands in Incus, and the device that puts an instance under it.

    Attributes:
        network: that the NIC is on.
        policy: its hash.
        device: for ``devices["eth0"]``.
        gateway: where the host's connections into the session come from.
        nameservers: resolvers that the network hands out, where they are not the gateway.
        rules: digest of the ACL's rules and of the network's names, when last known good.
        names: digest of the names alone.
    """

    backend: Backend
    network: str
    acl: str
    policy: str
    mode: str
    device: Mapping[str, str]
    gateway: IPv4Address | None = None
    nameservers: tuple[IPv4Address, ...] = ()
    rules: str = ""
    names: str = ""


def digest(value: object) -> str:
    """Of anything that JSON knows."""
    return _digest(json.dumps(value, sort_keys=True))


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()


def record_path(scope: Scope, policy: Policy, wanted: str) -> Path:
    """The file of the record for a policy and the backend that was asked for."""
    key = _digest(policy.hash, scope.prefix, str(scope.owner), wanted)[:32]
    return scope.directory / f"attached-{key}.json"


def load(path: Path) -> Attachment | None:
    """A record; None where there is none, or none that can be used."""
    data = read_private(path, MAX_SIZE)
    try:
        return _parse(json.loads(data or b""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _parse(row: Any) -> Attachment | None:
    if row["format"] != FORMAT or row["backend"] not in get_args(Backend):
        return None
    texts = {key: str(row[key]) for key in ("network", "acl", "policy", "mode", "rules", "names")}
    return Attachment(
        cast(Backend, row["backend"]),
        device={str(key): str(value) for key, value in row["device"].items()},
        gateway=IPv4Address(str(row["gateway"])) if row["gateway"] else None,
        nameservers=tuple(IPv4Address(str(text)) for text in row["nameservers"]),
        **texts,
    )


def save(path: Path, made: Attachment) -> None:
    """Write a record.

    Raises:
        CoiError: the disk refused.
    """
    row = {
        "format": FORMAT,
        "backend": made.backend,
        "network": made.network,
        "acl": made.acl,
        "policy": made.policy,
        "mode": made.mode,
        "device": dict(made.device),
        "gateway": str(made.gateway or ""),
        "nameservers": [str(server) for server in made.nameservers],
        "rules": made.rules,
        "names": made.names,
    }
    try:
        make_private(path.parent)
        replace_file(path, (json.dumps(row, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise CoiError("cannot record the network", details=str(error)) from error
