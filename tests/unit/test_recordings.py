"""Every recording of the real daemon is understood: nouns parse, errors get type and code."""

from __future__ import annotations

import json
import re

import pytest
from recordings import DIRECTORY, NAMES, load, player

from coi.errors import NOT_FOUND, UNAVAILABLE, CoiError
from coi.incus.acls import NetworkAcls
from coi.incus.client import Client
from coi.incus.errors import (
    NOT_ENTERED,
    AlreadyExistsError,
    DaemonUnreachableError,
    ImageMissingError,
    IncusError,
    MissingError,
    PermissionDeniedError,
    PoolFullError,
    classify,
)
from coi.incus.images import Images
from coi.incus.instances import Instances
from coi.incus.networks import TRIPPED, Networks
from coi.incus.profiles import Profiles

# Recording -> the error it means, its exit code, and words of its hint or details.
ERRORS: dict[str, tuple[type[CoiError], int, str]] = {
    "acl-delete-missing": (MissingError, NOT_FOUND, "ACL not found"),
    "acl-in-use": (IncusError, 1, "in use"),
    "acl-missing": (MissingError, NOT_FOUND, "ACL not found"),
    "acl-rule-invalid": (IncusError, 1, "Invalid subject"),
    "acl-taken": (AlreadyExistsError, 1, "already exists"),
    "certificate-acl": (PermissionDeniedError, UNAVAILABLE, "certificate is restricted"),
    "certificate-network": (PermissionDeniedError, UNAVAILABLE, "not allowed in project"),
    "certificate-project": (PermissionDeniedError, UNAVAILABLE, "incus.project"),
    "create-nic-acl": (IncusError, 1, "Failed adding bridge filter rules"),
    "create-port-taken": (IncusError, 1, "listen on that port"),
    "restricted-disk": (IncusError, 1, "incus project show"),
    "restricted-network": (PermissionDeniedError, UNAVAILABLE, "incus project show"),
    "restricted-nic": (IncusError, 1, "not allowed in project"),
    "network-acl-missing": (IncusError, 1, '"coi-none" does not exist'),
    "network-clash": (IncusError, 1, "Address already in use"),
    "network-delete-missing": (MissingError, NOT_FOUND, "Network not found"),
    "network-key-unknown": (IncusError, 1, "security.none"),
    "network-missing": (MissingError, NOT_FOUND, "Network not found"),
    "network-not-here": (IncusError, 1, "does not support non-default projects"),
    "network-tripped": (IncusError, 1, TRIPPED),
    "network-taken": (AlreadyExistsError, 1, "already exists"),
    "alias-delete-missing": (MissingError, NOT_FOUND, "alias not found"),
    "alias-move-missing": (MissingError, NOT_FOUND, "alias not found"),
    "alias-no-image": (MissingError, NOT_FOUND, "Image not found"),
    "alias-taken": (AlreadyExistsError, 1, '"tiny" already exists'),
    "change-missing": (MissingError, NOT_FOUND, "Instance not found"),
    "change-unknown-key": (IncusError, 1, "no.such"),
    "create-alias-unknown": (ImageMissingError, NOT_FOUND, "coi build"),
    "create-disk-missing": (IncusError, 1, "must be there"),
    "create-fingerprint-unknown": (ImageMissingError, NOT_FOUND, "coi build"),
    "create-name-invalid": (IncusError, 1, "alphanumeric"),
    "create-name-raced": (AlreadyExistsError, 1, "busy"),
    "create-name-taken": (AlreadyExistsError, 1, "UNIQUE"),
    "create-name-taken-operation": (AlreadyExistsError, 1, "UNIQUE"),
    "create-network-missing": (MissingError, NOT_FOUND, "Network not found"),
    "create-pool-full": (PoolFullError, 1, "coi clean"),
    "create-pool-missing": (MissingError, NOT_FOUND, "Storage pool not found"),
    "create-project-missing": (MissingError, NOT_FOUND, "Project not found"),
    "create-quota-full": (PoolFullError, 1, "coi clean"),
    "create-unknown-key": (IncusError, 1, "no.such"),
    "create-unpack-full": (PoolFullError, 1, "coi clean"),
    "daemon-stopping": (DaemonUnreachableError, UNAVAILABLE, "try again"),
    "delete-missing": (MissingError, NOT_FOUND, "Instance not found"),
    "delete-running": (IncusError, 1, "running"),
    "denied": (PermissionDeniedError, UNAVAILABLE, "usermod -aG incus-admin"),
    "image-delete-missing": (MissingError, NOT_FOUND, "Image not found"),
    "image-import-again": (AlreadyExistsError, 1, "same fingerprint"),
    "image-import-no-file": (IncusError, 1, "/home/user/no.tar"),
    "image-import-not-a-tar": (IncusError, 1, "Unsupported compression"),
    "image-info-missing": (MissingError, NOT_FOUND, '"none" not found'),
    "instance-missing": (MissingError, NOT_FOUND, "Instance not found"),
    "profile-missing": (MissingError, NOT_FOUND, "Profile not found"),
    "operation-missing": (MissingError, NOT_FOUND, "Operation not found"),
    "publish-missing": (MissingError, NOT_FOUND, "Instance not found"),
    "publish-running": (IncusError, 1, "running instance"),
    "remote-unknown": (MissingError, NOT_FOUND, "incus remote list"),
    "remove-missing": (MissingError, NOT_FOUND, "Instance not found"),
    "socket-closed": (PermissionDeniedError, UNAVAILABLE, "usermod -aG incus-admin"),
    "socket-missing": (DaemonUnreachableError, UNAVAILABLE, "systemctl start incus"),
    "socket-missing-exec": (DaemonUnreachableError, UNAVAILABLE, "systemctl start incus"),
    "socket-stale": (DaemonUnreachableError, UNAVAILABLE, "systemctl start incus"),
    "start-disk-missing": (IncusError, 1, "Missing source path"),
    "start-missing": (MissingError, NOT_FOUND, "Instance not found"),
    "start-running": (IncusError, 1, "already running"),
    "stop-missing": (MissingError, NOT_FOUND, "Instance not found"),
    "stop-stopped": (IncusError, 1, "already stopped"),
}

