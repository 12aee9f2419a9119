"""git's own files, read as data: coi runs no git, least of all with a workspace's configuration.

What is not in a plain form is taken for unknown, never guessed at (git-config(1), "Syntax";
gitformat-index(5)).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

_SECTION = re.compile(r'\[([A-Za-z0-9.-]+)(?: "([^"\\\n]*)")?\]')
_ENTRY = re.compile(r'[ \t]*([A-Za-z][A-Za-z0-9-]*)[ \t]*=[ \t]*([^"\\#;\n]*)')
_SPACE = " \t\r"  # for git; it has no other white space within a line
_ESCAPED = {"n": "\n", "t": "\t", "b": "\b", "\n": ""}
# The next section, key with a value, or rest of a line.
_NEXT = re.compile(
    r'[\s\ufeff]*(?:\[(?P<section>[A-Za-z0-9.-]+)(?:[ \t]+"(?:[^"\\\n]|\\.)*")?\]'
    r"|(?P<key>[A-Za-z][A-Za-z0-9-]*)[ \t]*=|[^\n]*\n)"
)
_BLANK = re.compile(r"[ \t]*(?:[#;].*)?")
_REMOTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BRANCH_REF = re.compile(r"refs/heads/[A-Za-z0-9][\w./+-]*")
_TRACKED = re.compile(r"[A-Za-z0-9][\w./+-]*")
_ADDRESS = re.compile(r"(?:https?|ssh|git)://[^\s]+|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^\s]+")
_FETCH = re.compile(r"\+?refs/[\w./*-]+:refs/[\w./*-]+")
_BASICS = {
    "repositoryformatversion": "[01]",
    **dict.fromkeys(
        ("filemode", "bare", "logallrefupdates", "ignorecase", "precomposeunicode", "symlinks"),
        "true|false",
    ),
}
_GITLINK = b"\0\0\xe0\0"  # the mode 160000 of an entry of the index


class Setting(NamedTuple):
    """One line of a git configuration; names in lower case, but for the subsection."""

    section: str
    subsection: str
    key: str
    value: str


def settings(data: bytes) -> list[Setting] | None:
    """The settings of a git configuration, None where a line has another form than git's own.

    Quotes, escapes, comments behind values and lines that go on are such forms.
    """
    found: list[Setting] = []
    section: tuple[str, str] | None = None
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return None
    for line in lines:
        if any(c < " " and c != "\t" for c in line) or line.endswith("\\"):
            return None
        if _BLANK.fullmatch(line):
            continue
        if head := _SECTION.fullmatch(line):
            section = head[1].lower(), head[2] or ""
        elif (entry := _ENTRY.fullmatch(line)) and section:
            found.append(Setting(*section, entry[1].lower(), entry[2].rstrip(_SPACE)))
        else:
            return None
    return found


def harmless(before: bytes | None, after: bytes) -> bool:
    """Whether a change of a git configuration lets nothing run, and sends nothing elsewhere.

    Of one that is there: a branch comes or goes that tracks one of a remote that was there
    before, as `git push -u` and `git checkout` write it. A new one: what `git init` and
    `git clone` write.
    """
    new = settings(after)
    if new is None:
        return False
    if before is None:
        return all(map(_of_a_new_one, new))
    old = settings(before)
    if old is None:
        return False
    remotes = {row.subsection for row in old if row.section == "remote"} | {"."}
    rest = [[row for row in rows if not _tracks(row, remotes)] for rows in (old, new)]
    return rest[0] == rest[1]


def _tracks(row: Setting, remotes: set[str]) -> bool:
    if row.section != "branch" or not row.subsection:
        return False
    if row.key == "remote":
        return row.value in remotes
    forms = {"merge": _BRANCH_REF, "vscode-merge-base": _TRACKED}
    return row.key in forms and bool(forms[row.key].fullmatch(row.value))


def _of_a_new_one(row: Setting) -> bool:
    if row.section == "core" and not row.subsection:
        return bool(re.fullmatch(_BASICS.get(row.key, r"(?!)"), row.value))
    if row.section == "user" and not row.subsection:
        return row.key in ("name", "email")
    if row.section == "remote" and _REMOTE_NAME.fullmatch(row.subsection):
        forms = {"url": _ADDRESS, "fetch": _FETCH}
        return row.key in forms and bool(forms[row.key].fullmatch(row.value))
    return _tracks(row, {row.value} if _REMOTE_NAME.fullmatch(row.value) else {"."})


def further(data: bytes) -> Iterator[tuple[str, str]]:
    """What a configuration names by path: pairs of ``include``, ``hooks`` or ``worktree`` and
    the value. In any form that can be read; one too many does no harm."""
    section = ""
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n") + "\n"
    at = 0
    while found := _NEXT.match(text, at):
        at = found.end()
        if found["section"]:
            section = found["section"].lower()
        if not found["key"]:
            continue
        key = found["key"].lower()
        value, at = _value(text, at)
        if section in ("include", "includeif") and key == "path":
            yield "include", value
        elif section == "core" and key in ("hookspath", "worktree"):
            yield key.removesuffix("path"), value


def _value(text: str, at: int) -> tuple[str, int]:
    """What a value means to git (``parse_value`` of its config.c), and where it ends."""
    found: list[str] = []
    end, quoted = 0, False  # of what is not white space at the end
    while at < len(text) and text[at] != "\n":
        char = text[at]
        at += 1
        if char == '"':
            quoted = not quoted
            end = len(found)
            continue
        if char in "#;" and not quoted:
            at = text.index("\n", at)
            break
        if char == "\\" and at < len(text):
            char = _ESCAPED.get(text[at], text[at])
            at += 1
        elif char in _SPACE and not quoted:
            if found:
                found.append(char)
            continue
        found.append(char)
        end = len(found)
    return "".join(found[:end]), at


def within(base: str, path: str) -> str | None:
    """``path``, seen from the directory ``base`` of the workspace, as a path of the workspace;
    None where it leads out of it, by its words alone: no link is looked at."""
    if not path or path.startswith(("/", "~")) or "\0" in path:
        return None
    joined = posixpath.normpath(posixpath.join(base, path))
    return None if joined == "." or joined.split("/")[0] == ".." else joined


def gitdir(data: bytes) -> str | None:
    """Where a ``.git`` that is a file points (gitrepository-layout(5)), None where nowhere."""
    text = data.decode("utf-8", "surrogateescape")
    return text[8:].strip() or None if text.startswith("gitdir: ") else None


def gitlinks(index: bytes) -> list[str]:
    """The paths of an index that are repositories of their own (submodules).

    Of versions 2 and 3; in version 4 each path is made of the one before, and none is found.
    Found by the mode, and known by the length that stands before the path.
    """
    found: dict[str, None] = {}
    if index[:4] != b"DIRC":
        return []
    position = index.find(_GITLINK, 12)
    while position >= 0:
        for digest in (20, 32):  # bytes of an object's id: SHA-1, SHA-256
            flags_at = position + 16 + digest
            flags = int.from_bytes(index[flags_at : flags_at + 2], "big")
            start = flags_at + (4 if flags & 0x4000 else 2)
            end = index.find(b"\0", start, start + 4097)
            length = flags & 0xFFF
            if end > start and (
                length == end - start or (length == 0xFFF and end - start > length)
            ):
                path = index[start:end].decode("utf-8", "surrogateescape")
                if within("", path) == path:
                    found[path] = None
        position = index.find(_GITLINK, position + 1)
    return list(found)
