"""What every command that makes an instance for a workspace asks first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coi.cli.context import Context
from coi.errors import RefusedError

if TYPE_CHECKING:
    from coi.workspace.directory import Workspace
    from coi.workspace.ownership import SessionUser


@dataclass(frozen=True)
class Place:
    """A workspace, who works in it, and what else is mounted.

    Attributes:
        shift: mounts are idmapped.
        devices: of ``--mount``, ``--storage`` and the configuration.
    """

    workspace: Workspace
    user: SessionUser
    shift: bool
    devices: Mapping[str, Mapping[str, str]]


def place_of(context: Context) -> Place:
    """The place that a command line and the configuration name.

    Raises:
        CoiError: the workspace or a mount is not usable, or the network policy
            cannot be enforced.
    """
    from coi.workspace.directory import resolve
    from coi.workspace.mounts import devices
    from coi.workspace.ownership import session_user, uses_shift

    workspace = resolve(context.workspace, private=context.home)
    config = context.loaded.config
    check_network(context)
    user = session_user(config.incus.code_user, uid=config.incus.code_uid)
    shift = uses_shift(workspace.source, disabled=config.incus.disable_shift)
    return Place(
        workspace,
        user,
        shift,
        devices(
            config.mounts.default,
            context.values.get("mount") or (),
            context.values.get("storage"),
            shift=shift,
            private=context.home,
        ),
    )


def check_network(context: Context) -> None:
    """Refuse a network policy that this version cannot enforce."""
    loaded = context.loaded
    mode = loaded.config.network.mode
    if mode == "open":
        return
    if loaded.origins.get("network.mode", "built-in") == "built-in":
        context.output.notice(
            "Network: open (this version does not isolate it; --network=open says so yourself)"
        )
        return
    raise RefusedError(
        f"this version cannot enforce network mode {mode!r}",
        hint="--network=open starts the session without network isolation",
    )
