"""The stub model server, spoken to over HTTP on this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Stub:
    """A running server."""

    port: int
    log: Path

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    log = tmp_path_factory.mktemp("stub") / "log"
    argv = [sys.executable, "-m", "coi.testing.stub_model", "127.0.0.1", "0", str(log)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(rf"stub model on http://127\.0\.0\.1:(\d+) log {log}\n", line)
        assert found
        yield Stub(int(found[1]), log)
        process.kill()


HISTORY = [
    {"role": "user", "content": "CODE-PLUM"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "and CODE-KIWI"},
]
EXPECTED = "STUBREPLY n=2 codes=CODE-PLUM,CODE-KIWI last=[and CODE-KIWI] first=[CODE-PLUM]"
CONTENTS = [
    {"role": "model" if m["role"] == "assistant" else "user", "parts": [{"text": m["content"]}]}
    for m in HISTORY
]
APIS = [
    ("/v1/messages", {"messages": HISTORY}),
    ("/v1/chat/completions", {"messages": HISTORY}),
    ("/v1/responses", {"input": HISTORY}),
    ("/v1beta/models/m:generateContent", {"contents": CONTENTS}),
]


@pytest.mark.parametrize(("path", "body"), APIS, ids=["anthropic", "chat", "responses", "gemini"])
def test_every_api_sees_the_whole_history(stub: Stub, path: str, body: dict[str, Any]) -> None:
    status, text = stub.post(path, body)
    assert status == 200
    json.loads(text)
    assert EXPECTED in text


@pytest.mark.parametrize(("path", "body"), APIS, ids=["anthropic", "chat", "responses", "gemini"])
def test_every_api_streams(stub: Stub, path: str, body: dict[str, Any]) -> None:
    path = path.replace(":generate", ":streamGenerate")
    _, text = stub.post(path, {**body, "stream": True})
    data = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    texts = re.findall(r'"(?:text|content|delta)": "([^"]*)"', "\n".join(data))
    assert EXPECTED in "".join(texts)


def test_a_tool_is_called_once(stub: Stub) -> None:
    asked: dict[str, Any] = {"role": "user", "content": "run command: ls -l"}
    schema = {"properties": {"command": {"type": "string"}}, "required": ["command"]}
    body = {"messages": [asked], "tools": [{"name": "Bash", "input_schema": schema}]}
    answer = json.loads(stub.post("/v1/messages", body)[1])
    assert answer["stop_reason"] == "tool_use"
    assert answer["content"][1]["input"] == {"command": "ls -l"}
    result = {"role": "user", "content": [{"type": "tool_result", "content": "x"}]}
    body["messages"] = [asked, {"role": "assistant", "content": "x"}, result]
    assert json.loads(stub.post("/v1/messages", body)[1])["stop_reason"] == "end_turn"


def test_the_log_masks_credentials(stub: Stub) -> None:
    key = "sk-CANARY-CANARY-123456"
    stub.post("/v1/messages", {"messages": HISTORY}, **{"x-api-key": key, "Authorization": key})
    record = stub.records()[-1]
    assert record["headers"]["x-api-key"] == "***123456"
    assert record["headers"]["Authorization"] == "***123456"
    assert "CANARY-CANARY" not in stub.log.read_text()
    assert record["reply"] == EXPECTED


@pytest.mark.parametrize("body", ["not a body", [], 7])
def test_nonsense_is_answered(stub: Stub, body: Any) -> None:
    assert stub.post("/v1/messages", body)[0] == 200
    assert stub.post("/v1/elsewhere", body)[0] == 404
