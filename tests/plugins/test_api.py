"""What coi.api lends to plugins."""

from __future__ import annotations

import pytest

from coi.api import json_lines, newest
from coi.testing import saved


def test_objects_are_found_between_other_lines() -> None:
    output = 'note\n{"a": 1}\r\n[1]\n {"b": 2}\n{"c":\n{"d": {}}\n' + '{"e":' * 9000
    assert list(json_lines(output)) == [{"a": 1}, {"d": {}}]


@pytest.mark.parametrize("times", [(1.0, 1.0), (2.0, 1.0)])
def test_the_newest_is_first_and_the_name_decides_else(times: tuple[float, float]) -> None:
    state = saved(
        {
            ".it/a/1.log": (b"x", times[0]),
            ".it/b/2.log": (b"x", times[1]),
            ".it/b/empty.log": (b"", 9.0),
            ".it/b/deeper/3.log": (b"x", 9.0),
            "x/.it/b/4.log": (b"x", 9.0),
            ".it/b/5.txt": (b"x", 9.0),
        }
    )
    found = [entry.path.stem for entry in newest(state, ".it/*/*.log")]
    assert found == (["2", "1"] if times[0] == times[1] else ["1", "2"])
