"""Threads that take invocations one at a time, and give their place back while they wait."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from headgate.invocation import Caller, Invocation
from headgate.outcome import Outcome
from headgate.runtimes.fair import FairQueue
from headgate.runtimes.running import Run, ThreadRun, Turn
from headgate.threads import BURST, Mailbox, cpu_clock

if TYPE_CHECKING:
    from headgate.runtimes.gate import Finished, Gate

__all__ = ["Pool", "Worker"]

logger = logging.getLogger("headgate.runtimes")

PATROL_SECONDS = 0.001
"""Seconds between two looks at a queue in which something waits while threads are busy."""

STAGED = 16
"""Invocations that stand before a thread at most, while those of several sessions wait."""

STAGED_IF_SLOW = 1
"""The same while handlers are slow: each of them keeps those behind it waiting for long."""


Work = Callable[[Invocation, "Gate"], Outcome]


class Worker(threading.Thread):
    """A thread of a pool, and what it runs."""

    def __init__(self, name: str, pool: Pool) -> None:
        super().__init__(name=name, daemon=True)
        self.invocation: Invocation | None = None
        """What it runs at this moment."""
        self.clock: int | None = None
        """Its `cpu_clock`, once it runs."""
        self.latch = threading.Lock()
        self.latch.acquire()
        self._pool = pool

    def run(self) -> None:
        """Take invocations until the pool has no use for this thread."""
        self.clock = cpu_clock()
        self._pool.work(self)

    def turn(self, before: Turn | None) -> Turn | None:
        """Return what it runs; `before` if that has not changed since."""
        invocation = self.invocation
        if invocation is None or (before is not None and before.invocation is invocation):
            return before if invocation is not None else None
        return Turn(invocation, since=invocation.started_at or monotonic())


class Pool:
    """
    Threads for handlers.

    Invocations of one session begin in the order of their arrival; sessions take turns, and higher
    priorities go first. Whoever takes an invocation out of the queue owns it: a thread that runs
    it, or the event loop that takes it back. So it is always certain whether it began.

    Threads take from a plain queue. While invocations of several sessions or priorities wait, it is
    kept short, and the event loop fills it from the `FairQueue` behind it.

    Waking a thread costs more than a short handler does, so while a thread is busy nobody else is
    woken for what it may do in passing, and the event loop is woken once for all that it did.
    When the queue has not moved for `PATROL_SECONDS` another thread is woken, and the event loop
    takes what was done; while handlers have lately been slow both happen at once.

    Args:
        name: Name of the threads.
        size: Threads that run handlers at once.
        most: Threads there are at most, with those that wait for a request of their handler.
        work: Runs an invocation.
        ends: Takes the outcomes to the event loop.
        loop: The event loop.
        on_wait: Told which request of its own a handler now waits for.
        takes_turns: Whether sessions take turns, and priorities count; False keeps the order of
            arrival over all.
    """

    has_threads = True

    def __init__(
        self,
        name: str,
        *,
        size: int,
        most: int,
        work: Work,
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        on_wait: Callable[[Invocation], None],
        takes_turns: bool = True,
    ) -> None:
        self.has_backlog = False
        """Whether anything waits behind the queue that threads take from."""
        self._backlog = FairQueue()
        self._takes_turns = takes_turns
        self._last: Caller | None = None
        """
        Who asked for the last one of the queue; None while there may be one that is not of normal
        priority, so that what comes is not simply put behind it.
        """
        self._name = name
        self._size = size
        self._most = max(size, most)
        self._execute = work
        self._on_wait = on_wait
        self._ends = ends
        self._loop = loop
        self._looking = False
        self._patrolling = False
        self._taken = 0
        self._slow = False
        self._queue: OrderedDict[Invocation, Gate] = OrderedDict()
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._waiting = 0
        self._waking = False
        self._closed = False
        self._shrinks = False
        """Whether there may be more threads than there are to be."""
        self._made = 0
        self._lock = threading.Lock()

    # --- on the event loop -----------------------------------------------------------------------

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Queue an invocation."""
        queue = self._queue
        caller = invocation.caller
        if not self.has_backlog and not invocation.priority and (caller is self._last or not queue):
            self._last = caller
            queue[invocation] = gate
        else:
            self._put_among_others(invocation, gate)
        if not self._looking:
            self._look_soon()

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _put_among_others(self, invocation: Invocation, gate: Gate) -> None:
        """Queue an invocation where those of other sessions wait."""
        if not self._takes_turns:
            self._queue[invocation] = gate
            return
        if not self.has_backlog:
            if (
                not invocation.priority
                and self._last
                and self._last.session == invocation.caller.session
            ):
                # Its session's caller has got other rights.
                self._last = invocation.caller
                self._queue[invocation] = gate
                return
            self.has_backlog = True
            self._unstage()
        self._backlog.put(invocation, gate)
        self.refill()

    def _unstage(self) -> None:
        """Take back what stands before the threads beyond its share."""
        queue, backlog = self._queue, self._backlog
        while len(queue) > (STAGED_IF_SLOW if self._slow else STAGED):
            try:
                backlog.put_back(*queue.popitem())
            except KeyError:
                return

    def refill(self) -> None:
        """Move invocations from the backlog to where threads take them, session by session."""
        queue, backlog = self._queue, self._backlog
        ranked = self._last is None and bool(queue)
        while backlog and len(queue) < (STAGED_IF_SLOW if self._slow else STAGED):
            invocation, gate = backlog.pop()
            ranked = ranked or bool(invocation.priority)
            self._last = None if ranked else invocation.caller
            queue[invocation] = gate
        self.has_backlog = bool(backlog)
        self._look_soon()

    def _look(self) -> None:
        """At the end of a turn of the event loop, see that somebody takes what was queued."""
        self._looking = False
        # A thread that is awake looks at the queue when its handler returns.
        awake = len(self._workers) - len(self._idle) - self._waiting
        if not self._waking and (awake <= 0 or self._slow):
            # Counted before: the thread may take the first one while this one is still here.
            alone = len(self._queue) <= 1
            self._wake()
            if alone and self._waking:
                return
        if not self._patrolling:
            self._patrolling = True
            self._loop.call_later(PATROL_SECONDS, self._patrol, self._taken)

    def _patrol(self, taken: int) -> None:
        """Wake one more thread if none has taken anything since the last look."""
        # Looked at before: what a thread then leaves untold is there for the drain.
        self._patrolling = bool(self._queue)
        self._ends.drain()
        if self.has_backlog:
            self.refill()
            self._patrolling = True
        if self._patrolling:
            self._slow = self._taken == taken
            if self._slow and self.has_backlog:
                self._unstage()
            if self._slow and not self._waking:
                self._wake()
            self._loop.call_later(PATROL_SECONDS, self._patrol, self._taken)

    def resize(self, size: int, most: int) -> None:
        """Have other numbers of threads; those that are too many end when their handlers return."""
        with self._lock:
            self._size, self._most = size, max(size, most)
            surplus = len(self._workers) - self._waiting - size
            self._shrinks = surplus > 0
        for _ in range(surplus):
            try:
                self._idle.pop().latch.release()
            except IndexError:
                break
        if self._queue:
            self._look_soon()

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation back; False if a thread has taken it."""
        return self._queue.pop(invocation, None) is not None or self._backlog.remove(invocation)

    def interrupt(self, invocation: Invocation) -> bool:
        """Return False: a thread cannot be stopped."""
        return False

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return all that run, if all threads that there can be wait for their requests."""
        is_stuck = len(self._workers) >= self._most and self._waiting >= len(self._workers)
        return self.running if is_stuck else []

    @property
    def running(self) -> list[Invocation]:
        """What runs at this moment, waiting handlers included."""
        # Each is read once: its thread may be through with it at any moment.
        found = [worker.invocation for worker in self._workers]
        return [invocation for invocation in found if invocation is not None]

    @property
    def threads(self) -> list[Worker]:
        """Its threads, idle ones included."""
        return list(self._workers)

    @property
    def runs(self) -> list[Run]:
        """What runs at this moment and where."""
        found = [(worker, worker.invocation) for worker in list(self._workers)]
        return [
            ThreadRun(invocation, worker) for worker, invocation in found if invocation is not None
        ]

    @property
    def queued(self) -> list[Gate]:
        """The gates of what waits for a thread, one for each invocation."""
        return list(self._queue.values()) + self._backlog.gates()

    def close(self) -> None:
        """Let the threads end: idle ones now, the others when their handler returns."""
        self._closed = True
        self._queue.clear()
        self._backlog.clear()
        self.has_backlog = False
        while True:
            try:
                self._idle.pop().latch.release()
            except IndexError:
                return

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables."""
        return {"queued": len(self._queue) + len(self._backlog), "running": len(self.running)}

    # --- on a thread that runs a handler ---------------------------------------------------------

    def leave(self, nested: Invocation | None) -> bool:
        """Give the place back while the handler waits for another request."""
        worker = threading.current_thread()
        if not isinstance(worker, Worker) or worker.invocation is None:
            # A thread that the handler started, in its context: the handler itself goes on.
            return False
        worker.invocation.waits_for = nested
        self.lend()
        if nested is not None:
            self._on_wait(nested)
        return True

    def enter(self) -> None:
        """Take the place again; for a moment one more thread than `size` may run."""
        worker = threading.current_thread()
        if isinstance(worker, Worker) and worker.invocation is not None:
            worker.invocation.waits_for = None
        self.take_back()

    def lend(self) -> None:
        """Let another thread run in place of one that is waiting or given up."""
        with self._lock:
            self._waiting += 1
        if self._queue and not self._waking:
            self._wake()

    def take_back(self) -> None:
        """End a `lend`."""
        with self._lock:
            self._waiting -= 1

    # --- the threads themselves ------------------------------------------------------------------

    def work(self, worker: Worker) -> None:
        """Run invocations on this thread."""
        queue, execute, ends = self._queue, self._execute, self._ends
        self._waking = False
        while True:
            try:
                invocation, gate = queue.popitem(last=False)
            except KeyError:
                # Another thread may have left its outcomes for whoever is next, and then have taken
                # what this one was to be next with.
                if len(ends):
                    ends.wake()
                if self._sleep(worker):
                    continue
                return
            self._taken += 1
            worker.invocation = invocation
            invocation.slot = self
            if self._slow and queue and not self._waking:
                self._wake()
            ends.put((invocation, gate, execute(invocation, gate)))
            worker.invocation = None
            if self._slow or self._shrinks or not queue:
                ends.wake()
                if self._shrinks and self._retires(worker):
                    return
            elif len(ends) >= BURST:
                ends.give_way()

    def _sleep(self, worker: Worker) -> bool:
        """Wait for work; False if the thread is to end."""
        if self._retires(worker):
            return False
        self._idle.append(worker)
        if (self._queue or self._closed) and self._unlist(worker):
            return True
        worker.latch.acquire()
        self._waking = False
        return True

    def _retires(self, worker: Worker) -> bool:
        """Take a thread off the list if it is to end."""
        with self._lock:
            if self._closed or len(self._workers) - self._waiting > self._size:
                self._workers.remove(worker)
                return True
            self._shrinks = False
        return False

    def _unlist(self, worker: Worker) -> bool:
        try:
            self._idle.remove(worker)
        except ValueError:
            return False
        return True

    def _wake(self) -> None:
        try:
            worker = self._idle.pop()
        except IndexError:
            self._add_worker()
            return
        self._waking = True
        worker.latch.release()

    def _add_worker(self) -> None:
        with self._lock:
            count = len(self._workers)
            if self._closed or count >= self._most or count - self._waiting >= self._size:
                return
            self._made += 1
            worker = Worker(f"{self._name}-{self._made}", self)
            self._workers.append(worker)
        self._waking = True
        try:
            worker.start()
        except RuntimeError as error:
            # The system has no thread to give now; the patrol tries again.
            logger.error("No thread for %s: %s", self._name, error)
            with self._lock:
                self._workers.remove(worker)
            self._waking = False
