"""Profiles: the model and how to find one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from coi.incus.client import Client, devices, keys, named, shaped
from coi.incus.errors import MissingError
from coi.incus.urls import segment
from coi.records import record


@record(frozen=True)
class Profile:
    """A profile: what its instances get unless they say otherwise."""

    name: str
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    @shaped
    def parse(cls, data: Mapping[str, Any]) -> Profile:
        """From ``GET /1.0/profiles/<name>``."""
        return cls(named(data["name"]), keys(data.get("config")), devices(data.get("devices")))


class Profiles:
    """Operations on the profiles of one server and project."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def find(self, name: str) -> Profile | None:
        """One profile, or None."""
        try:
            row = self.client.query(
                "GET", f"/1.0/profiles/{segment(name)}", action=f"find profile {name}"
            )
        except MissingError:
            return None
        return Profile.parse(row)
