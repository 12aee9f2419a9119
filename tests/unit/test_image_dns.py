"""Whether a container's DNS is repaired, and that a repair which does not help is undone."""

from __future__ import annotations

import pytest

from coi.errors import CoiError, ConfigError
from coi.image import dns
from coi.image.dns import Facts, Verdict, decide
from coi.incus.process import Completed


class Inside:
    """Answers the probes in order and remembers what ran."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.scripts: list[str] = []

    def __call__(self, script: str) -> Completed:
        self.scripts.append(script)
        text = self.answers.pop(0) if dns.PROBE in script else ""
        return Completed(("sh",), 0, text.encode(), b"")

    def ran(self, part: str) -> bool:
        return any(part in script for script in self.scripts)


DEAD = "network=yes resolves=no servers=127.0.0.53 "
ALIVE = "network=yes resolves=yes servers=10.0.0.1 "


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        (Facts(True, True, ("10.0.0.1",)), Verdict.FINE),
        (Facts(True, True, ("127.0.0.53",)), Verdict.FINE),
        (Facts(True, False, ("127.0.0.53",)), Verdict.REPAIR),
        (Facts(True, False, ("10.0.0.1",)), Verdict.REPAIR),
        (Facts(True, False, ()), Verdict.REPAIR),
        (Facts(False, False, ("127.0.0.53",)), Verdict.NO_NETWORK),
    ],
)
def test_decision(facts: Facts, verdict: Verdict) -> None:
    assert decide(facts) is verdict


def test_facts_are_parsed() -> None:
    text = "some warning\nnetwork=yes resolves=no servers=127.0.0.53 fe80::1%eth0 \n"
    assert Facts.parse(text) == Facts(True, False, ("127.0.0.53", "fe80::1%eth0"))
    assert Facts.parse("network=no resolves=no servers=") == Facts(False, False)
    for bad in ("", "sh: not found\n", "network=yes"):
        with pytest.raises(CoiError, match="cannot tell"):
            Facts.parse(bad)


def test_the_hosts_stub_is_recognised() -> None:
    assert Facts(True, False, ("127.0.0.53",)).stub
    assert Facts(True, False, ("127.0.0.1", "::1")).stub
    assert not Facts(True, False, ("127.0.0.53", "10.0.0.1")).stub
    assert not Facts(True, False, ()).stub


def test_nothing_is_written_where_dns_works() -> None:
    inside = Inside(ALIVE)
    assert dns.ensure(inside, "deb.test", ["10.9.9.9"]) == ""
    assert len(inside.scripts) == 1


def test_a_repair_that_helps() -> None:
    inside = Inside(DEAD, ALIVE)
    said = dns.ensure(inside, "deb.test", ["10.9.9.9", "10.9.9.8"])
    assert "stub" in said
    assert "127.0.0.53" in said
    assert "10.9.9.9, 10.9.9.8" in said
    assert inside.ran("set -- 10.9.9.9 10.9.9.8\n")
    assert not inside.ran(dns.UNDO)


def test_a_repair_that_does_not_help_is_undone() -> None:
    inside = Inside(DEAD, DEAD)
    with pytest.raises(CoiError, match=r"cannot resolve deb\.test") as caught:
        dns.ensure(inside, "deb.test", ["10.9.9.9"])
    assert "10.9.9.9" in caught.value.details
    assert inside.ran(dns.UNDO)


def test_without_a_network_nothing_is_repaired() -> None:
    inside = Inside("network=no resolves=no servers=")
    with pytest.raises(CoiError, match="no network"):
        dns.ensure(inside, "deb.test", ["10.9.9.9"])
    assert not inside.ran(dns.REPAIR)


def test_without_servers_nothing_is_repaired() -> None:
    inside = Inside(DEAD)
    with pytest.raises(CoiError, match="cannot resolve"):
        dns.ensure(inside, "deb.test", [])
    assert not inside.ran(dns.REPAIR)


def test_a_server_is_an_address() -> None:
    with pytest.raises(ConfigError, match="not an IP address"):
        dns.ensure(Inside(), "deb.test", ["10.9.9.9; rm -rf /"])


def test_the_name_is_quoted() -> None:
    inside = Inside(ALIVE)
    dns.ensure(inside, "a b;$(id)", [])
    assert inside.scripts[0].startswith("set -- 'a b;$(id)' 10\n")
