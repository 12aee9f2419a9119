"""Which base an image is made of, and having it in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING

from coi.errors import CoiError, NotFoundError, UnavailableError
from coi.image.bootstrap import DebianBase, bootstrap, cached, debian_base
from coi.image.host import HostSettings
from coi.image.progress import Progress
from coi.incus.images import Images
from coi.records import record

if TYPE_CHECKING:
    from coi.config.model import Build
    from coi.image.container import Log

PROBE_DEADLINE = 8.0  # seconds for an image server to describe one image
_BOOTSTRAP_DEADLINE = 1800.0  # seconds


@record(frozen=True)
class Base:
    """A base, chosen or found.

    Attributes:
        text: as the user would write it.
        identity: what goes into the recipe's hash.
        remote: ``remote:alias`` to fetch, or ''.
        fingerprint: of an image in the store, '' where it is not there (yet).
        debian: to bootstrap.
        fallback: used where ``remote`` does not answer.
        properties: of an image in the store.
    """

    text: str
    identity: str
    remote: str = ""
    fingerprint: str = ""
    debian: DebianBase | None = None
    fallback: Base | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


def choose(
    images: Images,
    wanted: str | None,
    config: Build,
    *,
    host: HostSettings,
    architecture: str,
) -> Base:
    """What a name of a base stands for. Asks no image server.

    Args:
        wanted: ``debian:SUITE``, ``remote:alias`` or a local alias; None for
            the configuration's base with its fallback.

    Raises:
        NotFoundError: no such local image.
    """
    text = wanted or config.base
    if text.startswith("debian:"):
        suite = text.partition(":")[2]
        debian = debian_base(suite, architecture, host, mirror=config.mirror)
        return Base(text, debian.digest, debian=debian)
    if ":" in text:
        fallback = None
        identity = text
        if wanted is None and config.fallback and config.fallback != text:
            fallback = choose(images, config.fallback, config, host=host, architecture=architecture)
            identity = f"{text}|{fallback.identity}"
        return Base(text, identity, remote=text, fallback=fallback)
    image = images.find(text)
    if image is None:
        raise NotFoundError(
            f"base image {text!r} does not exist",
            hint="a local alias (see: incus image list), REMOTE:ALIAS or debian:SUITE",
        )
    return Base(text, image.fingerprint, fingerprint=image.fingerprint, properties=image.properties)


def prepare(images: Images, base: Base, progress: Progress, *, log: Log) -> Base:
    """The base that is used in the end: one with a fingerprint in the store, or
    a remote that answers.

    Raises:
        UnavailableError: the image server does not answer and there is no fallback.
    """
    if base.fingerprint:
        return base
    if base.debian is not None:
        image = cached(images, base.debian)
        if image is not None:
            return replace(base, fingerprint=image.fingerprint)
        fingerprint = bootstrap(
            images,
            base.debian,
            log=log.fd,
            follow=lambda process, stop: log.follow(process, _BOOTSTRAP_DEADLINE, stop=stop),
        )
        return replace(base, fingerprint=fingerprint)
    problem = _ask(images, base.remote)
    if not problem:
        return base
    log.write(problem + "\n")
    if base.fallback is None:
        raise UnavailableError(
            f"cannot get the base {base.text}",
            details=problem,
            hint="name another base: coi build --base debian:bookworm, or a local alias",
        )
    progress.note(f"cannot reach the image server of {base.text}: using {base.fallback.text}")
    return prepare(images, base.fallback, progress, log=log)


def _ask(images: Images, remote: str) -> str:
    """'' if the server describes the image within the deadline, else why not."""
    client = images.client
    try:
        client.run(
            client.command("image", "info", remote), timeout=PROBE_DEADLINE, action=f"find {remote}"
        )
    except CoiError as error:
        return error.details or error.brief
    return ""
