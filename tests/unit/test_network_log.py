"""Netfilter's lines of one container in the kernel's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from coi.errors import UnavailableError
from coi.network.log import from_kernel, parse

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
