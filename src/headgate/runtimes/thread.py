"""The runtime of a project's handlers inside the gateway's own process."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any

from headgate.errors import Overloaded, RequestTimeout
from headgate.invocation import Fate, Invocation
from headgate.outcome import Failure, Outcome
from headgate.runtimes.execute import Runnable, execute
from headgate.runtimes.pool import Pool
from headgate.runtimes.tasks import TaskLoop
from headgate.threads import Mailbox
from headgate.wire.codec import encode

__all__ = ["Finished", "Gate", "ThreadRuntime"]

POOL_SIZE = 8
"""Threads that run a project's Shared handlers at once."""

MOST_THREADS = 64
"""Threads of a project's pool at most, with those that wait for a request of their handler."""

MOST_TASKS = 1024
"""Runs of one ``async def`` handler at once."""

MOST_ABANDONED = 8
"""Abandoned threads of a project at which its thread handlers take nothing new."""


class Gate:
    """
    The endpoint that is a handler of this gateway; it belongs to the event loop.

    It counts how many invocations of the handler are under way, and lets no more of them run at
    once than the handler's settings say.
    """

    __slots__ = (
        "_active",
        "_concurrency",
        "_hung",
        "_limit",
        "_waiting",
        "handler",
        "lane",
        "timeout",
        "under_way",
    )

    def __init__(
        self,
        handler: Runnable,
        lane: Pool | TaskLoop,
        *,
        concurrency: int | None,
        places: int,
        hung: set[Invocation],
    ) -> None:
        self.handler = handler
        """The handler."""
        self.lane = lane
        """Where it runs."""
        self.timeout = handler.settings.timeout
        """The handler's own cap on the deadline, in seconds; None for none."""
        self.under_way = 0
        """Runs that were taken and are not finished."""
        self._limit = handler.settings.queue + places
        self._concurrency = concurrency
        self._active: set[Invocation] = set()
        self._waiting: OrderedDict[Invocation, None] = OrderedDict()
        self._hung = hung

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
            self._waiting[invocation] = None

    def finished(self, invocation: Invocation) -> None:
        """Take note that a run is over, and let the next one in."""
        self.under_way -= 1
        if self._hung and invocation in self._hung:
            self._hung.discard(invocation)
            if isinstance(self.lane, Pool):
                self.lane.take_back()
        if self._concurrency is not None:
            self._active.discard(invocation)
            if self._waiting:
                following, _ = self._waiting.popitem(last=False)
                self._active.add(following)
                self.lane.put(following, self)

    def withdraw(self, invocation: Invocation) -> str:
        """Take an invocation back if it has not begun; else stop it as far as that goes."""
        if invocation in self._waiting:
            del self._waiting[invocation]
            self.under_way -= 1
            return Fate.NOT_STARTED
        if self.lane.remove(invocation):
            self.finished(invocation)
            return Fate.NOT_STARTED
        if isinstance(self.lane, TaskLoop):
            self.lane.interrupt(invocation)
        else:
            # The thread cannot be stopped. It counts as hung until it returns, and lends its place.
            self._hung.add(invocation)
            self.lane.lend()
        return Fate.STILL_RUNNING

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return who holds the places that an invocation waits for; empty if one is free."""
        if invocation in self._waiting:
            return list(self._active)
        if isinstance(self.lane, Pool) and self.lane.is_stuck:
            return self.lane.running
        return []

    @property
    def waiting(self) -> int:
        """How many invocations wait for the handler's own concurrency."""
        return len(self._waiting)

    def _refuse_if_full(self, invocation: Invocation) -> None:
        if self.under_way >= self._limit:
            raise Overloaded(
                f"{self.under_way} calls of {invocation.target} are under way, which is its "
                "limit: raise its `queue`, or send fewer",
                started=False,
            )
        if len(self._hung) >= MOST_ABANDONED and isinstance(self.lane, Pool):
            raise Overloaded(
                f"{len(self._hung)} threads of {invocation.project} hang in handlers whose "
                "requests are over: they must return before the project takes new requests",
                started=False,
            )


Finished = tuple[Invocation, Gate, Outcome | None]
"""What comes back to the event loop: the end of a run, or with None a progress value."""


