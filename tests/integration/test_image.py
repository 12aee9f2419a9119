"""`coi image`: list, publish, delete, exists, cleanup."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from rows import drop_all, make

from coi.cli.shapes import JSON_KEYS, keys_of
from coi.testing.host import Host
from coi.testing.machine import incus, query


def publish(host: Host, alias: str, *args: str, source: str | None = None) -> dict[str, Any]:
    """An image of a container with nothing in it."""
    name = host.prefix + "source"
    if name not in host.instances():
        launched = {
            "user.coi.state": "container",
            "image.coi.tools": "claude,dummy",
            "image.coi.recipe": "0" * 64,
            "image.os": "debian",
        }
        make(host, "source", config=launched)
    done = host.coi("image", "publish", source or name, host.prefix + alias, *args).ok()
    assert keys_of(done.json) == JSON_KEYS["image publish"]
    return dict(done.json)


def drop_images(host: Host) -> None:
    for alias in aliases(host):
        incus("image", "delete", alias)
    drop_all(host)


def aliases(host: Host) -> list[str]:
    rows = query("/1.0/images/aliases?recursion=1")
    return sorted(row["name"] for row in rows if row["name"].startswith(host.prefix))


def test_publish_list_delete(host: Host) -> None:
    alias = host.prefix + "made"
    none = host.coi("image", "list", "--prefix", host.prefix).ok()
    assert none.out == "No images found\n"
    empty = host.coi("images", "--prefix", host.prefix, "--format=json").ok()
    assert empty.json == {"images": []}
    missing = host.coi("image", "exists", alias)
    assert (missing.code, missing.out) == (1, "")
    assert f"image '{alias}' does not exist" in missing.err

    made = publish(host, "made", "--description", "größer [bold]x[/bold]")
    assert made["alias"] == alias
    image = query(f"/1.0/images/{made['fingerprint']}")
    assert [row["name"] for row in image["aliases"]] == [alias]
    properties = image["properties"]
    assert properties["coi.tools"] == "claude,dummy"
    assert properties["os"] == "debian"
    assert "coi.recipe" not in properties, "what is in it is not what a recipe made"
    assert host.coi("image", "exists", alias).ok().out == ""
    assert host.coi("image", "exists", made["fingerprint"][:12]).ok().out == ""

    listed = host.coi("image", "list", "--prefix", host.prefix, "--format", "json").ok()
    assert keys_of(listed.json) == JSON_KEYS["image list"]
    (row,) = listed.json["images"]
    assert row == {
        "alias": alias,
        "fingerprint": made["fingerprint"],
        "description": "größer [bold]x[/bold]",
        "size": image["size"],
        "created_at": image["uploaded_at"],
        "tools": ["claude", "dummy"],
        "base": "",
    }
    everything = host.coi("image", "list", "--all", "--format", "json").ok().json["images"]
    assert row in everything
    assert len(everything) == sum(max(len(i["aliases"] or ()), 1) for i in query(
        "/1.0/images?recursion=1"
    ))  # fmt: skip
    own = host.coi("images").ok().out
    assert own.startswith("COI Images:\n")
    assert re.search(rf"^{alias} +{made['fingerprint'][:12]} .*größer", own, re.M)
    assert host.coi("image", "list", "--all").ok().out.startswith("All Local Images:\n")

    # what others wrote into an image cannot draw
    evil = {**properties, "description": "\x1b[31mred\x1b]0;t\x07\nline\x9b2J\u202e"}
    body = json.dumps({"properties": evil, "public": False})
    incus("query", "-X", "PATCH", "-d", body, f"/1.0/images/{made['fingerprint']}").ok()
    text = host.coi("images", "--prefix", host.prefix).ok().out
    assert text.splitlines()[-1].endswith(" red line")
    assert len(text.splitlines()) == 3
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)

    again = host.coi("image", "publish", host.prefix + "source", alias)
    assert (again.code, again.out) == (1, "")
    assert f"image '{alias}' already exists" in again.err
    script = host.write("ws/build.sh", "true\n")
    built = host.coi(
        "build", "custom", alias, "--script", str(script), "--base", host.image
    )  # fmt: skip
    assert built.code == 1
    assert "already exists" in built.err

    assert host.coi("image", "delete", alias).ok().out == f"Deleted image {alias}\n"
    assert host.coi("image", "exists", alias).code == 1
    gone = host.coi("image", "delete", alias)
    assert (gone.code, gone.out) == (3, "")
    assert f"image '{alias}' does not exist" in gone.err
    drop_all(host)


def test_publish_refuses(host: Host) -> None:
    alias = host.prefix + "made"
    session = make(host, "session")
    running = make(host, "running", start=True, session_id=None, state="container")
    for args, code, message in (
        ((session, alias), 1, f"{session} is a session"),
        ((running, alias), 1, f"{running} is running"),
        ((host.prefix + "none", alias), 3, "cannot find"),
        ((session, "no such*name"), 2, "not a usable image name"),
        ((session, alias, "--description", "a\x1b[31mb"), 2, "control character"),
        ((session,), 2, "Missing argument 'ALIAS'"),
    ):
        done = host.coi("image", "publish", *args)
        assert (done.code, done.out) == (code, ""), done.err
        assert message in done.err
    assert aliases(host) == []
    drop_all(host)


def test_cleanup_keeps_the_newest(host: Host) -> None:
    prefix = host.prefix + "v-"
    days = ["20260101-000000", "20260102-000000", "20260103-000000", "20260104-000000"]
    for day in days:
        publish(host, f"v-{day}", "--description", day)
    first = query(f"/1.0/images/aliases/{prefix}{days[0]}")["target"]
    incus("image", "alias", "create", host.prefix + "v", first).ok()
    publish(host, "v-other", "--description", "no version")
    publish(host, "v-extra-20250101-000000", "--description", "another prefix's")
    for args, message in (
        ((prefix, "--keep", "0"), "--keep must be at least 1"),
        ((prefix, "--keep", "-1"), "--keep must be at least 1"),
        ((prefix,), "Missing option '--keep'"),
    ):
        refused = host.coi("image", "cleanup", *args)
        assert (refused.code, refused.out) == (2, "")
        assert message in refused.err
    assert len(aliases(host)) == 7

    done = host.coi("image", "cleanup", prefix, "--keep", "2").ok()
    assert done.out == "Deleted 1 image(s), kept 3\n"
    assert done.err == f"Deleted {prefix}{days[1]}\n"
    left = [prefix + name for name in (days[0], days[2], days[3], "extra-20250101-000000", "other")]
    assert aliases(host) == [host.prefix + "v", *left], "the first is in use as v"
    again = host.coi("image", "cleanup", prefix, "--keep", "2").ok()
    assert again.out == "Deleted 0 image(s), kept 3\n"
    none = host.coi("image", "cleanup", host.prefix + "none-", "--keep", "1").ok()
    assert none.out == "Deleted 0 image(s), kept 0\n"
    drop_images(host)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["list", "--format", "xml"], 2, "invalid format 'xml'"),
        (["exists", "a b"], 2, "not a usable image name"),
        (["delete", "../x"], 2, "not a usable image name"),
        (["delete"], 2, "Missing argument 'ALIAS'"),
    ],
)
def test_wrong_use(host: Host, args: list[str], code: int, message: str) -> None:
    done = host.coi("image", *args)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
