"""The real Claude Code answers a prompt without a terminal, against the stub model."""

from __future__ import annotations

import re

import test_claude_code
from harness import Host
from test_claude_code import KEY

model = test_claude_code.model


def test_a_prompt_its_answer_and_the_next(host: Host, model: str) -> None:
    """Key and address are the host's variables; the ids are for a script to go on with."""
    environ = {"ANTHROPIC_BASE_URL": model, "ANTHROPIC_API_KEY": KEY}
    run = ("run", "--tool", "claude", "--format", "json", "--prompt")
    first = host.coi(*run, "remember CODE-PLUM please", environ=environ, timeout=120).ok().json
    assert "STUBREPLY n=1 codes=CODE-PLUM" in first["answer"]
    assert first["tool_session_id"] == first["session_id"], "it takes coi's id for its own"
    assert (first["exit_code"], first["saved"], first["stderr"]) == (0, True, "")
    saved = host.state_file(first["session_id"]).read_bytes()
    assert b"CODE-PLUM" in saved
    assert KEY[-20:].encode() not in saved

    resumed = host.coi(
        "run", "--tool", "claude", f"--resume={first['session_id']}", "-q",
        "--prompt", "-p which codes do you know?", environ=environ, timeout=120,
    ).ok()  # fmt: skip
    assert resumed.out.startswith("STUBREPLY n=2 codes=CODE-PLUM")
    assert resumed.err == ""

    # an answer to a terminal's session goes on without one, and back
    screen = host.screen("shell", "--resume", "--tool", "claude", environ=environ)
    screen.expect(re.escape(test_claude_code.READY))
    test_claude_code.ask(screen, "and now?", r"STUBREPLY n=3 codes=CODE-PLUM")
    test_claude_code.leave(screen)
    screen.line("sudo poweroff")
    screen.ended()
    host.settled()
    last = host.coi("--resume", *run, "and at the end?", environ=environ, timeout=120)
    assert "STUBREPLY n=4 codes=CODE-PLUM" in last.ok().json["answer"]
    host.settled()
