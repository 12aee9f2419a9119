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
    "version": Budget("`coi version`", 0, 12, 150),
    "help": Budget("`coi --help`", 0, 32, 340),
    "config": Budget("`coi config show`", 0, 27, 175),
    "tools": Budget("`coi tool list`", 0, 35, 200),
    "info": Budget("`coi info`", 0, 27, 185),
    # a look
    "list": Budget("`coi list`, however many there are", 1, 66, 255),
    "images": Budget("`coi image list`", 1, 33, 200),
    "exists": Budget("`coi container exists NAME`", 1, 62, 245),
    "explain": Budget("`coi network explain NAME HOST`", 1, 74, 260),
    "status": Budget("`coi network status`", 2, 68, 250),
    "doctor": Budget("`coi doctor`", 10, 96, 290),
    # a command inside, and files
    "exec": Budget("`coi container exec NAME -- true`", 2, 64, 245),
    "send": Budget("`coi tmux send NAME TEXT`", 2, 63, 245),
    "capture": Budget("`coi tmux capture NAME`", 2, 64, 245),
    "push": Budget("`coi file push`, however many files", 2, 45, 225),
    "pull": Budget("`coi file pull`, however many files", 2, 45, 225),
    # containers
    "launch": Budget("`coi container launch`", 2, 64, 245),
    "start": Budget("`coi container start`", 3, 62, 245),
    "stop": Budget("`coi container stop --force`", 2, 62, 245),
    "delete": Budget("`coi container delete --force`", 2, 62, 245),
    # runs
    "run": Budget("`coi run true`", 3, 72, 255),
    "run-fenced": Budget("`coi run true` behind a policy that stands", 4, 89, 270),
    "run-new": Budget("`coi run true` behind a policy that is new", 9, 95, 280),
    "prompt": Budget("`coi run --prompt`: started, answered, saved, removed", 6, 83, 275),
    "prompt-fenced": Budget("the same behind a policy that stands", 7, 100, 295),
    # sessions
    "background": Budget("`coi shell --background`", 3, 75, 270),
    "shell": Budget("`coi shell`, to the tool's prompt", 4),
    "resume": Budget("`coi shell --resume`, to the tool's prompt", 4),
    "restart": Budget("`coi shell --persistent` on a stopped one, to the tool's prompt", 5),
    "attach": Budget("`coi attach`, to the tool's prompt", 2),
    "detach": Budget("a detach, which saves", 1),
    "persist": Budget("`coi persist NAME`", 2, 75, 265),
    "shutdown": Budget("`coi shutdown NAME`: stopped, saved, deleted", 9, 77, 270),
    "kill": Budget("`coi kill NAME`", 4, 77, 275),
    "clean": Budget("`coi clean`, nothing to do", 3, 93, 285),
}


def calls(name: str) -> int:
    """The calls of a command of the table."""
    return BUDGETS[name].calls


def made(arguments: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Calls, an exec that was begun anew being one."""
    return [
        call
        for at, call in enumerate(arguments)
        if not (at and call[0] == "exec" and call == arguments[at - 1])
    ]


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
