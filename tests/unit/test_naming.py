"""Names that scripts rely on."""

from __future__ import annotations

import hashlib
import re
import string
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.errors import UsageError
from coi.session.naming import (
    check_session_id,
    instance_name,
    new_session_id,
    prefix,
    tmux_session,
    workspace_id,
)

# What Incus accepts (fixtures/incus/create-name-invalid.json; 63 characters: RFC 1123).
INSTANCE = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{0,61}[a-zA-Z0-9]")
PATHS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=()), min_size=1, max_size=40
).map(lambda text: Path("/" + text))
ENCODABLE = PATHS.filter(lambda path: not re.search("[\ud800-\udfff]", str(path)))
ALPHABET = string.ascii_lowercase + string.digits + "-"
PREFIXES = st.from_regex(re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII), fullmatch=True)


def test_the_documented_form() -> None:
    digest = hashlib.sha256(b"/home/user/project").hexdigest()[:8]
    name = instance_name("coi-", Path("/home/user/project"), 3)
    assert name == f"coi-{digest}-3" == "coi-9dad1e4e-3"
    assert tmux_session(name) == f"coi-{name}"


@given(ENCODABLE, st.integers(1, 999), PREFIXES)
def test_every_name_is_one_that_incus_takes(path: Path, slot: int, start: str) -> None:
    name = instance_name(prefix({"COI_CONTAINER_PREFIX": start}), path, slot)
    assert INSTANCE.fullmatch(name)
    assert name.startswith(start)


@given(ENCODABLE, ENCODABLE, st.integers(1, 20), st.integers(1, 20))
def test_names_differ_with_workspace_and_slot(a: Path, b: Path, one: int, two: int) -> None:
    same = (str(a), one) == (str(b), two)
    assert (instance_name("coi-", a, one) == instance_name("coi-", b, two)) == same


def test_a_path_that_is_not_utf_8_has_an_id() -> None:
    assert re.fullmatch("[0-9a-f]{8}", workspace_id(Path("/\udcff")))


def test_a_link_is_another_workspace(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert workspace_id(tmp_path / "real") != workspace_id(tmp_path / "link")


@pytest.mark.parametrize("environ", [{}, {"COI_CONTAINER_PREFIX": ""}])
def test_default_prefix(environ: dict[str, str]) -> None:
    assert prefix(environ) == "coi-"


@given(st.text(max_size=40))
def test_a_prefix_is_usable_or_refused(value: str) -> None:
    usable = (
        bool(value)
        and len(value) <= 31
        and value[0] in string.ascii_lowercase
        and all(c in ALPHABET for c in value)
    )
    if usable or not value:
        assert prefix({"COI_CONTAINER_PREFIX": value}) == (value or "coi-")
    else:
        with pytest.raises(UsageError, match="COI_CONTAINER_PREFIX"):
            prefix({"COI_CONTAINER_PREFIX": value})


@pytest.mark.parametrize(
    "value", ["A", "1a", "-a", "a_b", "a/b", "a b", "a.b", "a" * 32, "coi-\n", "ä"]
)
def test_unusable_prefixes(value: str) -> None:
    with pytest.raises(UsageError):
        prefix({"COI_CONTAINER_PREFIX": value})


def test_session_ids_are_uuid_4() -> None:
    ids = {new_session_id() for _ in range(100)}
    assert len(ids) == 100
    assert {uuid.UUID(value).version for value in ids} == {4}
    assert all(check_session_id(value) == value for value in ids)


@given(st.uuids(version=4))
def test_ids_are_taken_in_any_case_and_with_spaces(value: uuid.UUID) -> None:
    assert check_session_id(f" {str(value).upper()}\n") == str(value)


@given(st.text())
def test_whatever_is_accepted_is_a_plain_file_name(value: str) -> None:
    try:
        accepted = check_session_id(value)
    except UsageError:
        return
    assert re.fullmatch("[0-9a-f-]{36}", accepted)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "../x",
        "latest",
        "3f0c1a5e8d2b4c6f9a715b2e8c0d4f13",
        "3f0c1a5e-8d2b-4c6f-9a71-5b2e8c0d4f13/..",
        "3f0c1a5e-8d2b-4c6f-9a71-5b2e8c0d4f13\0",
        "٣f0c1a5e-8d2b-4c6f-9a71-5b2e8c0d4f13",
    ],
)
def test_what_is_no_session_id(value: str) -> None:
    with pytest.raises(UsageError, match="not a session id"):
        check_session_id(value)
