"""The use cases behind ``coi build``: what goes into an image, then the build."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coi.api import ImageContext, Tool
from coi.errors import CoiError, NotFoundError, UsageError
from coi.image.base import choose
from coi.image.builder import Builder, BuildResult, Plan
from coi.image.host import HostSettings, read_host
from coi.image.progress import Progress
from coi.image.recipe import Inputs, Step, clean_step, custom_hash, recipe_hash, steps
from coi.incus.client import Client, table
from coi.incus.images import Images
from coi.incus.process import Runner

if TYPE_CHECKING:
    from coi.config.model import Config

__all__ = ["IMAGE", "BuildResult", "build", "build_custom"]

IMAGE = "coi"  # the plain alias of coi's own image

_NAME = re.compile(r"(?!.*-\d{8}-\d{6}$)[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SCRIPT_LIMIT = 1 << 20  # bytes of a custom build script


def build(
    client: Client,
    *,
    name: str,
    config: Config,
    tools: Sequence[Tool],
    base: str | None,
    force: bool,
    progress: Progress,
    uid: int,
    if_changed: bool = False,
    network: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> BuildResult:
    """Build coi's image, or find that it is up to date.

    Args:
        name: the plain alias.
        base: a local alias, ``remote:alias`` or ``debian:SUITE``; None for the
            configuration's, with its fallback where the remote does not answer.
        force: build even where the image is up to date.
        uid: of the user inside.
        if_changed: build where the image exists of other inputs, instead of
            refusing.
        network: a managed network for the build, None for the profile's.

    Raises:
        AlreadyExistsError: the image exists of other inputs.
        Interrupted: SIGINT, SIGTERM or SIGHUP; nothing is left behind.
        CoiError: a step failed; the log's path is in the hint.
    """
    _check_name(name)
    architecture = _architecture(client)
    host = _host_settings(environ)
    images = Images(client)
    chosen = choose(images, base, config.build, host=host, architecture=architecture)
    inputs = Inputs(tools, config.incus.code_user, uid, host, config.build.mirror)
    plan = Plan(
        name=name,
        base=chosen,
        recipe=recipe_hash(inputs, base=chosen.identity, architecture=architecture),
        description=f"coi image with {', '.join(t.name for t in tools) or 'no tool'}",
        properties={"coi.tools": ",".join(tool.name for tool in tools)},
        needs_network=True,
        steps=lambda image: steps(inputs, image),
    )
    builder = Builder(client, config, progress, host, environ, architecture, network)
    return builder.run(plan, force=force, if_changed=if_changed)


def build_custom(
    client: Client,
    *,
    name: str,
    script: Path,
    config: Config,
    base: str | None,
    force: bool,
    progress: Progress,
    if_changed: bool = False,
    network: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> BuildResult:
    """An image of the user's own: a base (coi's image by default) and a script
    that runs as root in it. Arguments and errors as :func:`build`."""
    _check_name(name)
    text = _read_script(script)
    architecture = _architecture(client)
    host = _host_settings(environ)
    chosen = choose(
        Images(client),
        base or IMAGE,
        config.build,
        host=host,
        architecture=architecture,
    )
    tools = chosen.properties.get("coi.tools", "")

    def custom_steps(image: ImageContext) -> list[Step]:
        own = Step("custom", f"Run {script.name}", _as_command(text), timeout=7200.0)
        return [own, clean_step()]

    plan = Plan(
        name=name,
        base=chosen,
        recipe=custom_hash(text, base=chosen.identity),
        description=f"custom coi image on {chosen.text}",
        properties={"coi.tools": tools},
        needs_network=False,
        steps=custom_steps,
    )
    builder = Builder(client, config, progress, host, environ, architecture, network)
    return builder.run(plan, force=force, if_changed=if_changed)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"not a usable image name: {name!r}",
            hint="letters, digits, dots, dashes and underscores, and no date at the end",
        )


def _read_script(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_SCRIPT_LIMIT + 1)
    except FileNotFoundError:
        raise NotFoundError(f"build script {str(path)!r} does not exist") from None
    except OSError as error:
        raise CoiError(f"cannot read the build script {str(path)!r}", details=str(error)) from None
    if len(data) > _SCRIPT_LIMIT:
        raise UsageError(f"build script {str(path)!r} is larger than 1 MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"build script {str(path)!r} is not UTF-8 text") from None


def _as_command(text: str) -> str:
    """A shell script that runs ``text`` by its own ``#!`` line, or by bash -e."""
    import base64

    encoded = base64.b64encode(text.encode()).decode()
    run = "/run/coi-custom" if text.startswith("#!") else "bash -e /run/coi-custom"
    return (
        "[ ! -r /etc/profile.d/coi.sh ] || . /etc/profile.d/coi.sh\n"
        f"echo {encoded} | base64 -d > /run/coi-custom\n"
        f"chmod 700 /run/coi-custom\n{run}\nrm -f /run/coi-custom"
    )


def _architecture(client: Client) -> str:
    server = client.query("GET", "/1.0", action="ask Incus")
    return str(table(table(server).get("environment")).get("kernel_architecture") or "x86_64")


def _host_settings(environ: Mapping[str, str]) -> HostSettings:
    apt = Runner("apt-config")
    dump = ""
    if apt.available():
        dump = apt.run(["dump", "Acquire"], timeout=10).stdout.decode("utf-8", "replace")
    return read_host(environ, apt_config=dump)
