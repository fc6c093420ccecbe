"""Runs that take longer than they should are named in the log, once each."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from time import monotonic

from headgate.invocation import Invocation
from headgate.runtimes.gate import Gate
from headgate.runtimes.running import Run

__all__ = ["SlowRuns"]

logger = logging.getLogger("headgate.watchdog")

LOOK_SECONDS = 0.25
"""Seconds between two looks at what runs."""

MOST_NAMED = 8
"""Runs that one look names with their stacks; of more, the handlers and how many there are."""

STACK_LINES = 12
"""Lines of the stack that are logged, the innermost ones."""


class SlowRuns:
    """
    Names each run in the log, once, that goes on for longer than its handler's ``warn_after``.

    It looks four times a second at what runs, whatever it runs in, and rests while nothing does.
    A request pays nothing. It belongs to the gateway's event loop.

    Args:
        runs: Gives what runs; abandoned runs included.
        later: Runs a function on the event loop after a number of seconds.
    """

    def __init__(
        self,
        runs: Callable[[], Iterable[Run]],
        *,
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.warn_after: float | None = None
        """Seconds for the handlers that say nothing themselves; None for never."""
        self._runs = runs
        self._later = later
        self._named: set[Invocation] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._looking = False
        self._woken = False

    def wake(self) -> None:
        """See that it looks, since something may run."""
        self._woken = True
        if not self._looking:
            self._looking = True
            self._later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = False
        runs = list(self._runs())
        if runs or self._woken:
            self._looking, self._woken = True, False
            self._later(LOOK_SECONDS, self._look)
        now = monotonic()
        slow = {run.invocation: run for run in runs if self._is_slow(run.invocation, now)}
        new = [run for invocation, run in slow.items() if invocation not in self._named]
        self._named = set(slow)
        for run in new[:MOST_NAMED]:
            task = asyncio.ensure_future(self._name(run, now))
            # The event loop itself does not hold on to its tasks.
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        for target, count in Counter(run.invocation.target for run in new[MOST_NAMED:]).items():
            logger.warning("So have %d more runs of %s. See: headgate ps", count, target)

    def _is_slow(self, invocation: Invocation, now: float) -> bool:
        seconds = self._limit(invocation)
        return seconds is not None and now - invocation.started_at > seconds

    def _limit(self, invocation: Invocation) -> float | None:
        gate = invocation.place
        own = gate.handler.settings.warn_after if isinstance(gate, Gate) else None
        return self.warn_after if own is None else own

    async def _name(self, run: Run, now: float) -> None:
        invocation, place, state = run.invocation, run.place, run.state
        nested = invocation.waits_for
        stack = await run.stack()
        logger.warning(
            "The handler %s has run for %.3g s, and its warn_after is %.3g s. "
            "(Request %s of %s, %s, %s%s.)\n%s",
            invocation.target,
            now - invocation.started_at,
            self._limit(invocation) or 0.0,
            invocation.request_id,
            invocation.caller.user,
            place,
            state,
            f" for {nested.target}" if nested is not None else "",
            "\n".join(stack[-STACK_LINES:]),
        )
