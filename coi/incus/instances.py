"""Instances: the model and the operations.

Shapes: https://linuxcontainers.org/incus/docs/main/rest-api-spec/ ; ``config``,
``devices`` and ``state`` may be null (measured on 6.0.4).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from typing import Any

from coi.incus.client import Client, Pending, devices, keys, listed, named, shaped, text
from coi.incus.errors import NOT_BACKED_UP, NOT_ENTERED, MissingError, TooSmallError
from coi.incus.process import Completed
from coi.incus.urls import segment
from coi.records import record

RUNNING = "Running"
STOPPED = "Stopped"
CONFIG_PREFIX = "user.coi."
ENTER_DEADLINE = 30.0  # seconds to go on trying where a container could not be entered
ENTER_POLL = 0.03  # seconds between two tries
ROOM = 64 << 20  # bytes that an instance gets whose disk limit is used up
CREATE_TIMEOUT = 300.0  # seconds; the first use of a fresh image unpacks it


@record(frozen=True)
class Instance:
    """An instance as the daemon describes it.

    Attributes:
        config: all keys, profile keys not included.
        devices: local devices, by name.
        expanded: the same with those of the profiles.
        ipv4: the first global IPv4 address when the state was asked for.
        last_used_at: when it was started last, as the daemon writes it.
    """

    name: str
    status: str
    created_at: str
    ephemeral: bool
    project: str
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ipv4: str = ""
    expanded: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    last_used_at: str = ""

    @property
    def unused(self) -> bool:
        """Whether it was never started, as far as is known; the daemon writes the year 1970."""
        return self.last_used_at.startswith(("0001-", "1970-"))

    @property
    def started_at(self) -> str:
        """When it was started last; where that is not known, when it was made."""
        return self.created_at if self.unused or not self.last_used_at else self.last_used_at

    @property
    def running(self) -> bool:
        return self.status == RUNNING

    @property
    def stopped(self) -> bool:
        return self.status == STOPPED

    def coi(self, key: str) -> str:
        """The value of ``user.coi.<key>``, or ''."""
        return self.config.get(CONFIG_PREFIX + key, "")

    @classmethod
    @shaped
    def parse(cls, data: Mapping[str, Any]) -> Instance:
        """From one element of ``GET /1.0/instances?recursion=1`` or 2."""
        return cls(
            name=named(data["name"]),
            status=named(data["status"]),
            created_at=text(data.get("created_at")),
            ephemeral=bool(data.get("ephemeral")),
            project=text(data.get("project")) or "default",
            config=keys(data.get("config")),
            devices=devices(data.get("devices")),
            ipv4=_first_ipv4(data.get("state")),
            expanded=devices(data.get("expanded_devices")),
            profiles=tuple(listed(text, data.get("profiles"))),
            last_used_at=text(data.get("last_used_at")),
        )


def _first_ipv4(state: Mapping[str, Any] | None) -> str:
    """The global IPv4 address, eth0's if it has one, never a bridge's inside (docker0)."""
    network: Mapping[str, Any] = (state or {}).get("network") or {}
    for name in sorted(network, key=lambda n: (n != "eth0", n)):
        if name == "lo" or not network[name].get("host_name"):
            continue
        for address in network[name].get("addresses") or ():
            if address.get("family") == "inet" and address.get("scope") == "global":
                return str(address["address"])
    return ""


class Instances:
    """Operations on instances of one server and project."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def all(self, *, state: bool = False) -> list[Instance]:
        """All instances in one call; with ``state`` also addresses (slower)."""
        return self.begin_all(state=state)()

    def begin_all(self, *, state: bool = False) -> Callable[[], list[Instance]]:
        """Begin :meth:`all` and return at once; what waits for it."""
        answer = self.client.ask(
            "/1.0/instances", params={"recursion": "2" if state else "1"}, action="list instances"
        )
        return lambda: listed(Instance.parse, answer())

    def get(self, name: str) -> Instance:
        """One instance.

        Raises:
            MissingError: there is none of that name.
        """
        row = self.client.query("GET", _path(name), action=f"find {name}")
        return Instance.parse(row)

    def find(self, name: str) -> Instance | None:
        """One instance, or None."""
        try:
            return self.get(name)
        except MissingError:
            return None

    def create(self, body: Mapping[str, Any]) -> None:
        """``POST /1.0/instances``; with ``"start": true`` it runs afterwards."""
        self.start_create(body).result()

    def start_create(self, body: Mapping[str, Any]) -> Pending:
        """Begin :meth:`create` and return at once."""
        return self.client.begin(
            "POST",
            "/1.0/instances",
            body=body,
            wait=True,
            timeout=CREATE_TIMEOUT,
            action=f"create {body['name']}",
        )

    def rename(self, name: str, to: str) -> None:
        """Rename a stopped instance; of several who do it to one, one succeeds.

        Raises:
            MissingError: it is gone.
            AlreadyExistsError: the new name is taken.
        """
        self.client.query(
            "POST", _path(name), body={"name": to}, wait=True, action=f"rename {name}"
        )

    def become(self, name: str, body: Mapping[str, Any]) -> None:
        """Give a stopped instance what :meth:`create` would have given it: configuration,
        devices, whether it is ephemeral. No limit is widened to make room for that."""
        changes = {key: body[key] for key in ("config", "devices", "ephemeral") if key in body}
        self.client.query("PATCH", _path(name), body=changes, wait=True, action=f"change {name}")

    def start_made(self, name: str) -> Pending:
        """Begin to start an instance and return at once."""
        return self.client.begin(
            "PUT",
            f"{_path(name)}/state",
            body={"action": "start", "force": False, "timeout": -1},
            wait=True,
            timeout=CREATE_TIMEOUT,
            action=f"start {name}",
            existing=True,
        )

    def set_state(
        self,
        name: str,
        action: str,
        *,
        force: bool = False,
        timeout: int = -1,
        wait: bool = True,
    ) -> None:
        """start, stop, restart, freeze or unfreeze.

        Args:
            timeout: seconds for a graceful stop, -1 for the daemon's own.
            wait: until it is done; False returns once accepted (0.02 s).
        """
        body = {"action": action, "force": force, "timeout": timeout}
        self._with_room(
            name,
            lambda: self.client.query(
                "PUT",
                f"{_path(name)}/state",
                body=body,
                wait=wait,
                timeout=max(timeout, 0) + 120.0,
                action=f"{action} {name}",
            ),
        )

    def update(self, name: str, **changes: Any) -> None:
        """``PATCH``: merge config keys, devices, ephemeral, ..."""
        self._with_room(
            name,
            lambda: self.client.query(
                "PATCH", _path(name), body=changes, wait=True, action=f"change {name}"
            ),
        )

    def _with_room(self, name: str, act: Callable[[], object]) -> None:
        """Do something to an instance, and once more where its disk limit is used up: the
        daemon's own notes are on that disk, and it neither changes, starts nor stops one that
        is full (measured on btrfs). It is given a little more then, whatever its limit."""
        try:
            act()
        except TooSmallError:
            row = self.get(name)
            roots = {n: d for n, d in row.expanded.items() if d.get("path") == "/" and "size" in d}
            sizes = {device: bytes_of(found["size"]) for device, found in roots.items()}
            if not sizes or None in sizes.values():
                raise
            devices = {
                n: {**roots[n], "size": f"{(size or 0) + ROOM}B"} for n, size in sizes.items()
            }
            body = {"devices": devices}
            self.client.query("PATCH", _path(name), body=body, wait=True, action=f"change {name}")
            act()

    def remove_device(self, name: str, device: str) -> None:
        """Take away a device of the instance's own; a profile's of the name is seen again."""
        try:
            self.client.run(
                self.client.command("config", "device", "remove", self.client.name(name), device),
                action=f"change {name}",
            )
        except TooSmallError as error:
            if NOT_BACKED_UP not in error.details or device in self.get(name).devices:
                raise  # it is made, where only the daemon's note of it failed

    def delete(self, name: str, *, wait: bool = True) -> None:
        """Delete a stopped instance."""
        self.client.query("DELETE", _path(name), wait=wait, action=f"delete {name}")

    def remove(self, name: str) -> None:
        """Stop at once if it runs and delete; nothing to do when it is gone."""
        with suppress(MissingError):
            self._with_room(
                name,
                lambda: self.client.run(
                    self.client.command("delete", "--force", self.client.name(name)),
                    action=f"delete {name}",
                ),
            )

    def exec_args(
        self,
        name: str,
        command: Sequence[str],
        *,
        user: int | None = None,
        group: int | None = None,
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
        tty: bool = False,
    ) -> list[str]:
        """The arguments of ``incus exec``.

        ``environment`` is visible in the host's process list: no value that a
        user gave may be in it.
        """
        args = ["exec", self.client.name(name), "-t" if tty else "-T"]
        if user is not None:
            args += ["--user", str(user)]
        if group is not None:
            args += ["--group", str(group)]
        if cwd is not None:
            args += ["--cwd", cwd]
        for key, value in (environment or {}).items():
            args += ["--env", f"{key}={value}"]
        return [*self.client.command(*args), "--", *command]

    def exec(
        self,
        name: str,
        command: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float | None = None,
        user: int | None = None,
        group: int | None = None,
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command inside and return what it wrote; any exit code is fine.

        Begun anew where the daemon could not enter the container. Such an exec may have run
        all the same, without input (measured): a command that must not run twice looks for it.
        A client that fails exits 1 as a command's own 1 does (measured): the
        caller that must know looks at stderr and the instance's status.
        """
        args = self.exec_args(
            name, command, user=user, group=group, cwd=cwd, environment=environment
        )
        deadline = time.monotonic() + ENTER_DEADLINE
        while True:
            done = self.client.runner.run(args, stdin=stdin, timeout=timeout)
            if NOT_ENTERED not in done.error_text or time.monotonic() > deadline:
                return done
            time.sleep(ENTER_POLL)


_UNITS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def bytes_of(text: str) -> int | None:
    """``20GiB``, ``5GB`` or ``1000`` in bytes, as Incus reads them; None for anything else."""
    match = re.fullmatch(r"([0-9]{1,18})(?:([kKMGTPE]?)(i?)B)?", text)
    if match is None:
        return None
    thousand = 1024 if match[3] else 1000
    return int(int(match[1]) * thousand ** _UNITS[match[2] or ""])


def _path(name: str) -> str:
    return f"/1.0/instances/{segment(name)}"
