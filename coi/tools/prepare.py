"""What goes into a container before a tool starts there.

From the tool's declarations, the user's files on the host and the saved state
of an earlier session come the files to write over that state, the
environment and the command. Nothing here writes anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from coi.api import Answer, HostFile, JsonMerge, Launch, SavedState, TextFile, Tool
from coi.errors import CoiError, Interrupted, UsageError
from coi.tools.check import path_fault, variable_fault
from coi.tools.documents import kind_of, without_keys
from coi.tools.hostfiles import LIMIT, HostFileError, read_below
from coi.tools.merge import MalformedError, deep_merge, dump_object, load_object

FILE_MODE = 0o600

_T = TypeVar("_T")


@dataclass(frozen=True)
class PreparedFile:
    """A file to write inside.

    Attributes:
        path: relative to the home.
        data: its whole content; it may be a credential.
        mode: permission bits.
    """

    path: str
    data: bytes = field(repr=False)
    mode: int = FILE_MODE


@dataclass(frozen=True)
class Prepared:
    """One start of a tool, ready to be carried out.

    Attributes:
        files: written over the saved state, sorted by path.
        environment: the tool's variables with the user's over them.
        command: the argv.
        notices: files that were left out or replaced, and why; one line each.
    """

    files: tuple[PreparedFile, ...]
    environment: dict[str, str] = field(repr=False)
    command: tuple[str, ...]
    notices: tuple[str, ...] = ()


def prepare(
    tool: Tool,
    launch: Launch,
    *,
    host_home: Path,
    host_environment: Mapping[str, str],
    saved: SavedState | None,
    with_host_files: bool,
) -> Prepared:
    """Ask the tool what it needs and gather it.

    A JSON file (it is named ``*.json`` or the tool merges into it) is the
    saved one, with the host's laid over it, with the tool's values over both
    (under both where they are defaults).
    Any other file is the host's, or else stays as it was saved. A credential
    is the host's alone. A :class:`TextFile` is written only where neither has
    a file.

    Args:
        host_home: the user's home on the host.
        host_environment: the host's variables, to find files that were moved.
        saved: the state that is put back before, None for a fresh start.
        with_host_files: False leaves out every file of the host.

    Raises:
        CoiError: the plugin failed, or asked for what it may not have. Files that
            cannot be used do not raise: they are left out with a notice.
    """
    merges = _listed(tool, "merges", launch, JsonMerge)
    work = _Preparation(tool, saved, merges)
    if with_host_files:
        for wanted in host_files(tool, host_environment):
            work.take_host_file(wanted, host_home, host_environment)
    for merge in merges:
        work.merge(merge)
    for text in _listed(tool, "files", launch, TextFile):
        work.add_text(text)
    return Prepared(
        files=work.files(),
        environment=_environment(tool, launch),
        command=_command(tool, launch),
        notices=tuple(work.notices),
    )


def host_files(tool: Tool, host_environment: Mapping[str, str]) -> tuple[HostFile, ...]:
    """The host's files that the tool asks for, checked.

    Raises:
        CoiError: the plugin failed or asked for a path it may not have.
    """
    return _listed(tool, "host_files", host_environment, HostFile)


def find_session_id(tool: Tool, saved: SavedState, session_id: str) -> str | None:
    """The tool's own id of the conversation to resume, checked.

    Raises:
        CoiError: the plugin failed or returned something else than an id.
    """
    found: Any = call(tool, "find_session_id", saved, session_id)
    if found is None:
        return None
    if not isinstance(found, str) or not found or found.startswith("-") or not found.isprintable():
        raise _fault(tool, "find_session_id", f"it returned {str(found)[:80]!r}")
    return found


def answer(tool: Tool, output: str) -> Answer:
    """What a headless run has come to, checked.

    Args:
        output: its standard output, not trusted.

    Raises:
        CoiError: the plugin failed or returned something else.
    """
    found: Any = call(tool, "answer", output)
    if not isinstance(found, Answer) or not isinstance(found.text, str):
        raise _fault(tool, "answer", f"it returned a {type(found).__name__}")
    if found.session_id is not None and not isinstance(found.session_id, str):
        raise _fault(tool, "answer", "its session_id is not a string")
    return found


def without_secret_keys(tool: Tool, path: str, data: bytes) -> bytes | None:
    """A state file as it may be saved: JSON without the tool's ``secret_keys``.

    Args:
        path: relative to the home.
        data: the whole file, out of the container and not trusted.

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


