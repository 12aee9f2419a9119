"""A Debian base image out of the distribution's mirror, with mmdebstrap.

Used where no image server can be reached, and with ``--base debian:SUITE``.
The base is kept under an alias of its own; its property ``coi.base.recipe``
tells whether it is still what would be built now.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from coi.errors import CoiError, UnavailableError, UsageError
from coi.image.host import HostSettings
from coi.incus.images import Image, Images
from coi.incus.process import Process, Runner

DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
VERSION = 1  # raise when a base that exists must be made again

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "systemd-resolved",  # a package of its own from Debian 12 on
    "udev",  # without it networkd leaves eth0 pending
    "dbus",
    "sudo",
    "locales",
    "ca-certificates",
    "iproute2",
    "netbase",
    "procps",
    "libnss-myhostname",
)

# Runs on the host with the new root as $1, as root or as mapped root. What
# only a base needs; everything else is a step of the recipe, for any base.
CUSTOMIZE = r"""
set -eu
cat > "$1/etc/systemd/network/80-coi-dhcp.network" <<'END'
[Match]
Name=eth*

[Network]
DHCP=yes
LinkLocalAddressing=ipv6
IPv6AcceptRA=yes

[DHCPv4]
ClientIdentifier=mac
UseDomains=true
SendRelease=false
UseHostname=false
END
mkdir -p "$1/etc/systemd/system/multi-user.target.wants" \
    "$1/etc/systemd/system/sockets.target.wants"
ln -sf /lib/systemd/system/systemd-networkd.service \
    "$1/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
ln -sf /lib/systemd/system/systemd-networkd.socket \
    "$1/etc/systemd/system/sockets.target.wants/systemd-networkd.socket"
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
rm -f "$1/etc/hostname"
: > "$1/etc/machine-id"
"""

_SUITE = re.compile(r"[a-z][a-z0-9.+-]*")
_TEMPLATES = {
    "hostname.tpl": "{{ container.name }}\n",
    "hosts.tpl": (
        "127.0.0.1\tlocalhost\n127.0.1.1\t{{ container.name }}\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    ),
}


@dataclass(frozen=True)
class DebianBase:
    """What determines a base.

    Attributes:
        suite: ``bookworm``, ``trixie``, ...
        mirror: base URL of the archive.
        security: base URL of the security archive, '' for none.
        architecture: as the kernel names it.
        apt: apt.conf lines needed to use the mirror.
    """

    suite: str
    mirror: str
    security: str
    architecture: str
    apt: tuple[str, ...] = ()

    @property
    def alias(self) -> str:
        return f"coi-base-debian-{self.suite}"

    @property
    def digest(self) -> str:
        """sha256 over everything that makes the base what it is."""
        inputs = [VERSION, self.sources, self.architecture, self.apt, PACKAGES, CUSTOMIZE]
        return hashlib.sha256(json.dumps([*inputs, _TEMPLATES]).encode()).hexdigest()

    @property
    def sources(self) -> tuple[str, ...]:
        """The lines of sources.list."""
        lines = [f"deb {self.mirror} {self.suite} main"]
        if self.suite not in ("sid", "unstable", "testing"):
            lines.append(f"deb {self.mirror} {self.suite}-updates main")
            if self.security:
                lines.append(f"deb {self.security} {self.suite}-security main")
        return tuple(lines)


def debian_base(
    suite: str,
    architecture: str,
    host: HostSettings,
    *,
    mirror: str = "",
    root: Path = Path("/"),
) -> DebianBase:
    """The base that ``debian:SUITE`` stands for on this host.

    Args:
        mirror: of the configuration; '' takes the host's own apt sources where
            the host is Debian, else the distribution's default mirror.
        root: where the host's file system begins (tests).

    Raises:
        UsageError: not a suite's name, or no such architecture.
    """
    if not _SUITE.fullmatch(suite):
        raise UsageError(f"not a Debian suite: {suite!r}", hint="for example debian:bookworm")
    if architecture not in ARCHITECTURES:
        raise UsageError(f"no Debian base for the architecture {architecture}")
    archive, security = (mirror.rstrip("/"), "") if mirror else _host_mirrors(root)
    archive = archive or DEFAULT_MIRROR
    if not security and archive.endswith("/debian"):
        security = archive + "-security"
    return DebianBase(suite, archive, security, architecture, host.apt)


def _host_mirrors(root: Path) -> tuple[str, str]:
    """Archive and security archive of the host's own sources; '' where unknown."""
    try:
        release = (root / "etc/os-release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    if not re.search(r"^ID=[\"']?debian[\"']?$", release, re.MULTILINE):
        return "", ""
    archive = security = ""
    files = [root / "etc/apt/sources.list"]
    for pattern in ("*.sources", "*.list"):
        files += sorted((root / "etc/apt/sources.list.d").glob(pattern))
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for uri, suite in parse_sources(text):
            if not re.fullmatch(r"https?://[A-Za-z0-9._:\-\[\]]+(/[A-Za-z0-9._~/\-]*)?", uri):
                continue
            uri = uri.rstrip("/")
            if suite.endswith("-security") or uri.endswith("/debian-security"):
                security = security or uri
            elif uri.endswith("/debian"):  # not the repository of some other product
                archive = archive or uri
    return archive, security


def parse_sources(text: str) -> list[tuple[str, str]]:
    """(URI, suite) of the enabled binary sources in a sources.list(5) file, of
    either format."""
    found: list[tuple[str, str]] = []
    if re.search(r"^(Types|URIs):", text, re.MULTILINE | re.IGNORECASE):
        for stanza in re.split(r"\n[ \t]*\n", text):
            fields: dict[str, str] = {}
            key = ""
            for line in stanza.splitlines():
                if line.startswith("#"):
                    continue
                if line[:1] in (" ", "\t") and key:
                    fields[key] += " " + line.strip()
                elif ":" in line:
                    key, _, value = line.partition(":")
                    key = key.strip().lower()
                    fields[key] = value.strip()
            if fields.get("enabled", "yes").lower() in ("no", "false"):
                continue
            if "deb" not in fields.get("types", "").split():
                continue
            for uri in fields.get("uris", "").split():
                found += [(uri, suite) for suite in fields.get("suites", "").split()]
        return found
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line)
        if match:
            found.append((match.group(1), match.group(2)))
    return found


