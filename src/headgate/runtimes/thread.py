"""The runtime of a project's handlers inside the gateway's own process."""

from __future__ import annotations

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
from headgate.wire.codec import encode

__all__ = ["Finished", "ThreadRuntime"]

POOL_SIZE = 8
"""Threads that run a project's Shared handlers at once."""

MOST_THREADS = 64
"""Threads of a project's pool at most, with those that wait for a request of their handler."""

MOST_TASKS = 1024
"""Runs of ``async def`` handlers of a project at once."""

MOST_ABANDONED = 8
"""Abandoned threads of a project at which its thread handlers take nothing new."""

Finished = tuple[Invocation, Runnable, Outcome | None]
"""What comes back to the event loop: the end of a run, or with None a progress value."""


class _Gate:
    """How many invocations of one handler are under way; belongs to the event loop."""

    __slots__ = ("active", "concurrency", "lane", "limit", "under_way", "waiting")

    def __init__(self, handler: Runnable, lane: Pool | TaskLoop, size: int) -> None:
        settings = handler.settings
        self.lane = lane
        self.concurrency = settings.concurrency
        """Runs that may be in the lane at once; None for as many as the lane takes."""
        self.limit = settings.queue + (settings.concurrency or size)
        self.under_way = 0
        """Runs that were taken and are not finished."""
        self.active: set[Invocation] = set()
        """Runs in the lane, where there is a concurrency limit."""
        self.waiting: OrderedDict[Invocation, Runnable] = OrderedDict()


