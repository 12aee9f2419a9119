"""What goes into a container before a tool starts there.

From the tool's declarations, the user's files on the host and the saved state
of an earlier session come the files to write over that state, the
environment and the command. Nothing here writes anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any

from coi.api import Answer, HostFile, JsonMerge, Launch, SavedState, TextFile, Tool
from coi.errors import UsageError
from coi.records import record
from coi.tools.calls import blamed, call, fault, listed, strings
from coi.tools.check import variable_fault
from coi.tools.credentials import (
    Access,
    host_access,
    host_files,
    is_secret,
    matches_secrets,
    read_host_file,
    without_secret_keys,
)
from coi.tools.hostfiles import LIMIT, HostFileError
from coi.tools.merge import MalformedError, deep_merge, dump_object, load_object

__all__ = [
    "Access",
    "Prepared",
    "PreparedFile",
    "answer",
    "find_session_id",
    "host_access",
    "host_files",
    "prepare",
    "without_secret_keys",
]

FILE_MODE = 0o600
MAX_ARGUMENT = (1 << 17) - 1  # bytes of one argument or variable (execve(2), MAX_ARG_STRLEN)
MAX_ID = 512  # characters of a tool's own id of a conversation


@record(frozen=True)
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


@record(frozen=True)
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
    credentials: Collection[str] | None = None,
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
        credentials: the names of those that may go in, None for all.

    Raises:
        CoiError: the plugin failed, or asked for what it may not have. Files that
            cannot be used do not raise: they are left out with a notice.
    """
    merges = listed(tool, "merges", launch, JsonMerge)
    access = Access(with_host_files, None if credentials is None else frozenset(credentials))
    work = _Preparation(tool, saved, merges, access)
    if with_host_files:
        for wanted in host_files(tool, host_environment):
            work.take_host_file(wanted, host_home, host_environment)
    for merge in merges:
        work.merge(merge)
    for text in listed(tool, "files", launch, TextFile):
        work.add_text(text)
    return Prepared(
        files=work.files(),
        environment=_environment(tool, launch),
        command=_command(tool, launch),
        notices=tuple(work.notices),
    )


def find_session_id(tool: Tool, saved: SavedState, session_id: str) -> str | None:
    """The tool's own id of the conversation to resume, checked.

    Raises:
        CoiError: the plugin failed or returned something else than an id.
    """
    found: Any = call(tool, "find_session_id", saved, session_id)
    if found is None:
        return None
    if not _is_id(found):
        raise fault(tool, "find_session_id", f"it returned {str(found)[:80]!r}")
    return str(found)


def _is_id(found: object) -> bool:
    """Whether it can be an id: an argument that no tool takes for an option."""
    return (
        type(found) is str
        and 0 < len(found) <= MAX_ID
        and not found.startswith("-")
        and found.isprintable()
    )


def answer(tool: Tool, output: str) -> Answer:
    """What a headless run has come to, checked.

    Args:
        output: its standard output, not trusted.

    Raises:
        CoiError: the plugin failed or returned something else.
    """
    with blamed(tool, "answer"):
        found: Any = tool.answer(output)
        if type(found) is not Answer or type(found.text) is not str:
            raise fault(tool, "answer", f"it returned a {type(found).__name__}")
        if found.session_id is not None and not _is_id(found.session_id):
            raise fault(tool, "answer", f"its session_id is {str(found.session_id)[:80]!r}")
    return Answer(found.text, found.session_id)


class _Preparation:
    """The files of one preparation as they come together."""

    def __init__(
        self, tool: Tool, saved: SavedState | None, merges: Sequence[JsonMerge], access: Access
    ) -> None:
        self._access = access
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
            data = read_host_file(
                self._tool,
                wanted,
                self._access,
                host_home=host_home,
                host_environment=host_environment,
            )
        except HostFileError as error:
            self._left_out(wanted, str(error))
            return
        if data is None:
            return
        target = wanted.target
        as_json = target.endswith(".json") or target in self._merged_into
        if is_secret(self._tool, wanted) or not as_json:
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
        with blamed(self._tool, "merges"):
            values = load_object(dump_object(dict(merge.values)))
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
            with blamed(self._tool, "files"):
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
        elif (
            self._saved is not None
            and target in self._in_saved
            and not matches_secrets(self._tool, target)
        ):
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

    def _left_out(self, wanted: HostFile, reason: str) -> None:
        shown = wanted.source if wanted.source.startswith("/") else f"~/{wanted.source}"
        self.notices.append(f"{shown} of the host is left out: {reason}")


def _environment(tool: Tool, launch: Launch) -> dict[str, str]:
    with blamed(tool, "environment"):
        found = tool.environment(launch)
        if not isinstance(found, Mapping):
            raise fault(tool, "environment", f"it returned a {type(found).__name__}")
        own = dict(found)
        for name, value in own.items():
            if reason := variable_fault(name, value):
                raise fault(tool, "environment", reason)
            if len(f"{name}={value}".encode("utf-8", "surrogateescape")) > MAX_ARGUMENT:
                raise fault(tool, "environment", f"{name} is longer than {MAX_ARGUMENT} bytes")
    return {**own, **launch.environment}


def _command(tool: Tool, launch: Launch) -> tuple[str, ...]:
    method = "headless" if launch.prompt else "command"
    argv = call(tool, method, launch)
    if argv is None and launch.prompt:
        raise UsageError(
            f"{tool.title or tool.name} takes no prompt from outside",
            hint=f"start it: coi shell --tool {tool.name}",
        )
    parts = strings(tool, method, argv)
    for part in parts:
        size = len(part.encode("utf-8", "surrogateescape"))
        if size > MAX_ARGUMENT and not launch.prompt:
            raise fault(tool, method, f"an argument is longer than {MAX_ARGUMENT} bytes")
        if size > MAX_ARGUMENT:
            raise UsageError(
                f"the prompt is too long for {tool.title or tool.name}",
                details=f"it makes an argument of {size} bytes; {MAX_ARGUMENT} are possible",
                hint="put it in a file of the workspace, and name the file in the prompt",
            )
    return parts
