"""A saved state in memory, to test :meth:`coi.api.Tool.find_session_id` with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import PurePosixPath

from coi.api import StateEntry
from coi.records import record


@record
class MemoryState:
    """A saved state: path to (content, mtime)."""

    files: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    def entries(self) -> list[StateEntry]:
        return [
            StateEntry(PurePosixPath(path), len(data), mtime)
            for path, (data, mtime) in self.files.items()
        ]

    def read(self, path: PurePosixPath | str, limit: int = 1 << 20) -> bytes:
        return self.files[str(path)][0][:limit]


def saved(files: Mapping[str, bytes | tuple[bytes, float]]) -> MemoryState:
    """A state of ``{path: content or (content, mtime)}``."""
    return MemoryState({path: v if isinstance(v, tuple) else (v, 1.0) for path, v in files.items()})
