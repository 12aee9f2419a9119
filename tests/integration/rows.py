"""Instances that look like coi's own, made without coi: cheap, and in any state."""

from __future__ import annotations

import json
import uuid
from typing import Any

from coi.session.locks import place_of
from coi.testing.host import Host
from coi.testing.machine import incus, query


def keys(host: Host, **changes: str | None) -> dict[str, str]:
    """The ``user.coi.*`` keys of a persistent session that is stopped and saved."""
    host.directory("coi")
    host.directory("coi/locks")
    values: dict[str, str | None] = {
        "session_id": str(uuid.uuid4()),
        "tool": "dummy",
        "workspace": str(host.workspace),
        "slot": "1",
        "persistent": "true",
        "owner": str(host.user.uid),
        "uid": "1000",
        "gid": "1000",
        "user": "code",
        "home": "/home/code",
        "image": host.image,
        "locks": place_of(host.coi_home / "locks"),
        "state": "saved",
        **changes,
    }
    return {
        f"user.coi.{key.replace('_', '-')}": value
        for key, value in values.items()
        if value is not None
    }


def make(
    host: Host,
    name: str,
    *,
    start: bool = False,
    root: bool = False,
    ephemeral: bool = False,
    config: dict[str, str] | None = None,
    **changes: str | None,
) -> str:
    """An instance ``<prefix><name>`` with these keys, or with ``config`` alone.

    Args:
        start: it runs, from the test's image.
        root: it has the image's files also when it does not run: to be started later.
    """
    full = {"type": "image", "alias": host.image}
    body: dict[str, Any] = {
        "name": host.prefix + name,
        "type": "container",
        "source": full if start or root else {"type": "none"},
        "config": keys(host, **changes) if config is None else config,
        "start": start,
        "ephemeral": ephemeral,
    }
    assert query("/1.0/instances", "-X", "POST", "--wait", "-d", json.dumps(body))
    return str(body["name"])


def drop_all(host: Host) -> None:
    """Delete the test's instances with one call, but for those that go by themselves."""
    if names := list(host.instances()):
        incus("delete", "--force", *names)
    host.drop()
