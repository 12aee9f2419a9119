"""Names and values that would be something else to Incus or LXC, with a real daemon."""

from __future__ import annotations

from pathlib import Path

from coi.testing.host import Host
from coi.testing.machine import incus, query

# In a device of `incus` the comma ends a value, in LXC's configuration the line end; the rest
# is another word or place to whoever splits or joins.
ODD = "-a,path=etc readonly=true 'q' \"d\" $(id) %s #x;é"


def test_odd_names_arrive_as_they_are(host: Host) -> None:
    """Workspace, mount and values: one device each, with exactly this source."""
    work = host.directory(f"--ws {ODD}")
    lent = host.directory(f"lent {ODD}")
    (lent / "seen").write_text("yes\n")
    value = "a,b=c\\nlxc.mount.entry=/ x 'y' \"z\" \\u001b \t$(id)"
    done = host.coi(
        "-w", str(work), "--mount", f"{lent}:/lent:ro", "-e", f"ODD={value}",
        "shell", "--background",
    ).ok()  # fmt: skip
    name = host.instance(workspace=work)
    assert name in done.err
    found = query(f"/1.0/instances/{name}")
    disks = {
        row["path"]: row["source"] for row in found["devices"].values() if row.get("source")
    }  # fmt: skip
    assert disks["/workspace"] == str(work)
    assert disks["/lent"] == str(lent)
    assert set(disks) == {"/workspace", "/lent"}
    mine = {key for key in found["config"] if not key.startswith(("volatile.", "image.", "user."))}
    assert all(key.startswith(("security.", "limits.", "boot.")) for key in mine), mine
    assert not any(value in text for text in found["config"].values())
    seen = incus("exec", name, "-T", "--", "cat", "/lent/seen").ok().out
    assert seen == "yes\n"
    look = "tr '\\0' '\\n' </proc/$(pgrep -f dummy-tool | head -n 1)/environ"
    inside = incus("exec", name, "-T", "--", "sh", "-c", look).ok().out
    assert f"ODD={value}\n" in inside
    host.drop()


def test_the_control_a_word_is_an_option(host: Host) -> None:
    """What is refused below as an image's name, as a word of `incus`."""
    name = f"{host.prefix}control"
    incus("init", "--empty", name).ok()
    assert name in host.instances()
    incus("delete", name).ok()


REFUSED = [
    ("-e", "A=x\nlxc.mount.entry=/ mnt none bind", "run", "true"),
    ("-e", "A\nB=x", "run", "true"),
    ("--mount", "{root}/lent\nx:/lent", "run", "true"),
    ("--mount", "{root}/lent:/lent\nlxc.apparmor.profile=unconfined", "run", "true"),
    ("--limit", "memory=1GiB\nraw.lxc=lxc.mount.entry=/", "run", "true"),
    ("--limit", "raw.lxc=x", "run", "true"),
    ("--image", "x\nraw.lxc: y", "run", "true"),
    ("--image", "--empty", "run", "true"),
    ("--network", "open\nsecurity.privileged=true", "run", "true"),
    ("--profile", "../../etc/x", "run", "true"),
    ("--tool", "../x", "run", "true"),
    ("--resume=../x", "shell", "--background"),
    ("--resume=../../sessions-dummy/x", "run", "--prompt", "x"),
    ("--slot", "1\n2", "shell", "--background"),
    ("container", "launch", "{image}", "-c security.privileged=true"),
    ("container", "launch", "{image}", "a,b"),
    ("container", "mount", "{name}", "x,y", "{root}", "/x"),
    ("container", "exec", "../x", "--", "true"),
    ("attach", "../x"),
    ("info", "../../x"),
    ("protect", "diff", "../x"),
    ("image", "exists", "../x"),
    ("tmux", "capture", "a\nb"),
]


def test_what_could_be_something_else_is_refused(host: Host) -> None:
    words = {"root": host.root, "image": host.image, "name": f"{host.prefix}none"}
    before = set(Path("/etc").iterdir())
    for args in REFUSED:
        done = host.coi(*(word.format(**words) if "{" in word else word for word in args))
        assert done.code not in (0, 1), (args, done.err)
        for never in ("Traceback", "does not handle", "\nlxc."):
            assert never not in done.err, args
    assert host.instances() == {}
    assert before == set(Path("/etc").iterdir())
