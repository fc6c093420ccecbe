"""The runtime of a project: each of its handlers has a gate, and a lane in which it runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

from headgate.handler import PoolSettings
from headgate.invocation import Invocation
from headgate.outcome import Outcome
from headgate.runtimes.emitter import Emitter
from headgate.runtimes.execute import Runnable, execute
from headgate.runtimes.forkserver import ForkServer, WorkerProcess
from headgate.runtimes.gate import Finished, Gate, Lane, begin
from headgate.runtimes.handover import Handover
from headgate.runtimes.hearing import Host
from headgate.runtimes.link import WorkerCode
from headgate.runtimes.order import ALL, OrderedGate
from headgate.runtimes.pool import Pool
from headgate.runtimes.process import ProcessLane
from headgate.runtimes.running import HandlerThread, Run, WorkerRow
from headgate.runtimes.tasks import TaskLoop
from headgate.threads import Mailbox
from headgate.wire.codec import encode

__all__ = ["ProjectRuntime"]

MOST_TASKS = 1024
"""Runs of one ``async def`` handler at once."""


class Limits(TypedDict):
    """What a gate lets in."""

    concurrency: int | None
    places: int


class Way(NamedTuple):
    """How a handler runs; where it stays the same, a newer handler takes the older one's place."""

    lane: str
    """``process``, ``process in order``, ``async``, ``Shared`` or ``Dedicated``."""
    limited: bool
    """Whether its gate limits how many of its runs are under way."""
    order: str | None
    """The key by which its gate keeps its calls in order, `ALL` for all of them, None for none."""

    @staticmethod
    def of(handler: Runnable) -> Way:
        """How this handler is to run."""
        settings = handler.settings
        dedicated = settings.threading == "Dedicated"
        order = ALL if dedicated else settings.order_by
        if settings.runtime == "process":
            # The lane itself sees in how many workers a handler runs, and may so stage ahead; and
            # it keeps the order of Dedicated ones.
            if dedicated:
                return Way("process in order", limited=False, order=None)
            return Way("process", limited=False, order=order)
        if handler.signature.is_async:
            return Way("async", limited=True, order=order)
        if dedicated:
            # The thread is the limit already, and its queue keeps the order.
            return Way("Dedicated", limited=False, order=None)
        return Way("Shared", limited=settings.concurrency is not None, order=order)


def _release(gate: Gate) -> bool:
    return not isinstance(gate.lane, Handover) or gate.lane.release(gate)


