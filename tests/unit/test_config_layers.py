"""Layers: which one wins, what is kept, where a value came from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from configs import VALUES, Place, place, said, toml, value_of, variables
from hypothesis import given, settings
from hypothesis import strategies as st

from coi.config import coi_home, load
from coi.config.model import Config, Mount
from coi.config.paths import user_config
from coi.config.schema import KEYS
from coi.errors import ConfigError, NotFoundError


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_every_key_has_a_strategy() -> None:
    assert set(VALUES) == {key.name for key in KEYS}


def test_built_in_values(here: Place) -> None:
    loaded = here.load()
    config = loaded.config
    expected = Config(paths=config.paths)
    assert config.defaults == expected.defaults
    assert config.tool == expected.tool
    assert config.incus == expected.incus
    assert config.build == expected.build
    assert config.mounts == expected.mounts
    assert (dict(config.environment), config.profiles) == ({}, ())
    assert config.limits == {"cpu": "share", "memory": "75%", "processes": "4096"}
    assert config.network.mode == "restricted"
    assert config.network.logging.path == here.coi_home / "logs" / "network.log"
    assert config.paths.storage_dir == here.home / ".coi" / "storage"
    assert set(loaded.origins.values()) == {"built-in"}
    assert not here.coi_home.exists()


@settings(max_examples=150, deadline=None)
@given(
    system=said("tool.binary"),
    user=said("tool.binary"),
    project=said("tool.binary"),
    profile=said("tool.binary"),
    environment=said("tool.binary", "mounts.default"),
    flags=said("tool.binary"),
)
def test_the_highest_layer_that_names_a_key_wins(
    system: dict[str, Any],
    user: dict[str, Any],
    project: dict[str, Any],
    profile: dict[str, Any],
    environment: dict[str, Any],
    flags: dict[str, Any],
) -> None:
    with place() as at:
        at.system.write_text(toml(system))
        at.user.write_text(toml(user) + "[profiles.p]\n" + toml(profile))
        at.project.write_text(toml(project))
        at.trust()
        built_in = at.load().config  # for keys that no layer names
        loaded = at.load(profile="p", environ=variables(environment), flags=flags)
        assert loaded.withheld == ()
        assert loaded.untrusted is None
        nothing = load(Path("/nonexistent"), environ=at.environ, system=Path("/nonexistent")).config
        for key in VALUES:
            if key == "tool.binary":
                continue
            layers = [
                ("built-in", {key: value_of(nothing, key)}),
                (str(at.system), system),
                (str(at.user), user),
                (str(at.project), project),
                (f"profile p ({at.user})", profile),
                ("COI_", environment),
                ("-", flags),
            ]
            origin, layer = [(o, layer) for o, layer in layers if key in layer][-1]
            if key == "network.logging.path" and origin == "built-in":
                assert value_of(loaded.config, key).startswith(str(loaded.config.paths.logs_dir))
                continue
            assert value_of(loaded.config, key) == layer[key], key
            said_by = loaded.origins[key]
            if origin == "COI_":
                assert said_by == "COI_" + key.upper().replace(".", "_")
            elif origin == "-":
                assert said_by.startswith(("--", "flag "))
            else:
                assert said_by == origin
        assert built_in.profiles == ("p",)


def test_a_file_that_names_one_key_resets_no_other(here: Place) -> None:
    here.user.write_text(
        "[defaults]\npersistent = true\nmount_claude_config = false\n[network]\n"
        "block_private_networks = false\n[network.logging]\nenabled = true\n"
    )
    here.project.write_text('[defaults]\nimage = "other"\n[network]\nmode = "allowlist"\n')
    here.trust()
    config = here.load().config
    assert config.defaults.image == "other"
    assert config.defaults.persistent is True
    assert config.defaults.mount_claude_config is False
    assert config.network.block_private_networks is False
    assert config.network.logging.enabled is True


def test_lists_replace(here: Place) -> None:
    here.system.write_text('[build]\ntools = ["claude", "aider"]\n')
    here.user.write_text('[build]\ntools = ["codex"]\n')
    assert here.load().config.build.tools == ("codex",)
    assert here.load(environ={"COI_BUILD_TOOLS": "aider, claude"}).config.build.tools == (
        "aider",
        "claude",
    )
    assert here.load(environ={"COI_BUILD_TOOLS": ""}).config.build.tools == ()


def test_the_document_s_own_example(here: Place) -> None:
    here.user.write_text(
        """
[defaults]
image = "coi"
persistent = true
mount_claude_config = true

[tool]
name = "claude"  # AI coding tool to use (currently supports: claude)

[paths]
sessions_dir = "~/.coi/sessions"
storage_dir = "~/.coi/storage"