def cached(images: Images, base: DebianBase) -> Image | None:
    """The base's image if it exists and its inputs are the same."""
    image = images.find(base.alias)
    if image is not None and image.properties.get("coi.base.recipe") == base.digest:
        return image
    return None


def bootstrap(
    images: Images,
    base: DebianBase,
    *,
    log: int,
    follow: Callable[[Process], int],
    runner: Runner | None = None,
) -> str:
    """Make the base and import it; its fingerprint.

    Needs root, or subordinate uids and gids for this user (mmdebstrap's
    ``unshare`` mode).

    Args:
        log: a descriptor that takes mmdebstrap's output.
        follow: waits for the process while it shows its progress; its exit code.

    Raises:
        UnavailableError: mmdebstrap, the keyring or the sub-ids are missing.
        CoiError: mmdebstrap failed.
    """
    runner = runner or Runner(
        "mmdebstrap", missing_hint="install it: sudo apt-get install mmdebstrap"
    )
    mode = _mode()
    _require(runner)
    before = images.find(base.alias)
    with tempfile.TemporaryDirectory(prefix="coi-base-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        rootfs = directory / "rootfs.tar"
        metadata = directory / "metadata.tar"
        process = runner.spawn(
            mmdebstrap_args(base, mode, rootfs), stdout=log, stderr=log, die_with_parent=True
        )
        with process:
            code = follow(process)
        if code != 0 or not rootfs.exists():
            raise CoiError(
                f"mmdebstrap failed (exit {code})",
                details=f"it was to make {base.suite} out of {base.mirror}",
                hint="check the mirror: [build] mirror in the configuration",
            )
        metadata.write_bytes(metadata_tar(base))
        # The alias is moved afterwards: an import cannot take one that is in use.
        fingerprint = images.import_(
            metadata,
            rootfs,
            properties={
                "coi.base.recipe": base.digest,
                "description": f"coi base, Debian {base.suite}",
                "os": "debian",
                "release": base.suite,
            },
        )
    images.set_alias(base.alias, fingerprint)
    if before is not None and "coi.base.recipe" in before.properties:
        images.delete(before.fingerprint)
    return fingerprint


def mmdebstrap_args(base: DebianBase, mode: str, target: Path) -> list[str]:
    """The arguments after ``mmdebstrap``. mmdebstrap(1), 1.3."""
    args = [
        f"--mode={mode}",
        "--variant=minbase",
        "--format=tar",
        f"--architectures={ARCHITECTURES[base.architecture]}",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        f"--customize-hook={CUSTOMIZE}",
    ]
    args += [f"--aptopt={line.rstrip(';')}" for line in base.apt]
    if KEYRING.exists():
        args.append(f"--keyring={KEYRING}")
    return [*args, base.suite, str(target), *base.sources]


def metadata_tar(base: DebianBase, *, now: float | None = None) -> bytes:
    """The other half of a split image: metadata.yaml and the templates that
    give each instance its host name. JSON is YAML."""
    metadata = {
        "architecture": base.architecture,
        "creation_date": int(time.time() if now is None else now),
        "properties": {"os": "debian", "release": base.suite},
        "templates": {
            "/etc/hostname": {"when": ["create", "copy"], "template": "hostname.tpl"},
            "/etc/hosts": {"when": ["create", "copy"], "template": "hosts.tpl"},
        },
    }
    files = {"metadata.yaml": json.dumps(metadata, indent=1)}
    files.update({f"templates/{name}": text for name, text in _TEMPLATES.items()})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, metadata["creation_date"]  # type: ignore[assignment]
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _require(runner: Runner) -> None:
    if not runner.available():
        raise UnavailableError(
            "mmdebstrap is not installed, and no image server can be asked for a base",
            hint="install it: sudo apt-get install mmdebstrap debian-archive-keyring; "
            "or name an image you have: coi build --base ALIAS",
        )
    if not KEYRING.exists() and not Path("/etc/apt/trusted.gpg.d").exists():
        raise UnavailableError(
            "the keys of the Debian archive are not on this host",
            hint="install the package debian-archive-keyring",
        )


def _mode() -> str:
    """``root`` or ``unshare``.

    Raises:
        UnavailableError: a user without subordinate ids.
    """
    if os.geteuid() == 0:
        return "root"
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    names = {user, str(os.geteuid())}
    missing = [path for path in ("/etc/subuid", "/etc/subgid") if not _has_range(path, names)]
    if missing or which("newuidmap") is None:
        raise UnavailableError(
            f"the user {user} cannot bootstrap a base: no subordinate ids",
            details=f"missing: {', '.join([*missing] or ['newuidmap (package uidmap)'])}",
            hint=f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}; "
            "or build as root once: sudo coi build",
        )
    return "unshare"


def _has_range(path: str, names: set[str]) -> bool:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        fields = line.split(":")
        if len(fields) != 3 or fields[0] not in names or not fields[2].isdigit():
            continue
        if int(fields[2]) >= 65536:
            return True
    return False
