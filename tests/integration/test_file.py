"""``coi file push`` and ``pull`` on real containers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from filebox import Box, contents
from filebox import box as box

from coi.testing.host import Host
from coi.testing.machine import Result, incus

MEMORY = 100  # MiB that coi may take, whatever it copies


def tree(host: Host) -> Path:
    """A tree of the user's with a bit of everything."""
    top = host.directory("ws/src")
    host.write("ws/src/plain.txt", "plain\n")
    host.write("ws/src/-dash and space", "dash", 0o600)
    host.write("ws/src/bin/tool", "#!/bin/sh\n", 0o755)
    host.write("ws/src/ünïcödé/文件.txt", "ü")
    host.write("ws/src/.hidden/x", "hidden")
    host.write(f"ws/src/{'long' * 50}/{'name' * 50}", "long")
    host.directory("ws/src/empty")
    (top / "random").write_bytes(os.urandom(3_000_001))
    (top / "link").symlink_to("bin/tool")
    for path in (top / "random", top / "link"):
        os.chown(path, host.user.uid, host.user.gid, follow_symlinks=False)
    return top


def test_there_and_back(box: Box) -> None:
    host = box.host
    src = tree(host)
    pushed = box.push("-r", "./src", f"{box.name}:/workspace/new/src").ok()
    assert re.fullmatch(
        rf"Pushed directory \./src -> {box.name}:/workspace/new/src \(8 file\(s\), 2\.9 MiB\)\n",
        pushed.out,
    )
    assert pushed.err == ""
    inside = box.listing("/workspace/new")
    owner = f"{host.user.uid}:{host.user.gid}"
    assert {row[2] for row in inside.values()} == {owner}
    assert inside["src/bin/tool"] == ("f", "755", owner, "")
    assert inside["src/-dash and space"] == ("f", "600", owner, "")
    assert inside["src/link"] == ("l", "777", owner, "bin/tool")
    assert inside["src/empty"] == ("d", "755", owner, "")
    assert box.run("stat -c %u:%g /workspace/new").strip() == owner
    pulled = box.pull("-r", f"{box.name}:/workspace/new/src", "./saved/session-1/").ok()
    assert "Pulled directory" in pulled.out
    assert pulled.err == ""
    assert contents(host.workspace / "saved/session-1") == contents(src)
    assert {p.lstat().st_uid for p in (host.workspace / "saved").rglob("*")} == {host.user.uid}
    assert box.run("ls -A /workspace") == "new\n", "nothing of the push is left"


def test_files(box: Box) -> None:
    host = box.host
    host.write("ws/config.json", '{"a": 1}\n', 0o640)
    pushed = box.push("./config.json", f"{box.name}:/workspace/config.json").ok()
    assert pushed.out.startswith(f"Pushed file ./config.json -> {box.name}:/workspace/config.json")
    assert box.run("stat -c '%a %u' /workspace/config.json").split() == ["640", str(host.user.uid)]
    box.push("config.json", f"{box.name}:/workspace").ok()
    box.run("echo log > /workspace/build.log; echo -n other > '/workspace/$(id) \"x'")
    pulled = box.pull(f"{box.name}:/workspace/build.log", "./build.log").ok()
    assert pulled.out.startswith(f"Pulled file {box.name}:/workspace/build.log -> ./build.log")
    assert (host.workspace / "build.log").read_text() == "log\n"
    box.pull(f'{box.name}:/workspace/$(id) "x', ".").ok()
    assert (host.workspace / '$(id) "x').read_text() == "other"
    box.pull("-q", f"{box.name}:/workspace/build.log", "over").ok()
    box.run("echo again > /workspace/build.log")
    box.pull(f"{box.name}:/workspace/build.log", "over").ok()
    assert (host.workspace / "over").read_text() == "again\n"


def test_errors(box: Box) -> None:
    host = box.host
    src = tree(host)
    for args, code, words in [
        (("push", "src", f"{box.name}:/x"), 2, "is a directory"),
        (("pull", f"{box.name}:/etc", "x"), 2, "is a directory"),
        (("push", "src/plain.txt", box.name), 2, "container:path"),
        (("pull", box.name, "x"), 2, "container:path"),
        (("push", "src/plain.txt", f"{box.name}:x"), 2, "must be absolute"),
        (("push", "nothing", f"{box.name}:/x"), 3, "does not exist"),
        (("pull", f"{box.name}:/nothing", "x"), 3, "does not exist"),
        (("push", "src/plain.txt", f"{host.prefix}none:/x"), 3, "not found"),
        (("pull", f"{host.prefix}none:/x", "x"), 3, "not found"),
        (("pull", f"{box.name}:/dev/null", "x"), 1, "neither a file nor a directory"),
        (("pull", f"{box.name}:/etc/hostname", "no/such/../x"), 2, "does not exist"),
        (("push", "src/plain.txt", f"{box.name}:/etc/hostname/x"), 1, "in the way"),
        (("push", "src/plain.txt", f"{box.name}:/proc/x"), 1, "cannot use"),
        (("pull", "--max-size", "lots", f"{box.name}:/etc/hostname", "x"), 2, "not a size"),
        (("pull", "-r", "--max-files", "5", f"{box.name}:/etc", "x"), 1, "more than 5 files"),
        (("pull", "--max-size", "1", f"{box.name}:/etc/hostname", "x"), 1, "too large"),
        (("push",), 2, "Missing argument"),
        ((), 2, "needs a command"),
    ]:
        done = host.coi("file", *args)
        assert done.code == code, (args, done)
        assert words in done.err, (args, done.err)
        assert done.out == ""
        assert "Usage" not in done.err
        assert "Traceback" not in done.err
    assert "-r" in box.push("src", f"{box.name}:/x").err
    assert {p.name for p in host.workspace.iterdir()} == {src.name}
    incus("stop", "--force", box.name).ok()
    for done in (
        box.push("src/plain.txt", f"{box.name}:/x"),
        box.pull(f"{box.name}:/etc/hostname", "x"),
    ):
        assert done.code == 1
        assert f"{box.name} is not running" in done.err
        assert "Hint:" in done.err


