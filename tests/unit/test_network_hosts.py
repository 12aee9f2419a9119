"""The script that writes an allowlist's names, run on a file that stands for /etc/hosts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from coi.network.hosts import with_hosts

OWN = "127.0.0.1 localhost\n::1 localhost\n"
BEGIN, END = "# names of the allowlist (coi)", "# end of names (coi)"


def run(hosts: Path, lines: list[str], *command: str) -> subprocess.CompletedProcess[str]:
    argv = [word.replace("/etc/hosts", str(hosts)) for word in with_hosts(lines, *command)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=10)


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "hosts"
    path.parent.mkdir()
    path.write_text(OWN)
    return path


def test_none_is_the_command_alone() -> None:
    assert with_hosts(None, "a", "b") == ["a", "b"]


def test_lines_are_added_replaced_and_removed(hosts: Path) -> None:
    for lines in (["192.0.2.1 a.example"], ["192.0.2.2 a.example", "2001:db8::1 b.example"]):
        ran = run(hosts, lines, "sh", "-c", 'printf %s "$1"', "sh", "what comes next")
        assert (ran.returncode, ran.stdout) == (0, "what comes next"), ran.stderr
        assert hosts.read_text() == OWN + "\n".join([BEGIN, *lines, END, ""])
        assert hosts.stat().st_mode & 0o777 == 0o644
    assert run(hosts, [], "true").returncode == 0
    assert hosts.read_text() == OWN
    assert [entry.name for entry in hosts.parent.iterdir()] == ["hosts"]


def test_a_line_is_never_code_or_a_format(hosts: Path) -> None:
    lines = ["$(touch here) `id` %s%n \\n '"]
    assert run(hosts, lines, "true").returncode == 0
    assert hosts.read_text() == OWN + "\n".join([BEGIN, *lines, END, ""])


def test_a_last_line_without_an_end(hosts: Path) -> None:
    hosts.write_text(OWN.rstrip("\n"))
    assert run(hosts, ["192.0.2.1 a.example"], "true").returncode == 0
    assert hosts.read_text() == OWN + "\n".join([BEGIN, "192.0.2.1 a.example", END, ""])


def test_an_image_without_the_file(hosts: Path) -> None:
    hosts.unlink()
    assert run(hosts, ["192.0.2.1 a.example"], "true").returncode == 0
    assert hosts.read_text() == "\n".join([BEGIN, "192.0.2.1 a.example", END, ""])


def test_what_cannot_be_written_runs_nothing(hosts: Path, tmp_path: Path) -> None:
    """The exit code is one that the session knows: without its names it does not start."""
    hosts.unlink()
    hosts.parent.rmdir()
    ran = run(hosts, ["192.0.2.1 a.example"], "touch", str(tmp_path / "ran"))
    assert ran.returncode == 97
    assert not (tmp_path / "ran").exists()
