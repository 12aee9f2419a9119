"""The arrows of the design: who may import whom, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "coi").rglob("*.py"))
}

# cli -> session, image, network -> incus -> (client -> process); session -> network, workspace,
# tools.
# errors, files and config are everybody's; api is what plugins see.
MAY_IMPORT: dict[str, set[str]] = {
    "coi": set(),
    "coi.errors": set(),
    "coi.files": set(),
    "coi.digest": set(),
    "coi.records": set(),
    "coi.lazy": set(),
    "coi.api": set(),
    "coi.config": {"coi.errors", "coi.files"},
    "coi.incus": {"coi.errors", "coi.lazy"},
    "coi.workspace": {"coi.config", "coi.errors"},
    "coi.tools": {"coi.api", "coi.config", "coi.errors"},
    "coi.network": {"coi.config", "coi.errors", "coi.files", "coi.incus"},
    "coi.image": {
        "coi.api", "coi.config", "coi.errors", "coi.files", "coi.incus", "coi.tools",
    },
    "coi.session": {
        "coi.api", "coi.config", "coi.errors", "coi.files", "coi.incus", "coi.network",
        "coi.tools", "coi.workspace",
    },
    "coi.doctor": {"coi.config", "coi.errors", "coi.incus", "coi.network", "coi.session"},
    "coi.cli": {
        "coi.api", "coi.config", "coi.doctor", "coi.errors", "coi.image", "coi.incus",
        "coi.lazy", "coi.network", "coi.session", "coi.tools", "coi.workspace",
    },
    "coi.testing": {"coi.api", "coi.errors", "coi.tools"},  # it looks at coi from outside
}  # fmt: skip
INCUS_LAYERS = {
    "coi.incus.shield": set[str](),
    "coi.incus.shlib": set[str](),
    "coi.incus.process": {"coi.incus.shield", "coi.incus.shlib"},
    "coi.incus.errors": set[str](),
    "coi.incus.urls": set[str](),
    "coi.incus.client": {
        "coi.incus.errors",
        "coi.incus.process",
        "coi.incus.shield",
        "coi.incus.urls",
    },
}
BUILT_IN_TOOLS = {"coi.tools.claude", "coi.tools.aider"}
TOOLS_FOR_SESSIONS = {"coi.tools.manager", "coi.tools.prepare"}
CHILDREN = {"sh", "subprocess", "multiprocessing", "pty", "asyncio", "os.system", "os.popen"}


def imports(tree: ast.Module) -> Iterator[str]:
    """Everything imported anywhere in a module, absolute, `a.b.name` for `from a.b import name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and _called(node) in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def module_of(name: str) -> str:
    """The module of coi that an imported name is in (or is), '' when it is not coi's."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def package(module: str) -> str:
    """``coi.session`` of ``coi.session.start``."""
    return ".".join(module.split(".")[:2])


TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
USES = {
    name: {used for used in map(module_of, imports(tree)) if used and used != name}
    for name, tree in TREES.items()
}


def outside(tree: ast.Module, forbidden: set[str]) -> set[str]:
    """The forbidden packages that a module imports."""
    return {name.split(".")[0] for name in imports(tree)} & forbidden


def test_the_test_sees_the_code() -> None:
    assert len(MODULES) > 30
    assert "coi.incus.client" in USES["coi.incus.instances"]
    assert any(u.startswith("coi.session.") for u in USES["coi.cli.shell"]), "lazy imports count"
    assert outside(ast.parse("def f():\n    import sh.x"), {"sh"}) == {"sh"}
    assert outside(ast.parse("from subprocess import run"), CHILDREN) == {"subprocess"}
    assert outside(ast.parse('import_module("sh")'), CHILDREN) == {"sh"}


def test_every_package_has_its_place() -> None:
    assert {package(name) for name in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_arrows(module: str) -> None:
    own = package(module)
    # The root package holds the version only; tools may ask for the API of themselves.
    used = {package(name) for name in USES[module]} - {own, "coi", "coi.digest", "coi.records"}
    assert used <= MAY_IMPORT[own], f"{module} imports {sorted(used - MAY_IMPORT[own])}"


@pytest.mark.parametrize("module", [name for name in MODULES if name != "coi.records"])
def test_dataclasses_are_records(module: str) -> None:
    """The others are compiled at each start."""
    assert "dataclasses.dataclass" not in set(imports(TREES[module]))


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("coi.incus.")])
def test_arrows_inside_incus(module: str) -> None:
    used = {name for name in USES[module] if name.startswith("coi.incus.")}
    if module in INCUS_LAYERS:
        assert used <= INCUS_LAYERS[module]
    else:
        assert not used & {m for m in MODULES if "incus." in m} - {
            "coi.incus.client", "coi.incus.errors", "coi.incus.process", "coi.incus.shield",
            "coi.incus.instances", "coi.incus.urls",
        }  # fmt: skip


def test_sessions_know_two_modules_of_tools() -> None:
    for module, used in USES.items():
        if package(module) == "coi.session":
            assert {u for u in used if package(u) == "coi.tools"} <= TOOLS_FOR_SESSIONS, module


@pytest.mark.parametrize("module", sorted(BUILT_IN_TOOLS & set(MODULES)))
def test_built_in_tools_are_plugins(module: str) -> None:
    assert USES[module] <= {"coi.api"}


def test_plugins_see_the_api_alone() -> None:
    sources = [
        path
        for place in ("plugins", "fixtures/coi-dummy")
        for path in (ROOT / place).rglob("*.py")
        if "build" not in path.parts
    ]
    assert sources
    for path in sources:
        for name in imports(ast.parse(path.read_text())):
            if name.split(".")[0] == "coi":
                assert name.startswith("coi.api"), f"{path}: {name}"
    assert USES["coi.api"] == {"coi.records"}


@pytest.mark.parametrize("module", MODULES)
def test_only_one_module_starts_processes(module: str) -> None:
    if module == "coi.incus.process" or package(module) == "coi.testing":  # tests, from outside
        return
    if module == "coi.incus.shlib":  # imports sh for it
        return
    assert not outside(TREES[module], CHILDREN)
    calls = {_called(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)}
    forbidden = {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "eval",
                 "exec_", "execv", "execve", "execvp", "execvpe", "spawnv", "spawnvp"}  # fmt: skip
    if module == "coi.session.many":
        forbidden.remove("fork")  # itself, to do the same to several instances side by side
    if module == "coi.network.refresher":
        forbidden.remove("fork")  # itself, to stay small: a child imports what it needs
    assert not calls & forbidden


@pytest.mark.parametrize("module", [m for m in MODULES if package(m) != "coi.cli"])
def test_only_the_command_line_draws(module: str) -> None:
    assert not outside(TREES[module], {"typer", "rich", "click"})
    calls = {_called(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)}
    assert not calls & {"print", "input"}


@pytest.mark.parametrize("module", MODULES)
def test_a_file_is_at_most_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 400


def test_no_package_depends_on_itself_through_others() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MAY_IMPORT}
    for module, used in USES.items():
        graph[package(module)] |= {package(name) for name in used} - {package(module), "coi"}
    done: set[str] = set()
    while len(done) < len(graph):
        free = {name for name in graph if name not in done and graph[name] <= done}
        assert free, f"a cycle among {sorted(set(graph) - done)}"
        done |= free


def test_test_files_have_names_of_their_own() -> None:
    """pytest takes two of one name for one module, in a run of all of them."""
    names = [path.name for path in Path(__file__).parents[1].rglob("*.py")]
    assert {n for n in names if names.count(n) > 1} <= {"conftest.py"}
