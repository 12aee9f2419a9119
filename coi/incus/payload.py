"""Whether anything runs in a container of this host, told by its control group.

The daemon says that a container has stopped when all of it is taken down (2 s on a busy host);
its processes are dead long before (0.1 s, both measured). LXC makes one control group for them,
``lxc.payload.NAME``, and removes it when they are gone (lxc.container.conf(5),
"lxc.cgroup.dir.container").
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

ROOTS = tuple(Path("/sys/fs/cgroup", part) for part in ("", "unified", "pids", "systemd"))
_POLL = 0.01  # seconds


class Payload:
    """The control groups of a container, as they are now: make it while the container runs.

    Args:
        name: of the instance.
        project: of Incus.
        roots: where control groups are.
    """

    def __init__(self, name: str, project: str, roots: Sequence[Path] = ROOTS) -> None:
        group = name if project == "default" else f"{project}_{name}"
        places = (root / f"lxc.payload.{group}" for root in roots)
        self._places = [place for place in places if place.is_dir()]

    @property
    def known(self) -> bool:
        """Whether the control groups are seen from here."""
        return bool(self._places)

    def wait_gone(self, timeout: float) -> bool:
        """Wait until nothing runs any more.

        Args:
            timeout: seconds.

        Returns:
            False where it is not known that nothing does.
        """
        deadline = time.monotonic() + timeout
        while self.known and any(place.is_dir() for place in self._places):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return self.known
