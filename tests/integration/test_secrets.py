"""No credential and no --env value is where others on the host can see it."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dummy import power_off, start

from coi.testing.host import Host
from coi.testing.machine import incus

ENV = "canary-env-5c1d9e07"
CREDENTIAL = "canary-credential-83b2f6aa"
HOST = "canary-host-environment-41f0"


@contextmanager
def watched(*, containers: bool = True) -> Iterator[set[bytes]]:
    """Every command line on this machine, sampled as fast as it goes.

    Args:
        containers: those of processes inside containers, too.
    """
    seen: set[bytes] = set()
    stop = threading.Event()
    ours = Path("/proc/self/ns/pid").readlink()

    def sample() -> None:
        while not stop.is_set():
            for entry in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if containers or (entry / "ns/pid").readlink() == ours:
                        seen.add((entry / "cmdline").read_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


# Where people keep what no tool declares.
STORES = (
    ".ssh/id_ed25519", ".aws/credentials", ".git-credentials", ".netrc", ".config/gh/hosts.yml",
)  # fmt: skip


def test_canaries(host: Host) -> None:
    host.write("home/.dummy/credentials", CREDENTIAL, 0o600)
    for store in STORES:
        host.write(f"home/{store}", f"{HOST}\n", 0o600)
    with watched() as seen:
        screen = start(host, "-e", "PLAIN=seen-in-argv", environ={"CANARY_HOST": HOST})
        screen.line("env PLAIN")
        screen.expect("seen-in-argv")
        name = host.instance()
        shown = incus("config", "show", "--expanded", name).ok().out
        raw = incus("query", f"/1.0/instances/{name}?recursion=1").ok().out
        assert "user.coi.session-id" in shown, "the look is a real one"
        screen.line("env CANARY_HOST")
        screen.expect(r"dummy> env CANARY_HOST")
        everywhere = host.inside(
            f"echo {HOST} >/var/tmp/planted; cat /proc/[0-9]*/environ | tr '\\0' '\\n'; "
            "su code -c 'TMUX_TMPDIR=$HOME/.coi tmux show-environment -g'; "
            f"grep -rls -e {HOST} /home /root /tmp /run /etc /var/lib /var/tmp /opt || true"
        )
        assert HOST not in everywhere
        assert everywhere.splitlines()[-1] == "/var/tmp/planted", "the look is a real one"
        assert len([line for line in everywhere.splitlines() if line.startswith("/var/tmp/")]) == 1
        assert "HOME=/home/code" in everywhere, "the look is a real one"
        assert "IS_SANDBOX=1" in everywhere
        files = host.inside(
            "cd /home/code/.dummy && stat -c '%a %U %n' credentials && cat credentials"
        )
        assert files == f"600 code credentials\n{CREDENTIAL}"
        power_off(screen)
        screen.ended()
    # The user's own command line is the user's; what coi starts must not repeat it.
    others = [line for line in seen if b"incus" in line.split(b"\0")[0] or b"setpriv" in line]
    assert others, "the sampler saw the incus client"
    for line in others:
        assert b"seen-in-argv" not in line
        assert CREDENTIAL.encode() not in line
    for text in (shown, raw):
        assert "seen-in-argv" not in text
        assert HOST not in text
        assert CREDENTIAL not in text
    (saved,) = host.saved()
    state = host.state_file(saved["id"])
    with tarfile.open(state) as tar:
        names = tar.getnames()
    assert ".dummy/credentials" not in names
    assert CREDENTIAL.encode() not in state.read_bytes()


def test_env_by_name_is_in_no_command_line(host: Host) -> None:
    with watched() as seen:
        screen = start(host, "-e", "FROM_HOST", environ={"FROM_HOST": ENV})
        screen.line("env FROM_HOST")
        screen.expect(ENV)
        shown = incus("config", "show", "--expanded", host.instance()).ok().out
        power_off(screen)
        screen.ended()
    assert not [line for line in seen if ENV.encode() in line]
    assert ENV not in shown


def test_credentials_come_afresh_and_can_be_left_out(host: Host) -> None:
    host.write("home/.dummy/credentials", "first", 0o600)
    screen = start(host)
    screen.line("remember CODE-PLUM")
    screen.expect("you said")
    power_off(screen)
    screen.ended()
    host.settled()
    host.write("home/.dummy/credentials", "second", 0o600)
    resumed = start(host, "--resume")
    assert host.inside("cat /home/code/.dummy/credentials") == "second"
    power_off(resumed)
    resumed.ended()
    host.settled()
    host.config(
        f'[defaults]\nimage = "{host.image}"\nmount_claude_config = false\n[tool]\nname = "dummy"\n'
    )
    without = start(host, "--resume")
    assert host.inside("ls /home/code/.dummy/credentials 2>&1", ok=False).strip() != ""
    assert "second" not in host.inside("cat /home/code/.dummy/* 2>/dev/null", ok=False)
    power_off(without)
    without.ended()


def test_claude_credentials(host: Host) -> None:
    host.write("home/.claude/.credentials.json", json.dumps({"claudeAiOauth": {"a": CREDENTIAL}}))
    host.write(
        "home/.claude.json",
        json.dumps({"theme": "light", "projects": {"/home/me/secret-project": {"history": ["x"]}}}),
    )
    host.coi("shell", "--background", "--tool", "claude").ok()
    inside = host.inside(
        "cd /home/code && stat -c '%a %U' .claude/.credentials.json && "
        "cat .claude/.credentials.json .claude.json"
    )
    assert inside.startswith("600 code\n")
    assert CREDENTIAL in inside
    assert "secret-project" not in inside
    assert '"theme": "light"' in inside or '"theme":"light"' in inside
    assert "hasCompletedOnboarding" in inside
    host.coi("kill", host.instance()).ok()


_LOOK = f"""
set +e
echo {CREDENTIAL} >/root/planted # what the look is to find
env X=canary-planted sleep 60 &
until grep -qs sleep /proc/$!/cmdline; do :; done
echo the look begins
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -a -e '=[c]anary-'
grep -rlas -e {HOST} -e {CREDENTIAL} /etc /home /root /run /tmp /var/tmp /var/lib /opt /usr/local |
  grep -v coi-custom
