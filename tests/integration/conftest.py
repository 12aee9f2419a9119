"""Fixtures of the integration tests: who runs coi, the image, and the check for leaks."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from daemons import restart_daemon
from netbox import FIXTURES, World
from newtool import NAME, with_new_tool

from coi.testing.host import Host, worlds
from coi.testing.machine import COI, User, bridge_address, incus, query

TOOLS = ("claude", "dummy", NAME)
TEST_IMAGE = "coi-test"


# For a night rather than for each change: 1 to 5 minutes each (tests/run --slow).
SLOW = {
    "test_bench_run", "test_bootstrap", "test_build_killed", "test_claude_settings",
    "test_conformance", "test_faults_host", "test_limits", "test_limits_disk", "test_many_times",
    "test_network_faults", "test_network_ovn", "test_network_policies_change",
    "test_network_refresh", "test_network_upkeep", "test_pool_full", "test_warm_pool",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this directory needs the daemon."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.integration)
            if item.path.stem in SLOW:
                item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember how a test went, for the fixtures that tidy up after it."""
    report = yield
    setattr(item, f"report_{report.when}", report)
    if report.failed and report.when == "call":
        for host in getattr(item, "hosts", ()):
            for number, screen in enumerate(host.screens):
                report.sections.append((f"screen {number} of {host.prefix}", screen.dump()))
    return report


@pytest.fixture(scope="session")
def user() -> User:
    """Who runs coi: this user, or for root the one that COI_TEST_USER names."""
    if os.getuid() == 0 and not os.environ.get("COI_TEST_USER"):
        pytest.skip(
            "root needs COI_TEST_USER, the name of a user in incus-admin (tests/run sets it)"
        )
    return User.current()


@pytest.fixture(scope="session")
def daemon() -> None:
    """Incus answers; the tests below cannot be skipped where it should."""
    done = incus("query", "/1.0", timeout=20)
    assert done.code == 0, f"the Incus daemon does not answer: {done.err}"
    assert COI.is_file(), f"coi is not installed beside {sys.executable}"


def _properties(alias: str) -> dict[str, str] | None:
    target = query(f"/1.0/images/aliases/{alias}")
    return None if target is None else query(f"/1.0/images/{target['target']}")["properties"]


@pytest.fixture(scope="session")
def image(daemon: None, user: User) -> str:
    """An image with the tools that the tests use.

    COI_TEST_IMAGE names one; else the image `coi` when it has them; else one
    that `coi build` makes here, and reuses while nothing of its recipe changes.
    """
    if named := os.environ.get("COI_TEST_IMAGE"):
        return named
    properties = _properties("coi")
    if properties and set(TOOLS) <= set(properties.get("coi.tools", "").split(",")):
        return "coi"
    host = Host.make(user, TEST_IMAGE)
    try:
        build = ["build", "--if-changed", "--image", TEST_IMAGE, "--tools", ",".join(TOOLS)]
        host.coi(*build, environ=with_new_tool(host), timeout=1500).ok()
    finally:
        host.close()
    return TEST_IMAGE


@pytest.fixture
def make_host(
    request: pytest.FixtureRequest, image: str, user: User
) -> Iterator[Callable[..., Host]]:
    """Makes the worlds of a test, and sees at its end that nothing is left of them."""

    def failed() -> bool:
        return getattr(getattr(request.node, "report_call", None), "failed", False)

    with worlds(failed) as hosts:

        def make(who: User | None = None, **changes: str) -> Host:
            host = Host.make(who or user, changes.get("image", image))
            hosts.append(host)
            request.node.hosts = hosts
            return host

        yield make


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    """The world of a test, with the dummy tool."""
    return make_host()


@pytest.fixture
def as_root() -> None:
    """For what only root can set up."""
    if os.getuid() != 0:
        pytest.skip("only root can set this up")


@pytest.fixture
def someone(as_root: None) -> Iterator[User]:
    """A user of this machine whom no other test has, in no group but their own."""
    name = f"coi-t{secrets.token_hex(3)}"
    subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True)
    yield User.named(name)
    subprocess.run(["userdel", name], check=True)


@pytest.fixture(scope="session")
def gateway(daemon: None) -> str:
    """The host's address on the bridge, where containers reach it."""
    try:
        return bridge_address()
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def lent_ids(as_root: None) -> Iterator[Callable[[int], None]]:
    """Let Incus map ids through for the length of a test (/etc/subuid, /etc/subgid)."""
    files = {path: path.read_text() for path in (Path("/etc/subuid"), Path("/etc/subgid"))}
    added: list[tuple[Path, str]] = []

    def lend(number: int) -> None:
        for path, text in files.items():
            line = f"root:{number}:1\n"
            if line not in text:
                with path.open("a") as file:
                    file.write(line)
                added.append((path, line))

    yield lend
    for path, line in added:
        path.write_text(path.read_text().replace(line, "", 1))


@pytest.fixture(scope="session")
def testhosts() -> Iterator[None]:
    """The addresses that probes go to; they go at the end, unless they stood before."""
    if os.getuid() != 0:
        pytest.skip("only root can make hosts to probe")

    def hosts(what: str) -> str:
        done = subprocess.run(
            [str(FIXTURES / "testhosts"), what], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    stand = "target" in hosts("status")
    hosts("up")
    yield
    if not stand:
        hosts("down")


@pytest.fixture(scope="module")
def ovn(daemon: None, testhosts: None) -> Iterator[str]:
    """An Incus project whose default profile is on an OVN network (fixtures/ovn)."""
    stands = query("/1.0/networks/ovnnet0") is not None
    done = subprocess.run([FIXTURES / "ovn", "up"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    project = f"coi-test-{secrets.token_hex(3)}"  # tests of another checkout may be at it
    shared = [f"features.{what}=false" for what in ("images", "networks", "storage.volumes")]
    try:
        incus("project", "create", project, *(word for key in shared for word in ("-c", key))).ok()
        profile = incus("profile", "show", "ovntest").ok().out
        incus("profile", "edit", "default", "--project", project, stdin=profile.encode()).ok()
        yield project
    finally:
        incus("project", "delete", "--force", project, stdin=b"yes\n").ok()
        if not stands:
            subprocess.run([FIXTURES / "ovn", "down"], capture_output=True, check=True)
            restart_daemon()  # which goes on looking for its OVN, on a whole processor


@pytest.fixture
def box(daemon: None, image: str, tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, image)
    yield made
    made.close()
    assert made.objects() == []
