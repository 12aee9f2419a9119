"""Warm instances, as a test looks at them."""

from __future__ import annotations

from typing import Any

from coi.testing.host import Host
from coi.testing.machine import query, wait_for


def size(host: Host, number: int, more: str = "", *, network: str = "open") -> None:
    """How many are to stand ready in a world."""
    host.config(
        f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n'
        f"[warm]\nsize = {number}\n{more}",
        network=network,
    )


def rows(host: Host) -> list[dict[str, Any]]:
    """The instances of a world that are warm, in whatever state."""
    found = query("/1.0/instances?recursion=1") or []
    return [
        row
        for row in found
        if row["name"].startswith(host.prefix) and row["config"].get("user.coi.state") == "warm"
    ]


def pool_of(host: Host) -> list[str]:
    """Their names."""
    return sorted(row["name"] for row in rows(host))


def ready(host: Host, number: int, timeout: float = 120) -> list[str]:
    """Wait until so many are whole, and the daemon is done; their names."""

    def there() -> bool:
        whole = [r for r in rows(host) if r["config"].get("volatile.apply_template") == "create"]
        return len(whole) == number and not host.under_way()

    wait_for(there, timeout=timeout, what=lambda: f"{number} warm ones: {host.instances()}")
    return pool_of(host)