class ThreadRuntime:
    """
    Runs the handlers of one project: Shared ones in a pool of threads, Dedicated ones each on a
    thread of its own, ``async def`` ones as tasks on an event loop.

    Args:
        project: Name of the project, for the threads' names.
        ends: Brings ends and progress to the gateway's event loop.
        loop: The gateway's event loop.
        on_wait: Told, on a handler's thread, which request it now waits for, if others may
            depend on that.
    """

    def __init__(
        self,
        project: str,
        *,
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        on_wait: Callable[[Invocation], None],
    ) -> None:
        self._project = project
        self._ends = ends
        self._loop = loop
        self._tell_wait = on_wait
        self._gates: list[Gate] = []
        self._hung: set[Invocation] = set()
        self._pool = self._make_pool(f"headgate-{project}", POOL_SIZE, MOST_THREADS)
        self._tasks = TaskLoop(
            f"headgate-{project}-async",
            begin=_begin,
            done=self._done,
            report=self._report,
            on_wait=self._on_wait,
        )
        self._dedicated: list[Pool] = []

    def endpoint(self, handler: Runnable) -> Gate:
        """Return the endpoint of a handler of this project."""
        settings = handler.settings
        concurrency = settings.concurrency
        lane: Pool | TaskLoop
        if handler.is_async:
            lane, concurrency = self._tasks, concurrency or MOST_TASKS
            places = concurrency
        elif settings.threading == "Dedicated":
            # One thread is the limit already, and its queue keeps the order.
            lane, concurrency, places = self._add_dedicated(handler.name), None, 1
        else:
            lane, places = self._pool, concurrency or POOL_SIZE
        gate = Gate(handler, lane, concurrency=concurrency, places=places, hung=self._hung)
        self._gates.append(gate)
        return gate

    def close(self) -> None:
        """Stop taking invocations; threads end when their handlers return."""
        for pool in (self._pool, *self._dedicated):
            pool.close()
        self._tasks.close()

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables."""
        pools = [self._pool, *self._dedicated]
        lanes = [self._tasks.stats(), *(pool.stats() for pool in pools)]
        gated = sum(gate.waiting for gate in self._gates)
        return {
            "queued": sum(lane["queued"] for lane in lanes) + gated,
            "running": sum(lane["running"] for lane in lanes),
            "under_way": sum(gate.under_way for gate in self._gates),
            "abandoned": len(self._hung),
        }

    def _add_dedicated(self, handler: str) -> Pool:
        pool = self._make_pool(f"headgate-{self._project}-{handler}", 1, 1)
        self._dedicated.append(pool)
        return pool

    def _make_pool(self, name: str, size: int, most: int) -> Pool:
        return Pool(
            name,
            size=size,
            most=most,
            work=self._work,
            ends=self._ends,
            loop=self._loop,
            on_wait=self._on_wait,
        )

    # --- on a handler's thread -------------------------------------------------------------------

    def _work(self, invocation: Invocation, gate: Gate) -> Outcome:
        return _begin(invocation) or execute(invocation, gate.handler, self._report)

    def _done(self, invocation: Invocation, gate: Gate, outcome: Outcome) -> None:
        self._ends.post((invocation, gate, outcome))

    def _report(self, invocation: Invocation, value: Any) -> None:
        data = encode(value, root="progress")
        waiting, invocation.reported = invocation.reported, data
        if waiting is None and isinstance(invocation.place, Gate):
            self._ends.post((invocation, invocation.place, None))

    def _on_wait(self, invocation: Invocation) -> None:
        """Tell of a request that a handler now waits for, if it may never begin."""
        last = invocation
        while last.waits_for is not None:
            last = last.waits_for
        place = last.place
        if isinstance(place, Gate):
            if not last.started_at and place.holders(last):
                self._tell_wait(invocation)
        elif place is not None:
            # It went to another gateway, from where it may have come back.
            self._tell_wait(invocation)


def _begin(invocation: Invocation) -> Outcome | None:
    """Mark an invocation as begun, or return the outcome of one that comes too late."""
    now = monotonic()
    if now >= invocation.deadline:
        # A handler never starts after its deadline.
        text = f"The deadline of {invocation.target} passed before it could begin"
        return Failure(RequestTimeout(text, started=False))
    invocation.started_at = now
    return None
