"""`coi image publish` of a container whose root was hostile; what must not be in an image."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rows import drop_all, make

from coi.testing.host import Host
from coi.testing.machine import incus, query

_TURN = 300.0  # seconds: the daemon makes one image at a time
CANARY = "canary-of-the-host-9d41"
# What would be an image's description of itself, were it taken from a container's files.
LYING = (
    "architecture: i686\nproperties:\n  description: trusted\n  coi.tools: claude\n"
    "templates:\n  /etc/evil:\n    when: [create]\n    template: evil.tpl\n"
)


@pytest.fixture
def hostile(host: Host) -> Iterator[str]:
    """A stopped container of very few files, as a hostile root leaves them."""
    host.write("secret", f"{CANARY}-file\n", 0o600)
    config = {
        "user.coi.state": "container", "user.coi.workspace": f"/{CANARY}-workspace",
        "environment.TOKEN": f"{CANARY}-environment", "image.os": "debian",
    }  # fmt: skip
    name = make(host, "source", config=config)
    secret = str(host.root / "secret")
    incus("file", "create", f"{name}/link", secret, "--type", "symlink").ok()
    incus("file", "create", f"{name}/up", f"../../../../../../../../..{secret}",
          "--type", "symlink").ok()  # fmt: skip
    incus("file", "create", f"{name}/rootfs", secret, "--type", "symlink").ok()
    incus("file", "create", f"{name}/templates", "--type", "directory").ok()
    pushes = {"metadata.yaml": LYING, "templates/evil.tpl": "evil\n", "mine": "of the container\n",
              "x\x1b]0;owned\x07\ny": "odd\n", "-rf": "odd\n"}  # fmt: skip
    for path, text in pushes.items():
        incus("file", "push", "-", f"{name}/{path}", stdin=text.encode()).ok()
    yield name
    drop_all(host)


@pytest.fixture
def exported(host: Host) -> Iterator[Callable[[str], tuple[tarfile.TarFile, bytes]]]:
    """An image as it goes to others: its tar, and all bytes of it."""
    opened: list[tarfile.TarFile] = []

    def export(fingerprint: str) -> tuple[tarfile.TarFile, bytes]:
        place = host.root / "exported"
        incus("image", "export", fingerprint, str(place)).ok()
        (file,) = place.parent.glob("exported*")
        opened.append(tarfile.open(file))  # noqa: SIM115 - closed below
        return opened[-1], _unpacked(file)

    yield export
    for tar in opened:
        tar.close()
    for row in query("/1.0/images/aliases?recursion=1"):
        if row["name"].startswith(host.prefix):
            incus("image", "delete", row["name"])


def _unpacked(file: Path) -> bytes:
    import gzip

    return gzip.decompress(file.read_bytes())


def test_a_hostile_container_makes_an_honest_image(
    host: Host, hostile: str, exported: Callable[[str], tuple[tarfile.TarFile, bytes]]
) -> None:
    """No file of the host is in it, nothing of coi's own keys, and nothing that it says of
    itself is what the container's files say."""
    alias = host.prefix + "made"
    made = host.coi("image", "publish", hostile, alias, timeout=_TURN).ok().json
    image = query(f"/1.0/images/{made['fingerprint']}")
    assert image["public"] is False
    assert image["architecture"] != "i686"
    assert image["properties"] == {
        "coi.base": "", "description": f"published from {hostile}", "os": "debian",
    }  # fmt: skip
    tar, data = exported(made["fingerprint"])
    members = {member.name: member for member in tar}
    metadata = tar.extractfile("metadata.yaml")
    assert metadata is not None
    own = metadata.read().decode()
    assert "trusted" not in own
    assert "evil" not in own
    assert not any(name.startswith("templates/") for name in members)
    assert b"of the container" in data, "the look is a real one"
    for what in ("file", "workspace", "environment"):
        assert f"{CANARY}-{what}".encode() not in data, what
    secret = str(host.root / "secret")
    for name in ("link", "up", "rootfs"):
        found = members[f"rootfs/{name}"]
        assert found.issym(), name
        assert found.linkname.endswith(secret)
    assert (host.root / "secret").read_text() == f"{CANARY}-file\n"
    listed = host.coi("image", "list", "--prefix", host.prefix).ok()
    assert "trusted" not in listed.out


def test_a_sessions_credentials_are_in_no_image(
    host: Host, exported: Callable[[str], tuple[tarfile.TarFile, bytes]]
) -> None:
    """A session cannot be published. The control: published without coi, they are in it."""
    name = make(host, "session")
    text = json.dumps({"token": f"{CANARY}-credential"})
    incus("file", "push", "-p", "-", f"{name}/home/code/.dummy/credentials",
          stdin=text.encode()).ok()  # fmt: skip
    alias = host.prefix + "made"
    refused = host.coi("image", "publish", name, alias)
    assert refused.code == 1
    assert f"{name} is a session" in refused.err
    assert query(f"/1.0/images/aliases/{alias}") is None
    incus("publish", name, "--alias", alias, timeout=_TURN).ok()
    _, data = exported(alias)
    assert f"{CANARY}-credential".encode() in data
    drop_all(host)
