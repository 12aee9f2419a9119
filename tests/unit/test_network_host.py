"""The kernel's routing tables: addresses of the host, and subnets in use."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from coi.errors import CoiError, RefusedError
from coi.network.host import require_local, view

# Two tables (one of a VPN), as Linux 6.1 prints them.
TRIE = """Main:
  +-- 0.0.0.0/0 3 0 4
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/8 2 0 2
        |-- 10.213.77.0
           /24 link UNICAST
        |-- 10.99.0.0
           /24 link UNICAST
           /16 universe BLACKHOLE
Id 52:
     |-- 100.101.0.0
        /16 link UNICAST
Local:
  +-- 0.0.0.0/0 2 0 2
     +-- 10.213.77.0/24 2 0 2
        +-- 10.213.77.0/31 1 0 0
           |-- 10.213.77.1
              /32 host LOCAL
        |-- 10.213.77.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
"""


def test_addresses_and_subnets(tmp_path: Path) -> None:
    (tmp_path / "trie").write_text(TRIE)
    seen = view(tmp_path / "trie")
    assert seen.addresses == {IPv4Address("10.213.77.1")}
    networks = ("10.213.77.0/24", "10.99.0.0/24", "10.99.0.0/16", "100.101.0.0/16")
    assert seen.subnets == set(map(IPv4Network, networks))


@pytest.mark.parametrize("text", [None, "", "Main:\n", "\xff"])
def test_what_cannot_be_read_is_no_empty_set(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "trie").write_text(text)
    with pytest.raises(CoiError, match="host's addresses"):
        view(tmp_path / "trie")


def test_this_host() -> None:
    seen = view()
    assert not any(address.is_loopback for address in seen.addresses)


def test_a_remote_is_refused() -> None:
    require_local("local")
    with pytest.raises(RefusedError, match="'team'"):
        require_local("team")
