"""Where it is measured: the machine, Incus, the pool, the image, coi."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path

from coi import __version__
from coi.testing.machine import incus, query


def about(pool: str, image: str) -> dict[str, str | int | float]:
    """Facts that a number means nothing without.

    Args:
        pool: the storage pool's name.
        image: an image's alias.
    """
    server = query("/1.0")["environment"]
    found = query(f"/1.0/storage-pools/{pool}")
    target = query(f"/1.0/images/aliases/{image}")["target"]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "coi": __version__,
        "python": platform.python_version(),
        "incus_server": server["server_version"],
        "incus_client": incus("--version").ok().out.strip(),
        "kernel": server["kernel_version"],
        "system": f"{server.get('os_name', '')} {server.get('os_version', '')}".strip(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "pool": pool,
        "driver": found["driver"],
        "image": image,
        "image_mib": query(f"/1.0/images/{target}")["size"] >> 20,
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    """The processor's name as the kernel has it, or the architecture."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
