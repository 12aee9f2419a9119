"""The one description of an instance that coi creates, whatever it is for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coi import __version__
from coi.incus.instances import CONFIG_PREFIX
from coi.workspace.directory import INSIDE
from coi.workspace.ownership import idmap

if TYPE_CHECKING:
    from pathlib import Path

    from coi.session.limits import Limits
    from coi.workspace.directory import Workspace
    from coi.workspace.ownership import SessionUser

RUN = "run"  # value of user.coi.state: an instance of `coi run`
CONTAINER = "container"  # and one of `coi container launch`
WARM = "warm"  # and one that stands ready to become any of them

# What Docker inside needs (Incus, "Instance options", security.*), and no restart
# with the host: a session without its tool would only look like one.
BASE_CONFIG = {
    "security.nesting": "true",
    "security.syscalls.intercept.mknod": "true",
    "security.syscalls.intercept.setxattr": "true",
    "boot.autostart": "false",
}


def instance_body(
    name: str,
    image: str,
    keys: Mapping[str, str],
    *,
    limits: Limits,
    devices: Mapping[str, Mapping[str, str]] | None = None,
    ephemeral: bool = False,
) -> dict[str, Any]:
    """``POST /1.0/instances`` for a started instance; it holds no secret: argv is public.

    Args:
        image: its alias.
        keys: further config keys, the ``user.coi.*`` ones among them.
        limits: what it may use of the host.
        ephemeral: the daemon deletes it when it stops.
    """
    body: dict[str, Any] = {
        "name": name,
        "type": "container",
        "start": True,
        "source": {"type": "image", "alias": image},
        "config": {**BASE_CONFIG, **limits.config, **keys},
        "devices": {**(devices or {}), **limits.devices},
    }
    if ephemeral:
        body["ephemeral"] = True
    return body


def with_workspace(
    body: dict[str, Any], workspace: Workspace, user: SessionUser, *, shift: bool
) -> dict[str, Any]:
    """``body`` with the workspace mounted so that its owner is ``user`` inside.

    Raises:
        CoiError: without ``shift``, the host does not let the user's id be mapped.
    """
    device = workspace_device(workspace.source, shift=shift)
    config = dict(body["config"])
    if not shift:
        config["raw.idmap"] = idmap(user)
    return {**body, "config": config, "devices": {**body["devices"], "workspace": device}}


def workspace_device(source: Path, *, shift: bool) -> dict[str, str]:
    """The disk device of a workspace; ``source`` has its links resolved."""
    device = {"type": "disk", "source": str(source), "path": INSIDE}
    if shift:
        device["shift"] = "true"
    return device


def made_by_coi(state: str, **keys: object) -> dict[str, str]:
    """``user.coi.*`` keys of what is no session: ``state`` is RUN, CONTAINER or WARM."""
    values = {"state": state, "owner": os.getuid(), "version": __version__, **keys}
    return {CONFIG_PREFIX + key.replace("_", "-"): str(value) for key, value in values.items()}
