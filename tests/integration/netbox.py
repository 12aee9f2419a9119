"""A policy attached for real, at the level of the library, and probes from inside.

Probes go to addresses of this machine alone (fixtures/testhosts).
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from harness import incus, query

from coi.incus.client import Client
from coi.incus.process import Runner
from coi.network import resolvers
from coi.network.attachment import Scope
from coi.network.fence import Answers, Fence, sweep
from coi.network.policy import Policy

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


def refreshers(home: Path) -> list[int]:
    """Processes that keep something of a coi home right; not the children that they have."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_text().split("\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if "coi.network.refresher" in words and any(w.startswith(str(home)) for w in words):
                found[int(entry.name)] = parent
    return [number for number, parent in found.items() if parent not in found]


def age(directory: Path) -> None:
    """Make every answer an hour old."""
    for path in directory.glob("?" * 32 + ".json"):
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
