"""coi network: what needs no daemon."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from commandline import CommandLine

from coi.errors import UsageError
from coi.network.explain import target


@pytest.fixture
def coi(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", ("10.0.0.1", None)),
        ("10.0.0.1:22", ("10.0.0.1", 22)),
        ("example.com:443", ("example.com", 443)),
        ("fe80::1", ("fe80::1", None)),
        ("[fe80::1]", ("fe80::1", None)),
        ("[fe80::1]:22", ("fe80::1", 22)),
    ],
)
def test_a_target(text: str, expected: tuple[str, int | None]) -> None:
    assert target(text) == expected


@pytest.mark.parametrize("text", ["", ":", "x:", ":22", "x:0", "x:65536", "x:²", "[::1", "[::1]22"])
def test_no_target(text: str) -> None:
    with pytest.raises(UsageError):
        target(text)


def test_the_guard_is_what_nft_reads(coi: CommandLine, tmp_path: Path) -> None:
    done = coi("network", "guard")
    assert done.code == 0
    assert "dport 53" in done.out
    nft = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if nft:
        rules = tmp_path / "guard.nft"
        rules.write_text(done.out)
        checked = subprocess.run([nft, "-c", "-f", rules], capture_output=True, check=False)
        assert checked.returncode == 0 or b"not permitted" in checked.stderr, checked.stderr
