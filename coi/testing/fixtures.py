"""Fixtures of the conformance suite: the image, the stub model, worlds, a first session."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from coi.api import Tool
from coi.records import record
from coi.testing.bench import Bench, find_setup, new_code
from coi.testing.host import Host, worlds
from coi.testing.machine import User, bridge_address, incus, query
from coi.testing.plugin import IMAGE, SETUP, TOOLS
from coi.testing.setup import ModelSetup
from coi.testing.stub_model import running
from coi.tools.manager import Manager

BUILD_TIMEOUT = 1800.0  # seconds


@pytest.fixture(scope="module")
def tool(name: str) -> Tool:
    """The tool, as coi finds it."""
    return Manager.load().get(name)


@pytest.fixture(scope="module")
def setup(name: str, request: pytest.FixtureRequest) -> ModelSetup:
    """What ``--coi-setup`` or the tool's entry point tell of it."""
    try:
        return find_setup(
            name, request.config.getoption(SETUP), request.config.invocation_params.dir
        )
    except ValueError as error:
        pytest.fail(f"--coi-setup: {error}", pytrace=False)


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Iterator[str]:
    """``--coi-image``, else one that is built for this run and removed."""
    if named := request.config.getoption(IMAGE):
        yield named
        return
    tools = ",".join(dict.fromkeys(request.config.getoption(TOOLS)))
    host = Host.make(User.current(), "")
    name = f"{host.prefix}kit"
    try:
        host.coi("build", "--image", name, "--tools", tools, timeout=BUILD_TIMEOUT).ok()
        yield name
    finally:
        host.close()
        for row in query("/1.0/images?recursion=1"):
            if any(alias["name"].startswith(name) for alias in row["aliases"] or ()):
                incus("image", "delete", row["fingerprint"])


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """The stub model server's address; it is started when somebody asks."""
    with ExitStack() as stack:
        urls: list[str] = []

        def url() -> str:
            if not urls:
                log = tmp_path_factory.mktemp("model") / "log"
                urls.append(stack.enter_context(running(bridge_address(), log)))
            return urls[0]

        yield url


@pytest.fixture(scope="module")
def make(
    request: pytest.FixtureRequest,
    tool: Tool,
    setup: ModelSetup,
    image: str,
    model: Callable[[], str],
) -> Callable[[list[Host]], Bench]:
    """Makes a bench for the tool in one more world."""

    def make(hosts: list[Host]) -> Bench:
        hosts.append(Host.make(User.current(), image, tool.name))
        return Bench.make(tool, setup, hosts[-1], model() if setup.needs_model else "")

    return make


@pytest.fixture
def bench(request: pytest.FixtureRequest, make: Callable[[list[Host]], Bench]) -> Iterator[Bench]:
    """A world for one test."""
    with worlds(_failed(request)) as hosts:
        yield make(hosts)


def _failed(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Whether a test has failed since now."""
    before = request.session.testsfailed
    return lambda: request.session.testsfailed > before


@record(frozen=True)
class First:
    """What a first session was like, from its prompt to a power-off from inside.

    Attributes:
        home: files that it left in the home inside, and that a container of the image
            alone does not have like that.
        workspace: the workspace's files before and after.
        log: all that was on the terminal.
    """

    bench: Bench
    code: str
    known: set[str]
    home: list[str]
    workspace: tuple[dict[str, bytes], dict[str, bytes]]
    log: str


_FILES = "cd && find . ! -type d -printf '%P\\t%s\\t%T@\\n'"


@pytest.fixture(scope="module")
def bare(request: pytest.FixtureRequest, tool: Tool, image: str) -> Iterator[list[str]]:
    """Where the executable is in the image, '' for nowhere; then the files of the home."""
    with worlds(_failed(request)) as hosts:
        hosts.append(Host.make(User.current(), image, tool.name))
        done = hosts[0].coi("run", f"command -v {shlex.quote(tool.binary)} || echo; {_FILES}")
        yield done.ok().out.splitlines()


@pytest.fixture(scope="module")
def first(
    request: pytest.FixtureRequest, make: Callable[[list[Host]], Bench], bare: list[str]
) -> Iterator[First]:
    """Start, talk, leave the tool, power off."""
    with worlds(_failed(request)) as hosts:
        bench = make(hosts)
        before = bench.workspace()
        screen = bench.start()
        code = new_code()
        known = bench.ask(screen, code)
        bench.leave(screen)
        inside = bench.host.inside(_FILES, user=bench.user).splitlines()
        bench.power_off(screen)
        home = [line.split("\t")[0] for line in inside if line not in bare]
        yield First(bench, code, known, home, (before, bench.workspace()), screen.log)
