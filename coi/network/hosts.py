"""Names in a container's /etc/hosts, as a constant shell script for an exec as root."""

from __future__ import annotations

from collections.abc import Sequence

# As root. Arguments: how many lines, the lines, then what comes next. They take the place
# of those that were written before; nobody reads half of them.
_HOSTS = r"""
count=$1; shift
new=/etc/hosts.coi.$$  # another coi may be at it
begin='# names of the allowlist (coi)' end='# end of names (coi)'
{
  # with a newline at the end, had it none
  { cat /etc/hosts 2>/dev/null; echo; } | sed -e "/^$begin\$/,/^$end\$/d" -e '${/^$/d}'
  [ "$count" -eq 0 ] || printf '%s\n' "$begin"
  left=$count
  while [ "$left" -gt 0 ]; do printf '%s\n' "$1"; shift; left=$((left-1)); done
  [ "$count" -eq 0 ] || printf '%s\n' "$end"
} >"$new" && chmod 644 "$new" && mv "$new" /etc/hosts || exit 97
exec "$@"
"""


def with_hosts(lines: Sequence[str] | None, *command: str) -> list[str]:
    """``command`` once these lines are in /etc/hosts, for an exec as root.

    Args:
        lines: of hosts(5), instead of those that coi wrote before; None leaves it alone.
    """
    if lines is None:
        return list(command)
    return ["sh", "-c", _HOSTS, "coi", str(len(lines)), *lines, *command]
