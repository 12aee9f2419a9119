"""Configuration: a typed model, the layers it is read from, and trust."""

from __future__ import annotations

from coi.config.layers import Loaded, load
from coi.config.model import Config
from coi.config.paths import coi_home

__all__ = ["Config", "Loaded", "coi_home", "load", "reference"]


def reference() -> str:
    """The text of docs/configuration.md (see :mod:`coi.config.reference`)."""
    from coi.config.reference import document

    return document()
