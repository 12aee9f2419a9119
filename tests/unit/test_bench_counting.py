"""What is counted of a command of coi: its calls, its own processor time, its own memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from bench.counting import Counter, Taken

from coi.testing.host import Host
from coi.testing.machine import User

CALLS = """
    import subprocess
    for words in (["list"], ["query", "-X", "POST", "-d", '{"a":1}', "/1.0/x?project=p"]):
        subprocess.run(["incus", *words], check=True, stdout=subprocess.DEVNULL)
"""
BUSY = "sum(i * i for i in range(3_000_000))"


@pytest.fixture
def counter() -> Iterator[Counter]:
    host = Host.make(User.current(), "none")
    yield Counter(host, real="/bin/echo")
    host.close()


def run(counter: Counter, script: str) -> tuple[Taken, str]:
    """What a program took, and its output."""
    counter.begin()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=dict(counter.environ), check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return counter.taken(), done.stdout


def test_calls_in_their_order_with_their_arguments(counter: Counter) -> None:
    taken, _ = run(counter, CALLS)
    assert [call[0] for call in taken.calls] == ["list", "query"]
    assert taken.counts.calls == 2
    assert taken.bodies("/1.0/x") == [{"a": 1}]
    assert taken.bodies("/1.0/y") == []
    again, _ = run(counter, "pass")
    assert again.counts.calls == 0, "what was before is forgotten"


def test_the_real_client_answers(counter: Counter) -> None:
    _, out = run(counter, "import os; os.system(\"incus hello 'a b'\")")
    assert out == "hello a b\n"


def test_time_of_children_that_are_other_programs_is_not_its_own(counter: Counter) -> None:
    program = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {BUSY!r}])"
    )
    others, _ = run(counter, program)
    own, _ = run(counter, BUSY)
    forked, _ = run(
        counter, f"import os\nif os.fork():\n    os.wait()\nelse:\n    {BUSY}\n    os._exit(0)\n"
    )
    assert own.counts.cpu > 3 * others.counts.cpu
    assert forked.counts.cpu > 3 * others.counts.cpu, "a worker of coi's is coi"


def test_the_peak_is_the_most_that_one_process_held(counter: Counter) -> None:
    small, _ = run(counter, "pass")
    large, _ = run(counter, "data = b'x' * (64 << 20); del data")
    assert 60 << 10 < large.counts.peak - small.counts.peak < 80 << 10


def test_what_becomes_another_program_is_noted_before(counter: Counter) -> None:
    taken, out = run(counter, f"import os\n{BUSY}\nos.execvp('incus', ['incus', 'exec'])")
    assert out == "exec\n"
    assert taken.counts.calls == 1
    assert taken.counts.cpu > 0.02


def test_modules_are_those_that_it_imported(counter: Counter) -> None:
    taken, _ = run(counter, "import colorsys")
    assert "colorsys" in taken.modules
    assert not {"json", "os", "sys"} & set(taken.modules)


def test_one_that_runs_is_looked_at_between_two_marks(counter: Counter) -> None:
    script = f"input()\n{BUSY}\nimport os; os.system('incus now'); print('done')\ninput()"
    program = "import os; os.system('incus before'); print('up', flush=True)\n" + script.replace(
        "print('done')", "print('done', flush=True)"
    )
    counter.begin()
    with subprocess.Popen(
        [sys.executable, "-c", program], env=dict(counter.environ), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        assert [process.stdout.readline() for _ in range(2)] == ["before\n", "up\n"]
        counter.begin(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(2)] == ["now\n", "done\n"]
        counter.stop(process.pid)
        process.stdin.write("\n")
    taken = counter.taken()
    assert taken.calls == [["now"]]
    assert 0.02 < taken.counts.cpu < 10
    assert taken.counts.peak > 1024
