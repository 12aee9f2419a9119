"""Whether another resolver of the host can be asked: read from the kernel's tables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coi.errors import RefusedError
from coi.network import resolvers
from coi.network.policy import Policy
from coi.network.resolvers import DNS_GUARD

BRIDGE = "coi-0123abcd"
RESTRICTED, ALLOWLIST = Policy("restricted"), Policy("allowlist", domains=("a.example",))
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
coi-0123abcd\t0016AC0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
coi-0123abcd-n\t00B5230A\t00000000\t0001\t0\t0\t0\tFCFFFFFF\t0\t0\t0
"""
OWN, NAMES, BRIDGES = "0116AC0A:0035", "01B5230A:0035", "014DD50A:0035"  # 10.172.22.1 and others
V6 = "0" * 24


def tables(directory: Path, **sockets: list[tuple[str, str]]) -> Path:
    """Files as /proc/net has them; little-endian, as they were recorded."""
    for name in ("udp", "udp6", "tcp", "tcp6"):
        lines = [
            f" 8270: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0\n"
            for local, state in sockets.get(name, [])
        ]
        (directory / name).write_text(HEAD + "".join(lines))
    (directory / "route").write_text(ROUTES)
    return directory


@pytest.mark.parametrize(
    ("sockets", "found"),
    [
        ({}, []),
        ({"udp": [(OWN, "07"), (NAMES, "07")], "tcp": [(OWN, "0A"), (NAMES, "0A")]}, []),
        ({"udp": [(OWN, "07"), (BRIDGES, "07")]}, ["10.213.77.1"]),
        ({"tcp": [(BRIDGES, "0A")]}, ["10.213.77.1"]),
        ({"tcp": [(BRIDGES, "01")]}, []),  # a connection of its own
        ({"udp": [("3500007F:0035", "07")]}, []),  # 127.0.0.53: not reached from outside
        ({"udp": [("014DD50A:14E9", "07")]}, []),  # port 5353
        ({"udp": [("00000000:0035", "07")]}, ["0.0.0.0"]),  # noqa: S104
        ({"udp6": [("0" * 32 + ":0035", "07")]}, ["0.0.0.0"]),  # noqa: S104 - IPv4 too, may be
        ({"tcp6": [(f"{'0' * 16}FFFF0000014DD50A:0035", "0A")]}, ["10.213.77.1"]),
        ({"udp6": [("000080FE000000000000000001000000:0035", "07")]}, []),  # IPv6 alone
    ],
)
def test_where_one_listens(
    tmp_path: Path, sockets: dict[str, list[tuple[str, str]]], found: list[str]
) -> None:
    assert resolvers.listening(BRIDGE, tables(tmp_path, **sockets)) == found


def test_an_allowlist_is_refused_and_others_are_warned_of(tmp_path: Path) -> None:
    proc = tables(tmp_path, udp=[(OWN, "07"), (BRIDGES, "07")])
    stamp = tmp_path / "stamp"
    said: list[str] = []
    with pytest.raises(RefusedError, match="other resolvers") as caught:
        resolvers.check(ALLOWLIST, BRIDGE, said.append, stamp=stamp, proc=proc)
    assert "sudo coi network guard --load" in caught.value.hint
    assert "10.213.77.1" in caught.value.details
    with pytest.raises(RefusedError):
        resolvers.check(ALLOWLIST, BRIDGE, stamp=stamp, proc=proc)
    resolvers.check(RESTRICTED, BRIDGE, stamp=stamp, proc=proc)
    assert said == []
    resolvers.check(RESTRICTED, BRIDGE, said.append, stamp=stamp, proc=proc)
    assert len(said) == 1
    tables(tmp_path, udp=[(OWN, "07")])  # the control: nothing else listens
    resolvers.check(ALLOWLIST, BRIDGE, said.append, stamp=stamp, proc=proc)
    assert len(said) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root leaves the stamp")
def test_the_stamp_is_roots_of_this_boot_and_of_these_rules(tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    assert not resolvers.guarded(stamp)
    right = Path("/proc/sys/kernel/random/boot_id").read_text() + DNS_GUARD
    stamp.write_text(right)
    assert resolvers.guarded(stamp)
    for wrong in ("another boot\n" + DNS_GUARD, right.replace("reject", "accept"), ""):
        stamp.write_text(wrong)
        assert not resolvers.guarded(stamp)
    stamp.write_text(right)
    stamp.chmod(0o666)
    assert not resolvers.guarded(stamp), "anybody could have written it"
    stamp.chmod(0o644)
    os.chown(stamp, 1000, 1000)
    assert not resolvers.guarded(stamp), "it is not root's"
    link = tmp_path / "link"
    os.chown(stamp, 0, 0)
    link.symlink_to(stamp)
    assert not resolvers.guarded(link)
