"""A plugin project to begin with: ``coi tool new`` writes it.

Its tool is a whole one, an echo in a few lines of bash that needs no network and no
model; docs/plugins.md shows it as the example.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from coi import PROJECT_URL
from coi.errors import CoiError, UsageError

# A tool's name as coi.tools.check wants it, that can end the name of a distribution too.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.24"]
build-backend = "hatchling.build"

[project]
name = "coi-@NAME@"
version = "0.1.0"
requires-python = ">=3.10"

[project.entry-points."coi.tools"]
@NAME@ = "@MODULE@"

[tool.hatch.build.targets.wheel]
include = ["@MODULE@.py"]

[tool.pytest.ini_options]
addopts = "--coi-tool @NAME@"
"""

_MODULE = '''\
"""@TITLE@, a tool for coi: it echoes and remembers."""

from collections.abc import Sequence

from coi.api import ImageContext, Launch, Register, Tool, hookimpl

PROGRAM = r"""#!/bin/bash
# @NAME@ ID [PROMPT]; what was said is in ~/.@NAME@/ID
mkdir -p ~/.@NAME@ && log=~/.@NAME@/$1
say() {
    printf '%s\\n' "$1" >>"$log"
    echo "you said: $1; codes: $(grep -o 'CODE-[A-Z0-9]*' "$log" | sort -u | paste -sd,)"
}
if [ $# -gt 1 ]; then say "$2"; exit; fi
while IFS= read -rep '@NAME@> ' line && [ "$line" != /exit ]; do say "$line"; done
"""


class @CLASS@(Tool):
    name = "@NAME@"
    title = "@TITLE@"
    binary = "@NAME@"
    state = (".@NAME@",)

    def install(self, image: ImageContext) -> str:
        path = "/usr/local/bin/@NAME@"
        return f"cat >{path} <<'END_OF_PROGRAM'\\n{PROGRAM}END_OF_PROGRAM\\nchmod 755 {path}\\n"

    def command(self, launch: Launch) -> Sequence[str]:
        return [launch.binary, launch.tool_session_id or launch.session_id]

    def headless(self, launch: Launch) -> Sequence[str]:
        return [*self.command(launch), launch.prompt]


@hookimpl
def coi_register_tools(register: Register) -> None:
    register(@CLASS@())
'''

_README = f"""\
# coi-@NAME@
@TITLE@, a tool for [coi]({PROJECT_URL}). Install it into the environment of coi:

    pip install -e .
    coi tool info @NAME@
    coi build --image coi-@NAME@ --tools @NAME@
    coi shell --tool @NAME@ --image coi-@NAME@

`pytest` runs coi's conformance suite for it, in an image that is built for the run;
`pytest --coi-image coi-@NAME@` in that one, `pytest -m "not coi_container"` what needs no
container. What the suite must know of a tool that talks to a model is a
`coi.testing.ModelSetup`: see docs/plugins.md of coi.
"""

_TEST = '''"""coi's conformance suite is added by pyproject.toml; tests of your own go here."""
'''


def check_name(name: str) -> None:
    """Whether a new tool may be called so.

    Raises:
        UsageError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"bad tool name {name[:40]!r}",
            hint="at most 32 lower-case letters, digits and dashes; a letter first, no dash last",
        )


def project(name: str) -> Mapping[str, str]:
    """The files of a project, path to text.

    Args:
        name: the tool's, which :func:`check_name` lets pass.
    """
    words = name.split("-")
    values = {
        "NAME": name,
        "MODULE": "coi_" + name.replace("-", "_"),
        "CLASS": "".join(word.capitalize() for word in words) + "Tool",
        "TITLE": " ".join(word.capitalize() for word in words if word),
    }
    files = {
        "pyproject.toml": _PYPROJECT,
        f"{values['MODULE']}.py": _MODULE,
        "README.md": _README,
        f"tests/test_{values['MODULE']}.py": _TEST,
    }
    return {
        path: re.sub("@([A-Z]+)@", lambda mark: values[mark[1]], text)
        for path, text in files.items()
    }


def write_project(name: str, directory: Path) -> None:
    """Write a project whole or not at all.

    Args:
        directory: of the project; it must not be there.

    Raises:
        UsageError: the name will not do.
        CoiError: the directory exists, or it cannot be written.
    """
    check_name(name)
    hint = f"coi tool new {name} --dir ANOTHER"
    if os.path.lexists(directory):
        raise CoiError(f"{str(directory)!r} is there already", hint=hint)
    beside = directory.with_name(f".{directory.name}.{os.urandom(8).hex()}")
    try:
        beside.mkdir()
        for path, text in project(name).items():
            target = beside / path
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf-8")
        beside.rename(directory)
    except OSError as error:
        raise CoiError(
            f"the project cannot be written to {str(directory)!r}",
            details=error.strerror or str(error),
            hint=hint,
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
