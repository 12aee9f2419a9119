"""A mount whose source the container can swap for a link to something else of the user's."""

from __future__ import annotations

from coi.testing.host import Host
from coi.testing.machine import incus


def test_a_mount_from_the_workspace_is_refused(host: Host) -> None:
    """A session leaves a link in the place of a directory that the next one is to mount."""
    host.write("home/.ssh/id", "SECRET\n", 0o600)
    data = host.directory("ws/data")
    (host.root / "shortcut").symlink_to(data)
    host.coi("run", f"rmdir data && ln -s {host.home}/.ssh data").ok()
    for source in ("data", str(data), f"{host.root}/shortcut", "data/../data"):
        done = host.coi("--mount", f"{source}:/data:ro", "run", "cat /data/id")
        assert "SECRET" not in done.out, source
        assert done.code == 5, done.err
        assert "Hint: inside it is at /workspace/data" in done.err
    # Control: the daemon, which is root, follows it.
    name = f"{host.prefix}control"
    incus("launch", host.image, name).ok()
    incus(
        "config", "device", "add", name, "x", "disk", f"source={data}", "path=/data", "shift=true"
    ).ok()
    assert incus("exec", name, "-T", "--", "cat", "/data/id").ok().out == "SECRET\n"
    host.drop()
