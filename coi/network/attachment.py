"""How a session is attached to its policy, and the records of it on disk::

attached-<acl>.json    an attachment, as it was last known to be right
chosen-<key>           the ACL that a policy got, for the backend that was asked for
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal, cast, get_args

from coi.digest import sha256
from coi.errors import CoiError
from coi.files import make_private, read_private, replace_file
from coi.incus.instances import CONFIG_PREFIX
from coi.network.choice import NIC
from coi.network.policy import Policy
from coi.records import record, text_map, texts, typed

FORMAT = 2
MAX_SIZE = 1 << 16  # bytes of a record
_ACL = re.compile(r"coi-[0-9a-f]{8}")
_TEXTS = ("network", "acl", "policy", "mode", "rules", "names", "profile")

Backend = Literal["bridge", "ovn", "nic"]


@record(frozen=True)
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


@record(frozen=True)
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
        masked: NICs of the profile that an instance does not get.
        profile: digest of the profile's NICs, when they were last read.
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
    masked: tuple[str, ...] = ()
    profile: str = ""

    @property
    def devices(self) -> dict[str, dict[str, str]]:
        """Of an instance: the NIC, and none of the profile's others."""
        return {NIC: dict(self.device), **{name: {"type": "none"} for name in self.masked}}


def digest(value: object) -> str:
    """Of anything that JSON knows."""
    return _digest(json.dumps(value, sort_keys=True))


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()


def record_path(scope: Scope, acl: str) -> Path:
    """The file of what an ACL is part of."""
    return scope.directory / f"attached-{acl}.json"


def choice_path(scope: Scope, policy: Policy, wanted: str, profile: str) -> Path:
    """The file that names a policy's ACL.

    Args:
        wanted: the backend that was asked for.
        profile: of the instances.
    """
    parts = (policy.hash, scope.prefix, str(scope.owner), wanted, profile)
    return scope.directory / f"chosen-{_digest(*parts)[:32]}"


def chosen(path: Path) -> str:
    """The ACL that a choice names; '' where there is none."""
    text = (read_private(path, 100) or b"").decode("ascii", "replace").strip()
    return text if _ACL.fullmatch(text) else ""


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
    typed(row, **dict.fromkeys((*_TEXTS, "gateway"), str))
    return Attachment(
        cast(Backend, row["backend"]),
        device=text_map(row["device"]),
        gateway=IPv4Address(row["gateway"]) if row["gateway"] else None,
        nameservers=tuple(map(IPv4Address, texts(row["nameservers"]))),
        masked=texts(row["masked"]),
        **{key: row[key] for key in _TEXTS},
    )


def save(path: Path, made: Attachment) -> None:
    """Write a record.

    Raises:
        CoiError: the disk refused.
    """
    row = {
        "format": FORMAT,
        "backend": made.backend,
        **{key: getattr(made, key) for key in _TEXTS},
        "device": dict(made.device),
        "gateway": str(made.gateway or ""),
        "nameservers": [str(server) for server in made.nameservers],
        "masked": list(made.masked),
    }
    write(path, json.dumps(row, indent=2, sort_keys=True) + "\n")


def write(path: Path, text: str) -> None:
    """Write one of the files.

    Raises:
        CoiError: the disk refused.
    """
    try:
        make_private(path.parent)
        replace_file(path, text.encode())
    except OSError as error:
        raise CoiError("cannot record the network", details=str(error)) from error
