"""What a signal raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest

from coi.cli.signals import ended
from coi.errors import CoiError, Interrupted


def test_nothing_goes_on_after_it_as_after_an_error() -> None:
    before = signal.signal(signal.SIGHUP, ended)
    try:
        with (
            pytest.raises(Interrupted, match="SIGHUP") as caught,
            suppress(CoiError, OSError, ValueError, Exception),
        ):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert caught.value.exit_code == 130


@pytest.mark.parametrize("place", ["weak", "destructor", "fork"])
def test_what_python_drops_is_raised_again(place: str) -> None:
    """A loop that nothing ends but the signal, which came where nothing can be raised."""
    script = textwrap.dedent(
        f"""
        import os, signal, sys, time, weakref
        from coi.cli.signals import handle
        from coi.errors import Interrupted

        def come(*_):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0)

        class Thing:
            pass

        handle()
        try:
            if {place!r} == "weak":
                thing = Thing()
                reference = weakref.ref(thing, come)
                del thing
            elif {place!r} == "destructor":
                Thing.__del__ = come
                Thing()
            else:
                os.register_at_fork(after_in_parent=come)
                if os.fork() == 0:
                    os._exit(0)
            time.sleep(60)
        except Interrupted as error:
            sys.exit(f"raised: {{error}}")
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.stderr == "raised: ended by SIGHUP\n"


def test_who_ignores_a_signal_goes_on() -> None:
    script = (
        "import os, signal; from coi.cli.signals import handle; handle();"
        "[os.kill(os.getpid(), n) for n in (signal.SIGINT, signal.SIGHUP)]; print('goes on')"
    )
    command = ["bash", "-c", 'trap "" INT HUP; exec "$@"', "sh", sys.executable, "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (run.stdout, run.stderr) == ("goes on\n", "")
