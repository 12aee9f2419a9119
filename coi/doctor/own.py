"""The checks of the host and of what is coi's own: each looks at the facts alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from coi.doctor.facts import Facts
from coi.doctor.report import Check, fail, few, ok, warn
from coi.session.room import SHARED, most

GIB = 1 << 30
RANGE = 65536  # ids that one container takes
_DIGITS = re.compile(r"[0-9]{1,18}")
_NAMED = 3  # paths that a command names one by one


def group(facts: Facts) -> Check:
    """The user may use Incus."""
    who, found = facts.host.user, facts.host.group
    if facts.host.uid == 0:
        return ok("group", "root may use Incus")
    if found.active:
        return ok("group", f"{who} is in {found.name}, which is as good as root on this host")
    if facts.server is not None:
        if found.joined:
            return ok("group", f"{who} is in {found.name}; this login session is let in otherwise")
        return ok("group", f"{who} is let in without being in {found.name}")
    if found.joined:
        return fail(
            "group",
            f"{who} is in {found.name}, this login session is older",
            f"newgrp {found.name}",
        )
    if not found.exists:
        return fail("group", f"there is no group {found.name}", "./install.sh")
    return fail(
        "group",
        f"{who} is not in {found.name}",
        f"sudo usermod -aG {found.name} {shlex.quote(who)}  (then log in again)",
    )


def guard(facts: Facts) -> Check | None:
    """No other resolver of the host can be asked past a policy."""
    if facts.server is None or facts.config.network.mode == "open":
        return None
    mend = "sudo coi network guard --load"
    if facts.host.guarded:
        return ok("guard", "sessions ask no resolver of this host but their own")
    if not facts.host.listening:
        return ok("guard", "not loaded; no other resolver of this host listens")
    text = f"sessions can ask other resolvers of this host ({few(facts.host.listening)})"
    if facts.config.network.mode == "allowlist":
        return fail("guard", f"{text}: an allowlist is refused", mend)
    return warn("guard", text, mend)


def mounts(facts: Facts) -> Check | None:
    """The workspace's owner is the owner inside."""
    if facts.server is None:
        return None
    features = facts.server.environment.get("kernel_features") or {}
    shift = facts.host.shift
    if shift is not False and features.get("idmapped_mounts") == "true":
        return ok("mounts", "idmapped: files made inside are yours")
    if facts.host.uid == 0:
        return fail("mounts", "no idmapped mounts, which root needs", "run coi as another user")
    closed = [
        path
        for path, text in facts.host.subids.items()
        if text is not None and not any(a <= facts.host.uid < b for a, b in _ranges(text))
    ]
    if closed:
        mend = f"echo root:{facts.host.uid}:1 | sudo tee -a {' '.join(closed)}"
        return fail("mounts", "no idmapped mounts, and your id may not be mapped", mend)
    if shift is not False:
        return warn("mounts", "the kernel has no idmapped mounts", "set incus.disable_shift = true")
    return ok("mounts", "your own id is mapped into containers")


def subids(facts: Facts) -> Check:
    """Incus has ids that containers are mapped to."""
    short = [
        path
        for path, text in facts.host.subids.items()
        if text is not None and not any(end - start >= RANGE for start, end in _ranges(text))
    ]
    if short:
        return fail(
            "subids",
            f"{' and '.join(short)} lend root fewer than {RANGE} ids: no container starts",
            f"echo root:1000000:1000000000 | sudo tee -a {' '.join(short)}; "
            "sudo systemctl restart incus",
        )
    return ok("subids", "containers are mapped to ids of their own")


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    """What /etc/subuid lends to root: the first id, and the one after the last."""
    for line in text.splitlines():
        owner, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if owner in ("root", "0") and _DIGITS.fullmatch(first) and _DIGITS.fullmatch(count):
            yield int(first), int(first) + int(count)


def tools(facts: Facts) -> Check:
    """Plugins load, and the chosen tool is there."""
    chosen = facts.config.tool.name
    if chosen not in facts.tools:
        return fail("tools", f"there is no tool {chosen}", "coi tool list", facts.problems)
    if facts.problems:
        return warn("tools", f"skipped: {few(facts.problems)}", "coi tool list", facts.problems)
    return ok("tools", f"{len(facts.tools)} usable; {chosen} is chosen")


def files(facts: Facts) -> Check:
    """What coi keeps is its user's alone: 0600 and 0700."""
    home, found = facts.host.home, facts.host.opened
    details = [f"{item.path} {item.mode:03o}{' of another user' * item.foreign}" for item in found]
    foreign = [str(item.path) for item in found if item.foreign]
    if foreign:
        mend = f"sudo chown -R {shlex.quote(facts.host.user)}: {shlex.quote(str(home))}"
        return fail("files", f"not yours: {few(foreign)}", mend, details)
    mend = f"chmod -R go= {shlex.quote(str(home))}"
    if len(found) <= _NAMED:
        mend = f"chmod go= {shlex.join(str(item.path) for item in found)}"
    writable = [str(item.path) for item in found if item.mode & 0o022]
    if writable:  # approvals and saved sessions could be anybody's
        return fail("files", f"others may write to {few(writable)}", mend, details)
    if found:
        paths = [str(item.path) for item in found]
        return warn("files", f"others may read {few(paths)}", mend, details)
    return ok("files", f"{home} is yours alone")


def room(facts: Facts) -> Check:
    """There is room to save sessions."""
    text = f"{facts.host.free / GIB:.1f} GiB free for saved sessions"
    if facts.host.free < GIB // 4:
        return fail("room", text, "coi clean --sessions")
    return warn("room", text, "coi clean --sessions") if facts.host.free < GIB else ok("room", text)


def kernel(facts: Facts) -> Check:
    """Many containers can run at a time."""
    low = dict(facts.host.kernel)
    if not low:
        return ok("kernel", "its limits leave room for many containers")
    lines = [shlex.quote(f"{key} = {SHARED[key][0] * 8}") for key in low]
    return warn(
        "kernel",
        f"some {most(low)} containers can run at a time ({', '.join(low)})",
        f"printf '%s\\n' {' '.join(lines)} | sudo tee /etc/sysctl.d/60-coi.conf; "
        "sudo sysctl --system",
    )


def leftovers(facts: Facts) -> Check | None:
    """Nothing is left of what has ended."""
    if facts.server is None:
        return None
    if facts.leftovers:
        text = f"{len(facts.leftovers)}: {few(facts.leftovers)}"
        return warn("leftovers", text, "coi clean", facts.leftovers)
    return ok("leftovers", "nothing to clean")
