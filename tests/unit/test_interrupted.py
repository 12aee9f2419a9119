"""What a signal raises."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from coi.cli.main import _terminated
from coi.errors import CoiError, Interrupted


def test_nothing_goes_on_after_it_as_after_an_error() -> None:
    before = signal.signal(signal.SIGHUP, _terminated)
    try:
        with (
            pytest.raises(Interrupted, match="SIGHUP") as caught,
            suppress(CoiError, OSError, ValueError, Exception),
        ):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert caught.value.exit_code == 130
