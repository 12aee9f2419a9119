"""`coi` as it is typed, in this process or installed, and a fake `incus` that plays recordings."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from coi.cli.main import run

COI = Path(sys.executable).with_name("coi")
RECORDINGS = Path(__file__).parents[2] / "fixtures" / "incus"


@dataclass(frozen=True)
class Done:
    """A finished command line."""

    code: int
    out: str
    err: str

    @property
    def hint(self) -> str:
        """The text after ``Hint:``, or ''."""
        return self.err.partition("\nHint: ")[2].strip()


class CommandLine:
    """Runs `coi` with a home and an environment of its own.

    Args:
        root: everything is below it.
        path: PATH; without an `incus` by default.
    """

    def __init__(self, root: Path, *, path: str = "/nonexistent") -> None:
        self.root = root
        self.home = root / "home"
        self.coi_home = root / "coi"
        self.home.mkdir()
        self.environment = {
            "HOME": str(self.home),
            "COI_HOME": str(self.coi_home),
            "PATH": path,
            "LANG": "C.UTF-8",
        }

    def __call__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """In this process: 10 ms, where a new one takes 200."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name in list(os.environ):
                patch.delenv(name)
            for name, value in {**self.environment, **(environment or {})}.items():
                patch.setenv(name, value)
            patch.chdir(cwd or self.home)
            patch.setattr(sys, "stdin", io.StringIO())
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = run(list(arguments))
        return Done(code, out.getvalue(), err.getvalue())

    def installed(
        self,
        *arguments: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """The console script, in a process of its own."""
        done = subprocess.run(
            [str(COI), *arguments],
            cwd=cwd or self.home,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def left(self) -> list[str]:
        """Every file and directory that coi has left behind."""
        return sorted(
            str(path.relative_to(self.root))
            for top in (self.coi_home, self.home)
            for path in top.rglob("*")
        )


def assert_error(done: Done, code: int, words: str, *, hint: str = "") -> None:
    """An error as every command gives it: message, reason, hint, exit code.

    Args:
        words: in the first line.
        hint: in the hint, which every error has.
    """
    assert done.code == code, done
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if not line.startswith("Network: ")]
    assert lines[0].startswith("Error: "), done.err
    assert words in lines[0]
    assert len(lines[0]) < 400
    for unwanted in ("Traceback", "Usage:", 'File "', "\x1b", "does not handle"):
        assert unwanted not in done.err
    assert done.hint, done.err
    assert hint in done.hint


def fake_incus(directory: Path, answers: Sequence[tuple[str, str]]) -> str:
    """A PATH with an `incus` that plays recordings.

    Args:
        answers: (pattern of the arguments as for `case`, name of the recording),
            the first that fits.
    """
    directory.mkdir()
    cases = []
    for number, (pattern, name) in enumerate(answers):
        data = json.loads((RECORDINGS / f"{name}.json").read_text())
        (directory / f"out{number}").write_text(data["stdout"])
        (directory / f"err{number}").write_text(data["stderr"])
        cases.append(
            f"  {pattern}) cat {directory}/out{number}; cat {directory}/err{number} >&2;"
            f" exit {data['exit_code']};;\n"
        )
    script = directory / "incus"
    script.write_text(
        f'#!/bin/sh\nPATH=/usr/bin:/bin\necho "$*" >>{directory}/calls\n'
        f'case "$*" in\n{"".join(cases)}  *) echo "Error: unexpected: $*" >&2; exit 1;;\nesac\n'
    )
    script.chmod(0o755)
    return str(directory)


def real_incus() -> str | None:
    """A PATH where the real client is, or None."""
    from shutil import which

    return os.environ["PATH"] if which("incus") else None
