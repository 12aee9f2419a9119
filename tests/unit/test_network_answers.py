"""Names to addresses: a failure never empties a list, a resolver that hangs holds nothing up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from coi.errors import CoiError
from coi.network.answers import Answer, load, merge, resolve, save, system_lookup
from coi.network.names import hosts_lines, raw_dnsmasq
from coi.network.policy import Policy, Surroundings, compile_acl

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z"


def ip(*texts: str) -> tuple[IPv4Address, ...]:
    return tuple(map(IPv4Address, texts))


# -- resolving -------------------------------------------------------------------------------


def lookup(name: str) -> list[str]:
    known = {
        "a.com": ["203.0.113.9", "203.0.113.7", "203.0.113.9"],
        "b.com": ["203.0.113.8"],
        "odd.com": ["203.0.113.1", "not an address"],
        "empty.com": [],
    }
    if name == "long.com":
        raise UnicodeError("label too long")
    if name not in known:
        raise socket.gaierror(-2, "Name or service not known")
    return known[name]


def test_what_resolves() -> None:
    names = ("a.com", "b.com", "odd.com", "empty.com", "long.com", "unknown.com")
    found = resolve(names, lookup)
    assert found == {"a.com": ip("203.0.113.7", "203.0.113.9"), "b.com": ip("203.0.113.8")}
    assert resolve((), lookup) == {}


def test_many_names() -> None:
    names = [f"h{n}.com" for n in range(300)]
    assert set(resolve(names, lambda _: ["203.0.113.1"])) == set(names)


def test_a_name_that_hangs_holds_nothing_up() -> None:
    hanging = threading.Event()

    def slow(name: str) -> list[str]:
        if name == "slow.com":
            hanging.wait(30)
        return ["203.0.113.1"]

    began = time.monotonic()
    try:
        found = resolve(("slow.com", "a.com", "b.com"), slow, 0.3)
    finally:
        hanging.set()
    assert set(found) == {"a.com", "b.com"}
    assert time.monotonic() - began < 5


def test_it_does_not_wait_for_the_deadline() -> None:
    began = time.monotonic()
    resolve(("a.com",), lookup, 60)
    assert time.monotonic() - began < 5


def test_a_process_ends_although_a_resolver_hangs() -> None:
    code = (
        "import threading; from coi.network.answers import resolve; "
        "print(resolve(['a.com'], lambda name: threading.Event().wait(), 0.1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("{}\n", "")


def test_the_system_s_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def getaddrinfo(*arguments: object) -> object:
        asked.append(arguments)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert system_lookup("a.com") == ["203.0.113.7"]
    assert asked == [("a.com", None, socket.AF_INET, socket.SOCK_STREAM)]


# -- the last good ones ----------------------------------------------------------------------


def test_a_failure_keeps_the_last_good_answers() -> None:
    last = {
        "a.com": Answer(ip("203.0.113.1"), THEN),
        "b.com": Answer(ip("203.0.113.2"), THEN),
        "gone.com": Answer(ip("203.0.113.3"), THEN),
    }
    found = {"a.com": ip("203.0.113.9", "203.0.113.8"), "b.com": (), "other.com": ip("8.8.8.8")}
    assert merge(("a.com", "b.com", "new.com"), last, found, NOW) == {
        "a.com": Answer(ip("203.0.113.8", "203.0.113.9"), NOW),
        "b.com": last["b.com"],
    }
    assert merge(tuple(last), last, {}, NOW) == last


def test_round_trip(tmp_path: Path) -> None:
    directory = tmp_path / "home" / "network"
    assert load(directory, "0a1b2c3d") == {}
    answers = {"a.com": Answer(ip("203.0.113.1", "203.0.113.2"), THEN)}
    save(directory, "0a1b2c3d", answers)
    assert load(directory, "0a1b2c3d") == answers
    assert load(directory, "ffffffff") == {}
    assert [path.name for path in directory.iterdir()] == ["0a1b2c3d.json"]
    assert (directory / "0a1b2c3d.json").stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


GOOD = {"addresses": ["203.0.113.1"], "resolved_at": THEN}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "x",
        {},
        {"format": 2, "answers": {"a.com": GOOD}},
        {"format": 1},
        {"format": 1, "answers": []},
        {"format": 1, "answers": {"a.com": []}},
        {"format": 1, "answers": {"a.com": {"addresses": ["203.0.113.1"]}}},
        {"format": 1, "answers": {"a.com": {**GOOD, "addresses": None}}},
        {"format": 1, "answers": {"a.com": {**GOOD, "addresses": []}}},
        {"format": 1, "answers": {"a.com": {**GOOD, "addresses": ["::1"]}}},
        {"format": 1, "answers": {"a.com": {**GOOD, "addresses": [134744072]}}},
        {"format": 1, "answers": {"a.com": {**GOOD, "resolved_at": "\x1b[31m"}}},
        {"format": 1, "answers": {"a.com": {**GOOD, "resolved_at": 7}}},
    ],
)
def test_a_damaged_file_is_none(document: object, tmp_path: Path) -> None:
    save(tmp_path, "h", {"a.com": Answer(ip("203.0.113.1"), THEN)})
    assert load(tmp_path, "h")
    (tmp_path / "h.json").write_text(json.dumps(document))
    assert load(tmp_path, "h") == {}


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 100_000, b"\0" * 99])
def test_no_json_is_none(data: bytes, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "h.json").write_bytes(data)
    assert load(tmp_path, "h") == {}


def test_what_others_may_write_is_none(tmp_path: Path) -> None:
    save(tmp_path, "h", {"a.com": Answer(ip("203.0.113.1"), THEN)})
    (tmp_path / "h.json").chmod(0o666)
    assert load(tmp_path, "h") == {}


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "network").write_text("a file")
    with pytest.raises(CoiError, match="cannot keep the addresses"):
        save(tmp_path / "network", "h", {})


# -- names inside ----------------------------------------------------------------------------

POLICY = Policy("allowlist", ("a.com", "b.com", "bad.com"), (IPv4Network("8.8.8.8/32"),))
AROUND = Surroundings(
    gateway=IPv4Address("10.66.0.1"),
    answers={
        "a.com": ip("203.0.113.9", "203.0.113.7", "10.66.0.1"),
        "bad.com": ip("192.168.1.1", "127.0.0.1"),
        "unlisted.com": ip("203.0.113.99"),
    },
)


def test_dnsmasq() -> None:
    assert raw_dnsmasq(POLICY, AROUND).splitlines() == [
        "no-resolv",
        "no-hosts",
        "address=/#/",
        "host-record=a.com,203.0.113.7",
        "host-record=a.com,203.0.113.9",
    ]
    assert raw_dnsmasq(Policy("restricted"), AROUND) == ""


def test_etc_hosts() -> None:
    lines = hosts_lines(POLICY, AROUND)
    assert lines == ("203.0.113.7 a.com", "203.0.113.9 a.com")
    assert hosts_lines(Policy("restricted"), AROUND) == ()
    acl = compile_acl(POLICY, AROUND)
    assert all(acl.admits(IPv4Address(line.split()[0])) for line in lines)
