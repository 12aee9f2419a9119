"""What every command that makes an instance for a workspace asks first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from coi.cli.context import Context

if TYPE_CHECKING:
    from coi.network.fence import Fence
    from coi.session.network import Fencing
    from coi.workspace.directory import Workspace
    from coi.workspace.ownership import SessionUser


@dataclass(frozen=True)
class Place:
    """A workspace, who works in it, and what else is mounted.

    Attributes:
        shift: mounts are idmapped.
        devices: of ``--mount``, ``--storage``, ``--publish`` and the configuration.
        fence: makes the network policy's.
    """

    workspace: Workspace
    user: SessionUser
    shift: bool
    devices: Mapping[str, Mapping[str, str]]
    fence: Fencing


def place_of(context: Context) -> Place:
    """The place that a command line and the configuration name.

    Raises:
        CoiError: the workspace or a mount is not usable, or the network policy
            cannot be enforced.
    """
    from coi.workspace import mounts, ports
    from coi.workspace.directory import resolve
    from coi.workspace.ownership import session_user, uses_shift

    workspace = resolve(context.workspace, private=context.home)
    config = context.loaded.config
    user = session_user(config.incus.code_user, uid=config.incus.code_uid)
    shift = uses_shift(workspace.source, disabled=config.incus.disable_shift)
    return Place(
        workspace,
        user,
        shift,
        {
            **mounts.devices(
                config.mounts.default,
                context.values.get("mount") or (),
                context.values.get("storage"),
                shift=shift,
                private=context.home,
            ),
            **ports.devices(config.ports.publish, context.values.get("publish") or ()),
        },
        partial(fence_of, context),
    )


def fence_of(context: Context) -> Fence | None:
    """What the network policy becomes; None where the mode is open.

    The names of an allowlist are resolved here where their last answers are too old.

    Raises:
        UsageError: the allowlist has an entry that cannot be.
        RefusedError: the daemon is on another host.
    """
    if context.loaded.config.network.mode == "open":
        return None
    from coi.network.start import fence

    return fence(
        context.client,
        context.loaded.config.network,
        prefix=context.engine.prefix,
        home=context.home,
        report=context.output.notice,
    )
