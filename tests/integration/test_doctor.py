"""coi doctor on this machine, whole and with parts broken; what it names is run, and mends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

from bench.budgets import calls

from coi.cli.shapes import JSON_KEYS, keys_of
from coi.testing.host import Host
from coi.testing.machine import User

WITHOUT_INCUS = {
    "configuration", "client", "daemon", "group", "limits", "subids", "tools", "files", "room",
    "kernel",
}  # fmt: skip


def examined(host: Host, code: int, **environ: str) -> dict[str, dict[str, Any]]:
    """The checks of one report, by name."""
    done = host.coi("doctor", "--format", "json", environ=environ)
    assert done.code == code, done.out + done.err
    assert keys_of(done.json) == JSON_KEYS["doctor"]
    return {check["name"]: check for check in done.json["checks"]}


def mended(host: Host, check: dict[str, Any]) -> None:
    """Run what mends it, as the user of the test."""
    subprocess.run(["sh", "-c", check["mend"]], check=True, preexec_fn=host.user.become, timeout=60)


def test_this_machine_is_well(host: Host) -> None:
    host.config(
        f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n', network="restricted"
    )
    shown = host.coi("-v", "doctor").ok()
    assert len(shown.incus_calls) == calls("doctor"), "and nothing that changes anything:"
    assert not [call for call in shown.incus_calls if "-X" in call]
    lines = shown.out.splitlines()
    assert "\x1b" not in shown.out
    assert {line[:4].strip() for line in lines[:-1]} <= {"ok", "warn", ""}
    assert lines[-1].endswith(" 0 failed")
    column = lines[0].index("read without")
    assert all(line[column - 1] == " " != line[column] for line in lines[:-1])
    found = examined(host, 0)
    names = [line[6:column].strip() for line in lines[:-1] if line[0] != " "]
    assert list(found) == names
    for name in ("daemon", "group", "storage", "network", "image", "mounts", "files", "leftovers"):
        assert found[name]["status"] == "ok", found[name]
    assert host.image in found["image"]["text"]
    assert not host.coi_home.exists() or not list(host.coi_home.rglob("*.json"))


def test_on_a_terminal_it_is_read(host: Host) -> None:
    screen = host.screen("doctor", size=(80, 50))
    screen.expect(r"\d+ ok, \d+ to look at, \d+ failed")
    assert screen.wait_exit() in (0, 1)
    assert b"\x1b[32mok" in screen.output
    for line in screen.text.splitlines():
        assert len(line.rstrip()) <= 80 or "mend: " in line, line
    plain = host.screen("doctor", size=(80, 50), environ={"NO_COLOR": "1"})
    plain.expect(r"\d+ ok, \d+ to look at")
    plain.wait_exit()
    assert b"\x1b[32m" not in plain.output


def test_a_missing_image_and_a_broken_file(host: Host) -> None:
    found = examined(host, 1, COI_DEFAULTS_IMAGE="no-such")["image"]
    assert (found["status"], found["mend"]) == ("fail", "coi build --image no-such")
    assert examined(host, 0)["image"]["status"] == "ok"
    host.write("home/.config/coi/config.toml", "[defaults]\nimgae = 'x'\n")
    broken = examined(host, 1)
    assert broken["configuration"]["status"] == "fail"
    assert "imgae" in broken["configuration"]["text"]
    assert broken["daemon"]["status"] == "ok", "the rest is looked at all the same"


def test_files_that_others_may_reach(host: Host) -> None:
    """Approvals that others could write, and the command that closes them."""
    host.directory("coi").chmod(0o700)
    host.directory("coi/trust").chmod(0o700)
    approval = host.write("coi/trust/odd name", "x", mode=0o600)
    assert examined(host, 0)["files"]["status"] == "ok"
    approval.chmod(0o644)
    read = examined(host, 0)["files"]
    assert (read["status"], read["details"]) == ("warn", [f"{approval} 644"])
    approval.chmod(0o666)
    written = examined(host, 1)["files"]
    assert written["status"] == "fail"
    mended(host, written)
    assert approval.stat().st_mode & 0o777 == 0o600
    assert examined(host, 0)["files"]["status"] == "ok"


def test_what_coi_makes_below_its_home_is_its_users_alone(host: Host) -> None:
    """Made by a session, a fence and a run, the home itself among it."""
    assert not host.coi_home.exists()
    host.config(
        f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n', network="restricted"
    )
    host.coi("shell", "--background").ok()
    host.coi("shutdown", host.instance()).ok()
    host.coi("run", "true").ok()
    assert host.saved()
    assert examined(host, 0)["files"]["status"] == "ok"
    host.settled()
    host.coi("clean", "--force").ok()


def test_what_is_left_over(host: Host) -> None:
    host.directory("coi").chmod(0o700)
    host.directory("coi/locks").chmod(0o700)
    host.write(f"coi/locks/{host.prefix}gone-1.lock", "", mode=0o600)
    found = examined(host, 0)["leftovers"]
    assert found["details"] == [f"lock {host.prefix}gone-1: its container is gone"]
    assert found["mend"] == "coi clean"
    host.coi("clean", "--force").ok()
    assert examined(host, 0)["leftovers"]["status"] == "ok"


def test_a_user_who_may_not_use_incus(make_host: Callable[..., Host], someone: User) -> None:
    host = make_host(someone)
    found = examined(host, 4)
    assert set(found) == WITHOUT_INCUS
    assert found["daemon"]["status"] == "fail"
    assert "permission" in found["daemon"]["text"]
    assert found["group"]["status"] == "fail"
    assert found["group"]["mend"].startswith(f"sudo usermod -aG incus-admin {someone.name}")


def test_without_a_daemon_and_without_incus(host: Host) -> None:
    nowhere = host.directory("nowhere")
    found = examined(host, 4, INCUS_DIR=str(nowhere))
    assert set(found) == WITHOUT_INCUS
    assert "not running" in found["daemon"]["text"]
    assert "systemctl start incus" in found["daemon"]["mend"]
    found = examined(host, 4, PATH=os.fspath(nowhere))
    assert (found["client"]["status"], found["daemon"]["status"]) == ("fail", "fail")
    assert "install.sh" in found["client"]["mend"]
