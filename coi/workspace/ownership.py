"""Whose files they are: the user inside has the uid of whoever runs coi.

With an idmapped mount (``shift=true``) uid N inside is uid N on disk
(Incus, "Disk device options"; measured on 6.0.4). Where such mounts are off
(virtiofs of Colima and Lima, or ``disable_shift``), ``raw.idmap`` maps that
one uid and gid through instead; the host must allow it in /etc/subuid and
/etc/subgid. Host root is root inside, and never mapped to anybody.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable
from pathlib import Path

from coi.errors import CoiError, RefusedError
from coi.records import record

_VM_FILESYSTEMS = frozenset({"virtiofs", "9p", "fuse.sshfs"})
_OCTAL = re.compile(r"\\([0-7]{3})")  # proc_pid_mounts(5): white space, # and backslashes
_DIGITS = re.compile(r"[0-9]{1,18}")


@record(frozen=True)
class SessionUser:
    """The user that a session's processes run as, inside."""

    name: str
    uid: int
    gid: int
    home: str

    @property
    def root(self) -> bool:
        return self.uid == 0


def session_user(name: str, *, uid: int | None = None) -> SessionUser:
    """The user inside for whoever runs coi.

    Args:
        name: ``[incus] code_user``.
        uid: ``[incus] code_uid`` where the configuration fixes it.
    """
    uid = os.getuid() if uid is None else uid
    if uid == 0:
        return SessionUser("root", 0, 0, "/root")
    return SessionUser(name, uid, os.getgid() or uid, f"/home/{name}")


def uses_shift(
    source: Path,
    *,
    disabled: bool | None,
    mounts: Path = Path("/proc/mounts"),
    users: Iterable[str] | None = None,
) -> bool:
    """Whether the workspace is mounted with ``shift=true``.

    Args:
        source: the workspace, links resolved.
        disabled: ``[incus] disable_shift``; None detects.
        mounts: the mount table to read.
        users: the host's user names, default from the password database.
    """
    if disabled is not None:
        return not disabled
    table = _filesystems(mounts)
    under = max((m for m in table if source.is_relative_to(m)), key=lambda m: len(m.parts))
    if table[under] in _VM_FILESYSTEMS:
        return False
    if "virtiofs" in table.values():
        names = users if users is not None else (user.pw_name for user in pwd.getpwall())
        return "lima" not in names
    return True


def _filesystems(mounts: Path) -> dict[Path, str]:
    """Mount point -> file system type; the last mount on a point counts."""
    table = {Path("/"): "unknown"}
    try:
        lines = mounts.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError:
        return table
    for line in lines:
        fields = line.split(" ")
        if len(fields) >= 3:
            point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[1])
            table[Path(point)] = fields[2]
    return table


def idmap(user: SessionUser, *, subids: tuple[Path, Path] | None = None) -> str:
    """``raw.idmap`` that carries one uid and gid through, for mounts without shift.

    Raises:
        RefusedError: for root: mapping host root into a container gives it away.
        CoiError: /etc/subuid or /etc/subgid does not allow the mapping.
    """
    if user.root:
        raise RefusedError(
            "root needs idmapped mounts",
            details="with shift off, host root would have to be mapped into the container",
            hint="run coi as an ordinary user, or remove disable_shift",
        )
    uid_file, gid_file = subids or (Path("/etc/subuid"), Path("/etc/subgid"))
    for path, number in ((uid_file, user.uid), (gid_file, user.gid)):
        if not _allowed(path, number):
            raise CoiError(
                f"{path} does not let Incus map id {number}",
                details="idmapped mounts are off (disable_shift, Colima or Lima), so the "
                "workspace's owner is mapped through raw.idmap",
                hint=f"echo root:{number}:1 | sudo tee -a {path}",
            )
    return f"uid {user.uid} {user.uid}\ngid {user.gid} {user.gid}"


def _allowed(path: Path, number: int) -> bool:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return True  # not ours to read: let the daemon say
    for line in lines:
        owner, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if (
            owner in ("root", "0")
            and _DIGITS.fullmatch(first)
            and _DIGITS.fullmatch(count)
            and int(first) <= number < int(first) + int(count)
        ):
            return True
    return False
