"""The recipe of an image: its steps as data, and the hash of its inputs.

A step is a POSIX shell script (``steps/*.sh``, or a tool's own) and its
variables. Scripts run as root in the build container under ``set -eu``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path

from coi.api import ImageContext, Tool
from coi.digest import sha256
from coi.image.host import NPM_REGISTRY, HostSettings
from coi.records import record
from coi.tools.calls import call, fault

VERSION = 1  # raise when an image that exists must be built again
NODE_OLDEST = 20  # below that tools do not run
NODE_MAJOR = 24  # taken from the npm registry where the distribution's is older
NPM_MAJOR = 11

PACKAGES = (
    "ca-certificates",
    "sudo",
    "locales",
    "tmux",
    "git",
    "openssh-client",
    "curl",
    "wget",
    "jq",
    "build-essential",
    "pkg-config",
    "python3",
    "python3-venv",
    "python3-pip",
    "docker.io",
    "iptables",
    "gh",
    "ripgrep",
    "less",
    "nano",
    "file",
    "unzip",
    "xz-utils",
    "zstd",
    "rsync",
    "procps",
    "iproute2",
    "iputils-ping",
    "bash-completion",
    "util-linux",
    "tar",
)

# Where the distribution has them: from Debian 13 on docker.io is the daemon alone.
OPTIONAL = ("docker-cli", "docker-buildx", "docker-compose-v2")

_UNHASHED = {"COI_MTU"}  # changes with the network a laptop is on
_DIRECTORY = Path(__file__).parent / "steps"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@record(frozen=True)
class Step:
    """One step.

    Attributes:
        key: stable name, for tests and the hash.
        title: for people.
        script: POSIX shell; whatever it prints goes to the log.
        variables: exported before it.
        timeout: seconds.
    """

    key: str
    title: str
    script: str
    variables: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 1800.0

    def text(self, environment: Mapping[str, str] | None = None) -> str:
        """The whole script with its variables, for ``sh``."""
        values = {
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            "PATH": PATH,
            **(environment or {}),
            **self.variables,
        }
        lines = [f"export {key}={shlex.quote(value)}" for key, value in values.items()]
        return "\n".join(["set -eu", "umask 022", "cd /root", *lines, self.script, ""])


@record(frozen=True)
class Inputs:
    """What an image is made of, besides its base.

    Attributes:
        user, uid: of the sessions; the gid is the same number.
        host: settings that come along.
        mirror: ``[build] mirror``.
    """

    tools: Sequence[Tool]
    user: str
    uid: int
    host: HostSettings
    mirror: str = ""


def script(name: str) -> str:
    """The text of ``steps/<name>.sh``."""
    return (_DIRECTORY / f"{name}.sh").read_text(encoding="utf-8")


def steps(inputs: Inputs, image: ImageContext) -> list[Step]:
    """All steps between the network and the publication."""
    host = inputs.host
    custom_registry = "" if host.npm_registry == NPM_REGISTRY else host.npm_registry
    first = [
        Step(
            "host",
            "Take over the host's certificates and mirrors",
            script("host"),
            {
                "COI_CERTIFICATES": "".join(host.certificates),
                "COI_APT": "\n".join(host.apt),
                "COI_NPM_REGISTRY": custom_registry,
                "COI_PIP_INDEX": host.pip_index,
                "COI_MIRROR": inputs.mirror,
                "COI_DISTRIBUTION": image.distribution,
            },
        ),
        Step(
            "user",
            f"Create the user {inputs.user}",
            script("user"),
            {"COI_USER": inputs.user, "COI_UID": str(inputs.uid)},
        ),
        Step(
            "packages",
            "Install packages (git, tmux, build tools, Docker, GitHub CLI)",
            script("packages"),
            {"COI_PACKAGES": " ".join(PACKAGES), "COI_OPTIONAL": " ".join(OPTIONAL)},
        ),
        Step(
            "node",
            "Install Node.js and npm",
            script("node"),
            {
                "COI_NODE_OLDEST": str(NODE_OLDEST),
                "COI_NODE_MAJOR": str(NODE_MAJOR),
                "COI_NPM_MAJOR": str(NPM_MAJOR),
                "COI_NPM_ARCH": image.npm_architecture,
                "COI_REGISTRY": host.npm_registry,
            },
        ),
        Step(
            "system",
            "Configure services, boot and Docker",
            script("system"),
            {"COI_USER": inputs.user, "COI_MTU": str(host.mtu)},
        ),
    ]
    return [*first, *[tool_step(tool, image) for tool in inputs.tools], clean_step()]


def tool_step(tool: Tool, image: ImageContext) -> Step:
    """A plugin's own installation, and the check that its binary is there.

    Raises:
        CoiError: the plugin failed.
    """
    install = call(tool, "install", image)
    if not isinstance(install, str) or "\0" in install:
        raise fault(tool, "install", "it returned no script")
    body = "\n".join(
        [
            # Its variables and its exit stay its own.
            "(",
            "[ ! -r /etc/profile.d/coi.sh ] || . /etc/profile.d/coi.sh",
            install,
            ")",
            f"user={shlex.quote(image.user)} binary={shlex.quote(tool.binary)}",
            'if ! setpriv --reuid="$user" --regid="$user" --init-groups '
            'env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="/home/$user" '
            'sh -c \'command -v -- "$1"\' sh "$binary"; then',
            '    echo "$binary is not on the PATH of $user" >&2',
            "    exit 1",
            "fi",
        ]
    )
    return Step(f"tool-{tool.name}", f"Install {tool.title or tool.name}", body)


def clean_step() -> Step:
    """The last step before the publication."""
    return Step("clean", "Clean up", script("clean"))


def recipe_hash(inputs: Inputs, *, base: str, architecture: str) -> str:
    """sha256 over everything that goes into an image.

    Tools' scripts are asked for a nominal image (Debian 12), since the real one
    is known only once the base runs; what a script downloads is not an input.

    Args:
        base: identity of the base: what was asked for where it is remote (it
            changes daily), the fingerprint where it is a local alias.
    """
    nominal = ImageContext("debian", "12", architecture, inputs.user)
    data = {
        "version": VERSION,
        "base": base,
        "architecture": architecture,
        "uid": inputs.uid,
        "tools": [tool.name for tool in inputs.tools],
        "steps": [
            [
                step.key,
                step.script,
                sorted(item for item in step.variables.items() if item[0] not in _UNHASHED),
            ]
            for step in steps(inputs, nominal)
        ],
    }
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def custom_hash(text: str, *, base: str) -> str:
    """The recipe of ``coi build custom``."""
    data = {"version": VERSION, "base": base, "script": text, "clean": script("clean")}
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
