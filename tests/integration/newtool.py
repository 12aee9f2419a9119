"""A tool whose plugin `coi tool new` writes, for the image that the tests use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from coi.testing.host import Host
from coi.tools.skeleton import write_project

NAME = "parrot"


def pip_install(*args: str, python: Path | str = sys.executable) -> None:
    """``pip install`` of what is on the disk, without a network."""
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([python, "-m", "pip", "install", *offline, *args], check=True)


def with_new_tool(host: Host) -> dict[str, str]:
    """The variable by which coi finds the tool's plugin, installed beside its own environment."""
    project, site = host.root / f"coi-{NAME}", host.root / "site"
    write_project(NAME, project)
    pip_install("--target", str(site), str(project))
    return {"PYTHONPATH": str(site)}
