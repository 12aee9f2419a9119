"""Security fixes of Incus that bear on what coi does, and the releases that have them.

Each is from its CVE record, https://www.cve.org/CVERecord?id=..., and the advisory of
https://github.com/lxc/incus/security/advisories that the record names; the releases of
CVE-2025-64507, CVE-2026-23953 and CVE-2026-23954 on the 6.0 branch are also in the notes of
6.0.6. Left out are those that need what coi does not use (S3 buckets, virtual machines'
disks, OIDC). A distribution may have put a fix under an older number (Debian's 6.0.4 has
several): a number says what is missing upstream, and no more.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Version = tuple[int, int, int]


class Advisory(NamedTuple):
    """A fix.

    Attributes:
        cve: its number.
        fixed: the first release of each branch that has it; the last one counts for all after.
        what: an attacker can.
    """

    cve: str
    fixed: tuple[Version, ...]
    what: str

    @property
    def source(self) -> str:
        return f"https://www.cve.org/CVERecord?id={self.cve}"

    def missing(self, version: Version) -> bool:
        """Whether a release lacks it."""
        if version >= self.fixed[-1]:
            return False
        return not any(version[:2] == first[:2] and version >= first for first in self.fixed)


ADVISORIES: tuple[Advisory, ...] = (
    Advisory(
        "CVE-2025-64507", ((6, 0, 6), (6, 19, 0)), "root of a container, by a shared custom volume"
    ),
    Advisory("CVE-2026-23953", ((6, 0, 6), (6, 21, 0)), "whoever may launch a container"),
    Advisory("CVE-2026-23954", ((6, 0, 6), (6, 21, 0)), "an image, by its templates"),
    Advisory("CVE-2026-33897", ((6, 23, 0),), "an image, by its templates"),
    Advisory("CVE-2026-33945", ((6, 23, 0),), "whoever may set an instance's options"),
    Advisory("CVE-2026-48749", ((7, 2, 0),), "an image, by a link at rootfs"),
    Advisory("CVE-2026-48750", ((7, 2, 0),), "an image, by a link at exec-output"),
    Advisory("CVE-2026-48752", ((7, 2, 0),), "an image, by a link at templates"),
    Advisory("CVE-2026-48769", ((7, 2, 0),), "an image server, on the client's host"),
    Advisory("CVE-2026-63125", ((7, 3, 0),), "an image, by a link at backup.yaml"),
    Advisory("CVE-2026-63343", ((7, 3, 0),), "an image, by a link at metadata.yaml"),
    Advisory("CVE-2026-115377", ((6, 0, 7), (7, 0, 2), (7, 5, 0)), "the source of a migration"),
    Advisory("CVE-2026-130774", ((7, 6, 0),), "root of a container that was rebuilt"),
    Advisory("CVE-2026-130786", ((7, 6, 0),), "an OCI image, by its configuration"),
)
LAST = "November 2026"  # when the table was last brought up to date


def parse(text: str) -> Version | None:
    """The three numbers of a release, ``6.0.4`` or ``6.21``; None where it has none."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?!\d)", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def missing(version: Version) -> list[Advisory]:
    """The fixes that a release lacks by its number."""
    return [advisory for advisory in ADVISORIES if advisory.missing(version)]
