"""The pytest plugin: ``pytest --coi-tool NAME`` adds the conformance suite of a tool.

It is loaded by every pytest of an environment that has coi, so it imports nothing more.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TOOLS = "coi_tools"
SETUP = "coi_setup"
IMAGE = "coi_image"
SUITE = Path(__file__).with_name("suite.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("coi", "coi: conformance of tool plugins")
    group.addoption(
        "--coi-tool",
        dest=TOOLS,
        metavar="NAME",
        action="append",
        default=[],
        help="add coi's conformance suite for this installed tool; repeatable",
    )
    group.addoption(
        "--coi-setup",
        dest=SETUP,
        metavar="WHERE:ATTRIBUTE",
        default="",
        help="a coi.testing.ModelSetup, or a mapping of tools' names to them, in a module or a"
        " .py file; else the entry point of the group coi.testing with the tool's name",
    )
    group.addoption(
        "--coi-image",
        dest=IMAGE,
        metavar="NAME",
        default="",
        help="an image that has the tool; else one is built for this run",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The suite is one more file to collect, last and once."""
    config.addinivalue_line("markers", "coi_container: needs Incus (the conformance suite of coi)")
    if not config.getoption(TOOLS):
        return
    named = {argument.partition("::")[0] for argument in config.args}
    if not named & {str(SUITE), "coi.testing.suite"}:
        config.args.append(str(SUITE))


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """The suite's tests are named by its module, wherever it is installed."""
    if module_path != SUITE:
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid="coi/testing/suite.py")