echo the look is over
kill $!
exit 7
"""


def test_canaries_are_not_in_an_image(host: Host) -> None:
    """A secret of the host's is neither in what becomes an image nor in a command line."""
    for place in (*STORES, ".dummy/credentials"):
        host.write(f"home/{place}", f"{CREDENTIAL} {HOST}\n", 0o600)
    script = host.write("look.sh", _LOOK.replace(HOST, "$A$B").replace(CREDENTIAL, "$C$D"))
    text = f"A={HOST[:9]} B={HOST[9:]} C={CREDENTIAL[:9]} D={CREDENTIAL[9:]}\n"
    script.write_text(text + script.read_text())
    with watched(containers=False) as seen:
        done = host.coi(
            "build", "custom", f"{host.prefix}x", "--script", str(script), "--base", host.image,
            environ={"CANARY_HOST": HOST, "AWS_SECRET_ACCESS_KEY": CREDENTIAL}, timeout=150,
        )  # fmt: skip
    assert done.code == 1, done.err
    (log,) = (host.coi_home / "logs").glob("build-*.log")
    text = log.read_text()
    found = text.partition("the look begins\n")[2].partition("the look is over\n")[0]
    assert "the look is over" in text
    assert found.splitlines() == ["X=canary-planted", "/root/planted"], text
    assert log.stat().st_mode & 0o777 == 0o600
    mine = f"{host.prefix}x".encode()
    assert not [line for line in seen if HOST.encode() in line and mine not in line]
    assert not [line for line in seen if CREDENTIAL.encode() in line]
