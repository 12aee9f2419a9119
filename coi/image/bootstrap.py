"""A Debian base image out of the distribution's mirror, with mmdebstrap.

Used where no image server can be reached, and with ``--base debian:SUITE``.
The base is kept under an alias of its own; its property ``coi.base.recipe``
tells whether it is still what would be built now.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from coi.digest import sha256
from coi.errors import CoiError, UnavailableError, UsageError
from coi.image.host import HostSettings, debian_mirrors
from coi.image.signals import deferred
from coi.incus.images import Image, Images
from coi.incus.process import Process, Runner
from coi.records import record

DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_GRACE = 30.0  # seconds for mmdebstrap to unmount and remove what it began
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

_DIGITS = re.compile(r"[0-9]{1,18}")
_SUITE = re.compile(r"[a-z][a-z0-9.+-]*")
_TEMPLATES = {
    "hostname.tpl": "{{ container.name }}\n",
    "hosts.tpl": (
        "127.0.0.1\tlocalhost\n127.0.1.1\t{{ container.name }}\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    ),
}


@record(frozen=True)
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
        return sha256(json.dumps([*inputs, _TEMPLATES]).encode()).hexdigest()

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
    archive, security = (mirror.rstrip("/"), "") if mirror else debian_mirrors(root)
    archive = archive or DEFAULT_MIRROR
    if not security and archive.endswith("/debian"):
        security = archive + "-security"
    return DebianBase(suite, archive, security, architecture, host.apt)


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
    follow: Callable[[Process, Callable[[Process], object]], int],
) -> str:
    """Make the base and import it; its fingerprint.

    Needs root, or subordinate uids and gids for this user (mmdebstrap's
    ``unshare`` mode).

    Args:
        log: a descriptor that takes mmdebstrap's output.
        follow: waits for the process and returns its exit code; it calls its
            second argument with the process to end it early.

    Raises:
        UnavailableError: mmdebstrap, the keyring or the sub-ids are missing.
        CoiError: mmdebstrap failed.
    """
    mode = _mode()
    _require()
    with tempfile.TemporaryDirectory(prefix="coi-base-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)  # the mapped root must get there
        rootfs = directory / "rootfs.tar"
        metadata = directory / "metadata.tar"
        runner = Runner("mmdebstrap", environment={"TMPDIR": name})
        args = mmdebstrap_args(base, mode, rootfs)
        try:
            with runner.spawn(args, stdout=log, stderr=log, die_with_parent=True) as process:
                code = follow(process, _interrupt)
        finally:
            _remove_rest(directory, mode)
        if code != 0 or not rootfs.exists():
            raise CoiError(
                f"mmdebstrap failed (exit {code})",
                details=f"it was to make {base.suite} out of {base.mirror}",
                hint="check the mirror: [build] mirror in the configuration",
            )
        metadata.write_bytes(metadata_tar(base))
        return _import(images, base, metadata, rootfs)


def _interrupt(process: Process) -> None:
    """Ctrl-C for mmdebstrap and all its children, then SIGKILL.

    It ignores a signal that reaches it alone (1.3.5: it waits for its setup);
    its process group is its own (see :meth:`Runner.spawn`).
    """
    for signum, seconds in ((signal.SIGINT, _GRACE), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signum)
        if process.poll(seconds):
            return


def _remove_rest(directory: Path, mode: str) -> None:
    """Remove what a killed mmdebstrap left: files of the mapped ids in unshare mode."""
    rest = [str(path) for path in directory.glob("mmdebstrap.*")]
    if not rest:
        return
    if mode == "unshare":
        Runner("mmdebstrap").run(["--unshare-helper", "rm", "-rf", "--", *rest], timeout=120)
    else:
        for path in rest:
            shutil.rmtree(path, ignore_errors=True)


def _import(images: Images, base: DebianBase, metadata: Path, rootfs: Path) -> str:
    """Import the base and let the alias move to it; its fingerprint."""
    before = images.find(base.alias)
    properties = {
        "coi.base.recipe": base.digest,
        "description": f"coi base, Debian {base.suite}",
        "os": "debian",
        "release": base.suite,
    }
    try:
        # Without the alias: an import cannot take one that is in use.
        with deferred():
            fingerprint = images.import_(metadata, rootfs, properties=properties)
            images.set_alias(base.alias, fingerprint)
    except BaseException:
        for image in images.all():
            if image.properties.get("coi.base.recipe") == base.digest and not image.aliases:
                images.delete(image.fingerprint)
        raise
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
            # The creation date is an int; the table that it is in has values of several types.
            entry.size, entry.mode, entry.mtime = len(data), 0o644, metadata["creation_date"]  # type: ignore[assignment]
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _require() -> None:
    """The programs and keys; UnavailableError where one is missing."""
    if not Runner("mmdebstrap").available():
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
    if missing or shutil.which("newuidmap") is None:
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
        if len(fields) != 3 or fields[0] not in names or not _DIGITS.fullmatch(fields[2]):
            continue
        if int(fields[2]) >= 65536:
            return True
    return False
