"""Several looks at once: ``incus`` takes 30 ms to start, and they need not wait for each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from coi.errors import CoiError
from coi.incus.client import Client
from coi.incus.errors import IncusError
from coi.incus.process import Completed, Process, read_all


def look(
    client: Client, asked: Mapping[str, str], *, timeout: float = 60.0
) -> dict[str, Any | CoiError]:
    """``GET`` several paths side by side; the metadata of each answer, or its error.

    Args:
        asked: a name of the caller's to a path from ``/1.0``, a query included.
        timeout: seconds for each.

    Raises:
        UnavailableError: ``incus`` is not installed.
    """
    found: dict[str, Any | CoiError] = {}
    with ExitStack() as stack:
        running: dict[str, tuple[Process, int, int]] = {}
        for name, path in asked.items():
            bare, _, query = path.partition("?")
            params = dict(part.split("=", 1) for part in query.split("&") if part)
            out, err = os.memfd_create("coi-look-out"), os.memfd_create("coi-look-err")
            stack.callback(os.close, out)
            stack.callback(os.close, err)
            args = client.query_args("GET", bare, params=params)
            process = client.runner.spawn(args, stdout=out, stderr=err)
            running[name] = stack.enter_context(process), out, err
        for name, (process, out, err) in running.items():
            try:
                code = process.wait(timeout)
                done = Completed(process.argv, code, read_all(out), read_all(err))
                found[name] = client.answer(done, action=f"look at {asked[name]}")
            except TimeoutError as error:
                found[name] = IncusError("Incus did not answer", details=str(error))
            except CoiError as error:
                found[name] = error
    return found
