"""``coi build`` against the daemon: images, aliases, DNS, and nothing left behind.

The builds are custom ones on the Debian base that ``coi build`` keeps, so that
each takes seconds; the whole default image is built by the tests' set-up.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coi.errors import CoiError
from coi.image import dns
from coi.image.container import BuildContainer, Log, new_name
from coi.image.progress import Silent
from coi.incus.client import Client
from coi.testing.host import Host
from coi.testing.machine import Result, User, incus, query, wait_for

BASE = "debian:bookworm"
TIMEOUT = 240.0  # seconds for one custom build on a busy machine


@dataclass
class Builds:
    """Builds of one test; their images have the test's prefix."""

    host: Host

    @property
    def name(self) -> str:
        return f"{self.host.prefix}img"

    def args(self, script: str, *options: str) -> list[str]:
        path = self.host.write("build.sh", script, 0o755)
        return ["build", "custom", self.name, "--script", str(path), "--base", BASE, *options]

    def build(self, script: str, *options: str) -> Result:
        return self.host.coi(*self.args(script, *options), timeout=TIMEOUT)

    def start(self, script: str, *options: str) -> subprocess.Popen[bytes]:
        return self.host.popen(*self.args(script, *options))

    def images(self) -> list[dict[str, Any]]:
        """The images of this test, and any that a build of it left without a name."""
        rows = query("/1.0/images?recursion=1") or []
        return [
            row
            for row in rows
            if any(a["name"].startswith(self.host.prefix) for a in row["aliases"] or ())
            or (
                (row.get("properties") or {}).get("description", "").startswith("custom coi image")
                and not row["aliases"]
            )
        ]

    def aliases(self) -> dict[str, str]:
        """Alias to fingerprint."""
        return {a["name"]: row["fingerprint"] for row in self.images() for a in row["aliases"]}

    def logs(self) -> list[Path]:
        return sorted((self.host.coi_home / "logs").glob("build-*.log"))

    def wait_for_log(self, process: subprocess.Popen[bytes], text: str) -> None:
        """Until the log of a running build has this text."""

        def look() -> bool:
            if any(text in path.read_text() for path in self.logs()):
                return True
            assert process.poll() is None, self.host.result(process).err
            return False

        wait_for(look, timeout=TIMEOUT, what=lambda: str([p.read_text() for p in self.logs()]))

    def nothing_left(self) -> None:
        """No container, no image, no lock: also not a moment later."""
        assert self.host.instances() == {}
        assert self.images() == []
        assert not self.host.leaks()


@pytest.fixture
def builds(daemon: None, user: User) -> Iterator[Builds]:
    host = Host.make(user, "none")
    made = Builds(host)
    yield made
    for row in made.images():
        incus("image", "delete", row["fingerprint"])
    problems = host.leaks()
    host.close()
    assert not problems, "the test left: " + "; ".join(problems)


def field(result: Result, name: str) -> str:
    """A line of what a build prints on stdout."""
    found = re.search(rf"^{name}: (.*)$", result.out, re.MULTILINE)
    assert found, result.out
    return found[1]


