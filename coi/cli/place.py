"""What every command that makes an instance for a workspace asks first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from coi.cli.context import Context
from coi.records import record

if TYPE_CHECKING:
    from coi.network.fence import Fence
    from coi.session.limits import Limits
    from coi.session.network import Fencing
    from coi.workspace.directory import Workspace
    from coi.workspace.ownership import SessionUser


@record(frozen=True)
class Place:
    """A workspace, who works in it, and what else is mounted.

    Attributes:
        shift: mounts are idmapped.
        devices: of ``--mount``, ``--storage``, ``--publish`` and the configuration.
        limits: what may be used of the host.
        network: that is asked for.
    """

    workspace: Workspace
    user: SessionUser
    shift: bool
    devices: Mapping[str, Mapping[str, str]]
    limits: Limits
    network: Fencing


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
                workspace=workspace.source,
            ),
            **ports.devices(config.ports.publish, context.values.get("publish") or ()),
        },
        limits_of(context),
        network_of(context),
    )


def limits_of(context: Context) -> Limits:
    """The limits that a command line and the configuration ask for."""
    from coi.session import limits

    flag = bool(context.values.get("limit"))
    return limits.limits_of(context.client, context.loaded.config.limits, flag=flag)


def network_of(context: Context) -> Fencing:
    """The network that a command line and the configuration ask for."""
    from coi.session.network import OPEN, Fencing

    flag = context.values.get("network") is not None
    mode = context.loaded.config.network.mode
    if mode == OPEN:
        return Fencing(flag=flag)
    return Fencing(mode, flag, partial(_policy, context), partial(_fence, context))


def _policy(context: Context) -> str:
    from coi.network.policy import Policy

    policy = Policy.of(context.loaded.config.network)
    return policy.hash if policy else ""


def _fence(context: Context) -> Fence | None:
    """What the network policy becomes.

    The names of an allowlist are resolved here where their last answers are too old.

    Raises:
        UsageError: the allowlist has an entry that cannot be.
        RefusedError: the daemon is on another host.
    """
    from coi.network.start import fence

    return fence(
        context.client,
        context.loaded.config.network,
        prefix=context.engine.prefix,
        home=context.home,
        report=context.output.notice,
    )
