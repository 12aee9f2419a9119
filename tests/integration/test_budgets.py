"""What each command may cost in calls and modules: the table is bench.budgets'."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from bench.budgets import BUDGETS, faults
from bench.counting import Counter
from dummy import PROMPT, booted, power_off
from piping import module_host

from coi.testing.host import Host
from coi.testing.machine import User
from coi.testing.screen import Screen

FENCED = "--network=restricted"
Within = Callable[..., None]


@pytest.fixture(scope="module")
def world(image: str, user: User) -> Iterator[Host]:
    """One world, so that its policy's bridge is made once."""
    with module_host(Host.make(user, image)) as host:
        yield host
        host.sweep()


@pytest.fixture(scope="module")
def counter(world: Host) -> Counter:
    return Counter(world)


_checked: set[str] = set()


def check(counter: Counter, name: str) -> None:
    """What was counted just now is within the budget of a name."""
    taken = counter.taken()
    _checked.add(name)
    found = faults(name, taken.calls, taken.modules)
    assert not found, "\n".join(found)


@pytest.fixture
def within(world: Host, counter: Counter) -> Within:
    """``within(name, *args)``: ``coi args`` ends well and within the budget of the name."""

    def act(name: str, *args: str) -> None:
        counter.begin()
        world.coi(*args, environ=counter.environ).ok()
        check(counter, name)

    return act


def opened(world: Host, counter: Counter, name: str, *args: str) -> Screen:
    """``coi args`` up to the prompt, within the budget of a name."""
    counter.begin()
    screen = world.screen(*args, environ=counter.environ)
    screen.expect(PROMPT)
    counter.stop(screen.pid)
    check(counter, name)
    return screen


def test_what_needs_no_container(within: Within) -> None:
    within("version", "version")
    within("help", "--help")
    within("config", "config", "show")
    within("tools", "tool", "list")
    within("images", "image", "list")
    within("doctor", "doctor")
    within("status", "network", "status")


def _run_behind_a_new_policy(world: Host, counter: Counter) -> None:
    """Once more where a network that another made meanwhile has taken the same addresses."""
    for _ in range(3):
        world.sweep()
        counter.begin()
        world.coi(FENCED, "run", "true", environ=counter.environ).ok()
        taken = counter.taken()
        if len(taken.bodies("/1.0/networks")) == 1:
            break
    check(counter, "run-new")


def test_runs(world: Host, counter: Counter, within: Within) -> None:
    within("run", "run", "true")
    _run_behind_a_new_policy(world, counter)
    within("run-fenced", FENCED, "run", "true")
    world.settled()
    within("prompt", "run", "--prompt", "remember CODE-PLUM")
    world.settled()
    within("prompt-fenced", FENCED, "run", "--prompt", "remember CODE-PLUM")
    within("info", "info")
    world.sweep()


def test_a_container_of_its_own(world: Host, within: Within) -> None:
    name = f"{world.prefix}box"
    within("launch", "container", "launch", world.image, name)
    within("exists", "container", "exists", name)
    within("exec", "container", "exec", name, "--", "true")
    for number in range(30):
        world.write(f"ws/few/{number}", "x")
    within("push", "file", "push", "-r", "few", f"{name}:/root/few")
    within("pull", "file", "pull", "-r", f"{name}:/root/few", "back")
    within("stop", "container", "stop", "--force", name)
    within("start", "container", "start", name)
    within("delete", "container", "delete", "--force", name)


def test_a_session(world: Host, counter: Counter, within: Within) -> None:
    name = world.instance()
    within("background", "shell", "--background")
    within("list", "list")
    within("send", "tmux", "send", name, "remember CODE-PLUM")
    within("capture", "tmux", "capture", name)
    within("explain", "network", "explain", name, "192.0.2.1:80")
    screen = opened(world, counter, "attach", "attach")
    counter.begin(screen.pid)
    screen.detach()
    screen.ended()
    check(counter, "detach")
    booted(name)
    within("shutdown", "shutdown", "--force", name)
    world.settled()
    screen = opened(world, counter, "resume", "shell", "--resume")
    screen.detach()
    screen.ended()
    within("kill", "kill", "--force", name)
    world.settled()
    within("clean", "clean", "--force")


def test_a_power_off(world: Host, counter: Counter) -> None:
    """Nothing is started again to be saved, and nobody waits for the deletion."""
    world.settled()
    screen = opened(world, counter, "shell", "shell")
    booted(world.instance())
    counter.begin(screen.pid)
    power_off(screen)
    screen.end()
    check(counter, "poweroff")
    world.settled()


def test_a_session_that_is_kept(world: Host, counter: Counter, within: Within) -> None:
    world.settled()
    screen = opened(world, counter, "shell", "shell")
    within("persist", "persist", "--force", world.instance())
    booted(world.instance())
    power_off(screen)
    screen.ended()
    world.settled({world.instance(): "Stopped"})
    screen = opened(world, counter, "restart", "shell", "--persistent")
    screen.detach()
    screen.ended()
    world.drop()


def test_no_budget_is_left_out() -> None:
    """Where all tests of this file ran."""
    if len(_checked) > 25:
        assert set(BUDGETS) - _checked == set()


def test_more_calls_or_modules_are_seen(world: Host, counter: Counter) -> None:
    """The negative control: a command against another's budget."""
    counter.begin()
    world.coi("image", "list", environ=counter.environ).ok()
    taken = counter.taken()
    assert faults("images", taken.calls, taken.modules) == []
    calls, own, modules = faults("version", taken.calls, taken.modules)
    assert "1 calls, not 0; more than its budget\n  query --raw /1.0/images" in calls
    assert "coi.incus.client" in own
    assert "typer" in modules
    (fewer,) = faults("send", taken.calls, [])
    assert "lower its budget" in fewer
