"""Netfilter's lines of one container in the kernel's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from coi.errors import UnavailableError
from coi.network.log import from_kernel, from_ovn, parse, parse_ovn

HEAD = "4,100,1500000,-;"
OURS = "IN=coi-1 OUT=eth0 MAC=00:11 SRC=10.1.2.3 DST=10.0.0.1 LEN=60 PROTO=TCP SPT=4000 DPT=22 SYN"


def rows(*texts: str) -> list[tuple[object, ...]]:
    records = [text if ";" in text else HEAD + text + "\n" for text in texts]
    return [tuple(r.as_data().values()) for r in parse(records, "coi-1", "10.1.2.3", booted=10.0)]


def test_what_is_the_container_s() -> None:
    assert rows("coi-1-egress " + OURS) == [
        ("1970-01-01T00:00:11Z", "egress", "10.0.0.1", "tcp", 22)
    ]
    back = OURS.replace("IN=coi-1 OUT=eth0", "IN=eth0 OUT=coi-1")
    back = back.replace("SRC=10.1.2.3 DST=10.0.0.1", "SRC=10.0.0.1 DST=10.1.2.3")
    assert rows(back) == [("1970-01-01T00:00:11Z", "ingress", "10.0.0.1", "tcp", 22)]
    ping = OURS.replace("PROTO=TCP SPT=4000 DPT=22 SYN", "PROTO=ICMP TYPE=8 CODE=0")
    assert rows(ping)[0][3:] == ("icmp", None)


@pytest.mark.parametrize(
    "record",
    [
        OURS.replace("coi-1", "coi-2"),
        OURS.replace("10.1.2.3", "10.1.2.33"),
        "coi-1: port 1(veth) entered blocking state",
        "IN=coi-1",
        "",
        ";" + OURS,
        "4,100;" + OURS,
        "x,y,z,-;" + OURS,
        HEAD + "a line\n IN=coi-1 SRC=10.1.2.3 DST=10.0.0.1 PROTO=TCP DPT=22",
        OURS.replace("DPT=22", "DPT=x"),
    ],
)
def test_what_is_not(record: str) -> None:
    assert rows(record) == []


def test_a_log_that_is_not_open_says_who_can(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        from_kernel("coi-1", "10.1.2.3", source=tmp_path / "none")
    assert "dmesg | grep coi-1" in caught.value.hint


UUID = "34d81531-0f7d-441b-9663-41fd65c9b1a1"
# As ovn-controller 23.03 wrote it (measured).
OVN_LINE = (
    f'2026-11-24T13:25:34.128Z|00007|acl_log(ovn_pinctrl0)|INFO|name="{UUID}-eth0-egress",'
    " verdict=reject, severity=info, direction=to-lport: tcp,vlan_tci=0x0000,"
    "dl_src=10:66:6a:51:89:c6,dl_dst=10:66:6a:ff:2e:15,nw_src=10.77.0.2,nw_dst=10.99.0.1,"
    "nw_tos=0,nw_ecn=0,nw_ttl=64,nw_frag=no,tp_src=50444,tp_dst=8000,tcp_flags=syn"
)


def ovn_rows(*lines: str) -> list[tuple[object, ...]]:
    return [tuple(r.as_data().values()) for r in parse_ovn(lines, UUID)]


def test_what_ovn_refused() -> None:
    assert ovn_rows(OVN_LINE) == [("2026-11-24T13:25:34Z", "egress", "10.99.0.1", "tcp", 8000)]
    ingress = OVN_LINE.replace("egress", "ingress")
    assert ovn_rows(ingress) == [("2026-11-24T13:25:34Z", "ingress", "10.77.0.2", "tcp", 8000)]
    six = OVN_LINE.replace("tcp,vlan", "udp6,vlan").replace("nw_dst=10.99.0.1", "ipv6_dst=ff02::1")
    assert ovn_rows(six)[0][2:] == ("ff02::1", "udp", 8000)
    ping = OVN_LINE.replace("tcp,vlan", "icmp,vlan").replace(",tp_src=50444,tp_dst=8000", "")
    assert ovn_rows(ping)[0][3:] == ("icmp", None)


@pytest.mark.parametrize(
    "line",
    [
        OVN_LINE.replace(UUID, "11111111-0f7d-441b-9663-41fd65c9b1a1"),
        OVN_LINE.replace("verdict=reject", "verdict=allow"),
        OVN_LINE.replace("-egress", "-sideways"),
        OVN_LINE.replace("acl_log", "other"),
        "",
    ],
)
def test_what_ovn_says_of_others(line: str) -> None:
    assert ovn_rows(line) == []


def test_a_log_of_ovn_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        from_ovn(UUID, source=tmp_path / "none")
    assert f"grep {UUID}" in caught.value.hint
