"""A policy is set up and a step fails: nothing runs with more than its mode allows.

The client that coi calls is the real one behind a script that counts the calls which have to
do with networks, and spoils one of them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
from netbox import BLOCKED, PUBLIC
from piping import module_host

from coi.testing.host import Host
from coi.testing.machine import Result, User, query, wait_for

# The COUNTth call to networks, ACLs or profiles: HOW is what happens to it.
_CLIENT = """#!/bin/sh
case "$*" in
  *" /1.0/networks"*|*" /1.0/network-acls"*|*" /1.0/profiles"*)
    echo "$*" >>"$CALLS"
    if [ "$(wc -l <"$CALLS")" = "$COUNT" ]; then
      case $HOW in
        refused) echo "$REPLY"; exit 0 ;;
        unreachable)
          echo 'Error: Get "http://unix.socket/1.0": EOF' >&2; exit 1 ;;
        lost)
          /usr/bin/incus "$@" >/dev/null 2>&1
          echo 'Error: Post "http://unix.socket/1.0": EOF' >&2; exit 1 ;;
        killed)
          /usr/bin/incus "$@" >/dev/null 2>&1
          kill -9 "$PPID"; exit 1 ;;
      esac
    fi ;;
esac
exec /usr/bin/incus "$@"
"""
_FORBIDDEN = {"type": "error", "status": "", "status_code": 0, "operation": "",
              "error_code": 403, "error": "not authorized", "metadata": None}  # fmt: skip
REACH = f"exec 3<>/dev/tcp/{BLOCKED[0]}/8000 && echo reached; echo fenced"
_MOST = 40  # calls that no set-up has


class Faulty:
    """A host whose client can be spoilt."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.marks = host.directory("marks")
        host.write("bin/incus", _CLIENT, 0o755)
        self.path = f"{host.root / 'bin'}:{host.environ['PATH']}"

    def coi(self, how: str, count: int, *args: str) -> tuple[Result, list[str]]:
        """Run coi; the result, and the calls that count."""
        calls = self.marks / secrets.token_hex(4)  # a refresher goes on with its own
        environ = {
            "PATH": self.path, "HOW": how, "COUNT": str(count),
            "CALLS": str(calls), "REPLY": json.dumps(_FORBIDDEN),
            "COI_NETWORK_ALLOWED_DOMAINS": f"{PUBLIC},name.invalid",
        }  # fmt: skip
        done = self.host.coi(*args, environ=environ)
        return done, calls.read_text().splitlines()

    def clean(self) -> None:
        """Nothing is left, once the daemon has done with the last instance."""

        def swept() -> bool:
            self.host.coi("clean", "--force").ok()
            return not self.host.instances() and not left(self.host)

        wait_for(swept, what=lambda: f"{self.host.instances()} {left(self.host)}")


@pytest.fixture(scope="module")
def faulty(daemon: None, image: str, user: User, testhosts: None) -> Iterator[Faulty]:
    """One world; each step begins with none of its networks."""
    with module_host(Host.make(user, image)) as host:
        made = Faulty(host)
        yield made
        made.clean()


def left(host: Host) -> list[str]:
    """Networks and ACLs of this world."""
    rows = query("/1.0/networks?recursion=1") + query("/1.0/network-acls?recursion=1")
    mine = [row for row in rows if (row["config"] or {}).get("user.coi.prefix") == host.prefix]
    return sorted(row["name"] for row in mine)


@pytest.mark.parametrize(
    ("how", "mode"),
    [
        ("refused", "allowlist"), ("unreachable", "restricted"),
        ("lost", "allowlist"), ("killed", "restricted"),
    ],
)  # fmt: skip
def test_every_step(faulty: Faulty, mode: str, how: str) -> None:
    """What runs is fenced, what fails says so; no instance is left, of networks all or nothing."""
    host = faulty.host
    assert "reached" in host.coi("--network=open", "run", REACH).ok().out, "the control"
    wrong = []
    for count in range(1, _MOST):
        faulty.clean()
        done, calls = faulty.coi(how, count, f"--network={mode}", "run", REACH)
        if len(calls) < count:
            assert done.ok().out == "fenced\n"
            break
        bad = []
        if "reached" in done.out:
            bad.append("it has reached what it must not")
        if how != "killed":
            wait_for(lambda: host.instances() == {}, what="no instance is left")
            # all of a policy's network is there for the next start, or nothing is
            found = left(host)
            if len(found) != whole(mode) and (found or done.code == 0):
                bad.append(f"left {found}")
            if done.code != 0 and ("Error: " not in done.err or "Traceback" in done.err):
                bad.append("it does not say why")
        if bad:
            wrong.append((count, calls[count - 1][:120], bad, done.code, done.err))
    else:
        raise AssertionError("no end of calls")
    assert wrong == []
    assert count > 5
    faulty.clean()


def whole(mode: str) -> int:
    """How many networks and ACLs a policy's network is made of."""
    return {"restricted": 2, "allowlist": 3}[mode]
