"""A policy attached for real, at the level of the library, and probes from inside.

Probes go to addresses of this machine alone (fixtures/testhosts).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from coi.incus.client import Client
from coi.incus.process import Runner
from coi.network import resolvers
from coi.network.attachment import Scope
from coi.network.fence import Answers, Fence
from coi.network.policy import Policy
from coi.network.sweep import sweep
from coi.testing.machine import incus, query

FIXTURES = Path(__file__).parents[2] / "fixtures"
PUBLIC, OTHER = "198.51.100.10", "198.51.101.10"
BLOCKED = ("10.99.0.1", "172.31.99.1", "192.168.99.1", "169.254.169.254")
ANSWERS = {"pub.example": (IPv4Address(PUBLIC),)}
ALLOWLIST = Policy("allowlist", domains=("pub.example",), logged=True)
RESTRICTED = Policy("restricted")

# host:port, or host:port:name to ask a resolver there; prints one word for each
PROBE = r"""
import socket, struct, sys
def ask(host, port, name):
    q = struct.pack(">6H", 7, 256, 1, 0, 0, 0)
    q += b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\1\0\1"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(4)
    s.connect((host, port)); s.send(q); r = s.recv(4096)
    if r[3] & 15 or not r[7]: return "none"
    return ".".join(map(str, r[-4:]))
for word in sys.argv[1:]:
    host, port, *name = word.split(",")
    try:
        if name: print(ask(host, int(port), *name)); continue
        socket.create_connection((host, int(port)), 4).close(); print("open")
    except OSError: print("closed")
"""


# Connects to two addresses, each in turns, until its input ends; then four numbers. Before
# that, for each line of its input, whether a connection that it holds to the second answers.
_TRAFFIC = r"""
import socket, sys, threading
allowed, denied, got = sys.argv[1], sys.argv[2], [0, 0, 0, 0]
held = []
if len(sys.argv) > 3:
    held = [socket.create_connection((host, 8000), 10) for host in (allowed, denied)]
print("begun", flush=True)
def answers(held):
    held.settimeout(5)
    try:
        held.send(b"GET / HTTP/1.0\r\n\r\n")
        return "kept" if held.recv(4) == b"HTTP" else "cut"
    except OSError: return "cut"
if held:
    sys.stdin.readline()
    print(answers(held[1]), flush=True)
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
def tries(host, at, wait):
    while not over.is_set():
        try: socket.create_connection((host, 8000), wait).close(); got[at] += 1
        except OSError: got[at + 1] += 1
        over.wait(0.005)
both = [threading.Thread(target=tries, args=a) for a in ((allowed, 0, 2), (denied, 2, 0.3))]
[t.start() for t in both]; [t.join() for t in both]
print(*got, answers(held[0]) if held else "none", flush=True)
over.wait(0.1)
"""


class Seen(NamedTuple):
    """What became of connections to an allowed and to a denied address, and of one held."""

    passed: int
    lost: int
    leaked: int
    refused: int
    held: str


class Traffic:
    """Connections from inside a container, in turns to an allowed and to a denied address.

    Args:
        hold: one to each is opened first, and held; then :meth:`revoked` comes first.
        command: what runs another command in the container's network.
    """

    def __init__(
        self,
        name: str,
        allowed: str,
        denied: str,
        *,
        hold: bool = False,
        command: Sequence[str] = (),
    ) -> None:
        enter = command or ["incus", "exec", name, "-T", "--"]
        words = [*enter, "python3", "-c", _TRAFFIC, allowed, denied]
        self._process = subprocess.Popen(
            [*words, *(["hold"] if hold else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Traffic:
        assert self._said() == "begun"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def revoked(self) -> str:
        """Whether the connection to what is now denied is ``kept`` or ``cut``; then it begins."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._said()

    def end(self) -> Seen:
        """Stop, and say what was seen."""
        out, _ = self._process.communicate(timeout=30)
        passed, lost, leaked, refused, held = out.split()
        return Seen(int(passed), int(lost), int(leaked), int(refused), held)


