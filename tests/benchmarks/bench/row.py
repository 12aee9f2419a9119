"""One row: the same thing by bare Incus and by coi."""

from __future__ import annotations

from typing import Any

from bench.counting import Taken
from bench.stage import Stage
from coi.session.naming import tmux_session

PROMPT = r"^dummy> ?$"


class Row:
    """A row of the table. A round of either side ends as it began, so that the next can follow.

    Attributes:
        name: on the command line and in the table.
        what: is measured.
        floor_is: the bare operations that it is held against.
        most: rounds, where more would take too long.
    """

    name = ""
    what = ""
    floor_is = ""
    most: int | None = None
    stage: Stage

    def ready(self) -> None:
        """What all rounds need."""

    def know(self, taken: Taken) -> None:
        """What coi did in its last counted round, for the floor to do the same."""

    def floor(self) -> float:
        """Seconds of a round of the floor."""
        raise NotImplementedError

    def coi(self) -> float:
        """Seconds of a round of coi."""
        raise NotImplementedError

    def anew(self) -> None:
        """What goes before a round that is begun anew: the daemon could not enter an instance."""
        self.stage.drop()

    # -- for several of them

    def session(self) -> dict[str, Any]:
        """The body with which coi creates a session's instance."""
        return self.stage.body("shell", "--background")

    def background(self, slot: int = 1) -> str:
        """A session of coi's that runs on, not measured; its instance."""
        self.stage.host.coi("shell", "--background", "--slot", str(slot)).ok()
        return self.stage.host.instance(slot)

    def bare_session(self, name: str) -> str:
        """The same by hand: an instance with the tool in tmux; its name."""
        full = self.stage.create(self.session(), name)
        self.stage.incus(*self.detached(full))
        return full

    def detached(self, name: str) -> list[str]:
        """Arguments of ``incus``: start the tool in tmux inside, and return."""
        words = self.stage.enter(name, "tmux", "new-session", "-d", "-s", "floor", *TOOL)
        return ["-T" if word == "-t" else word for word in words[1 : -len(TOOL)]] + list(TOOL)

    def attach(self, name: str) -> list[str]:
        """Argv: a terminal at the tmux of coi's session in an instance."""
        directory = "TMUX_TMPDIR=" + ("/root" if not self.stage.host.user.uid else "/home/code")
        return self.stage.enter(
            name, "env", f"{directory}/.coi", "tmux", "attach", "-t", tmux_session(name)
        )


TOOL = ("dummy-tool", "--session-id", "floor")
