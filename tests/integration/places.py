"""A backend with containers of every mode on it, what they are asked to reach, and what answers.

Probes go to addresses of this machine alone: hosts in namespaces (fixtures/testhosts), the
host itself, and other containers of the test.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from netbox import OTHER, PUBLIC, age

from coi.testing.host import Host
from coi.testing.machine import incus, query, wait_for

LISTED, UNLISTED = "listed.coi-test", "unlisted.coi-test"
MODES = ("restricted", "allowlist", "open")
HOSTS = Path("/etc/hosts")
FOREIGN = {
    "10/8": "10.99.0.1",
    "172.16/12": "172.31.99.1",
    "192.168/16": "192.168.99.1",
    "metadata": "169.254.169.254",
}
OWN = "198.51.102.1"  # an address of the host that looks like a public one
OWN6 = "2001:db8:c01::1"
LOW = 985  # a port that only root opens

# Arguments: a JSON object of names to what is tried. Prints one of names to whether it was
# reached, or to the address of the name. Written for root inside.
PROBE = r"""
import concurrent.futures, json, random, socket, struct, sys
socket.setdefaulttimeout(4)
def split(to):
    host, port = to.rsplit(":", 1)
    return host.strip("[]"), int(port)
def connects(to, source=None):
    for family, _, _, _, at in socket.getaddrinfo(*split(to), 0, 1):
        s = socket.socket(family)
        if source: s.bind((source, 0))
        try: s.connect(at); return True
        except OSError: pass
    return False
def answers(to, text, port=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", int(port)))
    s.connect(split(to))
    for _ in range(2):
        s.send(text.encode())
        try: return s.recv(99) == text.encode()
        except TimeoutError: pass
    return False
def asks(server, name, tcp=False):
    q = struct.pack(">6H", 7, 256, 1, 0, 0, 0)
    q += b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\1\0\1"
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    s.connect((server, 53)); s.send((struct.pack(">H", len(q)) if tcp else b"") + q)
    r = s.recv(4096)
    if tcp: r = (r + s.recv(4096))[2:] if len(r) == 2 else r[2:]
    return bool(r[7])
def pings(host):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    # Open vSwitch's NAT keeps the id: two containers with the same one would be one connection.
    me = random.randrange(0x1000, 0xf000)
    head = struct.pack(">BBHHH", 8, 0, 0xffff - (0x0800 + me + 1) % 0xffff, me, 1)
    s.settimeout(1)
    for _ in range(4):
        s.sendto(head, (host, 0))
        try:
            while True:
                data, (sender, _) = s.recvfrom(2000)
                if sender == host: return data[20] == 0
        except TimeoutError: pass
    return False
kinds = {"tcp": connects, "udp": answers, "name": socket.gethostbyname, "ask": asks, "ping": pings}
def probe(words):
    kind, *rest = words.split()
    try: return kinds[kind](*rest)
    except OSError: return False
wanted = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(wanted)) as pool:
    print(json.dumps(dict(zip(wanted, pool.map(probe, wanted.values())))))
"""

# The server that the second container of a mode runs.
_SERVER = (
    "python3 -c \"import socket; s = socket.create_server(('::', 8000), family=socket.AF_INET6,"
    ' dualstack_ipv6=True)\nwhile True: s.accept()[0].close()" >/dev/null 2>&1 &'
)

# A resolver that knows every name: it says where it listens once it does.
_RESOLVER = r"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print(flush=True)
while True:
    q, sender = s.recvfrom(512)
    a = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes(map(int, "198.51.100.10".split(".")))
    s.sendto(q[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + q[12:] + a, sender)
"""
RESOLVERS = {"ovt10": FOREIGN["10/8"], "ovtpub": PUBLIC, "": OWN}  # namespace to address


@dataclass
class Answering:
    """What the host itself answers with, on all of its addresses.

    Attributes:
        ports: TCP.
        udp: a port that sends back what it gets.
        heard: all that came there.
    """

    ports: tuple[int, ...]
    udp: int
    heard: set[str] = field(default_factory=set)


@contextmanager
def answering() -> Iterator[Answering]:
    """Servers of the host, one more address of it, names, and resolvers outside; as root."""
    both = ((f"{OWN}/32", "lo"), (f"{OWN6}/128", "lo"))
    for address, device in both:
        subprocess.run(["ip", "addr", "replace", address, "dev", device], check=True)
    names = HOSTS.read_text()
    HOSTS.write_text(f"{names.rstrip()}\n{OTHER} {LISTED}\n{PUBLIC} {UNLISTED}\n")
    servers = [
        socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=99)
        for port in (0, LOW)
    ]
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IP, _PKTINFO, 1)
    echo.bind(("0.0.0.0", 0))  # noqa: S104 - for the probes
    found = Answering(tuple(s.getsockname()[1] for s in servers), echo.getsockname()[1])
    works = [threading.Thread(target=_accept, args=(server,)) for server in servers]
    works.append(threading.Thread(target=_echo, args=(echo, found.heard)))
    resolvers = [_resolver(*where) for where in RESOLVERS.items()]
    for work in works:
        work.start()
    try:
        yield found
    finally:
        for server in (*servers, echo):
            with suppress(OSError):  # of a datagram socket, which has no peer
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        for work in works:
            work.join(10)
        for process in resolvers:
            process.kill()
            process.communicate()
        HOSTS.write_text(names)
        for address, device in both:
            subprocess.run(["ip", "addr", "del", address, "dev", device], check=True)


