"""What goes in before a start: layers of files, environment, command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from coi.api import Answer, HostFile, ImageContext, JsonMerge, Launch, SavedState, TextFile, Tool
from coi.errors import CoiError, Interrupted, UsageError
from coi.testing import MemoryState, saved
from coi.tools.prepare import Prepared, answer, find_session_id, prepare, without_secret_keys

SESSION = "11111111-2222-4333-8444-555555555555"


class It(Tool):
    """A tool that returns what the test says."""

    name = "it"
    binary = "it"
    state = (".it",)
    secrets = (".it/credentials*",)

    def __init__(self, **returns: Any) -> None:
        self._returns = returns

    def _get(self, method: str, default: Any) -> Any:
        value = self._returns.get(method, default)
        if isinstance(value, BaseException):
            raise value
        return value() if value is Fickle else value

    def install(self, image: ImageContext) -> str:
        return "true"

    def command(self, launch: Launch) -> Sequence[str]:
        return self._get("command", ["it"])  # type: ignore[no-any-return]

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        return self._get("host_files", ())  # type: ignore[no-any-return]

    def merges(self, launch: Launch) -> Sequence[JsonMerge]:
        return self._get("merges", ())  # type: ignore[no-any-return]

    def files(self, launch: Launch) -> Sequence[TextFile]:
        return self._get("files", ())  # type: ignore[no-any-return]

    def environment(self, launch: Launch) -> Mapping[str, str]:
        return self._get("environment", {})  # type: ignore[no-any-return]

    def find_session_id(self, saved: SavedState, session_id: str) -> str | None:
        return self._get("find_session_id", None)  # type: ignore[no-any-return]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".it").mkdir()
    return tmp_path


def run(
    tool: Tool,
    home: Path,
    *,
    state: MemoryState | None = None,
    host: bool = True,
    host_environment: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Prepared:
    return prepare(
        tool,
        Launch(SESSION, resume=state is not None, saved=state, environment=environment or {}),
        host_home=home,
        host_environment=host_environment or {},
        saved=state,
        with_host_files=host,
    )


def contents(prepared: Prepared) -> dict[str, bytes]:
    return {file.path: file.data for file in prepared.files}


def settings(prepared: Prepared, path: str = ".it/s.json") -> Any:
    return json.loads(contents(prepared)[path])


SETTINGS = HostFile(".it/s.json", ".it/s.json")
MERGE = JsonMerge(".it/s.json", {"auto": True, "list": ["m"], "deep": {"m": 1}})


def test_the_layers_of_a_json_file(home: Path) -> None:
    (home / ".it/s.json").write_text('{"auto": false, "list": ["h"], "deep": {"x": "host"}}')
    state = saved({".it/s.json": b'{"list": ["s"], "deep": {"x": "saved", "y": 0}, "own": 1}'})
    prepared = run(It(host_files=(SETTINGS,), merges=(MERGE,)), home, state=state)
    assert settings(prepared) == {
        "list": ["s", "h", "m"],
        "deep": {"x": "host", "y": 0, "m": 1},
        "own": 1,
        "auto": True,
    }
    assert prepared.files[0].mode == 0o600
    assert prepared.notices == ()


@pytest.mark.parametrize("name", [".it/s.json", ".itrc"])
def test_a_file_is_json_by_its_name_or_because_it_is_merged_into(home: Path, name: str) -> None:
    (home / name).write_text('{"h": 1}')
    tool = It(host_files=(HostFile(name, name),), merges=(JsonMerge(name, {"m": 1}),))
    prepared = run(tool, home, state=saved({name: b'{"s": 1}'}))
    assert settings(prepared, name) == {"s": 1, "h": 1, "m": 1}


def test_without_the_hosts_files_the_saved_ones_still_get_the_merges(home: Path) -> None:
    (home / ".it/s.json").write_text('{"h": 1}')
    tool = It(host_files=(SETTINGS,), merges=(MERGE,))
    assert settings(run(tool, home, state=saved({".it/s.json": b'{"s": 1}'}), host=False)) == {
        "s": 1,
        **MERGE.values,
    }
    assert settings(run(tool, home, host=False)) == MERGE.values


def test_a_file_that_needs_nothing_keeps_its_bytes(home: Path) -> None:
    text = b'{ "auto":true,\n\n"list":["m"], "deep": {"m":1} }'
    (home / ".it/s.json").write_bytes(text)
    assert contents(run(It(host_files=(SETTINGS,), merges=(MERGE,)), home)) == {".it/s.json": text}


def test_other_files_are_the_hosts_or_stay(home: Path) -> None:
    (home / ".it/a.md").write_text("host")
    wanted = (HostFile(".it/a.md", ".it/a.md"), HostFile(".it/b.md", ".it/b.md"))
    state = saved({".it/a.md": b"saved", ".it/b.md": b"saved"})
    assert contents(run(It(host_files=wanted), home, state=state)) == {".it/a.md": b"host"}


def test_a_text_file_is_written_only_where_there_is_none(home: Path) -> None:
    (home / ".it/a.md").write_text("host")
    texts = tuple(TextFile(f".it/{name}.md", "é") for name in "abc")
    tool = It(host_files=(HostFile(".it/a.md", ".it/a.md"),), files=texts)
    prepared = run(tool, home, state=saved({".it/b.md": b"saved"}))
    assert contents(prepared) == {".it/a.md": b"host", ".it/c.md": "é".encode()}


@pytest.mark.parametrize("by", ["pattern", "flag"])
def test_a_credential_is_the_hosts_alone(home: Path, by: str) -> None:
    name = ".it/credentials.json" if by == "pattern" else ".it/login.json"
    (home / name).write_text('{"new": 1}')
    tool = It(host_files=(HostFile(name, name, secret=by == "flag"),))
    assert contents(run(tool, home, state=saved({name: b'{"old": 1}'}))) == {name: b'{"new": 1}'}


def test_no_content_shows_in_a_repr(home: Path) -> None:
    (home / ".it/credentials").write_text("CANARY")
    tool = It(host_files=(HostFile(".it/credentials", ".it/credentials", secret=True),))
    prepared = run(tool, home, environment={"KEY": "CANARY"})
    assert contents(prepared)[".it/credentials"] == b"CANARY"
    assert "CANARY" not in repr(prepared)


def test_a_malformed_file_of_the_host_is_left_out_and_left_alone(home: Path) -> None:
    (home / ".it/s.json").write_text('{"broken": ')
    prepared = run(
        It(host_files=(SETTINGS,), merges=(MERGE,)), home, state=saved({".it/s.json": b'{"s": 1}'})
    )
    assert settings(prepared) == {"s": 1, **MERGE.values}
    assert prepared.notices == ("~/.it/s.json of the host is left out: it is not valid JSON",)
    assert (home / ".it/s.json").read_text() == '{"broken": '


def test_a_malformed_saved_file_is_replaced_with_a_notice(home: Path) -> None:
    prepared = run(It(merges=(MERGE,)), home, state=saved({".it/s.json": b'{"s": '}))
    assert settings(prepared) == MERGE.values
    assert len(prepared.notices) == 1
    assert "the saved ~/.it/s.json is not valid JSON" in prepared.notices[0]


def test_files_that_cannot_be_read_are_left_out_with_a_notice(home: Path) -> None:
    (home / ".it/s.json").symlink_to("/etc/passwd")
    (home / ".it/big").write_bytes(b"x" * (10 * 1024 * 1024 + 1))
    tool = It(host_files=(SETTINGS, HostFile(".it/big", ".it/big")))
    prepared = run(tool, home)
    assert prepared.files == ()
    assert "a link out of" in prepared.notices[0]
    assert "larger than 10 MiB" in prepared.notices[1]


def test_a_transform_that_fails_leaves_the_file_out_without_quoting_it(home: Path) -> None:
    def fail(data: bytes) -> bytes:
        raise ValueError(data)

    (home / ".it/a").write_text("CANARY")
    prepared = run(It(host_files=(HostFile(".it/a", ".it/a", transform=fail),)), home)
    assert prepared.files == ()
    assert "ValueError" in prepared.notices[0]
    assert "CANARY" not in prepared.notices[0]


def test_an_absolute_source_needs_a_variable_that_names_it(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").write_text("moved")
    tool = It(host_files=(HostFile(str(elsewhere / "a"), ".it/a"),))
    other_home = tmp_path / "other"
    assert contents(run(tool, other_home, host_environment={"IT_HOME": f"{elsewhere}/"})) == {
        ".it/a": b"moved"
    }
    for environment in ({}, {"IT_HOME": "/"}, {"IT_HOME": "elsewhere"}):
        prepared = run(tool, other_home, host_environment=environment)
        assert prepared.files == ()
        assert "no variable" in prepared.notices[0]


def test_the_users_variables_win(home: Path) -> None:
    tool = It(environment={"A": "tool", "B": "tool"})
    assert run(tool, home, environment={"B": "user"}).environment == {"A": "tool", "B": "user"}


def generator() -> Any:
    yield MERGE
    raise KeyError("late")


def endless() -> Any:
    while True:
        yield MERGE


class Fickle:
    """Whatever is asked of it fails."""

    def __getattribute__(self, name: str) -> Any:
        raise OSError(name)


class Sly(JsonMerge):
    """Says another thing each time."""

    target = property(lambda self: 1 / 0)

    def __init__(self) -> None:
        pass


class Mapped(dict[str, str]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        raise SystemExit(3)

    def keys(self) -> Any:
        raise SystemExit(3)

    def __iter__(self) -> Any:
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("method", "returns"),
    [
        ("command", "it"),
        ("command", []),
        ("command", [1]),
        ("command", ["a\0b"]),
        ("command", None),
        ("command", SystemExit(0)),
        ("command", ["it"] * 10**5),
        ("command", ["x" * (1 << 17)]),
        ("command", Fickle),
        ("environment", None),
        ("environment", Fickle),
        ("environment", Mapped(A="1")),
        ("environment", {"A": "x" * (1 << 17)}),
        ("environment", {"A" * 5000: "x"}),
        ("environment", {"A": 1}),
        ("environment", {"A=B": "1"}),
        ("environment", {"A": "a\0b"}),
        ("environment", ValueError("x")),
        ("merges", None),
        ("merges", ("x",)),
        ("merges", generator()),
        ("merges", endless()),
        ("merges", Fickle),
        ("merges", "text"),
        ("merges", (Sly(),)),
        ("merges", (JsonMerge(".it/x", cast("dict[str, Any]", None)),)),
        ("merges", (JsonMerge(".it/x", Mapped(a="1")),)),
        ("merges", (JsonMerge(1, {}),)),  # type: ignore[arg-type]
        ("merges", (JsonMerge("/etc/x", {}),)),
        ("merges", (JsonMerge("../x", {}),)),
        ("merges", (JsonMerge(".it/x", {"a": {1}}),)),
        ("merges", (JsonMerge(".it/x", {"a": float("inf")}),)),
        ("files", (TextFile("a/../b", ""),)),
        ("files", (TextFile(".it/a", None),)),  # type: ignore[arg-type]
        ("files", (TextFile(".it/a", b"x"),)),  # type: ignore[arg-type]
        ("files", RecursionError("deep")),
        ("files", GeneratorExit()),
        ("files", (MERGE,)),
        ("host_files", (HostFile(".it/a", "/root/a"),)),
        ("host_files", (HostFile("../a", ".it/a"),)),
        ("host_files", (HostFile("/a\0b", ".it/a"),)),
        ("host_files", (HostFile(".it/a", ""),)),
        ("host_files", (HostFile(1, ".it/a"),)),  # type: ignore[arg-type]
        ("host_files", StopIteration("x")),
    ],
)
def test_a_failing_plugin_is_named(home: Path, method: str, returns: Any) -> None:
    with pytest.raises(CoiError) as caught:
        run(It(**{method: returns}), home)
    assert caught.value.brief == f"the plugin of tool 'it' failed in {method}()"
    assert len(caught.value.details) <= 500


def test_what_a_hook_prints_is_no_result(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Loud(It):
        def merges(self, launch: Launch) -> Any:
            print("noise")
            yield MERGE
            print("more noise")

    run(Loud(), home)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "noise\nmore noise\n")


def test_a_prompt_makes_the_headless_argv(home: Path) -> None:
    class Asked(It):
        def headless(self, launch: Launch) -> Any:
            return self._get("headless", ["it", "-p", launch.prompt])

    def asked(tool: Tool, prompt: str = "hello") -> tuple[str, ...]:
        return prepare(
            tool,
            Launch(SESSION, prompt=prompt),
            host_home=home,
            host_environment={},
            saved=None,
            with_host_files=True,
        ).command

    assert asked(Asked()) == ("it", "-p", "hello")
    for tool in (It(), Asked(headless=None)):
        with pytest.raises(UsageError, match="it takes no prompt"):
            asked(tool)
    with pytest.raises(UsageError, match="the prompt is too long for it"):
        asked(Asked(), "x" * (1 << 17))
    for nonsense in ("it", [], [1], SystemExit(0), Fickle):
        with pytest.raises(CoiError, match=r"failed in headless\(\)"):
            asked(Asked(headless=nonsense))


@pytest.mark.parametrize(
    "returns",
    [
        None,
        "text",
        Answer(cast("str", None)),
        Answer(cast("str", b"x")),
        Answer("a", cast("str", 1)),
        Answer("a", "-x"),
        Answer("a", ""),
        Answer("a", "b\x1b[2J"),
        Answer("a", "b" * 1000),
        SystemExit(0),
        Fickle,
        RecursionError(),
    ],
)
def test_an_answer_that_is_none(returns: Any) -> None:
    class Answering(It):
        def answer(self, output: str) -> Any:
            return self._get("answer", None)

    with pytest.raises(CoiError, match=r"failed in answer\(\)"):
        answer(Answering(answer=returns), "output")
    assert answer(It(), "output") == Answer("output")


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), Interrupted("x")])
def test_interruptions_pass(home: Path, raised: BaseException) -> None:
    with pytest.raises(type(raised)):
        run(It(command=raised), home)


def test_a_transform_must_give_bytes(home: Path) -> None:
    (home / ".it/a").write_text("x")
    give_text: Callable[[bytes], Any] = bytes.decode
    with pytest.raises(CoiError, match="host_files"):
        run(It(host_files=(HostFile(".it/a", ".it/a", transform=give_text),)), home)


@pytest.mark.parametrize("returns", ["", "-x", "a\nb", "a" * 1000, 1, ValueError("x")])
def test_a_session_id_that_is_none(returns: Any) -> None:
    with pytest.raises(CoiError, match="find_session_id"):
        find_session_id(It(find_session_id=returns), saved({}), SESSION)


def test_a_session_id() -> None:
    assert find_session_id(It(find_session_id="ses_1"), saved({}), SESSION) == "ses_1"
    assert find_session_id(It(find_session_id=None), saved({}), SESSION) is None


def test_secret_keys_are_not_saved() -> None:
    tool = It()
    tool.secret_keys = {".it/a.json": ("key",)}
    strip = without_secret_keys
    assert json.loads(strip(tool, ".it/a.json", b'{"key": 1, "b": 2}') or b"") == {"b": 2}
    assert strip(tool, ".it/a.json", b'{ "b":2}') == b'{ "b":2}'
    assert strip(tool, ".it/b.json", b'{"key": 1}') == b'{"key": 1}'
    assert strip(tool, ".it/a.json", b'{"key": 1') is None


@pytest.mark.parametrize(("default", "model"), [(False, "ours"), (True, "theirs")])
def test_a_default_stands_under_the_users_values(home: Path, default: bool, model: str) -> None:
    (home / ".it/settings.json").write_text('{"model": "theirs", "theirs": 1}')
    ours = {"model": "ours", "ours": 1}
    merge = JsonMerge(".it/settings.json", ours, default=default)
    files = (HostFile(".it/settings.json", ".it/settings.json"),)
    prepared = run(It(merges=(merge,), host_files=files), home)
    assert json.loads(prepared.files[0].data) == {"model": model, "theirs": 1, "ours": 1}


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize(
    ("name", "text"), [("s.json", '{"mcp": {"k": "CANARY"}, "a": 1}'), ("s.toml", "mcp = 1\na = 1")]
)
def test_keys_that_are_the_hosts_alone(home: Path, name: str, text: str, secret: bool) -> None:
    file = HostFile(f".it/{name}", f".it/{name}", without=("mcp",), secret=secret)
    (home / f".it/{name}").write_text(text)
    (found,) = run(It(host_files=(file,)), home).files
    assert b"mcp" not in found.data
    assert b"a" in found.data
    (home / f".it/{name}").write_text(text[:-1] + "=")
    prepared = run(It(host_files=(file,)), home)
    assert prepared.files == ()
    assert "is left out: it is not valid" in prepared.notices[0]
