"""Watches that a fuzz test enters what parsers.py says that it does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

import pytest
from parsers import FUZZED, places


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    wanted = places(FUZZED.get(f"{item.path.name}::{item.name}", ()))
    lines = {line for _, line in wanted}
    seen: set[tuple[str, int]] = set()

    def enter(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_firstlineno in lines:
            place = code.co_filename[code.co_filename.rfind("/coi/") :], code.co_firstlineno
            if place in wanted:
                seen.add(place)
                if len(seen) == len(wanted):
                    sys.setprofile(None)  # it costs time: as short as can be

    if wanted:
        sys.setprofile(enter)
    try:
        yield
    finally:
        if wanted:
            sys.setprofile(None)
    missing = sorted(name for place, name in wanted.items() if place not in seen)
    if missing:
        pytest.fail(f"never entered: {', '.join(missing)}")
