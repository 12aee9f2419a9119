"""Words of the command line and of the configuration: understood whole, or refused."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coi.api import Tool
from coi.cli import file as file_command
from coi.cli import image as image_command
from coi.cli.context import parse_environment, parse_limits
from coi.config import hosts, kinds, ports, tighten
from coi.config.kinds import Wrong
from coi.config.text import printable
from coi.errors import CoiError, UsageError
from coi.image import bootstrap, build, builder, dns
from coi.image.host import HostSettings
from coi.image.progress import clean, last_line
from coi.network import addresses, domains, explain
from coi.session import lookup, many
from coi.tools import check, skeleton
from coi.workspace import gitconfig

LONG = "9" * 5000  # more digits than Python reads
HARD = st.sampled_from(
    ["", " ", "\0", "\n", "a\nb", "-", "--", "-x", "..", "../x", "/", "=", ",", ":", "%", "[", "]",
     "\x1b[31m", "\u202e", "\udcff", "\ud800", "²", "٣", "1e999", "nan", "inf", LONG, f"{LONG}G",
     f"{LONG}%", "x" * 300, "1.2.3.4", "::1", "[::1]", "[::1]:80", "a:b:c", "0", "65536"]
)  # fmt: skip
WORDS = HARD | st.text(max_size=20) | st.text("0123456789.:/-,[]%kMGTiB ", max_size=20)


@given(WORDS | st.from_regex(r"\A\d{1,30}(\.\d{1,30})? ?[KMGTkmgt]?(i?B)?\Z"))
@example(f"{LONG}G").via("more than any number")
@example("9" * 400).via("more than any float")
@example("9007199254740993").via("a number that no float is")
@example("٣G").via("digits of another script")
def test_a_size_is_a_number_or_refused(text: str) -> None:
    try:
        found = file_command.parse_size(text)
    except UsageError:
        return
    assert found >= 0
    assert text.strip().isascii()
    if text.strip().isdigit():
        assert found == int(text), "to the byte"
    assert file_command.human(found)


@given(st.lists(WORDS | st.sampled_from(["memory=1GiB", "cpu=", "disk=x=y"]), max_size=3))
def test_limits_are_keys_and_values(items: list[str]) -> None:
    try:
        found = parse_limits(items)
    except UsageError:
        return
    assert len(found) <= len(items)
    assert all(f"{key.removeprefix('limits.')}={value}" in items for key, value in found.items())


@given(st.lists(WORDS | st.builds("{}={}".format, WORDS, WORDS), max_size=3))
def test_the_environment_is_names_and_lines(items: list[str]) -> None:
    try:
        found = parse_environment(items, {"A": "1", "B": "x\ny"})
    except UsageError:
        return
    for name, value in found.items():
        assert name.isidentifier()
        assert name.isascii()
        assert f"{name}={value}" in items or name in items
        assert not set("\n\r\0") & set(value)


@given(WORDS)
def test_names_of_images_and_containers(text: str) -> None:
    """What passes is one argument of ``incus`` that is no option, and one part of a URL."""
    takers = (
        image_command._check_alias,
        build._check_name,
        lookup.check_name,
        skeleton.check_name,
    )
    for take in takers:
        try:
            take(text)
        except UsageError:
            continue
        assert text.isascii()
        assert text.isprintable()
        assert not text.startswith(("-", "/", "."))
        assert not set(" :=,") & set(text)
    with suppress(UsageError):
        base = bootstrap.debian_base(text, "x86_64", HostSettings(), mirror="https://m.example")
        assert base.suite == text
        assert text.isascii()
        assert not text.startswith("-")
    assert not builder.is_version(text, text) or text.isascii()


@given(WORDS | st.from_regex(r"\A([0-9.]{1,9}:)?[0-9]{1,5}:[0-9]{1,5}(/tcp|/udp)?\Z"))
@example("[::1]:80:080/udp").via("an IPv6 address")
def test_published_ports(text: str) -> None:
    try:
        found = ports.entry(text)
    except Wrong:
        return
    address, host, inside, protocol = ports.split(found)
    assert ip_address(address.strip("[]"))
    assert 0 < host < 65536
    assert 0 < inside < 65536
    assert protocol in ("tcp", "udp")
    assert ports.entry(found) == found


@given(st.lists(WORDS | st.sampled_from(["10.0.0.0/8", "a.org", "1.2.3.4/33", "1.2.3.4/²"])))
@example(["1.2.3.4/²"]).via("a digit that is no number")
@example(["\ud800.org"]).via("half a surrogate")
def test_allowed_domains(entries: list[str]) -> None:
    try:
        names, networks = domains.split(entries)
    except UsageError:
        return
    for name in names:
        assert hosts.entry(name) == name
        assert name.isascii()
    for network in networks:
        assert IPv4Network(hosts.entry(str(network))) == network


@given(WORDS)
def test_where_a_packet_is_to_go(text: str) -> None:
    try:
        host, port = explain.target(text)
    except UsageError:
        return
    assert host
    assert host in text
    assert port is None or 0 < port < 65536


@given(WORDS)
def test_values_of_the_configuration(text: str) -> None:
    """Each kind of value: what it takes it takes again, as itself."""
    for kind in (
        kinds.boolean(), kinds.cpu_limit(), kinds.size_limit(percent=True), kinds.count_limit(),
        kinds.integer(0, 10**9), kinds.text("a word", "[a-z]+"), kinds.inside_path(),
        kinds.choice("a", "none"), kinds.host_path(),
    ):  # fmt: skip
        values: list[object] = [text]
        if kind.from_text is not None:
            with suppress(Wrong):
                values.append(kind.from_text(text))
        for value in values:
            try:
                found = kind.check(value)
            except Wrong:
                continue
            assert kind.check(found) == found
    for take in (kinds.tool_name, kinds.address, kinds.mount, kinds.workspace_path,
                  kinds.credential):  # fmt: skip
        with suppress(Wrong):
            take(text)
    with suppress(Wrong):
        assert kinds.variable(text, "x") == "x"
        assert text.isidentifier()


@given(WORDS | st.from_regex(r"\A[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,4})?\Z"))
@example("0-999999999999").via("more processors than memory")
def test_limits_that_are_compared(text: str) -> None:
    if kinds._cpu_set(text):
        assert tighten._cpus(text)
    with suppress(ValueError):
        assert tighten.size(text)[0] >= 0
    with suppress(Wrong):
        given_value = kinds.size_limit(percent=True).check(text)
        for other in ("1GiB", "50%", "none"):
            for rule in (tighten.smaller, tighten.less_memory):
                assert rule(other, given_value) in (given_value, tighten.WITHHELD)


@given(st.text("0123456789.,-/ ", max_size=40) | WORDS)
def test_ranges_of_addresses(text: str) -> None:
    try:
        found = addresses.RangeSet.parse(text)
    except ValueError:
        return
    assert addresses.RangeSet.parse(found.text()) == found


@given(WORDS | st.text("netwrksolv=y no\n.:", max_size=60))
@example("network=yes resolves=yes servers=").via("no resolver")
@example("network=yes resolves=no servers=127.0.0.53 ::1%lo x%y").via("the host's stub")
def test_what_a_build_container_says_of_its_network(text: str) -> None:
    try:
        found = dns.Facts.parse(text)
    except CoiError:
        return
    assert type(found.stub) is bool
    assert all(server.split() == [server] for server in found.servers)
    dns.decide(found)


@given(WORDS | st.text("\x1b[]\\\x07\x9bmPX0;\n ", max_size=60))
@example("\x1b[" * 20_000).via("escapes without end")
@example("\x1bP" + "\x1b" * 20_000).via("a string without end")
def test_what_a_build_prints(text: str) -> None:
    for shown in (clean(text), last_line(text), printable(text)):
        assert not set(shown) & set("\x1b\x9b\x07\x00\u202e")
    assert "\n" not in last_line(text)


THINGS = WORDS | st.none() | st.integers() | st.lists(WORDS, max_size=2) | st.just((".it", ".x"))
PARTS = ("name", "binary", "title", "state", "state_exclude", "secrets", "secret_keys",
         "host_variables")  # fmt: skip


@given(st.dictionaries(st.sampled_from(PARTS), THINGS, max_size=3))
@example({"state": ("../x",)}).via("a way out of the home")
@example({"name": "\ud800"}).via("half a surrogate")
@example({"host_variables": ("A", "1x")}).via("no name of a variable")
def test_what_a_plugin_says_of_its_tool(values: dict[str, object]) -> None:
    """A tool with names and paths that can be used, or the reason why not."""
    sane = {"name": "it", "binary": "it", "state": (".it",),
            "install": lambda *_: "true", "command": lambda *_: ["it"]}  # fmt: skip
    it = type("It", (Tool,), {**sane, **values})()
    try:
        found = check.sound(it)
    except check.UnsoundError:
        assert values
        return
    assert found.name.isascii()
    for path in found.state:
        assert not path.startswith("/")
        assert ".." not in path.split("/")


@given(st.binary(max_size=40) | st.sampled_from([b"[" * 100_000, b"9" * 5000, b"null", b"5"]),
       st.integers(0, 80))  # fmt: skip
@example(b"", 0).via("one that died before it said anything")
def test_what_a_process_reports_is_whole_or_its_death(data: bytes, cut: int) -> None:
    right = json.dumps(["brief", "details", "hint", 3]).encode()
    for text in (data, right[:cut], right):
        read_end, write_end = os.pipe()
        os.write(write_end, text[:60_000])
        os.close(write_end)
        found = many._read(read_end, "item")
        os.close(read_end)
        if text == right:
            assert isinstance(found, many.RemoteError)
            assert (found.brief, found.exit_code) == ("brief", 3)
        elif text != b"[]":
            assert found is not None
            assert "died" in found.brief or isinstance(found, many.RemoteError)


# -- git's files ---------------------------------------------------------------------------

INDEX = bytes.fromhex("44495243 00000002 00000001".replace(" ", "")) + bytes(24) + (
    b"\0\0\xe0\0" + bytes(32) + b"\0\x03sub\0\0\0\0\0"
)  # fmt: skip


@given(st.binary(max_size=200), st.integers(0, 120), st.integers(0, 255))
def test_an_index_of_any_kind(data: bytes, place: int, byte: int) -> None:
    changed = bytearray(INDEX)
    changed[place % len(INDEX)] = byte
    for index in (b"DIRC" + data, data, bytes(changed), INDEX[:place]):
        for path in gitconfig.gitlinks(index):
            assert gitconfig.within("", path) == path
            assert not Path(path).is_absolute()
    assert gitconfig.gitlinks(INDEX) == ["sub"]


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_a_line_feed_ends_a_line_of_git(separator: str) -> None:
    """Python knows other ends: what stands behind one was not a path that is protected."""
    data = f"[core]\n\thooksPath = a{separator}b\n".encode()
    assert ("hooks", f"a{separator}b") in list(gitconfig.further(data))
