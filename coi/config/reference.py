"""docs/configuration.md, generated so that it cannot disagree with the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coi.config import schema
from coi.config.text import toml_value
from coi.config.tighten import UNTRUSTED

_HEAD = """\
# Configuration

This page is generated from the code (`python -c "import coi.config; \
print(coi.config.reference(), end='')"`); a test holds the two together.

## Layers

Each layer overrides the ones before it, key by key. A key that a file does not
name keeps the value it had, booleans included; arrays replace as a whole.

1. built-in defaults
2. `/etc/coi/config.toml`
3. `$XDG_CONFIG_HOME/coi/config.toml`, which is `~/.config/coi/config.toml` by default
4. `.coi.toml` in the workspace, as far as it is trusted
5. the profile selected with `--profile NAME`
6. the environment: `COI_` and the key, `.` as `_` (`COI_NETWORK_MODE=allowlist`)
7. flags: `--image`, `--persistent`, `--tool`, `--network`, `--limit KEY=VALUE`

`coi config show` prints the result, `coi config show --origin` also where each
value comes from, `--format json` for scripts. An unknown key, a wrong type or a
wrong value is an error (exit code 2) that names the file, the key and what is
allowed; a file that exists and cannot be read is one too.

In variables, arrays are comma-separated and booleans are `true` or `false`
(also 1, 0, yes, no, on, off). An empty variable counts as not set, except that
it empties an array. Unknown `COI_*` variables are ignored. Not keys, but read:

- `COI_HOME` (default `~/.coi`): sessions, locks, logs and approvals
- `COI_CONTAINER_PREFIX` (default `coi-`): how containers' names begin
- `COI_DISABLED_PLUGINS`: tools that are not loaded, comma-separated
- `COI_DEBUG=1`: tracebacks

## Trust

A repository's `.coi.toml` is written by whoever wrote the repository, and the
session can write to it. Until `coi trust` approves it, it may make a session
narrower than your own configuration (layers 1 to 3) and choose among the tools
you have; the other keys wait, and coi says which. The column *unapproved* below
tells what such a file may do with each key. Profiles and `[tool.<name>]` tables
of an unapproved file always wait, but for `credentials`, which it may shorten.

`coi trust` shows the file and what it would set, and asks. The approval is for
these exact bytes at this path: after any change the file waits again. Approvals
are kept under `COI_HOME/trust`; `coi trust --list` shows them, `coi trust
--revoke` takes one back. A `.coi.toml` that is a symbolic link, not a regular
file, larger than 64 KiB or unreadable is ignored with a notice; one that is not
valid TOML is an error.

## Keys
"""

_TOOL = """
A `[tool.<name>]` table holds the options of that tool; its plugin defines them.
Tables within it merge key by key; at most eight levels, no dates. One of its keys
is coi's own:

| key | type | default | variable | unapproved | meaning |
|---|---|---|---|---|---|
| `credentials` | an array of files and variables | not set: all that the tool declares | none \
| only those of them that may go in otherwise | Which of the tool's credentials go in; `[]` \
keeps every one out. |

A credential is a file of the host that holds one, named by its path below the home
(`.claude/.credentials.json`), or a variable of the host (`ANTHROPIC_API_KEY`); an
address that a key is for counts as one. `coi tool info NAME` shows them, and which
would go in now. A name that the tool does not have is an error. Each is read from the
host afresh at every start and resume, variables that are empty count as not set, and
`--env` wins over them. What is refreshed inside stays inside. Settings of the tool that
hold no credential go in whatever is listed; of a file that holds both, `.claude.json`,
the settings do. `mount_claude_config = false` keeps all of it out.

```toml
[tool.claude]
credentials = ["ANTHROPIC_API_KEY"]   # the key, and no login
project_settings = false              # Claude Code's: your settings alone (security.md)
```
"""

_LIMITS = """
`none` lifts a limit of coi's; what the Incus profile says holds then, and only then. They are
set when a container is made and when a persistent one is started again. `--limit KEY=VALUE`,
repeatable, wins over the configuration: `--limit memory=2GiB --limit processes=500`.

A session that takes too much is stopped at its own walls: a process that wants memory beyond
`memory` is killed, one beyond `processes` is not begun. What no limit holds: `/workspace` and
other mounts are on the host's disk, and several sessions together may want more memory than
there is. The disk limit of a persistent container is not lowered later. `disk` has no default,
because a size stands for one pool: set it once for all containers with
`incus profile device set default root size=20GiB`.
"""

_PROFILES = """
### [profiles.\\<name>]

A profile may hold every section above (`[profiles.rust.network]`), and directly:

| key | type | meaning |
|---|---|---|
| `image` | as `defaults.image` | short form |
| `persistent` | as `defaults.persistent` | short form |
| `environment` | a table of strings without newline | variables for the session |

Files that define the same profile add to it, the later one winning key by key.
A profile takes effect only when it is selected. Values are on disk in the clear
and `coi config show` prints them: a secret is better given with `--env NAME`.

```toml
[profiles.rust]
image = "coi-rust"
environment = { RUST_BACKTRACE = "1" }
persistent = true
```
"""


def document() -> str:
    """The whole page."""
    lines: list[str] = []
    section = ""
    # A home that cannot be mistaken for anybody's: the defaults are shown with it.
    defaults = schema.builtin(Path("~/.coi"))
    for key in schema.KEYS:
        table = key.name.rpartition(".")[0]
        if table != section:
            lines += {"tool": _TOOL, "limits": _LIMITS}.get(section, "").splitlines()
            section = table
            lines += ["", f"### [{table}]", ""]
            lines += ["| key | type | default | variable | unapproved | meaning |"]
            lines += ["|---|---|---|---|---|---|"]
        lines.append(_row(key, defaults[key.parts]))
    return _HEAD + "\n".join(lines) + "\n" + _PROFILES


def _row(key: schema.Key, default: Any) -> str:
    last = key.name.rpartition(".")[2]
    name = f"`{last}`" + "".join(f" (also `{alias}`)" for alias in key.aliases)
    shown = "not set" if default is None else f"`{toml_value(default)}`"
    variable = f"`{key.variables[0]}`" if key.variables else "none"
    rule = UNTRUSTED.get(key.name)
    waits = "waits" if rule is None else str(rule.__doc__)
    cells = (name, key.kind.title, shown, variable, waits, key.doc)
    return "| " + " | ".join(cells) + " |"