@contextmanager
def guard(loaded: bool) -> Iterator[None]:
    """The guard of the host's resolvers is loaded meanwhile, or is not; as root."""
    table = ["table", "inet", "coi_dns"]
    rules = not subprocess.run(["nft", "list", *table], capture_output=True, check=False).returncode
    stamp = resolvers.guarded()

    def have(rules: bool, stamp: bool) -> None:
        resolvers.load()
        if not rules:
            subprocess.run(["nft", "delete", *table], check=True)
        if not stamp:
            resolvers.STAMP.unlink()

    have(loaded, loaded)
    try:
        yield
    finally:
        have(rules, stamp)


@contextmanager
def port_53_guard() -> Iterator[None]:
    """OVN lets nothing pass by its source port alone meanwhile (docs/network.md); as root."""
    done = subprocess.run(["ovn-nbctl", "ls-list"], capture_output=True, check=True, text=True)
    found = re.search(r"incus-net(\d+)-ls-int", done.stdout)
    assert found, done.stdout
    of_instances = f"inport == @incus_net{found[1]}"  # the router's own: names from outside
    rule = [found[0], "from-lport", "32767", f"{of_instances} && udp.src == 53"]
    subprocess.run(["ovn-nbctl", "--wait=hv", "--may-exist", "acl-add", *rule, "drop"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ovn-nbctl", "acl-del", *rule], check=True)


def kept_answers(directory: Path) -> list[Path]:
    """The files of answers of a coi home: each is named by its policy's hash."""
    return [path for path in directory.glob("*.json") if re.fullmatch("[0-9a-f]+", path.stem)]


def age(directory: Path) -> None:
    """Make every answer an hour old."""
    for path in kept_answers(directory):
        row = json.loads(path.read_text())
        for answer in row["answers"].values():
            answer["resolved_at"] = "2026-01-01T00:00:00+00:00"
        path.write_text(json.dumps(row))


class World:
    """One test's scope, and what it makes in Incus."""

    def __init__(self, directory: Path, image: str) -> None:
        token = secrets.token_hex(3)
        self.image = image
        self.prefix = f"nb{token}-"
        self.runner = Runner()
        self.client = Client(self.runner)
        self.scope = Scope(self.prefix, os.getuid(), directory / "network", f"nb:{token}")

    def fence(
        self,
        policy: Policy = ALLOWLIST,
        *,
        backend: str = "bridge",
        profile: str = "default",
        answers: Answers = ANSWERS,
    ) -> Fence:
        return Fence(self.client, self.scope, policy, answers, backend, profile)

    def destinations(self, acl: str) -> set[str]:
        """What the ACL lets out to, but for the resolver."""
        rules = query(f"/1.0/network-acls/{acl}")["egress"]
        found = [rule["destination"] for rule in rules if rule.get("destination_port") != "53"]
        return {word for text in found for word in text.split(",")}

    def objects(self) -> list[str]:
        """Networks and ACLs that carry the prefix."""
        rows = [("network", row) for row in query("/1.0/networks?recursion=1")]
        rows += [("acl", row) for row in query("/1.0/network-acls?recursion=1")]
        key = "user.coi.prefix"
        return sorted(kind for kind, row in rows if (row["config"] or {}).get(key) == self.prefix)

    def launch(self, number: int, device: dict[str, str], profile: str = "default") -> str:
        """An instance with this eth0, once it has its address."""
        name = f"{self.prefix}{number}"
        body = {
            "name": name, "type": "container", "start": True, "profiles": [profile],
            "source": {"type": "image", "alias": self.image}, "devices": {"eth0": device},
        }  # fmt: skip
        self.client.query("POST", "/1.0/instances", body=body, wait=True)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            if incus("exec", name, "--", "ip", "-4", "route", "show", "default").out.strip():
                return name
            time.sleep(0.05)
        raise AssertionError(f"{name} has no address")

    def probe(self, name: str, *words: str) -> list[str]:
        return incus("exec", name, "--", "python3", "-c", PROBE, *words).ok().out.split()

    def close(self) -> None:
        for row in query("/1.0/instances"):
            if (name := row.rsplit("/", 1)[1]).startswith(self.prefix):
                incus("delete", "--force", name)
        sweep(self.client, self.scope)
