"""What the host has that an image on it needs: certificates, mirrors, proxies.

Only reads. Nothing with a credential in it is taken along: a URL with a
password would end in the image, which everybody in the Incus group can read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from coi.records import record

NPM_REGISTRY = "https://registry.npmjs.org"

CA_DIRECTORIES = (
    "/usr/local/share/ca-certificates",  # Debian, Ubuntu
    "/etc/pki/ca-trust/source/anchors",  # Fedora
    "/etc/ca-certificates/trust-source/anchors",  # Arch
)
_CA_SUFFIXES = (".crt", ".pem", ".cer")
_CA_LIMIT = 1 << 20  # bytes of one certificate file
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy")


@record(frozen=True)
class HostSettings:
    """The settings of the host that the image takes along.

    Attributes:
        certificates: PEM text of the authorities that were added to the host,
            not of those its distribution ships.
        apt: lines for /etc/apt/apt.conf.d in the image.
        npm_registry: base URL without a slash at the end.
        pip_index: base URL, or '' for the public one.
        proxies: ``http_proxy`` and so on, for the build alone.
        mtu: of the link with the default route, in bytes; 0 when unknown.
        notes: what was left out and why, for the user.
    """

    certificates: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    npm_registry: str = NPM_REGISTRY
    pip_index: str = ""
    proxies: tuple[tuple[str, str], ...] = ()
    mtu: int = 0
    notes: tuple[str, ...] = ()


def read_host(
    environ: Mapping[str, str] = os.environ, *, root: Path = Path("/"), apt_config: str = ""
) -> HostSettings:
    """Collect the settings.

    Args:
        environ: the user's environment.
        root: where the file system begins (tests).
        apt_config: what ``apt-config dump`` prints here, '' where there is no apt.
    """
    notes: list[str] = []
    home = Path(environ.get("HOME") or "/nonexistent")
    npmrc = [home / ".npmrc", root / "etc/npmrc", root / "usr/etc/npmrc"]
    registry = (
        environ.get("NPM_CONFIG_REGISTRY")
        or environ.get("npm_config_registry")
        or _first(_ini_value(path, "registry") for path in npmrc)
    )
    pip_files = [home / ".config/pip/pip.conf", home / ".pip/pip.conf", root / "etc/pip.conf"]
    index = environ.get("PIP_INDEX_URL") or _first(_ini_value(p, "index-url") for p in pip_files)
    registry = _usable_url(registry, "the npm registry", notes) or NPM_REGISTRY
    return HostSettings(
        certificates=read_certificates(root),
        apt=apt_lines(apt_config, notes),
        npm_registry=registry.rstrip("/"),
        pip_index=_usable_url(index, "the Python package index", notes),
        proxies=_proxies(environ, notes),
        mtu=_uplink_mtu(root),
        notes=tuple(notes),
    )


def read_certificates(root: Path = Path("/")) -> tuple[str, ...]:
    """The certificates in the directories for locally added authorities, each
    once, in a stable order."""
    found: dict[str, None] = {}
    for directory in CA_DIRECTORIES:
        base = root / directory.lstrip("/")
        if not base.is_dir():
            continue
        for path in sorted(base.rglob("*")):
            if path.suffix not in _CA_SUFFIXES or not path.is_file():
                continue
            try:
                with path.open("rb") as file:
                    text = file.read(_CA_LIMIT).decode("ascii", "replace")
            except OSError:  # not for this user to read
                continue
            for match in _PEM.finditer(text):
                found["\n".join(match.group().split("\n")).strip() + "\n"] = None
    return tuple(found)


def apt_lines(dump: str, notes: list[str]) -> tuple[str, ...]:
    """From ``apt-config dump``: proxies, and whether a mirror of the past is
    to be accepted. apt.conf(5)."""
    lines: list[str] = []
    for match in re.finditer(r'^(Acquire::[\w:.\-]+) "([^"]*)";$', dump, re.MULTILINE):
        key, value = match.group(1), match.group(2)
        low = key.lower()
        refused = value.lower() in ("false", "no", "0")
        if refused and low in ("acquire::check-valid-until", "acquire::check-date"):
            lines.append(f'{key} "false";')
        if not value or not re.fullmatch(r"acquire::https?::proxy(::[\w.\-]+)?", low):
            continue
        if value.upper() == "DIRECT" or _usable_url(value, "the proxy of apt", notes):
            lines.append(f'{key} "{value}";')
    return tuple(lines)


def debian_mirrors(root: Path) -> tuple[str, str]:
    """Archive and security archive of the host's own sources; '' where unknown,
    and where the host is not Debian."""
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


def _proxies(environ: Mapping[str, str], notes: list[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for name in _PROXY_NAMES:
        value = environ.get(name) or environ.get(name.upper()) or ""
        if not value or any(ord(c) < 0x20 for c in value):
            continue
        try:
            host = urlsplit(value).hostname if name != "no_proxy" else None
        except ValueError:
            notes.append(f"{name} is no URL: the build goes without it")
            continue
        if _is_loopback(host or ""):
            notes.append(f"{name} names this machine's loopback: the build goes without it")
            continue
        found.append((name, value))
    return tuple(found)


def _usable_url(value: str, what: str, notes: list[str]) -> str:
    """``value`` where an image may have it, else '' and a note."""
    if not value:
        return ""
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\"'`$\\]", value):
        return ""
    if parts.username or parts.password:
        notes.append(f"{what} of this host has a password in its URL: not put into the image")
        return ""
    if _is_loopback(host):
        notes.append(f"{what} of this host is on its loopback: a container cannot reach it")
        return ""
    return value


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _ini_value(path: Path, key: str) -> str:
    """``key = value`` in a file of lines; '' when the file or the key is missing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.findall(rf"^[ \t]*{re.escape(key)}[ \t]*=[ \t]*(\S+)[ \t]*$", text, re.MULTILINE)
    return str(found[-1]) if found else ""


def _first(values: Iterable[str]) -> str:
    return next((value for value in values if value), "")


def _uplink_mtu(root: Path) -> int:
    """MTU of the interface with the IPv4 default route (/proc/net/route: the
    second column is the destination, in hexadecimal)."""
    try:
        routes = (root / "proc/net/route").read_text(encoding="ascii").splitlines()[1:]
        for line in routes:
            fields = line.split()
            if len(fields) > 7 and fields[1] == fields[7] == "00000000":
                mtu = root / "sys/class/net" / fields[0] / "mtu"
                return int(mtu.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return 0
