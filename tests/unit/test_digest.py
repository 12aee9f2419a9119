"""SHA-256 without OpenSSL."""

from __future__ import annotations

import hashlib
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from coi.digest import sha256


@given(st.binary(max_size=300))
def test_it_is_the_standard_library_s(data: bytes) -> None:
    assert sha256(data).digest() == hashlib.sha256(data).digest()
    assert sha256(data).hexdigest() == hashlib.sha256(data).hexdigest()


def test_nothing_else_is_loaded_for_it() -> None:
    """A start hashes names, policies and protected paths."""
    script = (
        "import sys, coi.digest, coi.session.naming, coi.network.policy, coi.network.bridge, "
        "coi.session.guard, coi.workspace.fingerprint; "
        "coi.digest.sha256(b''); print('hashlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
