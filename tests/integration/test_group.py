"""A user whose login session is older than the group: install.sh lets them in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import INSTALL

from coi.testing.host import Host
from coi.testing.machine import User

SOCKET = Path("/var/lib/incus/unix.socket")


def _as_root(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _install_step(user: User, then: str) -> str:
    """Some lines in install.sh's place, with its functions."""
    text = INSTALL.read_text().rstrip().removesuffix('main "$@"')
    script = f"{text}\nset -E\nsettings\nFOR_USER={user.name} NEW_MEMBER='' NEEDS_LOGIN=''\n{then}"
    return _as_root("bash", "-c", script)


@contextmanager
def _session(user: User) -> Iterator[None]:
    """A process of theirs, with the groups that they have now."""
    with subprocess.Popen(["sleep", "600"], preexec_fn=user.become) as session:
        try:
            yield
        finally:
            session.kill()


@pytest.fixture
def newcomer(someone: User, daemon: None) -> Iterator[User]:
    """One who has a session, put into the group only then."""
    if not shutil.which("setfacl"):
        pytest.skip("no setfacl: install.sh installs it")
    with _session(someone):
        _as_root("usermod", "-aG", "incus-admin", someone.name)
        yield someone
    _as_root("setfacl", "-x", f"u:{someone.name}", str(SOCKET))


def test_an_older_session_is_let_in(newcomer: User, make_host: Callable[..., Host]) -> None:
    host = make_host(newcomer)
    refused = host.coi("list")
    assert refused.code == 4, "the control: the group is not this session's"
    assert "Error: no permission to talk to Incus" in refused.err
    assert "Hint: you are in incus-admin, but this login session is older" in refused.err
    assert "newgrp incus-admin" in refused.err

    said = _install_step(newcomer, 'let_in_step\necho "needs login: $NEEDS_LOGIN"')
    assert f"==> sessions of {newcomer.name} that are open" in said
    assert "needs login: \n" in said
    assert host.coi("list").ok().out == "Active Containers:\n  (none)\n"
    other = make_host(User("nobody", 65534, 65534, (65534,)))
    assert other.coi("list").code == 4, "and nobody else"


def test_a_session_that_has_the_group_needs_nothing(someone: User) -> None:
    _as_root("usermod", "-aG", "incus-admin", someone.name)
    with _session(User.named(someone.name)):
        assert _install_step(someone, "let_in_step") == ""


def test_where_the_socket_takes_no_acl(newcomer: User, tmp_path: Path) -> None:
    """It says what to type instead."""
    said = _install_step(newcomer, f"INCUS_DIR={tmp_path}\nlet_in_step\nIMAGE=1\nthe_end")
    assert f"su - {newcomer.name}" in said
    own = f"SUDO_USER={newcomer.name}\nINCUS_DIR={tmp_path}\nlet_in_step\nthe_end"
    assert "newgrp incus-admin" in _install_step(newcomer, own)