_PKTINFO = 8  # IP_PKTINFO of linux/in.h, which the module socket does not name before 3.14


def _accept(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def _echo(echo: socket.socket, heard: set[str]) -> None:
    """Send back what comes, from the address that it came to (ip(7), IP_PKTINFO)."""
    with suppress(OSError):
        while True:
            data, more, _, sender = echo.recvmsg(200, 64)
            if not sender:  # shut down
                return
            heard.add(data.decode("ascii", "replace"))
            to = next(value for _, kind, value in more if kind == _PKTINFO)
            source = struct.pack("=I4s4x", 0, to[8:12])
            echo.sendmsg([data], [(socket.IPPROTO_IP, _PKTINFO, source)], 0, sender)


def _resolver(namespace: str, address: str) -> subprocess.Popen[str]:
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    command = [*inside, "python3", "-c", _RESOLVER, address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "\n", f"a resolver at {address}"
    return process


@dataclass
class Place:
    """A backend, and two containers of each mode on it."""

    host: Host
    backend: str
    answering: Answering

    def name(self, mode: str, number: int = 1) -> str:
        return f"{self.host.prefix}{mode}{number}"

    def launch(self, mode: str, number: int) -> None:
        environ = {"COI_NETWORK_ALLOWED_DOMAINS": LISTED, "COI_NETWORK_LOGGING_ENABLED": "true"}
        flags = (f"--network={mode}", "container", "launch", self.host.image)
        self.host.coi(*flags, self.name(mode, number), environ=environ).ok()

    def furnish(self) -> None:
        """Two containers of each mode, IPv6 of their own, and a server in the second."""
        for mode in MODES:
            for number in (1, 2):
                self.launch(mode, number)
                ula = f"ip -6 addr add {self.ula(mode, number)}/64 dev eth0 nodad || true"
                self.root(mode, ula, number)
            self.root(mode, _SERVER, 2)
            if self.backend == "bridge":
                there = self.host_v6(mode)
                self.root(mode, f"ip -6 addr add {there[:-1]}2/64 dev eth0 nodad || true;"
                          f" ip -6 route add {OWN6} via {there} || true")  # fmt: skip

    def ula(self, mode: str, number: int) -> str:
        """An IPv6 address of a container; on OVN all of them are on one switch."""
        return f"fd00:c01:{MODES.index(mode)}::{number}"

    def host_v6(self, mode: str) -> str:
        """The host's IPv6 address on the bridge of a mode."""
        return f"fd00:c02:{MODES.index(mode)}::1"

    @contextmanager
    def on_v6(self) -> Iterator[None]:
        """The host has an IPv6 address on each bridge meanwhile, as on a bridge with IPv6."""
        places = {self.network(mode): f"{self.host_v6(mode)}/64" for mode in MODES}
        off = {device: Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6") for device in places}
        before = {device: path.read_text() for device, path in off.items()}
        try:
            for device, address in places.items():
                off[device].write_text("0")
                add = ["ip", "-6", "addr", "replace", address, "dev", device, "nodad"]
                subprocess.run(add, check=True)
            yield
        finally:
            for device, address in places.items():
                subprocess.run(["ip", "-6", "addr", "del", address, "dev", device], check=False)
                off[device].write_text(before[device])

    def root(self, mode: str, script: str, number: int = 1) -> str:
        """Output of a shell script as root inside."""
        return incus("exec", self.name(mode, number), "--", "sh", "-c", script).ok().out

    def probe(self, mode: str, wanted: dict[str, str]) -> dict[str, object]:
        done = incus(
            "exec", self.name(mode), "--", "python3", "-c", PROBE, json.dumps(wanted), timeout=200
        )
        found: dict[str, object] = json.loads(done.ok().out)
        return found

    def becomes(self, mode: str, tried: dict[str, str], wanted: dict[str, object]) -> None:
        """Wait until a refresh, which is due meanwhile, has had its effect."""

        def became() -> bool:
            age(self.host.coi_home / "network")  # a refresh under way writes its own time
            return self.probe(mode, tried) == wanted

        wait_for(became, what=f"{wanted}")

    def address(self, mode: str, number: int = 1) -> str:
        return self.root(mode, "hostname -I", number).split()[0]

    def gateway(self, mode: str) -> str:
        """What the container takes for its router."""
        return self.root(mode, "ip -4 route show default").split()[2]

    def network(self, mode: str) -> str:
        """Of the container's NIC."""
        devices = query(f"/1.0/instances/{self.name(mode)}")["expanded_devices"]
        return str(devices["eth0"]["network"])

    def link_local(self, mode: str, number: int = 2) -> str:
        text = self.root(mode, "ip -6 -o addr show dev eth0 scope link", number)
        found = re.search(r"inet6 (fe80::[0-9a-f:]+)", text)
        assert found, f"{text!r}: IPv6 is on inside"
        return found[1]
