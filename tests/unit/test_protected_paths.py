"""Protected paths on the host: what is looked at, what counts as a change, what is put back."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coi.config.model import Protect
from coi.config.text import printable
from coi.errors import CoiError, NotFoundError
from coi.session.baseline import Kept, opened, records
from coi.session.settlement import all_of, find, keep, settled
from coi.workspace import fingerprint
from coi.workspace.protect import copies, lay, plan, take
from coi.workspace.tree import Tree

PATHS = Protect().paths
HOOK = "#!/bin/sh\necho planted\n"


def git(*args: str, cwd: Path) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example")
    allow = ("-c", "protocol.file.allow=always")
    done = subprocess.run(
        ["git", *identity, *allow, *args], cwd=cwd, check=True, capture_output=True, text=True
    )
    return done.stdout


class World:
    """A workspace, coi's home, and a session that begins and ends."""

    def __init__(self, root: Path) -> None:
        self.work = root / "ws"
        self.home = root / "coi"
        self.work.mkdir()
        self.home.mkdir(mode=0o700)

    def repository(self, at: str = ".") -> Path:
        place = self.work / at
        place.mkdir(parents=True, exist_ok=True)
        git("init", "-q", ".", cwd=place)
        git("commit", "-q", "--allow-empty", "-m", "x", cwd=place)
        return place

    def begin(self, session: str = "one", paths: tuple[str, ...] = PATHS) -> None:
        with opened(self.home, self.work) as record, Tree(self.work) as tree:
            chosen = plan(tree, paths, named=True)
            entries, unread = take(tree, chosen)
            assert not unread
            record.extend(chosen, entries, "restore", paths)
            record.sessions[session] = Kept(session, "local", "default")
            record.write()

    def end(self, session: str = "one") -> list[str]:
        with opened(self.home, self.work) as record:
            lines = settled(self.home, record, session)
            record.forget(session)
        return [line.strip() for line in lines]

    def changed(self) -> list[str]:
        """The paths that the end of the session names."""
        lines = self.end()
        return [line.split(" (")[0] for line in lines if " (" in line and "Warning" not in line]

    def all(self) -> dict[str, str]:
        """Everything in the workspace but the objects of repositories, for comparison."""
        found = {}
        for path in sorted(self.work.rglob("*")):
            name = str(path.relative_to(self.work))
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_file():
                found[name] = f"{stat.S_IMODE(path.stat().st_mode) & 0o111:o} {path.read_bytes()!r}"
            else:
                found[name] = "directory"
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def plant(path: Path, text: str = HOOK) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def to_link(path: Path, target: Path) -> None:
    """A link in the place of a directory, which goes beside it."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        path.rename(path.with_name("before"))
    path.symlink_to(target)


def _own_repository(place: Path) -> None:
    (place / ".git").unlink()
    git("init", "-q", ".", cwd=place)
    plant(place / ".git/config", "[core]\n\tfsmonitor = evil\n")


Attack = Callable[[Path], object]
ATTACKS: dict[str, tuple[Attack, str]] = {
    "a hook": (lambda w: plant(w / ".git/hooks/pre-commit"), ".git/hooks/pre-commit"),
    "a hook below": (lambda w: plant(w / ".git/hooks/x/y"), ".git/hooks/x"),
    "a hook that was there": (
        lambda w: plant(w / ".git/hooks/post-merge"),
        ".git/hooks/post-merge",
    ),
    "a hook made a program": (
        lambda w: (w / ".git/hooks/idle").chmod(0o755),
        ".git/hooks/idle",
    ),
    "a sample that is a link": (
        lambda w: to_link(w / ".git/hooks/pre-push.sample", Path("/etc/passwd")),
        ".git/hooks/pre-push.sample",
    ),
    "the hooks are a link": (lambda w: to_link(w / ".git/hooks", Path("/tmp")), ".git/hooks"),
    "the configuration": (
        lambda w: git("config", "core.fsmonitor", "evil", cwd=w),
        ".git/config",
    ),
    "of the worktree": (
        lambda w: plant(w / ".git/config.worktree", "[core]\n\tpager = evil\n"),
        ".git/config.worktree",
    ),
    "attributes": (
        lambda w: plant(w / ".git/info/attributes", "* filter=evil\n"),
        ".git/info/attributes",
    ),
    "another common directory": (lambda w: plant(w / ".git/commondir", "../x\n"), ".git/commondir"),
    "the repository is a file": (
        lambda w: (shutil.move(w / ".git", w / "old"), (w / ".git").write_text("gitdir: old\n")),
        ".git",
    ),
    "the repository is a link": (
        lambda w: to_link((w / ".git").rename(w / "old") and w / ".git", Path("old")),
        ".git",
    ),
    "a submodule's hook": (
        lambda w: plant(w / ".git/modules/sub/hooks/pre-commit"),
        ".git/modules/sub/hooks/pre-commit",
    ),
    "a submodule's repository": (
        lambda w: _own_repository(w / "sub"),
        "sub/.git",
    ),
    "a worktree's configuration": (
        lambda w: plant(w / ".git/worktrees/tree/config.worktree", "[core]\n\tpager = evil\n"),
        ".git/worktrees/tree/config.worktree",
    ),
    "hooks that the configuration names": (
        lambda w: plant(w / ".githooks/pre-commit"),
        ".githooks",
    ),
    "a file that it includes": (
        lambda w: plant(w / "shared.cfg", "[core]\n\tpager = x\n"),
        "shared.cfg",
    ),
    "husky": (lambda w: plant(w / ".husky/pre-commit"), ".husky"),
    "vscode": (lambda w: plant(w / ".vscode/tasks.json"), ".vscode"),
    "vscode is a link": (lambda w: (w / ".vscode").symlink_to("src"), ".vscode"),
    "idea": (lambda w: plant(w / ".idea/workspace.xml"), ".idea/workspace.xml"),
    "envrc": (lambda w: plant(w / ".envrc", "evil"), ".envrc"),
    "coi.toml": (lambda w: plant(w / ".coi.toml", "x"), ".coi.toml"),
    "claude": (lambda w: plant(w / ".claude/settings.json", "{}"), ".claude/settings.json"),
    "claude, of this user": (
        lambda w: plant(w / ".claude/settings.local.json", "{}"),
        ".claude/settings.local.json",
    ),
    "claude is a link": (lambda w: to_link(w / ".claude", Path("src")), ".claude"),
    "a fifo": (lambda w: os.mkfifo(w / ".envrc"), ".envrc"),
}  # fmt: skip


def furnished(world: World) -> Path:
    """A repository with a submodule, a worktree, hooks of its own and a file that is included."""
    work = world.repository()
    plant(work / ".git/hooks/post-merge", "#!/bin/sh\n# mine\n")
    plant(work / ".git/hooks/idle", "idle")
    (work / ".git/hooks/idle").chmod(0o644)
    world.repository("../other")
    git("submodule", "add", "-q", str(work.parent / "other"), "sub", cwd=work)
    git("worktree", "add", "-q", "tree", cwd=work)
    git("config", "core.hooksPath", ".githooks", cwd=work)
    git("config", "include.path", "../shared.cfg", cwd=work)
    plant(work / ".idea/workspace.xml", "<a/>")
    plant(work / ".claude/agents/x.md", "x")
    (work / "src").mkdir()
    return work


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_session_leaves_is_put_aside(world: World, name: str) -> None:
    attack, path = ATTACKS[name]
    work = furnished(world)
    before = world.all()
    world.begin()
    attack(work)
    assert world.all() != before, "the attack does something"
    assert path in world.changed()
    after = world.all()
    for sample in [n for n in after if "before" in n.split("/")]:  # what the attack moved there
        del after[sample]
    for every in (before, after):  # git runs none of the samples; nobody brings them back
        for sample in [n for n in every if n.endswith(".sample")]:
            del every[sample]
    (kept,) = all_of(world.home)
    assert {item.path for item in kept.items} >= {path}
    for place in (kept.directory, *(p for p in kept.directory.iterdir() if p.is_dir())):
        assert stat.S_IMODE(kept.directory.stat().st_mode) == 0o700, place
    moved = ("repository is a", "submodule's repository", "claude is a link")
    if not any(part in name for part in moved):
        assert after == before, "all is as it was"
    assert not (work / ".git").is_symlink()
    assert not (world.home / "protect").exists(), "nothing is left to compare"


def test_the_list_of_attacks_is_what_works_without(world: World) -> None:
    """The negative control: nothing is kept, so nothing is put aside; git runs what is planted."""
    work = world.repository()
    canary = work.parent / "canary"
    git("config", "core.fsmonitor", f"touch {canary}; false", cwd=work)
    assert world.end() == []
    git("status", cwd=work)
    assert canary.exists()


def test_what_tools_do_all_day_is_no_change(world: World) -> None:
    work = furnished(world)
    world.begin()
    (work / "src/a").write_text("x")
    git("add", "src", cwd=work)
    git("commit", "-q", "-m", "work", cwd=work)
    git("checkout", "-q", "-b", "topic", cwd=work)
    git("tag", "v1", cwd=work)
    git("gc", "-q", cwd=work)
    git("stash", cwd=work)
    (work / ".claude/agents/x.md").write_text("y")
    shutil.move(work / ".git", work / "git2")
    shutil.copytree(work / "git2", work / ".git")
    assert world.end() == []


def test_a_repository_that_a_session_makes_stays(world: World) -> None:
    world.begin()
    work = world.repository()
    git("clone", "-q", str(work), "inner", cwd=work)
    assert world.end() == []
    assert git("status", "--porcelain", cwd=work) == "?? inner/\n"


def test_but_not_what_runs_in_one(world: World) -> None:
    world.begin()
    work = world.repository()
    git("config", "core.fsmonitor", "evil", cwd=work)
    plant(work / ".git/hooks/pre-commit")
    assert world.changed() == [".git/config", ".git/hooks"]
    assert not (work / ".git/config").exists()
    assert not (work / ".git/hooks").exists()


def test_a_submodule_that_a_session_plants(world: World) -> None:
    """`git status` of the whole runs one in each submodule that the index names."""
    work = world.repository()
    world.begin()
    world.repository("evil")
    canary = work.parent / "canary"
    git("add", "evil", cwd=work)
    git("config", "core.fsmonitor", f"touch {canary}; false", cwd=work / "evil")
    git("status", cwd=work)
    assert canary.exists(), "the attack works"
    canary.unlink()
    assert world.changed() == ["evil/.git/config"]
    git("status", cwd=work)
    assert not canary.exists()


def test_a_workspace_that_is_a_worktree(world: World) -> None:
    other = World.__new__(World)
    other.work = world.work.parent / "main"
    other.work.mkdir()
    other.repository()
    world.work.rmdir()
    git("worktree", "add", "-q", str(world.work), cwd=other.work)
    file = world.work / ".git"
    before = file.read_bytes()
    assert before.startswith(b"gitdir: /")
    world.begin()
    file.write_text("gitdir: evil\n")
    assert world.changed() == [".git"]
    assert file.read_bytes() == before


def test_a_git_directory_with_another_name(world: World) -> None:
    work = world.work
    git("init", "-q", "--separate-git-dir", ".store", ".", cwd=work)
    (work / ".git").write_text("gitdir: .store\n")
    world.begin()
    plant(work / ".store/hooks/pre-commit")
    assert world.changed() == [".store/hooks/pre-commit"]


def test_links_are_neither_followed_nor_mounted(world: World) -> None:
    """The hooks are a link to somebody's keys: not read, not copied, and guarded as a link."""
    secret = world.work.parent / "ssh"
    secret.mkdir()
    (secret / "id").write_text("SECRET")
    work = world.repository()
    to_link(work / ".git/hooks", secret)
    (work / ".vscode").symlink_to(secret)
    (work / ".envrc").symlink_to(secret / "id")
    world.begin()
    (record,) = records(world.home)
    assert "SECRET" not in (record.directory / "record.json").read_text()
    assert "U0VDUkVU" not in (record.directory / "record.json").read_text(), "in base64"
    assert set(copies(record.plan, record.entries)) == {".git/config"}
    (work / ".envrc").unlink()
    (work / ".envrc").symlink_to("/etc/shadow")
    to_link(work / ".git/hooks", Path("/tmp"))
    assert world.changed() == [".envrc", ".git/hooks"]
    assert (work / ".git/hooks").readlink() == secret
    assert (secret / "id").read_text() == "SECRET"


