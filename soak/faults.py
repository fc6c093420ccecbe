"""
Faults that are planted on purpose, to see that the soak finds them: ``--plant NAME``.

Each breaks a promise of Headgate by replacing one of its functions in this process. They reach
into what is inside, as a bug would.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

__all__ = ["FAULTS", "NEED_LOSSES", "VARIABLE", "plant"]

VARIABLE = "HEADGATE_SOAK_PLANT"
"""The environment variable that names the fault for the gateway's process."""


def _leaked_session() -> None:
    """The gateway keeps something of every session that ended, where no table shows it."""
    from headgate.gateway.sessions import Sessions

    kept: list[object] = []
    remove = Sessions.remove

    def leaky(self: Sessions, session: Any) -> None:
        kept.append(session)
        remove(self, session)

    Sessions.remove = leaky  # type: ignore[method-assign]


def _leaked_entry() -> None:
    """The gateway keeps one number of every session that ended."""
    from headgate.gateway.sessions import Sessions

    kept: dict[int, None] = {}
    remove = Sessions.remove

    def leaky(self: Sessions, session: Any) -> None:
        kept[len(kept) + 10**6] = None
        remove(self, session)

    Sessions.remove = leaky  # type: ignore[method-assign]


def _ends_twice() -> None:
    """A cancelled request ends once more when its answer comes."""
    from headgate.request import Request

    def twice(self: Request, outcome: Any) -> None:
        self._outcome = outcome
        self._requester.invoke(self._fire)

    Request.note_late = twice  # type: ignore[method-assign]


def _lost_answer() -> None:
    """The gateway forgets one answer in a thousand."""
    from headgate.wire.session import Session

    result, number_of = Session.result, count(1)

    def forgetful(self: Session, number: int, payload: bytes) -> None:
        if next(number_of) % 1000:
            result(self, number, payload)

    Session.result = forgetful  # type: ignore[method-assign]


def _untruthful() -> None:
    """Requests that are lost with their connection say that they did not start."""
    from headgate.wire.session import Session

    Session.was_handed_over = lambda self, number: False  # type: ignore[method-assign]


def _runs_twice() -> None:
    """The gateway runs one request in a thousand twice."""
    from headgate.runtimes import execute, project

    once, number_of = execute.execute, count(1)

    def twice(*args: Any) -> Any:
        if next(number_of) % 1000 == 0:
            once(*args)
        return once(*args)

    setattr(project, "execute", twice)  # noqa: B010


FAULTS: dict[str, Callable[[], None]] = {
    "leaked-session": _leaked_session,
    "leaked-entry": _leaked_entry,
    "ends-twice": _ends_twice,
    "lost-answer": _lost_answer,
    "untruthful": _untruthful,
    "runs-twice": _runs_twice,
}


NEED_LOSSES = frozenset({"untruthful"})
"""Those that show only where a connection is lost before the caller knows that a handler began."""


def plant(name: str) -> None:
    """Plant the fault of this name; none if it is empty."""
    if name:
        FAULTS[name]()
