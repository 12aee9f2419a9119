"""install.sh in rehearsal: what it would run on each distribution, and what it refuses.

Every call is a dry run for a bare host (COI_PROBE=bare): nothing is installed or changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "install.sh"

RELEASES = {
    "debian12": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "debian13": 'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
    "ubuntu22": 'ID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "ubuntu24": 'ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.2 LTS"\n',
    "arch": 'ID=arch\nPRETTY_NAME="Arch Linux"\n',
    "fedora": 'ID=fedora\nVERSION_ID=42\nPRETTY_NAME="Fedora Linux 42"\n',
    "gentoo": 'ID=gentoo\nPRETTY_NAME="Gentoo"\n',
}


@dataclass
class Rehearsal:
    """Calls install.sh for an invented host, whose facts are files in `directory`."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, release: str, *arguments: str, **probes: str) -> subprocess.CompletedProcess[str]:
        """Runs the script with --dry-run; `probes` are further environment variables."""
        (self.directory / "os-release").write_text(RELEASES[release])
        return subprocess.run(
            ["bash", str(SCRIPT), "--dry-run", *arguments],
            env={**self.environment, **probes},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def commands(self, release: str, *arguments: str, **probes: str) -> list[str]:
        """The commands of a dry run that must succeed, without their leading `+ `."""
        done = self.run(release, *arguments, **probes)
        assert done.returncode == 0, done.stderr
        return [line[2:] for line in done.stdout.splitlines() if line.startswith("+ ")]


@pytest.fixture
def host(tmp_path: Path) -> Rehearsal:
    """A bare host: 200 GiB free, btrfs, one route, apt sources with a mirror of their own."""
    (tmp_path / "routes").write_text(
        "default via 198.51.100.1 dev eth0\n198.51.100.0/24 dev eth0\n"
    )
    (tmp_path / "sources.list").write_text(
        f"deb [signed-by={tmp_path}/own.gpg] http://mirror.example/debian bookworm main\n"
    )
    (tmp_path / "own.gpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\n'
        f'Dir::Etc::sourceparts "{tmp_path}/empty";\n'
    )
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return Rehearsal(
        tmp_path,
        {
            **kept,
            "COI_OS_RELEASE": str(tmp_path / "os-release"),
            "COI_PROBE": "bare",
            "COI_PROBE_SYSTEMD": "no",
            "COI_PROBE_BTRFS": "yes",
            "COI_PROBE_FREE_GIB": "200",
            "COI_ROUTES": str(tmp_path / "routes"),
            "APT_CONFIG": str(tmp_path / "apt.conf"),
        },
    )


def install_command(commands: list[str]) -> list[str]:
    """The words of the command that installs the packages."""
    found = [
        line.split()
        for line in commands
        if (" install " in line and ("apt-get" in line or "dnf" in line) and "curl" not in line)
        or line.startswith("pacman ")
    ]
    assert len(found) == 1, commands
    return found[0]


DEBIAN_TOOLS = {
    "acl",
    "lxcfs",
    "dnsmasq-base",
    "uidmap",
    "nftables",
    "btrfs-progs",
    "mmdebstrap",
    "python3-venv",
}


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("debian13", {"incus-base", "incus-client", "--no-install-recommends"} | DEBIAN_TOOLS),
        ("ubuntu24", {"incus-base", "incus-client", "debian-archive-keyring"} | DEBIAN_TOOLS),
        ("ubuntu22", {"incus", "python3-venv", "dnsmasq-base"}),
        ("arch", {"incus", "btrfs-progs", "dnsmasq", "--noconfirm"}),
        ("fedora", {"incus", "incus-client", "btrfs-progs", "dnsmasq", "-y"}),
    ],
)
def test_packages(host: Rehearsal, release: str, expected: set[str]) -> None:
    assert expected <= set(install_command(host.commands(release)))


