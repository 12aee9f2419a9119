"""A storage pool of a test's own, and a project that is on it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coi.testing.host import Host
from coi.testing.machine import incus, query, wait_for


@contextmanager
def pool_of_its_own(host: Host, driver: str, *options: str, nic: bool = False) -> Iterator[str]:
    """Make one, its image unpacked, for all that the host starts; its name.

    Args:
        options: of ``incus storage create``.
        nic: containers have the network of the machine.
    """
    name = f"coi-t{secrets.token_hex(3)}"
    shared = [f"features.{what}=false" for what in ("images", "networks", "storage.volumes")]
    host.environ["COI_INCUS_PROJECT"] = name
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INCUS_PROJECT", name)
        try:
            incus("storage", "create", name, driver, *options).ok()
            incus("project", "create", name, *(w for key in shared for w in ("-c", key))).ok()
            add = ("profile", "device", "add", "default")
            incus(*add, "root", "disk", "path=/", f"pool={name}").ok()
            if nic:
                incus(*add, "eth0", "nic", "network=incusbr0", "name=eth0").ok()
            # The first container of a pool waits until the image is unpacked there.
            incus("init", host.image, "first", timeout=500).ok()
            incus("delete", "first").ok()
            yield name
        finally:
            wait_for(lambda: not host.under_way(), timeout=120)
            host.sweep()
            incus("project", "delete", name).ok()
            patch.undo()
            for path in query(f"/1.0/storage-pools/{name}")["used_by"]:
                image = f"image/{path.rpartition('/')[2]}"
                incus("storage", "volume", "delete", name, image)
            incus("storage", "delete", name).ok()
