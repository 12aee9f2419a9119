"""What the command line of ``coi file`` takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coi.cli.file import human, parse_size
from coi.errors import UsageError
from coi.session import transfer


@pytest.mark.parametrize("text", ["", "c", ":", ":/x", "c:", "-c:/x", "a/b:/x", "c\n:/x", "ä:/x"])
def test_malformed_sides(text: str) -> None:
    with pytest.raises(UsageError, match="container:path"):
        transfer.split_remote(text, "source")


@pytest.mark.parametrize("text", ["c:x", "c:./x", "c:../x", "c:~/x", "c:/\udce9"])
def test_paths_that_cannot_be_used(text: str) -> None:
    with pytest.raises(UsageError, match=r"absolute|UTF-8"):
        transfer.split_remote(text, "source")


@given(st.text())
def test_any_text_is_a_side_or_a_usage_error(text: str) -> None:
    try:
        name, path = transfer.split_remote(text, "source")
    except UsageError:
        return
    assert text == f"{name}:{path}"
    assert path.startswith("/")


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("5", 5), ("1k", 1024), ("1.5M", 3 << 19), ("2GiB", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1P", "1 2", "M", "inf"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_human() -> None:
    assert [human(n) for n in (0, 1023, 1024, 1 << 30, 5 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.0 GiB", "5.0 TiB",
    ]  # fmt: skip
