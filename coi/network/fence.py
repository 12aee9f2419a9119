"""The network of sessions: what a start, a refresh and a sweep need of it.

A start with a record takes no call before its instance is created, and one beside that
(:meth:`Fence.verify`) before anything untrusted runs; a new policy takes 5 and
0.9 seconds (a bridge; 6 and 1.5 where it has names, 5 and 0.2 on OVN). The order of a start::

    fence = Fence(...)
    made = fence.recorded()
    with fence.using(made) if made else fence.prepared() as made:
        create the instance with made.devices, running nothing of the session's yet
        fence.verify(made)

A sweep leaves alone what is used so, so that no network goes between the moment it is
found and the moment that Incus knows of its user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coi.errors import CoiError, RefusedError, UsageError
from coi.incus.acls import NetworkAcl, NetworkAcls
from coi.incus.client import Client
from coi.network import attachment, resolvers
from coi.network.answers import load as load_answers
from coi.network.attachment import Attachment, Backend, Scope, same_tags
from coi.network.host import HostView, require_local, view
from coi.network.lock import locked
from coi.network.names import hosts_lines, names_of, raw_dnsmasq
from coi.network.policy import Policy, Surroundings
from coi.network.rules import around, refusal, rules, sealed
from coi.records import record

if TYPE_CHECKING:
    from coi.incus.networks import Network

BACKENDS = ("auto", "bridge", "ovn", "nic")

Answers = Mapping[str, tuple[IPv4Address, ...]]


def _quiet(_line: str) -> None:
    """Nobody is told."""


@record
class Fence:
    """One policy in one scope.

    Attributes:
        answers: what the names of an allowlist resolve to.
        backend: of :data:`BACKENDS`.
        profile: whose eth0 an instance would have.
        host: read from the kernel where it is not given.
        minutes: how old an answer gets while an instance runs; 0: any age.
        log: a file that tells what changed meanwhile.
        report: takes a line for the user.
    """

    client: Client
    scope: Scope
    policy: Policy
    answers: Answers = field(default_factory=dict)
    backend: str = "auto"
    profile: str = "default"
    host: HostView = field(default_factory=view)
    minutes: int = 0
    log: Path | None = None
    report: Callable[[str], None] = _quiet

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError(f"unknown network backend {self.backend!r}")
        require_local(self.client.remote)

    # -- a start

    def recorded(self) -> Attachment | None:
        """What was last made or verified, if it would be the same now. No call.

        Raises:
            RefusedError: the host's other resolvers are a way out of an allowlist.
        """
        made = self.last()
        if made is None or not self.current(made):
            return None
        if made.backend == "bridge":
            resolvers.check(self.policy, made.network)
        return made

    def last(self) -> Attachment | None:
        """What was last made or verified, whether or not it would be the same now. No call."""
        made = self.held(attachment.chosen(self._choice))
        return made if made and self.backend in ("auto", made.backend) else None

    def held(self, acl: str) -> Attachment | None:
        """The policy's attachment of that ACL, as last known. No call."""
        made = attachment.load(attachment.record_path(self.scope, acl)) if acl else None
        return made if made and made.policy == self.policy.hash else None

    def current(self, made: Attachment) -> bool:
        """Whether its rules and names would be the same now. No call."""
        return sealed(made, self.policy, self._around(made)) == made

    def forget(self) -> None:
        """The next start looks at the profile, and makes or mends what it finds."""
        with suppress(OSError):
            self._choice.unlink(missing_ok=True)

    def prepare(self) -> Attachment:
        """As :meth:`prepared`, for what no sweep may take meanwhile."""
        with self.prepared() as made:
            return made

    @contextmanager
    def prepared(self) -> Iterator[Attachment]:
        """See to the ACL and the network; no sweep takes them within the block.

        Raises:
            RefusedError: the policy cannot be enforced; nothing is left behind.
        """
        from coi.incus.networks import Networks, parsed
        from coi.network.choice import choose, nics, others

        listing = Networks(self.client).start_all()
        try:
            devices = self._profile()
        finally:
            listing.settle()
        try:
            networks = parsed(listing.result())
        except CoiError as error:
            raise refusal(error, "look at networks here") from error
        backend, network = choose(self.backend, self.profile, devices, networks)
        name = self.scope.name(self.policy, backend, network.name if network else "")
        if network is None:
            resolvers.check(self.policy, name, self.report)
        with locked(self._lock(name, "use"), shared=True):
            with locked(self._lock(name, "make")):
                made = self._made(backend, network, networks)
                masked, read = others(devices), attachment.digest(nics(devices))
                made = replace(made, masked=masked, profile=read)
                self._save(made)
                attachment.write(self._choice, made.acl + "\n")
            if made.masked:
                self.report(
                    f"Left out: {', '.join(made.masked)} of the profile {self.profile!r}, "
                    "which no policy is on"
                )
            yield made

    def _made(self, backend: Backend, network: Network | None, there: list[Network]) -> Attachment:
        from coi.network import bridge, nic, ovn
        from coi.network.route import missing

        self._learn()
        args = (self.client, self.scope, self.policy, self.host, self.answers)
        if network is None:
            return bridge.ensure(*args, there)
        if backend == "nic":
            return nic.ensure(*args, network)
        if command := missing(network, self.host):
            self.report(f"This host has no route to {network.name}; as root: {command}")
        self.report(
            "OVN lets UDP that is sent from port 53 pass every policy, unless root has closed it: "
            "docs/network.md"
        )
        return ovn.ensure(*args, network)

    def moved(self, made: Attachment) -> bool:
        """Whether the profile has got other NICs since; one call."""
        from coi.network.choice import nics

        return attachment.digest(nics(self._profile())) != made.profile

    def _profile(self) -> Mapping[str, Mapping[str, str]]:
        """The devices of the profile."""
        from coi.incus.profiles import Profiles

        found = Profiles(self.client).find(self.profile)
        return found.devices if found else {}

    @contextmanager
    def using(self, made: Attachment) -> Iterator[Attachment]:
        """Keep sweeps from what an instance is about to use."""
        with locked(self._lock(made.acl, "use"), shared=True):
            yield made

    def verify(self, made: Attachment) -> Attachment:
        """See that the rules stand now, in one call; one more where they have to be mended.

        Raises:
            RefusedError: they do not, and what runs under them must end. They are
                forgotten, so that the next start makes them anew.
        """
        try:
            found = self._found(made)
            if found.rules != self._rules(made):
                with locked(self._lock(made.acl, "make")):
                    self._learn()
                    self._mend(made, self._found(made))
        except CoiError:
            self.forget()
            raise
        now = sealed(made, self.policy, self._around(made))
        if now != made:
            self._save(now)
        return now

    def _found(self, made: Attachment) -> NetworkAcl:
        """The ACL of what was made, once it is seen to be in its place."""
        found = NetworkAcls(self.client).find(made.acl)
        tags = self.scope.tags(self.policy, made.backend)
        reason = ""
        if found is None:
            reason = f"Network ACL {made.acl} is gone."
        elif not same_tags(found.config, tags):
            reason = f"Network ACL {made.acl} is not coi's."
        elif made.backend == "bridge" and ("networks", made.network) not in found.used_by:
            reason = f"Network {made.network} does not have the ACL {made.acl}."
        if found is None or reason:
            raise RefusedError(
                "the network policy does not stand", details=reason, hint="start it again"
            )
        return found

    def _rules(self, made: Attachment) -> dict[str, Any]:
        return rules(self.policy, self._around(made), made.backend)

    def _mend(self, made: Attachment, found: NetworkAcl) -> None:
        wanted = self._rules(made)
        if found.rules != wanted:
            try:
                NetworkAcls(self.client).replace(made.acl, found.config, wanted)
            except CoiError as error:
                raise refusal(error, "change network ACLs here") from error

    def _learn(self) -> None:
        """Take the answers on disk, which a refresh may have renewed meanwhile."""
        last = load_answers(self.scope.directory, self.policy.hash)
        self.answers = {**self.answers, **{name: a.addresses for name, a in last.items()}}

    def hosts(self, made: Attachment) -> tuple[str, ...] | None:
        """Lines for /etc/hosts inside; None where names need none (hosts(5))."""
        if made.backend != "ovn" or self.policy.mode != "allowlist":
            return None
        return hosts_lines(self.policy, self._around(made))

    def stands(self, made: Attachment) -> bool:
        """Whether the ACL and the network are there and coi's; otherwise they are forgotten.

        One or two calls, for after a failure.
        """
        from coi.incus.networks import Networks

        tags = self.scope.tags(self.policy, made.backend)
        acl = NetworkAcls(self.client).find(made.acl)
        if acl is not None and same_tags(acl.config, tags):
            network = Networks(self.client).find(made.network)
            own = made.backend != "bridge"
            if network is not None and (own or ("networks", made.network) in acl.used_by):
                return True
        self.forget()
        return False

    def explained(self, error: CoiError, made: Attachment) -> CoiError:
        """What a start failed with, as a refusal where that is what it is."""
        if made.backend != "nic":
            return error
        from coi.network.nic import refused_start

        return refused_start(error)

    # -- afterwards

    def refresh(
        self, made: Attachment, answers: Answers, keep: Callable[[], None] = lambda: None
    ) -> Attachment:
        """Go over to new answers: the ACL, and on a bridge its names where they changed.

        One call, three where they changed. The rules come first: no name leads where they
        do not let it. It restarts the resolver of the names, about a second.

        Args:
            keep: called once they stand, before a start that has older ones may look.

        Raises:
            CoiError: Incus refused; what stood before stands, or the rules alone changed.
        """
        self.answers = answers
        with locked(self._lock(made.acl, "make")):
            self._mend(made, self._found(made))
            now = sealed(made, self.policy, self._around(made))
            if made.backend == "bridge" and now.names != made.names:
                from coi.incus.networks import Networks

                text = raw_dnsmasq(self.policy, self._around(made))
                Networks(self.client).update(names_of(made.network), {"raw.dnsmasq": text})
            if now != made:
                self._save(now)
            keep()
        return now

    def _around(self, made: Attachment) -> Surroundings:
        return around(made, self.host.addresses, self.answers)

    @property
    def _choice(self) -> Path:
        return attachment.choice_path(self.scope, self.policy, self.backend, self.profile)

    def _save(self, made: Attachment) -> None:
        attachment.save(attachment.record_path(self.scope, made.acl), made)

    def _lock(self, name: str, kind: str) -> Path:
        return lock_path(self.scope, name, kind)


def lock_path(scope: Scope, name: str, kind: str) -> Path:
    """Of a network: ``make`` while it is made or removed, ``use`` while it is about to be used."""
    return scope.directory / f"{name}.{kind}.lock"