def test_a_copy_is_what_stood_there(world: World, tmp_path: Path) -> None:
    work = furnished(world)
    (work / ".idea/link").symlink_to("/etc/passwd")
    with Tree(work) as tree:
        chosen = plan(tree, PATHS, named=True)
        entries, _ = take(tree, chosen)
    found = copies(chosen, entries)
    assert {".git/config", ".git/hooks", ".idea", "sub/.git", "tree/.git"} <= set(found) | {
        "tree/.git"
    }
    for number, (path, below) in enumerate(found.items()):
        lay(tmp_path / f"copy{number}", path, below, entries)
        copy, real = tmp_path / f"copy{number}", work / path
        if real.is_file():
            assert copy.read_bytes() == real.read_bytes()
        else:
            assert {p.name for p in copy.iterdir()} == {
                p.name for p in real.iterdir() if not p.name.endswith(".sample")
            }
    assert (tmp_path / f"copy{list(found).index('.idea')}/link").is_symlink()


def test_a_large_file_is_known_by_its_identity(world: World) -> None:
    work = world.repository()
    large = work / ".vscode/db"
    plant(large, "x" * (fingerprint.MAX_COPY + 1))
    world.begin()
    (record,) = records(world.home)
    assert ".vscode" not in copies(record.plan, record.entries), "a part would hide the rest"
    assert world.end() == []
    world.begin()
    data = large.read_bytes()
    times = large.stat().st_mtime_ns
    large.write_bytes(b"y" + data[1:])
    os.utime(large, ns=(times, times))
    lines = world.end()
    assert any("NOT MENDED: coi has no copy" in line for line in lines), lines


