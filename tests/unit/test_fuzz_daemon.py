"""What the daemon answers, of any shape: a model, or an error that shows it.

The daemon is trusted, but not to be of the version that was measured: what is null, missing
or of another kind must not end a command with a traceback, nor be believed in part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fuzzing import HARD, JSON, damaged, texts
from hypothesis import example, given
from hypothesis import strategies as st
from recordings import load

from coi.doctor import facts
from coi.errors import CoiError, UsageError
from coi.image import container
from coi.incus.acls import NetworkAcl, NetworkAcls
from coi.incus.client import Client, table
from coi.incus.errors import IncusError, classify
from coi.incus.images import Image, Images
from coi.incus.instances import Instance, Instances, bytes_of
from coi.incus.networks import Network, Networks
from coi.incus.pools import Pool
from coi.incus.process import Completed, Runner
from coi.incus.profiles import Profile
from coi.incus.urls import Use, segment, uses
from coi.session.limits import Limits
from coi.session.model import from_instance, is_headless, is_session, number
from coi.session.warm import busy_of


def recorded(name: str) -> Any:
    return json.loads(load(name).stdout)["metadata"]


ROWS: Mapping[type, list[Any]] = {
    Instance: recorded("instances-2"),
    Image: recorded("images"),
    Network: recorded("networks"),
    NetworkAcl: recorded("acls"),
    Profile: [{"name": "default", "config": {"a": "b"}, "devices": {"root": {"type": "disk"}}}],
    Pool: [{"name": "default", "driver": "btrfs", "status": "Created", "config": {"size": "1"}}],
}


def whole(model: Any) -> None:
    """Each field is what it is declared to be; those of texts have texts alone."""
    for field in fields(model):
        value = getattr(model, field.name)
        kind = field.type
        if kind == "str":
            assert type(value) is str, field.name
        elif kind == "int":
            assert type(value) is int, field.name
        elif kind == "bool":
            assert type(value) is bool, field.name
        elif kind == "Mapping[str, str]":
            assert all(type(v) is str for v in value.values()), field.name
        elif kind == "Mapping[str, Mapping[str, str]]":
            assert all(type(v) is str for row in value.values() for v in row.values())
        elif kind == "tuple[Use, ...]":
            assert all(type(v) is Use for v in value)
        else:
            assert kind in ("tuple[str, ...]", "tuple[Mapping[str, str], ...]"), kind
            assert type(value) is tuple


@pytest.mark.parametrize("model", ROWS, ids=lambda model: model.__name__)
def test_models_of_any_row(model: Any) -> None:
    for row in ROWS[model]:
        whole(model.parse(row))  # what was recorded is understood

    @given(damaged(*ROWS[model]) | JSON)
    def parse(row: Any) -> None:
        try:
            found = model.parse(row)
        except IncusError:
            return
        assert isinstance(row, dict)
        whole(found)

    parse()


class Answering(Client):
    """A client whose next answer is this text."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data

    def query(self, *_: Any, **__: Any) -> Any:
        return self.answer(Completed(("incus",), 0, self.data, b""))

    def ask(self, *_: Any, **__: Any) -> Callable[[], Any]:
        return self.query


def envelope(metadata: Any) -> bytes:
    return json.dumps({"type": "sync", "status_code": 200, "metadata": metadata}).encode()


CALLS: Mapping[str, Callable[[Client], Any]] = {
    "instances": lambda client: Instances(client).all(state=True),
    "instance": lambda client: Instances(client).find("c"),
    "images": lambda client: Images(client).all(),
    "networks": lambda client: Networks(client).all(),
    "network": lambda client: Networks(client).find("n"),
    "forwards": lambda client: Networks(client).forwards("n"),
    "acls": lambda client: NetworkAcls(client).all(),
    "publish": lambda client: Images(client).start_publish("c", properties={}),
    "published": lambda client: Images(client).finish_publish("id"),
    "operations": lambda client: container._busy(client, "c"),
    "server": lambda client: table(client.query("GET", "/1.0")),
}
SAMPLES = [
    *ROWS.values(),
    {"id": "x", "metadata": {"fingerprint": "f"}, "err": "", "status": "Success"},
    {"running": [{"status_code": 103, "resources": {"instances": ["/1.0/instances/c"]}}]},
    [{"listen_address": "192.0.2.1", "config": {"target_address": "10.0.0.2"}}],
]


def hard(test: Callable[..., None]) -> Callable[..., None]:
    for name, data in HARD.items():
        test = example(data).via(name)(test)
    return test


@hard
@given(texts(*SAMPLES) | damaged(*SAMPLES).map(envelope) | JSON.map(envelope))
def test_every_call_with_any_answer(data: bytes) -> None:
    """Nothing but an error of coi's own comes out of a call, whatever is answered."""
    for call in CALLS.values():
        with suppress(CoiError):
            call(Answering(data))