def test_an_image_and_its_versions(builds: Builds) -> None:
    script = "#!/bin/sh\nset -e\necho from-the-script > /etc/coi-test\nid -u\n"
    first = builds.build(script).ok()
    assert re.search(r"^==> \[\d+/\d+\] Run build\.sh$", first.err, re.MULTILINE)
    assert re.search(r"^    done in [0-9.]+ s$", first.err, re.MULTILINE)
    assert field(first, "Image") == builds.name
    version = field(first, "Version")
    assert re.fullmatch(re.escape(builds.name) + r"-\d{8}-\d{6}", version)
    fingerprint = field(first, "Fingerprint")
    assert builds.aliases() == {builds.name: fingerprint, version: fingerprint}
    properties = builds.images()[0]["properties"]
    assert properties["coi.base"] == BASE
    assert re.fullmatch("[0-9a-f]{64}", properties["coi.recipe"])
    assert properties["coi.version"]
    assert builds.logs() == [], "the log of a build that went well goes"

    again = builds.build(script).ok()
    assert "already exists and is up to date" in again.err
    assert "==>" not in again.err
    assert field(again, "Fingerprint") == fingerprint

    changed = script + "echo more >> /etc/coi-test\n"
    refused = builds.build(changed)
    assert refused.code == 1
    assert f"image '{builds.name}' already exists" in refused.err
    assert "Hint: replace it: coi build --force" in refused.err
    assert builds.aliases()[builds.name] == fingerprint

    second = builds.build(changed, "--if-changed").ok()
    assert field(second, "Fingerprint") != fingerprint
    assert builds.aliases()[builds.name] == field(second, "Fingerprint")
    assert builds.aliases()[version] == fingerprint, "the version before stays"

    third = builds.build(changed, "--force").ok()
    assert set(builds.aliases()) == {builds.name, field(second, "Version"), field(third, "Version")}
    assert builds.host.instances() == {}

    name = f"{builds.host.prefix}run"
    incus("launch", builds.name, name).ok()
    inside = incus("exec", name, "--", "sh", "-c", "cat /etc/coi-test; cat /etc/machine-id").ok()
    assert inside.out.split()[:2] == ["from-the-script", "more"]
    wait_for(
        lambda: re.fullmatch(
            "[0-9a-f]{32}\n", incus("exec", name, "--", "cat", "/etc/machine-id").out
        )
    )
    # the boot has its own private directories in /tmp, and some for a moment (namespace-dev-*)
    look = "ls /var/lib/apt/lists /tmp/ | grep -v -e : -e ^systemd- ; ls -d /usr/sbin/policy-rc.d"

    def left() -> str:
        return incus("exec", name, "--", "sh", "-c", look).out.strip()

    wait_for(lambda: left() == "", what=left)
    incus("delete", "--force", name).ok()


def test_a_failing_step_keeps_its_log_and_nothing_else(builds: Builds) -> None:
    failed = builds.build("#!/bin/sh\necho the-last-words\nexit 3\n")
    assert failed.code == 1
    assert "Error: step failed (exit 3): Run build.sh" in failed.err
    assert "the-last-words" in failed.err
    assert "Usage" not in failed.err
    (log,) = builds.logs()
    assert f"the whole log: {log}" in failed.err
    assert "the-last-words" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    builds.nothing_left()


# A client that fails every other exec as the real one does now and then on a busy machine.
FLAKY = """#!/bin/sh
if [ "$1" = exec ]; then
  if [ ! -e "{mark}" ]; then
    : > "{mark}"
    echo 'Error: Failed to retrieve PID of executing child process' >&2
    exit 255
  fi
  rm -f "{mark}"
fi
exec /usr/bin/incus "$@"
"""


def test_the_daemon_cannot_enter_the_container(builds: Builds) -> None:
    builds.host.write("bin/incus", FLAKY.format(mark=builds.host.root / "mark"), 0o755)
    args = builds.args("#!/bin/sh\necho it-ran >&2\nexit 5\n")
    path = f"{builds.host.root / 'bin'}:{builds.host.environ['PATH']}"
    done = builds.host.coi(*args, environ={"PATH": path}, timeout=TIMEOUT)
    assert "step failed (exit 5)" in done.err
    assert "it-ran" in done.err
    builds.nothing_left()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_in_a_step(builds: Builds, signum: signal.Signals) -> None:
    process = builds.start("#!/bin/sh\necho it-runs\nsleep 300\n")
    builds.wait_for_log(process, "it-runs")
    os.killpg(process.pid, signum)  # as a terminal does: all of the group
    done = builds.host.result(process, 60)
    assert done.code == 130
    assert "Error: interrupted" in done.err
    assert "Traceback" not in done.err
    builds.nothing_left()
    assert builds.logs() == []


def test_interrupted_twice_while_it_publishes(builds: Builds) -> None:
    process = builds.start("#!/bin/sh\ntrue\n")
    builds.wait_for_log(process, "==> Publish the image")
    wait_for(lambda: "Stopped" in builds.host.instances().values(), timeout=60)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert builds.host.result(process, TIMEOUT).code == 130
    builds.nothing_left()


