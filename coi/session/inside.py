"""The programs that coi runs inside an instance, as constant shell scripts.

They are arguments of ``incus exec`` and visible on the host, so no value that
a user gave is in them: values travel in the tar stream on standard input.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from coi.session.holding import ATTENDED, LEFT, WAIT, held
from coi.workspace.directory import INSIDE
from coi.workspace.ownership import SessionUser

# In the home inside: environment, launcher, tmux configuration and socket. The socket is
# not in /tmp because systemd-tmpfiles empties that a moment after tmux has started.
DIRECTORY = ".coi"

ATTACH_WAIT = 60.0  # seconds that the terminal waits for tmux to be there

# Exit codes of the scripts below; anything else is the command's or the client's own.
NO_USER = 91
NO_OWNER = 92
NO_UNPACK = 93
NO_PROGRAM = 94
NO_TMUX = 95
NO_SESSION = 96
NO_HOSTS = 97
NO_TOOL = 98
STOPPING = 75
HELD = 77
NOT_BEGUN = 76


class Saving(Enum):
    """What a save does besides."""

    RUNNING = "running"  # nothing: the session goes on, or does not run
    LAST = "last"  # everything inside is killed first
    ENDING = "ending"  # the container is powered off first, which must wait (coi.session.holding)


MEANING = {
    NO_USER: "the image has no user for sessions",
    NO_OWNER: "the user inside could not be given your uid",
    NO_UNPACK: "the session's files could not be unpacked",
    NO_PROGRAM: "the image lacks a program that sessions need (setpriv, bash)",
    NO_TMUX: "tmux could not be started",
    NO_SESSION: "there is no tmux session",
    NO_HOSTS: "the names of the allowlist could not be written to /etc/hosts",
    NO_TOOL: "the image lacks the tool",
}

# Arguments: user uid gid home; standard input: a tar of files for the home; then
# what runs as that user, argv of its own. The numbers of the user inside are made
# those of the user outside first: the home is small, the workspace is never touched.
_BECOME = r"""
set -u
user=$1 uid=$2 gid=$3 home=$4; shift 4
command -v setpriv >/dev/null && command -v bash >/dev/null || exit 94
# Most often all is as it should be, and no process is needed to see it.
fits() {
  while IFS=: read -r name _ number group _; do
    [ "$name" = "$user" ] && [ "$number" = "$uid" ] && [ "$group" = "$gid" ] && return
  done </etc/passwd
  return 1
}
if [ "$user" != root ] && ! fits; then
  id -u -- "$user" >/dev/null 2>&1 || exit 91
  said=$(
    exec 2>&1
    # An exec whose client failed may still be at it: its work is waited for, not repeated.
    exec 9>/run/coi-user.lock && flock 9
    fits && exit 0
    group=$(id -gn -- "$user" 2>/dev/null) || group=$user
    groupmod -o -g "$gid" -- "$group" && usermod -o -u "$uid" -g "$gid" -- "$user" &&
      chown -hR -- "$uid:$gid" "$home"
  ) || { printf '%s\n' "$said" >&2; exit 92; }
fi
exec setpriv --reuid "$uid" --regid "$gid" --init-groups -- \
  env -i HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/bash LANG=C.UTF-8 \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""

# The last file of the stream is the mark of the start (files_for): where it is, all is.
UNPACK = r"""
umask 077
cd "$HOME" || exit 93
[ ! -e .coi/session ] || : >.coi/session
tar -x -i -p -f - && [ -s .coi/session ] || exit 93
umask 022
bash "$HOME/.coi/launch" check </dev/null || exit 98
"""

_START_TMUX = (
    UNPACK
    + r"""
command -v tmux >/dev/null || exit 95
export TMUX_TMPDIR="$HOME/.coi"
tmux -f .coi/tmux.conf new-session -d -s "$1" -x "$2" -y "$3" -c /workspace \
  bash "$HOME/.coi/launch" </dev/null || tmux has-session -t "=$1" || exit 95
printf '%s\n' "$4" >.coi/begun
"""
)

# At the end of a shutdown another program takes the place of systemd as process 1.
_STOPPING = r"""
stopping() {
  case $(cat /proc/1/comm 2>/dev/null) in systemd-shutdow*) return 0 ;; esac
  [ "$(systemctl is-system-running 2>/dev/null)" = stopping ]
}
"""