# `incus exec`: its exit code is the command's own, and whether the client itself failed.
EXECS = {
    "exec": (0, False),
    "exec-7": (7, False),
    "exec-frozen": (1, True),
    "exec-missing": (1, True),
    "exec-entered": (0, False),
    "exec-not-entered": (255, True),
    "exec-not-found": (127, True),
    "exec-stopped": (1, True),
}

# What is parsed by a test below, or answers nothing but yes.
ANSWERS = frozenset({
    "acl", "acl-create", "acl-delete", "acl-replace", "acls", "network", "network-create",
    "network-delete", "network-forwards", "network-forwards-none", "network-update", "networks",
    "profile", "server",
    "alias-delete", "alias-move", "alias-new", "change", "create", "create-accepted",
    "image-delete", "image-import", "images", "images-none", "instance", "instances-1",
    "instances-2", "instances-none", "operations", "operations-running", "publish-accepted",
    "publish-done", "start", "stop",
})  # fmt: skip


def test_every_recording_has_its_test() -> None:
    assert set(NAMES) == set(ERRORS) | set(EXECS) | ANSWERS


@pytest.mark.parametrize("name", NAMES)
def test_no_fact_of_the_recording_machine(name: str) -> None:
    text = (DIRECTORY / f"{name}.json").read_text()
    assert set(json.loads(text)) == {"about", "incus", "argv", "exit_code", "stdout", "stderr"}
    assert not re.search(r"/tmp/|/root/|/work/|/home/(?!user\b|code\b)", text)
    assert json.loads(text)["argv"][0] == "incus"


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_error(name: str) -> None:
    kind, exit_code, words = ERRORS[name]
    done = load(name).completed
    if done.argv[1] == "query":
        with pytest.raises(CoiError) as caught:
            Client().answer(done, action="do it")
        error = caught.value
    else:
        error = classify(done.error_text, action="do it")
    assert type(error) is kind or (kind is MissingError and isinstance(error, MissingError))
    assert error.exit_code == exit_code
    assert words in f"{error.details}\n{error.hint}"
    assert not error.brief.endswith(".")
    assert "\n" not in error.brief
    assert not error.details.startswith("Error:")
    if exit_code == UNAVAILABLE:
        assert error.hint
    assert len(error.details.splitlines()) < 30


