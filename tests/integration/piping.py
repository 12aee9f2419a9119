"""coi between pipes: what a script sees of it, byte for byte."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from coi.testing.host import Host
from coi.testing.machine import COI, DEADLINE


def start(
    host: Host, *args: str, stdin: int | None = subprocess.DEVNULL, stdout: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """``coi args``, started, in a session of its own."""
    process = subprocess.Popen(
        [str(COI), *args],
        cwd=host.workspace,
        env=host.environ,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        preexec_fn=host.user.become,
        start_new_session=True,
    )
    host.processes.append(process)
    return process


def feed(host: Host, data: bytes, *args: str) -> subprocess.CompletedProcess[bytes]:
    """``coi args`` to its end with ``data`` on a pipe as standard input."""
    process = start(host, *args, stdin=subprocess.PIPE)
    out, err = process.communicate(data, timeout=DEADLINE)
    return subprocess.CompletedProcess(args, process.returncode, out, err)


@contextmanager
def module_host(host: Host) -> Iterator[Host]:
    """A world that several tests share: nothing is left of it at the end."""
    try:
        yield host
        host.drop()
        problems = host.leaks()
    finally:
        host.close()
    assert not problems, "the tests left: " + "; ".join(problems)
