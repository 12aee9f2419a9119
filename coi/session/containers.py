"""Single containers, without a session: what ``coi container`` does."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from coi.errors import CoiError, NotFoundError, RefusedError, UsageError
from coi.incus.errors import AlreadyExistsError, ImageMissingError, MissingError
from coi.incus.shield import shielded
from coi.session import guard
from coi.session.body import CONTAINER, instance_body, made_by_coi
from coi.session.lookup import check_name
from coi.session.model import SAVED, is_session
from coi.session.network import Fencing, Ground, on_ground, started
from coi.session.settle import settle
from coi.workspace.directory import absolute

if TYPE_CHECKING:
    from coi.session.limits import Limits
    from coi.session.model import Engine

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:+-]{0,254}")
_FINGERPRINT = re.compile(r"[0-9a-f]{12,64}")
STOP_STEPS = (5, 25)  # seconds of each graceful stop, before force


def launch(
    engine: Engine, image: str, name: str, *, ephemeral: bool, network: Fencing, limits: Limits
) -> None:
    """Create and start a container; it can be entered afterwards.

    Args:
        network: that is asked for.
        limits: what it may use of the host.

    Raises:
        UsageError: a name or image that cannot be.
        RefusedError: the network policy cannot be enforced.
        CoiError: the image or its room is missing, or the name is taken.
    """
    check_name(name)
    if not _IMAGE.fullmatch(image):
        raise UsageError(f"not an image's name: {image!r}")

    def create(ground: Ground) -> Ground:
        keys = made_by_coi(CONTAINER, image=image, persistent="false" if ephemeral else "true")
        body = instance_body(
            name,
            image,
            {**keys, **ground.keys},
            limits=limits,
            devices=ground.devices,
            ephemeral=ephemeral,
        )
        try:
            engine.instances.create(body)
        except ImageMissingError:
            if not _FINGERPRINT.fullmatch(image):
                raise
            body["source"] = {"type": "image", "fingerprint": image}
            engine.instances.create(body)
        try:
            ground.verify()
        except BaseException:
            engine.instances.remove(name)
            raise
        return ground

    try:
        ground = on_ground(network, create)
    except AlreadyExistsError as error:
        raise CoiError(
            f"{name} already exists", details=error.details, hint=f"coi container delete {name}"
        ) from error
    try:
        settle(engine, name, ground=ground)
    except BaseException:
        if ground.fenced:
            with shielded():
                engine.instances.remove(name)
        raise


def start(engine: Engine, name: str) -> None:
    """Start a stopped container; it can be entered afterwards.

    Raises:
        MissingError: there is none.
        RefusedError: its network policy cannot be enforced.
    """
    row = engine.instances.get(check_name(name))
    if is_session(row) and row.stopped and engine.attends(row):
        guard.restart(engine, row)
    started(engine.home, row, lambda: engine.instances.set_state(name, "start"))
    settle(engine, name)


def stop(engine: Engine, name: str, *, force: bool) -> None:
    """Stop a container: gracefully for 30 s, then by force.

    systemd does not hear the request right after its start, so it is made twice.

    Raises:
        MissingError: there is none.
        CoiError: it does not run.
    """
    row = engine.instances.get(check_name(name))
    if row.stopped:
        raise CoiError(f"{name} is not running")
    for seconds in () if force else STOP_STEPS:
        try:
            engine.instances.set_state(name, "stop", timeout=seconds)
        except MissingError:  # ephemeral: it has deleted itself
            break
        except CoiError:
            continue
        break
    else:
        try:
            engine.instances.set_state(name, "stop", force=True)
        except MissingError:
            if not row.ephemeral:
                raise
    if row.coi("state") == SAVED:
        guard.settle(engine, row.coi("session-id"), row.name)


def delete(engine: Engine, name: str, *, force: bool) -> None:
    """Delete a container, a running one with ``force``.

    Raises:
        MissingError: there is none.
        CoiError: it runs.
    """
    if force:
        engine.instances.remove(engine.instances.get(check_name(name)).name)
    else:
        engine.instances.delete(check_name(name))


def mount(engine: Engine, name: str, device: str, source: str, path: str, *, shift: bool) -> None:
    """Add a disk device: a directory or file of the host at ``path`` inside.

    Raises:
        UsageError: a name or path that cannot be.
        NotFoundError: no such container, or nothing at ``source``.
        RefusedError: ``source`` holds coi's own data.
    """
    check_name(name)
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"not a device's name: {device!r}")
    inside = PurePosixPath(path)
    if not inside.is_absolute() or ".." in inside.parts or inside == PurePosixPath("/"):
        raise UsageError(f"the path inside must be absolute, and not /: {path!r}")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in source + path):
        raise UsageError(f"a path has a control character: {source + path!r}")
    try:
        real = absolute(Path(source).expanduser()).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise NotFoundError(f"nothing to mount at {source}", details=str(error)) from error
    private = engine.home.resolve()
    if private.is_relative_to(real) or real.is_relative_to(private):
        raise RefusedError(f"will not share {source} with a container: it holds coi's own data")
    row = engine.instances.get(name)
    if device in row.devices:
        raise CoiError(f"{name} already has a device {device}")
    disk = {"type": "disk", "source": str(real), "path": str(inside)}
    if shift:
        disk["shift"] = "true"
    engine.instances.update(name, devices={device: disk})
