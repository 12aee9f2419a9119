"""Everything a tool plugin may import, and nothing else.

A plugin is one module behind one entry point of the group ``coi.tools``::

    from coi.api import Tool, hookimpl

    class MyTool(Tool):
        name = "mytool"
        binary = "mytool"
        state = (".mytool",)

        def install(self, image): return "npm install -g mytool"
        def command(self, launch): return ["mytool"]
        def headless(self, launch): return ["mytool", f"--prompt={launch.prompt}"]

    @hookimpl
    def coi_register_tools(register):
        register(MyTool())

A tool is data and pure functions: it names what it needs and coi moves it.
No method may read the host's files, start a process or keep state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import PurePosixPath
from typing import Any, ClassVar, Protocol

import pluggy

from coi.records import record

API_VERSION = 1

hookimpl = pluggy.HookimplMarker("coi")


@record(frozen=True)
class HostFile:
    """A file of the host's home that the tool may have inside.

    Attributes:
        source: relative to the user's home on the host (absolute paths are
            accepted only where an environment variable of the tool names one).
        target: relative to the home inside; it is written with mode 0600.
        secret: holds a credential (kept out with ``mount_claude_config = false``
            as the others are; shown as such by ``coi tool info``).
        transform: bytes in, bytes out: what of the file goes inside. None
            passes it whole. A transform that raises leaves the file out.
        without: top-level keys that stay on the host: what is the host's alone, as
            commands that run there, and the credentials of other services. For a
            target named ``*.json`` or ``*.toml``; one that cannot be parsed is left out.
    """

    source: str
    target: str
    secret: bool = False
    transform: Callable[[bytes], bytes] | None = None
    without: tuple[str, ...] = ()


@record(frozen=True)
class JsonMerge:
    """Values merged into a JSON file inside, below what the user has there.

    Objects merge key by key, lists are united, every other value is set.

    Attributes:
        target: relative to the home inside.
        values: a JSON object.
        default: the user's own values win.
    """

    target: str
    values: Mapping[str, Any]
    default: bool = False


@record(frozen=True)
class TextFile:
    """A file written inside when the user has none there.

    Attributes:
        target: relative to the home inside.
        content: the text.
    """

    target: str
    content: str


@record(frozen=True)
class Answer:
    """What a headless run has come to.

    Attributes:
        text: the answer, for people.
        session_id: the tool's own id of the conversation, where its output names it;
            else None, and :meth:`Tool.find_session_id` looks in the saved state.
    """

    text: str
    session_id: str | None = None


@record(frozen=True)
class StateEntry:
    """A regular file in a saved state: path relative to the home, size in
    bytes, modification time in seconds since the epoch."""

    path: PurePosixPath
    size: int
    mtime: float


class SavedState(Protocol):
    """What was saved of a session, read only."""

    def entries(self) -> Sequence[StateEntry]:
        """All regular files."""

    def read(self, path: PurePosixPath | str, limit: int = 1 << 20) -> bytes:
        """The first ``limit`` bytes of one file; KeyError when it is not there."""


@record(frozen=True)
class Launch:
    """One start of the tool.

    Attributes:
        session_id: coi's id of the session, a UUID v4.
        resume: go on with an earlier conversation.
        tool_session_id: the tool's own id of it, as :meth:`Tool.find_session_id`
            found it in ``saved``; None when there is none.
        saved: the saved state that is put back; None for a fresh start.
        workspace: the directory inside, ``/workspace``.
        home: the home inside.
        root: the tool runs as root inside.
        environment: what the user gave with ``--env``, merged over the tool's.
        options: the ``[tool.<name>]`` table of the configuration.
        binary: the executable, the tool's own or the configured one.
        prompt: what :meth:`Tool.headless` is to ask; '' for an interactive start.
    """

    session_id: str
    resume: bool = False
    tool_session_id: str | None = None
    saved: SavedState | None = None
    workspace: str = "/workspace"
    home: str = "/home/code"
    root: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    binary: str = ""
    prompt: str = ""


@record(frozen=True)
class ImageContext:
    """The image that :meth:`Tool.install` installs into.

    Attributes:
        distribution: ``debian`` or ``ubuntu``.
        release: ``12``, ``22.04``, ...
        architecture: ``x86_64`` or ``aarch64``.
        user: the user that sessions run as.
    """

    distribution: str
    release: str
    architecture: str
    user: str = "code"

    @property
    def npm_architecture(self) -> str:
        """``x64`` or ``arm64``, as npm names it."""
        return {"x86_64": "x64", "aarch64": "arm64"}.get(self.architecture, self.architecture)


class Tool:
    """An AI coding tool. Subclass it, set the attributes, define the methods.

    Attributes:
        name: lower case, digits and dashes; what ``--tool`` takes.
        title: for people; the name when empty.
        binary: the executable inside the image.
        state: files and directories of the home that are the tool's state,
            relative; they are saved and put back, and nothing else is.
        state_exclude: patterns (``fnmatch``, relative to the home) of what in
            ``state`` is not worth saving: caches, logs, downloads.
        secrets: patterns of files in ``state`` that hold credentials: they are
            never saved, and come afresh from the host at each start.
        secret_keys: for JSON files in ``state``, top-level keys that hold
            credentials: the file is saved without them.
        scratch: files, directories and patterns of the home that the tool writes
            besides its state, and does without in a fresh container: caches, downloads.
        host_variables: names of the host's environment variables that the tool may have
            inside, fresh at each start: keys, tokens, and the addresses they are for.
    """

    api_version: ClassVar[int] = API_VERSION

    name: str = ""
    title: str = ""
    binary: str = ""
    state: tuple[str, ...] = ()
    state_exclude: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    secret_keys: Mapping[str, tuple[str, ...]] = {}
    scratch: tuple[str, ...] = ()
    host_variables: tuple[str, ...] = ()

    def install(self, image: ImageContext) -> str:
        """A POSIX shell script, run as root in the image with ``set -eu``.

        node, npm and python3 with venv are there; ``binary`` must be on PATH
        afterwards.
        """
        raise NotImplementedError

    def command(self, launch: Launch) -> Sequence[str]:
        """The argv that starts or resumes the tool on a terminal, in the workspace."""
        raise NotImplementedError

    def headless(self, launch: Launch) -> Sequence[str] | None:
        """The argv that asks ``launch.prompt``, prints what came of it and ends.

        It starts or resumes as :meth:`command` does, asks no question, and has nothing on
        standard input. None where the tool cannot.
        """
        return None

    def answer(self, output: str) -> Answer:
        """What the standard output of a headless run says, which may be cut off or empty.

        ``output`` comes out of the container and is not trusted.
        """
        return Answer(output)

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        """Settings and credentials that come along from the host, if they exist.

        ``host_environment`` tells where the user moved them, nothing more.
        """
        return ()

    def merges(self, launch: Launch) -> Sequence[JsonMerge]:
        """JSON settings for unattended use, merged into the user's own."""
        return ()

    def files(self, launch: Launch) -> Sequence[TextFile]:
        """Text files for unattended use, written where the user has none."""
        return ()

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Variables for the tool's process; the user's ``--env`` wins."""
        return {}

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        """The tool's own id of the newest conversation of the workspace in
        ``saved``; ``session_id`` is coi's. None when nothing can be resumed."""
        return session_id if any(True for _ in saved.entries()) else None


