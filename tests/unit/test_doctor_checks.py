"""Each check of `coi doctor`, on what a real daemon said (fixtures/doctor.json) and changes of it.

A check that cannot fail is no check: every branch has its case, and the healthy set-up has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from coi.config.layers import built_in
from coi.doctor import advisories
from coi.doctor.checks import CHECKS, examine, image
from coi.doctor.facts import Facts, Group, Host, Opened, opened, parsed
from coi.doctor.report import as_data, fail, ok, warn, worst
from coi.errors import ConfigError, UnavailableError
from coi.incus.errors import MissingError, classify

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "doctor.json").read_text()
)
HOME = Path("/home/dev/.coi")
LENT = dict.fromkeys(("/etc/subuid", "/etc/subgid"), "dev:100000:65536\nroot:1000000:1000000000\n")
HOST = Host(
    1000, "dev", HOME, Group("incus-admin"), subids=LENT, resolvers=("127.0.0.53",),
    free=9 << 30,
)  # fmt: skip
GIB = 1 << 30


def facts(change: Callable[[dict[str, Any]], object] = lambda _: None, **other: Any) -> Facts:
    """A healthy set-up, but for ``change`` to the recordings."""
    found = deepcopy(RECORDED)
    for row in found["images"]:
        row["created_at"] = datetime.now(timezone.utc).isoformat()
    found["server"]["environment"]["server_version"] = "99.0.0"
    change(found)
    server = parsed(found.pop("server")["environment"], found)
    healthy = Facts(built_in(HOME), HOST, "99.0.0", server, tools=("claude",))
    return replace(healthy, **other)


def unreachable(text: str, **host: Any) -> Facts:
    error = classify(text)
    assert isinstance(error, UnavailableError)
    return facts(server=None, unreachable=error, host=replace(HOST, **host))


def config(**sections: Mapping[str, Any]) -> Any:
    """The built-in configuration with other values."""
    made: Any = built_in(HOME)
    for name, values in sections.items():
        old = getattr(made, name)
        new = values if isinstance(old, dict) else replace(old, **values)
        made = replace(made, **{name: new})
    return made


def test_a_healthy_set_up_has_nothing_to_mend() -> None:
    found = examine(facts())
    assert [(c.name, c.status, c.mend) for c in found if c.status != "ok" or c.mend] == []
    assert len(found) == len(CHECKS)
    assert [c.name for c in found] == [
        "configuration", "client", "daemon", "security", "group", "project", "storage", "warm",
        "limits", "network", "dns", "guard", "image", "mounts", "subids", "tools", "files", "room",
        "kernel",
        "leftovers",
    ]  # fmt: skip


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Set the last but one of ``path`` to the last."""

    def change(found: dict[str, Any]) -> None:
        at: Any = found
        for part in path[:-2]:
            at = at[part]
        at[path[-2]] = path[-1]

    return change


def warm_row(name: str = "w-1", base: str = "", **other: Any) -> dict[str, Any]:
    """A warm instance of the recorded image, ready, but for ``other``."""
    (target,) = (row["fingerprint"] for row in RECORDED["images"]
                 if "coi" in [alias["name"] for alias in row["aliases"]])  # fmt: skip
    own = {"state": "warm", "owner": "1000", "version": "1", "image": "coi", "locks": "h:1:/l",
           "warm": name}  # fmt: skip
    config = {f"user.coi.{key}": value for key, value in own.items()}
    config |= {"volatile.base_image": base or target, "volatile.apply_template": "create"}
    row = {
        "name": name, "status": "Stopped", "profiles": ["default"], "devices": {},
        "created_at": "2026-11-28T12:00:00Z", "last_used_at": "1970-01-01T00:00:00Z",
    }  # fmt: skip
    return {**row, "config": config, **other}


def _space(free: int) -> Callable[[dict[str, Any]], None]:
    return _set("space", "space", {"total": 40 * GIB, "used": 40 * GIB - free})


