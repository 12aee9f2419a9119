"""The container that an image is built in: created, used, and surely removed."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from coi.api import ImageContext
from coi.errors import CoiError, UsageError
from coi.files import make_private
from coi.image.progress import Progress, clean, last_line
from coi.image.recipe import Step
from coi.image.signals import deferred
from coi.incus.client import Client, listed, table
from coi.incus.errors import NOT_ENTERED, MissingError
from coi.incus.instances import ENTER_DEADLINE, Instance, Instances
from coi.incus.process import Completed, Process, memory_file

TAG = "user.coi.build"  # the image's name
OWNER = "user.coi.build.owner"  # which coi home it belongs to

# What Docker inside needs, as every container of coi has it.
CONFIG = {
    "security.nesting": "true",
    "security.syscalls.intercept.mknod": "true",
    "security.syscalls.intercept.setxattr": "true",
}
_POLL = 0.05  # seconds
_BOOT_DEADLINE = 60  # seconds for systemd to start all
_NETWORK_DEADLINE = 30  # seconds for an address by DHCP

_NOT_ENTERED = f"Error: {NOT_ENTERED}"  # and nothing else: then it is tried again
_REMOVE_DEADLINE = 120.0  # seconds for operations that were under way
_SHOWN_LINES = 15  # of a failed step's output in the error

# The script comes on standard input, so that nothing of it (a proxy's password)
# is in an argv, and its commands do not eat it. No file: /run and /tmp are
# mounted and emptied while the container boots.
_SHELL = ("sh", "-c", 'script=$(cat) && exec < /dev/null && eval "$script"')

_WAIT_BOOTED = """
end=$(($(date +%s) + {seconds}))
[ -d /lib/systemd ] || exit 0
while :; do
    case $(systemctl is-system-running 2> /dev/null) in running | degraded) break ;; esac
    [ "$(date +%s)" -lt "$end" ] || exit 1
    sleep 0.05
done
"""

_WAIT_NETWORK = """
end=$(($(date +%s) + {seconds}))
while ! {{ command -v ip > /dev/null &&
    ip -4 -o addr show scope global | grep -q inet &&
    ip -4 route show default | grep -q .; }}; do
    [ "$(date +%s)" -lt "$end" ] || exit 1
    sleep 0.05
done
"""


class Log:
    """The build's log file: every step's output, and the newest line of it."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self._progress = progress
        make_private(path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self.fd = os.open(path, flags, 0o600)
        self._start = 0
        self._seen = 0

    def section(self, title: str) -> None:
        """A new step begins."""
        os.write(self.fd, f"==> {title}\n".encode())
        self._start = self._seen = os.fstat(self.fd).st_size

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode("utf-8", "replace"))

    def follow(
        self,
        process: Process,
        timeout: float,
        *,
        stop: Callable[[Process], object] = lambda process: process.stop(0.0),
    ) -> int:
        """Wait for a process that writes here, showing its newest line.

        Args:
            timeout: seconds that it may run.
            stop: ends it when it runs for too long or coi is interrupted.

        Returns:
            Its exit code.

        Raises:
            CoiError: it ran for too long (it is gone).
        """
        deadline = time.monotonic() + timeout
        try:
            while not process.poll(0.1):
                self._show()
                self._progress.tick()
                if time.monotonic() > deadline:
                    break
            else:
                return process.wait()
        except BaseException:
            stop(process)
            raise
        finally:
            self._show()
        stop(process)
        raise CoiError(f"gave up after {timeout:.0f} s")

    def _show(self) -> None:
        size = os.fstat(self.fd).st_size
        if size <= self._seen:
            return
        chunk = os.pread(self.fd, min(size - self._seen, 8192), max(self._seen, size - 8192))
        self._seen = size
        line = last_line(chunk.decode("utf-8", "replace"))
        if line:
            self._progress.output(line)

    def tail(self, lines: int = _SHOWN_LINES) -> str:
        """The end of the current step's output, safe to print."""
        size = os.fstat(self.fd).st_size
        begin = max(self._start, size - 16384)
        text = clean(os.pread(self.fd, size - begin, begin).decode("utf-8", "replace"))
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])

    def close(self, *, remove: bool) -> None:
        os.close(self.fd)
        if remove:
            self.path.unlink(missing_ok=True)