def test_interrupted_while_the_container_is_made(builds: Builds) -> None:
    process = builds.start("#!/bin/sh\ntrue\n")
    builds.wait_for_log(process, "==> Start the build container")
    process.send_signal(signal.SIGTERM)
    assert builds.host.result(process, 120).code == 130
    builds.nothing_left()


def test_a_killed_build_is_swept_by_the_next(builds: Builds) -> None:
    process = builds.start("#!/bin/sh\necho it-runs\nsleep 300\n")
    builds.wait_for_log(process, "it-runs")
    os.killpg(process.pid, signal.SIGKILL)
    builds.host.result(process, 20)
    (stale,) = builds.host.instances()
    failed = builds.build("#!/bin/sh\nexit 1\n")
    assert failed.code == 1
    assert stale not in builds.host.instances()
    builds.nothing_left()


def test_two_builds_of_one_name(builds: Builds) -> None:
    script = "#!/bin/sh\necho it-runs\n"
    first = builds.start(script, "--if-changed")
    builds.wait_for_log(first, "==> ")
    second = builds.start(script, "--if-changed")
    done = [builds.host.result(process, TIMEOUT).ok() for process in (first, second)]
    assert "is running: waiting for it" in done[1].err
    assert "already exists and is up to date" in done[1].err
    assert field(done[0], "Fingerprint") == field(done[1], "Fingerprint")
    assert len(builds.images()) == 1


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["build", "custom", "NAME", "--script", "none.sh"], 3, "'none.sh' does not exist"),
        (["build", "custom", "a/b", "--script", "none.sh"], 2, "not a usable image name"),
        (["build", "custom", "NAME"], 2, "--script"),
        (["build", "--name", "NAME", "--base", "none-such"], 3, "'none-such' does not exist"),
        (["build", "--name", "NAME", "--base", "debian:../x"], 2, "not a Debian suite"),
        (["build", "--name", "NAME", "--tools", "no-such-tool"], 3, "no-such-tool"),
        (["build", "--name", "NAME", "--tools", "claude,,x"], 2, "--tools takes names"),
        (["build", "--name", "NAME", "--base", "nowhere:x"], 4, "cannot get the base nowhere:x"),
    ],
)
def test_bad_input(builds: Builds, args: list[str], code: int, words: str) -> None:
    done = builds.host.coi(*[builds.name if arg == "NAME" else arg for arg in args])
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    builds.nothing_left()


def test_progress_on_a_terminal(builds: Builds) -> None:
    args = builds.args("#!/bin/sh\nprintf 'on \\033[31mred\\033[0m\\n'\nsleep 2\nexit 4\n")
    screen = builds.host.screen(*args)
    screen.expect("on red", timeout=TIMEOUT)
    text = screen.text
    for title in ("Prepare the base", "Start the build container", "Run build.sh", "Publish"):
        assert title in text
    screen.expect(r"Error: step failed \(exit 4\)", timeout=TIMEOUT)
    screen.ended(1)
    builds.nothing_left()


# -- DNS: a bridge whose DHCP names the host's stub, and a resolver of the test's own on it


@dataclass
class Bridge:
    """A network that hands out 127.0.0.53; ``resolver`` on it knows ``name``."""

    network: str
    resolver: str
    name: str = "probe.coi-test"


@pytest.fixture
def bridge(builds: Builds) -> Iterator[Bridge]:
    taken = [
        ipaddress.ip_network(row["config"]["ipv4.address"], strict=False)
        for row in query("/1.0/networks?recursion=1")
        if (row.get("config") or {}).get("ipv4.address", "none") not in ("none", "auto")
    ]
    free = next(
        subnet
        for subnet in ipaddress.ip_network("10.188.0.0/16").subnets(new_prefix=24)
        if not any(subnet.overlaps(other) for other in taken)
    )
    made = Bridge(f"h{builds.host.prefix}b"[:15].rstrip("-"), str(free[1]))
    # Names that it does not know stay on this machine too: no-resolv.
    dnsmasq = f"dhcp-option=6,127.0.0.53\nno-resolv\naddress=/{made.name}/{made.resolver}\n"
    config = [
        f"ipv4.address={made.resolver}/24", "ipv4.nat=false", "ipv6.address=none",
        f"raw.dnsmasq={dnsmasq}",
    ]  # fmt: skip
    incus("network", "create", made.network, *config).ok()
    yield made
    for name in builds.host.instances():
        incus("delete", "--force", name)
    incus("network", "delete", made.network).ok()


