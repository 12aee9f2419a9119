"""What of the host a session may have: its tool's files and variables, as data.

A credential is a :class:`HostFile` that says so (or that the tool's ``secrets``
or ``secret_keys`` name), or one of the tool's ``host_variables``. ``[tool.NAME]
credentials`` lists those that may go in; without it all may, and an empty list
keeps every one out. Settings without a credential are not in question there:
``mount_claude_config = false`` is what leaves those out, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from coi.api import HostFile, Tool
from coi.config.kinds import CREDENTIALS
from coi.errors import ConfigError, Interrupted
from coi.records import record
from coi.tools.calls import blamed, fault, listed
from coi.tools.documents import kind_of, without_keys
from coi.tools.hostfiles import LIMIT, HostFileError, read_below
from coi.tools.merge import MalformedError, dump_object, load_object


@record(frozen=True)
class Access:
    """What a tool may have of the host.

    Attributes:
        files: its files may go in at all.
        names: of the credentials that may, None for all of them.
        variables: those that go in, with their values.
    """

    files: bool = True
    names: frozenset[str] | None = None
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def allows(self, *names: str) -> bool:
        """Whether a credential that goes by these names may go in."""
        return self.files and (self.names is None or not self.names.isdisjoint(names))


def host_access(
    tool: Tool,
    options: Mapping[str, Any],
    *,
    enabled: bool,
    host_environment: Mapping[str, str],
) -> Access:
    """What the configuration lets a tool have, its variables read now.

    Args:
        options: the ``[tool.NAME]`` table.
        enabled: ``mount_claude_config``.

    Raises:
        ConfigError: the table names something that the tool does not declare.
        CoiError: the plugin failed.
    """
    names: frozenset[str] | None = None
    if CREDENTIALS in options:
        names = frozenset(options[CREDENTIALS])
        known = declared(tool, host_files(tool, host_environment))
        if unknown := sorted(names.difference(*known)):
            allowed = ", ".join(entry[0] for entry in known)
            raise ConfigError(
                f"tool.{tool.name}.{CREDENTIALS}: {tool.title or tool.name} has no {unknown[0]!r}",
                details=f"allowed are: {allowed}" if allowed else "it declares no credential",
                hint="coi config show --origin tells which file says so",
            )
    access = Access(enabled, names)
    variables = {
        name: value
        for name in tool.host_variables
        if (value := host_environment.get(name)) and access.allows(name)
    }
    return Access(enabled, names, variables)


def host_files(tool: Tool, host_environment: Mapping[str, str]) -> tuple[HostFile, ...]:
    """The host's files that the tool asks for, checked.

    Raises:
        CoiError: the plugin failed or asked for a path it may not have.
    """
    return listed(tool, "host_files", host_environment, HostFile)


@record(frozen=True)
class Seen:
    """A file of the host as it is now.

    Attributes:
        credential: it is one, or may hold one.
        status: ``present``, ``absent``, ``refused`` or ``kept out``.
        reason: why it is refused, or what of it is kept out.
    """

    wanted: HostFile
    credential: bool
    status: str
    reason: str = ""


def seen_files(
    tool: Tool, access: Access, *, host_home: Path, host_environment: Mapping[str, str]
) -> tuple[Seen, ...]:
    """What would become of each file that the tool asks for; they are read, and forgotten.

    Raises:
        CoiError: the plugin failed.
    """
    found: list[Seen] = []
    for wanted in host_files(tool, host_environment):
        credential = is_credential(tool, wanted)
        if not _may(tool, wanted, access):
            found.append(Seen(wanted, credential, "kept out"))
            continue
        try:
            data = read_host_file(
                tool, wanted, access, host_home=host_home, host_environment=host_environment
            )
        except HostFileError as error:
            found.append(Seen(wanted, credential, "refused", str(error)))
            continue
        part = credential and data is not None and not access.allows(*names_of(wanted))
        reason = "its credentials are kept out" if part else ""
        found.append(Seen(wanted, credential, "absent" if data is None else "present", reason))
    return tuple(found)


def declared(tool: Tool, files: Sequence[HostFile]) -> list[tuple[str, ...]]:
    """The names of every credential of a tool, the preferred one first."""
    found = [names_of(wanted) for wanted in files if is_credential(tool, wanted)]
    return [*found, *((name,) for name in tool.host_variables)]


def names_of(wanted: HostFile) -> tuple[str, ...]:
    """What a file is called by in the configuration: its place inside, its place here."""
    return tuple(dict.fromkeys((wanted.target, wanted.source)))


def is_credential(tool: Tool, wanted: HostFile) -> bool:
    """Whether a file of the host is one, or may hold one beside settings."""
    return is_secret(tool, wanted) or wanted.target in tool.secret_keys


def is_secret(tool: Tool, wanted: HostFile) -> bool:
    """Whether a file is a credential as a whole."""
    return bool(wanted.secret) or matches_secrets(tool, wanted.target)


def matches_secrets(tool: Tool, target: str) -> bool:
    """Whether a path of the home is one of the tool's ``secrets``."""
    return any(fnmatchcase(target, pattern) for pattern in tool.secrets)


