"""The gate of a handler: how many of its runs are under way, and which may begin."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from headgate.errors import Overloaded, RequestTimeout
from headgate.invocation import Fate, Invocation
from headgate.outcome import Failure, Outcome
from headgate.runtimes.emitter import Emitter
from headgate.runtimes.execute import Runnable
from headgate.runtimes.fair import FairQueue
from headgate.runtimes.pace import Pace
from headgate.runtimes.running import HandlerThread, Run

__all__ = ["Finished", "Gate", "Lane", "begin"]

MOST_ABANDONED = 8
"""Abandoned threads of a project at which its thread handlers take nothing new."""


class Lane(Protocol):
    """Where the runs of handlers queue and run: a pool of threads, or a loop of tasks."""

    has_threads: bool
    """Whether a run holds a thread, which cannot be stopped."""

    has_backlog: bool
    """Whether anything waits for room in the queue itself."""

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return who holds the places that an invocation waits for; empty if one is free."""

    @property
    def running(self) -> list[Invocation]:
        """What runs at this moment, waiting handlers included."""

    @property
    def threads(self) -> Sequence[HandlerThread]:
        """The threads that run handlers."""

    @property
    def runs(self) -> list[Run]:
        """What runs at this moment and where."""

    @property
    def queued(self) -> list[Gate]:
        """The gates of what waits in the lane, one for each invocation."""

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Queue an invocation."""

    def refill(self) -> None:
        """Move what there is room for from the backlog to the queue."""

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation back; False if it has begun."""

    def interrupt(self, invocation: Invocation) -> bool:
        """Stop what runs an invocation; False if that cannot be done."""

    def lend(self) -> None:
        """Let another run begin in place of one that is given up."""

    def take_back(self) -> None:
        """End a `lend`."""


