"""The conformance suite as authors of plugins run it: for two tools, and for a new project."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from newtool import NAME, pip_install

from coi.testing.host import Host
from coi.testing.machine import User
from coi.tools.skeleton import project

ROOT = Path(__file__).parents[2]
SETUP = ["--coi-setup", f"{ROOT / 'fixtures/tool_models.py'}:MODELS"]
SECONDS = 900.0
pytestmark = pytest.mark.timeout(SECONDS)


class Suite:
    """pytest in a process of its own; several go on at once."""

    def __init__(self, python: Path, place: Path, *args: str) -> None:
        self._log = place / "suite.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", "pytest", "-p", "no:cacheprovider", "-v", *args],
                cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def passed(self) -> list[str]:
        """The tests that passed, when all did."""
        code = self.process.wait(SECONDS)
        text = self._log.read_text("utf-8", "replace")
        assert code == 0, text
        return [line.split(" ")[0] for line in text.splitlines() if " PASSED" in line]

    def end(self) -> None:
        """As Ctrl-C does, so that it tidies up after itself."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)


@pytest.fixture(scope="module")
def suites(
    image: str, user: User, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Suite]]:
    """Both, side by side: most of their time they wait."""
    started: dict[str, Suite] = {}
    for name in ("dummy", "claude"):
        args = ["--coi-tool", name, "--coi-image", image, *SETUP]
        started[name] = Suite(Path(sys.executable), tmp_path_factory.mktemp(name), *args)
    yield started
    for suite in started.values():
        suite.end()


@pytest.fixture
def environment(make_host: Callable[..., Host]) -> tuple[Host, Path]:
    """A world, and in it an environment with coi as it is; nothing comes from a network."""
    host = make_host()
    venv = host.root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python3*/site-packages")
    (site / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip_install("--ignore-installed", str(ROOT), python=venv / "bin/python")
    return host, venv


def test_a_new_project_works_and_conforms(
    environment: tuple[Host, Path], suites: Mapping[str, Suite]
) -> None:
    """`coi tool new`, `pip install`, and coi has one more tool; docs/plugins.md shows it."""
    host, venv = environment
    place = host.root / f"coi-{NAME}"

    def coi(*args: str) -> str:
        return subprocess.run(
            [venv / "bin/coi", *args],
            env=host.environ, cwd=host.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            preexec_fn=host.user.become, check=True, text=True, timeout=300,
        ).stdout  # fmt: skip

    assert coi("tool", "new", NAME) == f"Wrote coi-{NAME}\n"
    for path, text in project(NAME).items():
        assert (place / path).read_text() == text
    assert (place / "pyproject.toml").stat().st_uid == host.user.uid
    pip_install(str(place), python=venv / "bin/python")
    listed = json.loads(coi("tool", "list", "--format", "json"))
    assert listed["problems"] == []
    (tool,) = (row for row in listed["tools"] if row["name"] == NAME)
    assert tool["distribution"] == f"coi-{NAME} 0.1.0"

    # The image has the tool already: another copy of the project was there when it was built.
    suite = Suite(venv / "bin/python", place, "--coi-image", host.image)
    try:
        passed = suite.passed()
    finally:
        suite.end()
    assert f"coi/testing/suite.py::test_it_remembers_across_power_off[{NAME}]" in passed


@pytest.mark.parametrize("name", ["dummy", "claude"])
def test_a_tool_conforms(name: str, suites: Mapping[str, Suite]) -> None:
    """The built-in one against the stub model, and the one without a model."""
    passed = suites[name].passed()
    for test in ("remembers_across_power_off", "survives_kill_9_of_coi", "keeps_no_secret"):
        assert any(test in line for line in passed), passed
