"""``coi tool new``: the project that it writes is installed, loaded and put to the kit's test."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pluginkit import Site

from coi.api import ImageContext, Launch
from coi.errors import CoiError, UsageError
from coi.tools.manager import Manager
from coi.tools.skeleton import check_name, project, write_project

PYTEST = Path(sys.executable).with_name("pytest")
NAMES = ["a", "parrot", "my-tool", "a1-2-b", "tool", "launch", "class", "x" * 32]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_a_sound_tool(
    name: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(name, tmp_path / "made")
    module = "coi_" + name.replace("-", "_")
    text = (tmp_path / "made" / f"{module}.py").read_text()
    site.install(f"coi-{name}", {name: module}, {module: text})
    manager = Manager.load((), path=[str(site.path)])
    assert (manager.get(name).name, manager.problems) == (name, ())


@pytest.mark.parametrize(
    "name", ["", "A", "1a", "-a", "a-", "a_b", "a.b", "../a", "a/b", "ä", "a\n", "x" * 33]
)
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bad tool name"):
        check_name(name)
    with pytest.raises(UsageError):
        write_project(name, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    for place in ("empty", "file", "link", ".", "missing/below", "n" * 300):
        with pytest.raises(CoiError):
            write_project("parrot", tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path.write_text

    def full(path: Path, *args: object, **how: object) -> int:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return text(path, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CoiError) as raised:
        write_project("parrot", tmp_path / "made")
    assert "No space left" in raised.value.details
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def program(site: Site, tmp_path: Path) -> Path:
    """The tool's program as its own script installs it, into another directory."""
    site.install("coi-parrot", {}, {"coi_parrot": project("parrot")["coi_parrot.py"]})
    tool = importlib.import_module("coi_parrot").ParrotTool()
    script = tool.install(ImageContext("debian", "12", "x86_64"))
    path = tmp_path / "parrot"
    subprocess.run(
        ["sh", "-eu", "-c", script.replace("/usr/local/bin/parrot", str(path))], check=True
    )
    assert tool.command(Launch("an-id", binary=str(path))) == [str(path), "an-id"]
    return path


def test_its_program_remembers(program: Path, tmp_path: Path) -> None:
    def said(*args: str, typed: str = "") -> str:
        return subprocess.run(
            [program, *args], input=typed, capture_output=True, text=True, check=True,
            timeout=20, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        ).stdout  # fmt: skip

    assert said("1", "a CODE-PLUM") == "you said: a CODE-PLUM; codes: CODE-PLUM\n"
    assert said("1", typed="CODE-PEAR\n/exit\nx\n").endswith(
        "you said: CODE-PEAR; codes: CODE-PEAR,CODE-PLUM\n"
    )
    assert said("2", "-n 'quoted' $x \\t") == "you said: -n 'quoted' $x \\t; codes: \n"


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Path, Path]:
    """The project and the directory that pip has installed it into, without the network."""
    place, target = tmp_path / "coi-parrot", tmp_path / "site"
    write_project("parrot", place)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(place)], check=True, timeout=200)
    return place, target


def kit(place: Path, target: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """pytest in the project's directory, as its author types it."""
    return subprocess.run(
        [str(PYTEST), "-p", "no:cacheprovider", *args],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_kit_passes_without_containers(installed: tuple[Path, Path]) -> None:
    done = kit(*installed, "-m", "not coi_container", "-v")
    assert done.returncode == 0, done.stdout
    assert "coi/testing/suite.py::test_it_is_registered[parrot] PASSED" in done.stdout
    assert "test_it_says_how_it_starts_and_resumes[parrot-root-headless] PASSED" in done.stdout
    assert "deselected" in done.stdout


def test_the_kit_finds_what_is_wrong(installed: tuple[Path, Path]) -> None:
    place, target = installed
    module = target / "coi_parrot.py"
    wrong = module.read_text().replace("Tool, hookimpl", "HostFile, Tool, hookimpl")
    wrong = wrong.replace(
        "    def command(self",
        "    def host_files(self, host_environment):\n"
        '        return [HostFile("key", ".parrot/key", secret=True)]\n\n'
        "    def command(self",
    )
    wrong = wrong.replace("[launch.binary,", "[7,")
    module.write_text(wrong)
    done = kit(place, target, "-m", "not coi_container")
    assert done.returncode == 1
    assert "FAILED coi/testing/suite.py::test_its_state_holds_no_credential" in done.stdout
    assert "failed in command()" in done.stdout
    module.write_text("raise RuntimeError('gone')")
    done = kit(place, target, "-m", "not coi_container")
    assert done.returncode == 1
    assert "RuntimeError: gone" in done.stdout


def test_the_suite_is_collected_once_and_alone_where_it_is_named(
    installed: tuple[Path, Path],
) -> None:
    place, target = installed
    (place / "tests" / "test_mine.py").write_text("def test_mine(): pass\n")
    everything = kit(place, target, "--collect-only", "-q").stdout
    assert "tests/test_mine.py::test_mine" in everything
    assert everything.count("test_it_is_registered[parrot]") == 1
    alone = kit(place, target, "--collect-only", "-q", "--pyargs", "coi.testing.suite").stdout
    assert "test_mine" not in alone
    assert alone.count("test_it_is_registered[parrot]") == 1
    without = kit(place, target, "--collect-only", "-q", "-o", "addopts=").stdout
    assert "tests/test_mine.py::test_mine" in without
    assert "suite.py" not in without


IMPORTS = """
import sys
import pytest
before = set(sys.modules)
import coi.testing.plugin
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] != "coi"))
print(sorted(name for name in sys.modules if name.startswith("coi.")))
"""


def test_the_plugin_of_pytest_costs_nothing_where_it_is_not_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, timeout=60
    )
    others, own = map(eval, done.stdout.splitlines())
    assert not {"pexpect", "pyte", "http.server", "tarfile"} & set(others)
    assert set(own) <= {
        "coi.api", "coi.records",
        "coi.testing", "coi.testing.memory", "coi.testing.plugin", "coi.testing.setup",
    }  # fmt: skip
