"""The plugin manager with real distributions on sys.path."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from pluginkit import PLUGIN, Site

from coi.api import Launch
from coi.errors import Interrupted, NotFoundError
from coi.tools.discover import entry_points
from coi.tools.manager import BUILTIN, Manager


def load(site: Site, *disabled: str) -> Manager:
    return Manager.load(disabled, path=[str(site.path)])


def reasons(manager: Manager) -> dict[str, str]:
    return {problem.name.split(" ")[0]: problem.reason for problem in manager.problems}


def test_a_plugin_and_the_built_in_tool(site: Site) -> None:
    site.tool("it", "coi-it")
    manager = load(site)
    assert manager.get("it").binary == "it"
    found = manager.tools
    assert list(found) == [*BUILTIN, "it"]
    assert (found["it"].origin, found["it"].distribution) == ("plugin", "coi-it 1.0")
    assert found["claude"].origin == "built-in"
    assert manager.problems == ()


def test_only_the_named_plugin_is_imported(site: Site) -> None:
    site.tool("one")
    site.tool("two")
    manager = load(site)
    manager.get("claude")
    assert not {"coi_one", "coi_two"} & set(sys.modules)
    manager.get("one")
    assert "coi_one" in sys.modules
    assert "coi_two" not in sys.modules


def test_claude_needs_no_search(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("coi.tools.manager.entry_points", fail)
    assert load(site).get("claude").name == "claude"


def test_claude_loads_neither_metadata_nor_a_heavy_module() -> None:
    code = (
        "import sys; from coi.tools.manager import Manager; Manager.load().get('claude')\n"
        "heavy = {'importlib.metadata', 'sh', 'typer', 'rich', 'asyncio'}\n"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_tool_behind_an_entry_point_of_another_name(site: Site) -> None:
    site.install("coi-many", {"many": "coi_many"}, {"coi_many": PLUGIN.format(name="hidden")})
    assert load(site).get("hidden").name == "hidden"


def test_two_entry_points_of_one_module(site: Site) -> None:
    second = PLUGIN.format(name="a") + (
        "\nclass B(It):\n    name = 'b'\n"
        "\n@hookimpl\ndef coi_register_tools(register):\n    register(It()); register(B())\n"
    )
    site.install("coi-ab", {"a": "coi_ab", "b": "coi_ab"}, {"coi_ab": second})
    manager = load(site)
    assert manager.get("b").name == "b"
    assert manager.get("a").name == "a"
    assert manager.problems == ()
    without = load(site, "a")
    assert list(without.tools) == [*BUILTIN, "b"]


def test_an_attribute_of_a_module_can_be_the_plugin(site: Site) -> None:
    text = PLUGIN.format(name="it").replace(
        "@hookimpl", "class Plugin:\n  @hookimpl\n  @staticmethod"
    )
    text = text.replace("def coi_register", "  def coi_register").replace(
        "    register(", "      register("
    )
    site.install("coi-it", {"it": "coi_it:Plugin"}, {"coi_it": text})
    assert load(site).get("it").name == "it"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module_here", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("x = 1", "does not implement coi_register_tools"),
        (
            "from coi.api import hookimpl\n@hookimpl\ndef coi_register_tools(reg): pass",
            "PluginValidationError",
        ),
        ("from coi.api import hookimpl\n@hookimpl\ndef coi_register_tools(): pass", "no tool"),
        (
            "from coi.api import hookimpl\n"
            "@hookimpl\ndef coi_register_tools(register): raise KeyError('x')",
            "KeyError",
        ),
        (
            "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
            "Odd: (its message cannot be shown)",
        ),
        (
            "class Odd(Exception):\n    def __str__(self): raise SystemExit\nraise Odd",
            "Odd: (its message cannot be shown)",
        ),
        ("raise ValueError('a\\nb\\n' * 100000)", "ValueError: a b a b"),
        ("def f(): f()\nf()", "RecursionError"),
        ("from coi.api import NotThereYet", "ImportError"),
        ("import coi.api\ncoi.api.HookSpec9", "AttributeError"),
    ],
    ids=[
        "import", "syntax", "exit", "sys.exit", "base", "nohook", "args", "none", "raises", "odd",
        "odder", "huge", "deep", "newer", "newest",
    ],
)  # fmt: skip
def test_a_plugin_that_fails_is_skipped(site: Site, text: str, reason: str) -> None:
    site.install("coi-bad", {"bad": "coi_bad"}, {"coi_bad": text})
    site.tool("good")
    manager = load(site)
    assert list(manager.tools) == [*BUILTIN, "good"]
    assert reason in reasons(manager)["bad"]
    assert len(manager.problems) == 1
    for problem in manager.problems:
        assert len(problem.reason) <= 400
        assert problem.reason == " ".join(problem.reason.split())
    with pytest.raises(NotFoundError) as caught:
        load(site).get("bad")
    assert reason in caught.value.details
    assert "claude, aider, good" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("name = 'Bad Name'", "bad tool name"),
        ("name = '../x'", "bad tool name"),
        ("name = ''", "bad tool name"),
        ("name = None", "bad tool name"),
        ("api_version = 2", "version 2 of coi.api"),
        ("binary = ''", "bad binary"),
        ("binary = '-x'", "bad binary"),
        ("binary = 'a b'", "bad binary"),
        ("title = 'a\\x1b[2J'", "bad title"),
        ("state = '.it'", "must be a tuple"),
        ("state = ('/etc',)", "not relative"),
        ("state = ('~/.it',)", "not relative"),
        ("state = ('a/../../b',)", "plain path"),
        ("state = ('.',)", "plain path"),
        ("state = ('',)", "empty"),
        ("state = ('a\\0b',)", "control"),
        ("state = (1,)", "not a string"),
        ("secrets = ('../x',)", "plain path"),
        ("state_exclude = ('/x',)", "not relative"),
        ("secret_keys = ('a',)", "secret_keys"),
        ("secret_keys = {'a': 'b'}", "secret_keys"),
        ("state = property(lambda self: 1 / 0)", "ZeroDivisionError"),
        ("state = property(lambda self: exit(3))", "SystemExit: 3"),
        ("name = property(lambda self: (_ for _ in ()).throw(GeneratorExit))", "GeneratorExit"),
        ("__class__ = property(lambda self: 1 / 0)", "ZeroDivisionError"),
        ("api_version = 'x' * 10**7", "is for version x"),
        ("api_version = property(lambda self: 1 / 0)", "ZeroDivisionError"),
        ("name = 'n' * 10**7", "bad tool name"),
        ("name = type('S', (str,), {})('bad')", "bad tool name"),
        ("title = 't' * 10**7", "bad title"),
        ("title = None", "bad title"),
        ("binary = None", "bad binary"),
        ("binary = 'b' * 10**7", "bad binary"),
        ("state = ('a/' * 10**6 + 'b',)", "too long"),
        ("state = tuple(map(str, range(10**5)))", "more than 1000 entries"),
        ("state = iter(())", "must be a tuple"),
        ("scratch = '.cache'", "scratch must be a tuple"),
        ("scratch = ('../x',)", "plain path"),
        ("host_variables = 'KEY'", "host_variables must be a tuple"),
        ("host_variables = ('A B',)", "bad variable name"),
        ("host_variables = ('A=B',)", "bad variable name"),
        ("host_variables = (1,)", "bad variable name"),
        ("host_variables = ('PATH',)", "the container has its own"),
        ("host_variables = ('LD_PRELOAD',)", "the container has its own"),
        ("secret_keys = {'a': (1,)}", "secret_keys"),
        ("secret_keys = {'/a': ('b',)}", "secret_keys"),
        ("secret_keys = [('a', ('b',))]", "secret_keys"),
        ("command = Tool.command", "command() is not defined"),
    ],
)
def test_a_tool_that_is_nonsense_is_skipped(site: Site, change: str, reason: str) -> None:
    text = PLUGIN.format(name="bad").replace(
        "@hookimpl", f"class Changed(It):\n    {change}\n\n@hookimpl"
    )
    text = text.replace("register(It())", "register(Changed())")
    site.install("coi-bad", {"bad": "coi_bad"}, {"coi_bad": text})
    manager = load(site)
    assert list(manager.tools) == [*BUILTIN]
    assert reason in reasons(manager)["bad"]


def test_what_an_attribute_says_later_does_not_count(site: Site) -> None:
    """Properties that change their mind, or fail, when a session is to be saved."""
    text = PLUGIN.format(name="it").replace(
        "@hookimpl",
        """class Fickle(It):
    asked = 0
    def __init__(self): self.scratch = [".cache"]
    @property
    def state(self):
        Fickle.asked += 1
        if Fickle.asked > 1: raise OSError("gone")
        return [".it"]
    secret_keys = property(lambda self: {".it/a.json": ["key"]})
    def environment(self, launch): return {"STATE": str(self.state)}

