"""Files made inside belong on the host to whoever runs coi."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dummy import background, codes, power_off, start

from coi.testing.host import Host
from coi.testing.machine import User, incus, lingering

pytestmark = pytest.mark.usefixtures("as_root")

ROOT = User("root", 0, 0, (0,))


@pytest.fixture(scope="module")
def other() -> Iterator[User]:
    """A user with uid 1234, in incus-admin for the length of the module."""
    name = "coi-test-1234"
    subprocess.run(["userdel", "-f", name], check=False, capture_output=True)
    subprocess.run(
        ["useradd", "--no-create-home", "--non-unique", "--uid", "1234", "--groups",
         "incus-admin", name], check=True, capture_output=True,
    )  # fmt: skip
    yield User.named(name)
    subprocess.run(["userdel", "-f", name], check=False, capture_output=True)


def owners(host: Host) -> set[tuple[int, int]]:
    """Who owns what was made in the workspace."""
    made = [path.lstat() for path in host.workspace.rglob("made-*")]
    assert len(made) == 4
    return {(entry.st_uid, entry.st_gid) for entry in made}


def work(host: Host) -> None:
    """Files and directories made by the session's user, inside and through the tool's shell."""
    name = background(host) and host.instance()
    assert name
    host.write("ws/before", "host\n")
    done = host.coi("run", "bash", "-c", "mkdir made-a && touch made-a/made-b").ok()
    assert done.out == ""
    screen = host.screen("attach", name, "--bash")
    screen.expect(r"[$#] ?$")
    screen.line(
        "cd /workspace && mkdir made-c && echo x > made-c/made-d && cat before && echo DONE"
    )
    screen.expect("^DONE$")
    screen.line("stat -c '%U %a' ~ /workspace/before && id -un && sudo -n id -u && exit")
    screen.ended()


@pytest.mark.parametrize("shift", [True, False], ids=["idmapped", "raw.idmap"])
@pytest.mark.parametrize("who", ["1000", "1234"])
def test_an_ordinary_user(
    make_host: Callable[..., Host],
    user: User,
    other: User,
    lent_ids: Callable[[int], None],
    who: str,
    shift: bool,
) -> None:
    person = user if who == "1000" else other
    host = make_host(person)
    if not shift:
        host.config(
            f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n'
            "[incus]\ndisable_shift = true\n"
        )
        lent_ids(person.uid)
        lent_ids(person.gid)
    work(host)
    assert owners(host) == {(person.uid, person.gid)}
    assert (host.workspace / "before").stat().st_uid == person.uid
    inside = host.inside("stat -c '%u %g %n' /home/code /home/code/.coi; id -u code")
    assert inside.splitlines() == [
        f"{person.uid} {person.gid} /home/code",
        f"{person.uid} {person.gid} /home/code/.coi",
        str(person.uid),
    ]
    host.coi("kill", host.instance()).ok()


def test_root_is_root_inside(make_host: Callable[..., Host]) -> None:
    host = make_host(ROOT)
    work(host)
    assert owners(host) == {(0, 0)}
    assert host.inside("stat -c %u /home/code").strip() != "0", "host root is not code"
    host.coi("kill", host.instance()).ok()


def test_root_without_idmapped_mounts_is_refused(make_host: Callable[..., Host]) -> None:
    host = make_host(ROOT)
    host.config(
        f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n'
        "[incus]\ndisable_shift = true\n"
    )
    done = host.coi("shell", "--background")
    assert done.code == 5
    assert "root needs idmapped mounts" in done.err
    assert host.instances() == {}


def test_a_missing_sub_id_is_named(make_host: Callable[..., Host], other: User) -> None:
    if f"root:{other.uid}:1" in Path("/etc/subuid").read_text():
        pytest.skip("this host maps 1234 through")
    host = make_host(other)
    host.config(
        f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\n'
        "[incus]\ndisable_shift = true\n"
    )
    done = host.coi("shell", "--background")
    assert done.code == 1
    assert f"Hint: echo root:{other.uid}:1 | sudo tee -a /etc/subuid" in done.err
    assert host.instances() == {}


def test_a_session_is_resumed_by_a_user_with_another_uid_than_the_image(
    make_host: Callable[..., Host], other: User
) -> None:
    host = make_host(other)
    screen = start(host)
    screen.line("remember CODE-PLUM")
    screen.expect("you said")
    power_off(screen)
    screen.ended()
    again = start(host, "--resume")
    assert codes(again) == ["CODE-PLUM"]
    power_off(again)
    again.ended()
    assert pwd.getpwuid(1234).pw_uid == os.stat(host.coi_home).st_uid  # noqa: PTH116


def test_two_execs_that_change_the_id_at_once_do_not_undo_each_other(host: Host) -> None:
    """A client that fails may leave its exec at work, and coi tries it again."""
    from coi.session import inside
    from coi.workspace.ownership import SessionUser

    name = f"{host.prefix}ids"
    incus("launch", host.image, name).ok()
    try:
        for number in (1301, 1302, 1303):
            command = inside.become(SessionUser("code", number, number, "/home/code"), "id", "-u")
            both = [
                subprocess.Popen(
                    ["incus", "exec", name, "-T", "--", *lingering(command)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                )
                for _ in range(3)
            ]
            assert [process.communicate()[0] for process in both] == [b"%d\n" % number] * 3
            assert incus("exec", name, "--", "id", "-gn", "code").ok().out == "code\n"
    finally:
        incus("delete", "--force", name).ok()
