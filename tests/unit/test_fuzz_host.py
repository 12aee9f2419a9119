"""Texts of the host with any content: what is not understood is left out, or said to be.

Most of them are the kernel's or root's, and right as a rule. A line that is not must not end
a command, and must not make another line be read as something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coi.config import kinds
from coi.config.kinds import Wrong
from coi.doctor import advisories, checks, own
from coi.errors import CoiError, RefusedError, UsageError
from coi.image import bootstrap
from coi.image.container import BuildContainer
from coi.image.host import HostSettings, apt_lines, debian_mirrors, parse_sources, read_host
from coi.incus.networks import Network
from coi.incus.process import Completed
from coi.network import answers, bridge, host, log, ovn, resolvers, route
from coi.session import room
from coi.session.terminal import terminal_name
from coi.tools import discover
from coi.workspace import ownership

LINES = st.text(max_size=300) | st.text("0123456789ABCDEF: .\t\n", max_size=300)
MIRROR = r"\Ahttps?://[a-z0-9.:\[\]@-]{1,12}(/[a-z]{0,3})?\Z"
LONG = "9" * 5000  # more digits than Python reads


@contextmanager
def root() -> Iterator[Path]:
    with TemporaryDirectory(prefix="coi-fuzz-") as name:
        yield Path(name)


def put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return path


def lines_like(*samples: str) -> st.SearchStrategy[str]:
    """The lines of the samples with some of their words changed, and other lines between."""
    words = st.sampled_from(["", "0", "²", "٣", LONG, "-1", "FFFFFFFF", "\x85", "[", "1:2:3", "."])
    line = st.sampled_from([row for sample in samples for row in sample.splitlines()])

    @st.composite
    def changed(draw: st.DrawFn) -> str:
        found = draw(line).split(" ")
        for _ in range(draw(st.integers(0, 2))):
            found[draw(st.integers(0, len(found) - 1))] = draw(words | st.text(max_size=8))
        return " ".join(found)

    return st.lists(line | changed() | st.text(max_size=20), max_size=8).map("\n".join)


# -- the kernel's tables -------------------------------------------------------------------

TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
   0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000
   1: 0100A8C0:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000
   2: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 0A"""
ROUTE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
br0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"""


@given(lines_like(TCP) | LINES, lines_like(ROUTE) | LINES)
@example("x\nx", ROUTE).via("a line of one word")
@example(TCP, "x\n\n").via("an empty line")
@example("h\n 0: zz:0035 x 0A", ROUTE).via("no hexadecimal digits")
@example("h\n 0: 123456789A:0035 x 0A", ROUTE).via("an address that is too long")
@example("\xe9", ROUTE).via("not ASCII")
def test_sockets_and_routes_of_any_kind(sockets: str, routes: str) -> None:
    """Which resolvers listen is known, or said to be unknown: an allowlist is refused then."""
    with root() as proc:
        for name in ("tcp", "udp", "tcp6", "udp6"):
            put(proc / name, sockets)
        put(proc / "route", routes)
        try:
            found = resolvers.listening("br0", proc)
        except CoiError:
            return
        assert all(not IPv4Address(address).is_loopback for address in found)


TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
  +-- 192.168.0.0/24 2 0 2
     |-- 192.168.0.0
        /24 link UNICAST
     |-- 192.168.0.7
        /32 host LOCAL"""


@given(lines_like(TRIE) | LINES)
@example(TRIE.replace("/24 link", "/99 link")).via("a prefix that no network has")
@example(TRIE.replace("192.168.0.7", "1.2.3.999")).via("no address")
@example(TRIE.replace("/32 host", f"/{LONG} host")).via("more digits than Python reads")
def test_routing_tables_of_any_kind(text: str) -> None:
    with root() as top:
        try:
            found = host.view(put(top / "fib_trie", text))
        except CoiError:
            return
        assert found.addresses
        assert all(type(network) is IPv4Network for network in found.subnets)


def test_the_tables_are_understood() -> None:
    with root() as top:
        assert host.view(put(top / "f", TRIE)).addresses == {IPv4Address("192.168.0.7")}
        for name in ("tcp", "udp", "tcp6", "udp6"):
            put(top / name, TCP)
        put(top / "route", ROUTE)
        everywhere = str(IPv4Address(0))
        assert resolvers.listening("other", top) == [everywhere, "192.168.0.1"]
        assert resolvers.listening("br0", top) == [everywhere]


NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=6)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=4))
@example([["a\u2028b"]]).via("what Python takes for the end of a line")
@example([["a\nb"]]).via("the end of a line")
@example([["\\040"]]).via("what the kernel writes for a space")
def test_every_mount_point_is_read_as_it_is(paths: list[list[str]]) -> None:
    """The kernel writes white space and backslashes in octal (proc_pid_mounts(5))."""
    points = [Path("/", *names) for names in paths if not {".", ".."} & set(names)]
    octal = {ord(c): f"\\{ord(c):03o}" for c in " \t\n\\#"}
    text = "".join(f"d {str(point).translate(octal)} fs{n} rw 0 0\n" for n, point in
                   enumerate(points))  # fmt: skip
    with root() as top:
        found = ownership._filesystems(put(top / "mounts", text))
    expected = {Path("/"): "unknown", **{point: f"fs{n}" for n, point in enumerate(points)}}
    assert found == expected


@given(LINES | st.binary(max_size=99).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_mount_tables_of_any_kind(text: str) -> None:
    with root() as top:
        table = put(top / "mounts", text)
        assert Path("/") in ownership._filesystems(table)
        shift = ownership.uses_shift(top, disabled=None, mounts=table, users=())
        assert type(shift) is bool


SUBIDS = "root:1000000:1000000000\nroot:1000:1\nuser:100000:65536\n0:5:1\n"


@given(lines_like(SUBIDS.replace(":", " ")).map(lambda text: text.replace(" ", ":")) | LINES)
@example(f"root:{LONG}:1").via("more digits than Python reads")
@example("root:²:1\nroot:1:²").via("a digit that is no number")
@example("root:1000:1\udcff").via("not UTF-8")
def test_subordinate_ids_of_any_kind(text: str) -> None:
    with root() as top:
        path = put(top / "subuid", text)
        allowed = ownership._allowed(path, 1000)
        assert type(allowed) is bool
        assert type(bootstrap._has_range(str(path), {"root"})) is bool
        clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        ranges = list(own._ranges(clean))
        assert allowed == any(first <= 1000 < after for first, after in ranges)


def test_subordinate_ids_are_understood() -> None:
    with root() as top:
        path = put(top / "subuid", SUBIDS)
        assert ownership._allowed(path, 1000)
        assert not ownership._allowed(path, 1001)
        assert bootstrap._has_range(str(path), {"root"})
    assert list(own._ranges(SUBIDS))[1] == (1000, 1001)


# -- settings that go into an image --------------------------------------------------------

SOURCES = """Types: deb deb-src
URIs: http://deb.debian.org/debian https://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://security.debian.org/debian-security
Suites: bookworm-security
Enabled: no"""
ONE_LINE = """deb http://deb.debian.org/debian bookworm main
# deb http://x y z
deb [arch=amd64 signed-by=/x] https://mirror.example/debian bookworm main"""
DUMP = """Acquire::http::Proxy "http://proxy:3128/";
Acquire::Check-Valid-Until "false";
Acquire::https::Proxy::example.org "DIRECT";"""
PEM = "-----BEGIN CERTIFICATE-----\nAA+/=\n-----END CERTIFICATE-----\n"
URLS = st.sampled_from(
    ["http://[", "http://[::1", "http://[x]/", "//", "http://a:b@c/", "http://127.0.0.1", "http://x",
     "http://h:port/", "http://\u2100/", "http://a\nb", "x"]
) | st.text(max_size=20)  # fmt: skip


@given(lines_like(SOURCES) | lines_like(ONE_LINE) | LINES)
def test_sources_of_any_kind(text: str) -> None:
    found = parse_sources(text)
    assert all(uri and suite and not (uri + suite).isspace() for uri, suite in found)
    with root() as top:
        put(top / "etc/os-release", "ID=debian\n")
        put(top / "etc/apt/sources.list", text)
        put(top / "etc/apt/sources.list.d/x.sources", text)
        for mirror in debian_mirrors(top):
            assert not mirror or mirror.startswith(("http://", "https://"))
            assert mirror.isascii()
            assert not set(mirror) & set(" \t\n\"'`$\\;&|<>")


@given(lines_like(DUMP) | LINES, URLS)
def test_settings_of_apt_of_any_kind(dump: str, url: str) -> None:
    for line in apt_lines(f'{dump}\nAcquire::http::Proxy "{url}";', []):
        assert line.endswith('";')
        assert "\n" not in line
        assert line.count('"') == 2


@given(URLS, URLS, URLS, st.text(max_size=30) | st.sampled_from([LONG, "²", "1500\n", ""]))
@example("http://[", "", "", "1500").via("a proxy that is no URL")
@example("", "http://[", "http://[", LONG).via("a registry that is no URL")
def test_settings_of_the_host_of_any_kind(proxy: str, registry: str, index: str, mtu: str) -> None:
    with root() as top:
        put(top / "etc/npmrc", f"registry = {registry}\n")
        put(top / "usr/local/share/ca-certificates/x.crt", f"{PEM}{mtu}\n{proxy}\n{PEM}")
        put(top / "etc/pip.conf", f"[global]\nindex-url={index}\n")
        put(top / "proc/net/route", ROUTE.replace("\t", " "))
        put(top / "sys/class/net/eth0/mtu", mtu)
        found = read_host({"http_proxy": proxy, "HOME": str(top)}, root=top)
    assert type(found) is HostSettings
    assert found.npm_registry.startswith("http")
    assert PEM in found.certificates
    assert type(found.mtu) is int
    assert not any("\n" in value for _, value in found.proxies)


# -- logs of refused connections -----------------------------------------------------------

KMSG = "4,100,2000000,-;x IN=coi-1 OUT=eth0 SRC=10.0.0.2 DST=192.0.2.1 PROTO=TCP SPT=1 DPT=80"
OVN = (
    '2026-01-01T00:00:00.123Z|00004|acl_log(ovn_pinctrl0)|INFO|name="u-eth0-egress", '
    "verdict=reject, severity=info, direction=from-lport: tcp,vlan_tci=0x0000,nw_src=10.0.0.2,"
    "nw_dst=192.0.2.1,tp_src=1,tp_dst=80"
)


@given(st.lists(lines_like(KMSG) | st.text(max_size=80), max_size=4), st.floats())
@example([KMSG.replace("2000000", "9" * 30)], 0.0).via("a time that no clock shows")
@example([KMSG.replace("2000000", LONG)], 0.0).via("more digits than Python reads")
@example([KMSG.replace("DPT=80", "DPT=²")], 0.0).via("a digit that is no number")
@example([KMSG.replace(" DST=192.0.2.1", "")], 0.0).via("an address that is missing")
@example([KMSG], float("nan")).via("a clock that shows nothing")
def test_records_of_the_kernel_of_any_kind(records: list[str], booted: float) -> None:
    for found in log.parse(records, "coi-1", "10.0.0.2", booted=booted):
        assert found.way in ("egress", "ingress")
        assert found.port is None or type(found.port) is int


@given(st.lists(lines_like(OVN.replace(",", " ").replace("=", " ")) | lines_like(OVN), max_size=4))
@example([OVN.replace("tp_dst=80", "tp_dst=²")]).via("a digit that is no number")
@example([OVN.replace("tp_dst=80", f"tp_dst={LONG}")]).via("more digits than Python reads")
def test_lines_of_ovn_of_any_kind(lines: list[str]) -> None:
    for found in log.parse_ovn(lines, "u"):
        assert found.way in ("egress", "ingress")
    with root() as top:
        path = put(top / "ovn.log", "\n".join(lines))
        assert log.from_ovn("u", source=path) == list(
            log.parse_ovn(path.read_bytes().decode("utf-8", "replace").splitlines(), "u")
        )


def test_the_logs_are_understood() -> None:
    (found,) = log.parse([KMSG], "coi-1", "10.0.0.2", booted=0.0)
    assert (found.peer, found.port) == ("192.0.2.1", 80)
    (found,) = log.parse_ovn([OVN], "u")
    assert (found.peer, found.port) == ("192.0.2.1", 80)


# -- the rest ------------------------------------------------------------------------------

POINTS = "[coi.tools]\nx = mod:attr [extra]\n# c = d\n[other]\ny = z\n"


@given(lines_like(POINTS) | LINES, lines_like("Name: x\nVersion: 1\n\nName: y") | LINES)
def test_installed_metadata_of_any_kind(points: str, metadata: str) -> None:
    with root() as top:
        put(top / "x-1.dist-info/entry_points.txt", points)
        put(top / "x-1.dist-info/METADATA", metadata)
        for point in discover.entry_points("coi.tools", [str(top)]):
            assert point.distribution
            assert "=" not in point.name
            assert not (point.name + point.value).startswith("[")


@given(LINES | st.from_regex(r"\A\d{1,8}\.\d{1,8}(\.\d{1,8})?"))
def test_versions_of_any_text(text: str) -> None:
    found = advisories.parse(text)
    assert found is None or all(type(part) is int for part in found)
    for numbers in ((6, 0, 4), (0, 7, 999_999)):
        assert advisories.parse(".".join(map(str, numbers))) == numbers


@given(LINES | st.datetimes().map(datetime.isoformat))
@example("0001-01-01T00:00:00").via("the first time that there is")
def test_times_of_any_text(text: str) -> None:
    days = checks._days(text, datetime(2026, 1, 1, tzinfo=timezone.utc))
    assert days is None or days >= 0


RANGES = st.sampled_from(["10.0.0.1/24", "10.0.0.0/8", "none", "", "x", "10.0.0.1/0", "::1/64"])
SPANS = st.sampled_from(["10.0.0.9-10.0.0.20", "10.0.0.254", "x-y", "a", "-", ",", "", "1.1.1.1-"])


@given(RANGES | st.text(max_size=9), st.lists(SPANS).map(",".join) | st.text(max_size=9))
def test_networks_configured_in_any_way(address: str, ranges: str) -> None:
    config = {"ipv4.address": address, "ipv4.dhcp.ranges": ranges, "ipv4.ovn.ranges": ranges}
    network = Network("up", config=config)
    found = route.free_address(network, {"10.0.0.254"})
    assert found is None or str(found) != "10.0.0.254"
    with suppress(RefusedError):
        assert bridge._address(network, "ipv4.address").version == 4
    assert all(type(subnet) is IPv4Network for subnet in bridge._incus_subnets([network]))
    assert ovn._address(address) is None or address
    command = route.missing(network, host.HostView(frozenset(), frozenset()))
    assert command == ""  # without a router there is nothing to lead to


@example(text=LONG)
@example(text="128\n")
@example(text="\udcff")
@given(text=LINES)
def test_settings_of_the_kernel_of_any_kind(text: str) -> None:
    with root() as place:
        put(place / "fs" / "most", text)
        found = room.kernel_limit("fs.most", place)
        assert found is None or text.strip() in (f"{found}", f"{found}".zfill(len(text.strip())))
        assert room.kernel_limit("fs.none", place) is None


@pytest.mark.parametrize(("code", "text"), [(137, ""), (1, "Error: Instance is not running")])
def test_a_container_that_stopped_as_it_started(
    code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "kernel_limit", {"fs.inotify.max_user_instances": 128}.get)
    error = room.stopped("c", code, text)
    assert error
    assert "16 containers: fs.inotify.max_user_instances is 128" in error.details
    monkeypatch.setattr(room, "kernel_limit", lambda _key: 1 << 20)
    error = room.stopped("c", code, text)
    assert error
    assert error.details == text
    assert room.stopped("c", 1, "something else") is None


@given(st.lists(st.text(max_size=9) | st.sampled_from(["1.2.3.4", "::1", "01.2.3.4", "1.2.3"])))
def test_names_that_resolve_to_anything(texts: list[str]) -> None:
    """All addresses, or none: an answer is not believed in part."""
    found = answers._ask("a.org", lambda _: texts)
    assert found in ((), tuple(sorted({IPv4Address(t) for t in texts if _is_ipv4(t)})))
    assert not found or all(map(_is_ipv4, texts))


def _is_ipv4(text: str) -> bool:
    with suppress(ValueError):
        return bool(IPv4Address(text))
    return False


class Box(BuildContainer):
    """A build container with these sources."""

    def __init__(self, sources: bytes) -> None:
        self.sources = sources

    def execute(self, script: str, timeout: float = 0) -> Completed:
        return Completed((script,), 0, self.sources, b"")


@given(st.just("") | st.from_regex(MIRROR), st.binary(max_size=40) | URLS.map(
    lambda url: f"deb {url} x".encode("utf-8", "surrogateescape")))  # fmt: skip
def test_where_packages_come_from(mirror: str, sources: bytes) -> None:
    try:
        kinds.MIRROR.check(mirror)
    except Wrong:
        return
    try:
        found = Box(sources).package_host(mirror)
    except UsageError:
        assert mirror
        return
    assert found
    assert "\n" not in found


@given(st.dictionaries(st.just("TERM"), st.text(max_size=20)))
def test_a_terminal_of_any_name(environ: dict[str, str]) -> None:
    name = terminal_name(environ)
    assert name.isascii()
    assert name.isprintable()
    assert "/" not in name


@pytest.mark.skipif(not Path("/proc/net/fib_trie").exists(), reason="no such kernel")
def test_this_hosts_own() -> None:
    with suppress(CoiError):  # a machine without any address
        assert host.view().addresses
    assert len(ownership._filesystems(Path("/proc/self/mounts"))) > 1
