"""Storage pools: the model and how to look at one.

Shapes: https://linuxcontainers.org/incus/docs/main/rest-api-spec/ ; ``config`` may be null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from coi.incus.client import Client, keys, named, shaped, text
from coi.incus.errors import MissingError
from coi.incus.urls import segment
from coi.records import record


@record(frozen=True)
class Pool:
    """A storage pool.

    Attributes:
        driver: ``btrfs``, ``dir``, ``zfs``, ``lvm``, ...
        status: ``Created`` when it can be used.
    """

    name: str
    driver: str
    status: str = ""
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def quotas(self) -> bool:
        """Whether a root disk on it can be limited (Incus documentation, "Storage drivers")."""
        return self.driver != "dir"

    @property
    def copies(self) -> bool:
        """Whether a container made on it is a copy of the whole image, for want of
        copy-on-write (Incus documentation, "Storage drivers": optimized image storage)."""
        if self.driver == "lvm":
            return self.config.get("lvm.use_thinpool") == "false"
        return self.driver in ("dir", "lvmcluster")

    @classmethod
    @shaped
    def parse(cls, data: Mapping[str, Any]) -> Pool:
        """From ``GET /1.0/storage-pools/<name>``."""
        return cls(
            named(data["name"]),
            named(data["driver"]),
            text(data.get("status")),
            keys(data.get("config")),
        )


class Pools:
    """Looking at the storage pools of one server."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def find(self, name: str) -> Pool | None:
        """One pool, or None."""
        try:
            row = self.client.query(
                "GET", f"/1.0/storage-pools/{segment(name)}", action=f"find storage pool {name}"
            )
        except MissingError:
            return None
        return Pool.parse(row)