# Waits for the session that another exec is starting, then becomes its client. One that
# runs already may be powering off: its terminal would be cut in a moment. Nothing is done to one
# that is of another start than the one that is meant. Waiting takes
# no process from the one that starts tmux: it is bash that sleeps, on a pipe that stays
# empty. The mark is of one start: a restarted container holds that of the one before.
_ATTACH = (
    _STOPPING
    + r"""
export TMUX_TMPDIR="$HOME/.coi"
if [ -n "$2" ]; then
  exec 3<> <(:)
  until { read -r mark <"$TMUX_TMPDIR/begun"; } 2>/dev/null && [ "$mark" = "$2" ]; do
    [ "$SECONDS" -lt "$3" ] || exit 96
    read -r -t 0.005 -u 3
    [ $? -gt 128 ] || sleep 0.02
  done
  exec 3<&-
fi
if [ "$3" = 0 ]; then
  ! stopping || exit 75
  tmux has-session -t "=$1" 2>/dev/null || exit 96
fi
"""
    + ATTENDED
    + r"""
exec tmux attach-session -t "=$1"
"""
)

# Arguments: home, mark of the start, maximum file size in KiB, a value of Saving, seconds that a
# shutdown may take until all have ended, then the state's paths. Writes a tar, if the home is
# that start's: where it was cut off it is empty, half of it, or that of an earlier
# one. Where it is the last one nothing runs beside it, whatever it was forked from: kill(2)
# with -1 spares init and the caller alone. Of a container that is powering off it is the last
# one, too, if that waits for it: exit code 77.
_SAVE = (
    _STOPPING
    + WAIT
    + r"""
set -u
home=$1 mark=$2 limit=$3 how=$4 patience=$5 end=0; shift 5
begun() { [ -f .coi/session ] && read -r is <.coi/session && [ "$is" = "$mark" ]; }
cd "$home" || exit 91
if stopping; then
  begun || exit 75
  held "$patience"
  end=77
elif ! begun; then
  exit 76
elif [ "$how" = ending ]; then
  power_off
  held "$patience"
  end=77
elif [ "$how" = last ]; then
  kill -s KILL -- -1 2>/dev/null
fi
"""
    + LEFT
    + r"""
for p do shift; [ -e "$p" ] && [ ! -L "$p" ] && set -- "$@" "./$p"; done
[ $# -gt 0 ] || { tar -c -f - -T /dev/null && exit $end; exit; }
find "$@" -type f -size "+${limit}k" -exec printf 'too large: %s\n' {} + >&2
find "$@" -xdev '(' -type d -o -type f -size "-$((limit+1))k" ')' -print0 |
  tar -c -f - --null --no-recursion --hard-dereference --ignore-failed-read \
    --warning=no-file-changed -T -
rc=$?; [ "$rc" -le 1 ] || exit "$rc"
exit $end
"""
)

# No alternate screen, all lines scroll (which moves the cursor: it is kept), plain text that
# replaces and wraps, a cursor, arrow keys as they are, no mouse, focus or paste reports; then
# nothing below the cursor (xterm's "Control Sequences"; tmux knows them).
_RESET = (
    r"\033[?1049l\0337\033[r\033[?6l\0338\033[0m\033[4l\033[?7h\033[?25h\033[?1l\033>"
    r"\033[?1000l\033[?1002l\033[?1003l\033[?1006l\033[?1004l\033[?2004l\033[J"
)

_TMUX_CONF = """\
set -g default-terminal "tmux-256color"
set -g history-limit 50000
set -g update-environment ""
set -g default-command '. "$HOME/.coi/env"; exec bash'
set -sg escape-time 10
set -g focus-events on
set -g status-left-length 50
"""


def become(user: SessionUser, *command: str) -> list[str]:
    """``command`` as the session's user, for an exec as root."""
    return [
        "sh", "-c", _BECOME, "coi", user.name, str(user.uid), str(user.gid), user.home, *command,
    ]  # fmt: skip


def start_tmux(user: SessionUser, session: str, columns: int, lines: int, start: str) -> list[str]:
    """Unpack standard input into the home and start the tmux session.

    Args:
        start: which one this is, for :func:`attach`.
    """
    command = become(user, "sh", "-c", _START_TMUX, "coi", session, str(columns), str(lines), start)
    return held(user.uid, command)


def unpack(user: SessionUser) -> list[str]:
    """Unpack standard input into the home."""
    return become(user, "sh", "-c", UNPACK, "coi")