class BuildContainer:
    """One build container.

    Args:
        name: the instance's.
        environment: exported in every script (proxies).
    """

    def __init__(self, client: Client, name: str, log: Log, environment: Mapping[str, str]) -> None:
        self.client = client
        self.instances = Instances(client)
        self.name = name
        self._log = log
        self._environment = dict(environment)
        self._settle = 0.0

    def create(
        self, *, fingerprint: str, config: Mapping[str, str], network: str | None = None
    ) -> None:
        """Create it of an image in the store and start it."""
        devices = {}
        if network:
            devices["eth0"] = {"type": "nic", "name": "eth0", "network": network}
        body = {
            "name": self.name,
            "type": "container",
            "start": True,
            "source": {"type": "image", "fingerprint": fingerprint},
            "config": {**CONFIG, **config},
            "devices": devices,
        }
        with deferred():
            self.instances.create(body)

    def create_from_remote(
        self, image: str, *, config: Mapping[str, str], timeout: float, network: str | None = None
    ) -> None:
        """Create it of a remote's image, which the daemon fetches and keeps
        for some days, and start it."""
        args = ["launch", image, self.client.name(self.name)]
        for key, value in {**CONFIG, **config}.items():
            args += ["--config", f"{key}={value}"]
        if network:
            args += ["--network", network]
        self._settle = 2.0
        self.client.run(
            self.client.command(*args), timeout=timeout, action=f"create a container of {image}"
        )
        self._settle = 0.0

    def execute(self, script: str, timeout: float = 60.0) -> Completed:
        """Run a script as root and return what it wrote; any exit code is fine.

        Raises:
            CoiError: it took too long.
        """
        try:
            return self.instances.exec(
                self.name, _SHELL, stdin=script.encode(), timeout=timeout, cwd="/"
            )
        except TimeoutError as error:
            raise CoiError("the build container does not answer", details=str(error)) from error

    def wait_for_boot(self) -> bool:
        """Until systemd has started all; False at the deadline. What runs earlier
        may lose its files in /run and /tmp."""
        script = _WAIT_BOOTED.format(seconds=_BOOT_DEADLINE)
        return self.execute(script, _BOOT_DEADLINE + 10.0).exit_code == 0

    def wait_for_network(self) -> bool:
        """Until there is an IPv4 address and a default route; False at the deadline."""
        script = _WAIT_NETWORK.format(seconds=_NETWORK_DEADLINE)
        return self.execute(script, _NETWORK_DEADLINE + 10.0).exit_code == 0

    def identify(self, architecture: str, user: str) -> ImageContext:
        """What distribution runs inside.

        Raises:
            UsageError: neither Debian nor Ubuntu.
            CoiError: it cannot be told.
        """
        done = self.execute('. /etc/os-release; echo "${ID:-}" "${VERSION_ID:-}"')
        words = done.stdout.decode("utf-8", "replace").split()
        if done.exit_code != 0 or not words:
            raise CoiError("cannot tell the distribution of the base", details=done.error_text)
        if words[0] not in ("debian", "ubuntu"):
            raise UsageError(
                f"the base is {words[0]!r}: only Debian and Ubuntu bases can be built on",
                hint="coi build --base debian:bookworm",
            )
        return ImageContext(words[0], words[1] if len(words) > 1 else "", architecture, user)

    def package_host(self, mirror: str) -> str:
        """A host that the build must be able to find: where packages come from.

        Raises:
            UsageError: the mirror is no URL.
        """
        if mirror:
            try:
                return urlsplit(mirror).hostname or mirror
            except ValueError as error:
                raise UsageError(
                    f"build.mirror is no URL: {mirror!r}", details=str(error)
                ) from error
        done = self.execute("cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null || :")
        found = re.search(rb"^[^#\n]*https?://([A-Za-z0-9.-]+)", done.stdout, re.MULTILINE)
        return found.group(1).decode() if found else "deb.debian.org"

    def run(self, step: Step) -> None:
        """Run a step, its output to the log.

        Raises:
            CoiError: it failed or took too long.
        """
        deadline = time.monotonic() + ENTER_DEADLINE
        while True:
            code = self._run_once(step)
            if code == 0:
                return
            if self._log.tail() != _NOT_ENTERED or time.monotonic() > deadline:
                raise CoiError(f"step failed (exit {code}): {step.title}")
            self._log.section(f"{step.title}, again")
            time.sleep(_POLL)

    def _run_once(self, step: Step) -> int:
        args = self.instances.exec_args(self.name, _SHELL, cwd="/")
        script = memory_file(step.text(self._environment).encode())
        try:
            process = self.client.runner.spawn(
                args, stdin=script, stdout=self._log.fd, stderr=self._log.fd, die_with_parent=True
            )
            with process:
                return self._log.follow(process, step.timeout)
        finally:
            os.close(script)

    def stop(self) -> None:
        """Power it off, by force after 30 s."""
        try:
            self.instances.set_state(self.name, "stop", timeout=30)
        except CoiError:
            self.instances.set_state(self.name, "stop", force=True)

    def remove(self) -> None:
        """Remove it, whatever state an interruption left it in."""
        remove_instance(self.client, self.name, settle=self._settle)


def remove_instance(client: Client, name: str, *, settle: float = 0.0) -> None:
    """Wait for operations on the instance to end, then delete it if it is there.

    A client that is interrupted leaves its operation running in the daemon.

    Args:
        settle: seconds that a request may still be on its way to the daemon.

    Raises:
        CoiError: it cannot be removed.
    """
    instances = Instances(client)
    begin = time.monotonic()
    deadline = begin + _REMOVE_DEADLINE
    while True:
        busy = _busy(client, name)
        found = instances.find(name)
        if found is None and not busy and time.monotonic() - begin >= settle:
            return
        if found is not None and not busy:
            try:
                instances.remove(name)
            except MissingError:
                return
            except CoiError:
                if time.monotonic() > deadline:
                    raise
        if time.monotonic() > deadline:
            raise CoiError(
                f"cannot remove the build container {name}",
                hint=f"incus delete --force {name}",
            )
        time.sleep(_POLL)


def _busy(client: Client, name: str) -> bool:
    """Whether an operation of the daemon that is under way concerns the instance."""
    answer = client.query(
        "GET", "/1.0/operations", params={"recursion": "1"}, action="list operations"
    )
    for group in table(answer).values():
        for operation in listed(table, group):
            if operation.get("status_code") not in (103, 105, 106):  # running, pending, starting
                continue
            for urls in table(operation.get("resources")).values():
                found = listed(str, urls)
                if any(url.split("?")[0].rsplit("/", 1)[-1] == name for url in found):
                    return True
    return False


def leftovers(rows: list[Instance], *, image: str, owner: str) -> list[str]:
    """Build containers of ``image`` that a killed coi of this home left."""
    return [
        row.name for row in rows if row.config.get(TAG) == image and row.config.get(OWNER) == owner
    ]


def new_name(prefix: str) -> str:
    """A name that no other build has."""
    return f"{prefix}build-{secrets.token_hex(4)}"
