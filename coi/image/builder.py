"""Running a build: steps in a container, an image, nothing left behind."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, TypeVar

from coi import __version__
from coi.api import ImageContext
from coi.digest import sha256
from coi.errors import CoiError, Interrupted
from coi.files import make_private
from coi.image import dns
from coi.image.base import Base, prepare
from coi.image.container import (
    OWNER,
    TAG,
    BuildContainer,
    Log,
    leftovers,
    new_name,
    remove_instance,
)
from coi.image.host import HostSettings
from coi.image.progress import Progress
from coi.image.recipe import Step
from coi.image.signals import deferred, interruptible, uninterrupted
from coi.incus.client import Client
from coi.incus.errors import AlreadyExistsError, MissingError
from coi.incus.images import Image, Images
from coi.incus.instances import Instances
from coi.records import record

if TYPE_CHECKING:
    from coi.config.model import Config

T = TypeVar("T")

KEPT_VERSIONS = 1  # earlier versions of an image that a build leaves

_VERSION = re.compile(r"-\d{8}-\d{6}")
_LOCK_POLL = 0.05  # seconds
_LOCK_DEADLINE = 3600.0  # seconds that a build waits for another of the same name


@record(frozen=True)
class BuildResult:
    """An image that stands.

    Attributes:
        alias: the plain name.
        version_alias: ``NAME-YYYYMMDD-HHMMSS``; '' where nothing was built and
            the image has none.
        fingerprint: of the image that ``alias`` names.
        seconds: the build took.
        built: False where the image was up to date.
        base: what it was made of.
    """

    alias: str
    version_alias: str
    fingerprint: str
    seconds: float
    built: bool = True
    base: str = ""


@record(frozen=True)
class Plan:
    """What differs between ``coi build`` and ``coi build custom``."""

    name: str
    base: Base
    recipe: str
    description: str
    properties: Mapping[str, str]
    needs_network: bool
    steps: Callable[[ImageContext], list[Step]]


class Builder:
    """Builds one image at a time."""

    def __init__(
        self,
        client: Client,
        config: Config,
        progress: Progress,
        host: HostSettings,
        environ: Mapping[str, str],
        architecture: str,
        network: str | None,
    ) -> None:
        from coi.config.home import check_home
        from coi.config.paths import coi_home

        self.client = client
        self.images = Images(client)
        self.config = config
        self.progress = progress
        self.host = host
        self.architecture = architecture
        self.network = network
        self.home = coi_home(environ)
        check_home(self.home)
        self.prefix = environ.get("COI_CONTAINER_PREFIX") or "coi-"
        self.owner = sha256(str(self.home).encode()).hexdigest()[:16]
        self._index = 0

    def run(self, plan: Plan, *, force: bool, if_changed: bool) -> BuildResult:
        begin = time.monotonic()
        current = self._current(plan, force=force, if_changed=if_changed)
        if current is not None:
            return current
        with interruptible(), self._lock(plan.name) as waited:
            if waited:  # the other build may have made just this
                current = self._current(plan, force=force, if_changed=if_changed)
                if current is not None:
                    return current
            for note in self.host.notes:
                self.progress.note(note)
            log = Log(_log_path(self.config.paths.logs_dir), self.progress)
            failed = True
            try:
                result = self._build(plan, log, begin)
                failed = False
            except Interrupted:
                failed = False  # the user knows why
                raise
            except CoiError as error:
                raise _with_log(error, log) from error
            finally:
                log.close(remove=not failed)
            return result

    # -- Whether to build ------------------------------------------------------

    def _current(self, plan: Plan, *, force: bool, if_changed: bool) -> BuildResult | None:
        """The image that stands, where there is nothing to do."""
        if force:
            return None
        image = self.images.find(plan.name)
        if image is None or plan.name not in image.aliases:
            return None
        if image.properties.get("coi.recipe") == plan.recipe:
            version = next((a for a in image.aliases if is_version(a, plan.name)), "")
            base = image.properties.get("coi.base", "")
            return BuildResult(plan.name, version, image.fingerprint, 0.0, False, base)
        if if_changed:
            return None
        own = "coi.recipe" in image.properties
        raise AlreadyExistsError(
            f"image {plan.name!r} already exists",
            details="it was built of other inputs (base, tools, user, certificates, coi)"
            if own
            else "it was not built by coi build",
            hint="replace it: coi build --force",
        )

    @contextmanager
    def _lock(self, name: str) -> Iterator[bool]:
        """One build of a name at a time per coi home; yields whether it waited."""
        import fcntl

        directory = self.home / "locks"
        make_private(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(directory / f"build-{name}.lock", flags, 0o600)
        waited = False
        deadline = time.monotonic() + _LOCK_DEADLINE
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waited:
                        self.progress.note(f"another build of {name!r} is running: waiting for it")
                    waited = True
                    if time.monotonic() > deadline:
                        raise CoiError(f"another build of {name!r} does not end") from None
                    time.sleep(_LOCK_POLL)
            yield waited
        finally:
            os.close(fd)

    # -- Building --------------------------------------------------------------

    def _build(self, plan: Plan, log: Log, begin: float) -> BuildResult:
        self._sweep(plan.name)
        nominal = ImageContext("debian", "12", self.architecture, self.config.incus.code_user)
        middle = [step.title for step in plan.steps(nominal)]
        titles = [f"Prepare the base {plan.base.text}", "Start the build container"]
        titles += [*middle, "Publish the image", "Prepare the first start"]
        self.progress.plan(titles)
        self._index = 0
        container = BuildContainer(self.client, new_name(self.prefix), log, dict(self.host.proxies))
        warm = new_name(self.prefix)
        published: list[str] = []
        operation: list[str] = []
        try:
            source = self._step(
                titles[0],
                log,
                lambda: prepare(self.images, plan.base, self.progress, log=log),
            )
            image = self._step(titles[1], log, lambda: self._start(container, plan, source))
            for step in plan.steps(image):
                # mypy has no type for a lambda with a default.
                self._step(step.title, log, lambda step=step: container.run(step))  # type: ignore[misc]
            version = f"{plan.name}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
            properties = {
                "description": plan.description,
                "os": image.distribution,
                "release": image.release,
                "coi.version": __version__,
                "coi.recipe": plan.recipe,
                "coi.base": source.text,
                **plan.properties,
            }
            fingerprint = self._step(
                titles[-2],
                log,
                lambda: self._publish(container, version, properties, operation, published),
            )
            self._step(titles[-1], log, lambda: self._warm_up(warm, plan.name, fingerprint))
            with uninterrupted():
                self.images.set_alias(plan.name, fingerprint)
                published.clear()
        finally:
            with uninterrupted():
                self._clean_up(container, warm, operation, published)
        with uninterrupted():
            self._drop_old(plan.name, fingerprint)
        return BuildResult(
            plan.name, version, fingerprint, time.monotonic() - begin, True, source.text
        )

    def _step(self, title: str, log: Log, action: Callable[[], T]) -> T:
        index, begin, ok = self._index, time.monotonic(), False
        log.section(title)
        self.progress.begin(index, title)
        try:
            result = action()
            ok = True
            return result
        finally:
            self._index += 1
            self.progress.end(index, time.monotonic() - begin, ok)

    def _start(self, container: BuildContainer, plan: Plan, source: Base) -> ImageContext:
        config = {TAG: plan.name, OWNER: self.owner}
        if source.fingerprint:
            container.create(fingerprint=source.fingerprint, config=config, network=self.network)
        else:
            container.create_from_remote(
                source.remote, config=config, timeout=1800.0, network=self.network
            )
        image = container.identify(self.architecture, self.config.incus.code_user)
        if not container.wait_for_boot():
            self.progress.note("the build container has not finished its start")
        container.wait_for_network()
        if self._resolves_elsewhere():
            return image
        try:
            name = container.package_host(self.config.build.mirror)
            repaired = dns.ensure(container.execute, name, self.config.build.dns)
        except CoiError as error:
            if plan.needs_network:
                raise
            repaired = error.brief  # a user's script may do without
        if repaired:
            self.progress.note(repaired)
        return image

    def _resolves_elsewhere(self) -> bool:
        """Whether packages come through a proxy, which resolves names itself."""
        return any("proxy" in line.lower() for line in self.host.apt) or any(
            key != "no_proxy" for key, _ in self.host.proxies
        )

    def _publish(
        self,
        container: BuildContainer,
        version: str,
        properties: Mapping[str, str],
        operation: list[str],
        published: list[str],
    ) -> str:
        container.stop()
        with deferred():
            operation.append(
                self.images.start_publish(
                    container.name,
                    properties=properties,
                    aliases=[version],
                    compression=self._compression(),
                )
            )
        fingerprint = self.images.finish_publish(operation[0])
        published.append(fingerprint)
        operation.clear()
        return fingerprint

    def _compression(self) -> str:
        """zstd where the server surely has it: measured with the default image
        (1.5 GB), published and unpacked again: zstd 22 + 12 s and 541 MB, none
        26 + 20 s and 1519 MB, gzip (the server's default) 109 + 24 s and 567 MB."""
        return "zstd" if self.client.remote == "local" and which("zstd") else "none"

    def _warm_up(self, name: str, image: str, fingerprint: str) -> None:
        """Unpack the image into the pool now, not at the first session."""
        body = {
            "name": name,
            "type": "container",
            "source": {"type": "image", "fingerprint": fingerprint},
            "config": {TAG: image, OWNER: self.owner},
        }
        with deferred():
            Instances(self.client).create(body)
            remove_instance(self.client, name)

    # -- Leaving nothing behind --------------------------------------------------

    def _clean_up(
        self, container: BuildContainer, warm: str, operation: list[str], published: list[str]
    ) -> None:
        if operation:  # interrupted while the daemon publishes: it cannot be stopped
            with suppress(CoiError):  # then there is no image
                published.append(self.images.finish_publish(operation[0]))
        for name in (container.name, warm):
            remove_instance(self.client, name)
        for fingerprint in published:
            try:
                self.images.delete(fingerprint)
            except MissingError:
                continue

    def _sweep(self, name: str) -> None:
        """Remove what a killed build of the same name left; the lock proves it dead."""
        rows = Instances(self.client).all()
        for stale in leftovers(rows, image=name, owner=self.owner):
            remove_instance(self.client, stale)

    def _drop_old(self, name: str, current: str) -> None:
        """Keep :data:`KEPT_VERSIONS` earlier versions, the newest ones."""
        for image in old_versions(self.images.all(), name, current)[KEPT_VERSIONS:]:
            self.images.delete(image.fingerprint)


def old_versions(images: Sequence[Image], name: str, current: str) -> list[Image]:
    """coi's own earlier images of ``name``, the newest first; one that has an
    alias besides its version belongs to somebody."""
    found = []
    for image in images:
        if image.fingerprint == current or "coi.recipe" not in image.properties:
            continue
        if image.aliases and all(is_version(alias, name) for alias in image.aliases):
            found.append(image)
    return sorted(found, key=lambda image: max(image.aliases), reverse=True)


def is_version(alias: str, name: str) -> bool:
    return alias.startswith(name) and bool(_VERSION.fullmatch(alias[len(name) :]))


def _log_path(directory: Path) -> Path:
    stamp = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    path = directory / f"build-{stamp}.log"
    number = 1
    while path.exists():
        number += 1
        path = directory / f"build-{stamp}-{number}.log"
    return path


def _with_log(error: CoiError, log: Log) -> CoiError:
    """The same error with the end of the step's output and the log's path."""
    error.details = "\n".join(part for part in (error.details, log.tail()) if part)
    error.hint = "\n".join(part for part in (error.hint, f"the whole log: {log.path}") if part)
    return error
