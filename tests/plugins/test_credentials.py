"""Which of the host's files and variables may go in: declared, chosen, never by a link."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coi.api import HostFile, ImageContext, JsonMerge, Launch, Tool
from coi.errors import ConfigError
from coi.tools.claude import Claude
from coi.tools.credentials import Access, host_access, host_files, seen_files
from coi.tools.manager import Manager
from coi.tools.prepare import prepare

ENVIRONMENT = {"IT_KEY": "key-value", "IT_URL": "http://u", "OTHER": "canary", "IT_EMPTY": ""}


class It(Tool):
    """A file that is a credential, one that holds one, settings, and variables."""

    name = "it"
    binary = "it"
    state = (".it",)
    secrets = (".it/login*",)
    secret_keys: Mapping[str, tuple[str, ...]] = {".it/both.json": ("token",)}
    host_variables = ("IT_KEY", "IT_URL", "IT_EMPTY", "IT_GONE")

    def install(self, image: ImageContext) -> str:
        return "true"

    def command(self, launch: Launch) -> Sequence[str]:
        return ["it"]

    def host_files(self, host_environment: Mapping[str, str]) -> Sequence[HostFile]:
        return (
            HostFile("elsewhere/key", ".it/key", secret=True),
            HostFile(".it/login", ".it/login"),
            HostFile(".it/both.json", ".it/both.json"),
            HostFile(".it/settings.json", ".it/settings.json"),
        )

    def merges(self, launch: Launch) -> Sequence[JsonMerge]:
        return (JsonMerge(".it/settings.json", {"knows": "IT_KEY" in launch.environment}),)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    for name, text in {
        "elsewhere/key": "K",
        ".it/login": "L",
        ".it/both.json": '{"token": "T", "theme": "dark"}',
        ".it/settings.json": '{"model": "m"}',
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return home


def access(options: Mapping[str, Any] | None = None, *, enabled: bool = True) -> Access:
    return host_access(It(), options or {}, enabled=enabled, host_environment=ENVIRONMENT)


def inside(home: Path, given: Access) -> dict[str, str]:
    """What is in the home inside, for this much access."""
    prepared = prepare(
        It(),
        Launch("id", environment=given.variables),
        host_home=home,
        host_environment=ENVIRONMENT,
        saved=None,
        with_host_files=given.files,
        credentials=given.names,
    )
    assert prepared.notices == ()
    return {file.path: file.data.decode() for file in prepared.files}


def test_all_that_is_declared_goes_in_and_nothing_else(home: Path) -> None:
    given = access()
    assert given.variables == {"IT_KEY": "key-value", "IT_URL": "http://u"}
    files = inside(home, given)
    assert (files[".it/key"], files[".it/login"]) == ("K", "L")
    assert json.loads(files[".it/both.json"]) == {"token": "T", "theme": "dark"}
    assert json.loads(files[".it/settings.json"]) == {"model": "m", "knows": True}
    assert "canary" not in "".join(files.values())
    assert "key-value" not in repr(given)


def test_an_empty_list_keeps_every_credential_out_and_settings_in(home: Path) -> None:
    given = access({"credentials": ()})
    assert given.variables == {}
    files = inside(home, given)
    assert set(files) == {".it/both.json", ".it/settings.json"}
    assert json.loads(files[".it/both.json"]) == {"theme": "dark"}
    assert json.loads(files[".it/settings.json"]) == {"model": "m", "knows": False}


@pytest.mark.parametrize(
    ("names", "paths", "variables"),
    [
        (["IT_URL"], [], ["IT_URL"]),
        ([".it/key"], [".it/key"], []),
        (["elsewhere/key"], [".it/key"], []),
        ([".it/login", "IT_GONE"], [".it/login"], []),
    ],
)
def test_a_list_lets_in_what_it_names(
    names: list[str], paths: list[str], variables: list[str], home: Path
) -> None:
    given = access({"credentials": names})
    assert list(given.variables) == variables
    files = inside(home, given)
    assert [path for path in (".it/key", ".it/login") if path in files] == paths
    assert "token" not in files[".it/both.json"]


def test_a_file_that_holds_both_is_whole_where_it_is_listed(home: Path) -> None:
    assert "token" in inside(home, access({"credentials": [".it/both.json"]}))[".it/both.json"]


def test_one_that_cannot_be_told_apart_is_left_out(home: Path) -> None:
    (home / ".it/both.json").write_text("token=T")
    given = access({"credentials": []})
    seen = seen_files(It(), given, host_home=home, host_environment=ENVIRONMENT)
    both = next(file for file in seen if file.wanted.target == ".it/both.json")
    assert (both.status, both.reason) == (
        "refused",
        "it is not valid JSON, and may hold a credential",
    )


def test_switched_off_neither_files_nor_variables_go_in(home: Path) -> None:
    given = access(enabled=False)
    assert given.variables == {}
    assert set(inside(home, given)) == {".it/settings.json"}


@pytest.mark.parametrize("name", ["IT_KEYS", "OTHER", ".it/settings.json", "/etc/passwd", "*"])
def test_what_is_not_declared_cannot_be_named(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        access({"credentials": ["IT_KEY", name]})
    assert f"tool.it.credentials: it has no {name!r}" in caught.value.brief
    allowed = ".it/key, .it/login, .it/both.json, IT_KEY, IT_URL, IT_EMPTY, IT_GONE"
    assert caught.value.details == f"allowed are: {allowed}"


def test_what_would_go_in_is_told_and_no_value_is(home: Path, tmp_path: Path) -> None:
    (home / "elsewhere/key").unlink()
    (tmp_path / "outside").write_text("of somebody else")
    (home / ".it/login").unlink()
    (home / ".it/login").symlink_to(tmp_path / "outside")
    given = access({"credentials": [".it/key", ".it/login"]})
    seen = seen_files(It(), given, host_home=home, host_environment=ENVIRONMENT)
    assert [(file.wanted.target, file.credential, file.status, file.reason) for file in seen] == [
        (".it/key", True, "absent", ""),
        (".it/login", True, "refused", f"a link out of {home}"),
        (".it/both.json", True, "present", "its credentials are kept out"),
        (".it/settings.json", False, "present", ""),
    ]
    (kept, *_) = seen_files(It(), access({"credentials": []}), host_home=home, host_environment={})
    assert kept.status == "kept out"


@pytest.mark.parametrize("name", Manager.load(()).tools)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_no_declared_file_is_taken_through_a_link_out_of_the_home(
    name: str, kind: str, tmp_path: Path
) -> None:
    """Every tool that is installed here, every file that it declares."""
    tool = Manager.load(()).get(name)
    outside = tmp_path / "outside"
    for wanted in host_files(tool, {}):
        home = tmp_path / wanted.target.replace("/", "_")
        path = home / wanted.source
        path.parent.mkdir(parents=True)
        target = outside / wanted.source
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text('{"canary": "of somebody else"}')
        if kind == "file":
            path.symlink_to(target)
        elif path.parent == home:
            continue
        else:
            path.parent.rmdir()
            path.parent.symlink_to(target.parent)
        files = seen_files(tool, Access(), host_home=home, host_environment={})
        (seen,) = (file for file in files if file.wanted.target == wanted.target)
        assert seen.status == "refused", wanted
        assert "a link out of" in seen.reason
        prepared = prepare(
            tool, Launch("id", prompt=""), host_home=home, host_environment={}, saved=None,
            with_host_files=True,
        )  # fmt: skip
        assert not [file for file in prepared.files if b"of somebody else" in file.data]
        # the same file by no link is taken: the look is a real one
        path.unlink() if kind == "file" else path.parent.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("canary = 1\n" if path.suffix == ".toml" else '{"canary": "mine"}')
        files = seen_files(tool, Access(), host_home=home, host_environment={})
        (seen,) = (file for file in files if file.wanted.target == wanted.target)
        assert seen.status == "present", seen


def test_claude_approves_the_hosts_key(tmp_path: Path) -> None:
    key = "sk-ant-api03-0123456789abcdefghij"
    host = {"ANTHROPIC_API_KEY": key, "ANTHROPIC_BASE_URL": "http://u", "ANTHROPIC_MODEL": "no"}
    given = host_access(Claude(), {}, enabled=True, host_environment=host)
    assert given.variables == {"ANTHROPIC_API_KEY": key, "ANTHROPIC_BASE_URL": "http://u"}
    prepared = prepare(
        Claude(), Launch("id", environment=given.variables), host_home=tmp_path,
        host_environment=host, saved=None, with_host_files=True,
    )  # fmt: skip
    account = next(file for file in prepared.files if file.path == ".claude.json")
    assert json.loads(account.data)["customApiKeyResponses"] == {"approved": [key[-20:]]}
    assert prepared.environment["ANTHROPIC_API_KEY"] == key
