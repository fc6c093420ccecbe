"""``async def`` handlers: tasks on an event loop of their own, never on the gateway's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from headgate.invocation import Invocation
from headgate.outcome import Outcome
from headgate.runtimes.execute import Report, execute_async
from headgate.runtimes.gate import Gate
from headgate.runtimes.running import Run, Turn
from headgate.threads import LoopThread, Mailbox

if TYPE_CHECKING:
    from headgate.runtimes.gate import Finished

__all__ = ["TaskLoop"]

CLOSE_SECONDS = 2.0
"""Seconds that a handler has to let its event loop end; one that blocks it is left behind."""


class TaskLoop:
    """
    The event loop of a project's ``async def`` handlers; it starts with the first of them.

    Each of the two loops wakes the other one once for all that a turn of its own produced.

    Args:
        name: Name of its thread.
        begin: Marks an invocation as begun, or returns the outcome of one that must not begin.
        ends: Takes the outcomes to the gateway's event loop.
        loop: The gateway's event loop.
        report: Takes progress values.
        on_wait: Told, on this loop's thread, which request a handler now waits for.
    """

    has_threads = False
    has_backlog = False

    def __init__(
        self,
        name: str,
        *,
        begin: Callable[[Invocation], Outcome | None],
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        report: Report,
        on_wait: Callable[[Invocation], None],
    ) -> None:
        self.name = name
        """Name of its thread."""
        self._begin = begin
        self._ends = ends
        self._gateway_loop = loop
        self._report = report
        self._on_wait = on_wait
        self._thread: LoopThread | None = None
        self._queue: dict[Invocation, Gate] = {}
        self._tasks: dict[Invocation, asyncio.Task[None]] = {}
        self._mailbox: Mailbox[Invocation] | None = None
        self._waking = False
        self._telling = False

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Queue an invocation; on the gateway's event loop."""
        self._queue[invocation] = gate
        mailbox = self._open() if self._mailbox is None else self._mailbox
        mailbox.put(invocation)
        if not self._waking:
            self._waking = True
            self._gateway_loop.call_soon(self._wake)

    def refill(self) -> None:
        """Nothing waits behind the queue."""

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation back; False if it has begun."""
        return self._queue.pop(invocation, None) is not None

    def interrupt(self, invocation: Invocation) -> bool:
        """Cancel the task that runs an invocation, unless its handler is to go on."""
        gate = invocation.place
        abandons = isinstance(gate, Gate) and gate.handler.settings.on_timeout == "abandon"
        if self._thread is not None and not abandons:
            self._thread.loop.call_soon_threadsafe(self._cancel, invocation)
        return True

    @property
    def is_stuck(self) -> bool:
        """Whether waiting handlers hold all places: never, there can be one task more."""
        return False

    @property
    def running(self) -> list[Invocation]:
        """What runs at this moment."""
        return list(self._tasks)

    @property
    def threads(self) -> list[TaskLoop]:
        """Itself, once it has a thread."""
        return [self] if self._thread is not None else []

    @property
    def runs(self) -> list[Run]:
        """What runs at this moment, tasks that wait included."""
        return [Run(invocation, self, task) for invocation, task in list(self._tasks.items())]

    @property
    def queued(self) -> list[Gate]:
        """The gates of what has no task yet, one for each invocation."""
        return list(self._queue.values())

    @property
    def ident(self) -> int | None:
        """Identifier of its thread."""
        return self._thread.ident if self._thread is not None else None

    @property
    def clock(self) -> int | None:
        """The `cpu_clock` of its thread."""
        return self._thread.clock if self._thread is not None else None

    def turn(self, before: Turn | None) -> Turn | None:
        """
        Return what the loop executes; `before` if that has not paused since.

        Theory of operation: a turn's end is put into the loop while the task executes a step. The
        loop takes what it is given in order, so the task's next step comes after that.
        """
        if self._thread is None:
            return None
        loop = self._thread.loop
        task = asyncio.current_task(loop)
        if task is None:
            return None
        if before is not None and before.task is task and not before.over:
            return before
        running = list(self._tasks.items())
        invocation = next((invocation for invocation, each in running if each is task), None)
        if invocation is None:
            return None
        turn = Turn(invocation, task=task)
        with suppress(RuntimeError):  # the loop is closed, so the task is at its end
            loop.call_soon_threadsafe(turn.end)
        return turn

    def lend(self) -> None:
        """Nothing to lend: an interrupted task ends."""

    def take_back(self) -> None:
        """Nothing to take back."""

    def close(self) -> None:
        """Cancel what runs and end the thread."""
        self._queue.clear()
        if self._thread is not None:
            self._thread.stop(CLOSE_SECONDS)

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables."""
        return {"queued": len(self._queue), "running": len(self._tasks)}

    def _open(self) -> Mailbox[Invocation]:
        self._thread = LoopThread(self.name)
        self._thread.start()
        self._mailbox = Mailbox(self._thread.loop, self._start)
        return self._mailbox

    def _wake(self) -> None:
        """At the end of a turn of the gateway's loop, wake this one for what was queued."""
        self._waking = False
        if self._mailbox is not None:
            self._mailbox.wake()

    # --- on the loop of the handlers -------------------------------------------------------------

    def _start(self, invocation: Invocation) -> None:
        gate = self._queue.pop(invocation, None)
        if gate is None or self._thread is None:
            return
        outcome = self._begin(invocation)
        if outcome is not None:
            self._end(invocation, gate, outcome)
        else:
            invocation.awaits = self._awaits
            task = self._thread.loop.create_task(self._run(invocation, gate))
            self._tasks[invocation] = task

    async def _run(self, invocation: Invocation, gate: Gate) -> None:
        outcome = await execute_async(invocation, gate.handler, self._report)
        del self._tasks[invocation]
        self._end(invocation, gate, outcome)

    def _end(self, invocation: Invocation, gate: Gate, outcome: Outcome) -> None:
        self._ends.put((invocation, gate, outcome))
        if not self._telling and self._thread is not None:
            self._telling = True
            self._thread.loop.call_soon(self._tell)

    def _tell(self) -> None:
        """At the end of a turn, wake the gateway's loop for what ended."""
        self._telling = False
        self._ends.wake()

    def _awaits(self, invocation: Invocation, nested: Invocation | None) -> None:
        # Other tasks of the handler may await while it goes on itself, so only its own one counts.
        if asyncio.current_task() is self._tasks.get(invocation):
            invocation.waits_for = nested
            if nested is not None:
                self._on_wait(nested)

    def _cancel(self, invocation: Invocation) -> None:
        task = self._tasks.get(invocation)
        if task is not None:
            # Not in this turn: a task that is cancelled before its first step never ends as one.
            task.get_loop().call_soon(task.cancel)