@pytest.mark.skipif(not shutil.which("apt-get"), reason="reads the sources with apt-get")
def test_debian_12_adds_backports_from_the_hosts_own_mirror(host: Rehearsal) -> None:
    done = host.run("debian12")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    start = lines.index("+ write /etc/apt/sources.list.d/coi-backports.sources:")
    source = [line.strip() for line in lines[start + 1 : start + 6]]
    assert source == [
        "Types: deb",
        "URIs: http://mirror.example/debian/",
        "Suites: bookworm-backports",
        "Components: main",
        f"Signed-By: {host.directory}/own.gpg",
    ]
    words = install_command(host.commands("debian12"))
    assert {"incus-base/bookworm-backports", "incus-client/bookworm-backports"} <= set(words)
    assert set(words) >= DEBIAN_TOOLS
    update = next(i for i, line in enumerate(lines) if line.endswith(" update"))
    assert start < update


@pytest.mark.skipif(not shutil.which("apt-get"), reason="reads the sources with apt-get")
def test_debian_12_keeps_backports_that_are_there(host: Rehearsal) -> None:
    with (host.directory / "sources.list").open("a") as sources:
        sources.write("deb http://mirror.example/debian bookworm-backports main\n")
    assert not [line for line in host.commands("debian12") if line.startswith("write /etc/apt")]


@pytest.mark.skipif(not shutil.which("apt-get"), reason="reads the sources with apt-get")
def test_debian_12_without_a_mirror_says_so(host: Rehearsal) -> None:
    (host.directory / "sources.list").write_text("")
    done = host.run("debian12")
    assert done.returncode == 1
    assert "no mirror of bookworm" in done.stderr


def test_ubuntu_22_names_the_third_party_and_checks_its_key(host: Rehearsal) -> None:
    done = host.run("ubuntu22")
    assert done.returncode == 0, done.stderr
    assert "no incus package" in done.stdout
    assert "4EFC590696CB15B87C73A3AD82CC8797C838DCFD" in done.stdout
    assert "URIs: https://pkgs.zabbly.com/incus/lts-6.0" in done.stdout
    assert "Suites: jammy" in done.stdout


def test_other_distributions_add_no_source(host: Rehearsal) -> None:
    for release in ("debian13", "ubuntu24", "arch", "fedora"):
        assert not [line for line in host.commands(release) if line.startswith("write /etc/apt")]


def test_an_unknown_distribution_without_incus_is_refused(host: Rehearsal) -> None:
    done = host.run("gentoo")
    assert done.returncode == 1
    assert "Gentoo is not one of the distributions" in done.stderr
    assert "Hint: Install Incus with your distribution's tools" in done.stderr


def test_with_systemd_the_units_are_used(host: Rehearsal) -> None:
    commands = host.commands("debian13", COI_PROBE_SYSTEMD="yes")
    assert "systemctl enable --now incus.socket" in commands
    assert not [line for line in commands if line.startswith("setsid")]


def test_without_systemd_both_daemons_are_started_detached(host: Rehearsal) -> None:
    commands = host.commands("debian13")
    started = [line for line in commands if line.startswith("setsid")]
    assert len(started) == 2
    assert "lxcfs /var/lib/lxcfs" in started[0]
    assert "incusd --group incus-admin" in started[1]
    assert commands.index(started[1]) < next(
        i for i, line in enumerate(commands) if "waitready" in line
    )
    assert not [line for line in commands if "systemctl" in line]


def test_start_starts_the_daemons_and_nothing_else(host: Rehearsal) -> None:
    commands = host.commands("debian13", "--start")
    assert [line for line in commands if line.startswith("setsid")]
    assert not [
        line for line in commands if "apt-get" in line or "venv" in line or "storage" in line
    ]


def network(commands: list[str]) -> str:
    """The address that the new bridge gets."""
    line = next(line for line in commands if line.startswith("incus network create"))
    return next(word for word in line.split() if word.startswith("ipv4.address=")).partition("=")[2]