def read_host_file(
    tool: Tool,
    wanted: HostFile,
    access: Access,
    *,
    host_home: Path,
    host_environment: Mapping[str, str],
) -> bytes | None:
    """What of a file of the host may go in; None where there is nothing.

    Raises:
        HostFileError: it is there, and must not or cannot go in; the text says why.
        CoiError: the plugin failed.
    """
    if not _may(tool, wanted, access):
        return None
    root, relative = _locate(wanted.source, host_home, host_environment)
    data = read_below(root, relative)
    if data is not None and wanted.transform is not None:
        try:
            with blamed(tool, "host_files"):
                data = wanted.transform(data)
        except (KeyboardInterrupt, Interrupted):
            raise
        except Exception as error:
            # Its message may quote the file, a credential perhaps.
            cause = error.__cause__ or error
            raise HostFileError(f"it cannot be read ({type(cause).__name__})") from None
        if type(data) is not bytes:
            raise fault(tool, "host_files", "a transform returned no bytes")
        if len(data) > LIMIT:
            raise HostFileError(f"larger than {LIMIT >> 20} MiB")
    if data is not None and wanted.without:
        try:
            data = without_keys(wanted.target, data, wanted.without)
        except MalformedError:
            raise HostFileError(f"it is not valid {kind_of(wanted.target)}") from None
    if data is None or access.allows(*names_of(wanted)):
        return data
    kept = without_secret_keys(tool, wanted.target, data)
    if kept is None:
        raise HostFileError("it is not valid JSON, and may hold a credential")
    return kept


def _may(tool: Tool, wanted: HostFile, access: Access) -> bool:
    """Whether any of a file may go in: settings may, a credential if it is allowed."""
    return access.files and (not is_secret(tool, wanted) or access.allows(*names_of(wanted)))


def without_secret_keys(tool: Tool, path: str, data: bytes) -> bytes | None:
    """A JSON file without the tool's ``secret_keys``.

    Args:
        path: relative to the home.
        data: the whole file, not trusted.

    Returns:
        ``data`` itself where there is nothing to remove; None where that
        cannot be told because it is no JSON object: it must not be saved.
    """
    keys = tool.secret_keys.get(path, ())
    if not keys:
        return data
    try:
        values = load_object(data)
        kept = {key: value for key, value in values.items() if key not in keys}
        return data if len(kept) == len(values) else dump_object(kept)
    except MalformedError:
        return None


def _locate(source: str, host_home: Path, host_environment: Mapping[str, str]) -> tuple[Path, str]:
    """The directory that a source must stay inside, and the rest of its path."""
    if not source.startswith("/"):
        return host_home, source
    path = Path(os.path.normpath(source))
    roots = [host_home]
    for value in host_environment.values():
        if value.startswith("/") and (named := os.path.normpath(value)) != "/":
            roots.append(Path(named))
    for root in roots:
        if path != root and path.is_relative_to(root):
            return root, str(path.relative_to(root))
    raise HostFileError("no variable of the environment names its directory")
