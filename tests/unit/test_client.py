"""The REST client: arguments, answers, and evidence of what cannot be parsed."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.errors import CoiError
from coi.incus.client import Client
from coi.incus.errors import AlreadyExistsError, IncusError, MissingError
from coi.incus.instances import Instance, Instances
from coi.incus.process import Completed, Runner
from coi.incus.urls import segment, uses


def completed(stdout: str | bytes, *, exit_code: int = 0, stderr: str = "") -> Completed:
    data = stdout if isinstance(stdout, bytes) else stdout.encode()
    return Completed(("incus", "query"), exit_code, data, stderr.encode())


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        pytest.param({}, ["query", "--raw", "/1.0/x"], id="get"),
        pytest.param({"wait": True}, ["query", "--raw", "--wait", "/1.0/x"], id="wait"),
        pytest.param(
            {"method": "PUT", "body": {"a": 1}, "wait": True},
            ["query", "--raw", "-X", "PUT", "--wait", "-d", '{"a":1}', "/1.0/x"],
            id="body",
        ),
        pytest.param(
            {"params": {"filter": "a eq b&c"}},
            ["query", "--raw", "/1.0/x?filter=a%20eq%20b%26c"],
            id="params-are-encoded",
        ),
        pytest.param({"method": "DELETE"}, ["query", "--raw", "-X", "DELETE", "/1.0/x"], id="del"),
    ],
)
def test_query_arguments(options: dict[str, Any], arguments: list[str]) -> None:
    method = options.pop("method", "GET")
    assert Client().query_args(method, "/1.0/x", **options) == arguments


@pytest.mark.parametrize("project", ["default", "team"])
@pytest.mark.parametrize("remote", ["local", "far"])
def test_remote_and_project_are_parameters(remote: str, project: str) -> None:
    client = Client(remote=remote, project=project)
    place = client.query_args("GET", "/1.0/instances", params={"recursion": "1"})[-1]
    assert place.startswith("far:/1.0/" if remote == "far" else "/1.0/")
    query = parse_qs(urlsplit(place.removeprefix("far:")).query)
    assert query.get("project") == (["team"] if project == "team" else None)
    assert query["recursion"] == ["1"]
    expected = ["exec", "x"] + (["--project", "team"] if project == "team" else [])
    assert client.command("exec", "x") == expected
    assert client.name("c") == ("far:c" if remote == "far" else "c")


def test_exec_arguments_carry_remote_and_project() -> None:
    instances = Instances(Client(remote="far", project="team"))
    args = instances.exec_args(
        "c", ["a", "--b"], user=1000, group=1001, cwd="/", environment={"TERM": "vt100"}, tty=True
    )
    assert args == [
        "exec", "far:c", "-t", "--user", "1000", "--group", "1001", "--cwd", "/", "--env",
        "TERM=vt100", "--project", "team", "--", "a", "--b",
    ]  # fmt: skip


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_any_body_is_one_ascii_argument(body: dict[str, Any]) -> None:
    args = Client().query_args("POST", "/1.0/instances", body=body)
    text = args[args.index("-d") + 1]
    assert text.isascii()
    assert "\0" not in text
    assert json.loads(text) == body


@pytest.mark.parametrize(
    "text",
    ["<html>502 Bad Gateway</html>", '{"metadata": ', "\x00\x01", "null and void", "[1,"],
)
def test_what_is_not_json_is_kept_as_evidence(text: str) -> None:
    with pytest.raises(IncusError, match="not JSON") as caught:
        Client().answer(completed(text))
    assert caught.value.details == text.strip()
    assert isinstance(caught.value.__cause__, ValueError)


def test_evidence_is_bounded() -> None:
    with pytest.raises(IncusError) as caught:
        Client().answer(completed("x" * 1_000_000))
    assert len(caught.value.details) == 2000


def test_undecodable_bytes_are_no_crash() -> None:
    with pytest.raises(IncusError, match="not JSON"):
        Client().answer(completed(b"\xff\xfe\x00"))


@given(st.binary(max_size=200), st.integers(0, 255), st.binary(max_size=200))
def test_no_answer_crashes(stdout: bytes, exit_code: int, stderr: bytes) -> None:
    """Whatever the client prints, coi raises nothing but its own errors."""
    with suppress(CoiError):
        Client().answer(Completed(("incus",), exit_code, stdout, stderr))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
REPLY = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("error_code", "error", "err", "status_code", "metadata"), JSON)
)


@given(REPLY)
def test_no_json_crashes(reply: Any) -> None:
    with suppress(CoiError):
        Client().answer(completed(json.dumps(reply)))


@pytest.mark.parametrize(
    ("reply", "metadata"),
    [
        ("", None),
        ("\n", None),
        ("[1]", [1]),
        ('{"error_code": 0, "error": "", "metadata": {"a": 1}}', {"a": 1}),
        ('{"metadata": null}', None),
    ],
)
def test_answers(reply: str, metadata: Any) -> None:
    assert Client().answer(completed(reply)) == metadata


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ({"error_code": 404, "error": "anything"}, MissingError),
        ({"error_code": 409, "error": "anything"}, AlreadyExistsError),
        ({"error_code": 500, "error": "anything"}, IncusError),
        ({"err": "Instance not found", "status_code": 400}, MissingError),
    ],
)
def test_errors_of_the_envelope(reply: dict[str, Any], kind: type[CoiError]) -> None:
    with pytest.raises(kind, match="cannot do it"):
        Client().answer(completed(json.dumps(reply)), action="do it")


def test_a_failed_process_is_an_error_even_without_text() -> None:
    with pytest.raises(IncusError, match="cannot do it"):
        Client().answer(completed("", exit_code=1), action="do it")


def test_no_answer_in_time() -> None:
    client = Client(Runner("sleep"))
    with pytest.raises(IncusError, match="cannot wait") as caught:
        client.run(["60"], timeout=0.05, action="wait")
    assert "incus info" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b", "a%2Fb"), ("a b", "a%20b"), ("...", "..."), ("ü?#", "%C3%BC%3F%23")],
)
def test_segment(name: str, expected: str) -> None:
    assert segment(name) == expected


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "\x7f", ".", ".."])
def test_unusable_segment(name: str) -> None:
    with pytest.raises(CoiError, match="not a usable name"):
        segment(name)


def test_uses() -> None:
    assert uses(None) == ()
    paths = ["/1.0/instances/c1?project=p", "/1.0/profiles/my%20one", "/1.0/networks/n"]
    expected = [("instances", "c1"), ("profiles", "my one"), ("networks", "n")]
    assert list(uses(paths)) == expected


@pytest.mark.parametrize("missing", ["config", "devices", "state", "created_at", "project", None])
def test_instance_with_null_fields(missing: str | None) -> None:
    """Newer and older daemons leave fields null or out (design: config may be null)."""
    data: dict[str, Any] = {
        "name": "n", "status": "Running", "config": {"user.coi.slot": "1"}, "devices": {},
        "state": None, "created_at": "2026", "project": "default", "ephemeral": True,
    }  # fmt: skip
    if missing:
        data[missing] = None
    assert Instance.parse(data).name == "n"
    data.pop(missing or "state")
    row = Instance.parse(data)
    assert (row.ipv4, row.ephemeral) == ("", True)
    assert row.coi("slot") == ("" if missing == "config" else "1")


@pytest.mark.parametrize(
    ("network", "address"),
    [
        (None, ""),
        ({}, ""),
        ({"eth0": {"host_name": "veth1", "addresses": None}}, ""),
        ({"lo": {"host_name": "x", "addresses": [("inet", "global", "127.0.0.1")]}}, ""),
        ({"docker0": {"host_name": "", "addresses": [("inet", "global", "172.17.0.1")]}}, ""),
        (
            {
                "a": {"host_name": "v", "addresses": [("inet", "global", "10.0.0.1")]},
                "eth0": {
                    "host_name": "v",
                    "addresses": [
                        ("inet6", "global", "fd00::1"),
                        ("inet", "link", "169.254.1.1"),
                        ("inet", "global", "10.0.0.2"),
                    ],
                },
            },
            "10.0.0.2",
        ),
    ],
)
def test_ipv4(network: dict[str, Any] | None, address: str) -> None:
    for link in (network or {}).values():
        link["addresses"] = link["addresses"] and [
            {"family": f, "scope": s, "address": a} for f, s, a in link["addresses"]
        ]
    row = Instance.parse({"name": "n", "status": "Running", "state": {"network": network}})
    assert row.ipv4 == address