class ProjectRuntime:
    """
    Runs the handlers of one project: Shared ones in a pool of threads, Dedicated ones each on a
    thread of its own, ``async def`` ones as tasks on an event loop, and those of the runtime
    ``process`` in worker processes.

    It outlives the generations of its project. `exchange` lets newer handlers take the place of
    older ones, so that order, concurrency and what hangs count across generations, and a reload
    makes no thread.

    Args:
        project: Name of the project, for the threads' names.
        ends: Brings ends and progress to the gateway's event loop.
        loop: The gateway's event loop.
        on_wait: Told, on a handler's thread, which request it now waits for, if others may
            depend on that.
        forkserver: Gives what workers are forked from; another one when that has died. None where
            there are no process handlers.
        host: Answers what workers ask for; None likewise.
    """

    def __init__(
        self,
        project: str,
        *,
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        on_wait: Callable[[Invocation], None],
        forkserver: Callable[[], ForkServer] | None = None,
        host: Host | None = None,
    ) -> None:
        self._project = project
        self._ends = ends
        self._loop = loop
        self._tell_wait = on_wait
        self._gates: dict[str, Gate] = {}
        self._left: list[Gate] = []
        self._hung: set[Invocation] = set()
        self._pools = PoolSettings()
        self._pool = self._make_pool(
            f"headgate-{project}", self._pools.threads, self._pools.max_threads
        )
        self._tasks = TaskLoop(
            f"headgate-{project}-async",
            begin=begin,
            ends=ends,
            loop=loop,
            outlet=self,
            on_wait=self._on_wait,
        )
        self._dedicated: list[Pool] = []
        self._processes: ProcessLane | None = None
        if forkserver is not None and host is not None:
            self._processes = ProcessLane(
                project,
                ends=ends,
                loop=loop,
                on_wait=self._on_wait,
                forkserver=forkserver,
                host=host,
            )

    @property
    def endpoints(self) -> Mapping[str, Gate]:
        """The endpoints of the project's handlers by name."""
        return self._gates

    @property
    def running(self) -> list[Invocation]:
        """What runs at this moment, waiting handlers included."""
        return [invocation for lane in self._lanes for invocation in lane.running]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not any(gate.under_way for gate in (*self._gates.values(), *self._left))

    @property
    def is_stopping(self) -> bool:
        """Whether anything runs that can be stopped: asked when everything is to stop."""
        gates = (*self._gates.values(), *self._left)
        return any(gate.under_way and not gate.lane.has_threads for gate in gates)

    def exchange(
        self,
        handlers: Mapping[str, Runnable],
        *,
        workers: WorkerCode | None = None,
        first: WorkerProcess | None = None,
        pools: PoolSettings | None = None,
    ) -> dict[Gate, Gate | None]:
        """
        Let newer handlers take the places of those that there are, on the event loop.

        What runs ends as it began. What waits at a gate that stays will run the newer handler.

        Args:
            handlers: The handlers by name.
            workers: What the workers of process handlers load; None without such handlers.
            first: A worker that has loaded it already.
            pools: The threads and workers that they share. Default: as it was.

        Returns:
            The gates that are left behind, each with the one that is to `adopt` what waits there;
            None where the handler is gone. `tidy` must follow, now and then until it says so.
        """
        pools = pools or self._pools
        if pools != self._pools:
            self._pools = pools
            self._pool.resize(pools.threads, pools.max_threads)
        left = self._leave(handlers)
        successors: dict[Gate, Gate | None] = dict.fromkeys(left.values())
        gates: dict[str, Gate] = {}
        for name, handler in handlers.items():
            gate = self._gates.get(name)
            if gate is None:
                gate = self._make_gate(handler)
                if name in left:
                    successors[left[name]] = gate
            else:
                gate.renew(handler, **self._limits(handler))
            gates[name] = gate
        # At once: somebody on another thread may be reading the old ones.
        self._gates = gates
        if self._processes is not None:
            self._processes.exchange(workers, first, pools)
        return successors

    def tidy(self) -> bool:
        """
        Let handlers begin whose former runs are over, and end the threads of gates left behind.

        Returns:
            Whether there is nothing left to do.
        """
        held = [gate for gate in self._gates.values() if isinstance(gate.lane, Handover)]
        held = [gate for gate in held if not _release(gate)]
        for gate in [gate for gate in self._left if not gate.under_way]:
            self._left.remove(gate)
            lane = gate.lane.lane if isinstance(gate.lane, Handover) else gate.lane
            if isinstance(lane, Pool) and lane in self._dedicated:
                self._dedicated.remove(lane)
                lane.close()
        return not held and not self._left

    def close(self) -> None:
        """Stop taking invocations; threads end when their handlers return."""
        for pool in (self._pool, *self._dedicated):
            pool.close()
        self._tasks.close()
        if self._processes is not None:
            self._processes.close()

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables."""
        lanes = [lane.stats() for lane in self._lanes]
        gates = [*self._gates.values(), *self._left]
        held = [gate.lane.waiting for gate in gates if isinstance(gate.lane, Handover)]
        return {
            "queued": sum(lane["queued"] for lane in lanes)
            + sum(gate.waiting for gate in gates)
            + sum(held),
            "running": sum(lane["running"] for lane in lanes),
            "under_way": sum(gate.under_way for gate in gates),
            "abandoned": len(self._hung),
            "nested": sum(lane.get("nested", 0) for lane in lanes),
            "workers_leaving": sum(lane.get("workers_leaving", 0) for lane in lanes),
        }

    @property
    def threads(self) -> list[HandlerThread]:
        """The threads that run handlers."""
        return [thread for lane in self._lanes for thread in lane.threads]

    @property
    def runs(self) -> list[Run]:
        """What runs at this moment and where; abandoned runs included."""
        return [run for lane in self._lanes for run in lane.runs]

    @property
    def workers(self) -> list[WorkerRow]:
        """The worker processes, idle ones included."""
        return self._processes.workers if self._processes is not None else []

    def queued(self) -> dict[str, int]:
        """Return how many invocations wait to begin, by handler."""
        gates = [*self._gates.values(), *self._left]
        held = [gate.lane for gate in gates if isinstance(gate.lane, Handover)]
        count = Counter(gate.handler.name for lane in (*self._lanes, *held) for gate in lane.queued)
        for gate in gates:
            count[gate.handler.name] += gate.waiting
        return {handler: number for handler, number in sorted(count.items()) if number}

    @property
    def _lanes(self) -> list[Pool | TaskLoop | ProcessLane]:
        processes = [] if self._processes is None else [self._processes]
        return [self._pool, *self._dedicated, self._tasks, *processes]

    def _leave(self, handlers: Mapping[str, Runnable]) -> dict[str, Gate]:
        """Leave the gates behind whose handlers are gone or are to run in another way."""
        left = {
            name: gate
            for name, gate in self._gates.items()
            if name not in handlers or Way.of(handlers[name]) != Way.of(gate.handler)
        }
        self._gates = {name: gate for name, gate in self._gates.items() if name not in left}
        for gate in left.values():
            gate.close()
            self._left.append(gate)
        return left

    def _make_gate(self, handler: Runnable) -> Gate:
        lane: Lane
        if handler.settings.runtime == "process":
            assert self._processes is not None
            lane = self._processes
        elif handler.signature.is_async:
            lane = self._tasks
        elif handler.settings.threading == "Dedicated":
            lane = self._add_dedicated(handler.name)
        else:
            lane = self._pool
        order = Way.of(handler).order
        before = [gate for gate in self._left if gate.handler.name == handler.name]
        if before and (handler.settings.concurrency is not None or order is not None):
            lane = Handover(lane, before)
        if order is None:
            return Gate(handler, lane, hung=self._hung, **self._limits(handler))
        return OrderedGate(
            handler,
            lane,
            hung=self._hung,
            key=order,
            ends=self._ends,
            on_wait=self._on_wait,
            **self._limits(handler),
        )

    def _limits(self, handler: Runnable) -> Limits:
        concurrency = handler.settings.concurrency
        if handler.settings.runtime == "process":
            return {"concurrency": None, "places": concurrency or self._pools.workers}
        if handler.signature.is_async:
            concurrency = concurrency or MOST_TASKS
            return {"concurrency": concurrency, "places": concurrency}
        if not Way.of(handler).limited:
            places = 1 if handler.settings.threading == "Dedicated" else self._pools.threads
            return {"concurrency": None, "places": places}
        return {"concurrency": concurrency, "places": concurrency or self._pools.threads}

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
        return begin(invocation) or execute(invocation, gate.handler, self)

    def report(self, invocation: Invocation, value: Any) -> None:
        """Send a progress value; raises PayloadError."""
        data = encode(value, root="progress")
        waiting, invocation.reported = invocation.reported, data
        if waiting is None:
            self._tell(invocation)

    def open_stream(self, invocation: Invocation) -> Emitter:
        """Return what takes the values of a generator."""
        return Emitter(invocation, self._tell)

    def _tell(self, invocation: Invocation) -> None:
        if isinstance(invocation.place, Gate):
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
