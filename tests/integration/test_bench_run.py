"""The benchmarks' own machinery on a real daemon: rows, failures, an end in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.measure import Counts
from bench.row import Row
from bench.rows_commands import List
from bench.rows_sessions import Attach
from bench.runner import measure
from bench.stage import Stage, staged

from coi.testing.machine import query, wait_for

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stage(image: str) -> Iterator[Stage]:
    with staged(image) as stage:
        yield stage
    assert mine(stage.project, stage.host.prefix) == []


def mine(project: str, prefix: str) -> list[str]:
    """What there is of a stage: its project, and networks that carry its prefix."""
    found = [name for name in query("/1.0/projects") if name.endswith(f"/{project}")]
    networks = query("/1.0/networks?recursion=1") + query("/1.0/network-acls?recursion=1")
    return found + [
        row["name"] for row in networks if (row["config"] or {}).get("user.coi.prefix") == prefix
    ]


class Broken(Row):
    """Leaves an instance, a network and a process, and fails."""

    name = "broken"

    def coi(self) -> float:
        self.stage.coi("--network=restricted", "container", "launch", *self._image())
        self.stage.start(["sleep", "600"])
        raise RuntimeError("it\nbreaks")

    def _image(self) -> tuple[str, str]:
        return self.stage.host.image, f"{self.stage.host.prefix}left"


def test_a_row_is_counted_and_timed(stage: Stage) -> None:
    found = measure(List(3), stage, rounds=2, counted=1)
    assert found.error == ""
    assert (len(found.floors), len(found.ours), len(found.counts)) == (2, 2, 1)
    assert found.counted().calls == 1
    assert 5 << 10 < found.counted().peak < 100 << 10
    assert 0.02 < found.counted().cpu < found.coi + 1
    assert stage.host.instances() == {}


def test_between_two_marks_only_what_is_meant_is_counted(stage: Stage) -> None:
    found = measure(Attach(), stage, rounds=1, counted=1)
    assert found.error == ""
    assert found.counted().calls == 2, "not the start before it, nor the save after it"
    assert found.floor < found.coi


def test_one_that_fails_says_so_and_leaves_nothing(stage: Stage) -> None:
    found = measure(Broken(), stage, rounds=1, counted=1)
    assert found.error == "RuntimeError: it breaks"
    assert (found.floors, found.ours) == ([], [])
    assert stage.host.instances() == {}
    assert stage.host.pids() == {}
    assert stage.host.networks() == []
    assert measure(List(0), stage, rounds=1, counted=1).error == "", "the next one goes on"


def started(*args: str) -> subprocess.Popen[str]:
    """``python -m bench args`` of the image that the tests use."""
    path = os.pathsep.join(str(TESTS / part) for part in ("benchmarks", "integration"))
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "--rounds", "1", "--counted", "1", *args],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_the_command_on_a_pool_made_for_it(image: str, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    process = started(
        "version", "list-10", "--driver", "dir", "--image", image, "--json", str(file)
    )
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "pool driver `dir`" in out
    data = json.loads(file.read_text())
    assert data["about"]["driver"] == "dir"
    assert [row["name"] for row in data["rows"]] == ["version", "list-10"]
    assert all(row["coi"] > 0 and row["floor"] > 0 for row in data["rows"])
    assert data["rows"][1]["calls"] == 1
    assert set(data["rows"][1]["counted"][0]) == set(Counts.__annotations__)
    assert data["about"]["pool"] not in str(query("/1.0/storage-pools"))


def test_wrong_use(image: str) -> None:
    for args, words in (
        (["no-such-row", "--image", image], "no row 'no-such-row'; there are: version"),
        (["--image", "no-such-image"], "no image no-such-image"),
    ):
        process = started(*args)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, words in err) == (2, True), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(number: int, image: str, tmp_path: Path) -> None:
    def projects() -> set[str]:
        return {name for name in query("/1.0/projects") if "coi-bench-" in name}

    before = projects()
    process = started("shell", "--image", image, "--json", str(tmp_path / "x"))
    try:
        (path,) = wait_for(lambda: projects() - before, what="its project")
        project = path.rpartition("/")[2]
        wait_for(lambda: query(f"/1.0/instances?project={project}"), what="an instance")
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert projects() - before == set()
    assert not list(Path("/var/tmp").glob(f"*{project.rpartition('-t')[2]}*"))
