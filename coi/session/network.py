"""The network that an instance is made on: its policy stands before anything runs in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from coi.errors import CoiError
from coi.incus.errors import AlreadyExistsError, ImageMissingError, PoolFullError
from coi.incus.instances import CONFIG_PREFIX

if TYPE_CHECKING:
    from coi.network.attachment import Attachment
    from coi.network.fence import Fence

T = TypeVar("T")

NIC = "eth0"
OPEN = "open"

# Errors of a creation that say nothing about the network.
_OTHERS = (AlreadyExistsError, ImageMissingError, PoolFullError)


class Ground:
    """What an instance is made on; no fence is the profile's own network, unfiltered."""

    def __init__(self, fence: Fence | None = None, made: Attachment | None = None) -> None:
        self._fence = fence
        self._made = made

    @property
    def devices(self) -> dict[str, dict[str, str]]:
        """The NIC, where it is not the profile's."""
        return {NIC: dict(self._made.device)} if self._made else {}

    @property
    def keys(self) -> dict[str, str]:
        """``user.coi.*`` keys of the instance."""
        if self._made is None:
            return {CONFIG_PREFIX + "network": OPEN}
        values = {
            "network": self._made.mode,
            "network-backend": self._made.backend,
            "network-acl": self._made.acl,
            "policy": self._made.policy,
        }
        return {CONFIG_PREFIX + key: value for key, value in values.items()}

    @property
    def hosts(self) -> tuple[str, ...] | None:
        """Lines for /etc/hosts inside, where the network has no resolver of the policy's
        names; None where it has, or where there is nothing to resolve."""
        if self._fence is None or self._made is None:
            return None
        return self._fence.hosts(self._made)

    def verify(self) -> None:
        """See that the rules stand: beside the creation, before anything runs inside.

        Raises:
            RefusedError: they do not.
        """
        if self._fence is not None and self._made is not None:
            self._fence.verify(self._made)


Fencing: TypeAlias = "Callable[[], Fence | None]"
"""Makes the fence, once all else of a command line is known to be good; None: mode open."""


def no_fence() -> None:
    """The profile's network, unfiltered."""


def on_ground(fencing: Fencing, make: Callable[[Ground], T]) -> T:
    """``make`` on the network that the policy asks for.

    What was recorded is used without a look. Where it turns out to be gone, it is made
    anew and ``make`` is called again; it has undone what it did.

    Raises:
        RefusedError: the policy cannot be enforced.
    """
    fence = fencing()
    if fence is None:
        return make(Ground())
    made = fence.recorded()
    if made is not None:
        try:
            return _made(fence, made, make)
        except _OTHERS:
            raise
        except CoiError:
            if fence.stands(made):
                raise
    return _made(fence, fence.prepare(), make)


def _made(fence: Fence, on: Attachment, make: Callable[[Ground], T]) -> T:
    from coi.network.refresher import keep_fresh

    with fence.using(on):
        result = make(Ground(fence, on))
        keep_fresh(fence, on)
        return result


def unfenced(devices: Mapping[str, Mapping[str, str]], ground: Ground) -> bool:
    """Whether an instance has a NIC of an earlier policy that now goes."""
    return NIC in devices and not ground.devices