@pytest.fixture
def container(builds: Builds, bridge: Bridge, tmp_path: Path) -> Iterator[BuildContainer]:
    """A build container on that bridge."""
    log = Log(tmp_path / "x.log", Silent())
    client = Client()
    target = query("/1.0/images/aliases/coi-base-debian-bookworm")
    assert target is not None, "coi build keeps its Debian base"
    made = BuildContainer(client, new_name(builds.host.prefix), log, {})
    made.create(fingerprint=target["target"], config={}, network=bridge.network)
    try:
        assert made.wait_for_network()
        yield made
    finally:
        made.remove()
    log.close(remove=True)


def resolv_conf(container: BuildContainer) -> str:
    done = container.execute("readlink /etc/resolv.conf || cat /etc/resolv.conf")
    return done.stdout.decode()


def test_dns_is_repaired(container: BuildContainer, bridge: Bridge) -> None:
    before = dns.probe(container.execute, bridge.name, 2)
    assert before.network
    assert not before.resolves, "the control: without the repair it does not resolve"
    assert dns.decide(before) is dns.Verdict.REPAIR
    said = dns.ensure(container.execute, bridge.name, [bridge.resolver], settle=2)
    assert bridge.resolver in said
    assert dns.probe(container.execute, bridge.name, 2).resolves
    assert f"nameserver {bridge.resolver}\n" in resolv_conf(container)
    # It holds after a restart, as in every instance of the image.
    incus("restart", "--force", container.name).ok()
    assert container.wait_for_network()
    assert dns.probe(container.execute, bridge.name, 10).resolves


def test_a_repair_that_does_not_help_is_undone(container: BuildContainer, bridge: Bridge) -> None:
    before = resolv_conf(container)
    assert "stub-resolv.conf" in before
    with pytest.raises(CoiError, match=f"cannot resolve {re.escape(bridge.name)}"):
        dns.ensure(container.execute, bridge.name, ["127.0.0.2"], settle=1)
    assert resolv_conf(container) == before


def test_a_build_repairs_dns(builds: Builds, bridge: Bridge) -> None:
    """The whole command, in a project whose profile has the broken network."""
    project = f"{builds.host.prefix}p"
    pool = query("/1.0/profiles/default")["devices"]["root"]["pool"]
    incus("project", "create", project, "-c", "features.images=false").ok()
    try:
        add = ["--project", project, "profile", "device", "add", "default"]
        incus(*add, "root", "disk", "path=/", f"pool={pool}").ok()
        incus(*add, "eth0", "nic", f"network={bridge.network}", "name=eth0").ok()
        builds.host.config(
            f'[incus]\nproject = "{project}"\n'
            f'[build]\ndns = ["{bridge.resolver}"]\nmirror = "http://{bridge.name}/debian"\n'
        )
        script = f"#!/bin/sh\ngetent ahostsv4 {bridge.name}\ncat /etc/resolv.conf\nexit 9\n"
        args = builds.args(script)
        args[args.index(BASE)] = "coi-base-debian-bookworm"
        done = builds.host.coi(*args, timeout=TIMEOUT)
        assert "step failed (exit 9)" in done.err
        assert f"the image uses {bridge.resolver} instead" in done.err
        assert f"nameserver {bridge.resolver}" in done.err
        assert re.search(rf"{re.escape(bridge.resolver)}\s+STREAM", done.err)
        assert query(f"/1.0/instances?project={project}") == []
    finally:
        for device in ("eth0", "root"):
            incus("--project", project, "profile", "device", "remove", "default", device)
        incus("project", "delete", project).ok()