def test_too_much_is_put_aside_as_a_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    work = world.repository()
    plant(work / ".vscode/mine", "mine")
    world.begin()
    monkeypatch.setattr(fingerprint, "MAX_ENTRIES", 50)
    for number in range(60):
        (work / f".vscode/{number}").write_text("x")
    (found,) = world.changed()
    assert found == ".vscode"
    assert {p.name for p in (work / ".vscode").iterdir()} == {"mine"}


@pytest.mark.skipif(os.getuid() != 0, reason="root makes what is another's")
@pytest.mark.parametrize("spoilt", [".git/hooks", ".git", ".vscode"])
def test_what_is_another_users_gets_another_name(world: World, spoilt: str) -> None:
    """What root inside makes is root's on disk: a user can rename it, and no more."""
    work = world.repository()
    plant(work / ".vscode/mine", "mine")
    for path in (world.home, work, *work.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    world.work.parent.chmod(0o777)
    for above in world.work.parent.parents:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
    world_pid = os.fork()
    if world_pid == 0:
        os.setgid(12345)
        os.setuid(12345)
        world.begin()
        os._exit(0)
    assert os.waitpid(world_pid, 0)[1] == 0
    plant(work / spoilt / "planted")
    os.chown(work / spoilt, 0, 0)
    (work / spoilt).chmod(0o700)
    pid = os.fork()
    if pid == 0:
        os.setgid(12345)
        os.setuid(12345)
        lines = world.end()
        os._exit(0 if any(spoilt in line for line in lines) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    left = [p.name for p in (work / spoilt).parent.iterdir() if ".coi-" in p.name]
    assert len(left) == 1
    assert not (work / spoilt / "planted").exists()
    if spoilt == ".vscode":
        assert (work / ".vscode/mine").read_text() == "mine"


def test_sessions_side_by_side_share_what_stood_there_first(world: World) -> None:
    work = world.repository()
    world.begin("one")
    plant(work / ".git/hooks/pre-commit")
    world.begin("two")
    assert any("pre-commit" in line for line in world.end("two"))
    assert not (work / ".git/hooks/pre-commit").exists()
    plant(work / ".git/hooks/pre-commit")
    assert any("pre-commit" in line for line in world.end("one"))
    assert not records(world.home)
    world.begin("three")
    assert world.end("three") == []


def test_what_the_user_did_meanwhile_is_kept_on_request(world: World) -> None:
    work = world.repository()
    config = work / ".git/config"
    before = config.read_text()
    world.begin("one")
    world.begin("two")
    git("remote", "add", "mine", "https://example.org/x", cwd=work)
    mine = config.read_text()
    assert mine != before
    lines = world.end("one")
    assert config.read_text() == before
    (kept,) = all_of(world.home)
    assert any(line.endswith(f"coi protect keep {kept.id}") for line in lines)
    with pytest.raises(NotFoundError):
        keep(world.home, kept, ("nothing",))
    assert keep(world.home, kept, (".git/config",)) == [".git/config"]
    assert config.read_text() == mine
    (swapped,) = all_of(world.home)
    assert (swapped.directory / swapped.items[0].stored).read_text() == before
    assert world.end("two") == [], "the other session knows"
    with pytest.raises(NotFoundError):
        find(world.home, kept.id)
    for name in ("../x", "", "x" * 300):
        with pytest.raises(NotFoundError):
            find(world.home, name)


def test_records_are_private(world: World) -> None:
    world.repository()
    world.begin()
    for path in (world.home / "protect").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


NAMES = st.sampled_from([".git", ".vscode", "hooks", "config", "modules", "a", "x\ny", "ä"])
MADE = st.tuples(
    st.lists(NAMES, min_size=1, max_size=4).map("/".join),
    st.sampled_from(["file", "directory", "link", "fifo"]),
)


@settings(max_examples=60, deadline=None)
@example([(".vscode", "fifo")], [(".vscode", "file")])
@given(st.lists(MADE, max_size=10), st.lists(MADE, max_size=10))
def test_whatever_is_made_the_end_is_as_the_beginning(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[str, str]],
    after: list[tuple[str, str]],
) -> None:
    """Any tree, then any other tree over it: protected paths end as they began, or it is said of
    what no copy can be of; nothing outside is touched, and a second end finds nothing."""
    root = tmp_path_factory.mktemp("world")
    outside = root / "outside"
    outside.mkdir()
    (outside / "x").write_text("x")
    world = World(root)
    paths = (".git/hooks", ".git/config", ".vscode")
    _make(world.work, before, outside)
    with Tree(world.work) as tree:
        first = take(tree, plan(tree, paths, named=True))[0]
    world.begin("one", paths)
    world.begin("two", paths)
    _make(world.work, after, outside)
    said = world.end("one")
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"x": "x"}
    (record,) = records(world.home)
    with Tree(world.work) as tree:
        now = take(tree, record.plan)[0]
    for path, entry in first.items():
        gone = any(path.startswith(f"{git}/") for git in record.plan.git)
        told = entry.kind == fingerprint.OTHER and any(
            line.strip().startswith(f"{printable(path, 200)} (") and "NOT MENDED" in line
            for line in said
        )
        assert gone or path in record.plan.shallow or entry.same(now.get(path)) or told, path
    assert not [line for line in world.end("two") if "(new" in line or "changed)" in line]


def _make(work: Path, made: list[tuple[str, str]], outside: Path) -> None:
    for name, kind in made:
        path = work / name
        if any(above.is_symlink() for above in path.parents if above.is_relative_to(work)):
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or path.exists():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            if kind == "file":
                path.write_text(name)
            elif kind == "directory":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(outside)
            else:
                os.mkfifo(path)
        except OSError:
            continue  # below a file


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"format": 2}', "\0", '{"format": 1}'])
def test_a_damaged_record_is_said_and_left(world: World, text: str) -> None:
    world.repository()
    world.begin()
    (record,) = records(world.home)
    (record.directory / "record.json").write_text(text)
    assert records(world.home) == []
    with pytest.raises(CoiError, match="damaged"):
        world.begin("two")
    assert (record.directory / "record.json").read_text() == text


def test_a_record_that_another_could_write_does_not_count(world: World) -> None:
    world.repository()
    world.begin()
    (record,) = records(world.home)
    (record.directory / "record.json").chmod(0o666)
    with pytest.raises(CoiError, match="damaged"):
        world.begin("two")