def test_bridge_and_pool_and_profile(host: Rehearsal) -> None:
    commands = host.commands("debian13")
    assert (
        "incus network create incusbr0 --type=bridge "
        "ipv4.address=10.213.77.1/24 ipv4.nat=true ipv6.address=none" in commands
    )
    assert "incus storage create default btrfs size=100GiB" in commands
    assert "incus profile device add default root disk path=/ pool=default" in commands
    assert "incus profile device add default eth0 nic name=eth0 network=incusbr0" in commands
    assert "auto" not in network(commands)


@pytest.mark.parametrize(
    ("route", "address"),
    [
        ("10.213.77.0/24 dev x", "10.157.83.1/24"),  # the first choice itself
        (
            "10.213.77.53 via 198.51.100.1",
            "10.157.83.1/24",
        ),  # one host in it, such as a name server
        ("10.0.0.0/8 via 198.51.100.1", "172.29.147.1/24"),  # a network that holds it
        (
            "0.0.0.0/1 dev tun0\n128.0.0.0/1 dev tun0",
            "10.213.77.1/24",
        ),  # a VPN's default route takes nothing
        ("10.0.0.0/8 dev a\n172.16.0.0/12 dev b", "192.168.213.1/24"),
    ],
)
def test_a_taken_subnet_is_avoided(host: Rehearsal, route: str, address: str) -> None:
    (host.directory / "routes").write_text(f"default via 198.51.100.1\n{route}\n")
    assert network(host.commands("debian13")) == address


def test_no_free_subnet_is_an_error_that_says_what_to_set(host: Rehearsal) -> None:
    (host.directory / "routes").write_text(
        "10.0.0.0/8 dev a\n172.16.0.0/12 dev b\n192.168.0.0/16 dev c\n"
    )
    done = host.run("debian13")
    assert done.returncode == 1
    assert done.stderr.count("Error:") == 1
    assert "COI_SUBNET=" in done.stderr
    assert network(host.commands("debian13", COI_SUBNET="100.64.7.1/24")) == "100.64.7.1/24"


def test_a_given_subnet_that_is_taken_or_malformed_is_refused(host: Rehearsal) -> None:
    assert "in use" in host.run("debian13", COI_SUBNET="198.51.100.129/25").stderr
    assert "not an address" in host.run("debian13", COI_SUBNET="10.1.2.3").stderr


@pytest.mark.parametrize(
    ("free", "size", "warns"),
    [
        ("400", "100GiB", False),
        ("100", "50GiB", False),
        ("40", "30GiB", False),
        ("20", "18GiB", True),
    ],
)
def test_pool_size_follows_the_free_space(
    host: Rehearsal, free: str, size: str, warns: bool
) -> None:
    done = host.run("debian13", COI_PROBE_FREE_GIB=free)
    assert f"+ incus storage create default btrfs size={size}" in done.stdout.splitlines()
    assert ("30 GiB are advised" in done.stderr) is warns


def test_too_little_space_is_refused(host: Rehearsal) -> None:
    done = host.run("debian13", COI_PROBE_FREE_GIB="5")
    assert done.returncode == 1
    assert "only 5 GiB are free" in done.stderr


def test_without_btrfs_the_pool_is_a_directory_and_says_so(host: Rehearsal) -> None:
    done = host.run("debian13", COI_PROBE_BTRFS="no")
    assert "+ incus storage create default dir" in done.stdout.splitlines()
    assert "btrfs cannot be used here" in done.stderr


def test_sub_ids_hold_the_range_and_the_users_own(host: Rehearsal) -> None:
    commands = host.commands("debian13", "--user", "nobody")
    assert commands.count("echo root:1000000:1000000000 >>/etc/subuid") == 1
    assert commands.count("echo root:1000000:1000000000 >>/etc/subgid") == 1
    assert "echo root:65534:1 >>/etc/subuid" in commands
    assert "usermod -aG incus-admin nobody" in commands


def test_root_gets_no_sub_id_of_its_own(host: Rehearsal) -> None:
    assert not [line for line in host.commands("debian13", "--user", "root") if "root:0:" in line]


