"""Protected paths: what a session may not leave for programs of the host to run.

Each attack has its control: with the guard off, git of the host runs what was planted.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from bench.budgets import calls
from dummy import background, booted
from prompting import obedient

from coi.testing.host import Host
from coi.testing.machine import Result, incus, query, wait_for

ONE = {"COI_PROTECT_PATHS": ".git/config"}
OFF = {"COI_PROTECT_ENABLED": "false"}
PLANT = r"""
cd /workspace
umount .git/hooks .git/config .idea
printf '#!/bin/sh\ntouch %s\n' CANARY >.git/hooks/pre-commit; chmod 755 .git/hooks/pre-commit
git config --file .git/config core.fsmonitor 'touch CANARY; false'
mkdir .vscode; echo '{}' >.vscode/tasks.json; echo changed >.idea/x
"""
PLANTED = [".git/config", ".git/hooks/pre-commit", ".idea/x", ".vscode"]


def git(host: Host, *args: str, ok: bool = True) -> str:
    """git as a user of the host types it."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@example")
    done = subprocess.run(
        ["git", *identity, *args], cwd=host.workspace, capture_output=True, text=True,
        check=ok, preexec_fn=host.user.become, env={**host.environ, "GIT_PAGER": "cat"},
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def repository(host: Host) -> Path:
    """A workspace with a commit, and a directory of an editor."""
    git(host, "init", "-q", ".")
    git(host, "config", "user.name", "a")
    git(host, "config", "user.email", "a@example")
    host.write("ws/file", "x\n")
    host.write("ws/.idea/x", "mine\n")
    git(host, "add", ".")
    git(host, "commit", "-q", "-m", "first")
    return host.workspace


def canary(host: Host) -> Path:
    return host.root / "canary"


def planting(host: Host) -> str:
    return PLANT.replace("CANARY", str(canary(host)))


def fires(host: Host) -> bool:
    """Whether git of the host runs what was planted."""
    canary(host).unlink(missing_ok=True)
    git(host, "commit", "-q", "--allow-empty", "-m", "of the host", ok=False)
    git(host, "status", ok=False)
    return canary(host).exists()


def reported(done: Result | str) -> list[str]:
    """The paths that the report names."""
    text = done if isinstance(done, str) else done.err
    return re.findall(r"^  (\S+) \((?:new|changed|gone)", text, re.M)


def swept(host: Host) -> Result:
    """``coi list``, until nothing is left to compare; what all of them said."""
    said = ""

    def over() -> bool:
        nonlocal said
        said += host.coi("list").ok().err
        return not list((host.coi_home / "protect").glob("*/record.json"))

    wait_for(over, timeout=30, what=lambda: f"the end of {host.instances()}: {said}")
    return Result((), 0, "", said)


def poweroff(host: Host) -> None:
    """The container is powered off by whoever is inside; nobody attends to it."""
    booted(host.instance())  # before that it does not always hear it
    incus("exec", host.instance(), "-T", "--", "systemctl", "poweroff")


def test_run_cannot_plant_what_the_host_runs(host: Host, repository: Path) -> None:
    seen = "cat /proc/mounts; "
    tries = (
        "sudo sh -c 'echo x >.git/hooks/pre-commit'; echo $?; git config a.b c; echo $?; "
        "sudo rm -r .git/hooks; echo $?; sudo mv .git/config x; echo $?; "
        "echo y >>file; git commit -qam inside; echo $?; git log --format=%s"
    )
    done = host.coi("run", "-v", seen + tries).ok()
    assert len(done.incus_calls) == calls("run"), "what is protected costs none"
    lines = done.out.splitlines()
    mounts = {row.split()[1]: row.split()[3] for row in lines if " /workspace/" in row}
    assert set(mounts) == {f"/workspace/{p}" for p in (".git/hooks", ".git/config", ".idea")}
    assert all(options.startswith("ro,") for options in mounts.values())
    answers = [line for line in lines if " " not in line]
    assert "0" not in answers[:4], done.err
    assert answers[4:] == ["0", "inside", "first"], "what commits need is not protected"
    assert "Read-only file system" in done.err
    assert reported(done) == []
    assert not (host.coi_home / "quarantine").exists()

    # root inside takes the mounts away: the host looks for itself
    before = (repository / ".git/config").read_bytes()
    done = host.coi("run", "-q", f'sudo sh -c "{planting(host)}"').ok()
    assert reported(done) == PLANTED
    assert not fires(host)
    assert (repository / ".git/config").read_bytes() == before
    assert (repository / ".idea/x").read_text() == "mine\n"
    assert not (repository / ".vscode").exists()
    (rows,) = [host.coi("protect", "list", "--format", "json").ok().json]
    assert [item["path"] for item in rows[0]["items"]] == PLANTED
    assert "+\tfsmonitor = " in host.coi("protect", "diff", rows[0]["id"]).ok().out
    assert Path(rows[0]["path"]).parent == host.coi_home / "quarantine"
    for path in (host.coi_home / "quarantine", Path(rows[0]["path"])):
        assert path.stat().st_mode & 0o777 == 0o700

    # it was the user, who wants it back; and then not
    host.coi("protect", "keep", rows[0]["id"], ".vscode").ok()
    assert (repository / ".vscode/tasks.json").read_text() == "{}\n"
    host.coi("protect", "drop", rows[0]["id"]).ok()
    assert host.coi("protect", "diff", rows[0]["id"]).code == 3
    assert not (host.coi_home / "protect").exists()


def test_the_attack_works_without(host: Host, repository: Path) -> None:
    """The control."""
    done = host.coi("run", f'sudo sh -c "{planting(host)}"', environ=OFF).ok()
    assert reported(done) == []
    assert (repository / ".vscode").exists()
    assert fires(host)


def test_a_repository_cannot_switch_it_off(host: Host, repository: Path) -> None:
    host.write("ws/.coi.toml", '[protect]\nenabled = false\npaths = []\non_change = "report"\n')
    done = host.coi("run", f'sudo sh -c "{planting(host)}"').ok()
    assert reported(done) == PLANTED
    assert not fires(host)
    host.coi("trust", "--yes").ok()
    done = host.coi("run", f'sudo sh -c "{planting(host)}"').ok()
    assert reported(done) == []
    assert fires(host), "approved, it does"


def test_one_that_never_stops_writing(host: Host, repository: Path) -> None:
    """Its last write is before the host looks, however it hurries: nothing of it lives then."""
    hook = repository / ".git/hooks/pre-commit"
    loop = "while :; do echo x >/workspace/.git/hooks/pre-commit; done"
    script = f"umount /workspace/.git/hooks; setsid sh -c '{loop}' >/dev/null 2>&1 & sleep 0.3"
    for _ in range(3):
        done = host.coi("run", f'sudo sh -c "{script}"').ok()
        assert reported(done) == [".git/hooks/pre-commit"]
        assert not hook.exists()
    host.settled()
    assert not hook.exists()


@pytest.mark.parametrize("end", ["shutdown", "kill", "incus stop", "incus delete", "coi killed"])
def test_however_a_session_ends(host: Host, repository: Path, end: str) -> None:
    background(host)
    name = host.instance()
    host.inside(planting(host), ok=False)
    assert fires(host), "while it runs, root inside can"
    canary(host).unlink()
    if end == "shutdown":
        done = host.coi("shutdown", name)
    elif end == "kill":
        done = host.coi("kill", name)
    elif end == "coi killed":
        poweroff(host)
        done = swept(host)
        assert "Recovering session" in done.err
    else:
        incus("stop" if end == "incus stop" else "delete", "--force", name).ok()
        done = swept(host)
    assert reported(done.ok()) == PLANTED
    assert not fires(host)
    host.settled()
    assert not (host.coi_home / "protect").exists()


def test_a_prompt_ends_like_a_session(host: Host, repository: Path) -> None:
    obedient(host)
    done = host.coi("run", "--prompt", f'sudo sh -c "{planting(host)}"').ok()
    assert reported(done) == PLANTED
    assert not fires(host)
    host.settled()


# Once more at every boot: the session's state is read in a boot of its own.
INIT = r"""
mv /sbin/init /sbin/init.real
cat >/sbin/init <<'END'
#!/bin/sh
umount /workspace/.git/hooks
printf '#!/bin/sh\ntouch %s\n' CANARY >/workspace/.git/hooks/pre-commit
chmod 755 /workspace/.git/hooks/pre-commit
exec /sbin/init.real
END
chmod 755 /sbin/init
"""


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_what_boots_when_the_state_is_read(host: Host, repository: Path, guarded: bool) -> None:
    environ = {} if guarded else OFF
    host.coi("shell", "--background", "--persistent", environ=environ).ok()
    host.inside(INIT.replace("CANARY", str(canary(host))), ok=False)
    poweroff(host)
    kept = ""

    def saved() -> bool:
        nonlocal kept
        kept += host.coi("list").ok().err
        return "Container stopped and kept" in kept

    wait_for(saved, timeout=30, what=lambda: kept)
    assert fires(host) is not guarded
    row = query(f"/1.0/instances/{host.instance()}")
    assert row["devices"]["workspace"]["source"] == str(repository), "it has its workspace again"

    # it goes on, by itself and with coi, and the guard with it
    (repository / ".git/hooks/pre-commit").unlink(missing_ok=True)
    host.coi("container", "start", host.instance(), environ=environ).ok()
    time.sleep(1)
    done = host.coi("container", "stop", "--force", host.instance()).ok()
    assert reported(done) == ([".git/hooks/pre-commit"] if guarded else [])
    assert fires(host) is not guarded
    (repository / ".git/hooks/pre-commit").unlink(missing_ok=True)
    done = host.coi("shell", "--background", "--persistent", environ=environ).ok()
    assert "Restarted persistent container" in done.err
    assert ("/workspace/.git/config ro" in re.sub(r" \w+ ro", " ro", _mounts(host))) is guarded
    done = host.coi("shutdown", host.instance()).ok()
    assert fires(host) is not guarded
    host.settled()


def _mounts(host: Host) -> str:
    return host.inside("awk '{print $2, $3, $4}' /proc/mounts | sed 's/,.*//'")


def test_links_lead_nowhere(host: Host, repository: Path) -> None:
    """The hooks are a link to the user's keys, in a repository that was cloned so."""
    host.write("home/.ssh/id", "SECRET\n", 0o600)
    (repository / ".git/hooks").rename(repository / ".git/before")
    for name in (".git/hooks", ".husky"):
        (repository / name).symlink_to(host.home / ".ssh")
        os.chown(repository / name, host.user.uid, host.user.gid, follow_symlinks=False)
    done = host.coi("run", "cat .git/hooks/id .husky/id; grep -c SECRET -r /workspace").out
    assert "SECRET" not in done
    assert not [p for p in host.coi_home.rglob("*") if p.is_file() and b"SECRET" in p.read_bytes()]
    link = f"ln -sfn {host.root}/evil /workspace/.git/hooks; rm /workspace/.husky"
    done_ = host.coi("run", f'sudo sh -c "{link}"').ok()
    assert reported(done_) == [".git/hooks", ".husky"]
    assert (repository / ".git/hooks").readlink() == host.home / ".ssh"
    assert (host.home / ".ssh/id").read_text() == "SECRET\n"


def test_a_path_that_is_swapped_is_not_mounted(host: Host, repository: Path) -> None:
    """Root inside puts a link to the user's keys in the place of the hooks, and powers off: the
    boot in which the state is read, and the next session, mount copies of coi's own."""
    host.write("home/.ssh/id", "SECRET\n", 0o600)
    host.coi("shell", "--background", "--persistent").ok()
    booted(host.instance())  # before that it does not always hear a power-off
    host.inside(
        "cd /workspace/.git; umount hooks; mv hooks x; "
        f"ln -s {host.home}/.ssh hooks; systemctl poweroff",
        ok=False,
    )
    swept(host)
    done = host.coi("shell", "--background", "--persistent").ok()
    assert "Restarted persistent container" in done.err
    assert "SECRET" not in host.inside("grep -rs SECRET /workspace; true")
    assert (repository / ".git/hooks").is_dir()
    for device in query(f"/1.0/instances/{host.instance()}")["devices"].values():
        assert not device.get("source", "").startswith(f"{repository}/"), "only the whole"
    host.coi("kill", host.instance()).ok()


def test_two_sessions_of_one_workspace(host: Host, repository: Path) -> None:
    background(host)
    background(host)
    host.inside(planting(host), ok=False)
    done = host.coi("shutdown", host.instance(2)).ok()
    assert reported(done) == PLANTED
    assert not fires(host)
    host.inside(planting(host).replace("umount", "true"), ok=False)
    done = host.coi("shutdown", host.instance(1)).ok()
    assert reported(done) == PLANTED
    assert not fires(host)
    host.settled()


def test_work_of_the_host_meanwhile(host: Host, repository: Path) -> None:
    """A branch that tracks one of a remote is no attack; a new remote is asked about."""
    git(host, "remote", "add", "origin", "https://example.org/x.git")
    background(host)
    git(host, "config", "branch.main.remote", "origin")
    git(host, "config", "branch.main.merge", "refs/heads/main")
    done = host.coi("shutdown", host.instance()).ok()
    assert reported(done) == []
    assert "main" in git(host, "config", "branch.main.merge")
    host.settled()
    background(host)
    git(host, "remote", "add", "other", "https://example.org/y.git")
    done = host.coi("shutdown", host.instance(), "-q").ok()
    assert reported(done) == [".git/config"], "--quiet does not hide it"
    found = re.search(r"coi protect keep (\S+)", done.err)
    assert found
    host.coi("protect", "keep", found[1]).ok()
    assert git(host, "remote").split() == ["origin", "other"]
    host.settled()


def test_what_cannot_be_kept_is_refused(host: Host, repository: Path) -> None:
    for number in range(4100):
        (repository / ".vscode").mkdir(exist_ok=True)
        (repository / f".vscode/{number}").touch()
    done = host.coi("run", "true")
    assert done.code == 5
    assert "cannot protect .vscode" in done.err
    assert not host.instances()
    background_ = host.coi("shell", "--background")
    assert (background_.code, host.instances()) == (5, {})
    assert host.coi("run", "--image", "coi-none", "true", environ=ONE).code == 3
    assert not (host.coi_home / "protect").exists(), "nothing is left to compare"
    host.coi("run", "true", environ=ONE).ok()


COMMANDS = [
    ["run", "git", "--version"], ["shell", "--background"], ["list", "--all"], ["info"],
    ["attach"], ["tmux", "list"], ["tmux", "capture", "NAME"], ["persist", "NAME"],
    ["container", "exec", "NAME", "--", "true"], ["file", "pull", "NAME:/etc/hostname", "got"],
    ["file", "push", "file", "NAME:/tmp/x"], ["file", "pull", "-r", "NAME:/workspace", "whole"],
    ["network", "status"], ["config", "show", "--origin"], ["config", "path"], ["trust", "--yes"],
    ["trust", "--list"], ["tool", "list"], ["tool", "info", "claude"], ["image", "list"],
    ["version"], ["help"], ["protect", "list"], ["shutdown", "NAME"], ["info"],
    ["run", "--prompt", "hello"], ["kill", "NAME"], ["clean", "--all", "--force"],
    ["tool", "new", "parrot"], ["completion", "bash"],
]  # fmt: skip


def test_no_command_runs_git(host: Host, repository: Path) -> None:
    """Whatever a repository's git configuration plants is never run by coi: git is not."""
    mark = canary(host)
    evil = host.write("evil", f'#!/bin/sh\necho "$0 $@" >>{mark}\n', 0o755)
    fake = host.write("bin/git", f"#!/bin/sh\necho git >>{mark}\n", 0o755).parent
    hooks = host.directory("ws/.git/evil")
    for name in ("pre-commit", "post-checkout", "post-index-change", "pre-push", "post-commit"):
        host.write(f"ws/.git/evil/{name}", f"#!/bin/sh\n{evil} {name}\n", 0o755)
    for key, value in {
        "core.fsmonitor": evil, "core.hooksPath": hooks, "core.sshCommand": evil,
        "core.pager": evil, "core.editor": evil, "filter.x.clean": evil, "filter.x.smudge": evil,
        "filter.x.process": evil, "diff.external": evil, "alias.version": f"!{evil}",
        "credential.helper": f"!{evil}", "gpg.program": evil,
    }.items():  # fmt: skip
        git(host, "config", key, str(value))
    host.write("ws/.git/info/attributes", "* filter=x diff=x\n")
    host.write("ws/.coi.toml", "[defaults]\nmax_slots = 2\n")
    host.write("ws/file", "changed\n")
    environ = {"PATH": f"{fake}:{host.environ['PATH']}"}
    for command in COMMANDS:
        name = host.instance()
        host.coi(*(word.replace("NAME", name) for word in command), environ=environ)
        assert not mark.exists(), (command, mark.read_text())
    git(host, "status", ok=False)
    assert mark.exists(), "git of the host runs it"
    host.settled()


def test_keeping_takes_little_time(host: Host, repository: Path) -> None:
    """The start's own part, for a repository as they are."""
    script = (
        "import time; from pathlib import Path\n"
        "from coi.config.model import Protect\n"
        "from coi.workspace.protect import plan, take\n"
        "from coi.workspace.tree import Tree\n"
        "times = []\n"
        "for _ in range(20):\n"
        "    began = time.perf_counter()\n"
        "    with Tree(Path('.').resolve()) as tree:\n"
        "        take(tree, plan(tree, Protect.paths, named=True))\n"
        "    times.append(time.perf_counter() - began)\n"
        "print(sorted(times)[10])\n"
    )
    import sys

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.01, "seconds"