[incus]
project = "default"
group = "incus-admin"
claude_uid = 1000

[profiles.rust]
image = "coi-rust"
environment = { RUST_BACKTRACE = "1" }
persistent = false
"""
    )
    plain, rust = here.load(), here.load(profile="rust")
    assert plain.config.incus.code_uid == 1000
    assert plain.config.paths.sessions_dir == here.home / ".coi" / "sessions"
    assert (plain.config.defaults.image, plain.config.defaults.persistent) == ("coi", True)
    assert plain.config.environment == {}
    assert plain.config.profiles == ("rust",)
    assert (rust.config.defaults.image, rust.config.defaults.persistent) == ("coi-rust", False)
    assert rust.config.environment == {"RUST_BACKTRACE": "1"}
    assert rust.origins["environment.RUST_BACKTRACE"] == f"profile rust ({here.user})"
    assert rust.origins["defaults.image"] == f"profile rust ({here.user})"


def test_profiles_of_several_files_add_up(here: Place) -> None:
    here.system.write_text(
        '[profiles.p]\nimage = "low"\nenvironment = { A = "1", B = "1" }\n'
        "[profiles.p.tool.claude]\neffort = { a = 1 }\n"
    )
    here.user.write_text(
        '[profiles.p.defaults]\nimage = "high"\n[profiles.p.environment]\nB = "2"\n'
        "[profiles.p.tool.claude]\neffort = 3\n"
    )
    loaded = here.load(profile="p")
    assert loaded.config.defaults.image == "high"
    assert loaded.config.environment == {"A": "1", "B": "2"}
    assert loaded.config.tool.options == {"claude": {"effort": 3}}
    assert loaded.origins["environment.A"] == f"profile p ({here.system})"


def test_an_unknown_profile(here: Place) -> None:
    here.user.write_text("[profiles.rust]\n[profiles.go]\n")
    with pytest.raises(NotFoundError) as caught:
        here.load(profile="rusty")
    assert caught.value.exit_code == 3
    assert caught.value.details == "defined are: go, rust"
    assert caught.value.hint == "did you mean rust?"


def test_options_of_a_tool_merge_key_by_key(here: Place) -> None:
    here.system.write_text(
        '[tool.claude]\neffort = "low"\n[tool.claude.env]\nA = 1\nB = [1, { x = 2 }]\n'
    )
    here.user.write_text('[tool.claude]\neffort = "high"\n[tool.claude.env]\nA = 2\n')
    assert here.load().config.tool.options == {
        "claude": {"effort": "high", "env": {"A": 2, "B": (1, {"x": 2})}}
    }
    here.project.write_text("[tool.claude]\nenv = 7\neffort.level = 1\n")
    here.trust()
    loaded = here.load()
    assert loaded.config.tool.options == {"claude": {"env": 7, "effort": {"level": 1}}}
    assert "tool.claude.env.A" not in loaded.origins


@pytest.mark.parametrize(
    ("user", "flags", "binary"),
    [
        ('name = "claude"\nbinary = "w"', {}, "w"),
        ('binary = "w"', {"tool.name": "claude"}, "w"),
        ('binary = "w"', {"tool.name": "aider"}, ""),
        ('name = "aider"\nbinary = "w"', {"tool.name": "aider"}, "w"),
        ('name = "aider"\nbinary = "w"', {"tool.name": "claude"}, ""),
        ('binary = "w"', {"tool.name": "aider", "tool.binary": "v"}, "v"),
    ],
)
def test_a_binary_belongs_to_the_tool_it_was_set_for(
    here: Place, user: str, flags: dict[str, object], binary: str
) -> None:
    here.user.write_text("[tool]\n" + user + "\n")
    assert here.load(flags=flags).config.tool.binary == binary


def test_mounts_and_paths_are_expanded(here: Place) -> None:
    here.user.write_text(
        '[paths]\nlogs_dir = "~/l/../logs"\n'
        '[[mounts.default]]\nhost = "~/data"\ncontainer = "/data/"\nreadonly = true\n'
        '[[mounts.default]]\nhost = "/srv"\ncontainer = "/srv"\n'
    )
    config = here.load().config
    assert config.mounts.default == (
        Mount(here.home / "data", "/data", True),
        Mount(Path("/srv"), "/srv", False),
    )
    assert config.paths.logs_dir == here.home / "logs"
    assert config.network.logging.path == here.home / "logs" / "network.log"


def test_variables(here: Place) -> None:
    environ = {
        "COI_DEFAULTS_PERSISTENT": "Yes",
        "COI_DEFAULTS_MOUNT_CLAUDE_CONFIG": "off",
        "COI_DEFAULTS_MAX_SLOTS": "3",
        "COI_INCUS_CLAUDE_UID": "1234",
        "COI_LIMITS_CPU": "2",
        "COI_NETWORK_LOGGING_ENABLED": "1",
        "COI_DEFAULTS_IMAGE": "",  # as if not set
        "COI_HOME": "/srv/coi",
        "COI_DEBUG": "1",
        "COI_NO_SUCH_KEY": "x",
        "COI_MOUNTS_DEFAULT": "/:/x",
    }
    loaded = here.load(environ=environ)
    assert loaded.config.defaults.persistent is True
    assert loaded.config.defaults.mount_claude_config is False
    assert loaded.config.defaults.max_slots == 3
    assert loaded.config.defaults.image == "coi"
    assert loaded.config.incus.code_uid == 1234
    assert loaded.config.limits["cpu"] == "2"
    assert loaded.config.network.logging.enabled is True
    assert loaded.config.mounts.default == ()
    assert loaded.config.paths.storage_dir == Path("/srv/coi/storage")
    assert loaded.origins["incus.code_uid"] == "COI_INCUS_CLAUDE_UID"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("COI_DEFAULTS_PERSISTENT", "maybe", "must be true or false, not the string 'maybe'"),
        ("COI_DEFAULTS_MAX_SLOTS", "0", "must be a whole number from 1 to 1000, not the number 0"),
        ("COI_DEFAULTS_MAX_SLOTS", "9" * 5000, "must be a whole number from 1 to 1000"),
        ("COI_NETWORK_MODE", "none\x1b[2J", "must be one of open, restricted, allowlist"),
    ],
)
def test_wrong_variables(here: Place, name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        here.load(environ={name: value})
    assert str(caught.value).startswith(f"{name} {said}")
    assert str(caught.value).isprintable()


def test_flags(here: Place) -> None:
    loaded = here.load(
        environ={"COI_TOOL_NAME": "codex"},
        flags={"tool.name": "aider", "defaults.persistent": False, "defaults.image": None},
    )
    assert loaded.config.tool.name == "aider"
    assert loaded.origins["tool.name"] == "--tool"
    assert loaded.origins["defaults.image"] == "built-in"
    with pytest.raises(ConfigError, match="--network must be one of open") as caught:
        here.load(flags={"network.mode": "bridge"})
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="no such key"):
        here.load(flags={"defaults.imagee": "x"})


@pytest.mark.parametrize("which", ["system", "user"])
def test_a_file_that_cannot_be_read_is_an_error(here: Place, which: str) -> None:
    path: Path = getattr(here, which)
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot read") as caught:
        here.load()
    assert str(path) in str(caught.value)
    path.rmdir()
    path.write_text("#" * (1 << 20) + "\n")
    with pytest.raises(ConfigError, match="is larger than 1 MiB"):
        here.load()


def test_the_user_s_file_may_be_a_link(here: Place, tmp_path: Path) -> None:
    (tmp_path / "dotfiles.toml").write_text('[tool]\nname = "aider"\n')
    here.user.symlink_to(tmp_path / "dotfiles.toml")
    assert here.load().config.tool.name == "aider"


@pytest.mark.parametrize("base", [None, "", "/srv/xdg"])
def test_the_user_s_file_is_where_platformdirs_has_it(
    monkeypatch: pytest.MonkeyPatch, base: str | None
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    if base is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", base)
    expected = platformdirs.user_config_path("coi", appauthor=False) / "config.toml"
    assert user_config(os.environ) == expected


def test_coi_home() -> None:
    assert coi_home({"HOME": "/home/u"}) == Path("/home/u/.coi")
    assert coi_home({"HOME": "/home/u", "COI_HOME": "~/x/../y"}) == Path("/home/u/y")
    assert coi_home({"HOME": "/home/u", "COI_HOME": "rel"}) == Path.cwd() / "rel"
    assert coi_home({"HOME": "/home/u", "COI_HOME": ""}) == Path("/home/u/.coi")
    assert coi_home({}).is_absolute()


def test_nothing_heavy_is_imported_where_there_are_no_files(here: Place) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom coi.config import load\n"
        f"load(Path({str(here.workspace)!r}), environ={here.environ!r}, "
        "system=Path('/nonexistent'))\n"
        "heavy = {'tomli', 'platformdirs', 'json', 'hashlib', 'difflib', 'typer', 'rich', 'sh'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "\n"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20))
def test_any_profile_name_is_either_known_or_not_found(name: str) -> None:
    with place() as at:
        at.user.write_text("[profiles.rust]\n")
        if name == "rust":
            assert at.load(profile=name).profile == "rust"
            return
        with pytest.raises(NotFoundError) as caught:
            at.load(profile=name)
        assert str(caught.value).isprintable()
