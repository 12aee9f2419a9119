"""An unapproved .coi.toml: what it may do, and that it never widens anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from configs import SIZES, TOOLS, Place, place, said, toml, value_of, variables
from hypothesis import given, settings
from hypothesis import strategies as st

from coi.config import Config
from coi.config.schema import KEYS
from coi.config.tighten import UNTRUSTED
from coi.errors import ConfigError, RefusedError


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(tmp_path)


MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cpus(text: str) -> set[int] | int:
    if "-" not in text and "," not in text:
        return int(text)
    return {"0-1": {0, 1}, "0-3": {0, 1, 2, 3}, "1,3": {1, 3}}[text]


def more_cpus(one: str, other: str) -> bool:
    """Whether ``one`` may use a CPU or a number of CPUs that ``other`` may not."""
    if not other:
        return False
    if not one:
        return True
    if "share" in (one, other):
        return one != other and one == "share"
    a, b = cpus(one), cpus(other)
    if isinstance(b, int):
        return (a if isinstance(a, int) else len(a)) > b
    return isinstance(a, int) or not a <= b


def more(one: str, other: str) -> bool:
    if not other or one == other:
        return False
    if not one:
        return True
    if other.endswith("%") and not one.endswith("%"):
        return SIZES[one] > MEMORY * int(other[:-1]) // 100
    if one.endswith("%") != other.endswith("%"):
        return True
    if one.endswith("%"):
        return int(one[:-1]) > int(other[:-1])
    return SIZES.get(one, 0) > SIZES.get(other, 0) if one in SIZES else int(one) > int(other)


def wider(one: Config, other: Config) -> list[str]:
    """The keys by which ``one`` gives a session more than ``other``, or another thing."""
    modes = ["open", "restricted", "allowlist"]
    a, b = one.network, other.network
    found = {
        "image": one.defaults.image != other.defaults.image,
        "persistent": one.defaults.persistent != other.defaults.persistent,
        "credentials": one.defaults.mount_claude_config > other.defaults.mount_claude_config,
        "protection": one.protect.enabled < other.protect.enabled,
        "protected": bool(set(other.protect.paths) - set(one.protect.paths)),
        "put back": one.protect.on_change < other.protect.on_change,
        "slots": one.defaults.max_slots > other.defaults.max_slots,
        "binary": one.tool.binary not in ("", other.tool.binary),
        "options": one.tool.options != other.tool.options,
        "paths": one.paths != other.paths,
        "incus": one.incus != other.incus,
        "mode": modes.index(a.mode) < modes.index(b.mode),
        "domains": not set(a.allowed_domains) <= set(b.allowed_domains),
        "refresh": a.refresh_interval_minutes > b.refresh_interval_minutes
        or (a.refresh_interval_minutes == 0) != (b.refresh_interval_minutes == 0),
        "local": a.allow_local_network_access > b.allow_local_network_access,
        "private": a.block_private_networks < b.block_private_networks,
        "metadata": a.block_metadata_endpoint < b.block_metadata_endpoint,
        "logging": a.logging != b.logging,
        "mounts": one.mounts != other.mounts,
        "ports": one.ports != other.ports,
        "environment": one.environment != other.environment,
        "build": one.build != other.build,
        "warm": one.warm != other.warm,
        "profiles": one.profiles != other.profiles,
        "cpu": more_cpus(one.limits.get("cpu", ""), other.limits.get("cpu", "")),
    }
    for key in ("memory", "processes", "disk"):
        found[key] = more(one.limits.get(key, ""), other.limits.get(key, ""))
    return [key for key, is_wider in found.items() if is_wider]


OPTIONS = st.dictionaries(
    st.sampled_from(["effort", "model"]), st.sampled_from(["a", "b"]), max_size=2
)


@settings(max_examples=250, deadline=None)
@given(
    user=said(),
    options=OPTIONS,
    profile=said(),
    hostile=said(),
    hostile_options=OPTIONS,
    hostile_profile=said(),
    environment=said("mounts.default"),
    use_profile=st.booleans(),
    use_environment=st.booleans(),
)
def test_an_unapproved_file_never_widens(
    user: dict[str, Any],
    options: dict[str, str],
    profile: dict[str, Any],
    hostile: dict[str, Any],
    hostile_options: dict[str, str],
    hostile_profile: dict[str, Any],
    environment: dict[str, Any],
    use_profile: bool,
    use_environment: bool,
) -> None:
    with place() as at:
        at.user.write_text(
            toml(user) + toml(options, "tool.claude.") + "[profiles.p]\n" + toml(profile)
        )
        selected = "p" if use_profile else None
        environ = variables(environment) if use_environment else {}
        without = at.load(profile=selected, environ=environ).config
        base = at.load().config
        at.project.write_text(
            toml(hostile)
            + toml(hostile_options, "tool.claude.")
            + "[profiles.p]\n"
            + toml(hostile_profile)
            + "[profiles.q]\n"
        )
        loaded = at.load(profile=selected, environ=environ)
        assert wider(loaded.config, without) == []
        assert "profiles.q" in loaded.withheld
        assert loaded.untrusted == at.project
        # What the file says either holds (below the profile and the rest) or is reported.
        plain = at.load()
        for key, value in hostile.items():
            if key == "tool.binary" and value_of(plain.config, "tool.name") != base.tool.name:
                continue
            assert value_of(plain.config, key) == value or key in plain.withheld, key


def test_a_profiles_binary_is_of_the_tool_that_the_user_chose(here: Place) -> None:
    """Nor does it become another tool's because the environment names that one too."""
    here.user.write_text("[profiles.p.tool]\nbinary = '/opt/wrapper'\n")
    here.project.write_text("[tool]\nname = 'aider'\n")
    for environ in ({}, {"COI_TOOL_NAME": "aider"}):
        tool = here.load(profile="p", environ=environ).config.tool
        assert (tool.name, tool.binary) == ("aider", "")
    here.trust()
    assert here.load(profile="p").config.tool.binary == "/opt/wrapper"


