"""coi is killed at every call to Incus that a build makes."""

from __future__ import annotations

import pytest
from spoilt import KILLED, spoil
from test_build import TIMEOUT, Builds, builds  # noqa: F401 - a fixture

from coi.testing.machine import query, wait_for

_MOST = 60  # calls that no build of this kind makes


@pytest.mark.timeout(1500)
def test_a_build_is_killed_at_every_call(builds: Builds) -> None:  # noqa: F811
    """The image that was there stands, or the new one; the next build removes what is left."""
    host, wrong = builds.host, []
    builds.build("#!/bin/sh\necho first\n").ok()
    for count in range(1, _MOST):
        how = KILLED[count % len(KILLED)]
        spoilt = spoil(host, how, count)
        script = f"#!/bin/sh\necho {count}\n"
        host.coi(*builds.args(script, "--force"), environ=spoilt.environ, timeout=TIMEOUT)
        wait_for(lambda: not host.pids(), what=lambda: str(host.pids()))
        wait_for(lambda: not host.under_way(), timeout=TIMEOUT, what="the daemon to be done")
        bad = [] if builds.name in builds.aliases() else ["the image is gone"]
        swept = builds.build("#!/bin/sh\nexit 1\n", "--force")
        if "step failed (exit 1)" not in swept.err:
            bad.append(f"the next build: {swept.err}")
        if host.instances():
            bad.append(f"left: {host.instances()}")
        bad += [f"unnamed: {r['fingerprint']}" for r in builds.images() if not r["aliases"]]
        if bad:
            wrong.append([*bad, how, *spoilt.calls[count - 1 : count]])
        if not spoilt.came(count):
            break
    else:
        raise AssertionError("no end of calls")
    assert not wrong, "\n".join("\n  ".join(str(line)[:200] for line in bad) for bad in wrong)
    assert count > 6
    alias = query(f"/1.0/images/aliases/{builds.name}")
    assert alias["target"] in builds.aliases().values()