class ThreadRuntime:
    """
    Runs the handlers of one project: Shared ones in a pool of threads, Dedicated ones each on a
    thread of its own, ``async def`` ones as tasks on an event loop.

    Args:
        project: Name of the project, for the threads' names.
        post: Brings ends and progress to the gateway's event loop; callable from any thread.
        on_wait: Told, on a handler's thread, that it now waits and others may depend on it.
    """

    def __init__(
        self,
        project: str,
        *,
        post: Callable[[Finished], Any],
        on_wait: Callable[[], None],
    ) -> None:
        self._project = project
        self._post = post
        self._tell_wait = on_wait
        self._gates: dict[Runnable, _Gate] = {}
        self._gated = 0
        self._abandoned: set[Invocation] = set()
        self._pool = self._make_pool(f"headgate-{project}", POOL_SIZE, MOST_THREADS)
        self._tasks = TaskLoop(
            f"headgate-{project}-async", begin=_begin, done=self._end, report=self._report
        )
        self._dedicated: list[Pool] = []

    # --- on the event loop -----------------------------------------------------------------------

    def run(self, invocation: Invocation, handler: Runnable) -> None:
        """
        Queue an invocation of a handler.

        Raises:
            Overloaded: The handler's queue is full, or too many of its project's threads hang.
        """
        gate = self._gates.get(handler)
        if gate is None:
            gate = self._gates[handler] = self._make_gate(handler)
        if gate.under_way >= gate.limit:
            raise Overloaded(
                f"{gate.under_way} calls of {invocation.target} are under way, which is its "
                "limit: raise its `queue`, or send fewer",
                started=False,
            )
        if len(self._abandoned) >= MOST_ABANDONED and not handler.is_async:
            raise Overloaded(
                f"{len(self._abandoned)} threads of {self._project} hang in handlers whose "
                "requests are over: they must return before the project takes new requests",
                started=False,
            )
        gate.under_way += 1
        invocation.place = self
        if type(gate.lane) is Pool:
            invocation.slot = gate.lane
        invocation.runnable = handler
        if gate.concurrency is None:
            gate.lane.put(invocation, handler)
        elif len(gate.active) < gate.concurrency:
            gate.active.add(invocation)
            gate.lane.put(invocation, handler)
        else:
            gate.waiting[invocation] = handler
            self._gated += 1

    def finished(self, invocation: Invocation, handler: Runnable) -> None:
        """Take note that a run is over, and let the next one in."""
        gate = self._gates[handler]
        gate.under_way -= 1
        if invocation in self._abandoned:
            self._abandoned.discard(invocation)
            if isinstance(gate.lane, Pool):
                gate.lane.take_back()
        if gate.concurrency is not None:
            gate.active.discard(invocation)
            if gate.waiting:
                self._gated -= 1
                following, runnable = gate.waiting.popitem(last=False)
                gate.active.add(following)
                gate.lane.put(following, runnable)

    def withdraw(self, invocation: Invocation) -> str:
        """Take an invocation back if it has not begun; else stop it as far as that goes."""
        handler = invocation.runnable
        gate = self._gates[handler]
        if gate.waiting.pop(invocation, None) is not None:
            self._gated -= 1
            gate.under_way -= 1
            return Fate.NOT_STARTED
        if gate.lane.remove(invocation):
            self.finished(invocation, handler)
            return Fate.NOT_STARTED
        if isinstance(gate.lane, TaskLoop):
            gate.lane.interrupt(invocation)
        else:
            self._abandoned.add(invocation)
            gate.lane.lend()
        return Fate.STILL_RUNNING

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return who holds the places that an invocation waits for; empty if one is free."""
        gate = self._gates[invocation.runnable]
        if invocation in gate.waiting:
            return list(gate.active)
        if isinstance(gate.lane, Pool) and gate.lane.is_stuck:
            return gate.lane.running
        return []

    def close(self) -> None:
        """Stop taking invocations; threads end when their handlers return."""
        for pool in (self._pool, *self._dedicated):
            pool.close()
        self._tasks.close()

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables."""
        lanes = (self._pool, self._tasks, *self._dedicated)
        return {
            "queued": sum(lane.stats()["queued"] for lane in lanes) + self._gated,
            "running": sum(lane.stats()["running"] for lane in lanes),
            "under_way": sum(gate.under_way for gate in self._gates.values()),
            "abandoned": len(self._abandoned),
        }

    def _make_gate(self, handler: Runnable) -> _Gate:
        if handler.is_async:
            gate = _Gate(handler, self._tasks, MOST_TASKS)
            if gate.concurrency is None:
                gate.concurrency = MOST_TASKS
            return gate
        if handler.settings.threading == "Dedicated":
            pool = self._make_pool(f"headgate-{self._project}-{handler.name}", 1, 1)
            self._dedicated.append(pool)
            gate = _Gate(handler, pool, 1)
            # One thread is the limit already, and its queue keeps the order.
            gate.concurrency = None
            return gate
        return _Gate(handler, self._pool, POOL_SIZE)

    def _make_pool(self, name: str, size: int, most: int) -> Pool:
        return Pool(name, size=size, most=most, work=self._work, on_wait=self._on_wait)

    # --- on a handler's thread -------------------------------------------------------------------

    def _work(self, invocation: Invocation, handler: Runnable) -> None:
        outcome = _begin(invocation) or execute(invocation, handler, self._report)
        self._post((invocation, handler, outcome))

    def _end(self, invocation: Invocation, handler: Runnable, outcome: Outcome) -> None:
        self._post((invocation, handler, outcome))

    def _report(self, invocation: Invocation, value: Any) -> None:
        data = encode(value, root="progress")
        waiting, invocation.reported = invocation.reported, data
        if waiting is None:
            self._post((invocation, invocation.runnable, None))

    def _on_wait(self) -> None:
        if self._gated or self._pool.is_stuck or any(pool.is_stuck for pool in self._dedicated):
            self._tell_wait()


def _too_late(invocation: Invocation) -> Outcome:
    text = f"The deadline of {invocation.target} passed before it could begin"
    return Failure(RequestTimeout(text, started=False))


def _begin(invocation: Invocation) -> Outcome | None:
    """Mark an invocation as begun, or return why it must not begin."""
    now = monotonic()
    if now >= invocation.deadline:
        return _too_late(invocation)
    invocation.started_at = now
    return None
