"""The network that an instance is made on: its policy stands before anything runs in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

from coi.errors import CoiError, RefusedError
from coi.incus.errors import AlreadyExistsError, ImageMissingError, PoolFullError, TooSmallError
from coi.incus.instances import CONFIG_PREFIX
from coi.records import record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from coi.incus.instances import Instance
    from coi.network.attachment import Attachment
    from coi.network.fence import Fence

T = TypeVar("T")

NIC = "eth0"
OPEN = "open"
_NONE = {"type": "none"}
_KEYS = ("network", "network-backend", "network-acl", "network-masked", "policy")

# Errors of a creation that say nothing about the network.
_OTHERS = (AlreadyExistsError, ImageMissingError, PoolFullError, TooSmallError)


class Ground:
    """What an instance is made on; no fence is the profile's own network, unfiltered."""

    def __init__(self, fence: Fence | None = None, made: Attachment | None = None) -> None:
        self._fence = fence
        self._made = made

    @property
    def fenced(self) -> bool:
        """Whether there is a policy."""
        return self._made is not None

    @property
    def devices(self) -> dict[str, dict[str, str]]:
        """The NIC, where it is not the profile's, and none of the profile's others."""
        return self._made.devices if self._made else {}

    @property
    def keys(self) -> dict[str, str]:
        """``user.coi.*`` keys of the instance."""
        if self._made is None:
            return {CONFIG_PREFIX + "network": OPEN}
        values = {
            "network": self._made.mode,
            "network-backend": self._made.backend,
            "network-acl": self._made.acl,
            "network-masked": ",".join(self._made.masked),
            "policy": self._made.policy,
        }
        return {CONFIG_PREFIX + key: value for key, value in values.items() if value}

    @property
    def hosts(self) -> tuple[str, ...] | None:
        """Lines for /etc/hosts inside, where the network has no resolver of the policy's
        names; None where it has, or where there is nothing to resolve."""
        if self._fence is None or self._made is None:
            return None
        return self._fence.hosts(self._made)

    def verify(self) -> None:
        """See that the rules stand, and that they are kept right from now on: beside the
        creation, before anything runs inside.

        Raises:
            RefusedError: they do not.
        """
        if self._fence is not None and self._made is not None:
            from coi.network.duty import keep

            keep(self._fence, self._made)
            self._fence.verify(self._made)

    def alone(self, command: list[str]) -> list[str]:
        """``command``, run as root in a new instance: only where it has no other NIC."""
        if not self.fenced:
            return command
        from coi.network.alone import alone

        return alone(command)

    def not_alone(self, code: int, text: str) -> CoiError | None:
        """The error where that is why it failed; the profile is looked at the next time."""
        if self._fence is None:
            return None
        from coi.config.text import printable
        from coi.network.alone import OTHER_NIC, refusal

        if code != OTHER_NIC:
            return None
        self._fence.forget()
        return refusal(printable(text.strip().rpartition("\n")[2], 200))

    def changes(self, row: Instance) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """Configuration keys and devices for an instance that was on another ground; a key
        without a value goes.

        Args:
            row: as listed a moment ago, with what its profile gives it.

        Raises:
            RefusedError: it has a NIC of its own that no policy is on.
        """
        keys = {**{CONFIG_PREFIX + key: "" for key in _KEYS}, **self.keys}
        if not self.fenced:
            return keys, {}
        earlier = [n for n in row.coi("network-masked").split(",") if n in row.devices]
        devices = {**dict.fromkeys((*_uncovered(row), *earlier), _NONE), **self.devices}
        keys[CONFIG_PREFIX + "network-masked"] = ",".join(sorted(set(devices) - {NIC}))
        return keys, devices

    def going(self, row: Instance) -> list[str]:
        """The devices of an earlier policy that an instance has no more."""
        if self.fenced or (row.coi("network") or OPEN) == OPEN:
            return []
        masked = row.coi("network-masked").split(",")
        return [name for name in (NIC, *masked) if name in row.devices]


