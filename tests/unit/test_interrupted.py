"""What a signal raises."""

from __future__ import annotations

import pytest

from coi.errors import Interrupted
from coi.session.network import Ground, on_ground


def test_nothing_goes_on_after_it_as_after_an_error() -> None:
    def made(_ground: Ground) -> None:
        try:
            raise Interrupted("ended by SIGHUP")
        except Exception:
            pytest.fail("taken for an error")

    with pytest.raises(Interrupted, match="SIGHUP") as caught:
        on_ground(lambda: None, made)
    assert caught.value.exit_code == 130
