"""Bad input: each a clear error with its exit code and a hint, nothing left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from commandline import CommandLine, assert_error, fake_incus, real_incus

ID = "3f0c1a5e-8d2b-4c6f-9a71-5b2e8c0d4f13"
BACKGROUND = ("shell", "--background", "--network=open")

# What each command that talks to Incus needs to get that far.
TALKING = {
    "list": ("list",),
    "list json": ("list", "--format", "json"),
    "shell": BACKGROUND,
    "alone": ("--tool", "claude", *BACKGROUND),
    "resume": (*BACKGROUND, "--resume"),
    "persistent": (*BACKGROUND, "--persistent"),
    "slot": (*BACKGROUND, "--slot", "2"),
    "attach": ("attach",),
    "attach name": ("attach", "coi-1a2b3c4d-1"),
}


@pytest.fixture
def coi(tmp_path: Path) -> CommandLine:
    """No Incus on PATH."""
    return CommandLine(tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    return place


INSTALLED = {
    "no incus": (4, ("list",)),
    "no terminal": (2, ()),
    "no workspace": (3, ("-w", "none", *BACKGROUND)),
    "newline": (2, ("-w", "a\nb", *BACKGROUND)),
    "tool": (3, (*BACKGROUND, "--tool", "no-such")),
    "space": (2, ("shell", "--resume", ID)),
    "env": (2, (*BACKGROUND, "-e", "A=one\ntwo")),
    "limit": (2, (*BACKGROUND, "--limit", "memory=lots")),
    "no such limit": (2, (*BACKGROUND, "--limit", "swap=1GiB")),
    "usage": (2, ("--no-such-flag",)),
    "version": (0, ("version",)),
}


@pytest.mark.parametrize("case", INSTALLED)
def test_the_installed_command_does_the_same(case: str, coi: CommandLine, project: Path) -> None:
    """The tests below run `coi` in their own process; the console script is no different."""
    code, line = INSTALLED[case]
    done = coi.installed(*line, cwd=project)
    assert done.code == code
    assert done == coi(*line, cwd=project)


@pytest.fixture(autouse=True)
def nothing_left(coi: CommandLine) -> object:
    yield
    assert coi.left() == [] or set(coi.left()) <= {"coi/locks"}


@pytest.mark.parametrize("case", TALKING)
def test_no_incus(case: str, coi: CommandLine, project: Path) -> None:
    done = coi(*TALKING[case], cwd=project)
    assert_error(done, 4, "incus is not installed", hint="install.sh")


@pytest.mark.parametrize("case", TALKING)
def test_daemon_down(case: str, coi: CommandLine, project: Path, tmp_path: Path) -> None:
    path = fake_incus(tmp_path / "bin", [("*", "socket-missing")])
    done = coi(*TALKING[case], cwd=project, environment={"PATH": path})
    assert_error(done, 4, "daemon is not running", hint="systemctl start incus")
    assert "install.sh --start" in done.hint


def test_daemon_that_is_ending(coi: CommandLine, project: Path, tmp_path: Path) -> None:
    path = fake_incus(tmp_path / "bin", [("*", "daemon-stopping")])
    done = coi("container", "delete", "coi-run", cwd=project, environment={"PATH": path})
    assert_error(done, 4, "the Incus daemon is shutting down", hint="try again")


@pytest.mark.parametrize("state", ["missing", "stale"])
def test_daemon_down_with_the_real_client(
    state: str, coi: CommandLine, project: Path, tmp_path: Path
) -> None:
    path = real_incus()
    if path is None:
        pytest.skip("no incus client")
    place = tmp_path / "incus"
    place.mkdir()
    if state == "stale":
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(place / "unix.socket"))
    environment = {"PATH": path, "INCUS_DIR": str(place), "HOME": str(place)}
    done = coi("list", cwd=project, environment=environment)
    assert_error(done, 4, "daemon is not running", hint="start")


@pytest.mark.parametrize("case", TALKING)
def test_not_in_the_group(case: str, coi: CommandLine, project: Path, tmp_path: Path) -> None:
    path = fake_incus(tmp_path / "bin", [("*", "denied")])
    done = coi(*TALKING[case], cwd=project, environment={"PATH": path})
    assert_error(done, 4, "no permission", hint="sudo usermod -aG incus-admin")
    assert "newgrp" in done.hint


@pytest.mark.parametrize("arguments", [(), ("--slot", "2"), ("--persistent",)], ids=str)
@pytest.mark.parametrize("reason", ["create-alias-unknown", "create-fingerprint-unknown"])
def test_no_image(
    reason: str, arguments: tuple[str, ...], coi: CommandLine, project: Path, tmp_path: Path
) -> None:
    answers = [
        ("*POST*/1.0/instances", reason),
        ("*recursion=1", "instances-none"),
        ("*/1.0/instances/*", "instance-missing"),
    ]
    path = fake_incus(tmp_path / "bin", answers)
    done = coi(*BACKGROUND, *arguments, cwd=project, environment={"PATH": path})
    assert_error(done, 3, "cannot create", hint="coi build")


@pytest.mark.parametrize(
    "reason", ["create-pool-full", "create-unpack-full", "create-disk-missing"]
)
def test_a_create_that_fails(reason: str, coi: CommandLine, project: Path, tmp_path: Path) -> None:
    answers = [
        ("*POST*/1.0/instances", reason),
        ("*recursion=1", "instances-none"),
        ("*/1.0/instances/*", "instance-missing"),
    ]
    path = fake_incus(tmp_path / "bin", answers)
    done = coi(*BACKGROUND, cwd=project, environment={"PATH": path})
    assert_error(done, 1, "cannot create", hint="coi clean" if "full" in reason else "")
    assert len(done.err.splitlines()) < 30


def test_not_a_terminal(coi: CommandLine, project: Path) -> None:
    for line in ((), ("shell",), ("shell", "--debug"), ("--slot", "2")):
        assert_error(coi(*line, cwd=project), 2, "needs a terminal", hint="--background")


# -- the workspace ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("none", 3, "does not exist"),
        ("none/deeper", 3, "does not exist"),
        ("", 0, ""),
        ("file", 2, "not a directory"),
        ("a\nb", 2, "control character"),
        ("\x1b[31mred", 2, "control character"),
        ("dangling", 3, "does not exist"),
    ],
    ids=ascii,
)
def test_workspace(
    name: str, code: int, words: str, side: str, coi: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    if "\n" in name or "\x1b" in name:
        (tmp_path / name).mkdir()
    flag = ["-w", str(tmp_path / name) if name else ""]
    line = [*flag, *BACKGROUND] if side == "before" else [*BACKGROUND, *flag]
    done = coi(*line)
    if not name:  # as the current directory, which is the home: it holds nothing of coi's
        assert done.code != 0
        return
    assert_error(done, code, words)


def test_workspace_that_is_not_readable(coi: CommandLine, project: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root reads everything (tests/unit/test_workspace.py does it as another user)")
    project.chmod(0)
    try:
        assert_error(coi("-w", str(project), *BACKGROUND), 1, "not readable", hint="chmod")
    finally:
        project.chmod(0o700)


@pytest.mark.parametrize(
    "name", ["with spaces", "it's", 'say "x"', "-rf", "--help", "$HOME", "`id`", "ünï 😀", "a,b"]
)
def test_workspace_of_any_name_gets_as_far_as_incus(
    name: str, coi: CommandLine, tmp_path: Path
) -> None:
    place = tmp_path / name
    place.mkdir()
    assert_error(coi("-w", str(place), *BACKGROUND), 4, "incus is not installed")
    assert_error(coi(f"--workspace={name}", *BACKGROUND, cwd=tmp_path), 4, "not installed")


def test_workspace_that_holds_cois_data(coi: CommandLine) -> None:
    environment = {"COI_HOME": str(coi.home / ".coi")}
    for place in ("/", str(coi.home)):
        done = coi("-w", place, *BACKGROUND, environment=environment)
        assert_error(done, 5, "will not share", hint="cd into a project")


# -- configuration, tools, flags ----------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [("list",), BACKGROUND, ("config", "show"), ("attach",)], ids=str
)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[defaults\n", "line 1"),
        ("[defaults]\nimage = \n", "line 2"),
        ("[defaults]\nno_such_key = 1\n", "no_such_key"),
        ("[no_such_table]\na = 1\n", "no_such_table"),
        ("[defaults]\nmax_slots = 'ten'\n", "max_slots"),
        ("[defaults]\nmax_slots = 0\n", "max_slots"),
        ("\x00\x01", "line 1"),
    ],
    ids=ascii,
)
def test_malformed_configuration(
    text: str, words: str, command: tuple[str, ...], coi: CommandLine, project: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config" / "coi" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    done = coi(*command, cwd=project, environment={"XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert_error(done, 2, "")
    assert str(file) in done.err
    assert words in done.err


def test_malformed_project_file(coi: CommandLine, project: Path) -> None:
    (project / ".coi.toml").write_text("[defaults\n")
    done = coi(*BACKGROUND, cwd=project)
    assert_error(done, 2, "")
    assert str(project / ".coi.toml") in done.err


def test_unknown_tool(coi: CommandLine, project: Path) -> None:
    assert_error(coi(*BACKGROUND, "--tool", "no-such", cwd=project), 3, "no-such", hint="claude")


def test_unknown_profile(coi: CommandLine, project: Path) -> None:
    done = coi(*BACKGROUND, "--profile", "none", cwd=project)
    assert done.code in (2, 3)
    assert_error(done, done.code, "none")


@pytest.mark.parametrize("mode", ["none", "", "OPEN"])
def test_unknown_network_mode(mode: str, coi: CommandLine, project: Path) -> None:
    done = coi(*BACKGROUND, f"--network={mode}", cwd=project)
    assert_error(done, 2, "network")


def test_an_allowlist_that_cannot_be(coi: CommandLine, project: Path) -> None:
    line = (*BACKGROUND, "--network", "allowlist")
    done = coi(*line, cwd=project, environment={"COI_NETWORK_ALLOWED_DOMAINS": "*.x.org"})
    assert_error(done, 2, "*.x.org")


@pytest.mark.parametrize(
    "line",
    [
        ("shell", "--resume", ID),
        ("--resume", ID),
        ("--resume", ID, *BACKGROUND),
        (*BACKGROUND, "--resume", ID),
        (*BACKGROUND, "--continue", ID),
    ],
    ids=" ".join,
)
def test_resume_with_a_space(line: tuple[str, ...], coi: CommandLine, project: Path) -> None:
    done = coi(*line, cwd=project)
    assert_error(done, 2, f"did you mean --resume={ID}?")


@pytest.mark.parametrize("session", ["x", "..", "../../etc", ID[:-1], "latest"])
def test_resume_of_no_id(session: str, coi: CommandLine, project: Path) -> None:
    done = coi(*BACKGROUND, f"--resume={session}", cwd=project)
    assert_error(done, 2, "not a session id", hint="coi list --all")


def test_resume_of_an_unknown_session(coi: CommandLine, project: Path, tmp_path: Path) -> None:
    path = fake_incus(tmp_path / "bin", [("*", "instances-none")])
    done = coi(*BACKGROUND, f"--resume={ID}", cwd=project, environment={"PATH": path})
    assert_error(done, 3, ID, hint="coi list --all")
    done = coi(*BACKGROUND, "--resume", cwd=project, environment={"PATH": path})
    assert_error(done, 3, "no saved claude session of this workspace", hint="coi shell")


@pytest.mark.parametrize(
    "item",
    ["=x", "", "A B=1", "1A=x", "A-B=x", "A=one\ntwo", "A=\r", "NOT_SET_ON_THE_HOST"],
    ids=ascii,
)
@pytest.mark.parametrize("flag", ["-e", "--env"])
def test_env(item: str, flag: str, coi: CommandLine, project: Path) -> None:
    done = coi(*BACKGROUND, flag, item, cwd=project)
    assert_error(done, 2, "--env")
    assert "one" not in done.err, "a value may be a secret"


@pytest.mark.parametrize(
    ("item", "code", "words"),
    [
        ("", 2, "--mount"),
        ("/x", 2, "HOST:CONTAINER[:ro]"),
        ("{here}:data", 2, "absolute"),
        ("{here}:/workspace/x", 2, "must not cover"),
        ("{here}://workspace", 2, "must not cover"),
        ("{here}:/data:rx", 2, "HOST:CONTAINER[:ro]"),
        ("/no/such/place:/data", 3, "nothing to mount"),
    ],
)
def test_mount(item: str, code: int, words: str, coi: CommandLine, project: Path) -> None:
    done = coi(*BACKGROUND, "--mount", item.replace("{here}", str(project)), cwd=project)
    assert_error(done, code, words)


def test_storage(coi: CommandLine, project: Path) -> None:
    done = coi(*BACKGROUND, "--storage", str(project.parent / "none"), cwd=project)
    assert_error(done, 3, "nothing to mount", hint="mkdir")


@pytest.mark.parametrize("slot", ["-1", "x", "1.5", ""])
def test_slot(slot: str, coi: CommandLine, project: Path) -> None:
    assert_error(coi(*BACKGROUND, f"--slot={slot}", cwd=project), 2, "--slot", hint="--help")


def test_slot_beyond_the_last(coi: CommandLine, project: Path, tmp_path: Path) -> None:
    path = fake_incus(tmp_path / "bin", [("*", "instances-none")])
    done = coi(*BACKGROUND, "--slot", "11", cwd=project, environment={"PATH": path})
    assert_error(done, done.code, "slot 11", hint="1 to 10")
    assert done.code in (1, 2)


@pytest.mark.parametrize("prefix", ["Coi-", "a b", "x" * 40, "../", "-a"])
def test_container_prefix(prefix: str, coi: CommandLine, project: Path, tmp_path: Path) -> None:
    path = fake_incus(tmp_path / "bin", [("*", "instances-none")])
    environment = {"PATH": path, "COI_CONTAINER_PREFIX": prefix}
    done = coi("list", cwd=project, environment=environment)
    assert_error(done, 2, "COI_CONTAINER_PREFIX", hint="lower-case")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("lsit",), "did you mean 'list'?"),
        (("--no-such-flag",), "--no-such-flag"),
        (("shell", "--no-such-flag"), "--no-such-flag"),
        (("list", "--format", "yaml"), "invalid format"),
        (("shell", "--background", "--no-tmux"), "--background needs tmux"),
        (("-w",), "-w"),
    ],
    ids=str,
)
def test_wrong_usage(line: tuple[str, ...], words: str, coi: CommandLine, project: Path) -> None:
    assert_error(coi(*line, cwd=project), 2, words)


@pytest.mark.parametrize(
    "line", [("version",), ("--version",), ("--help",), ("completion", "bash")]
)
def test_these_need_no_incus(line: tuple[str, ...], coi: CommandLine) -> None:
    done = coi(*line)
    assert (done.code, done.err) == (0, "")
    assert done.out


def test_a_bug_of_coi(coi: CommandLine, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so; COI_DEBUG=1 shows where."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr("coi.cli.list.collect", broken)
    done = coi("list", cwd=project)
    assert done.code == 1
    assert done.err.startswith("Error: coi met something it does not handle: ZeroDivisionError")
    assert "by design" in done.err
    assert "Traceback" not in done.err
    assert "COI_DEBUG=1" in done.hint
    with pytest.raises(ZeroDivisionError):
        coi("list", cwd=project, environment={"COI_DEBUG": "1"})