@settings(max_examples=80, deadline=None)
@given(user=said("tool.name", "tool.binary"), tool=TOOLS)
def test_it_may_choose_the_tool(user: dict[str, Any], tool: str) -> None:
    with place() as at:
        at.user.write_text(toml(user))
        at.project.write_text(toml({"tool.name": tool}))
        loaded = at.load()
        assert loaded.config.tool.name == tool
        assert loaded.withheld == ()
        assert loaded.notices == ()


def test_wider_sees_what_a_trusted_file_does(here: Place) -> None:
    """The property above would see a widening if there were one."""
    before = here.load().config
    here.project.write_text(
        "[defaults]\nimage = 'x'\npersistent = true\n[network]\nmode = 'open'\n"
        "allowed_domains = ['a.com']\n[[mounts.default]]\nhost = '/'\ncontainer = '/host'\n"
    )
    here.trust()
    expected = ["image", "persistent", "mode", "domains", "mounts"]
    assert wider(here.load().config, before) == expected


TIGHTER = """
[defaults]
mount_claude_config = false
max_slots = 2
[network]
mode = "allowlist"
allowed_domains = ["pypi.org"]
refresh_interval_minutes = 5
allow_local_network_access = false
block_private_networks = true
block_metadata_endpoint = true
[limits]
cpu = 2
memory = "1GiB"
processes = 50
disk = "5GB"
"""


def test_tightening_needs_no_approval(here: Place) -> None:
    here.user.write_text(
        "[network]\nmode = 'open'\nallowed_domains = ['pypi.org', 'a.com']\n"
        "allow_local_network_access = true\nblock_private_networks = false\n"
        "block_metadata_endpoint = false\n[limits]\ncpu = '0-3'\nmemory = '2GiB'\nprocesses = 60\n"
    )
    here.project.write_text(TIGHTER.replace("cpu = 2", "cpu = '1,2'"))
    loaded = here.load()
    assert (loaded.withheld, loaded.notices, loaded.untrusted) == ((), (), here.project)
    config = loaded.config
    assert config.network.mode == "allowlist"
    assert config.network.allowed_domains == ("pypi.org",)
    assert config.network.allow_local_network_access is False
    assert config.network.block_private_networks is True
    assert config.defaults.mount_claude_config is False
    assert config.defaults.max_slots == 2
    assert config.limits == {"cpu": "1,2", "memory": "1GiB", "processes": "50", "disk": "5GB"}
    assert loaded.origins["network.mode"] == str(here.project)