def json_lines(output: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in an output that has one on a line, for :meth:`Tool.answer`.

    Every other line is passed over: what it is cut from is not trusted.
    """
    for line in output.split("\n"):  # within a text JSON has other ends of a line, as they are
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            yield value


def newest(saved: SavedState, pattern: str) -> list[StateEntry]:
    """The files of a state that match, the newest first, for :meth:`Tool.find_session_id`.

    Args:
        pattern: relative to the home; ``*`` does not reach over a ``/``. Empty files
            are left out. Of two with the same time the later name comes first.
    """
    depth = len(PurePosixPath(pattern).parts)
    found = [
        entry
        for entry in saved.entries()
        if entry.size > 0 and len(entry.path.parts) == depth and entry.path.match(pattern)
    ]
    return sorted(found, key=lambda entry: (entry.mtime, str(entry.path)), reverse=True)


class Register(Protocol):
    """What :func:`coi_register_tools` is handed."""

    def __call__(self, tool: Tool) -> None: ...


__all__ = [
    "API_VERSION",
    "Answer",
    "HostFile",
    "ImageContext",
    "JsonMerge",
    "Launch",
    "Register",
    "SavedState",
    "StateEntry",
    "TextFile",
    "Tool",
    "hookimpl",
    "json_lines",
    "newest",
]
