"""The tmux session inside a container, from outside: list, send, capture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from coi.errors import CoiError, NotFoundError
from coi.incus.process import Completed
from coi.records import record
from coi.session import inside
from coi.session.body import CONTAINER, RUN
from coi.session.lookup import check_name, find
from coi.session.model import is_session
from coi.session.naming import tmux_session

if TYPE_CHECKING:
    from coi.incus.instances import Instance
    from coi.session.model import Engine

_DEADLINE = 30.0  # seconds for one exec
_MARK = b"coi\n"  # begins the input of `send`

# Arguments: the user's name and home, the tmux session, what to do. Looks for the session
# where `coi shell` starts it, in that user's own tmux, and in root's.
_SCRIPT = r"""
set -u
user=$1 home=$2 session=$3 action=$4
command -v tmux >/dev/null && command -v setpriv >/dev/null || exit 94
t() {
  setpriv --reuid "$uid" --regid "$gid" --clear-groups -- \
    env -i TMUX_TMPDIR="$place" HOME=/ LANG=C.UTF-8 PATH="$PATH" TERM=xterm tmux "$@"
}
found=
for who in "$user" root; do
  uid=$(id -u -- "$who" 2>/dev/null) && gid=$(id -g -- "$who") || continue
  [ "$who" = root ] && dir=/root || dir=$home
  for place in "$dir/.coi" /tmp; do
    t has-session -t "=$session" </dev/null 2>/dev/null && found=1 && break 2
  done
done
[ -n "$found" ] || exit 96
pane="=$session:"
case $action in
  find) ;;
  capture) t capture-pane -p -t "$pane" ;;
  raw) t capture-pane -p -e -t "$pane" ;;
  send)
    read -r mark && [ "$mark" = coi ] || exit 1 # an exec that the daemon lost has no input
    t load-buffer -b "coi-$$" - || exit 1
    t if-shell -F -t "$pane" '#{pane_in_mode}' "send-keys -t '$pane' -X cancel" </dev/null
    t paste-buffer -p -d -b "coi-$$" -t "$pane" </dev/null || exit 1
    t send-keys -t "$pane" Enter </dev/null ;;
esac
"""


@record(frozen=True)
class Found:
    """A container with a tmux session.

    Attributes:
        name: the container's.
        session: the tmux session's.
    """

    name: str
    session: str
    workspace: str
    tool: str


def sessions(engine: Engine) -> list[Found]:
    """This user's running containers that have their tmux session, once the sessions that
    nobody attends to are recovered."""
    from coi.session.recover import recover

    listed = engine.instances.all()
    gone = recover(engine, listed).gone
    rows = [
        row
        for row in listed
        if row.running
        and row.name not in gone
        and engine.attends(row)
        and (is_session(row) or row.coi("state") in (RUN, CONTAINER))
    ]
    return [
        Found(row.name, tmux_session(row.name), row.coi("workspace"), row.coi("tool"))
        for row in sorted(rows, key=lambda r: r.name)
        if _exec(engine, row, "find").exit_code == 0
    ]


def send(engine: Engine, name: str, text: str) -> str:
    """Paste text into the session's pane, literally, and press Enter.

    Returns:
        the tmux session's name.

    Raises:
        CoiError: it does not run, or has no tmux session.
    """
    row = _row(engine, name)
    _checked(row, _exec(engine, row, "send", _MARK + text.encode("utf-8", "surrogateescape")))
    return tmux_session(name)


def capture(engine: Engine, name: str, *, raw: bool) -> bytes:
    """What the session's pane shows now.

    Args:
        raw: with the escape sequences of colours and attributes.

    Raises:
        CoiError: it does not run, or has no tmux session.
    """
    row = _row(engine, name)
    return _checked(row, _exec(engine, row, "raw" if raw else "capture")).stdout


def _row(engine: Engine, name: str) -> Instance:
    """The container, which runs.

    Raises:
        NotFoundError: there is none, or it is another user's.
        CoiError: it does not run.
    """
    row = find(engine, check_name(name))
    if row is None or row.coi("owner") not in ("", str(os.getuid())):
        raise NotFoundError(f"session {name} not found", hint="coi tmux list")
    if not row.running:
        raise CoiError(f"session {name} is not running", hint="coi list")
    return row


def _checked(row: Instance, done: Completed) -> Completed:
    if done.exit_code == inside.NO_SESSION:
        raise CoiError(
            f"No tmux session found in {row.name}",
            hint=f"coi attach {row.name} --bash opens a shell",
        )
    if done.exit_code != 0:
        meaning = inside.MEANING.get(done.exit_code, "")
        raise CoiError(f"tmux in {row.name} failed", details=meaning or done.error_text)
    return done


def _exec(engine: Engine, row: Instance, action: str, stdin: bytes | None = None) -> Completed:
    user = row.coi("user") or engine.config.incus.code_user
    home = row.coi("home") or f"/home/{user}"
    command = ["sh", "-c", _SCRIPT, "coi", user, home, tmux_session(row.name), action]
    try:
        return engine.instances.exec(row.name, command, stdin=stdin, timeout=_DEADLINE, cwd="/")
    except TimeoutError as error:
        raise CoiError(f"tmux in {row.name} does not answer", details=str(error)) from error
