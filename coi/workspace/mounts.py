"""Further directories of the host inside: ``--mount``, ``--storage``, ``[[mounts.default]]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from coi.config.model import Mount
from coi.errors import NotFoundError, RefusedError, UsageError
from coi.records import record
from coi.workspace.directory import INSIDE, absolute, check_text, overlap

# Directories that nothing may cover, and those where nothing may be mounted at all.
_RESERVED = frozenset(
    map(
        PurePosixPath,
        (
            "/",
            "/bin",
            "/boot",
            "/etc",
            "/home",
            "/home/code",
            "/lib",
            "/root",
            "/run",
            "/usr",
            "/var",
        ),
    )
)
_CLOSED = tuple(
    map(PurePosixPath, (INSIDE, "/dev", "/proc", "/sys", "/home/code/.coi", "/root/.coi"))
)
STORAGE = "/storage"
_MAX_LINKS = 40  # of a path, as for the kernel
_EXAMPLE = "--mount ~/data:/data, or ~/data:/data:ro to keep it as it is"


@record(frozen=True)
class _Wanted:
    host: Path
    inside: PurePosixPath
    readonly: bool


def parse(text: str) -> Mount:
    """``HOST:CONTAINER[:ro]``.

    Raises:
        UsageError: it has another form.
    """
    parts = text.split(":")
    readonly = len(parts) == 3 and parts[2] == "ro"
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise UsageError(f"--mount needs HOST:CONTAINER[:ro], not {text!r}", hint=_EXAMPLE)
    if not parts[0] or not parts[1]:
        raise UsageError(f"--mount needs a host and a container path: {text!r}", hint=_EXAMPLE)
    return Mount(host=Path(parts[0]), container=parts[1], readonly=readonly)


def devices(
    defaults: Sequence[Mount],
    flags: Sequence[str],
    storage: str | None,
    *,
    shift: bool,
    private: Path,
    workspace: Path | None = None,
) -> dict[str, dict[str, str]]:
    """The Incus disk devices of all mounts, by device name.

    Args:
        defaults: of the configuration.
        flags: values of ``--mount``.
        storage: value of ``--storage``.
        shift: idmapped mounts are on.
        private: coi's own directory, never mounted.
        workspace: resolved; nothing in it is mounted a second time.

    Raises:
        NotFoundError: a host path does not exist.
        UsageError: paths inside clash, or cover /, the home or /workspace.
        RefusedError: a host path contains ``private``, or leads through the workspace.
    """
    mounts = [*defaults, *(parse(flag) for flag in flags)]
    if storage is not None:
        mounts.append(Mount(host=Path(storage), container=STORAGE, readonly=False))
    wanted: list[_Wanted] = []
    for mount in mounts:
        if workspace is not None:
            _refuse_through(str(mount.host), workspace)
        item = _checked(str(mount.host), mount.container, mount.readonly, private)
        for other in wanted:
            if overlap(item.inside, other.inside):
                raise UsageError(
                    f"mounts overlap: {other.inside} and {item.inside}",
                    hint="give one of them another place inside",
                )
        wanted.append(item)
    result: dict[str, dict[str, str]] = {}
    for number, item in enumerate(wanted, 1):
        device = {"type": "disk", "source": str(item.host), "path": str(item.inside)}
        if shift:
            device["shift"] = "true"
        if item.readonly:
            device["readonly"] = "true"
        result[f"mount{number}"] = device
    return result


def _checked(given: str, container: str, readonly: bool, private: Path) -> _Wanted:
    for text in (given, container):
        check_text(text, "a mount's path")
    if not container.startswith("/") or ".." in PurePosixPath(container).parts:
        raise UsageError(f"a mount's container path must be absolute: {container}", hint=_EXAMPLE)
    inside = PurePosixPath("/" + container.lstrip("/"))  # // is a root of its own to pathlib
    if inside in _RESERVED or any(overlap(inside, place) for place in _CLOSED):
        raise UsageError(
            f"a mount must not cover {container}", hint=f"choose a place of its own: {_EXAMPLE}"
        )
    host = absolute(Path(given).expanduser())
    try:
        source = host.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise NotFoundError(
            f"nothing to mount at {given}",
            details=str(error),
            hint="coi does not create it: mkdir it first",
        ) from error
    inner = private.resolve()
    check_text(str(source), "a mount's path")
    if overlap(inner, source):
        raise RefusedError(
            f"will not share {given} with a container: it holds coi's own data",
            hint="mount the directory in it that is needed",
        )
    return _Wanted(source, inside, readonly)


def _refuse_through(given: str, workspace: Path) -> None:
    """See that no part of a path is in the workspace, where a container could swap it.

    The daemon, which is root, resolves a mount's source anew at each start. So it does not
    help to look for links before.

    Raises:
        RefusedError: it leads through the workspace.
    """
    check_text(given, "a mount's path")
    names = list(reversed(absolute(Path(given).expanduser()).parts[1:]))
    place, links = Path("/"), 0
    while names:
        name = names.pop()
        place = place.parent if name == ".." else place / name
        if workspace in place.parents:
            raise RefusedError(
                f"will not mount {given}: its path is in the workspace",
                details="Whoever runs inside could put a link there, and have another directory "
                "of yours mounted.",
                hint=f"inside it is at {INSIDE}/{place.relative_to(workspace)}; "
                "else keep it beside the workspace",
            )
        if place.is_symlink() and links < _MAX_LINKS:
            links += 1
            target = place.readlink()
            place = Path("/") if target.is_absolute() else place.parent
            names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
