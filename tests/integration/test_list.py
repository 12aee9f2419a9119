"""`coi list`: one call, whatever there is."""

from __future__ import annotations

import re
from typing import Any

from bench.budgets import calls
from dummy import background
from rows import drop_all, make

from coi.cli.shapes import JSON_KEYS, keys_of
from coi.testing.host import Host
from coi.testing.machine import incus, query, wait_for


def listed(host: Host, *args: str) -> dict[str, Any]:
    """The JSON of `coi list`, made with a single call of incus."""
    done = host.coi("list", "--format=json", "-v", *args).ok()
    assert len(done.incus_calls) == calls("list"), done.err
    shapes = keys_of(done.json)
    for where, keys in shapes.items():
        wanted = JSON_KEYS["list"][where]
        assert keys == (wanted if where or "--all" in args else ("active_containers",))
    return dict(done.json)


def test_json_with_none_one_and_thirty(host: Host) -> None:
    assert listed(host) == {"active_containers": []}
    assert listed(host, "--all") == {"active_containers": [], "saved_sessions": []}

    one = make(host, "a-run", start=True, persistent="false", state="session", slot="7")
    wait_for(lambda: listed(host)["active_containers"][0]["ipv4"])
    (row,) = listed(host)["active_containers"]
    made = query(f"/1.0/instances/{one}?recursion=1")
    addresses = [
        address["address"]
        for address in made["state"]["network"]["eth0"]["addresses"]
        if address["family"] == "inet" and address["scope"] == "global"
    ]
    assert row == {
        "name": one,
        "status": "Running",
        "created_at": made["created_at"],
        "image": host.image,
        "persistent": False,
        "ipv4": addresses[0],
        "workspace": str(host.workspace),
        "slot": 7,
        "session_id": made["config"]["user.coi.session-id"],
        "tool": "dummy",
        "network": "open",
        "network_backend": None,
    }

    for number in range(25):
        make(host, f"s{number:02}", slot=str(number))
    for number in range(2):
        make(host, f"r{number}", start=True, persistent="false", state="session")
    make(host, "c1", session_id=None, state="container", slot=None)
    make(host, "f1", start=True)
    incus("pause", host.prefix + "f1").ok()
    # and five that are not this coi's
    make(host, "x-stranger", owner="4242")
    make(host, "x-home", locks="elsewhere:1:/nowhere/locks")
    make(host, "x-removing", start=True, ephemeral=True, state="removing")
    make(host, "x-plain", config={})
    make(host, "x-other-key", config={"user.coi.session-id": "x"})
    data = listed(host)["active_containers"]
    names = sorted(name for name in host.instances() if "-x-" not in name)
    assert len(names) == 30
    assert [row["name"] for row in data] == names
    statuses = {row["name"].removeprefix(host.prefix): row["status"] for row in data}
    assert {n for n, s in statuses.items() if s == "Running"} == {"a-run", "r0", "r1"}
    assert statuses["f1"] == "Frozen"
    assert sum(status == "Stopped" for status in statuses.values()) == 26
    by_name = {row["name"].removeprefix(host.prefix): row for row in data}
    assert by_name["s24"]["persistent"] is True
    assert by_name["s24"]["slot"] == 24
    assert by_name["s24"]["ipv4"] is None
    assert by_name["c1"]["slot"] is None
    drop_all(host)


def block(text: str, name: str) -> list[str]:
    """The lines below a container's name."""
    found = re.search(rf"^  {name} \((ephemeral|persistent)\)\n((?:    .*\n)+)", text, re.M)
    assert found, text
    return [found[1], *(line.strip() for line in found[2].splitlines())]


def test_text(host: Host) -> None:
    assert host.coi("list").ok().out == "Active Containers:\n  (none)\n"
    empty = "Active Containers:\n  (none)\n\nSaved Sessions:\n  (none)\n"
    assert host.coi("list", "--all").ok().out == empty

    background(host)
    wait_for(lambda: listed(host)["active_containers"][0]["ipv4"])
    stopped = make(host, "stopped", slot="2")
    (running, _) = host.coi("list", "--format", "json").ok().json["active_containers"]
    if running["name"] == stopped:
        (_, running) = host.coi("list", "--format", "json").ok().json["active_containers"]
    text = host.coi("list").ok().out
    assert text.startswith("Active Containers:\n")
    assert "Saved Sessions:" not in text
    created = query(f"/1.0/instances/{stopped}")["created_at"]
    assert block(text, stopped) == [
        "persistent", "Status: Stopped", f"Created: {created}", f"Image: {host.image}",
        f"Workspace: {host.workspace}",
    ]  # fmt: skip
    kind, status, address, *rest = block(text, host.instance())
    assert (kind, status) == ("ephemeral", "Status: Running")
    assert re.fullmatch(r"IPv4: \d+\.\d+\.\d+\.\d+", address)
    assert rest[-1] == f"Workspace: {host.workspace}"

    host.coi("shutdown", host.instance()).ok()
    (saved,) = host.saved()
    text = host.coi("list", "--all").ok().out
    assert f"Saved Sessions:\n  {saved['id']} (dummy)\n    Saved: {saved['saved_at']}\n" in text
    (row,) = host.coi("list", "--all", "--format=json").ok().json["saved_sessions"]
    assert row == {key: saved[key] for key in row}
    assert tuple(row) == JSON_KEYS["list"]["saved_sessions[]"]
    drop_all(host)


def test_what_others_wrote_cannot_draw(host: Host) -> None:
    evil = "/ws\x1b[31m\x1b]0;title\x07\x9b2J\u202e\n  faked (persistent)\nSaved Sessions:"
    name = make(host, "evil", workspace=evil, image="\x1b[2J\rimage", tool="x\x1b[0m")
    text = host.coi("list").ok().out
    assert block(text, name)[-2:] == [
        "Image: image",
        "Workspace: /ws faked (persistent) Saved Sessions:",
    ]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert len(text.splitlines()) == 6
    raw = host.coi("list", "--format=json").ok()
    assert raw.out.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", raw.out)
    assert raw.json["active_containers"][0]["workspace"] == evil, "as it is, for programs"
    drop_all(host)


def test_wrong_use(host: Host) -> None:
    for args, message in (
        (("--format", "xml"), "invalid format 'xml'"),
        (("x",), "unexpected extra argument"),
    ):
        done = host.coi("list", *args)
        assert (done.code, done.out) == (2, "")
        assert message in done.err