def test_credentials_may_only_become_fewer(here: Place) -> None:
    def said(user: str, project: str) -> tuple[object, tuple[str, ...]]:
        here.user.write_text(user and f"[tool.claude]\ncredentials = {user}\n")
        here.project.write_text(f"[tool.claude]\ncredentials = {project}\n")
        loaded = here.load()
        return loaded.config.tool.options["claude"]["credentials"], loaded.withheld

    waits = ("tool.claude.credentials",)
    assert said("", "[]") == ((), ())
    assert said("", "['KEY']") == (("KEY",), ())
    assert said("['KEY', 'URL']", "['URL']") == (("URL",), ())
    assert said("['KEY']", "['URL', 'KEY']") == (("KEY",), waits)
    assert said("[]", "['KEY']") == ((), waits)
    assert said("['~/.x/key']", "['.x/key']") == ((".x/key",), ())
    here.trust()
    assert said("[]", "['KEY']")[0] == (), "one changed byte, and it waits again"
    here.trust()
    assert here.load().config.tool.options["claude"]["credentials"] == ("KEY",)


@pytest.mark.parametrize("user", ["", "[profiles.p.environment]\nA = 'mine'\n"])
def test_no_address_for_credentials_comes_from_it(here: Place, user: str) -> None:
    """ANTHROPIC_BASE_URL would have the host's key sent wherever the repository says."""
    here.user.write_text(user)
    here.project.write_text(
        "[profiles.p.environment]\nANTHROPIC_BASE_URL = 'https://evil.example'\n"
    )
    if not user:
        with pytest.raises(RefusedError):
            here.load(profile="p")
    else:
        loaded = here.load(profile="p")
        assert loaded.config.environment == {"A": "mine"}
        assert loaded.withheld == ("profiles.p",)
    here.trust()
    assert "ANTHROPIC_BASE_URL" in here.load(profile="p").config.environment


def test_an_allowlist_holds_only_the_user_s_domains(here: Place) -> None:
    here.project.write_text("[network]\nmode = 'allowlist'\nallowed_domains = ['evil.example']\n")
    loaded = here.load()
    assert loaded.config.network.mode == "allowlist"
    assert loaded.config.network.allowed_domains == ()
    assert loaded.withheld == ("network.allowed_domains",)
    here.user.write_text("[network]\nallowed_domains = ['a.com', 'b.com']\n")
    here.project.write_text(
        "[network]\nmode = 'allowlist'\nallowed_domains = ['evil.example', 'b.com']\n"
    )
    loaded = here.load()
    assert loaded.config.network.allowed_domains == ("b.com",)
    assert loaded.withheld == ("network.allowed_domains",)


