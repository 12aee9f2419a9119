"""Networks: a request on which the daemon trips is made again, any other is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coi.incus.client import Client
from coi.incus.errors import IncusError, classify
from coi.incus.networks import TRIPPED, Networks


class Tripping(Client):
    """A client whose first so many requests fail with a text."""

    def __init__(self, failures: int, text: str) -> None:
        super().__init__()
        self.failures, self.text = failures, text
        self.asked: list[tuple[str, str]] = []

    def query(self, method: str, path: str, **_: Any) -> Any:
        self.asked.append((method, path))
        if len(self.asked) <= self.failures:
            raise classify(self.text, code=500, action="x")


VANISHED = f"{TRIPPED}: Failed to run: ip -d -j link show veth0: exit status 1"
REQUESTS: dict[str, Callable[[Networks], None]] = {
    "DELETE": lambda networks: networks.delete("n"),
    "PATCH": lambda networks: networks.update("n", {"raw.dnsmasq": ""}),
    "PUT": lambda networks: networks.replace("n", {}),
}


@pytest.mark.parametrize("method", REQUESTS)
@pytest.mark.parametrize(
    ("failures", "text", "asked"),
    [(0, "", 1), (2, VANISHED, 3), (3, VANISHED, 3), (1, "Network is in use", 1)],
)
def test_it_is_made_again(method: str, failures: int, text: str, asked: int) -> None:
    client = Tripping(failures, text)
    if failures < asked:
        REQUESTS[method](Networks(client))
    else:
        with pytest.raises(IncusError):
            REQUESTS[method](Networks(client))
    assert client.asked == [(method, "/1.0/networks/n")] * asked