NO_SHIFT = _set("server", "environment", "kernel_features", "idmapped_mounts", "false")
BRIDGE = ("networks", 0, "config")
SOCKET = "Get http://unix.socket/1.0: dial unix /var/lib/incus/unix.socket: connect: "
DENIED = SOCKET + "permission denied"
CASES: dict[str, tuple[Facts, str, str, str, str]] = {
    # what is wrong: the facts, the check, its status, words of its text, and of what mends it
    "config": (facts(config_error=ConfigError("x: unknown key y")), "configuration", "fail",
               "unknown key y", "docs/configuration.md"),
    "no client": (
        facts(server=None, client="",
              unreachable=UnavailableError("incus is not installed", hint="./install.sh")),
        "client", "fail", "not installed", "./install.sh"),
    "silent client": (facts(client=""), "client", "warn", "does not tell", "incus --version"),
    "no daemon": (unreachable("Error: The incus daemon doesn't appear to be started"), "daemon",
                  "fail", "daemon is not running", "systemctl start incus"),
    "old": (facts(_set("server", "environment", "server_version", "5.21.0")), "daemon", "fail",
            "older than 6.0", "apt-get"),
    "no number": (facts(_set("server", "environment", "server_version", "trunk")), "daemon",
                  "warn", "trunk", ""),
    "fixes": (facts(_set("server", "environment", "server_version", "6.0.4")), "security", "warn",
              "6.0.4 lacks 14 fixes", "apt-get"),
    "client's fixes": (facts(client="6.0.4"), "security", "warn", "6.0.4 lacks", "apt-get"),
    "fixes of Arch": (
        facts(lambda found: found["server"]["environment"].update(
            server_version="7.0.2", os_name="Arch Linux")),
        "security", "warn", "7.0.2 lacks", "sudo pacman -Syu incus"),
    "no versions": (
        facts(_set("server", "environment", "server_version", "x"), client="y"), "security",
        "warn", "no version", "incus version"),
    "not in the group": (
        unreachable(DENIED, group=Group("incus-admin", joined=False, active=False)), "group",
        "fail", "dev is not in incus-admin", "sudo usermod -aG incus-admin dev"),
    "older session": (unreachable(DENIED, group=Group("incus-admin", active=False)), "group",
                      "fail", "session is older", "newgrp incus-admin"),
    "no group": (
        unreachable(DENIED, group=Group("incus-admin", exists=False, joined=False, active=False)),
        "group", "fail", "no group", "install.sh"),
    "no project": (facts(_set("project", MissingError("cannot find it"))), "project", "fail",
                   "cannot find it", "incus project list"),
    "restricted": (facts(_set("project", "config", "restricted", "true")), "project", "warn",
                   "restricted", "incus project show default"),
    "no profile": (facts(_set("profile", None)), "storage", "fail", "no profile", "install.sh"),
    "no root": (facts(lambda found: found["profile"]["devices"].pop("root")), "storage", "fail",
                "no root disk", "incus profile device add default root disk path=/"),
    "no pool": (facts(_set("pools", [])), "storage", "fail", "no pool default", "incus storage"),
    "broken pool": (facts(_set("pools", 0, "status", "Unavailable")), "storage", "fail",
                    "unavailable", "incus storage show default"),
    "full pool": (facts(_space(GIB // 2)), "storage", "fail", "0 of 40 GiB free", "coi clean"),
    "filling pool": (facts(_space(4 * GIB)), "storage", "warn", "4 of 40 GiB", "coi clean"),
    "dir": (facts(_set("pools", 0, "driver", "dir")), "storage", "warn", "no quotas", "btrfs"),
    "none warm": (facts(_set("pools", 0, "driver", "dir")), "warm", "warn",
                  "default (dir) unpacks the image for each start", "[warm] size = 2"),
    "none warm on lvm": (
        facts(lambda found: found["pools"][0].update(
            driver="lvm", config={"lvm.use_thinpool": "false"})),
        "warm", "warn", "unpacks the image", "[warm] size = 2"),
    "no limits": (facts(config=config(limits={"memory": "75%"})), "limits", "warn",
                  "processes none", "coi config show --origin"),
    "open": (facts(config=config(network={"mode": "open"})), "network", "warn", "nothing is",
             "--network=restricted"),
    "no ovn": (facts(config=config(network={"backend": "ovn"})), "network", "fail",
               "needs an OVN network", "network.backend = 'auto'"),
    "project's networks": (facts(config=config(incus={"project": "mine"})), "network", "fail",
                           "cannot have", "incus project set mine features.networks=false"),
    "remote": (facts(config=config(incus={"remote": "far"})), "network", "fail", "remote far",
               "run coi on that machine"),
    "no resolver": (facts(host=replace(HOST, resolvers=())), "dns", "warn", "names no resolver",
                    "/etc/resolv.conf"),
    "no network": (facts(_set("networks", [])), "dns", "warn", "no network of Incus",
                   "incus profile show"),
    "no address": (facts(_set(*BRIDGE, "ipv4.address", "none")), "dns", "fail", "no IPv4",
                   "incus network set incusbr0 ipv4.address=auto"),
    "no names": (facts(_set(*BRIDGE, "dns.mode", "none")), "dns", "warn", "resolves no names",
                 "incus network unset incusbr0 dns.mode"),
    "unguarded": (facts(host=replace(HOST, guarded=False, listening=("10.1.1.1",))), "guard",
                  "warn", "10.1.1.1", "sudo coi network guard --load"),
    "unguarded allowlist": (
        facts(host=replace(HOST, guarded=False, listening=("10.1.1.1",)),
              config=config(network={"mode": "allowlist"})),
        "guard", "fail", "allowlist is refused", "sudo coi network guard --load"),
    "no image": (facts(_set("images", [])), "image", "fail", "no image coi", "coi build"),
    "other image": (facts(config=config(defaults={"image": "mine"})), "image", "fail",
                    "no image mine", "coi build --image mine"),
    "old image": (facts(lambda found: [row.update(created_at="2020-01-01T00:00:00Z")
                                       for row in found["images"]]),
                  "image", "warn", "days old", "coi build --force"),
    "no tool in it": (facts(config=config(tool={"name": "aider"}), tools=("aider",)), "image",
                      "warn", "has claude, not aider", "--tools claude,aider"),
    "no idmapped mounts": (facts(NO_SHIFT, host=replace(HOST, subids=dict.fromkeys(LENT, None))),
                           "mounts", "warn", "no idmapped mounts", "disable_shift"),
    "nor a lent id": (facts(NO_SHIFT), "mounts", "fail", "may not be mapped",
                      "echo root:1000:1 | sudo tee -a /etc/subuid /etc/subgid"),
    "nor for root": (facts(NO_SHIFT, host=replace(HOST, uid=0)), "mounts", "fail", "root needs",
                     "another user"),
    "no sub-ids": (
        facts(host=replace(HOST, subids={**LENT, "/etc/subgid": "root:1000:1\ndev:1:99999\n"})),
        "subids", "fail", "/etc/subgid", "| sudo tee -a /etc/subgid;"),
    "no tool": (facts(tools=("aider",)), "tools", "fail", "no tool claude", "coi tool list"),
    "plugin": (facts(problems=("bad (x 1): it fails",)), "tools", "warn", "bad (x 1): it fails",
               "coi tool list"),
    "read": (facts(host=replace(HOST, opened=(Opened(HOME, 0o755),))), "files", "warn",
             "others may read /home/dev/.coi", "chmod go= /home/dev/.coi"),
    "written": (facts(host=replace(HOST, opened=(Opened(HOME / "trust/a b", 0o620),))), "files",
                "fail", "others may write", "chmod go= '/home/dev/.coi/trust/a b'"),
    "much": (facts(host=replace(HOST, opened=tuple(Opened(HOME / n, 0o644) for n in "abcd"))),
             "files", "warn", "and 1 more", "chmod -R go= /home/dev/.coi"),
    "foreign": (facts(host=replace(HOST, opened=(Opened(HOME, 0o700, foreign=True),))), "files",
                "fail", "not yours", "sudo chown -R dev: /home/dev/.coi"),
    "no room": (facts(host=replace(HOST, free=GIB // 2)), "room", "warn", "0.5 GiB", "coi clean"),
    "none at all": (facts(host=replace(HOST, free=GIB // 5)), "room", "fail", "0.2 GiB",
                    "coi clean"),
    "few inotify instances": (
        facts(host=replace(HOST, kernel={"fs.inotify.max_user_instances": 128})), "kernel", "warn",
        "some 16 containers", "sudo tee /etc/sysctl.d/60-coi.conf"),
    "few keys": (facts(host=replace(HOST, kernel={"kernel.keys.maxkeys": 200})), "kernel", "warn",
                 "some 33 containers", "kernel.keys.maxkeys = 8000"),
    "leftovers": (facts(leftovers=("container x: stopped",)), "leftovers", "warn",
                  "container x: stopped", "coi clean"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_found(case: str) -> None:
    given, name, status, text, mend = CASES[case]
    (found,) = [check for check in examine(given) if check.name == name]
    assert found.status == status, found
    assert text in found.text
    assert mend in found.mend
    assert "\n" not in found.text + found.mend


def test_every_check_has_a_case() -> None:
    names = {check.name for check in examine(facts())}
    assert {name for _, name, *_ in CASES.values()} == names


@pytest.mark.parametrize(
    ("given", "name", "text"),
    [
        (facts(host=replace(HOST, uid=0)), "group", "root"),
        (facts(host=replace(HOST, group=Group("g", active=False))), "group", "let in otherwise"),
        (facts(host=replace(HOST, group=Group("g", joined=False, active=False))), "group",
         "without being in g"),
        (facts(host=replace(HOST, guarded=False)), "guard", "no other resolver"),
        (facts(NO_SHIFT, host=replace(
            HOST, shift=False, subids=dict.fromkeys(LENT, "root:1000:1\nroot:5000:70000"))),
         "mounts", "your own id"),
        (facts(host=replace(HOST, subids=dict.fromkeys(LENT, None))), "subids", "ids of their own"),
        (facts(_set("profile", "devices", "root", "size", "20GiB")), "limits", "disk 20GiB"),
        (facts(), "warm", "none stand ready: default (btrfs) does not copy"),
        (facts(_set("pools", 0, "driver", "lvm")), "warm", "default (lvm) does not copy"),
        (facts(_set("pools", 0, "driver", "dir"), config=config(warm={"size": 2})), "warm",
         "0 of 2 ready for coi; each start makes what lacks"),
        (facts(_set("instances", [warm_row()]), config=config(warm={"size": 1})), "warm",
         "1 of 1 ready for coi; default (btrfs) makes one as fast"),
        (facts(_set("instances", [warm_row(), warm_row("w-2", base="0" * 64),
                                  warm_row("w-3", last_used_at="2026-11-28T12:00:00Z")]),
               config=config(warm={"size": 3})), "warm",
         "1 of 3 ready for coi, 1 others; each start"),
        (facts(_set("networks", 0, "type", "ovn")), "network", "OVN, on incusbr0"),
        (facts(config=config(network={"backend": "nic"})), "network", "on incusbr0"),
    ],
)  # fmt: skip
def test_what_is_well_in_another_way(given: Facts, name: str, text: str) -> None:
    (found,) = [check for check in examine(given) if check.name == name]
    assert (found.status, text in found.text) == ("ok", True), found


def test_what_an_image_says_of_itself_is_no_command() -> None:
    bad = _set("images", 0, "properties", "coi.tools", "a;touch /tmp/x #")
    both = facts(lambda found: [bad(found), found["images"].reverse(), bad(found)])
    (found,) = [check for check in examine(both) if check.name == "image"]
    assert found.mend == "coi build --force --tools 'a;touch /tmp/x #,claude'"


def test_without_incus_the_rest_is_looked_at() -> None:
    found = {check.name: check.status for check in examine(unreachable(DENIED))}
    assert found["daemon"] == "fail"
    assert {"configuration", "client", "group", "limits", "subids", "tools", "files", "room"} < set(
        found
    )
    assert not {"storage", "network", "image", "leftovers", "security"} & set(found)


def test_the_age_of_an_image() -> None:
    now = datetime(2026, 11, 28, tzinfo=timezone.utc)
    for made, text in (
        ("2026-08-31T00:00:00.123456789Z", "89 days old"),
        ("2026-11-28T00:00:00Z", "of today"),
        ("2027-01-01T00:00:00Z", "of today"),
        ("0001-01-01", "coi, with claude"),
    ):
        given = facts(lambda found, made=made: found["images"][0].update(created_at=made))  # type: ignore[misc]
        check = image(given, now)
        assert check is not None
        if made == "0001-01-01":
            assert check.status == "warn"
        else:
            assert (check.status, text in check.text) == ("ok", True), check


# -- security fixes

LINK, REBUILT = "CVE-2026-48749", "CVE-2026-130774"
SHARED, TEMPLATES, STREAM = "CVE-2025-64507", "CVE-2026-23954", "CVE-2026-115377"


@pytest.mark.parametrize(
    ("version", "lacks"),
    [
        ((6, 0, 4), {SHARED, TEMPLATES, STREAM, LINK, REBUILT}),
        ((6, 0, 6), {STREAM, LINK, REBUILT}),
        ((6, 0, 7), {LINK, REBUILT}),
        ((6, 18, 0), {SHARED, TEMPLATES, STREAM, LINK, REBUILT}),
        ((6, 19, 0), {TEMPLATES, STREAM, LINK, REBUILT}),
        ((7, 0, 2), {LINK, REBUILT}),
        ((7, 1, 0), {STREAM, LINK, REBUILT}),
        ((7, 5, 0), {REBUILT}),
        ((7, 6, 0), set()),
        ((8, 0, 0), set()),
    ],
)
def test_which_fixes_a_release_lacks(version: advisories.Version, lacks: set[str]) -> None:
    found = {advisory.cve for advisory in advisories.missing(version)}
    assert found & {SHARED, TEMPLATES, STREAM, LINK, REBUILT} == lacks
    assert bool(found) == bool(lacks)


def test_the_table_of_fixes() -> None:
    assert len({advisory.cve for advisory in advisories.ADVISORIES}) == len(advisories.ADVISORIES)
    for advisory in advisories.ADVISORIES:
        assert list(advisory.fixed) == sorted(advisory.fixed)
        assert advisory.source.endswith(advisory.cve)
        assert advisory.what


@pytest.mark.parametrize(
    ("text", "version"),
    [("6.0.4", (6, 0, 4)), ("6.21", (6, 21, 0)), ("6.0.4-2", (6, 0, 4)), ("7.0.2+x", (7, 0, 2)),
     ("", None), ("trunk", None), ("6", None), ("v6.0", None)],
)  # fmt: skip
def test_versions(text: str, version: object) -> None:
    assert advisories.parse(text) == version


# -- the report, and coi's own files


def test_the_report() -> None:
    checks = [ok("a", "fine"), warn("b", "so so", "do it", ["x"]), fail("c", "bad")]
    assert [worst(checks[:n]) for n in range(4)] == ["ok", "ok", "warn", "fail"]
    assert as_data(checks) == {
        "version": 1,
        "status": "fail",
        "checks": [
            {"name": "a", "status": "ok", "text": "fine", "mend": None, "details": []},
            {"name": "b", "status": "warn", "text": "so so", "mend": "do it", "details": ["x"]},
            {"name": "c", "status": "fail", "text": "bad", "mend": None, "details": []},
        ],
    }


def test_what_others_may_reach(tmp_path: Path) -> None:
    home = tmp_path / "coi"
    assert opened(home) == []
    for name in ("trust", "storage"):
        (home / name).mkdir(parents=True)
        (home / name).chmod(0o700)
        (home / name / "file").write_text("x")
        (home / name / "file").chmod(0o644)
    home.chmod(0o700)
    (home / "link").symlink_to("/etc")  # is not gone through, whatever its own bits
    beside = home / "storage"
    assert opened(home, beside=beside) == [Opened(home / "trust/file", 0o644)]
    home.chmod(0o750)
    (home / "trust/file").chmod(0o600)
    assert opened(home, beside=beside) == [Opened(home, 0o750)]
    assert [item.path for item in opened(home)] == [home, beside / "file"]
