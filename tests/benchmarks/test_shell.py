"""From `coi shell` to the tool's prompt, beside the bare Incus calls.

The floor is what nobody can do without: one POST that creates and starts the
same instance, and one exec. Both are measured in turn in the same run.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import statistics
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from conftest import daemon, host, image, make_host, user  # noqa: F401 - fixtures
from dummy import PROMPT

from coi.testing.host import Host
from coi.testing.machine import incus

ROUNDS = 7
GOAL = 1.5
LIMIT = 2.5  # what holds on a busy machine too; quiet, 1.6 is measured

pytestmark = pytest.mark.integration


def _floor(host: Host) -> float:  # noqa: F811
    """Seconds of the bare create, start and exec."""
    from coi.session.body import BASE_CONFIG

    name = f"{host.prefix}floor{secrets.token_hex(2)}"
    body = {
        "name": name,
        "type": "container",
        "start": True,
        "source": {"type": "image", "alias": host.image},
        "config": dict(BASE_CONFIG),
        "devices": {
            "workspace": {
                "type": "disk",
                "source": str(host.workspace),
                "path": "/workspace",
                "shift": "true",
            }
        },
    }
    begun = time.perf_counter()
    incus(
        "query", "--raw", "-X", "POST", "--wait", "-d", json.dumps(body), "/1.0/instances"
    ).ok()  # fmt: skip
    entered = incus("exec", name, "--", "true").code == 0
    seconds = time.perf_counter() - begun
    incus("delete", "--force", name).ok()
    # On a busy machine the daemon now and then cannot enter what it has just started.
    return seconds if entered else _floor(host)


def _coi(host: Host) -> float:  # noqa: F811
    """Seconds from the command to the prompt on the screen."""
    begun = time.perf_counter()
    screen = host.screen("shell")
    screen.expect(PROMPT)
    seconds = time.perf_counter() - begun
    screen.detach()
    screen.ended()
    host.drop()
    return seconds


@pytest.mark.timeout(900)
def test_shell_to_prompt(host: Host, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    _floor(host), _coi(host)  # the image's first use, Python's bytecode
    floors: list[float] = []
    ours: list[float] = []
    ratio = 0.0
    for _attempt in (1, 2):
        for _ in range(ROUNDS):
            floors.append(_floor(host))
            ours.append(_coi(host))
        ratio = statistics.median(a / b for a, b in zip(ours, floors, strict=True))
        with capsys.disabled():
            print(
                f"\nshell to prompt, {len(ours)} rounds, median s: floor "
                f"{statistics.median(floors):.3f}, coi {statistics.median(ours):.3f}, "
                f"ratio {ratio:.2f} (goal {GOAL}, at most {LIMIT}); load {os.getloadavg()[0]:.1f}"
            )
        if ratio <= LIMIT:
            break
    assert ratio <= LIMIT


def test_calls_before_the_tool(host: Host) -> None:  # noqa: F811
    screen = host.screen("-v", "shell")
    screen.expect(PROMPT)
    calls = [line[2:] for line in re.findall(r"^\+ incus [^\r\n]*", screen.log, re.M)]
    assert 3 <= len(calls) <= 6, calls
    verbs = [" ".join(call.split()[1:2]) for call in calls]
    assert set(verbs) <= {"query", "exec"}
    assert "sleep" not in " ".join(call for call in calls if "query" in call)
    screen.detach()
    screen.ended()
    listing = host.coi("-v", "list", "--format=json").ok()
    assert len(listing.incus_calls) == 1
    host.drop()
