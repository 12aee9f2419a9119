"""coi run --prompt: a tool answers without a terminal, and the session is saved."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from dummy import background, said
from prompting import obedient
from test_secrets import watched

from coi.cli.shapes import JSON_KEYS
from coi.testing.host import Host
from coi.testing.machine import COI, incus, wait_for

ANSWER = "you said: remember CODE-PLUM\n"


def test_an_answer_and_the_conversation_that_goes_on(host: Host) -> None:
    first = host.coi("run", "--prompt", "remember CODE-PLUM").ok()
    assert first.out == ANSWER
    assert "Session data saved" in first.err
    (saved,) = host.saved()
    assert "CODE-PLUM" in said(host.state_file(saved["id"]))

    second = host.coi("run", "--prompt", "codes?", "--resume", "--format", "json").ok().json
    assert second == {
        "session_id": saved["id"],
        "tool": "dummy",
        "tool_session_id": saved["id"],
        "answer": "resumed 1 turns\ncodes: CODE-PLUM\n",
        "exit_code": 0,
        "stderr": "",
        "timed_out": False,
        "truncated": False,
        "saved": True,
    }
    assert tuple(second) == JSON_KEYS["run"]["--prompt"]
    other = host.coi("run", "--prompt", "remember CODE-PEAR", "--format", "json").ok().json
    assert other["session_id"] != saved["id"]
    again = host.coi("run", "--prompt", "codes?", f"--resume={saved['id']}", "-q").ok()
    assert (again.out, again.err) == ("resumed 1 turns\ncodes: CODE-PLUM\n", "")
    host.settled()


def test_streams_and_exit_code_are_the_tools(host: Host) -> None:
    obedient(host)
    done = host.coi(
        "run", "-q", "--prompt", "printf 'a\\033[1mb'; printf 'e\\033[2mf\\n' >&2; exit 7"
    )
    assert (done.code, done.out, done.err) == (7, "a\x1b[1mb\n", "e\x1b[2mf\n")
    (saved,) = host.saved()
    assert "CODE-" in said(host.state_file(saved["id"])), "saved all the same"
    script = "echo out; echo err >&2; cat; kill -9 $$"
    killed = host.coi("run", "--format=json", "--prompt", script)
    assert killed.code == 137
    assert (killed.json["answer"], killed.json["stderr"]) == ("out\n", "err\n")
    assert killed.json["exit_code"] == 137
    screen = host.screen("run", "-q", "--prompt", script)
    screen.expect("out")
    assert screen.wait_exit() == 137
    host.settled()


def test_on_a_terminal_nothing_it_writes_is_obeyed(host: Host) -> None:
    obedient(host)
    evil = (
        r"printf '\033]0;evil\007title \033[2Jclear\n' >&2; printf '\033[2Janswer \302\2331mc1\n'"
    )
    screen = host.screen("run", "--prompt", evil)
    assert screen.wait_exit() == 0
    for raw in ("\x1b]0;", "\x1b[2J", "\x9b"):
        assert raw not in screen.log
    assert "title clear" in screen.log
    assert "answer c1" in screen.log
    host.settled()


def test_the_prompt_comes_from_standard_input_and_is_in_no_command_line(host: Host) -> None:
    obedient(host)
    text = f"# secret-prompt-4711\nsleep 5 & tr '\\0' '\\n' < /proc/$$/cmdline\n# {'x' * 100_000}"
    prompt = host.write("prompt", f"{text}\n\n")
    with prompt.open("rb") as stdin, (host.root / "out").open("wb") as stdout:
        process = subprocess.Popen(
            [str(COI), "run", "-q", "--prompt", "-"],
            cwd=host.workspace, env=host.environ, preexec_fn=host.user.become,
            stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    with watched(containers=False) as seen:  # the tool inside has it as an argument
        assert process.wait(60) == 0
    out = (host.root / "out").read_text()
    assert out.endswith(text + "\n"), "the whole of it, without the last newlines"
    assert any(b"exec" in line for line in seen), "the look is a real one"
    assert not [line for line in seen if b"secret-prompt" in line]
    host.settled()


def test_at_the_timeout_all_of_it_is_killed_and_saved(host: Host) -> None:
    obedient(host)
    script = "setsid sh -c 'echo $$ > /workspace/pid; exec sleep 600' & echo begun; sleep 601"
    done = host.coi("run", "--timeout", "2", "--format", "json", "--prompt", script)
    assert (done.code, done.json["exit_code"], done.json["timed_out"]) == (124, 124, True)
    assert done.json["answer"] == "begun\n"
    assert "ended after 2 s (--timeout)" in done.err
    assert (host.workspace / "pid").exists()
    assert done.json["session_id"] == host.saved()[0]["id"]
    host.settled()


def test_a_process_that_is_left_behind_holds_nothing_up(host: Host) -> None:
    obedient(host)
    done = host.coi("run", "--prompt", "setsid sleep 600 & echo done", timeout=60).ok()
    assert done.out == "done\n"
    host.settled()


def test_output_without_end_is_cut_off(host: Host) -> None:
    obedient(host)
    script = "yes 0123456 | head -c 70000000; echo >&2; exit 3"
    done = host.coi("run", "--prompt", script, timeout=180)
    assert done.code == 3
    assert len(done.out) == 64 << 20
    assert "larger than 64 MiB" in done.err
    host.settled()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_moment(host: Host, signum: signal.Signals) -> None:
    obedient(host)
    script = "touch /workspace/begun; sleep 600"
    for moment in ("at once", "POST /1.0", "incus exec"):
        process = host.popen("run", "-v", "--prompt", script)
        if moment != "at once":
            assert process.stderr
            mark = moment.split(" ")[-1].encode()
            while mark not in process.stderr.readline():
                assert process.poll() is None
        else:
            wait_for(lambda: host.pids(), what="coi runs")
        process.send_signal(signum)
        early = (130, -signum) if moment == "at once" else (130,)  # Python itself may end by it
        assert host.result(process).code in early, moment
        host.settled()
    (host.workspace / "begun").unlink(missing_ok=True)
    before = {row["id"] for row in host.saved()}
    process = host.popen("run", "--prompt", script)
    wait_for((host.workspace / "begun").exists, what="the tool has begun")
    process.send_signal(signum)
    done = host.result(process)
    assert done.code == 130
    assert "Session data saved" in done.err
    (new,) = (row for row in host.saved() if row["id"] not in before)
    assert "CODE-" in said(host.state_file(new["id"]))
    host.settled()


def test_the_next_coi_saves_what_kill_9_left(host: Host) -> None:
    obedient(host)
    process = host.popen("run", "--prompt", "touch /workspace/begun; trap '' TERM; sleep 600")
    wait_for((host.workspace / "begun").exists, what="the tool has begun")
    process.kill()
    process.wait()
    assert host.instances() == {host.instance(): "Running"}
    assert host.saved() == []
    listed = host.coi("list").ok()
    assert "Recovering session" in listed.err
    assert host.instance() not in listed.out
    (saved,) = host.saved()
    assert "CODE-" in said(host.state_file(saved["id"]))
    host.settled()


def test_a_power_off_inside_is_an_end_like_another(host: Host) -> None:
    obedient(host)
    script = "echo bye; until sudo poweroff 2>/dev/null; do sleep 0.1; done; sleep 600"
    done = host.coi("run", "--prompt", script)
    assert done.code != 0
    (saved,) = host.saved()
    assert "CODE-" in said(host.state_file(saved["id"]))
    host.settled()


def test_a_session_that_runs_is_not_resumed_elsewhere(host: Host) -> None:
    text = background(host)
    session_id = next(line for line in text.splitlines() if "Session ID" in line).split()[-1]
    for flag in ("--resume", f"--resume={session_id}"):
        done = host.coi("run", flag, "--prompt", "codes?")
        assert done.code == 5
        assert f"session {session_id} is still running in {host.instance()}" in done.err
        assert f"coi tmux send {host.instance()}" in done.err
    host.drop()
    obedient(host)
    at_work = host.popen("run", "--prompt", "touch /workspace/begun; sleep 600")
    wait_for((host.workspace / "begun").exists, what="the tool has begun")
    (row,) = host.listed()
    for command in (("run", "--prompt", "x"), ("shell", "--background")):
        done = host.coi(*command, f"--resume={row['session_id']}")
        assert done.code == 5
        assert "is at work on a prompt" in done.err
    assert "answers a prompt" in host.coi("persist", "--force", row["name"]).err
    assert host.coi("attach").ok().out == "No active sessions\n"
    # ended from outside, it is saved by the coi that attends to it
    host.coi("shutdown", "--force", "--timeout", "5", row["name"]).ok()
    assert host.result(at_work).code != 0
    assert [saved["id"] for saved in host.saved()] == [row["session_id"]]
    host.settled()


def test_a_tool_that_is_not_in_the_image(host: Host) -> None:
    """The image `coi` has Claude Code alone; what would make it one with the dummy is said."""
    image = incus("image", "info", "coi").ok().out
    if "dummy" in image:
        pytest.skip("the image coi has the dummy")
    for command in (("run", "--prompt", "x"), ("shell", "--background")):
        done = host.coi(*command, "--image", "coi", "--tool", "dummy")
        assert (done.code, done.out) == (3, "")
        assert "Error: dummy is not in the image coi\n" in done.err
        assert "coi build --tools claude,dummy --force" in done.err
        host.settled()
    host.config(f'[defaults]\nimage = "{host.image}"\n[tool]\nname = "dummy"\nbinary = "no-such"\n')
    done = host.coi("run", "--prompt", "x")
    assert done.code == 3
    assert f"no-such is not in the image {host.image}" in done.err
    assert "tool.binary" in done.err
    assert host.saved() == []
    host.settled()


def test_two_that_resume_one_session_at_once(host: Host) -> None:
    host.coi("run", "--prompt", "remember CODE-PLUM").ok()
    obedient(host)
    prompt = "touch /workspace/b$$; until [ -e /workspace/go ]; do sleep 0.05; done"
    both = [host.popen("run", "--resume", "--prompt", prompt) for _ in range(2)]
    wait_for(lambda: any(p.poll() is not None for p in both), what="one is refused")
    (host.workspace / "go").touch()
    os.chown(host.workspace / "go", host.user.uid, host.user.gid)
    done = [host.result(process) for process in both]
    assert sorted(result.code for result in done) == [0, 5]
    assert "is at work on a prompt" in next(result.err for result in done if result.code == 5)
    host.settled()
