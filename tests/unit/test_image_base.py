"""Which base is taken, what bootstraps it, and how long an image server may be silent."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coi.config.model import Build
from coi.errors import NotFoundError, UnavailableError, UsageError
from coi.image import base as base_module
from coi.image import bootstrap
from coi.image.base import Base, choose, prepare
from coi.image.bootstrap import DebianBase, debian_base, metadata_tar, mmdebstrap_args
from coi.image.container import Log
from coi.image.host import HostSettings
from coi.image.progress import Silent
from coi.incus.client import Client
from coi.incus.images import Image, Images
from coi.incus.process import Runner

DEBIAN = DebianBase("bookworm", "http://m.test/debian", "http://m.test/debian-security", "x86_64")
LOCAL = Image("f" * 64, ("mine",), {"coi.tools": "claude"})


class Store(Images):
    """A store with two images."""

    def __init__(self, *images: Image, client: Client | None = None) -> None:
        super().__init__(client or Client())
        self.images = list(images)

    def all(self) -> list[Image]:
        return self.images


def pick(wanted: str | None, config: Build | None = None, *images: Image) -> Base:
    return choose(
        Store(LOCAL, *images),
        wanted,
        config or Build(mirror="http://m.test/debian"),
        host=HostSettings(),
        architecture="x86_64",
    )


def test_the_default_base_has_a_fallback() -> None:
    base = pick(None)
    assert (base.text, base.remote) == ("images:ubuntu/22.04", "images:ubuntu/22.04")
    assert base.fallback is not None
    assert base.fallback.text == "debian:bookworm"
    assert base.fallback.debian is not None
    # Not which of the two is used, but what was asked for, decides what is up to date.
    assert base.fallback.identity in base.identity


def test_a_named_remote_base_has_none() -> None:
    base = pick("images:debian/13")
    assert (base.remote, base.fallback) == ("images:debian/13", None)
    assert pick(None, Build(fallback="")).fallback is None


def test_a_local_alias() -> None:
    base = pick("mine")
    assert base.fingerprint == base.identity == LOCAL.fingerprint
    assert base.properties["coi.tools"] == "claude"
    with pytest.raises(NotFoundError, match="'none'"):
        pick("none")


def test_a_debian_suite() -> None:
    base = pick("debian:trixie")
    assert base.debian is not None
    assert base.debian.suite == "trixie"
    assert base.identity == base.debian.digest
    for bad in ("debian:", "debian:../x", "debian:a b", "debian:-x"):
        with pytest.raises(UsageError, match="not a Debian suite"):
            pick(bad)


def test_sources_of_the_base() -> None:
    base = debian_base("bookworm", "x86_64", HostSettings(), mirror="http://m.test/debian/")
    assert base.sources == (
        "deb http://m.test/debian bookworm main",
        "deb http://m.test/debian bookworm-updates main",
        "deb http://m.test/debian-security bookworm-security main",
    )
    assert debian_base("sid", "x86_64", HostSettings(), mirror="http://m.test/debian").sources == (
        "deb http://m.test/debian sid main",
    )
    with pytest.raises(UsageError, match="riscv64"):
        debian_base("bookworm", "riscv64", HostSettings())


def test_the_digest_follows_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [
        replace(DEBIAN, suite="trixie"),
        replace(DEBIAN, mirror="http://other.test/debian"),
        replace(DEBIAN, security=""),
        replace(DEBIAN, architecture="aarch64"),
        replace(DEBIAN, apt=('Acquire::Check-Valid-Until "false";',)),
    ]
    assert len({DEBIAN.digest, *(other.digest for other in others)}) == len(others) + 1
    before = DEBIAN.digest
    monkeypatch.setattr(bootstrap, "PACKAGES", (*bootstrap.PACKAGES, "vim"))
    assert DEBIAN.digest != before


def test_a_cached_base_must_have_the_same_inputs() -> None:
    image = Image("a" * 64, (DEBIAN.alias,), {"coi.base.recipe": DEBIAN.digest})
    assert bootstrap.cached(Store(image), DEBIAN) == image
    assert bootstrap.cached(Store(image), replace(DEBIAN, security="")) is None
    assert bootstrap.cached(Store(), DEBIAN) is None


def test_arguments_of_mmdebstrap() -> None:
    base = replace(DEBIAN, apt=('Acquire::Check-Valid-Until "false";',))
    args = mmdebstrap_args(base, "unshare", Path("/t/rootfs.tar"))
    assert args[0] == "--mode=unshare"
    assert "--architectures=amd64" in args
    assert '--aptopt=Acquire::Check-Valid-Until "false"' in args
    assert args[-5:] == ["bookworm", "/t/rootfs.tar", *base.sources]
    for package in ("udev", "systemd-sysv", "dbus", "sudo", "locales", "ca-certificates"):
        assert package in next(a for a in args if a.startswith("--include=")).split("=")[1]


def test_metadata() -> None:
    with tarfile.open(fileobj=io.BytesIO(metadata_tar(DEBIAN, now=5))) as tar:
        files = {m.name: tar.extractfile(m).read().decode() for m in tar}  # type: ignore[union-attr]
    metadata = json.loads(files["metadata.yaml"])
    assert metadata["architecture"] == "x86_64"
    assert metadata["creation_date"] == 5
    for template in metadata["templates"].values():
        assert "container.name" in files[f"templates/{template['template']}"]
        assert set(template["when"]) == {"create", "copy"}


def fake(directory: Path, name: str, body: str) -> Runner:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return Runner(str(path))


@pytest.mark.parametrize(
    "body", ["echo 'Error: lookup images.test: no such host' >&2; exit 1", "exec sleep 30"]
)
def test_a_server_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """A refusal and silence both lead to the fallback, within the deadline."""
    monkeypatch.setattr(base_module, "PROBE_DEADLINE", 0.5)
    store = Store(LOCAL, client=Client(fake(tmp_path, "incus", body)))
    log = Log(tmp_path / "logs/x.log", Silent())
    notes: list[str] = []

    class Noting(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    begin = time.monotonic()
    fallback = Base("mine", "x", fingerprint=LOCAL.fingerprint)
    base = Base("images:x", "images:x", remote="images:x", fallback=fallback)
    assert prepare(store, base, Noting(), log=log).fingerprint == LOCAL.fingerprint
    assert notes == ["cannot reach the image server of images:x: using mine"]
    with pytest.raises(UnavailableError, match="cannot get the base images:x") as caught:
        prepare(store, replace(base, fallback=None), Noting(), log=log)
    assert "debian:" in caught.value.hint
    assert time.monotonic() - begin < 5
    log.close(remove=True)


def test_a_server_that_answers(tmp_path: Path) -> None:
    store = Store(client=Client(fake(tmp_path, "incus", "exit 0")))
    log = Log(tmp_path / "x.log", Silent())
    base = Base("images:x", "images:x", remote="images:x", fallback=Base("mine", "m"))
    assert prepare(store, base, Silent(), log=log) == base
    log.close(remove=True)


def test_a_user_without_subordinate_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(UnavailableError, match="no subordinate ids") as caught:
        bootstrap._mode()
    assert "usermod --add-subuids" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "enough"),
    [("dev:100000:65536", True), ("4242:1:65536", True), ("dev:1:100", False), ("x:1:65536", False),
     ("dev:1", False), ("dev:1:many", False)],
)  # fmt: skip
def test_ranges_of_subordinate_ids(tmp_path: Path, line: str, enough: bool) -> None:
    path = tmp_path / "subuid"
    path.write_text(f"# comment\n{line}\n")
    assert bootstrap._has_range(str(path), {"dev", "4242"}) is enough


def test_without_mmdebstrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="mmdebstrap is not installed"):
        bootstrap._require()
