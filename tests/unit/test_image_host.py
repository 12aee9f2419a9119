"""What of the host comes along, and what never does."""

from __future__ import annotations

from pathlib import Path

import pytest

from coi.image.host import (
    NPM_REGISTRY,
    apt_lines,
    debian_mirrors,
    parse_sources,
    read_certificates,
    read_host,
)

PEM = "-----BEGIN CERTIFICATE-----\nMIIB{}\nAAAA\n-----END CERTIFICATE-----\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "directory",
    [
        "usr/local/share/ca-certificates",
        "etc/pki/ca-trust/source/anchors",
        "etc/ca-certificates/trust-source/anchors",
    ],
)
def test_added_authorities_are_found(tmp_path: Path, directory: str) -> None:
    base = tmp_path / directory
    write(base / "b.crt", "comment\n" + PEM.format("B"))
    write(base / "sub/a.pem", PEM.format("A1") + PEM.format("A2"))
    write(base / "twice.crt", PEM.format("B"))
    write(base / "README", PEM.format("NO"))
    write(base / "key.pem", "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")
    write(base / "der.crt", "\x00\x01binary")
    found = read_certificates(tmp_path)
    assert sorted(found) == sorted(PEM.format(n) for n in ("A1", "A2", "B"))
    assert "PRIVATE" not in "".join(found)


def test_the_authorities_of_the_distribution_stay(tmp_path: Path) -> None:
    write(tmp_path / "etc/ssl/certs/ca-certificates.crt", PEM.format("X"))
    write(tmp_path / "usr/share/ca-certificates/mozilla/x.crt", PEM.format("X"))
    assert read_certificates(tmp_path) == ()


def test_apt_settings() -> None:
    dump = (
        'Acquire "";\nAcquire::Check-Valid-Until "false";\nAcquire::Check-Date "true";\n'
        'Acquire::http::Proxy "http://proxy.test:3142";\n'
        'Acquire::http::Proxy::deb.test "DIRECT";\n'
        'Acquire::https::Proxy "http://me:secret@proxy.test:3142";\n'
        'Acquire::http::Proxy "http://127.0.0.1:3142";\n'
        'APT::Periodic "1";\nDPkg::Pre-Invoke:: "rm -rf /";\n'
    )
    notes: list[str] = []
    assert apt_lines(dump, notes) == (
        'Acquire::Check-Valid-Until "false";',
        'Acquire::http::Proxy "http://proxy.test:3142";',
        'Acquire::http::Proxy::deb.test "DIRECT";',
    )
    assert len(notes) == 2
    assert "secret" not in "".join(notes)


def test_registries(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environ = {"HOME": str(home)}
    assert read_host(environ, root=tmp_path).npm_registry == NPM_REGISTRY
    write(tmp_path / "etc/npmrc", "registry = https://global.test/npm/\n")
    write(home / ".npmrc", "cafile=/x\nregistry=https://own.test/npm/\n//own.test/:_authToken=T\n")
    write(home / ".config/pip/pip.conf", "[global]\nindex-url = https://pypi.test/simple\n")
    host = read_host(environ, root=tmp_path)
    assert host.npm_registry == "https://own.test/npm"
    assert host.pip_index == "https://pypi.test/simple"
    host = read_host({**environ, "NPM_CONFIG_REGISTRY": "https://env.test"}, root=tmp_path)
    assert host.npm_registry == "https://env.test"


@pytest.mark.parametrize(
    "url",
    [
        "https://me:SECRET@npm.test/",
        "http://localhost:4873/",
        "http://127.0.0.1:4873",
        "file:///opt/npm",
        "https://npm.test/$(id)",
        'https://npm.test/"',
        "nonsense",
    ],
)
def test_a_registry_that_an_image_must_not_have(tmp_path: Path, url: str) -> None:
    host = read_host({"HOME": "/none", "NPM_CONFIG_REGISTRY": url}, root=tmp_path)
    assert host.npm_registry == NPM_REGISTRY
    assert "SECRET" not in "".join(host.notes)


def test_proxies_are_for_the_build() -> None:
    environ = {
        "HOME": "/none",
        "HTTP_PROXY": "http://proxy.test:3128",
        "https_proxy": "http://127.0.0.1:3128",
        "no_proxy": "localhost,.test",
    }
    host = read_host(environ, root=Path("/nonexistent"))
    assert host.proxies == (
        ("http_proxy", "http://proxy.test:3128"),
        ("no_proxy", "localhost,.test"),
    )
    assert any("loopback" in note for note in host.notes)


def test_mtu_of_the_uplink(tmp_path: Path) -> None:
    write(
        tmp_path / "proc/net/route",
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n"
        "br0\t004DD50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n"
        "eth9\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\n",
    )
    write(tmp_path / "sys/class/net/eth9/mtu", "1380\n")
    assert read_host({"HOME": "/none"}, root=tmp_path).mtu == 1380
    assert read_host({"HOME": "/none"}, root=tmp_path / "none").mtu == 0


DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://deb.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 AAAA
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://src.test/debian
Suites: bookworm

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
"""
ONE_LINE = """\
# deb http://off.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://one.test/debian/ bookworm main
deb-src http://one.test/debian bookworm main
deb http://sec.test/debian-security bookworm-security main
"""


def test_sources_of_both_formats() -> None:
    assert parse_sources(DEB822) == [
        ("http://deb.test/debian", "bookworm"),
        ("http://deb.test/debian", "bookworm-updates"),
    ]
    assert parse_sources(ONE_LINE) == [
        ("http://one.test/debian/", "bookworm"),
        ("http://sec.test/debian-security", "bookworm-security"),
    ]
    assert parse_sources("nothing: here\n") == []


def test_mirrors_of_a_debian_host(tmp_path: Path) -> None:
    write(tmp_path / "etc/os-release", 'NAME="Debian"\nID=debian\n')
    write(tmp_path / "etc/apt/sources.list.d/a.list", "deb https://vendor.test/tool stable main\n")
    write(tmp_path / "etc/apt/sources.list.d/d.sources", DEB822)
    assert debian_mirrors(tmp_path) == ("http://deb.test/debian", "")
    write(tmp_path / "etc/apt/sources.list", ONE_LINE)
    assert debian_mirrors(tmp_path) == (
        "http://one.test/debian",
        "http://sec.test/debian-security",
    )


@pytest.mark.parametrize("release", ["ID=ubuntu\nID_LIKE=debian\n", 'ID="arch"\n', ""])
def test_mirrors_of_another_host_are_not_taken(tmp_path: Path, release: str) -> None:
    write(tmp_path / "etc/os-release", release)
    write(tmp_path / "etc/apt/sources.list", ONE_LINE)
    assert debian_mirrors(tmp_path) == ("", "")


def test_a_mirror_with_a_password_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path / "etc/os-release", "ID=debian\n")
    write(tmp_path / "etc/apt/sources.list", "deb http://u:SECRET@m.test/debian bookworm main\n")
    assert debian_mirrors(tmp_path) == ("", "")