def attach(session: str, *, start: str = "", wait: float = 0.0) -> list[str]:
    """Become a client of the tmux session, for an exec as the session's user.

    Args:
        start: the one that the session must be of; '' for any.
        wait: seconds that this start may take yet; 0 where it is over.
    """
    return ["bash", "-c", _ATTACH, "coi", session, start, str(int(wait))]


def save(
    user: SessionUser,
    mark: str,
    roots: Sequence[str],
    *,
    max_file: int,
    how: Saving = Saving.RUNNING,
    patience: int,
) -> list[str]:
    """Write a tar of the state to standard output, for an exec as root.

    Args:
        mark: of the start that the home must have been made ready for.
        patience: seconds that a shutdown may take until all inside have ended.
    """
    words = [user.home, mark, str(max_file >> 10), how.value, str(patience)]
    return ["sh", "-c", _SAVE, "coi", *words, *roots]


def environment_file(variables: Mapping[str, str]) -> bytes:
    """``.coi/env``: a file for bash and sh to source."""
    head = "set -a\n[ -r /etc/coi/environment ] && . /etc/coi/environment\nset +a\n"
    head += 'export TMUX_TMPDIR="$HOME/.coi"\n'
    lines = [f"export {key}={shlex.quote(value)}\n" for key, value in variables.items()]
    return (head + "".join(lines)).encode("utf-8", "surrogateescape")


def launcher(command: Sequence[str] | None, *, attended: bool = True) -> bytes:
    """``.coi/launch``: what the tmux session runs: the tool, then a shell.

    With the argument ``check`` it only tells whether the tool's program is there.

    Args:
        command: the tool's argv; None for a shell alone (``--debug``).
        attended: False ends with the tool, which has nothing on its standard input.
    """
    lines = ["#!/bin/bash", '. "$HOME/.coi/env"', f"cd {INSIDE}"]
    name = "bash" if command is None else shlex.quote(command[0])
    lines.append(f'[ "${{1-}}" != check ] || {{ type -P -- {name} >/dev/null; exit; }}')
    if command is not None and not attended:
        # bash itself has nothing to say of how the tool ends. What is written at the very
        # end is lost at times (Incus 6.0.4, under load).
        lines += ["exec 3>&2 2>/dev/null", f"{shlex.join(command)} </dev/null 2>&3 3>&-"]
        lines += ["status=$?", "sleep 0.1", "exit $status"]
    elif command is not None:
        # bash has nothing to say of how the tool ends. One that was killed leaves the terminal
        # as it had it.
        lines += [
            "exec 3>&2 2>/dev/null",
            f"{shlex.join(command)} 2>&3 3>&-",
            "status=$?",
            "exec 2>&3 3>&-",
            f"[ ! -t 1 ] || {{ stty sane; printf %b {shlex.quote(_RESET)}; }}",
            f"printf '\\n%s ended with exit code %s. This is a shell inside the container.\\n'"
            f' {name} "$status"',
            "printf 'sudo poweroff ends the session; Ctrl-b d leaves it running.\\n'",
        ]
    if attended:
        lines.append("exec bash")
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def files_for(
    mark: str,
    environment: Mapping[str, str],
    command: Sequence[str] | None,
    *,
    attended: bool = True,
) -> list[tuple[str, bytes, int]]:
    """coi's own files for the home: (path, content, mode).

    The last one, which is to be the last of all, tells whose home it is: ``.coi/session``.

    Args:
        mark: of this start (:attr:`coi.session.model.Session.mark`).
    """
    return [
        (f"{DIRECTORY}/env", environment_file(environment), 0o600),
        (f"{DIRECTORY}/tmux.conf", _TMUX_CONF.encode(), 0o600),
        (f"{DIRECTORY}/launch", launcher(command, attended=attended), 0o700),
        (f"{DIRECTORY}/session", f"{mark}\n".encode(), 0o600),
    ]


def pack(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """A tar of (path relative to the home, content, mode), parents with mode 0700."""
    import io
    import tarfile

    buffer = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, data, mode in files:
            parts = path.split("/")
            for depth in range(1, len(parts)):
                parent = "/".join(parts[:depth])
                if parent not in made:
                    made.add(parent)
                    info = tarfile.TarInfo(parent)
                    info.type, info.mode = tarfile.DIRTYPE, 0o700
                    tar.addfile(info)
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
