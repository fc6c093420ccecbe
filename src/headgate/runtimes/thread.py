"""The runtime of a project's handlers inside the gateway's own process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from headgate.invocation import Invocation
from headgate.outcome import Outcome
from headgate.runtimes.execute import Runnable, execute
from headgate.runtimes.gate import Finished, Gate, Lane, begin
from headgate.runtimes.pool import Pool
from headgate.runtimes.running import HandlerThread, Run
from headgate.runtimes.tasks import TaskLoop
from headgate.threads import Mailbox
from headgate.wire.codec import encode

__all__ = ["ThreadRuntime"]

POOL_SIZE = 8
"""Threads that run a project's Shared handlers at once."""

MOST_THREADS = 64
"""Threads of a project's pool at most, with those that wait for a request of their handler."""

MOST_TASKS = 1024
"""Runs of one ``async def`` handler at once."""


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
            begin=begin,
            ends=ends,
            loop=loop,
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

    @property
    def threads(self) -> list[HandlerThread]:
        """The threads that run handlers."""
        return [thread for lane in self._lanes for thread in lane.threads]

    @property
    def runs(self) -> list[Run]:
        """What runs at this moment and where; abandoned runs included."""
        return [run for lane in self._lanes for run in lane.runs]

    def queued(self) -> dict[str, int]:
        """Return how many invocations wait to begin, by handler."""
        count = Counter(gate.handler.name for lane in self._lanes for gate in lane.queued)
        for gate in self._gates:
            count[gate.handler.name] += gate.waiting
        return {handler: number for handler, number in sorted(count.items()) if number}

    @property
    def _lanes(self) -> list[Lane]:
        return [self._pool, *self._dedicated, self._tasks]

    def _add_dedicated(self, handler: str) -> Pool:
        name = f"headgate-{self._project}-{handler}"
        # Design: "one thread of its own, strictly in order".
        pool = self._make_pool(name, 1, 1, takes_turns=False)
        self._dedicated.append(pool)
        return pool

    def _make_pool(self, name: str, size: int, most: int, *, takes_turns: bool = True) -> Pool:
        return Pool(
            name,
            size=size,
            most=most,
            work=self._work,
            ends=self._ends,
            loop=self._loop,
            on_wait=self._on_wait,
            takes_turns=takes_turns,
        )

    # --- on a handler's thread -------------------------------------------------------------------

    def _work(self, invocation: Invocation, gate: Gate) -> Outcome:
        return begin(invocation) or execute(invocation, gate.handler, self._report)

    def _report(self, invocation: Invocation, value: Any) -> None:
        data = encode(value, root="progress")
        waiting, invocation.reported = invocation.reported, data
        if waiting is None and isinstance(invocation.place, Gate):
            self._ends.post((invocation, invocation.place, None))

    def _on_wait(self, invocation: Invocation) -> None:
        """Tell of a request that a handler now waits for, if it may never begin."""
        last, seen = invocation, {id(invocation)}
        while (following := last.waits_for) is not None:
            if id(following) in seen:
                # Handlers that run wait for each other.
                self._tell_wait(invocation)
                return
            seen.add(id(following))
            last = following
        place = last.place
        if isinstance(place, Gate):
            if not last.started_at and place.holders(last):
                self._tell_wait(invocation)
        elif place is not None:
            # It went to another gateway, from where it may have come back.
            self._tell_wait(invocation)
