"""The recipe: its hash changes with its inputs, its scripts are sound and keep their place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coi.api import ImageContext, Tool
from coi.image import recipe
from coi.image.host import HostSettings
from coi.image.recipe import Inputs, Step, custom_hash, recipe_hash, steps, tool_step

IMAGE = ImageContext("debian", "12", "x86_64")
SCRIPTS = sorted((Path(recipe.__file__).parent / "steps").glob("*.sh"))


class Plain(Tool):
    name = "plain"
    title = "Plain Tool"
    binary = "plain"

    def __init__(self, script: str = "touch /usr/local/bin/plain") -> None:
        self.script = script

    def install(self, image: ImageContext) -> str:
        return self.script


INPUTS = Inputs((Plain(),), "code", 1000, HostSettings())


def digest(inputs: Inputs = INPUTS, base: str = "b", architecture: str = "x86_64") -> str:
    return recipe_hash(inputs, base=base, architecture=architecture)


def test_the_hash_is_stable() -> None:
    assert digest() == digest(Inputs((Plain(),), "code", 1000, HostSettings()))
    assert re.fullmatch("[0-9a-f]{64}", digest())


@pytest.mark.parametrize(
    "change",
    [
        lambda: digest(base="other"),
        lambda: digest(architecture="aarch64"),
        lambda: digest(replace(INPUTS, uid=1001)),
        lambda: digest(replace(INPUTS, user="dev")),
        lambda: digest(replace(INPUTS, tools=())),
        lambda: digest(replace(INPUTS, tools=(Plain("true"),))),
        lambda: digest(replace(INPUTS, mirror="http://mirror.test/debian")),
        lambda: digest(replace(INPUTS, host=HostSettings(certificates=("-----BEGIN",)))),
        lambda: digest(replace(INPUTS, host=HostSettings(npm_registry="https://npm.test"))),
        lambda: digest(replace(INPUTS, host=HostSettings(apt=('Acquire::X "y";',)))),
    ],
)
def test_every_input_changes_the_hash(change: Callable[[], str]) -> None:
    assert change() != digest()


def test_a_step_script_and_the_version_change_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest()
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "VERSION", recipe.VERSION + 1)
        assert digest() != before
    text = recipe.script
    monkeypatch.setattr(recipe, "script", lambda name: text(name) + ("#" if name == "user" else ""))
    assert digest() != before


@pytest.mark.parametrize(
    "host", [HostSettings(mtu=1400), HostSettings(proxies=(("http_proxy", "http://proxy:3128"),))]
)
def test_the_network_of_the_day_does_not_change_the_hash(host: HostSettings) -> None:
    assert digest(replace(INPUTS, host=host)) == digest()


def test_a_custom_image_follows_its_script_and_its_base() -> None:
    assert custom_hash("a", base="x") == custom_hash("a", base="x")
    assert len({custom_hash(t, base=b) for t in "ab" for b in "xy"}) == 4


def test_the_order_of_the_steps() -> None:
    keys = [step.key for step in steps(replace(INPUTS, tools=(Plain(), Plain())), IMAGE)]
    assert keys == [
        "host", "user", "packages", "node", "system", "tool-plain", "tool-plain", "clean",
    ]  # fmt: skip


def test_no_credential_of_a_proxy_is_in_a_step() -> None:
    host = HostSettings(proxies=(("http_proxy", "http://me:CANARY@proxy:3128"),))
    for step in steps(replace(INPUTS, host=host), IMAGE):
        assert "CANARY" not in step.text()
        assert "CANARY" in step.text(dict(host.proxies))


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh"], input=script, text=True, capture_output=True, check=False, timeout=20
    )


@pytest.mark.parametrize("value", ["a b", "it's", '$HOME "x" `id`', "two\nlines", "\\n", ""])
def test_variables_arrive_byte_for_byte(tmp_path: Path, value: str) -> None:
    step = Step("k", "t", f'printf %s "$COI_VALUE" > {tmp_path}/out', {"COI_VALUE": value})
    text = step.text().replace("cd /root", f"cd {tmp_path}")
    done = run(text)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == value


@pytest.mark.parametrize("body", ["false\ntrue", 'echo "$COI_NOT_SET"', "exit 3"])
def test_a_failing_command_fails_the_step(tmp_path: Path, body: str) -> None:
    text = Step("k", "t", body).text().replace("cd /root", f"cd {tmp_path}")
    assert run(text).returncode != 0


def test_a_tool_that_fails_or_is_not_on_the_path_fails_its_step() -> None:
    failing = tool_step(Plain("false\necho not reached"), IMAGE)
    assert failing.title == "Install Plain Tool"
    done = run(f"set -eu\n{failing.script}")
    assert done.returncode != 0
    assert "not reached" not in done.stdout
    missing = tool_step(Plain("true"), IMAGE).script
    done = run(f'set -eu\nsetpriv() {{ shift 3; "$@"; }}\n{missing}')
    assert done.returncode == 1
    assert "plain is not on the PATH of code" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_steps_pass_shellcheck(script: Path) -> None:
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=places)
    if shellcheck is None:
        pytest.skip("no shellcheck (it is in the dev extra)")
    # 2148: no shebang, the recipe's preamble starts them; 2154: variables come from it too.
    done = subprocess.run(
        [shellcheck, "--shell=sh", "--exclude=SC2148,SC2154", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_steps_use_only_the_variables_they_are_given() -> None:
    for step in steps(INPUTS, IMAGE):
        used = set(re.findall(r"\$\{?(COI_[A-Z_]+)", step.script))
        assert used <= set(step.variables), step.key


def test_every_script_of_the_package_is_a_step() -> None:
    used = {step.script for step in steps(INPUTS, IMAGE)}
    assert {path.read_text() for path in SCRIPTS} <= used
