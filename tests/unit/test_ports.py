"""What ``--publish`` and ``[ports]`` take, and the devices that come of it."""

from __future__ import annotations

import pytest

from coi.config import ports as entries
from coi.errors import UsageError
from coi.workspace.ports import devices


@pytest.mark.parametrize(
    ("text", "listen", "connect"),
    [
        ("8080:80", "tcp:127.0.0.1:8080", "tcp:127.0.0.1:80"),
        ("0.0.0.0:8080:80", "tcp:0.0.0.0:8080", "tcp:127.0.0.1:80"),
        ("[::1]:8080:80", "tcp:[::1]:8080", "tcp:127.0.0.1:80"),
        ("[0:0::1]:1:65535/udp", "udp:[::1]:1", "udp:127.0.0.1:65535"),
        ("192.0.2.1:53:53/udp", "udp:192.0.2.1:53", "udp:127.0.0.1:53"),
    ],
)
def test_a_port_is_a_proxy_device(text: str, listen: str, connect: str) -> None:
    expected = {"port1": {"type": "proxy", "listen": listen, "connect": connect}}
    assert devices((), [text]) == expected
    assert devices([entries.entry(text)], [text]) == expected, "the same again is the same"


@pytest.mark.parametrize(
    "text",
    ["", "80", "80:", ":80", "0:80", "80:0", "65536:80", "80:65536", "1:2:3", "a:1:2", "-1:80",
     "300.0.0.1:1:2", "::1:80:80", "[::1:80:80", "[127.0.0.1]:80:80/sctp", "80:80/TCP", "8080:80 ",
     "8080:80\n", "٨٠:80", "127.0.0.1:8080:80:90", "[fe80::1%eth0]:1:2"],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        devices((), [text])
    assert caught.value.exit_code == 2
    assert "8080:80" in caught.value.hint


def test_a_host_port_leads_to_one_place() -> None:
    with pytest.raises(UsageError, match="published twice"):
        devices((), ["8080:80", "127.0.0.1:8080:81"])
    both = devices((), ["8080:80", "8080:80/udp", "127.0.0.2:8080:80"])
    assert sorted(both) == ["port1", "port2", "port3"]
