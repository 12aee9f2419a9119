"""Random configurations and how to write them down, for the tests of coi.config."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from coi.config import Config, Loaded, load
from coi.config.paths import coi_home
from coi.config.text import toml_value
from coi.config.trust import ProjectFile, approve, read_project

WORDS = st.sampled_from(["a", "coi", "coi-rust", "x9"])
PATHS = st.sampled_from(["/srv/a", "/srv/b", "/var/x y"])
PORTS = ["127.0.0.1:8080:80/tcp", "0.0.0.0:53:53/udp"]
DOMAINS = ["github.com", "pypi.org", "8.8.8.8", "api.anthropic.com"]
SIZES = {"1000": 1000, "512MiB": 512 << 20, "1GB": 10**9, "2GiB": 2 << 30}
MOUNTS = st.lists(
    st.builds(
        lambda host, inside, readonly: {"host": host, "container": inside, "readonly": readonly},
        PATHS,
        st.sampled_from(["/a", "/data/b"]),
        st.booleans(),
    ),
    max_size=2,
    unique_by=repr,
)
TOOLS = st.sampled_from(["claude", "aider", "codex"])

VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "defaults.image": st.sampled_from(["coi", "coi-rust", "images:debian/12"]),
    "defaults.persistent": st.booleans(),
    "defaults.mount_claude_config": st.booleans(),
    "defaults.max_slots": st.integers(1, 20),
    "tool.name": TOOLS,
    "tool.binary": st.sampled_from(["/opt/wrapper", "claude2"]),
    "paths.sessions_dir": PATHS,
    "paths.storage_dir": PATHS,
    "paths.logs_dir": PATHS,
    "incus.remote": WORDS,
    "incus.project": WORDS,
    "incus.group": st.sampled_from(["incus", "incus-admin"]),
    "incus.code_uid": st.integers(0, 70000),
    "incus.code_user": st.sampled_from(["code", "dev"]),
    "incus.disable_shift": st.booleans(),
    "network.mode": st.sampled_from(["open", "restricted", "allowlist"]),
    "network.backend": st.sampled_from(["auto", "bridge", "ovn", "nic"]),
    "ports.publish": st.lists(st.sampled_from(PORTS), unique=True),
    "network.allowed_domains": st.lists(st.sampled_from(DOMAINS), unique=True),
    "network.refresh_interval_minutes": st.integers(0, 60),
    "network.allow_local_network_access": st.booleans(),
    "network.block_private_networks": st.booleans(),
    "network.block_metadata_endpoint": st.booleans(),
    "network.logging.enabled": st.booleans(),
    "network.logging.path": PATHS,
    "mounts.default": MOUNTS,
    "protect.enabled": st.booleans(),
    "protect.paths": st.lists(st.sampled_from([".git/hooks", ".vscode", ".npmrc"]), unique=True),
    "protect.on_change": st.sampled_from(["restore", "report"]),
    "limits.cpu": st.sampled_from(["1", "2", "4", "0-1", "0-3", "1,3", "share", "none"]),
    "limits.memory": st.sampled_from([*SIZES, "10%", "50%", "none"]),
    "limits.processes": st.sampled_from(["10", "200", "none"]),
    "limits.disk": st.sampled_from([*SIZES, "none"]),
    "warm.size": st.integers(0, 20),
    "build.base": st.sampled_from(["images:ubuntu/22.04", "scratch"]),
    "build.fallback": st.sampled_from(["debian:bookworm", "debian:trixie"]),
    "build.tools": st.lists(TOOLS, unique=True),
    "build.dns": st.lists(st.sampled_from(["8.8.8.8", "::1"]), unique=True),
    "build.mirror": st.sampled_from(["http://deb.example/debian", "https://m.example"]),
}

Said = Mapping[str, Any]


def said(*without: str) -> st.SearchStrategy[dict[str, Any]]:
    """What one layer says: any keys with any allowed values."""
    strategies = {key: value for key, value in VALUES.items() if key not in without}
    return st.fixed_dictionaries({}, optional=strategies)


def toml(layer: Said, prefix: str = "") -> str:
    """The layer as TOML lines with dotted keys."""
    return "".join(f"{prefix}{key} = {toml_value(value)}\n" for key, value in layer.items())


def variables(layer: Said) -> dict[str, str]:
    """The layer as ``COI_*`` variables; mounts cannot be said in them."""
    return {
        "COI_" + key.upper().replace(".", "_"): (
            ",".join(value)
            if isinstance(value, list)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )
        for key, value in layer.items()
        if key != "mounts.default"
    }


def value_of(config: Config, key: str) -> Any:
    """The effective value in the form that a file says it in."""
    section, _, rest = key.partition(".")
    if section == "limits":
        return config.limits.get(rest, "none")
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    if key == "mounts.default":
        return [
            {"host": str(m.host), "container": m.container, "readonly": m.readonly} for m in value
        ]
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


class Place:
    """A home, a system file and a workspace of their own."""

    def __init__(self, root: Path) -> None:
        self.system = root / "system.toml"
        self.home = root / "home"
        self.user = self.home / ".config" / "coi" / "config.toml"
        self.workspace = root / "work"
        self.project = self.workspace / ".coi.toml"
        self.environ = {"HOME": str(self.home)}
        self.user.parent.mkdir(parents=True)
        self.workspace.mkdir()

    @property
    def coi_home(self) -> Path:
        return coi_home(self.environ)

    def trust(self) -> None:
        file = read_project(self.workspace)
        assert isinstance(file, ProjectFile)
        approve(self.coi_home, file)

    def load(
        self,
        *,
        profile: str | None = None,
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, object] | None = None,
    ) -> Loaded:
        return load(
            self.workspace,
            profile=profile,
            environ={**self.environ, **(environ or {})},
            flags=flags,
            system=self.system,
        )


@contextmanager
def place() -> Iterator[Place]:
    """A fresh :class:`Place`, for tests that run many examples."""
    with tempfile.TemporaryDirectory() as root:
        yield Place(Path(root).resolve())
