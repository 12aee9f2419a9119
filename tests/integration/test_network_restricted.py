"""A user who may not make networks: a restricted certificate, as incus-user hands out.

The client talks to a socket behind which every request goes to the daemon by TLS with a
certificate that is restricted to one project, which is what incus-user(1) does for members
of the group ``incus`` (Incus documentation, "How to confine users to specific projects").
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from netbox import PUBLIC, guard
from piping import module_host
from places import HOSTS

from coi.testing.host import Host
from coi.testing.machine import User, incus, query, wait_for

PROJECT = "coi-test-confined"
_KEYS = {
    "features.images": "false",
    "features.networks": "false",
    "features.profiles": "true",
    "features.storage.volumes": "false",
    "restricted": "true",
    "restricted.containers.nesting": "allow",
    "restricted.containers.interception": "allow",
    "restricted.devices.disk": "allow",
}


class Relay:
    """A socket that leads to Incus's own port, by a thread that :meth:`end` ends."""

    def __init__(self, *to: Any) -> None:
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(*to)))

    async def _run(self, socket: Path, port: int, tls: ssl.SSLContext) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with await _relay(socket, port, tls):
            socket.chmod(0o666)
            self._up.set()
            await self._over.wait()

    def begin(self) -> None:
        self._thread.start()
        assert self._up.wait(10)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


async def _relay(socket: Path, port: int, tls: ssl.SSLContext) -> asyncio.Server:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer))

    return await asyncio.start_unix_server(take, socket)


@contextmanager
def resolved(address: str, name: str) -> Iterator[None]:
    """The host has an address for a name meanwhile."""
    before = HOSTS.read_text()
    HOSTS.write_text(f"{before.rstrip()}\n{address} {name}\n")
    try:
        yield
    finally:
        HOSTS.write_text(before)


@pytest.fixture(scope="module")
def confined(daemon: None, image: str, user: User) -> Iterator[Host]:
    """A host whose coi reaches Incus with that certificate only."""
    if os.getuid() != 0:
        pytest.skip("only an administrator of Incus makes projects and certificates")
    with module_host(Host.make(user, image)) as host:
        key, crt = host.root / "key.pem", host.root / "crt.pem"
        subject = ["-subj", "/CN=coi-test", "-days", "2", "-nodes"]
        kind = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"]
        made = ["openssl", *kind, "-keyout", str(key), "-out", str(crt), *subject]
        subprocess.run(made, check=True, capture_output=True)
        before = incus("config", "get", "core.https_address").ok().out.strip()
        try:
            incus("config", "set", "core.https_address", "127.0.0.1:18443").ok()
            pairs = [word for item in _KEYS.items() for word in ("-c", "=".join(item))]
            incus("project", "create", PROJECT, *pairs).ok()
            default = incus("profile", "show", "default").ok().out
            default = re.sub(r"used_by:.*", "used_by: []", default, flags=re.DOTALL)
            edit = ("profile", "edit", "default", "--project", PROJECT)
            incus(*edit, stdin=default.encode()).ok()
            trust = ("config", "trust", "add-certificate", str(crt), "--name", "coi-test")
            incus(*trust, "--restricted", "--projects", PROJECT).ok()
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            tls.load_cert_chain(crt, key)
            socket = host.root / "incus.socket"
            relay = Relay(socket, 18443, tls)
            relay.begin()
            host.environ |= {"INCUS_SOCKET": str(socket), "COI_INCUS_PROJECT": PROJECT}
            try:
                yield host
                host.sweep()
            finally:
                relay.end()
        finally:
            found = incus("config", "trust", "list", "--format", "csv", "-c", "nf").out
            for print_ in re.findall(r"^coi-test,(\w+)$", found, re.MULTILINE):
                incus("config", "trust", "remove", print_)
            delete = ("project", "delete", "--force", PROJECT)  # once no instance is going
            wait_for(lambda: incus(*delete, stdin=b"yes\n").code == 0, what="the project's end")
            incus("config", "set", "core.https_address", before)


@pytest.mark.parametrize("mode", ["restricted", "allowlist", "allowlist with names"])
def test_it_is_refused_and_alternatives_are_named(confined: Host, mode: str) -> None:
    """And nothing is made: Incus 6.0.4 lets such a certificate make networks and ACLs, which
    it then may neither look at nor delete. What is left would be seen at the end."""
    named = {"COI_NETWORK_ALLOWED_DOMAINS": "pub.example"} if "names" in mode else {}
    with guard(True), resolved(PUBLIC, "pub.example"):
        done = confined.coi(f"--network={mode.split()[0]}", "run", "true", environ=named)
    assert done.code == 5, done
    assert "cannot enforce the network policy: not allowed to make" in done.err
    assert "Hint: " in done.err
    for word in ("--network open", "OVN network"):
        assert word in done.err
    assert query(f"/1.0/instances?project={PROJECT}") == []


def test_open_works(confined: Host) -> None:
    """The control: it is the policy that cannot be had, nothing else."""
    assert confined.coi("--network=open", "run", "echo in").ok().out == "in\n"
