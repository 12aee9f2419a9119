"""The kit for authors of tool plugins: ``pytest --coi-tool NAME``, and what tests are made of.

Importing it costs nothing; what needs pexpect and pyte (the extra ``testing``) is in
modules of its own: a :class:`~coi.testing.host.Host` is one test's world, a
:class:`~coi.testing.screen.Screen` a real pseudo-terminal whose output a terminal
emulator draws, so tests read what a person would see.
"""

from __future__ import annotations

from coi.testing.memory import MemoryState, saved
from coi.testing.setup import ModelSetup

__all__ = ["MemoryState", "ModelSetup", "saved"]