def call(tool: Tool, method: str, *arguments: object) -> Any:
    """Call a plugin's method; what it raises becomes a CoiError that names it."""
    try:
        return getattr(tool, method)(*arguments)
    except (CoiError, KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:
        raise _fault(tool, method, f"{type(error).__name__}: {error}") from error


class _Preparation:
    """The files of one preparation as they come together."""

    def __init__(self, tool: Tool, saved: SavedState | None, merges: Sequence[JsonMerge]) -> None:
        self._merged_into = {merge.target for merge in merges}
        self.notices: list[str] = []
        self._tool = tool
        self._saved = saved
        self._in_saved = {str(e.path) for e in saved.entries()} if saved else set[str]()
        self._raw: dict[str, bytes] = {}  # written as they are
        self._json: dict[str, dict[str, Any]] = {}  # merged so far, saved state included
        self._sources: dict[str, bytes] = {}  # what a JSON target was read from

    def take_host_file(
        self, wanted: HostFile, host_home: Path, host_environment: Mapping[str, str]
    ) -> None:
        try:
            root, relative = _locate(wanted.source, host_home, host_environment)
            data = read_below(root, relative)
        except HostFileError as error:
            self._left_out(wanted, str(error))
            return
        if data is None:
            return
        if wanted.transform is not None:
            try:
                data = wanted.transform(data)
            except (KeyboardInterrupt, Interrupted):
                raise
            except BaseException as error:
                # Its message may quote the file, a credential perhaps.
                self._left_out(wanted, f"it cannot be read ({type(error).__name__})")
                return
            if not isinstance(data, bytes):
                raise _fault(self._tool, "host_files", "a transform returned no bytes")
        target = wanted.target
        if wanted.without:
            try:
                data = without_keys(target, data, wanted.without)
            except MalformedError:
                self._left_out(wanted, f"it is not valid {kind_of(target)}")
                return
        as_json = target.endswith(".json") or target in self._merged_into
        if wanted.secret or self._is_secret(target) or not as_json:
            self._raw[target] = data
            return
        try:
            values = load_object(data)
            merged = deep_merge(self._base(target), values)
        except (MalformedError, RecursionError):
            self._left_out(wanted, "it is not valid JSON")
            return
        self._json[target] = merged
        self._sources.setdefault(target, data)

    def merge(self, merge: JsonMerge) -> None:
        try:
            values = load_object(dump_object(dict(merge.values)))
        except (MalformedError, TypeError, ValueError) as error:
            raise _fault(self._tool, "merges", f"{merge.target}: {error}") from error
        try:
            base = self._base(merge.target)
            layers = (values, base) if merge.default else (base, values)
            self._json[merge.target] = deep_merge(*layers)
        except RecursionError:
            self._json[merge.target] = values
            self.notices.append(f"~/{merge.target} is nested too deeply; it is replaced")

    def add_text(self, text: TextFile) -> None:
        taken = text.target in self._raw or text.target in self._json
        if not taken and text.target not in self._in_saved:
            self._raw[text.target] = text.content.encode()

    def files(self) -> tuple[PreparedFile, ...]:
        ready = dict(self._raw)
        for target, merged in self._json.items():
            original = self._sources.get(target)
            if original is not None and load_object(original) == merged:
                ready[target] = original  # nothing was added: the user's own formatting
            else:
                ready[target] = dump_object(merged)
        return tuple(PreparedFile(path, data) for path, data in sorted(ready.items()))

    def _base(self, target: str) -> dict[str, Any]:
        """What a JSON target holds before the next layer."""
        if target in self._json:
            return self._json[target]
        if target in self._raw:  # a credential that the tool also merges into
            data = self._raw.pop(target)
            where = "the host's"
        elif self._saved is not None and target in self._in_saved and not self._is_secret(target):
            data = self._saved.read(target, LIMIT + 1)
            where = "the saved"
        else:
            return {}
        with suppress(MalformedError):
            if len(data) <= LIMIT:
                return load_object(data)
        self.notices.append(
            f"{where} ~/{target} is not valid JSON; inside it is replaced by a fresh one"
        )
        return {}

    def _is_secret(self, target: str) -> bool:
        return any(fnmatchcase(target, pattern) for pattern in self._tool.secrets)

    def _left_out(self, wanted: HostFile, reason: str) -> None:
        shown = wanted.source if wanted.source.startswith("/") else f"~/{wanted.source}"
        self.notices.append(f"{shown} of the host is left out: {reason}")


def _listed(tool: Tool, method: str, argument: object, kind: type[_T]) -> tuple[_T, ...]:
    """What a plugin's method lists, each item checked."""
    found = call(tool, method, argument)
    try:
        items = tuple(found)
    except (CoiError, KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:  # a generator that fails, or nothing that can be listed
        raise _fault(tool, method, f"{type(error).__name__}: {error}") from error
    for item in items:
        if not isinstance(item, kind):
            raise _fault(tool, method, f"it returned a {type(item).__name__}")
        target: object = getattr(item, "target", None)
        if fault := path_fault(target):
            raise _fault(tool, method, f"target {str(target)[:80]!r}: {fault}")
        source: object = getattr(item, "source", "")
        absolute = isinstance(source, str) and source.startswith("/") and "\0" not in source
        if not absolute and source != "" and (fault := path_fault(source)):
            raise _fault(tool, method, f"source {str(source)[:80]!r}: {fault}")
    return items


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


def _environment(tool: Tool, launch: Launch) -> dict[str, str]:
    declared = call(tool, "environment", launch)
    if not isinstance(declared, Mapping):
        raise _fault(tool, "environment", f"it returned a {type(declared).__name__}")
    for name, value in declared.items():
        if fault := variable_fault(name, value):
            raise _fault(tool, "environment", fault)
    return {**declared, **launch.environment}


def _command(tool: Tool, launch: Launch) -> tuple[str, ...]:
    method = "headless" if launch.prompt else "command"
    argv = call(tool, method, launch)
    if argv is None and launch.prompt:
        raise UsageError(
            f"{tool.title or tool.name} takes no prompt from outside",
            hint=f"start it: coi shell --tool {tool.name}",
        )
    if isinstance(argv, str) or not isinstance(argv, Sequence) or not argv:
        raise _fault(tool, method, "it returned no list of arguments")
    if not all(isinstance(part, str) and "\0" not in part for part in argv) or not argv[0]:
        raise _fault(tool, method, "an argument is not a string, or has a NUL byte")
    return tuple(argv)


def _fault(tool: Tool, method: str, details: str) -> CoiError:
    return CoiError(
        f"the plugin of tool {tool.name!r} failed in {method}()",
        details=details[:500],
        hint="report it to the plugin's author, or leave it out with COI_DISABLED_PLUGINS",
    )