@pytest.mark.parametrize(
    ("user", "project", "key"),
    [
        ("", "defaults.image = 'x'", "defaults.image"),
        ("", "defaults.persistent = true", "defaults.persistent"),
        ("defaults.persistent = true", "defaults.persistent = false", "defaults.persistent"),
        (
            "defaults.mount_claude_config = false",
            "defaults.mount_claude_config = true",
            "defaults.mount_claude_config",
        ),
        ("", "defaults.max_slots = 11", "defaults.max_slots"),
        ("", "tool.binary = '/workspace/x'", "tool.binary"),
        ("", "tool.claude.effort = 'x'", "tool.claude.effort"),
        ("", "network.mode = 'open'", "network.mode"),
        ("network.mode = 'allowlist'", "network.mode = 'restricted'", "network.mode"),
        ("", "network.refresh_interval_minutes = 0", "network.refresh_interval_minutes"),
        ("", "network.refresh_interval_minutes = 31", "network.refresh_interval_minutes"),
        ("", "network.logging.path = '/etc/cron.d/x'", "network.logging.path"),
        ("", "network.logging.enabled = true", "network.logging.enabled"),
        ("", "incus.disable_shift = true", "incus.disable_shift"),
        ("", "incus.code_uid = 0", "incus.code_uid"),
        ("", "incus.remote = 'evil'", "incus.remote"),
        ("limits.memory = '1GB'", "limits.memory = ''", "limits.memory"),
        ("limits.memory = '1GB'", "limits.memory = '1GiB'", "limits.memory"),
        ("limits.memory = '1GB'", "limits.memory = '1%'", "limits.memory"),
        ("limits.cpu = '2'", "limits.cpu = '0-2'", "limits.cpu"),
        ("limits.cpu = '0-2'", "limits.cpu = 1", "limits.cpu"),
        ("limits.processes = 9", "limits.processes = 10", "limits.processes"),
        ("", "build.dns = ['9.9.9.9']", "build.dns"),
        ("", "mounts.default = [{host = '/', container = '/h'}]", "mounts.default"),
        (
            "mounts.default = [{host = '/', container = '/h'}]",
            "mounts.default = []",
            "mounts.default",
        ),
        ("", "profiles.p.environment.ANTHROPIC_BASE_URL = 'http://evil'", "profiles.p"),
        ("profiles.p.image = 'a'", "profiles.p.image = 'b'", "profiles.p"),
        ("profiles.p.image = 'a'", "profiles.p.persistent = true", "profiles.p"),
    ],
)
def test_withheld_until_trusted(here: Place, user: str, project: str, key: str) -> None:
    here.user.write_text(user + "\n")
    before = here.load()
    here.project.write_text(project + "\n")
    loaded = here.load()
    assert loaded.config == before.config
    assert loaded.withheld == (key,)
    assert loaded.untrusted == here.project
    (notice,) = loaded.notices
    assert notice == (
        f"{here.project} is not trusted: {key} waits for approval (read it, then: coi trust)"
    )
    here.trust()
    trusted = here.load(profile="p" if key == "profiles.p" else None)
    assert (trusted.withheld, trusted.notices, trusted.untrusted) == ((), (), None)
    assert trusted.config != before.config


def test_the_notice_is_short_and_safe(here: Place) -> None:
    keys = "".join(f'"\\u001b]0;{number}\\u202e{"k" * 900}" = 1\n' for number in range(20))
    here.project.write_text("[tool.claude]\n" + keys)
    (notice,) = here.load().notices
    assert notice.isprintable()
    assert "14 more wait for approval" in notice
    assert len(notice) < 900


def test_saying_what_holds_anyway_waits_for_nothing(here: Place) -> None:
    here.user.write_text(
        "[defaults]\nimage = 'x'\n[profiles.p]\nimage = 'y'\n[tool.claude]\neffort = 1\n"
    )
    here.project.write_text(here.user.read_text())
    assert here.load().withheld == ()
    here.project.write_text("[tool.claude]\neffort = true\n")  # 1 == True, and yet
    assert here.load().withheld == ("tool.claude.effort",)


def test_a_profile_of_an_unapproved_file_cannot_be_selected(here: Place) -> None:
    here.project.write_text("[profiles.mine]\nimage = 'x'\n")
    with pytest.raises(RefusedError, match="profile mine is defined only in a file") as caught:
        here.load(profile="mine")
    assert caught.value.exit_code == 5
    assert "coi trust" in caught.value.hint
    here.trust()
    assert here.load(profile="mine").config.defaults.image == "x"


def test_the_user_s_profile_is_above_the_file(here: Place) -> None:
    here.user.write_text("[profiles.p]\nnetwork.mode = 'open'\n")
    here.project.write_text("[network]\nmode = 'allowlist'\n")
    assert here.load(profile="p").config.network.mode == "open"
    assert here.load().config.network.mode == "allowlist"


@pytest.mark.parametrize("text", ["[defaults", "nonsense = 1", "[defaults]\npersistent = 1"])
def test_a_wrong_file_is_an_error_that_names_it(here: Place, text: str) -> None:
    here.project.write_text(text)
    with pytest.raises(ConfigError) as caught:
        here.load()
    assert caught.value.exit_code == 2
    assert caught.value.brief.startswith(str(here.project))


def test_the_list_names_keys_that_exist() -> None:
    assert set(UNTRUSTED) <= {key.name for key in KEYS}
    assert all(rule.__doc__ for rule in UNTRUSTED.values())
