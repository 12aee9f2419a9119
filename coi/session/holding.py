"""A shutdown inside that waits until coi has read the session's state.

What a container has in it when it has stopped can only be read by starting it again, and before
that the daemon takes it down: 1.4 s (measured). So a process of the session's start keeps the
end of a shutdown waiting. When all services have stopped, systemd sends SIGTERM to whatever
still runs and waits until that has ended (systemd-shutdown, broadcast_signal(); at most
``DefaultTimeoutStopSec``). The process ends when coi says so, or after some seconds; nothing
else wakes it. It is the last one to end: what entered the container from outside is no child of
init, whose wait is over when a child ends (measured).

It only waits where somebody is attached, who has coi save the session: a poweroff that nobody
waits for is not held up. All of it is the container's own affair, which may lie: then its state
is what it says it is, as ever, and coi sees to its end. Where there is no such process (another
init, an older coi) or it is killed, the container is started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from coi.errors import CoiError

if TYPE_CHECKING:
    from coi.session.model import Engine

_RELEASE_DEADLINE = 5.0  # seconds

# Waits for the SIGTERM at a shutdown's end. What else was sent it is waited for first.
_HOLDER = r"""
echo $$ >/dev/coi/holder
hold() {
  trap "" TERM
  case $(tr "\0" " " </proc/1/cmdline) in
    *"systemd-shutdown poweroff "* | *"systemd-shutdown halt "*) ;;
    *) exit ;;
  esac
  [ -s /dev/coi/attended ] || exit
  left='' turns=0
  for way in /proc/[0-9]*; do
    pid=${way#/proc/}
    [ "$pid" = 1 ] || [ "$pid" = $$ ] || left="$left $pid"
  done
  while [ -n "$left" ]; do
    reader=''
    [ ! -s /dev/coi/reader ] || read -r reader </dev/coi/reader
    now=''
    for pid in $left; do
      [ "$pid" = "$reader" ] || [ ! -d "/proc/$pid" ] || now="$now $pid"
    done
    left=$now turns=$((turns+1))
    if [ $turns -ge 150 ]; then
      for pid in $left; do kill -s KILL "$pid"; done
      break
    fi
    [ -z "$left" ] || sleep 0.02
  done
  : >/dev/coi/held
  turns=0
  until [ -s /dev/coi/released ] || [ $turns -ge 250 ]; do
    sleep 0.02
    turns=$((turns+1))
  done
  [ -s /dev/coi/released ] && read -r pid </dev/coi/released &&
    while [ -d "/proc/$pid" ]; do sleep 0.01; done
  exit
}
trap hold TERM
sleep infinity &
wait
"""

# Arguments: the uid of the session's user, whose attaches write to /dev/coi/attended, and the
# script above; then a command. /dev is made before init, anew at each start (lxc.container.conf(5),
# lxc.autodev): systemd mounts /run and /dev/shm when an exec may have been there already.
_HOLD = r"""
if mkdir -p /dev/coi && : >/dev/coi/attended && chown "$1" /dev/coi/attended &&
  rm -f /dev/coi/held /dev/coi/reader /dev/coi/released; then
  setsid sh -c "$2" </dev/null >/dev/null 2>&1 &
fi
shift 2
exec "$@"
"""

# For what reads the state, as root: waits for a shutdown, at most $1 seconds, until nothing
# changes the state any more; power_off asks for one first. Exit code 75: it does not wait.
WAIT = r"""
held() {
  [ -s /dev/coi/attended ] || exit 75
  trap '' TERM HUP
  echo $$ >/dev/coi/reader
  turns=0
  until [ -e /dev/coi/held ]; do
    [ $turns -lt $(($1*50)) ] || exit 75
    sleep 0.02
    turns=$((turns+1))
  done
}
power_off() {
  [ -s /dev/coi/holder ] && read -r pid </dev/coi/holder && kill -0 "$pid" 2>/dev/null || exit 75
  trap '' TERM HUP
  echo yes >/dev/coi/attended
  systemctl --no-block poweroff 2>/dev/null || exit 75
}
"""

# For an attach, as the session's user, and for a save after it.
ATTENDED = "{ echo yes >/dev/coi/attended; } 2>/dev/null\n"
LEFT = "[ ! -s /dev/coi/attended ] || : >/dev/coi/attended\n"

_RELEASE = "echo $$ >/dev/coi/released\n"


def held(uid: int, command: Sequence[str]) -> list[str]:
    """``command``, run as root, with the process that keeps a shutdown waiting beside it.

    Args:
        uid: of the session's user.
    """
    return ["sh", "-c", _HOLD, "coi", str(uid), _HOLDER, *command]


def release(engine: Engine, instance: str) -> None:
    """Let a shutdown that is kept waiting go on. Where that fails, it does so by itself."""
    with suppress(CoiError, TimeoutError):
        engine.instances.exec(instance, ["sh", "-c", _RELEASE], timeout=_RELEASE_DEADLINE, cwd="/")
