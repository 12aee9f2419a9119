"""A warm instance from its making to its claim, on whatever pool there is."""

from __future__ import annotations

from warmth import pool_of, ready, size

from coi.testing.host import Host


def test_a_start_takes_a_warm_one_and_another_follows(host: Host) -> None:
    size(host, 1)
    first = host.coi("run", "cat /etc/hostname").ok()
    assert first.out.startswith(host.prefix)
    (warm,) = ready(host, 1)
    assert host.listed() == []
    assert "Warm: 1 ready" in host.coi("list").ok().out
    assert "1 of 1 ready" in host.coi("doctor").out
    for command in ("shutdown", "kill"):
        host.coi(command, "--all", "--force").ok()
    assert host.coi("clean", "--force").ok().out.strip() == "Nothing to clean."
    assert pool_of(host) == [warm], "it is no session, and nothing to clean"

    made = host.coi("shell", "--background", "-v").ok()
    assert f"/1.0/instances/{warm}" in made.err, "renamed"
    assert not [c for c in made.incus_calls if "POST" in c and host.instance() + '","type' in c]
    # three looks, rename, change, start, exec; then three looks and one creation
    assert len(made.incus_calls) <= 11, made.incus_calls
    assert host.instances()[host.instance()] == "Running"
    assert host.inside("cat /etc/hostname").strip() == host.instance()
    (other,) = ready(host, 1)
    assert other != warm
    host.coi("kill", "--all", "--force").ok()

    size(host, 0)
    swept = host.coi("clean", "--force").ok()
    assert f"{other}: warm, and more than warm.size" in swept.err
    assert host.instances() == {}
