"""Whether anything runs in a container, told by its control group."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from coi.incus.payload import Payload


def test_it_waits_until_every_group_is_gone(tmp_path: Path) -> None:
    groups = [tmp_path / root / "lxc.payload.coi-x-1" for root in ("", "pids")]
    for group in groups:
        group.mkdir(parents=True)
    (tmp_path / "lxc.payload.coi-x-10").mkdir()
    payload = Payload("coi-x-1", "default", (tmp_path, tmp_path / "pids", tmp_path / "none"))
    assert payload.known
    assert not payload.wait_gone(0.05)
    groups[0].rmdir()
    assert not payload.wait_gone(0.05)
    timer = threading.Timer(0.1, groups[1].rmdir)
    timer.start()
    began = time.monotonic()
    assert payload.wait_gone(10)
    assert 0.05 < time.monotonic() - began < 5
    timer.join()


def test_what_is_not_seen_is_not_known(tmp_path: Path) -> None:
    payload = Payload("coi-x-1", "default", (tmp_path,))
    assert not payload.known
    assert not payload.wait_gone(10)


def test_a_projects_group_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "lxc.payload.mine_coi-x-1").mkdir()
    assert Payload("coi-x-1", "mine", (tmp_path,)).known
    assert not Payload("coi-x-1", "default", (tmp_path,)).known
