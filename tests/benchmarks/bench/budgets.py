"""How often each command starts the client, and how many modules it imports.

The one table of them: tests hold it, docs/benchmarks.md shows it. What comes to need fewer calls
gets a lower number here, or its test fails: what was won stays won.
"""

from __future__ import annotations

from collections.abc import Sequence

from coi.records import record


@record(frozen=True)
class Budget:
    """A command's.

    Attributes:
        command: as it is typed, and in what state of things.
        calls: of the client ``incus``, exactly. An exec that is begun anew, because a busy daemon
            could not enter the container, is the same one.
        own: at most so many of coi's own modules; None where the command goes on afterwards.
        modules: at most so many in all, the interpreter's own aside. Python's differ a little
            from version to version.
    """

    command: str
    calls: int
    own: int | None = None
    modules: int | None = None


BUDGETS = {
    # no Incus
    "version": Budget("`coi version`", 0, 12, 110),
    "help": Budget("`coi --help`", 0, 33, 295),
    "config": Budget("`coi config show`", 0, 28, 130),
    "tools": Budget("`coi tool list`", 0, 36, 150),
    "info": Budget("`coi info`", 0, 28, 125),
    # a look
    "list": Budget("`coi list`, however many there are", 1, 51, 165),
    "images": Budget("`coi image list`", 1, 35, 150),
    "exists": Budget("`coi container exists NAME`", 1, 44, 160),
    "explain": Budget("`coi network explain NAME HOST`", 1, 58, 180),
    "status": Budget("`coi network status`", 2, 64, 185),
    "doctor": Budget("`coi doctor`", 10, 101, 245),
    # a command inside, and files
    "exec": Budget("`coi container exec NAME -- true`", 1, 49, 165),
    "send": Budget("`coi tmux send NAME TEXT`", 2, 48, 165),
    "capture": Budget("`coi tmux capture NAME`", 2, 49, 165),
    "push": Budget("`coi file push`, however many files", 2, 47, 165),
    "pull": Budget("`coi file pull`, however many files", 2, 47, 165),
    # containers
    "launch": Budget("`coi container launch`", 2, 59, 175),
    "start": Budget("`coi container start`", 3, 57, 175),
    "stop": Budget("`coi container stop --force`", 2, 57, 175),
    "delete": Budget("`coi container delete --force`", 2, 57, 175),
    # runs
    "run": Budget("`coi run true`", 3, 69, 185),
    "run-fenced": Budget("`coi run true` behind a policy that stands", 4, 86, 210),
    "run-new": Budget("`coi run true` behind a policy that is new", 9, 92, 220),
    "prompt": Budget("`coi run --prompt`: started, answered, saved, removed", 6, 88, 220),
    "prompt-fenced": Budget("the same behind a policy that stands", 7, 105, 240),
    # sessions
    "background": Budget("`coi shell --background`", 3, 79, 215),
    "shell": Budget("`coi shell`, to the tool's prompt", 4),
    "resume": Budget("`coi shell --resume`, to the tool's prompt", 4),
    "restart": Budget("`coi shell --persistent` on a stopped one, to the tool's prompt", 5),
    "attach": Budget("`coi attach`, to the tool's prompt", 2),
    "detach": Budget("a detach, which saves", 1),
    "poweroff": Budget("a power-off inside: saved, deleted", 4),
    "persist": Budget("`coi persist NAME`", 2, 76, 205),
    "shutdown": Budget("`coi shutdown NAME`: stopped, saved, deleted", 4, 82, 215),
    "kill": Budget("`coi kill NAME`", 3, 79, 210),
    "clean": Budget("`coi clean`, nothing to do", 3, 95, 230),
}


def calls(name: str) -> int:
    """The calls of a command of the table."""
    return BUDGETS[name].calls


def made(arguments: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Calls, an exec that was begun anew being one, also where another was begun between."""
    found: list[Sequence[str]] = []
    execs: list[Sequence[str]] = []  # since the last call of another kind
    for call in arguments:
        if call[0] != "exec":
            execs = []
        elif call in execs:
            continue
        else:
            execs.append(call)
        found.append(call)
    return found


def faults(name: str, arguments: Sequence[Sequence[str]], modules: Sequence[str]) -> list[str]:
    """What of a command is not as its budget says; nothing where all is.

    Args:
        arguments: of its calls.
        modules: that it imported; empty where it was not asked.
    """
    budget = BUDGETS[name]
    found = made(arguments)
    said: list[str] = []
    if len(found) != budget.calls:
        told = "".join(f"\n  {' '.join(call)[:160]}" for call in found)
        more = "fewer: lower its budget" if len(found) < budget.calls else "more than its budget"
        said.append(f"{name}: {len(found)} calls, not {budget.calls}; {more}{told}")
    own = [module for module in modules if module.partition(".")[0] == "coi"]
    if budget.own is not None and len(own) > budget.own:
        said.append(f"{name}: {len(own)} modules of coi, not {budget.own}: {own}")
    if budget.modules is not None and len(modules) > budget.modules:
        said.append(f"{name}: {len(modules)} modules, not {budget.modules}: {list(modules)}")
    return said
