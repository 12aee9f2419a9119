"""``coi file`` with a container whose root is hostile, and on a bad day."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from filebox import Box, contents
from filebox import box as box

from coi.testing.machine import incus, wait_for

# The device is the one that root of a user namespace may make (overlayfs's whiteout).
HOSTILE = r"""
set -e
mkdir -p /evil/sub /evil/deep && cd /evil
echo fine > fine.txt
ln -s /etc/passwd absolute
ln -s ../../../../../../etc/passwd up
ln -s fine.txt good
ln -s ../fine.txt sub/good
ln -s .. deep/one; ln -s deep/one/.. two; ln -s two/.. three
mknod null c 0 0; mkfifo pipe
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("/evil/socket")'
cp /bin/true suid; chmod 6755 suid
ln fine.txt hard
touch "$(printf 'esc\033]0;owned\007')" "$(printf 'new\nline')" "$(printf 'csi\233m')"
touch "$(printf 'bidi\342\200\256txt')"
mkdir nowrite; echo x > nowrite/x; chmod 555 nowrite; chmod 000 fine.txt
truncate -s 1G sparse; printf end >> sparse
"""


def test_a_hostile_tree(box: Box) -> None:
    host = box.host
    box.run(HOSTILE)
    host.write("ws/mine", "mine")
    done = box.pull("-r", f"{box.name}:/evil", "got").ok()
    got = host.workspace / "got"
    assert contents(host.workspace)["mine"]
    assert {p.name for p in host.workspace.iterdir()} == {"mine", "got"}
    assert {p.name for p in got.iterdir()} == {
        "fine.txt", "good", "hard", "sub", "deep", "suid", "nowrite", "sparse",
    }  # fmt: skip
    assert {p for p in got.rglob("*") if p.is_symlink()} == {
        got / "good", got / "sub/good", got / "deep/one",
    }  # fmt: skip
    assert (got / "suid").stat().st_mode & 0o7777 == 0o755
    assert (got / "fine.txt").stat().st_mode & 0o7777 == 0
    assert (got / "hard").stat().st_nlink == 1
    assert (got / "nowrite").stat().st_mode & 0o7777 == 0o755
    assert (got / "sparse").stat().st_size == (1 << 30) + 3
    assert (got / "sparse").stat().st_blocks * 512 < 1 << 20
    assert {p.lstat().st_uid for p in got.rglob("*")} == {host.user.uid}
    assert not set(done.err + done.out) & set("\x1b\x07\x9b\u202e")
    for name in ("absolute", "up", "two", "three", "null", "pipe", r"new\nline", r"\x1b]0"):
        assert re.search(rf"^Left out \./\S*{re.escape(name)}", done.err, re.M), name
    assert "socket" in done.err
    assert re.search(r"\(8 file\(s\), 1\.0 GiB, \d+ left out\)$", done.out.strip())


def test_the_hostile_tree_works_where_nothing_guards(box: Box, as_root: None) -> None:
    """The control of the test above: plain tar keeps set-uid, devices, links and names."""
    box.run(HOSTILE)
    naive = box.host.directory("naive")
    stream = subprocess.Popen(
        ["incus", "exec", box.name, "-T", "--", "tar", "-c", "-S", "-C", "/evil", "."],
        stdout=subprocess.PIPE,
    )
    subprocess.run(["tar", "-x", "-p", "-C", naive], stdin=stream.stdout, check=False)
    assert stream.wait() == 0
    assert (naive / "suid").stat().st_mode & 0o6000
    assert (naive / "null").is_char_device()
    assert (naive / "absolute").read_bytes() == Path("/etc/passwd").read_bytes()
    assert any("\x1b" in p.name for p in naive.iterdir())


LIAR = """#!/usr/bin/python3
import os, sys, tarfile, io
out = sys.stdout.buffer
def send(name, kind=tarfile.REGTYPE, data=b"", **more):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items(): setattr(info, key, value)
    out.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