def test_coi_comes_from_the_checkout_or_the_package(host: Rehearsal) -> None:
    pip = next(line for line in host.commands("debian13") if "pip install" in line)
    assert pip.endswith(f"--upgrade {REPOSITORY}")
    (host.directory / "os-release").write_text(RELEASES["debian13"])
    with SCRIPT.open() as piped:
        done = subprocess.run(
            ["bash", "-s", "--", "--dry-run"],
            stdin=piped,
            env=host.environment,
            cwd=host.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "--upgrade code-on-incus" in done.stdout


def test_the_prefix_and_the_link_can_be_moved(host: Rehearsal) -> None:
    commands = host.commands("debian13", COI_PREFIX="/srv/coi", COI_BIN_DIR="/srv/bin")
    assert "ln -sfn /srv/coi/venv/bin/coi /srv/bin/coi" in commands
    assert not [
        line for line in commands if "/opt/coi" in line.split("incusd")[0] and "venv" in line
    ]


def test_the_image_comes_last_and_can_be_left_out(host: Rehearsal) -> None:
    assert (
        host.commands("debian13", "--user", "root")[-1] == "/usr/local/bin/coi build --if-changed"
    )
    assert not [line for line in host.commands("debian13", "--no-image") if "coi build" in line]
    assert (
        host.commands("debian13", "--user", "nobody")[-1]
        == "env COI_INCUS_CODE_UID=65534 /usr/local/bin/coi build --if-changed"
    )


def test_the_guard_of_the_resolvers_stays_after_a_reboot(host: Rehearsal) -> None:
    with_units = host.run("debian13", COI_PROBE_SYSTEMD="yes").stdout
    load = "/usr/local/bin/coi network guard --load"
    assert f"ExecStart={load}\n" in with_units
    assert "+ systemctl enable coi-network-guard.service\n" in with_units
    assert load in host.commands("debian13")
    assert load in host.commands("debian13", "--start")


def test_the_guard_goes_and_comes_with_the_rules_of_the_firewall(host: Rehearsal) -> None:
    """What flushes the rules is followed: a stop, a restart, a reload of nftables.service."""
    unit = host.run("debian13", COI_PROBE_SYSTEMD="yes").stdout
    for line in ("PartOf=nftables.service", "ReloadPropagatedFrom=nftables.service"):
        assert line in unit
    assert "ExecReload=/usr/local/bin/coi network guard --load\n" in unit
    assert "ExecStopPost=/bin/rm -f /run/coi-network-guard\n" in unit


def test_a_private_interpreter_is_refused(host: Rehearsal, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    python = private / "python3"
    python.symlink_to("/usr/bin/python3")
    done = call_function("python_trouble", str(python))
    assert done.stdout == ""  # the link's target is what must be readable, and it is
    python.unlink()
    shutil.copy(Path("/usr/bin/python3").resolve(), python)
    done = call_function("python_trouble", str(python))
    assert "not every user may read it" in done.stdout


def call_function(
    name: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Calls one function of the script, without its last line, which calls main."""
    text = SCRIPT.read_text().rstrip().removesuffix('main "$@"')
    return subprocess.run(
        ["bash", "-c", f'{text}\nsettings\n"$@"', "install.sh", name, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


FIREWALLS = {
    "ufw": 'case $* in status) printf "Status: active\\n%s\\n" "$SEEN";; *) exit 1;; esac',
    "firewall-cmd": 'case $* in *--state) ;; *--list-interfaces) echo "$SEEN";; *) exit 1;; esac',
    "iptables": """case $* in
  "-S FORWARD") echo "-P FORWARD DROP";;
  "-S DOCKER-USER") [ -z "$NO_DOCKER" ];;
  -C*) [ -n "$SEEN" ];;
  *) exit 1;;
