"""Wait until an instance that has just started can be worked in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coi.errors import CoiError
from coi.network.hosts import with_hosts
from coi.session import inside
from coi.session.network import Ground

if TYPE_CHECKING:
    from coi.session.model import Engine
    from coi.workspace.ownership import SessionUser

DEADLINE = 30.0  # seconds for all of it; the script itself gives up after 8

# An instance that has just started has no address yet, and its systemd-tmpfiles is about
# to empty /tmp (both measured: 0.3 to 0.9 s after the start). Where init is systemd this
# waits for sockets.target, which is after the former and 20 to 30 ms later: Docker can be
# asked for then. It waits for a default route where there is a NIC. An exec may be there
# before PID 1 has become init: its name tells nothing yet (measured), /sbin/init does.
_SCRIPT = r"""
nic() { for n in /sys/class/net/*; do [ "${n##*/}" = lo ] || return 0; done; return 1; }
route() {
  while read -r _ to _; do [ "$to" = 00000000 ] && return 0; done </proc/net/route
  while read -r to size _ _ _ _ _ _ _ by; do
    [ "$size" = 00 ] && [ "$by" != lo ] && [ "$to" = 00000000000000000000000000000000 ] && return 0
  done </proc/net/ipv6_route
  return 1
} 2>/dev/null
init=$(readlink -f /sbin/init)
init=${init##*/}
read -r up _ </proc/uptime
end=$((${up%%.*}+8))
while [ "$init" = systemd ] && [ "${up%%.*}" -lt "$end" ]; do
  if ! nic || route; then systemctl is-active -q sockets.target 2>/dev/null && break; fi
  sleep 0.02
  read -r up _ </proc/uptime
done
exec "$@"
"""


def settled(command: Sequence[str]) -> list[str]:
    """``command``, once the instance can be worked in."""
    return ["sh", "-c", _SCRIPT, "coi", *command]


def cannot_work(name: str, code: int, text: str) -> CoiError:
    """The error for an instance that lacks what sessions need, or that is no more."""
    from coi.session.room import stopped

    return stopped(name, code, text) or CoiError(
        f"cannot work in {name}: " + inside.MEANING.get(code, f"exit code {code}"),
        details=text,
        hint="coi build --force makes an image that coi can use",
    )


def settle(
    engine: Engine,
    name: str,
    *,
    user: SessionUser | None = None,
    ground: Ground | None = None,
) -> None:
    """Wait until the instance can be entered, its /tmp stays and its network is up.

    Args:
        user: of the session: is also given the numbers that it has outside.
        ground: what it was made on a moment ago.

    Raises:
        RefusedError: it has another NIC than its policy's.
        CoiError: the instance has no such user, or lacks what sessions need.
    """
    ground = ground or Ground()
    after: Sequence[str] = inside.become(user, "true") if user else ("true",)
    command = ground.alone(settled(with_hosts(ground.hosts, *after)))
    try:
        done = engine.instances.exec(name, command, timeout=DEADLINE, cwd="/")
    except TimeoutError as error:
        if ground.fenced:  # nothing is known of its NICs
            raise CoiError(f"{name} does not get ready") from error
        return
    if done.exit_code != 0:
        if refused := ground.not_alone(done.exit_code, done.error_text):
            raise refused
        if user is not None or ground.fenced:
            raise cannot_work(name, done.exit_code, done.error_text)
