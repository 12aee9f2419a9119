"""Images and their aliases: the model and the operations.

Shapes: https://linuxcontainers.org/incus/docs/main/rest-api-spec/ ; parsed
from what the daemon answers (fixtures/incus/images.json, 6.0.4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from coi.incus.client import Client, count, keys, listed, named, shaped, table, text
from coi.incus.errors import AlreadyExistsError, ImageMissingError, IncusError, MissingError
from coi.incus.urls import segment
from coi.records import record

TRANSFER_TIMEOUT = 900.0  # seconds for what moves a whole image

_FINGERPRINT = re.compile(r"\b[0-9a-f]{64}\b")


@record(frozen=True)
class Image:
    """An image of the server's store.

    Attributes:
        aliases: its names, possibly none.
        properties: set at publication; instances of it carry them as
            ``image.<key>``.
        size: bytes in the store, as compressed.
        created_at, uploaded_at, last_used_at: RFC 3339, as the daemon writes it.
        cached: fetched from a remote for an instance, and expires by itself.
    """

    fingerprint: str
    aliases: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""
    type: str = "container"
    size: int = 0
    created_at: str = ""
    uploaded_at: str = ""
    last_used_at: str = ""
    cached: bool = False
    public: bool = False

    @classmethod
    @shaped
    def parse(cls, data: Mapping[str, Any]) -> Image:
        """From one element of ``GET /1.0/images?recursion=1``."""
        return cls(
            fingerprint=named(data["fingerprint"]),
            aliases=tuple(sorted(listed(_alias, data.get("aliases")))),
            properties=keys(data.get("properties")),
            architecture=text(data.get("architecture")),
            type=text(data.get("type")) or "container",
            size=count(data.get("size")),
            created_at=text(data.get("created_at")),
            uploaded_at=text(data.get("uploaded_at")),
            last_used_at=text(data.get("last_used_at")),
            cached=bool(data.get("cached")),
            public=bool(data.get("public")),
        )


def _alias(row: Any) -> str:
    return named(row["name"])


class Images:
    """Operations on the images of one server and project, one call each
    unless said otherwise."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def all(self) -> list[Image]:
        """All images, with their aliases."""
        rows = self.client.query(
            "GET", "/1.0/images", params={"recursion": "1"}, action="list images"
        )
        return listed(Image.parse, rows)

    def find(self, name: str) -> Image | None:
        """The image with this alias, or this fingerprint or a prefix of it
        (12 characters and more), or None."""
        images = self.all()
        for image in images:
            if name in image.aliases:
                return image
        if len(name) >= 12:
            for image in images:
                if image.fingerprint.startswith(name):
                    return image
        return None

    def get(self, name: str) -> Image:
        """As :meth:`find`.

        Raises:
            ImageMissingError: there is none.
        """
        image = self.find(name)
        if image is None:
            raise ImageMissingError(
                f"image {name!r} does not exist", hint="see: coi image list --all"
            )
        return image

    def exists(self, name: str) -> bool:
        """Whether :meth:`find` finds it."""
        return self.find(name) is not None

    def import_(
        self,
        metadata: Path,
        rootfs: Path,
        *,
        alias: str = "",
        properties: Mapping[str, str] | None = None,
    ) -> str:
        """Import a split image (two tar files); its fingerprint."""
        remote = [] if self.client.remote == "local" else [f"{self.client.remote}:"]
        args = ["image", "import", str(metadata), str(rootfs), *remote]
        args += [f"{key}={value}" for key, value in (properties or {}).items()]
        if alias:
            args += ["--alias", alias]
        done = self.client.run(
            self.client.command(*args), timeout=TRANSFER_TIMEOUT, action="import the image"
        )
        found = _FINGERPRINT.search(done.stdout.decode("utf-8", "replace"))
        if found is None:
            raise IncusError(
                "cannot tell the fingerprint of the imported image",
                details=done.stdout.decode("utf-8", "replace")[:2000],
            )
        return found.group()

    def start_publish(
        self,
        instance: str,
        *,
        properties: Mapping[str, str],
        aliases: Sequence[str] = (),
        compression: str = "",
    ) -> str:
        """Begin to make an image of a stopped instance; the operation's id.

        Args:
            properties: the image's; they are visible to everybody who may see it.
            compression: ``none``, ``gzip``, ``zstd``, ...; "" for the server's own.
        """
        body: dict[str, Any] = {
            "source": {"type": "instance", "name": instance},
            "properties": dict(properties),
            "aliases": [{"name": alias} for alias in aliases],
            "public": False,
        }
        if compression:
            body["compression_algorithm"] = compression
        operation = self.client.query(
            "POST", "/1.0/images", body=body, action=f"publish {instance}"
        )
        found = table(operation).get("id")
        if not isinstance(found, str):
            raise IncusError(
                "cannot publish: Incus names no operation", details=str(operation)[:2000]
            )
        return found

    def finish_publish(self, operation: str, timeout: float = TRANSFER_TIMEOUT) -> str:
        """Wait for :meth:`start_publish`; the new image's fingerprint.

        Raises:
            IncusError: it failed, or still runs after ``timeout`` seconds.
        """
        done = self.client.query(
            "GET",
            f"/1.0/operations/{segment(operation)}/wait",
            params={"timeout": str(int(timeout))},
            timeout=timeout + 5,
            action="publish the image",
        )
        done = table(done)
        if done.get("err"):
            from coi.incus.errors import classify

            raise classify(str(done["err"]), action="publish the image")
        fingerprint = table(done.get("metadata")).get("fingerprint")
        if not fingerprint:
            raise IncusError(
                "cannot publish the image",
                details=f"the operation is {done.get('status', 'unknown')}",
            )
        return str(fingerprint)

    def publish(
        self,
        instance: str,
        *,
        properties: Mapping[str, str],
        aliases: Sequence[str] = (),
        compression: str = "",
    ) -> str:
        """:meth:`start_publish` and :meth:`finish_publish` (two calls)."""
        return self.finish_publish(
            self.start_publish(
                instance, properties=properties, aliases=aliases, compression=compression
            )
        )

    def delete(self, fingerprint: str) -> None:
        """Delete an image and its aliases; instances made of it stay.

        Raises:
            MissingError: there is none.
        """
        self.client.query(
            "DELETE",
            f"/1.0/images/{segment(fingerprint)}",
            wait=True,
            action=f"delete image {fingerprint[:12]}",
        )

    def set_alias(self, alias: str, fingerprint: str, *, description: str = "") -> None:
        """Point an alias at an image; it never points nowhere in between.

        One call where the alias is new, two where it moves.
        """
        target = {"target": fingerprint, "description": description}
        try:
            self.client.query(
                "POST",
                "/1.0/images/aliases",
                body={"name": alias, **target},
                action=f"name the image {alias}",
            )
        except AlreadyExistsError:
            self.client.query(
                "PUT",
                f"/1.0/images/aliases/{segment(alias)}",
                body=target,
                action=f"move the alias {alias}",
            )

    def delete_alias(self, alias: str) -> None:
        """Remove a name; nothing to do when it is gone."""
        try:
            self.client.query(
                "DELETE", f"/1.0/images/aliases/{segment(alias)}", action=f"remove alias {alias}"
            )
        except MissingError:
            return