class Gate:
    """
    The endpoint that is a handler of this gateway; it belongs to the event loop.

    It counts how many invocations of the handler are under way, and lets no more of them run at
    once than the handler's settings say.
    """

    __slots__ = (
        "_active",
        "_concurrency",
        "_countdown",
        "_hung",
        "_limit",
        "_pace",
        "_waiting",
        "handler",
        "lane",
        "narrows",
        "timeout",
        "under_way",
    )

    def __init__(
        self,
        handler: Runnable,
        lane: Lane,
        *,
        concurrency: int | None,
        places: int,
        hung: set[Invocation],
    ) -> None:
        self.lane = lane
        """Where it runs."""
        self.under_way = 0
        """Runs that were taken and are not finished."""
        self._take_settings(handler, concurrency, places)
        self._active: set[Invocation] = set()
        self._waiting = FairQueue()
        self._hung = hung
        self._pace = Pace()
        self._countdown = 1

    def _take_settings(self, handler: Runnable, concurrency: int | None, places: int) -> None:
        settings = handler.settings
        self.handler = handler
        """The handler."""
        self.timeout = settings.timeout
        """The handler's own cap on the deadline, in seconds; None for none."""
        self.narrows = bool(settings.roles or settings.zones)
        """Whether the handler's own settings say who may call it."""
        self._limit = settings.queue + places
        self._concurrency = concurrency

    def __call__(self, invocation: Invocation) -> None:
        """Run the handler as soon as there is a place; raises Overloaded if too many wait."""
        if self.under_way >= self._limit or self._hung:
            self._refuse_if_full(invocation)
        self.under_way += 1
        invocation.place = self
        if self._concurrency is None:
            self.lane.put(invocation, self)
        elif len(self._active) < self._concurrency:
            self._active.add(invocation)
            self.lane.put(invocation, self)
        else:
            self._waiting.put(invocation, self)

    def finished(self, invocation: Invocation) -> None:
        """Take note that a run is over, and let the next one in."""
        self.under_way -= 1
        self._countdown -= 1
        if not self._countdown:
            self._look_at(invocation)
        if self.lane.has_backlog:
            self.lane.refill()
        if self._hung and invocation in self._hung:
            self._hung.discard(invocation)
            self.lane.take_back()
        if self._concurrency is not None:
            self._active.discard(invocation)
            if self._waiting:
                self._admit(self._concurrency)

    def take(self, invocation: Invocation) -> bool:
        """Take an invocation back; False if it has begun."""
        if self._waiting.remove(invocation):
            self.under_way -= 1
            return True
        if self.lane.remove(invocation):
            self.finished(invocation)
            return True
        return False

    def withdraw(self, invocation: Invocation) -> str:
        """Take an invocation back if it has not begun; else stop it as far as that goes."""
        if self.take(invocation):
            return Fate.NOT_STARTED
        if not self.lane.interrupt(invocation):
            # The thread cannot be stopped. It counts as hung until it returns, and lends its place.
            self._hung.add(invocation)
            self.lane.lend()
        # What was taken a moment ago and has not begun may yet find that it is too late for that.
        return Fate.STILL_RUNNING if invocation.started_at else Fate.UNKNOWN

    def renew(self, handler: Runnable, *, concurrency: int | None, places: int) -> None:
        """
        Run a newer handler from now on: what runs goes on as it is, what waits runs the new one.

        Only for a handler that has a limit on its concurrency where the one before it has one.
        """
        self._take_settings(handler, concurrency, places)
        if concurrency is not None:
            self._admit(concurrency)

    def close(self) -> None:
        """Let nothing begin any more that waits for the handler's own concurrency."""
        if self._concurrency is not None:
            self._concurrency = 0

    def adopt(self, invocation: Invocation) -> None:
        """Run what another gate had taken and has given up, however many wait already."""
        self.under_way += 1
        invocation.place = self
        self._let_in(invocation)

    def _let_in(self, invocation: Invocation) -> None:
        """Let one go on as soon as there is a place."""
        if self._concurrency is None:
            self.lane.put(invocation, self)
        else:
            self._waiting.put(invocation, self)
            self._admit(self._concurrency)

    def _admit(self, concurrency: int) -> None:
        """Let those who wait go on, as far as there are places."""
        while self._waiting and len(self._active) < concurrency:
            following, _ = self._waiting.pop()
            self._active.add(following)
            self.lane.put(following, self)

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return who holds the places that an invocation waits for; empty if one is free."""
        if invocation in self._waiting:
            return list(self._active)
        return self.lane.holders(invocation)

    @property
    def waiting(self) -> int:
        """How many invocations wait for the handler's own concurrency."""
        return len(self._waiting)

    def _refuse_if_full(self, invocation: Invocation) -> None:
        if self.under_way >= self._limit:
            # The next end is looked at: what takes so long that too many wait was quick before.
            self._countdown = 1
            raise Overloaded(
                f"{self.under_way} calls of {invocation.target} are under way, which is its "
                "limit: raise its `queue`, or send fewer",
                retry_after=self._pace.retry_after(
                    monotonic(), limit=self._limit, running=self._count_running
                ),
                started=False,
            )
        if len(self._hung) < MOST_ABANDONED or not self.lane.has_threads:
            return
        hanging = self._hanging()
        if len(hanging) >= MOST_ABANDONED:
            handlers = ", ".join(sorted({hung.handler for hung in hanging}))
            raise Overloaded(
                f"{len(hanging)} threads of {invocation.project} hang in handlers whose "
                f"requests are over ({handlers}): they must return, or the gateway be restarted, "
                "before the project takes new requests",
                started=False,
            )

    def _look_at(self, invocation: Invocation) -> None:
        """Take note of how long a run took, if it was one."""
        began = invocation.started_at
        self._countdown = self._pace.note(monotonic() - began) if began else 1

    def _count_running(self) -> int:
        return sum(1 for running in self.lane.running if running.place is self)

    def _hanging(self) -> set[Invocation]:
        """Return what hangs on a thread; of the others the end has not come here yet."""
        lanes = {hung.place.lane for hung in self._hung if isinstance(hung.place, Gate)}
        running = {running for lane in lanes for running in lane.running}
        return {hung for hung in self._hung & running if not _is_ending(hung)}


Finished = tuple[Invocation, Gate, Outcome | None]
"""What comes back to the event loop: the end of a run, or with None progress or yielded values."""


def _is_ending(invocation: Invocation) -> bool:
    """Whether it is a generator that was closed just now."""
    return isinstance(invocation.flow, Emitter) and invocation.flow.is_ending


def begin(invocation: Invocation) -> Outcome | None:
    """Mark an invocation as begun, or return the outcome of one that comes too late."""
    now = monotonic()
    if now >= invocation.deadline:
        # A handler never starts after its deadline.
        text = f"The deadline of {invocation.target} passed before it could begin"
        return Failure(RequestTimeout(text, started=False))
    invocation.started_at = now
    return None