send("./", tarfile.DIRTYPE, mode=0o755)
"""

LIES = {
    "out": 'send("../../planted", data=b"evil"); send("/var/tmp/planted", data=b"evil")\n'
    'send("l", tarfile.SYMTYPE, linkname="../.."); send("l/planted", data=b"evil")\n'
    'send("ok", data=b"ok"); out.write(bytes(1024))',
    "cut": 'send("ok", data=b"ok")',
    "endless": 'send("ok", data=b"ok", size=1 << 60)\nwhile True: out.write(bytes(1 << 20))',
    "huge": 'send("ok", data=b"ok", size=1 << 50)\nwhile True: out.write(bytes(1 << 20))',
    "many": 'while True: send("x" * 90, tarfile.FIFOTYPE)',
    "dies": 'send("ok", data=b"x" * 5000); out.flush(); os.kill(1, 37)',
}


@pytest.mark.parametrize("lie", LIES)
def test_a_stream_that_lies(box: Box, lie: str) -> None:
    """tar inside is root's own program."""
    host = box.host
    box.run("mkdir /d; cat > /usr/local/sbin/tar <<'EOF'\n" + LIAR + LIES[lie] + "\nEOF\n"
            "chmod 755 /usr/local/sbin/tar")  # fmt: skip
    began = time.monotonic()
    args = ("--max-files", "20000") if lie == "many" else ()
    done = box.pull("-r", *args, f"{box.name}:/d", "got")
    assert time.monotonic() - began < 60
    assert not (host.root / "planted").exists()
    assert not Path("/var/tmp/planted").exists()
    if lie == "out":
        assert done.code == 0, done
        assert contents(host.workspace) == {
            "got": ("drwxr-xr-x", None),
            "got/l": ("drwx------", None),  # the link is left out, and a directory not named
            "got/l/planted": ("-rw-r--r--", hashlib.sha256(b"evil").hexdigest()),
            "got/ok": ("-rw-r--r--", hashlib.sha256(b"ok").hexdigest()),
        }
        assert done.out.strip().endswith("3 left out)")
        return
    assert done.code == 1, done
    assert done.err.startswith("Error: "), done.err
    assert "\x1b" not in done.err
    assert list(host.workspace.iterdir()) == []
    wait_for(lambda: not host.pids(), timeout=10)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("direction", ["push", "pull"])
def test_interrupted(box: Box, direction: str, signum: signal.Signals) -> None:
    host = box.host
    if direction == "push":
        with host.write("ws/big", "").open("wb") as file:
            for _ in range(300):
                file.write(os.urandom(1 << 20))
        process = host.popen("file", "push", "big", f"{box.name}:/root/x/big")
        wait_for(lambda: "big" in box.run("ls -R /root/.coi-push-* 2>/dev/null", ok=False))
    else:
        box.run("mkdir /root/d; head -c 300M /dev/urandom > /root/d/big; echo x > /root/d/a")
        process = host.popen("file", "pull", "-r", f"{box.name}:/root/d", "x/d")
        wait_for(lambda: list(host.workspace.glob(".coi-pull-*/data/big")))
    process.send_signal(signum)
    done = host.result(process, 40)
    assert done.code == 130, done
    assert done.err.startswith("Error: ") or (signum == signal.SIGINT and not done.err), done.err
    assert done.out == ""
    assert {p.name for p in host.workspace.iterdir()} <= {"big"}
    assert "coi-push" not in box.run("ls -A /root")
    assert "x" not in box.run("ls -A /root").split()
    wait_for(lambda: not host.pids(), timeout=10)


def test_the_container_stops_in_mid_pull(box: Box) -> None:
    host = box.host
    box.run("head -c 400M /dev/urandom > /root/big")
    process = host.popen("file", "pull", f"{box.name}:/root/big", "big")
    wait_for(lambda: list(host.workspace.glob(".coi-pull-*/data")))
    incus("stop", "--force", box.name).ok()
    done = host.result(process, 100)
    assert done.code == 1, done
    assert done.err.startswith("Error: ")
    assert list(host.workspace.iterdir()) == []


def test_full_disks(box: Box, as_root: None) -> None:
    host = box.host
    small = host.directory("ws/small")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=4M,uid={host.user.uid},mode=0755", "small", small],
        check=True,
    )
    try:
        (small / "mine").write_text("mine")
        box.run("mkdir /root/d; echo first > /root/d/a; head -c 20M /dev/urandom > /root/d/big")
        refused = box.pull("-r", f"{box.name}:/root/d", "small")
        assert refused.code == 1
        assert "too large" in refused.err
        full = box.pull("-r", "--max-size", "1G", f"{box.name}:/root/d", "small")
        assert full.code == 1
        assert "the disk is full" in full.err
        assert {p.name for p in small.iterdir()} == {"mine"}
    finally:
        subprocess.run(["umount", small], check=True)
    box.run("mkdir /mnt/small && mount -t tmpfs -o size=4M small /mnt/small")
    with host.write("ws/big", "").open("wb") as file:
        file.write(os.urandom(20 << 20))
    for target in ("/mnt/small/big", "/mnt/small"):
        full = box.push("big", f"{box.name}:{target}")
        assert full.code == 1
        assert "Hint: free space in the container" in full.err
        assert box.run("ls -A /mnt/small") == ""
