"""--mount, --storage and mounts of the configuration, as Incus devices."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coi.config.model import Mount
from coi.errors import CoiError, NotFoundError, RefusedError, UsageError
from coi.workspace.mounts import devices, parse


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / ".coi").mkdir(parents=True)
    return tmp_path / "home" / ".coi"


def made(*flags: str, home: Path, **options: Any) -> dict[str, dict[str, str]]:
    options = {"storage": None, "shift": True, **options}
    return devices(options.pop("defaults", ()), flags, private=home, **options)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", Mount(Path("/a"), "/b")),
        ("/a:/b:ro", Mount(Path("/a"), "/b", readonly=True)),
        ("/a:/b:rw", Mount(Path("/a"), "/b")),
        ("a b:/c d", Mount(Path("a b"), "/c d")),
    ],
)
def test_parse(text: str, mount: Mount) -> None:
    assert parse(text) == mount


@pytest.mark.parametrize("text", ["", ":", "/a", "/a:", ":/b", "/a:/b:", "/a:/b:RO", "/a:/b:ro:x"])
def test_parse_errors_show_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="--mount"):
        parse(text)


@given(st.text(max_size=30))
def test_parse_never_crashes(text: str) -> None:
    try:
        mount = parse(text)
    except UsageError:
        return
    assert str(mount.host)
    assert mount.container


def test_devices(tmp_path: Path, home: Path) -> None:
    for name in ("data", "more", "store"):
        (tmp_path / name).mkdir()
    found = made(
        f"{tmp_path}/data:/data:ro",
        home=home,
        defaults=[Mount(tmp_path / "more", "/mnt/more")],
        storage=str(tmp_path / "store"),
    )
    disk = {"type": "disk", "shift": "true"}
    assert found == {
        "mount1": {**disk, "source": f"{tmp_path}/more", "path": "/mnt/more"},
        "mount2": {**disk, "source": f"{tmp_path}/data", "path": "/data", "readonly": "true"},
        "mount3": {**disk, "source": f"{tmp_path}/store", "path": "/storage"},
    }
    assert "shift" not in made(f"{tmp_path}/data:/data", home=home, shift=False)["mount1"]


def test_a_single_file_and_a_link(tmp_path: Path, home: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    assert made(f"{tmp_path}/link:/file", home=home)["mount1"]["source"] == f"{tmp_path}/file"


def test_nothing_there_and_nothing_created(tmp_path: Path, home: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing to mount") as caught:
        made(f"{tmp_path}/none:/data", home=home)
    assert "mkdir" in caught.value.hint
    assert not (tmp_path / "none").exists()


INSIDE = {
    "root": "/",
    "root twice": "//",
    "workspace": "/workspace",
    "workspace with slash": "/workspace/",
    "below workspace": "/workspace/.git/hooks",
    "home": "/home/code",
    "home with slash": "/home/code/",
    "above home": "/home",
    "root's home": "/root",
    "parent": "/data/../workspace",
    "relative": "data",
    "dot": ".",
    "double slash": "//workspace",
    "newline": "/a\nb",
    "etc": "/etc",
    "proc": "/proc",
    "sys": "/sys/fs",
    "dev": "/dev",
    "usr": "/usr",
    "cois own": "/home/code/.coi",
}


@pytest.mark.parametrize("case", INSIDE)
def test_places_inside_that_are_refused(case: str, tmp_path: Path, home: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError):
        made(f"{tmp_path}/data:{INSIDE[case]}", home=home)


@pytest.mark.parametrize(
    "place", ["/data", "/home/code/.cache", "/opt/x", "/mnt/a b", "/workspaces"]
)
def test_places_inside_that_work(place: str, tmp_path: Path, home: Path) -> None:
    (tmp_path / "data").mkdir()
    assert made(f"{tmp_path}/data:{place}", home=home)["mount1"]["path"] == place


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("/data", "/data", True),
        ("/data", "/data/", True),
        ("/data", "/data/x", True),
        ("/data/x", "/data", True),
        ("/data", "/database", False),
        ("/a/b", "/a/c", False),
        ("/storage", "/storage/x", True),
    ],
)
def test_overlap(one: str, other: str, clash: bool, tmp_path: Path, home: Path) -> None:
    (tmp_path / "data").mkdir()
    flags = (f"{tmp_path}/data:{one}", f"{tmp_path}/data:{other}")
    if clash:
        with pytest.raises(UsageError, match="overlap"):
            made(*flags, home=home)
    else:
        assert len(made(*flags, home=home)) == 2


def test_storage_and_a_mount_at_storage(tmp_path: Path, home: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match="overlap"):
        made(f"{tmp_path}/data:/storage", home=home, storage=str(tmp_path / "data"))


def test_cois_own_data_is_never_mounted(tmp_path: Path, home: Path) -> None:
    (home / "sessions-claude").mkdir()
    (tmp_path / "link").symlink_to(home)
    for place in ("/", tmp_path, home.parent, home, home / "sessions-claude", tmp_path / "link"):
        with pytest.raises(RefusedError):
            made(f"{place}:/data", home=home)


def test_a_host_path_of_another_kind(tmp_path: Path, home: Path) -> None:
    with pytest.raises(UsageError, match="control character"):
        made(f"{tmp_path}/a\nb:/data", home=home)
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    with pytest.raises(UsageError, match="UTF-8"):
        made(f"{odd}:/data", home=home)


PLACES = st.lists(
    st.lists(
        st.sampled_from(["data", "workspace", "..", ".", "a", "home", "code"]), max_size=4
    ).map(lambda parts: "/" + "/".join(parts)),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=PLACES)
def test_whatever_is_accepted_covers_nothing(places: list[str], tmp_path: Path, home: Path) -> None:
    source = tmp_path / "data"
    source.mkdir(exist_ok=True)
    try:
        found = made(*(f"{source}:{place}" for place in places), home=home)
    except CoiError:
        return
    inside = [PurePosixPath(device["path"]) for device in found.values()]
    assert len(inside) == len(places)
    for number, path in enumerate(inside):
        assert path.is_absolute()
        assert ".." not in path.parts
        others = [*inside[:number], *inside[number + 1 :], PurePosixPath("/workspace")]
        assert not any(o.is_relative_to(path) or path.is_relative_to(o) for o in others)
        assert path not in (PurePosixPath("/"), PurePosixPath("/home/code"), PurePosixPath("/home"))


def test_nothing_in_the_workspace_is_mounted(tmp_path: Path, home: Path) -> None:
    """Whatever the way there: a container could put a link in its place."""
    work, beside = tmp_path / "work", tmp_path / "work-data"
    (work / "data").mkdir(parents=True)
    beside.mkdir()
    (work / "out").symlink_to(beside)
    (tmp_path / "in").symlink_to("work")
    (tmp_path / "chain").symlink_to("in/../in/out")
    (tmp_path / "loop").symlink_to("loop")
    for source in ("work/data", "work/out", "in/data", "chain", "work/none", "in/out/x"):
        with pytest.raises(RefusedError, match="in the workspace"):
            made(f"{tmp_path}/{source}:/data", home=home, workspace=work)
    for source in ("work", "in", "work-data"):
        assert made(f"{tmp_path}/{source}:/data", home=home, workspace=work)
    with pytest.raises(CoiError):
        made(f"{tmp_path}/loop:/data", home=home, workspace=work)


def test_the_control_a_link_in_it_is_followed(tmp_path: Path, home: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "work" / "data").symlink_to(tmp_path / "secret")
    found = made(f"{tmp_path}/work/data:/data", home=home)
    assert found["mount1"]["source"] == f"{tmp_path}/secret"