@pytest.mark.parametrize("name", sorted(ANSWERS - {"image-import"}))
def test_answer_is_no_error(name: str) -> None:
    Client().answer(load(name).completed)


@pytest.mark.parametrize("name", sorted(EXECS))
def test_exec(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coi.incus.instances.ENTER_DEADLINE", -1)
    exit_code, client_failed = EXECS[name]
    recording = load(name)
    instance = recording.argv[2]
    client = player(name)
    command = list(recording.argv[recording.argv.index("--") + 1 :])
    done = Instances(client).exec(instance, command)
    assert done.exit_code == exit_code
    assert done.error_text.startswith("Error:") is client_failed


def test_instances_with_state() -> None:
    rows = {row.name: row for row in Instances(player("instances-2")).all(state=True)}
    assert set(rows) == {"coi-run", "coi-stopped", "plain", "frozen"}
    run = rows["coi-run"]
    assert (run.status, run.running, run.stopped) == ("Running", True, False)
    assert re.fullmatch(r"10\.\d+\.\d+\.\d+", run.ipv4), "docker0 inside is not the address"
    assert run.coi("session-id") == "3f0c1a5e-8d2b-4c6f-9a71-5b2e8c0d4f13"
    assert run.coi("none") == ""
    assert run.devices["workspace"]["shift"] == "true"
    assert run.project == "coi-recording"
    assert run.created_at.startswith("20")
    stopped = rows["coi-stopped"]
    assert (stopped.status, stopped.ipv4, stopped.coi("slot")) == ("Stopped", "", "2")
    assert stopped.stopped
    assert rows["frozen"].status == "Frozen"
    assert rows["frozen"].ephemeral
    assert not rows["frozen"].running
    assert rows["plain"].devices == {}
    assert rows["plain"].coi("slot") == ""


def test_instances_without_state() -> None:
    rows = Instances(player("instances-1")).all()
    assert [row.name for row in rows] == ["coi-run", "coi-stopped", "frozen", "plain"]
    assert all(row.ipv4 == "" for row in rows)


def test_no_instances_and_no_images() -> None:
    assert Instances(player("instances-none")).all() == []
    assert Images(player("images-none")).all() == []


def test_one_instance_and_none() -> None:
    assert Instances(player("instance")).get("coi-run").coi("tool") == "claude"
    assert Instances(player("instance-missing")).find("none") is None
    with pytest.raises(MissingError, match="cannot find none"):
        Instances(player("instance-missing")).get("none")


def test_states_and_changes() -> None:
    client = player("start", "stop", "change")
    instances = Instances(client)
    instances.set_state("plain", "start")
    instances.set_state("plain", "stop", force=True)
    instances.update("plain", config={"user.coi.x": "1"})
    assert len(client.runner.calls) == 3


def test_remove_of_a_missing_instance_is_nothing() -> None:
    Instances(player("remove-missing")).remove("none")


def test_images() -> None:
    images = Images(player("images")).all()
    assert sorted(image.aliases for image in images) == [("coi",), ("made",)]
    made = Images(player("images")).get("made")
    assert made.properties["coi.version"] == "0.1.0"
    assert re.fullmatch("[0-9a-f]{64}", made.fingerprint)
    assert made.size > 1000
    assert made.type == "container"
    assert Images(player("images")).find(made.fingerprint[:12]) == made
    with pytest.raises(ImageMissingError, match="'none' does not exist"):
        Images(player("images")).get("none")


def test_a_network_and_its_acl() -> None:
    network = Networks(player("network")).find("coi-recnet")
    assert network is not None
    assert (network.type, network.managed, network.status) == ("bridge", True, "Created")
    assert network.config["security.acls"] == "coi-recnet"
    assert network.used_by == ()
    acl = NetworkAcls(player("acl")).find("coi-recnet")
    assert acl is not None
    assert acl.used_by == (("networks", "coi-recnet"),)
    assert acl.config == {"user.coi.policy": "0123abcd"}
    assert acl.rules == {
        "egress": [{"action": "allow", "state": "enabled", "destination": "198.51.100.10"}],
        "ingress": [],
    }


def test_lists_of_networks_and_acls() -> None:
    ours, loopback = Networks(player("networks")).all()
    assert (ours.name, ours.managed) == ("coi-recnet", True)
    assert (loopback.name, loopback.type, loopback.managed) == ("lo", "loopback", False)
    assert [acl.name for acl in NetworkAcls(player("acls")).all()] == ["coi-recnet"]


def test_network_forwards() -> None:
    found = Networks(player("network-forwards")).forwards("coi-recnet")
    assert found == {"198.51.100.77": "10.219.7.9"}
    assert Networks(player("network-forwards-none")).forwards("coi-recnet") == {}


def test_a_profile_and_none() -> None:
    profile = Profiles(player("profile")).find("default")
    assert profile is not None
    assert profile.devices["root"] == {"type": "disk", "path": "/", "pool": "default"}
    assert profile.devices["eth0"]["type"] == "nic"
    assert Profiles(player("profile-missing")).find("none") is None


def test_what_the_server_can() -> None:
    server = player("server").query("GET", "/1.0")
    assert {"network_acl", "network_bridge_acl_devices"} <= set(server["api_extensions"])


def test_a_container_that_could_not_be_entered_is_entered_again() -> None:
    assert load("exec-not-entered").stderr == f"Error: {NOT_ENTERED}\n"
    client = player("exec-not-entered", "exec-not-entered", "exec-entered")
    assert Instances(client).exec("coi-run", ["true"]).exit_code == 0
    assert len(client.runner.calls) == 3


def test_a_network_that_the_daemon_tripped_over_is_deleted_again() -> None:
    client = player("network-tripped", "network-delete")
    Networks(client).delete("coi-recnet")
    assert len(client.runner.calls) == 2


def test_no_network_and_no_acl() -> None:
    assert Networks(player("network-missing")).find("coi-none") is None
    assert NetworkAcls(player("acl-missing")).find("coi-none") is None


def test_publish() -> None:
    images = Images(player("publish-accepted", "publish-done"))
    operation = images.start_publish(
        "coi-stopped", properties={"coi.version": "0.1.0"}, aliases=["made"], compression="none"
    )
    made = Images(player("images")).get("made")
    assert images.finish_publish(operation) == made.fingerprint


def test_image_import_says_its_fingerprint() -> None:
    done = load("image-import").completed
    assert re.search(rb"[0-9a-f]{64}", done.stdout)


def test_deleting_a_missing_alias_is_nothing() -> None:
    Images(player("alias-delete-missing")).delete_alias("none")


def test_operations_name_their_instances() -> None:
    groups = Client().answer(load("operations-running").completed)
    running = [row for row in groups["running"] if row["status_code"] == 103]
    assert running
    finished = Client().answer(load("operations").completed)
    urls = [url for row in finished["success"] for url in row["resources"].get("instances", ())]
    assert "/1.0/instances/coi-run?project=coi-recording" in urls


def test_a_flood_of_text_is_cut() -> None:
    """tar says 20 000 lines when a pool fills up (create-unpack-full); nobody reads them."""
    lines = [f"tar: file-{n}: Cannot write: No space left on device" for n in range(20_000)]
    error = classify("Error: Unpack failed\n" + "\n".join(lines) + "\ntar: Exiting")
    assert isinstance(error, PoolFullError)
    kept = error.details.splitlines()
    assert len(kept) < 30
    assert kept[0] == "Unpack failed"
    assert kept[-1] == "tar: Exiting"
