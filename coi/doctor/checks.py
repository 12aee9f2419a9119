"""The checks of Incus and what it is asked to do: each looks at the facts alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import datetime, timezone

from coi.config.model import NO_LIMIT
from coi.doctor import advisories
from coi.doctor.facts import PROFILE, Facts, Server
from coi.doctor.own import files, group, guard, kernel, leftovers, mounts, room, subids, tools
from coi.doctor.report import Check, fail, few, ok, said, warn
from coi.errors import CoiError
from coi.session.warm import base, fresh

GIB = 1 << 30
OLD = 90  # days after which an image wants its updates
OLDEST = (6, 0, 0)  # the release that coi is made for; what is later is meant to do as well

_UPDATE = {
    "Debian": "sudo apt-get update && sudo apt-get install --only-upgrade incus",
    "Ubuntu": "sudo apt-get update && sudo apt-get install --only-upgrade incus",
    "Fedora": "sudo dnf upgrade incus",
    "Arch": "sudo pacman -Syu incus",
}


def configuration(facts: Facts) -> Check:
    """It can be read."""
    error = facts.config_error
    if error is None:
        return ok("configuration", "read without complaint")
    return fail("configuration", said(error), error.hint)


def client(facts: Facts) -> Check:
    """`incus` is there, and tells its version."""
    if facts.client:
        return ok("client", f"incus {facts.client}")
    if facts.unreachable is not None and "not installed" in facts.unreachable.brief:
        return fail("client", facts.unreachable.brief, facts.unreachable.hint)
    return warn("client", "incus does not tell its version", "incus --version")


def daemon(facts: Facts) -> Check:
    """Incus answers, and is not too old."""
    if facts.server is None:
        error = facts.unreachable
        return fail("daemon", said(error) if error else "not asked", error.hint if error else "")
    text = facts.server.version
    version = advisories.parse(text)
    if version is None:
        return warn("daemon", f"its version is not one that is known: {text or 'none'}")
    if version < OLDEST:
        return fail("daemon", f"Incus {text} is older than 6.0", _update(facts.server))
    return ok("daemon", f"Incus {text} answers")


def security(facts: Facts) -> Check | None:
    """Known security fixes, by the numbers of client and server."""
    if facts.server is None:
        return None
    versions = [advisories.parse(text) for text in (facts.client, facts.server.version)]
    known = [version for version in versions if version is not None]
    if not known:
        return warn("security", "no version to look up", "incus version")
    lacking = advisories.missing(min(known))
    number = ".".join(map(str, min(known)))
    if not lacking:
        return ok("security", f"{number} has the fixes that were known in {advisories.LAST}")
    return warn(
        "security",
        f"by its number {number} lacks {len(lacking)} fixes ({few([a.cve for a in lacking])}); "
        "your distribution may have put them in: look at its changelog of incus",
        _update(facts.server),
        [f"{a.cve}: {a.what} ({a.source})" for a in lacking],
    )


def project(facts: Facts) -> Check | None:
    """The project lets coi do what it does."""
    if facts.server is None:
        return None
    name = facts.config.incus.project
    error = facts.server.errors.get("project")
    if error is not None:
        return fail("project", f"{name}: {said(error)}", "incus project list")
    if facts.server.project.get("restricted") == "true":
        return warn(
            "project",
            f"{name} is restricted: mounts, nesting or networks may be refused",
            f"incus project show {name}",
        )
    return ok("project", f"{name}, not restricted")


def storage(facts: Facts) -> Check | None:
    """The pool has room, and containers cannot take the host's."""
    server = facts.server
    if server is None:
        return None
    if server.profile is None:
        return fail("storage", f"there is no profile {PROFILE}", "./install.sh")
    if not server.root:
        mend = f"incus profile device add {PROFILE} root disk path=/ pool=NAME"
        return fail("storage", f"the profile {PROFILE} has no root disk", mend)
    pool = server.pool
    if pool is None:
        return fail("storage", f"there is no pool {server.root.get('pool')}", "incus storage list")
    if pool.status not in ("", "Created"):
        mend = f"incus storage show {pool.name}"
        return fail("storage", f"the pool {pool.name} is {pool.status.lower()}", mend)
    what = f"{pool.name} ({pool.driver})"
    if server.space is not None:
        total, used = server.space
        room = f"{what}: {(total - used) // GIB} of {total // GIB} GiB free"
        if total - used < GIB:
            return fail("storage", room, "coi clean; coi image list --all")
        if total - used < max(total // 10, 5 * GIB):
            return warn("storage", room, "coi clean; coi image list --all")
        what = room
    if not pool.quotas:
        return warn(
            "storage",
            f"{what}; it has no quotas: a container that fills it fills the host's disk",
            "incus storage create fast btrfs  (and the profile's root disk on it)",
        )
    return ok("storage", what)


def warm(facts: Facts) -> Check | None:
    """Containers that stand ready, where making one takes long."""
    server, size = facts.server, facts.config.warm.size
    if server is None or server.pool is None:
        return None
    pool = f"{server.pool.name} ({server.pool.driver})"
    if not size and server.pool.copies:
        return warn(
            "warm",
            f"none stand ready, and {pool} unpacks the image for each start",
            "[warm] size = 2  (in ~/.config/coi/config.toml; docs/warm.md)",
        )
    if not size:
        return ok("warm", f"none stand ready: {pool} does not copy the image")
    alias = facts.config.defaults.image
    target = next((one.fingerprint for one in server.images if alias in one.aliases), "")
    own = [
        row
        for row in server.instances
        if row.coi("warm") == row.name and row.coi("owner") == str(facts.host.uid) and fresh(row)
    ]
    ready = sum(base(row) == target for row in own)
    text = f"{ready} of {size} ready for {alias}"
    if len(own) > ready:
        text += f", {len(own) - ready} others"
    if ready < size:
        text += "; each start makes what lacks"
    if not server.pool.copies:
        text += f"; {pool} makes one as fast"
    return ok("warm", text)


def limits(facts: Facts) -> Check:
    """What a container may use of the host."""
    found = facts.config.limits
    disk = found.get("disk") or (facts.server.root.get("size") if facts.server else "") or NO_LIMIT
    shown = ", ".join(
        f"{what} {found.get(what, NO_LIMIT)}" for what in ("cpu", "memory", "processes")
    )
    text = f"{shown}, disk {disk}"
    lifted = [what for what in ("memory", "processes") if what not in found]
    if lifted:
        return warn(
            "limits",
            f"{text}: nothing keeps a container from taking all of it",
            "coi config show --origin  (it tells which file lifts it)",
        )
    return ok("limits", text)


def network(facts: Facts) -> Check | None:
    """What enforces the policy of sessions, and whether it can."""
    server, asked = facts.server, facts.config.network
    if server is None:
        return None
    if asked.mode == "open":
        return warn(
            "network", "network.mode is open: nothing is filtered", "coi shell --network=restricted"
        )
    from coi.network.choice import decide, parent

    devices = server.profile.devices if server.profile else {}
    name = parent(devices)
    found = next((row for row in server.networks if row.name == name), None)
    try:
        backend, _ = decide(asked.backend, found, PROFILE)
    except CoiError as error:
        return fail("network", said(error), error.hint)
    own = facts.config.incus.project
    networks_of_its_own = server.project.get("features.networks") == "true"
    if backend == "bridge" and own != "default" and networks_of_its_own:
        return fail(
            "network",
            f"{asked.mode} needs a bridge, which the project {own} cannot have",
            f"incus project set {own} features.networks=false",
        )
    if facts.config.incus.remote != "local":
        return fail(
            "network",
            f"{asked.mode} cannot be enforced on the remote {facts.config.incus.remote}",
            "run coi on that machine",
        )
    where = {"bridge": "a bridge for each policy", "ovn": f"OVN, on {name}", "nic": f"on {name}"}
    return ok("network", f"{asked.mode}, by {where[backend]}")


def dns(facts: Facts) -> Check | None:
    """Containers are handed a resolver; only settings are looked at, nothing is asked."""
    server = facts.server
    if server is None:
        return None
    if not facts.host.resolvers:
        return warn("dns", "/etc/resolv.conf names no resolver", "cat /etc/resolv.conf")
    from coi.network.choice import parent

    name = parent(server.profile.devices) if server.profile else ""
    found = next((row for row in server.networks if row.name == name), None)
    if found is None or not found.managed:
        return warn(
            "dns",
            f"the profile {PROFILE} is on no network of Incus",
            f"incus profile show {PROFILE}",
        )
    if found.type == "bridge" and found.config.get("ipv4.address") in (None, "", "none"):
        return fail(
            "dns",
            f"{name} has no IPv4 address, and hands out none",
            f"incus network set {name} ipv4.address=auto",
        )
    if found.config.get("dns.mode") == "none":
        return warn("dns", f"{name} resolves no names", f"incus network unset {name} dns.mode")
    return ok("dns", f"the host asks {few(facts.host.resolvers)}; containers ask {name}")


def image(facts: Facts, now: datetime | None = None) -> Check | None:
    """The image is there, not old, and has the tool."""
    server = facts.server
    if server is None:
        return None
    name, tool = facts.config.defaults.image, facts.config.tool.name
    found = next((one for one in server.images if name in one.aliases), None)
    again = (
        f"coi build --force --image {shlex.quote(name)}" if name != "coi" else "coi build --force"
    )
    if found is None:
        return fail("image", f"there is no image {name}", again.replace(" --force", ""))
    tools = [word for word in found.properties.get("coi.tools", "").split(",") if word]
    if tools and tool not in tools:
        return warn(
            "image",
            f"{name} has {', '.join(tools)}, not {tool}",
            f"{again} --tools {shlex.quote(','.join([*tools, tool]))}",
        )
    days = _days(found.created_at, now or datetime.now(timezone.utc))
    if days is not None and days > OLD:
        return warn("image", f"{name} is {days} days old, and so are its packages", again)
    age = "" if days is None else f", {days} days old" if days else ", of today"
    return ok("image", f"{name}{age}" + (f", with {', '.join(tools)}" if tools else ""))


def _days(text: str, now: datetime) -> int | None:
    try:
        made = datetime.fromisoformat(text[:19]).replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return max((now - made).days, 0)


CHECKS: tuple[Callable[[Facts], Check | None], ...] = (
    configuration, client, daemon, security, group, project, storage, warm, limits, network, dns,
    guard, image, mounts, subids, tools, files, room, kernel, leftovers,
)  # fmt: skip


def examine(facts: Facts) -> list[Check]:
    """Every check that the facts allow; those that need Incus are left out without it."""
    return [check for check in (look(facts) for look in CHECKS) if check is not None]


def _update(server: Server) -> str:
    system = str(server.environment.get("os_name") or "").split(" ")[0]
    return _UPDATE.get(system, "update incus with the package manager")
