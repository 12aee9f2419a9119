"""Where coi keeps things on the host. Nothing here creates anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_CONFIG = Path("/etc/coi/config.toml")
PROJECT_CONFIG = ".coi.toml"


def home(environ: Mapping[str, str]) -> Path:
    """The user's home: ``$HOME`` when absolute, else the password database's."""
    named = environ.get("HOME", "")
    if named.startswith("/"):
        return Path(named)
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a uid without an entry
        return Path("/")


def expand(text: str, environ: Mapping[str, str]) -> Path:
    """``text`` as an absolute path, a leading ``~/`` being the user's home."""
    if text == "~" or text.startswith("~/"):
        return Path(os.path.normpath(home(environ) / text[2:]))
    return Path(os.path.abspath(text))  # noqa: PTH100 - links stay as they are


def coi_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where sessions, locks, logs and trust live: ``$COI_HOME``, else ``~/.coi``."""
    return expand(environ.get("COI_HOME") or "~/.coi", environ)


def user_config(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's file: ``$XDG_CONFIG_HOME/coi/config.toml``, else under ~/.config.

    The rule of platformdirs on Linux (a test holds them equal); importing it
    would cost every command more than reading the whole configuration.
    """
    base = environ.get("XDG_CONFIG_HOME", "")
    directory = Path(base) if base.startswith("/") else home(environ) / ".config"
    return directory / "coi" / "config.toml"
