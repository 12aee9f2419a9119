"""The real Claude Code behind the default network policy: what the conformance suite, which
runs without one, leaves out. Its model is a host of the public internet to it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netbox import FIXTURES, PUBLIC

from coi.testing.bench import Bench, find_setup, new_code
from coi.testing.host import Host
from coi.testing.machine import incus, wait_for
from coi.tools.manager import Manager

NAMESPACE = "ovtpub"  # of fixtures/testhosts, whose address is PUBLIC


@pytest.fixture
def model(testhosts: None, tmp_path: Path) -> Iterator[str]:
    """The stub model server on a host that looks public; its URL."""
    serve = [sys.executable, "-m", "coi.testing.stub_model", PUBLIC, "0", str(tmp_path / "log")]
    with subprocess.Popen(
        ["ip", "netns", "exec", NAMESPACE, *serve], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            yield found[0]
        finally:
            process.kill()


@pytest.fixture
def bench(make_host: Callable[..., Host], model: str) -> Iterator[Bench]:
    host = make_host()
    setup = find_setup("claude", "tool_models.py:MODELS", FIXTURES)
    made = Bench.make(Manager.load().get("claude"), setup, host, model)
    host.environ["COI_NETWORK_MODE"] = "restricted"
    yield made
    host.sweep()


def test_a_conversation_outlives_coi_and_goes_on_without_a_terminal(bench: Bench) -> None:
    host = bench.host
    codes = [new_code() for _ in range(4)]
    screen = bench.start()
    assert bench.ask(screen, codes[0]) == {codes[0]}
    (row,) = host.listed()
    assert (row["network"], row["network_backend"]) == ("restricted", "bridge")
    bench.kill_coi(screen)
    assert host.saved() == [], "nobody could save it yet"

    # Once its container has stopped, any coi command saves it.
    incus("exec", host.instance(), "--", "poweroff")
    wait_for(lambda: host.instances() == {host.instance(): "Stopped"}, what="power-off")
    # The daemon leaves an instance out of a full listing for a moment while it ends.
    wait_for(lambda: "Recovering session" in host.coi("list").ok().err, timeout=10, what="recovery")
    host.settled()
    again = bench.start("--resume")
    assert bench.ask(again, codes[1]) == set(codes[:2])
    bench.leave(again)
    bench.power_off(again)
    host.settled()

    # A prompt goes on with what was said on a terminal, and the terminal with that.
    said = bench.run(f"remember {codes[2]} please", "--resume").ok().json
    assert bench.setup.codes(codes[2], said["answer"]) == set(codes[:3])
    assert said["tool_session_id"] == said["session_id"], "it takes coi's id for its own"
    assert (said["exit_code"], said["saved"]) == (0, True)
    host.settled()
    last = bench.start(f"--resume={said['session_id']}")
    assert bench.ask(last, codes[3]) == set(codes)
    bench.end(last)
