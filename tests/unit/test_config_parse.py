"""Wrong files: every error names the file, the key and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from configs import VALUES
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coi.config.kinds import Kind, count_limit, cpu_limit, size_limit
from coi.config.parse import Layer, parse
from coi.config.text import printable, toml_value
from coi.errors import ConfigError


def read(text: str) -> Layer:
    return parse(text.encode(), "/w/.coi.toml")


def refusal(data: bytes) -> ConfigError | None:
    """The error that ``data`` meets, None when it is a configuration."""
    try:
        assert isinstance(parse(data, "f"), Layer)
    except ConfigError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("text", "brief", "details", "hint"),
    [
        (
            "[defaults]\nimagee = 1",
            "unknown key defaults.imagee",
            "[defaults] may hold: image, persistent, mount_claude_config, max_slots",
            "did you mean defaults.image?",
        ),
        ("[default]\n", "unknown key default", "the file may hold: ", "did you mean defaults?"),
        ("image = 'x'", "unknown key image", "", "did you mean defaults.image?"),
        ("[network]\nimage = 'x'", "unknown key network.image", "", "did you mean defaults.image?"),
        ("[environment]\nA='1'", "unknown key environment", "", "[profiles.NAME.environment]"),
        (
            "[tool]\nnam = 'x'",
            "unknown key tool.nam",
            "[tool] may hold: name, binary, and a table for each tool",
            "did you mean tool.name?",
        ),
        (
            "[profiles.p.network.logging]\nenable = true",
            "unknown key profiles.p.network.logging.enable",
            "[profiles.p.network.logging] may hold: enabled, path",
            "did you mean profiles.p.network.logging.enabled?",
        ),
        (
            "[profiles.p]\npersist = true",
            "unknown key profiles.p.persist",
            "persistent",
            "did you mean profiles.p.persistent?",
        ),
        ("[profiles.p.profiles.q]", "unknown key profiles.p.profiles", "", ""),
        ("defaults = 1", "defaults must be a table, not the number 1", "", ""),
        ("profiles = []", "profiles must be a table, not an array", "", ""),
        ("[profiles]\np = 1", "profiles.p must be a table", "", ""),
        ('[profiles."a b"]', 'profiles."a b" must have a name of', "", ""),
        (
            "[defaults]\npersistent = 'yes'",
            "defaults.persistent must be true or false, not the string 'yes'",
            "",
            "",
        ),
        ("[defaults]\npersistent = 1", "must be true or false, not the number 1", "", ""),
        ("[defaults]\nmax_slots = true", "max_slots must be a whole number from 1", "", ""),
        ("[defaults]\nmax_slots = 1.0", "not the number 1.0", "", ""),
        ("[defaults]\nmax_slots = 0", "not the number 0", "", ""),
        ("[defaults]\nimage = ''", "defaults.image must be an image's name", "", ""),
        ("[defaults]\nimage = '-x'", "defaults.image must be an image's name", "", ""),
        ("[defaults]\nimage = 2020-01-01", "not a date or time", "", ""),
        ("[incus]\nremote = 'a:b'", "incus.remote must be a name", "", ""),
        ("[tool]\nbinary = '-x'", "tool.binary must be a command's name", "", ""),
        ("[tool]\nname = 'Claude'", "tool.name must be a tool's name", "", ""),
        ("[tool.Claude]\nx = 1", "tool.Claude must be a tool's name", "", ""),
        ("[tool.claude]\nx = 2020-01-01", "tool.claude.x must be a string, a finite", "", ""),
        ("[tool.claude]\nx = nan", "tool.claude.x must be a string, a finite number", "", ""),
        ("[tool.claude]\nx = [[[[[[[[[1]]]]]]]]]", "tool.claude.x is nested too deeply", "", ""),
        ("[tool.x]\ncredentials = 'A'", "tool.x.credentials must be an array of cred", "", ""),
        ("[tool.x]\ncredentials = ['A', '']", "entry 2 must be a file's path below", "", ""),
        ("[tool.x]\ncredentials = [['A']]", "entry 1 must be a file's path below", "", ""),
        ("[tool.x.credentials]\na = 1", "tool.x.credentials must be an array of cred", "", ""),
        ("[tool.claude.a.b.c.d.e.f.g.h.i]", "tables are nested too deeply", "", ""),
        ("[paths]\nlogs_dir = 'logs'", "must be a path that begins with / or ~/", "", ""),
        ("[paths]\nlogs_dir = '~root/x'", "must be a path that begins with / or ~/", "", ""),
        (
            "[network]\nmode = 'closed'",
            "network.mode must be one of open, restricted, allowlist, not the string 'closed'",
            "",
            "",
        ),
        ("[network]\nallowed_domains = 'a.com'", "must be an array of domain names", "", ""),
        (
            "[network]\nallowed_domains = ['a.com', 'https://b.com/x']",
            "entry 2 must be a domain name or an address, without scheme, port, path",
            "",
            "",
        ),
        ("[mounts]\ndefault = {}", "mounts.default must be an array of tables", "", ""),
        ("[[mounts.default]]\nhost = '/a'", "entry 1 needs container", "", ""),
        (
            "[[mounts.default]]\nhost = '/a'\ncontainer = '/b'\nreadOnly = true",
            "entry 1 has the unknown key readOnly; allowed are host, container, readonly",
            "",
            "",
        ),
        (
            "[[mounts.default]]\nhost = '/a'\ncontainer = '/b/../c'",
            "entry 1 has a wrong container: it must be an absolute path below /",
            "",
            "",
        ),
        (
            "[[mounts.default]]\nhost = '/a'\ncontainer = '/b'\nreadonly = 1",
            "entry 1 has a wrong readonly: it must be true or false",
            "",
            "",
        ),
        ("[limits]\ncpu = 0", "limits.cpu must be a number of CPUs", "", ""),
        ("[limits]\ncpu = '3-1'", "limits.cpu must be a number of CPUs", "", ""),
        ("[limits]\ncpu = true", "limits.cpu must be a number of CPUs", "", ""),
        ("[limits]\nmemory = '2 GB'", "limits.memory must be a size", "", ""),
        ("[limits]\ndisk = '50%'", "limits.disk must be a size", "", ""),
        ("[build]\ndns = ['dns.google']", "entry 1 must be an IPv4 or IPv6 address", "", ""),
        ("[build]\nmirror = 'ftp://x'", "build.mirror must be an http:// or https://", "", ""),
        (
            "[profiles.p.environment]\nA = 1",
            "profiles.p.environment.A must be a string without newline and NUL, not the number 1",
            "",
            "",
        ),
        ('[profiles.p.environment]\nA = "a\\nb"', "a string without newline and NUL", "", ""),
        ("[profiles.p.environment]\n1A = 'a'", "is not a variable's name", "", ""),
        ("[profiles.p]\nenvironment = 'A=1'", "environment must be a table", "", ""),
        (
            "[incus]\ncode_uid = 1\nclaude_uid = 2",
            "incus.claude_uid and incus.code_uid are the same setting",
            "",
            "keep one of them",
        ),
        (
            "[profiles.p]\nimage = 'a'\ndefaults.image = 'b'",
            "profiles.p.image and profiles.p.defaults.image are the same setting",
            "",
            "keep one of them",
        ),
        ("[defaults", "is not valid TOML", "(at end of document)", ""),
        ("a = 1\na = = 2", "is not valid TOML", "at line 2", ""),
        ("a = " + "1" * 5000, "is not valid TOML", "", ""),
        ("a = " + "[" * 30000, "is not acceptable", "nested too deeply", ""),
        ("a." * 30000 + "a = 1", "is not acceptable", "nested too deeply", ""),
        ('"\\u001b[2J" = 1', 'unknown key "\\u001B[2J"', "", ""),
        ("[defaults]\nimage = '\u202ex'", "image's name", "", ""),
        ('"' + "k" * 60000 + '" = 1', "unknown key kkk", "", ""),
    ],
)
def test_errors(text: str, brief: str, details: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    error = caught.value
    assert error.exit_code == 2
    assert error.brief.startswith("/w/.coi.toml")
    assert brief in error.brief
    assert details in error.details
    assert hint in error.hint
    for part in (error.brief, error.details, error.hint):
        assert part.isprintable()
        assert len(part) < 600


@pytest.mark.parametrize(
    "data", [b"\xff", b"a = 1 # \xe9", b"\x00", b"[defaults]\nimage = 'a\x00'"]
)
def test_not_text(data: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(data, "/w/odd\x1b[1m\n.toml")
    assert caught.value.brief.isprintable()


def test_integers_that_refuse_to_be_shown() -> None:
    with pytest.raises(ConfigError, match=r"not the number 0x1111"):
        read("[defaults]\nmax_slots = 0x" + "1" * 9000)


def test_repeated_entries_count_once() -> None:
    assert read("[network]\nallowed_domains = ['A.com', 'a.com', 'b.com']").values == {
        ("network", "allowed_domains"): ("a.com", "b.com")
    }


@pytest.mark.parametrize("good", [2, "2", "0-3", "0,2", "0-1,4", "share", "none"])
def test_cpus(good: object) -> None:
    assert cpu_limit().check(good) == str(good)


@pytest.mark.parametrize(
    "kind", [cpu_limit(), count_limit(), size_limit(percent=True), size_limit(percent=False)]
)
def test_an_empty_limit_is_none(kind: Kind) -> None:
    assert (kind.check(""), kind.check("none")) == ("none", "none")


FRAGMENTS = st.sampled_from(
    ["[", "]", "[[", "]]", "=", ".", ",", "{", "}", '"', "'", '"""', "\n", "#", "true", "1", "1e9"]
    + ["nan", "2020-01-01", "\\", "\\u0000", "profiles", "p", "tool", "claude", "environment"]
    + [part for key in VALUES for part in key.split(".")]
    + ["\x1b", "\u202e", "\ud7ff", "0x" + "f" * 500]
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(FRAGMENTS, max_size=30).map(lambda parts: "".join(parts).encode()),
    )
)
@example(b"\xed\xa0\x80")
def test_any_bytes_give_a_layer_or_a_config_error(data: bytes) -> None:
    error = refusal(data)
    assert error is None or (error.brief + error.details + error.hint).isprintable()


SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["coi", "open", "/x", "2GiB", "claude"]),
)
KEY_PARTS = st.one_of(
    st.sampled_from(sorted({part for key in VALUES for part in key.split(".")})),
    st.sampled_from(["profiles", "p", "claude", "environment", "image", "claude_uid"]),
    st.text(max_size=6),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEY_PARTS, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEY_PARTS, TREES, max_size=3))
def test_any_tree_gives_a_layer_or_a_config_error(tree: dict[str, Any]) -> None:
    text = "".join(f"{toml_value(key)} = {toml_value(value)}\n" for key, value in tree.items())
    error = refusal(text.encode())
    assert error is None or "is not valid TOML" not in error.brief
    assert error is None or (error.brief + error.details + error.hint).isprintable()


@settings(deadline=None)
@given(st.text())
def test_printable_text_is_printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) == text.isprintable()
    assert len(printable(text * 9, 20)) <= 20 * len("\\U00000000")