def _uncovered(row: Instance) -> tuple[str, ...]:
    """The NICs that an instance has from its profile, and no policy is on.

    Raises:
        RefusedError: it has one of its own.
    """
    from coi.network.choice import others

    if own := others(row.devices):
        raise RefusedError(
            f"cannot enforce the network policy: {row.name} has a NIC that no policy is on",
            details=f"{', '.join(own)}, which is the container's own.",
            hint=f"incus config device remove {row.name} {own[0]}  (or --network open)",
        )
    return others(row.expanded)


@record(frozen=True)
class Fencing:
    """The network that a command line asks for.

    Attributes:
        mode: of ``network.mode``.
        flag: the command line itself says so, not the configuration.
        policy: tells the policy's hash.
        fence: makes the fence, once all else of a command line is known to be good.
    """

    mode: str = OPEN
    flag: bool = False
    policy: Callable[[], str] = str
    fence: Callable[[], Fence | None] = lambda: None


def agree(row: Instance, asked: Fencing, report: Callable[[str], None]) -> None:
    """See that a running instance is on the network that is asked for.

    Where the configuration alone asks for none, one that has a policy will do.

    Raises:
        RefusedError: it is on another, which may let through more.
    """
    mode = row.coi("network") or OPEN
    if mode == asked.mode and row.coi("policy") == asked.policy():
        if mode != OPEN and (extra := _uncovered(row)):
            raise RefusedError(
                f"{row.name} has a NIC that no policy is on: {', '.join(extra)}",
                hint=_WAY_OUT.format(row.name),
            )
        return
    if asked.mode == OPEN and not asked.flag:
        report(f"{row.name} runs with --network {mode}, not {OPEN}")
        return
    what = f"with --network {mode}, not {asked.mode}"
    if mode == asked.mode:
        what = f"with --network {mode}, but with other settings than those of now"
    raise RefusedError(
        f"{row.name} runs {what}",
        details="A running container keeps the network that it was started with.",
        hint=_WAY_OUT.format(row.name),
    )


_WAY_OUT = "go on with it as it is: coi attach {0}; or end it and start anew: coi shutdown {0}"


def on_ground(asked: Fencing, make: Callable[[Ground], T]) -> T:
    """``make`` on the network that the policy asks for.

    What was recorded is used without a look. Where it turns out to be gone, it is made
    anew and ``make`` is called again; it has undone what it did.

    Raises:
        RefusedError: the policy cannot be enforced.
    """
    fence = asked.fence()
    if fence is None:
        return make(Ground())
    made = fence.recorded()
    if made is not None:
        try:
            return _made(fence, fence.using(made), make)
        except _OTHERS:
            raise
        except CoiError:
            if fence.stands(made):
                raise
    return _made(fence, fence.prepared(), make)


def _made(
    fence: Fence, standing: AbstractContextManager[Attachment], make: Callable[[Ground], T]
) -> T:
    with standing as made:
        try:
            return make(Ground(fence, made))
        except CoiError as error:
            explained = fence.explained(error, made)
            if explained is error:
                raise
            raise explained from error


def watch(directory: Path, rows: Iterable[Instance]) -> None:
    """See that the rules of policies are kept right which instances run behind. No call.

    Args:
        directory: coi's own.
        rows: instances, as they were seen a moment ago.
    """
    acls = {row.coi("network-acl") for row in rows if not row.stopped} - {""}
    if acls:
        from coi.network.duty import take_over

        take_over(directory / "network", acls)


def started(directory: Path, row: Instance, start: Callable[[], None]) -> None:
    """Start a stopped instance that may be behind a policy, whose rules are seen to first.

    Args:
        directory: coi's own.
        row: the instance, with what its profile gives it.

    Raises:
        RefusedError: the policy does not stand, or the instance has got another NIC.
    """
    acl = row.coi("network-acl")
    if not acl:
        start()
        return
    if extra := _uncovered(row):
        raise RefusedError(
            f"cannot enforce the network policy: {row.name} has a NIC that no policy is on",
            details=f"{', '.join(extra)}, from its profile.",
            hint=f"incus config device add {row.name} {extra[0]} none",
        )
    from coi.network.upkeep import standing

    with standing(directory / "network", acl):
        start()
