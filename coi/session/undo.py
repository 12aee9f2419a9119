"""What a start that fails leaves behind: nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from coi.errors import CoiError
from coi.incus.shield import shielded
from coi.session import guard

if TYPE_CHECKING:
    from coi.session.model import Engine, Session


class Undo:
    """What a start that fails has to undo, known before it is done: a signal may come
    between any two lines."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session: Session | None = None

    def owe(self, session: Session) -> None:
        """The session's instance is about to be created, or started."""
        self._session = session
        session.starts()

    def nothing(self) -> None:
        """The session has begun, or another has its instance."""
        self._session = None

    def __call__(self, *, unmade: bool = False) -> None:
        """The instance goes if this start made it, else it is stopped again.

        Args:
            unmade: it is known that there is none.
        """
        with shielded():
            session, self._session = self._session, None
            if session is None:
                return
            with suppress(CoiError):
                if unmade:
                    pass
                elif session.created:
                    row = self._engine.instances.find(session.instance)
                    if row is not None and row.coi("session-id") == session.id:
                        self._engine.instances.remove(session.instance)
                else:
                    self._engine.instances.set_state(session.instance, "stop", force=True)
                guard.settle(self._engine, session.id, session.instance)
            session.lock.release(remove=session.created)
