"""What tools write, inside a container, with any content: read by their plugins, or left out."""

from __future__ import annotations

import json
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import pytest
import tomli
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coi.api import StateEntry, Tool, json_lines
from coi.errors import CoiError
from coi.tools import claude
from coi.tools.documents import without_keys
from coi.tools.manager import Manager
from coi.tools.merge import MalformedError, load_object
from coi.tools.prepare import answer, find_session_id

ALL = ("claude", "aider", "codex", "copilot", "cursor", "gemini", "opencode", "qwen")


@cache
def tool(name: str) -> Tool:
    return Manager.load().get(name)


TEXT = st.text(max_size=8) | st.sampled_from(["\u2028", "\ud83d", "\0", "\x1b[2J", "-x", "../x"])
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
WORDS = ("type", "item", "part", "data", "message", "text", "content", "result", "session_id",
         "sessionID", "sessionId", "thread_id", "role", "error", "messageID")  # fmt: skip
KINDS = ("result", "text", "error", "init", "message", "agent_message", "assistant.message",
         "thread.started", "assistant", "turn.failed", "tool_use")  # fmt: skip
VALUES = JSON | st.sampled_from(KINDS) | st.sampled_from(["a" * 36, "x\u2028y", "-", ""])
INNER = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=4)
EVENTS = st.dictionaries(st.sampled_from(WORDS), VALUES | INNER, max_size=5)
LINES = EVENTS.map(json.dumps) | EVENTS.map(lambda row: json.dumps(row, ensure_ascii=False))
DEEP = "[" * 20_000
OUTPUT = st.lists(
    LINES | st.text(max_size=20) | st.sampled_from([DEEP, '{"a":' * 20_000, "9" * 5000, "{"]),
    max_size=5,
).map("\n".join)


@pytest.mark.parametrize("name", ALL)
def test_answers_of_any_kind(name: str) -> None:
    """Text and an id that is no option, or an error of coi's own."""
    it = tool(name)

    @settings(max_examples=40, deadline=None)
    @given(OUTPUT)
    @example(DEEP).via("lists without end")
    @example('{"type": "result", "result": "\\ud83d", "session_id": "\\ud83d"}').via("a half")
    @example('{"type": "result", "result": null, "session_id": "--x"}').via("an option")
    def read(output: str) -> None:
        try:
            found = answer(it, output)
        except CoiError:
            return
        assert type(found.text) is str
        assert found.session_id is None or found.session_id.isprintable()
        assert not (found.session_id or "").startswith("-")

    read()


@given(st.lists(EVENTS, max_size=4))
@example([{"text": "a\u2028b"}]).via("Python's end of a line, and not JSON's")
@example([{"text": "a\x85b"}, {"text": "a\x0cb"}]).via("others of them")
def test_every_event_of_an_output_is_read(events: list[dict[str, Any]]) -> None:
    """JavaScript writes U+2028 as it is: an event with it in a text is one line all the same."""
    lines = [json.dumps(event, ensure_ascii=False) for event in events]
    found = list(json_lines("noise\n" + "\r\n".join(lines) + "\n{cut off"))
    assert json.dumps(found) == json.dumps(events)


class Saved:
    """A saved state of these files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def entries(self) -> list[StateEntry]:
        return [
            StateEntry(PurePosixPath(name), len(data), float(number))
            for number, (name, data) in enumerate(self.files.items())
        ]

    def read(self, path: PurePosixPath | str, limit: int = 1 << 30) -> bytes:
        return self.files[str(path)][:limit]


PLACES = st.sampled_from([
    ".claude/projects/-workspace/11111111-2222-4333-8444-555555555555.jsonl",
    ".coi-aider/sessions/x/chat.md", ".aider/coi/x/chat.md",
    ".codex/sessions/2026/01/01/rollout-x-11111111-2222-4333-8444-555555555555.jsonl",
    ".copilot/session-state/11111111-2222-4333-8444-555555555555/events.jsonl",
    ".gemini/tmp/x/chats/session-1-11111111.jsonl", ".gemini/tmp/x/chats/session-1-1.json",
    ".qwen/projects/-workspace/chats/11111111-2222-4333-8444-555555555555.jsonl",
    ".cursor/chats/x/11111111-2222-4333-8444-555555555555/store.db",
])  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(PLACES, st.binary(max_size=30) | OUTPUT.map(
    lambda text: text.encode("utf-8", "surrogatepass")), max_size=3))  # fmt: skip
def test_saved_conversations_of_any_kind(files: dict[str, bytes]) -> None:
    for name in ALL:
        try:
            found = find_session_id(tool(name), Saved(files), "id")
        except CoiError:
            continue
        assert found is None or (found.isprintable() and not found.startswith("-"))


KEYED = st.dictionaries(st.sampled_from(["mcp", "a", "é", "mcp.x"]), JSON, max_size=4)


@given(KEYED.map(json.dumps) | st.sampled_from(['{"mcp": 1, "mcp": 2}', '{"\\u006dcp": 1}', DEEP])
       | st.text(max_size=20), st.sampled_from(["x.json", "x.toml"]))  # fmt: skip
@example("mcp = 1\n[a]\nmcp = 2\n", "x.toml").via("a table")
@example('"mcp" = 1\n', "x.toml").via("a key in quotes")
@example("mcp.a = 1\n", "x.toml").via("a dotted key")
@example("a = " + DEEP, "x.toml").via("lists without end")
@example("a = " + "9" * 5000, "x.toml").via("more digits than Python reads")
def test_no_key_that_is_to_stay_out_gets_in(text: str, path: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    try:
        left = without_keys(path, data, ["mcp"])
    except MalformedError:
        return  # and it is left out whole
    again = tomli.loads(left.decode("utf-8-sig")) if path == "x.toml" else load_object(left)
    assert "mcp" not in again
    before = tomli.loads(data.decode("utf-8-sig")) if path == "x.toml" else load_object(data)
    before.pop("mcp", None)
    assert json.dumps(again, default=str) == json.dumps(before, default=str)


@given(KEYED.map(json.dumps) | st.sampled_from([DEEP, "{", "\ufeff{}", '{"mcpOAuth": 1}']))
@example(DEEP).via("lists without end")
def test_credentials_of_any_kind(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    left = claude._credentials(data)
    if left != data:
        assert not set(claude._OTHER_LOGINS) & set(json.loads(left))
