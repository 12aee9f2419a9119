"""Networks: the model and the operations.

Shapes: https://linuxcontainers.org/incus/docs/main/rest-api-spec/ ; ``config`` and
``used_by`` may be null. Projects without networks of their own see the default one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from coi.incus.client import Client, Pending, keys, listed, named, shaped, text
from coi.incus.errors import IncusError, MissingError
from coi.incus.urls import Use, segment, uses
from coi.records import record

TRIPPED = "Failed to delete bridge children interfaces"
"""Part of what a deletion, a change, or the roll-back of a failed creation says when an
interface of any instance goes away while the daemon looks at all of them (3 of 40 measured)."""

_ATTEMPTS = 3
_LISTING: dict[str, Any] = {"params": {"recursion": "1"}, "action": "list networks"}
CREATE_TIMEOUT = 60.0  # seconds; 0.65 measured


@record(frozen=True)
class Network:
    """A network, or with ``managed`` false an interface of the server.

    Attributes:
        type: ``bridge``, ``ovn``, ``physical``, ...
        status: ``Created`` when it can be used; '' where it is not managed.
        used_by: instances, profiles, networks that use it.
    """

    name: str
    type: str = "bridge"
    managed: bool = True
    status: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    used_by: tuple[Use, ...] = ()

    @classmethod
    @shaped
    def parse(cls, data: Mapping[str, Any]) -> Network:
        """From ``GET /1.0/networks/<name>``."""
        return cls(
            name=named(data["name"]),
            type=text(data.get("type")),
            managed=bool(data.get("managed")),
            status=text(data.get("status")),
            config=keys(data.get("config")),
            used_by=uses(data.get("used_by")),
        )


class Networks:
    """Operations on the networks that one project of a server sees, one call each."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def all(self) -> list[Network]:
        """All networks, the server's unmanaged interfaces among them."""
        return parsed(self.client.query("GET", "/1.0/networks", **_LISTING))

    def start_all(self) -> Pending:
        """Begin :meth:`all` and return at once; :func:`parsed` reads its result."""
        return self.client.begin("GET", "/1.0/networks", **_LISTING)

    def find(self, name: str) -> Network | None:
        """One network or interface, or None."""
        try:
            row = self.client.query("GET", _path(name), action=f"find network {name}")
        except MissingError:
            return None
        return Network.parse(row)

    def forwards(self, name: str) -> dict[str, str]:
        """Network forwards: listen address to target address, '' where only ports have one."""
        rows = self.client.query(
            "GET",
            f"{_path(name)}/forwards",
            params={"recursion": "1"},
            action=f"list forwards of network {name}",
        )
        return dict(listed(_forward, rows))

    def create(self, body: Mapping[str, Any]) -> None:
        """``POST /1.0/networks``; the daemon leaves nothing of one that fails.

        Raises:
            AlreadyExistsError: the name is a network's or an interface's.
        """
        self.start_create(body).result()

    def start_create(self, body: Mapping[str, Any]) -> Pending:
        """Begin :meth:`create` and return at once.

        The daemon makes one network after the other, most of the time waiting for its
        dnsmasq (measured: 0.64 s, 1.25 s for two at once, 0.11 s without DHCP and with it
        without a dnsmasq).
        """
        return self.client.begin(
            "POST",
            "/1.0/networks",
            body=body,
            timeout=CREATE_TIMEOUT,
            action=f"create network {body.get('name')}",
        )

    def update(self, name: str, config: Mapping[str, str]) -> None:
        """``PATCH``: set these keys, keep the others."""
        self._change("PATCH", name, config)

    def replace(self, name: str, config: Mapping[str, str]) -> None:
        """``PUT``: the configuration is this, whole."""
        self._change("PUT", name, config)

    def _change(self, method: str, name: str, config: Mapping[str, str]) -> None:
        self._insist(method, name, f"change network {name}", {"config": dict(config)})

    def delete(self, name: str) -> None:
        """Delete a network that nothing uses.

        Raises:
            MissingError: there is none.
        """
        self._insist("DELETE", name, f"delete network {name}")

    def _insist(
        self, method: str, name: str, action: str, body: Mapping[str, Any] | None = None
    ) -> None:
        """A request that is made again where the daemon tripped (:data:`TRIPPED`)."""
        for attempt in range(_ATTEMPTS):
            try:
                self.client.query(method, _path(name), body=body, action=action)
            except IncusError as error:
                if TRIPPED not in error.details or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return


def parsed(rows: Sequence[Mapping[str, Any]] | None) -> list[Network]:
    """The answer to :meth:`Networks.start_all`."""
    return listed(Network.parse, rows)


@shaped
def _forward(row: Mapping[str, Any]) -> tuple[str, str]:
    return named(row["listen_address"]), keys(row.get("config")).get("target_address", "")


def _path(name: str) -> str:
    return f"/1.0/networks/{segment(name)}"