def test_the_calls_do_understand_something() -> None:
    assert CALLS["instances"](Answering(envelope(ROWS[Instance])))
    assert CALLS["operations"](Answering(envelope(SAMPLES[-2]))) is True
    assert CALLS["forwards"](Answering(envelope(SAMPLES[-1]))) == {"192.0.2.1": "10.0.0.2"}
    assert CALLS["publish"](Answering(envelope(SAMPLES[-3]))) == "x"
    with pytest.raises(IncusError, match="another form"):
        CALLS["images"](Answering(envelope(5)))
    with pytest.raises(IncusError, match="not JSON"):
        CALLS["images"](Answering(HARD["lists in lists"]))


DOCTOR = {
    "project": {"config": {"features.images": "true"}},
    "profile": ROWS[Profile][0],
    "pools": ROWS[Pool],
    "networks": ROWS[Network],
    "acls": ROWS[NetworkAcl],
    "images": ROWS[Image],
    "instances": ROWS[Instance],
    "space": {"space": {"total": 100, "used": 50}},
}


@given(damaged(DOCTOR))
@example({**DOCTOR, "space": {"space": {"total": "x"}}}).via("a size that is no number")
def test_the_doctor_takes_any_answer(found: Any) -> None:
    try:
        server = facts.parsed({}, found)
    except CoiError:
        return
    assert all(type(row) is Instance for row in server.instances)
    assert server.space is None or all(type(n) is int for n in server.space)


# -- keys that anybody who may use Incus can set ------------------------------------------------

KEYS = ("session-id", "tool", "workspace", "slot", "uid", "gid", "home", "persistent", "state",
        "disk", "headless", "user", "locks", "owner", "image", "network-masked")  # fmt: skip
VALUES = st.text(max_size=8) | st.sampled_from(
    ["1", "²", "٣", "9" * 5000, "-1", "1e9", "session", "true", "\0", "../x", "5GiB", "x%", "%"]
)


class Bare:
    """Of an engine, what :func:`from_instance` needs."""

    @staticmethod
    def tool(name: str) -> str:
        return name

    lock = tool


@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
@example({"slot": "9" * 5000}).via("more digits than Python reads")
@example({"disk": "x%"}).via("a limit that coi did not set")
@example({"disk": "9" * 5000}).via("more digits than Python reads")
def test_keys_of_any_value(values: dict[str, str]) -> None:
    row = Instance("c", "Stopped", "", False, "default",
                   {f"user.coi.{key}": value for key, value in values.items()})  # fmt: skip
    assert is_session(row) >= is_headless(row)
    assert type(number(row, "slot")) is int
    session = from_instance(Bare, row, attached=False)  # type: ignore[arg-type]
    assert session.slot >= 0
    assert session.id == values.get("session-id", "")
    limits = Limits({"user.coi.disk": "1GiB"}, {}, False)
    assert limits.onto(row, lambda _: None).config["user.coi.disk"] in ("1GiB", row.coi("disk"))


@given(VALUES | st.from_regex(r"\A[0-9]{1,20}([kKMGTPE]?i?B)?\Z"))
def test_sizes_of_any_text(text: str) -> None:
    found = bytes_of(text)
    assert found is None or found >= 0
    if found is not None:
        assert bytes_of(f"{found}B") == found or found >= 10**18


@given(st.text(max_size=200) | st.text("\n ", min_size=20), st.integers(0, 600))
def test_any_message_is_classified(message: str, code: int) -> None:
    error = classify(message, code=code, action="do it")
    assert isinstance(error, CoiError)
    assert "\n" not in error.brief
    assert len(error.details.splitlines()) <= 20


class Printing(Runner):
    """An ``incus`` that prints this."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data

    def run(self, args: Sequence[str], **_: Any) -> Completed:
        return Completed(("incus", *args), 0, self.data, b"")


@given(st.binary(max_size=99), st.text("0123456789abcdef", min_size=60, max_size=68))
def test_what_an_import_prints(noise: bytes, digits: str) -> None:
    client = Client(Printing(noise + b"\nImage imported with fingerprint: " + digits.encode()))
    try:
        found = Images(client).import_(Path("meta"), Path("root"))
    except IncusError:
        assert len(digits) != 64
        return
    assert len(found) == 64
    assert set(found) <= set("0123456789abcdef")


@given(st.lists(st.text(max_size=20) | st.sampled_from(["//[", "/1.0/x/[::1]", "///"])))
def test_users_of_any_path(paths: list[str]) -> None:
    with suppress(ValueError):  # a model's error is made of it
        assert len(uses(paths)) == len(paths)


@given(st.text(min_size=1, max_size=20))
def test_a_segment_is_one_segment(name: str) -> None:
    try:
        text = segment(name)
    except UsageError:
        return
    assert "/" not in text
    assert "?" not in text
    assert uses([f"/1.0/instances/{text}"]) == (Use("instances", name),)


OPERATIONS = {
    "running": [{"status_code": 103, "resources": {"instances": ["/1.0/instances/a"]}}],
    "success": [{"status_code": 200, "resources": {"instances": ["/1.0/instances/b"]}}],
}


@example(operations={"running": [{"status_code": float("inf")}]})
@given(operations=damaged(OPERATIONS) | JSON)
def test_operations_of_any_shape(operations: Any) -> None:
    found = busy_of(operations)
    assert found is None or all(type(name) is str for name in found)
    assert busy_of(OPERATIONS) == frozenset({"a"}), "what is as it should be is understood"
