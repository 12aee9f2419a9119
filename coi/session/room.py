"""What all containers of a host share of its kernel, and what a start says that found none left."""

from __future__ import annotations

from pathlib import Path

from coi.errors import CoiError

# What is enough, and what one container takes of it (systemd of Debian 12, measured: of 128
# inotify instances 17 containers found enough, and systemd ended in the eighteenth). Incus,
# "Server settings for a production setup", has 1048576 and 2000.
SHARED = {"fs.inotify.max_user_instances": (1024, 8), "kernel.keys.maxkeys": (1000, 6)}
_KILLED = 137  # exit code of what was running when its container ended
_MOST = 18  # digits


_PROC = Path("/proc/sys")


def kernel_limit(key: str, root: Path = _PROC) -> int | None:
    """A number of /proc/sys, None where it cannot be read.

    Args:
        key: as sysctl(8) has it.
    """
    try:
        text = root.joinpath(*key.split(".")).read_text().strip()
    except (OSError, ValueError):
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST else None


def lacking() -> dict[str, int]:
    """The settings that are lower than what is enough, and what they are."""
    found = {key: kernel_limit(key) for key in SHARED}
    return {key: n for key, n in found.items() if n is not None and n < SHARED[key][0]}


def most(found: dict[str, int]) -> int:
    """How many containers such settings have room for."""
    return min(value // SHARED[key][1] for key, value in found.items())


def stopped(name: str, code: int, text: str) -> CoiError | None:
    """The error for an instance that ended as it started, None where that is not what happened.

    Args:
        code: of the exec that was to begin in it.
        text: what the client said.
    """
    if code != _KILLED and "not running" not in text:
        return None
    few = lacking()
    if few:
        which = ", ".join(f"{key} is {value}" for key, value in few.items())
        return CoiError(
            f"{name} stopped as it started",
            details=f"The kernel has room for some {most(few)} containers: {which}.",
            hint="coi doctor tells how to raise that; coi list shows what runs",
        )
    return CoiError(
        f"{name} stopped as it started",
        details=text,
        hint="coi doctor; the host may be out of memory or processes",
    )