esac""",
}


def firewall_hints(directory: Path, name: str, driver: str = "nftables", **probes: str) -> str:
    """What is said of a firewall that is a stub: the real ones are not to be had in a test."""
    stub = directory / name
    stub.write_text(f"#!/bin/sh\n{FIREWALLS[name]}\n")
    stub.chmod(0o755)
    done = call_function("firewall_hints", driver, PATH=f"{directory}:/usr/bin:/bin", **probes)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", FIREWALLS)
def test_a_firewall_that_cuts_containers_off(tmp_path: Path, name: str) -> None:
    """Both bridges are named, the profile's and those that coi makes; once allowed, nothing."""
    said = firewall_hints(tmp_path, name)
    assert said.startswith("Warning: ")
    assert said.count("\n") == 1
    commands = said.partition(": ")[2].rpartition(": ")[2].strip().split(" && ")
    for bridge in ("incusbr0", "coi-+"):
        assert any(bridge in command for command in commands), commands
    assert all(command.startswith(f"{name} ") for command in commands)
    assert firewall_hints(tmp_path, name, SEEN="Anywhere on coi-+ ALLOW") == ""


def test_no_rule_that_accepts_before_those_of_incus(tmp_path: Path) -> None:
    assert "iptables -I DOCKER-USER -i coi-+ -j ACCEPT" in firewall_hints(tmp_path, "iptables")
    alone = firewall_hints(tmp_path, "iptables", NO_DOCKER="1")
    assert "iptables -I FORWARD -i coi-+ -j ACCEPT" in alone
    said = firewall_hints(tmp_path, "iptables", "xtables")
    assert "-j ACCEPT" not in said
    assert "ip-forward-no-drop" in said


def test_readable_by_all_looks_at_every_directory(tmp_path: Path) -> None:
    assert call_function("readable_by_all", "/etc/os-release").returncode == 0
    file = tmp_path / "open" / "file"
    file.parent.mkdir(mode=0o755)
    file.write_text("x")
    file.chmod(0o644)
    tmp_path.chmod(0o700)
    assert call_function("readable_by_all", str(file)).returncode == 1


def test_without_root_it_names_what_it_cannot_do(host: Rehearsal) -> None:
    (host.directory / "os-release").write_text(RELEASES["debian13"])
    drop = (
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    )
    environment = {**host.environment, "CI": "true"}
    environment.pop("COI_ROUTES")
    environment.pop("COI_OS_RELEASE")
    sudo = shutil.which("sudo")
    if not drop and sudo and not subprocess.run([sudo, "-n", "true"], check=False).returncode:
        pytest.skip("this user may become root")
    with SCRIPT.open() as piped:
        done = subprocess.run(
            [*drop, "bash", "-s", "--", "--yes"],
            stdin=piped,
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
            check=False,
        )
    assert done.returncode == 1
    assert "this needs root, and sudo is not there or not allowed" in done.stderr
    for step in ("start lxcfs and incusd", "the group incus-admin", "/opt/coi/venv", "/etc/subuid"):
        assert step in done.stderr
    assert "Hint: as root run: install.sh --user" in done.stderr
    assert done.stdout == ""


def test_help_and_wrong_usage(host: Rehearsal) -> None:
    done = host.run("debian13", "--help")
    assert done.returncode == 0
    for option in ("--yes", "--dry-run", "--no-image", "--start", "--user", "COI_PREFIX"):
        assert option in done.stdout
    done = host.run("debian13", "--frobnicate")
    assert done.returncode == 2
    assert "unknown option: --frobnicate" in done.stderr
    done = host.run("debian13", "--user", "no-such-user")
    assert done.returncode == 2
    assert "there is no user no-such-user" in done.stderr


def test_a_dry_run_changes_nothing(host: Rehearsal, tmp_path: Path) -> None:
    done = host.run(
        "debian13", COI_PREFIX=str(tmp_path / "prefix"), COI_INSTALL_LOG=str(tmp_path / "log")
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing was changed" in done.stdout
    assert not (tmp_path / "prefix").exists()
    assert not (tmp_path / "log").exists()


def test_shellcheck_passes() -> None:
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    scripts = [SCRIPT, REPOSITORY / "tests" / "run", REPOSITORY / ".ci" / "run"]
    done = subprocess.run(
        [tool, *scripts], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