@hookimpl""",
    )
    site.install(
        "coi-it", {"it": "coi_it"}, {"coi_it": text.replace("register(It())", "register(Fickle())")}
    )
    manager = load(site)
    tool = manager.get("it")
    assert type(tool).__name__ == "Fickle"
    for _ in range(3):
        assert (tool.state, tool.scratch) == ((".it",), (".cache",))
        assert tool.secret_keys == {".it/a.json": ("key",)}
    assert tool.environment(Launch("id")) == {"STATE": "('.it',)"}
    assert manager.problems == ()


@pytest.mark.parametrize("thing", ["It", "'it'", "None", "object()"])
def test_what_is_no_tool_is_skipped(site: Site, thing: str) -> None:
    text = PLUGIN.format(name="bad").replace("register(It())", f"register({thing})")
    site.install("coi-bad", {"bad": "coi_bad"}, {"coi_bad": text})
    manager = load(site)
    assert list(manager.tools) == [*BUILTIN]
    assert "it registered" in reasons(manager)["bad"]


def test_a_bad_tool_does_not_take_its_good_neighbour_along(site: Site) -> None:
    text = PLUGIN.format(name="good").replace(
        "register(It())", "register(object()); register(It())"
    )
    site.install("coi-good", {"good": "coi_good"}, {"coi_good": text})
    manager = load(site)
    assert manager.get("good").name == "good"
    assert len(manager.problems) == 1


def test_what_registers_before_it_raises_registers_nothing(site: Site) -> None:
    text = PLUGIN.format(name="bad").replace("register(It())", "register(It()); raise ValueError")
    site.install("coi-bad", {"bad": "coi_bad"}, {"coi_bad": text})
    assert list(load(site).tools) == [*BUILTIN]


@pytest.mark.parametrize(
    ("entry", "value", "name"),
    [
        ("claude", "coi_evil", "claude"),
        ("evil", "coi_evil", "claude"),
        ("claude", "coi_evil", "other"),
        ("other", "coi.tools.claude", "claude"),
    ],
)
def test_no_plugin_takes_a_built_in_name(site: Site, entry: str, value: str, name: str) -> None:
    site.install("aaa-evil", {entry: value}, {"coi_evil": PLUGIN.format(name=name)})
    for ask_first in ("claude", "other"):
        manager = load(site)
        if ask_first == "claude":
            manager.get("claude")
        else:
            with pytest.raises(NotFoundError):
                manager.get("other")
        assert list(manager.tools) == [*BUILTIN]
        assert type(manager.get("claude")).__module__ == BUILTIN["claude"]
        assert "built-in" in reasons(manager)[entry]


def test_of_two_plugins_with_one_name_the_first_counts_however_it_is_asked(site: Site) -> None:
    site.tool("it", "coi-a")
    site.tool("it", "coi-b")
    for manager in (load(site), load(site)):
        manager.get("it")
        assert manager.tools["it"].distribution == "coi-a 1.0"
        assert [p.name for p in manager.problems] == ["it (coi-b 1.0)"]
        assert "already registered by coi-a 1.0" in manager.problems[0].reason


def test_a_name_belongs_to_its_entry_point(site: Site) -> None:
    site.install("coi-a", {"a": "coi_a"}, {"coi_a": PLUGIN.format(name="b")})
    site.tool("b", "coi-b")
    asked, listed = load(site), load(site)
    asked.get("b")
    for manager in (asked, listed):
        assert manager.tools["b"].distribution == "coi-b 1.0"
        assert "belongs to the entry point of coi-b 1.0" in reasons(manager)["a"]


@pytest.mark.parametrize("how", ["it", "coi-it", " x , coi-it,"])
def test_disabled_plugins_are_not_imported(
    site: Site, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    site.tool("it", "coi-it")
    monkeypatch.setenv("COI_DISABLED_PLUGINS", how)
    manager = Manager.load(path=[str(site.path)])
    assert list(manager.tools) == [*BUILTIN]
    assert "coi_it" not in sys.modules
    with pytest.raises(NotFoundError) as caught:
        manager.get("it")
    assert "COI_DISABLED_PLUGINS" in caught.value.details


def test_a_built_in_tool_can_be_disabled(site: Site) -> None:
    assert list(load(site, "claude").tools) == ["aider"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, Interrupted])
def test_an_interruption_is_not_swallowed(site: Site, raised: type[BaseException]) -> None:
    text = f"from coi.errors import Interrupted\nraise {raised.__name__}('x')"
    site.install("coi-it", {"it": "coi_it"}, {"coi_it": text})
    with pytest.raises(raised):
        load(site).get("it")


def test_what_a_plugin_prints_stays_off_stdout(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "print('noise')\n" + PLUGIN.format(name="it")
    site.install("coi-it", {"it": "coi_it"}, {"coi_it": text})
    load(site).get("it")
    out, err = capsys.readouterr()
    assert out == ""
    assert "noise" in err


def test_the_own_scan_finds_what_importlib_finds(site: Site) -> None:
    site.tool("it", "coi-it")
    site.install("Coi.Odd_Name", {"odd": "odd:thing [extra]"}, {}, version="2.0.post1")
    expected = sorted(
        (point.dist.name, point.name, point.value.split(" ")[0])
        for point in importlib.metadata.entry_points(group="coi.tools")
        if point.dist is not None
    )
    found = entry_points("coi.tools")
    assert sorted((p.distribution.split(" ")[0], p.name, p.value) for p in found) == expected
    assert {"it", "odd", "claude"} <= {point.name for point in found}


def test_the_scan_survives_what_lies_about(site: Site, tmp_path: Path) -> None:
    site.tool("it", "coi-it")
    (site.path / "a-1.dist-info").mkdir()
    (site.path / "b-1.dist-info").write_text("a file")
    bad = site.path / "c-1.dist-info"
    bad.mkdir()
    (bad / "entry_points.txt").write_bytes(b"[coi.tools]\n\xff\xfe = \xff\nno equals\n# c = d\n")
    (tmp_path / "file.zip").write_text("")
    paths = [str(tmp_path / "file.zip"), str(tmp_path / "gone"), str(site.path)]
    assert "it" in {point.name for point in entry_points("coi.tools", paths)}
    manager = Manager.load((), path=paths)
    assert list(manager.tools) == [*BUILTIN, "it"]


def test_a_plugin_in_the_current_directory_is_not_found(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.tool("it", "coi-it")
    monkeypatch.chdir(site.path)
    assert entry_points("coi.tools", ["", "."]) == ()