def peak(host: Host, *args: str) -> tuple[int, float, Result]:
    """Peak memory in MiB of a command, its seconds, and its result."""
    script = (
        "import re, sys\n"
        "from coi.cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        "status = open('/proc/self/status').read()\n"
        "print('VmHWM', int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)\n"
        "sys.exit(code)\n"
    )
    began = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", script, *args],
        cwd=host.workspace, env=host.environ, stdin=subprocess.DEVNULL, capture_output=True,
        preexec_fn=host.user.become, timeout=280, check=False, text=True,
    )  # fmt: skip
    seconds = time.monotonic() - began
    result = Result(args, process.returncode, process.stdout, process.stderr).ok()
    return int(result.out.split("VmHWM")[1]), seconds, result


def test_many_files(box: Box) -> None:
    """COI_TEST_FILES=100000 for as many as are promised."""
    count = int(os.environ.get("COI_TEST_FILES", "20000"))
    host = box.host
    for number in range(count):
        if number % 500 == 0:
            host.directory(f"ws/many/{number // 500}")
        (host.workspace / f"many/{number // 500}/{number}").write_bytes(b"%d" % number)
    up, up_seconds, _ = peak(host, "file", "push", "-r", "many", f"{box.name}:/many")
    assert box.run("find /many -type f | wc -l").strip() == str(count)
    down, down_seconds, _ = peak(host, "file", "pull", "-r", f"{box.name}:/many", "got")
    assert contents(host.workspace / "got") == contents(host.workspace / "many")
    print(f"push {up_seconds:.1f} s {up} MiB, pull {down_seconds:.1f} s {down} MiB")
    assert up < MEMORY
    assert down < MEMORY


def test_a_large_sparse_file(box: Box) -> None:
    host = box.host
    path = host.write("ws/sparse", "begin")
    with path.open("r+b") as file:
        file.seek(5 << 30)
        file.write(os.urandom(1 << 20))
        file.truncate(10 << 30)
    up, up_seconds, _ = peak(host, "file", "push", "sparse", f"{box.name}:/root/sparse")
    assert box.run("stat -c %s /root/sparse").strip() == str(10 << 30)
    assert int(box.run("du -k /root/sparse").split()[0]) < 4096
    down, down_seconds, _ = peak(host, "file", "pull", f"{box.name}:/root/sparse", "back")
    back = host.workspace / "back"
    assert back.stat().st_size == 10 << 30
    assert back.stat().st_blocks * 512 < 4 << 20
    with back.open("rb") as new, path.open("rb") as old:
        for offset in (0, 5 << 30, (10 << 30) - 1000):
            size = (1 << 20) + 1000
            assert os.pread(new.fileno(), size, offset) == os.pread(old.fileno(), size, offset)
    assert max(up, down) < MEMORY
    assert max(up_seconds, down_seconds) < 20
    box.run("truncate -s 1T /root/giant")
    refused = box.pull(f"{box.name}:/root/giant", "giant")
    assert refused.code == 1
    assert "too large" in refused.err
    assert "--max-size" in refused.err
    box.pull("--max-size", "2T", f"{box.name}:/root/giant", "giant").ok()
    assert (host.workspace / "giant").stat().st_size == 1 << 40


def test_large_files_stream(box: Box) -> None:
    host = box.host
    with host.write("ws/big", "").open("wb") as file:
        for _ in range(256):
            file.write(os.urandom(1 << 20))
    up, up_seconds, _ = peak(host, "file", "push", "big", f"{box.name}:/root/big")
    down, down_seconds, _ = peak(host, "file", "pull", f"{box.name}:/root/big", "back")
    assert subprocess.run(["cmp", host.workspace / "big", host.workspace / "back"]).returncode == 0
    print(
        f"push {256 / up_seconds:.0f} MiB/s, {up} MiB; "
        f"pull {256 / down_seconds:.0f} MiB/s, {down} MiB"
    )
    assert max(up, down) < MEMORY


def test_progress_is_for_terminals(box: Box) -> None:
    box.run("head -c 400M /dev/urandom > /root/big")
    screen = box.host.screen("file", "pull", f"{box.name}:/root/big", "big")
    screen.expect_log(r"MiB, \d+ file\(s\), .*/s")
    assert screen.end() == 0
    assert screen.text.strip().startswith("Pulled file"), "the last line replaces the progress"
    quiet = box.pull(f"{box.name}:/root/big", "again").ok()
    assert quiet.err == ""
    assert json.dumps(quiet.out).count("\\n") == 1


def test_no_session_means_root(host: Host) -> None:
    name = f"{host.prefix}plain"
    incus("launch", host.image, name, "--quiet").ok()
    host.write("ws/f", "x")
    host.coi("file", "push", "f", f"{name}:/workspace/f").ok()
    done = incus("exec", name, "-T", "--", "stat", "-c", "%u:%g", "/workspace/f").ok()
    assert done.out.strip() == "0:0"
    host.drop()
