"""Start-up is a feature: what the short commands import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from bench.budgets import BUDGETS

LINE = """
import json, sys
before = set(sys.modules)
sys.argv = ["coi", *sys.argv[1:]]
from coi.cli.main import run
try:
    code = run(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
sys.stderr.write("\\n" + json.dumps([code, sorted(set(sys.modules) - before)]))
"""

HEAVY = {
    "asyncio", "concurrent.futures.thread", "email", "http", "importlib.metadata", "markdown_it",
    "multiprocessing", "platformdirs", "pluggy", "pydantic", "pygments", "rich", "sh", "ssl",
    "tarfile", "tomli", "unittest", "urllib.request", "xml", "zipfile",
}  # fmt: skip

# What `coi list` needs: sh to start incus, tomli for the configuration, tarfile and the API
# of plugins to save what it recovers.
OF_LIST = {"sh", "pluggy", "tarfile", "tomli"}


def imported(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, set[str]]:
    """The exit code and the modules that a command line imports, this process's own not counted."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", LINE, *arguments],
        capture_output=True, text=True, check=True, timeout=30,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environment or {})},
    )  # fmt: skip
    code, modules = json.loads(done.stderr.rpartition("\n")[2])
    return code, set(modules)


def heavy(modules: set[str]) -> set[str]:
    return {name for name in HEAVY if name in modules}


@pytest.fixture
def fake_incus(tmp_path: Path) -> dict[str, str]:
    """A PATH whose `incus` answers that there are no instances."""
    script = tmp_path / "bin" / "incus"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho \'{"type":"sync","status_code":200,"metadata":[]}\'\n')
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:{os.environ['PATH']}", "COI_HOME": str(tmp_path / "coi")}


def test_version_imports_little() -> None:
    code, modules = imported("version")
    assert code == 0
    assert not heavy(modules)
    own = {name for name in modules if name.split(".")[0] == "coi"}
    assert own == {
        "coi", "coi.cli", "coi.cli.context", "coi.cli.main", "coi.cli.options", "coi.cli.output",
        "coi.cli.signals", "coi.cli.version", "coi.errors", "coi.records",
    }  # fmt: skip
    assert len(own) < (BUDGETS["version"].own or 0), "the console script is one more"
    assert len(modules) <= (BUDGETS["version"].modules or 0)


def test_list_imports_what_it_needs(fake_incus: dict[str, str]) -> None:
    code, modules = imported("list", environment=fake_incus)
    assert code == 0
    assert not heavy(modules) - OF_LIST
    own = {name for name in modules if name.split(".")[0] == "coi"}
    assert not own & {"coi.session.start", "coi.session.claim", "coi.session.attach"}
    assert {name for name in own if name.startswith("coi.cli.")} <= {
        "coi.cli.context", "coi.cli.list", "coi.cli.main", "coi.cli.options", "coi.cli.output",
        "coi.cli.signals",
    }  # fmt: skip
    assert not any(name.startswith("coi.image") for name in own)
    assert len(own) < (BUDGETS["list"].own or 0)
    assert len(modules) <= (BUDGETS["list"].modules or 0)
    assert not own & {"coi.session.warm", "coi.session.warmpool"}


PUT_OFF = """
import json, os, sys
from coi.cli import entry
from coi.incus import shlib
off = [*entry._SELDOM, *entry._SELDOM_CALLED, *shlib._SELDOM, "asyncio", "importlib.metadata"]
loaded = lambda: [name for name in off if name in sys.modules]
assert loaded() == [], "else this tells nothing"
os._exit = lambda code: sys.stderr.write("\\n" + json.dumps([code, loaded()]))
sys.argv = ["coi", *sys.argv[1:]]
entry.main()
"""


@pytest.mark.parametrize("arguments", [["version"], ["list"], ["config", "show"]])
def test_what_is_put_off_is_not_used(arguments: list[str], fake_incus: dict[str, str]) -> None:
    """By the short commands; else it had better be imported at once."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PUT_OFF, *arguments],
        capture_output=True, text=True, check=True, timeout=30,
        env={"HOME": "/nonexistent", **fake_incus},
    )  # fmt: skip
    assert json.loads(done.stderr.rpartition("\n")[2]) == [0, []], done.stderr


def test_a_stand_in_becomes_the_module() -> None:
    """Whoever got it, however; nobody else sees it."""
    script = """
        import sys
        from coi.lazy import put_off

        with put_off(["textwrap"], {"difflib": ["get_close_matches"], "colorsys": ["rgb_to_hsv"]}):
            import textwrap as early
            from colorsys import rgb_to_hsv
            from difflib import get_close_matches
        assert not {"textwrap", "difflib", "colorsys"} & set(sys.modules)
        assert get_close_matches("lst", ["list"]) == ["list"]
        assert early.dedent("  a") == "a"
        import colorsys, textwrap
        assert early.TextWrapper is textwrap.TextWrapper
        assert rgb_to_hsv(0, 0, 0) == colorsys.rgb_to_hsv(0, 0, 0)
        with put_off(["tabnanny"]):
            from tabnanny import check
            import tabnanny
        assert sys.modules["tabnanny"].check is check, "a use, in the middle of it"
        with put_off(["textwrap"]):
            import textwrap as late
        assert late is textwrap
    """
    subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(script)], check=True, timeout=30)


@pytest.mark.parametrize("command", ["shell", "list", "attach", "config", "tool", "build", "trust"])
def test_help_draws_without_the_heavy_ones(command: str) -> None:
    code, modules = imported(command, "--help")
    assert code == 0
    assert not modules & {"sh", "pydantic", "http", "asyncio", "tarfile"}


def test_sh_works_without_asyncio_and_with_it() -> None:
    """The stand-ins are asyncio once it is used, and nobody else ever sees them."""
    script = """
        import sys
        from coi.incus.shlib import load
        from coi.incus.process import Runner

        sh = load()
        assert load() is sh
        assert not {"asyncio", "importlib.metadata"} & set(sys.modules)
        assert Runner("echo").run(["hello"]).stdout == b"hello\\n"
        assert "asyncio" not in sys.modules

        import asyncio
        import importlib.metadata

        async def lines():
            return [line async for line in sh.Command("printf")("a\\\\nb\\\\n", _async=True)]

        assert asyncio.run(lines()) == ["a\\n", "b\\n"]
        assert importlib.metadata.version("sh") > "2"
        assert Runner("echo").run(["hello"]).stdout == b"hello\\n"
    """
    subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(script)], check=True, timeout=30)
