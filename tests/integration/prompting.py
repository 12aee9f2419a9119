"""A tool that does what its prompt says: the last argument is a shell script."""

from __future__ import annotations

from coi.testing.host import Host

FAKE = """\
#!/bin/bash
mkdir -p ~/.dummy ~/.claude/projects/-workspace
printf 'CODE-%s\\n' "$#" >> ~/.dummy/said.log
eval "${!#}"
"""


def obedient(host: Host, tool: str = "dummy", more: str = "") -> Host:
    """Make the host's tool one that obeys: its state and declarations stay the tool's own."""
    host.write("ws/obey", FAKE, 0o755)
    host.config(
        f'[defaults]\nimage = "{host.image}"\n'
        f'[tool]\nname = "{tool}"\nbinary = "/workspace/obey"\n{more}'
    )
    return host
