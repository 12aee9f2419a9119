"""Network ACLs: the model and the operations.

Shapes: https://linuxcontainers.org/incus/docs/main/rest-api-spec/ ; lists and maps may
be null. Rules are kept as the daemon has them: fields without a value are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from coi.incus.client import Client, keys, listed, named, shaped
from coi.incus.errors import MissingError
from coi.incus.urls import Use, segment, uses
from coi.records import record

Rules = Mapping[str, Sequence[Mapping[str, str]]]
"""``egress`` and ``ingress``."""


@record(frozen=True)
class NetworkAcl:
    """A network ACL.

    Attributes:
        used_by: networks, instances and profiles that it is attached to.
    """

    name: str
    config: Mapping[str, str] = field(default_factory=dict)
    egress: tuple[Mapping[str, str], ...] = ()
    ingress: tuple[Mapping[str, str], ...] = ()
    used_by: tuple[Use, ...] = ()

    @property
    def rules(self) -> Rules:
        """Both directions."""
        return {"egress": list(self.egress), "ingress": list(self.ingress)}

    @classmethod
    @shaped
    def parse(cls, data: Mapping[str, Any]) -> NetworkAcl:
        """From ``GET /1.0/network-acls/<name>``."""
        return cls(
            name=named(data["name"]),
            config=keys(data.get("config")),
            egress=tuple(listed(keys, data.get("egress"))),
            ingress=tuple(listed(keys, data.get("ingress"))),
            used_by=uses(data.get("used_by")),
        )


class NetworkAcls:
    """Operations on the network ACLs that one project of a server sees, one call each."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def all(self) -> list[NetworkAcl]:
        """All of them."""
        rows = self.client.query(
            "GET", "/1.0/network-acls", params={"recursion": "1"}, action="list network ACLs"
        )
        return listed(NetworkAcl.parse, rows)

    def find(self, name: str) -> NetworkAcl | None:
        """One ACL, or None."""
        try:
            row = self.client.query("GET", _path(name), action=f"find network ACL {name}")
        except MissingError:
            return None
        return NetworkAcl.parse(row)

    def create(self, name: str, config: Mapping[str, str], rules: Rules) -> None:
        """``POST /1.0/network-acls``.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        body = {"name": name, "config": dict(config), **rules}
        self.client.query(
            "POST", "/1.0/network-acls", body=body, action=f"create network ACL {name}"
        )

    def replace(self, name: str, config: Mapping[str, str], rules: Rules) -> None:
        """``PUT``: configuration and rules are these; also where it is attached, at once.

        Raises:
            MissingError: there is none.
        """
        body = {"config": dict(config), **rules}
        self.client.query("PUT", _path(name), body=body, action=f"change network ACL {name}")

    def delete(self, name: str) -> None:
        """Delete an ACL that is attached to nothing.

        Raises:
            MissingError: there is none.
        """
        self.client.query("DELETE", _path(name), action=f"delete network ACL {name}")


def _path(name: str) -> str:
    return f"/1.0/network-acls/{segment(name)}"
