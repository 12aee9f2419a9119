"""One way out of a container: seen inside, as root, before anything of a session runs.

The profile's further NICs are masked (:attr:`coi.network.attachment.Attachment.masked`), as
they were when the profile was read last. Neither the answer to a creation nor any other call
of a start tells what the profile has got since; the kernel inside does, in the exec that a
start makes anyway.
"""

from __future__ import annotations

from coi.errors import RefusedError

OTHER_NIC = 99  # exit code

# What Incus puts into a container has its other end outside, so that iflink is another
# number than ifindex (veth, macvlan, ipvlan), or is hardware (physical, sriov); the kernel's
# own tunnels have iflink 0. sysfs shows the network namespace that it was mounted in.
_ALONE = r"""
n=0 names=
for d in /sys/class/net/*; do
  [ -e "$d/ifindex" ] || continue
  read -r own <"$d/ifindex"
  read -r other <"$d/iflink"
  if [ -e "$d/device" ] || { [ "$other" != "$own" ] && [ "$other" != 0 ]; }; then
    n=$((n+1)) names="$names ${d##*/}"
  fi
done
[ "$n" -eq 1 ] || { printf 'interfaces:%s\n' "${names:- none}" >&2; exit 99; }
exec "$@"
"""


def alone(command: list[str]) -> list[str]:
    """``command`` where there is one NIC, exit code :data:`OTHER_NIC` elsewhere; as root."""
    return ["sh", "-c", _ALONE, "coi", *command]


def refusal(text: str) -> RefusedError:
    """The error for a container that has others.

    Args:
        text: what the script said; shown, so it must be printable.
    """
    return RefusedError(
        "cannot enforce the network policy: the container has another NIC than the policy's",
        details=f"{text}. The profile may have got one since it was read last.",
        hint="start it again: the profile's other NICs are left out then",
    )
