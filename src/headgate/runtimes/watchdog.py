"""The watchdog: names handlers that hold the interpreter or block an event loop."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from time import monotonic

from headgate.invocation import Invocation
from headgate.runtimes.running import HandlerThread, Turn, stack_of
from headgate.threads import cpu_clock

__all__ = ["Watchdog"]

logger = logging.getLogger("headgate.watchdog")

LOOK_SECONDS = 0.05
"""Seconds between two looks at what runs."""

TOO_LONG = 0.1
"""Seconds for which a handler may hold the interpreter, or block its event loop, unnamed."""

SILENT_SECONDS = 60.0
"""Seconds for which a handler that was named is not named again."""

REST_AFTER = 1.0
"""Seconds in which nothing ran, after which the watchdog sleeps until it is woken."""

GLANCE_SECONDS = 0.0002
"""Seconds for which the watchdog keeps the interpreter to see who computes without it."""

LEAST_USED = 0.001
"""Seconds of processor time between two looks below which nobody is suspected."""

STACK_LINES = 12
"""Lines of the stack that are logged, the innermost ones."""

CLOSE_SECONDS = 2.0
"""Seconds that its thread has to end."""


class Watchdog:
    """
    Names handlers in the log, each once a minute, that make everything else wait.

    Theory of operation: Python runs one thread at a time. The watchdog sleeps for 50 ms and looks
    how late it was: while a thread computes, whoever waits for the interpreter gets it after the
    switch interval (5 ms), or at the end of a call in C that keeps it. If it was late, the
    processor time of each thread tells who computed. What one turn of a handler has used is added
    up for as long as each look finds the interpreter held, and over 100 ms it is named. Only its
    own processor time counts, so a handler that sleeps or waits is not named, nor one that is slow
    because the machine is; nor one that computes in a library which lets go of the interpreter.

    A task that is at the same turn for over 100 ms, and uses no processor time while the
    interpreter is free, blocks its event loop.

    A request pays nothing: all of this is read from what the threads note for themselves anyway.
    While nothing runs the watchdog sleeps. Where threads have no clocks (macOS, Windows) it does
    nothing.

    Args:
        name: Name of its thread.
        threads: Gives the threads that run handlers.
        silent: Seconds for which a handler that was named is not named again.
    """

    def __init__(
        self,
        name: str,
        threads: Callable[[], Iterable[HandlerThread]],
        *,
        silent: float = SILENT_SECONDS,
    ) -> None:
        self._name = name
        self._threads = threads
        self._silent = silent
        self._turns: dict[HandlerThread, Turn] = {}
        self._clocks: dict[HandlerThread, float] = {}
        self._process = 0.0
        self._looked_at = 0.0
        self._busy_at = 0.0
        self._named: dict[str, float] = {}
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._resting = True
        self._woken_at = 0.0
        self._closed = cpu_clock() is None

    @property
    def is_resting(self) -> bool:
        """Whether it sleeps until it is woken, since nothing ran when it last looked."""
        return self._resting

    def wake(self) -> None:
        """See that it looks, since something may run; on the gateway's event loop."""
        if not self._resting or self._closed:
            return
        self._resting = False
        self._woken_at = monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name=self._name, daemon=True)
            self._thread.start()
        else:
            self._bell.set()

    def close(self) -> None:
        """End its thread."""
        self._closed = True
        self._bell.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def processor_time(self, invocation: Invocation) -> float | None:
        """
        Return the seconds of processor time that a run has used, up to the last look.

        None if that is not known: the run is younger than that, or shares its thread with others.
        """
        for turn in list(self._turns.values()):
            if turn.invocation is invocation and turn.task is None:
                return turn.cpu
        return None

    # --- on its own thread -----------------------------------------------------------------------

    def _watch(self) -> None:
        due = self._begin()
        while not self._closed:
            try:
                self._look(due)
            except Exception:
                logger.exception("The watchdog failed at a look")
            if not self._turns and self._looked_at - self._busy_at >= REST_AFTER:
                due = self._rest()
            else:
                due = monotonic() + LOOK_SECONDS
                self._bell.wait(LOOK_SECONDS)

    def _rest(self) -> float:
        self._bell.clear()
        self._resting = True
        if not self._closed:
            self._bell.wait()
            self._bell.clear()
        return self._begin()

    def _begin(self) -> float:
        # Between the last look and the moment it was woken nothing has run.
        self._looked_at = self._busy_at = self._woken_at
        self._process = time.process_time()
        return self._woken_at

    def _look(self, due: float) -> None:
        now = monotonic()
        elapsed = now - self._looked_at
        is_held = now - due >= sys.getswitchinterval() / 2
        before = self._turns
        used, rest = self._measure(due)
        holders = _holders(used, rest, elapsed) if is_held else []
        for thread, turn in self._turns.items():
            share = used[thread]
            turn.cpu += share
            turn.held = turn.held + share if thread in holders else 0.0
            if turn.task is not None and turn is before.get(thread):
                blocks = not is_held and share < elapsed / 100
                turn.blocked = turn.blocked + elapsed if blocks else 0.0
            if max(turn.held, turn.blocked) > TOO_LONG:
                self._name_it(thread, turn, now)
        self._looked_at = now
        if self._turns:
            self._busy_at = now

    def _measure(self, due: float) -> tuple[dict[HandlerThread, float], float]:
        """Look what each thread does; return what each turn and all else used since last time."""
        process = time.process_time()
        rest, self._process = process - self._process, process
        turns, clocks, used = {}, {}, {}
        for thread in self._threads():
            # The clock first: what is used between the two belongs to the next look.
            clock = _read(thread)
            if clock is None:
                continue
            spent = clock - self._clocks.get(thread, 0.0)
            rest -= spent
            clocks[thread] = clock
            before = self._turns.get(thread)
            turn = thread.turn(before)
            if turn is not None:
                turns[thread] = turn
                used[thread] = spent if turn is before else self._certain(turn, spent, due)
        self._turns, self._clocks = turns, clocks
        return used, rest

    def _certain(self, turn: Turn, spent: float, due: float) -> float:
        """Return what a new turn has certainly used of what its thread has spent."""
        # What a task does now it has done since the watchdog was due: else that had been let in.
        since = due if turn.since is None else turn.since
        return max(0.0, spent - max(0.0, since - self._looked_at))

    def _name_it(self, thread: HandlerThread, turn: Turn, now: float) -> None:
        invocation = turn.invocation
        last = self._named.get(invocation.target)
        if last is not None and now - last < self._silent:
            return
        self._named[invocation.target] = now
        stack = stack_of(thread.ident) if thread.turn(turn) is turn else []
        text, seconds = (HOLDS, turn.held) if turn.held > TOO_LONG else (BLOCKS, turn.blocked)
        logger.warning(
            text + " (Request %s of %s, thread %s.)\n%s",
            invocation.target,
            seconds * 1000,
            invocation.request_id,
            invocation.caller.user,
            thread.name,
            "\n".join(stack[-STACK_LINES:]),
        )


HOLDS = (
    "The handler %s holds the interpreter: it has computed for %d ms without a pause, and all else "
    "in this gateway waits for it. Let it compute in a process of its own "
    "(concurrent.futures.ProcessPoolExecutor), in a library that lets go of the interpreter, as "
    "NumPy does, or in steps of a few milliseconds with time.sleep(0.001) between them."
)

BLOCKS = (
    "The handler %s blocks its event loop: it has waited for %d ms without `await`, and the other "
    "`async def` handlers of its project stand still. Let it await what it waits for, or await "
    "asyncio.to_thread(function); or write it as a plain `def`."
)


def _holders(used: dict[HandlerThread, float], rest: float, elapsed: float) -> list[HandlerThread]:
    """
    Return who held the interpreter all the time that it could have it.

    Args:
        used: Seconds of processor time that each thread has used.
        rest: Those of the process's other threads, together.
        elapsed: Seconds in which that was.
    """
    # The interpreter is shared by all that want it. Who got far less than another did not want it
    # all the time. What the process used beyond the time there was, it used without.
    fair = max([min(rest, elapsed - sum(used.values())), *used.values(), LEAST_USED * 4]) / 4
    suspects = [thread for thread, share in used.items() if share >= fair]
    going_on = _going_on(suspects) if suspects else []
    holders = [thread for thread in suspects if thread not in going_on]
    # Together they cannot have held it for longer than there was time. If so, some computed
    # without it and do not run just now, and who that is will be seen at another look.
    is_clear = sum(used[thread] for thread in holders) <= elapsed * 1.1
    return holders if is_clear else []


def _read(thread: HandlerThread) -> float | None:
    """Return the processor time that a thread has used; None if it has ended."""
    try:
        return None if thread.clock is None else time.clock_gettime(thread.clock)
    except OSError:
        return None


def _going_on(threads: list[HandlerThread]) -> list[HandlerThread]:
    """Return which threads compute while this one has the interpreter: they do without."""
    clocks, began = [_read(thread) for thread in threads], monotonic()
    while monotonic() - began < GLANCE_SECONDS:
        pass
    return [
        thread
        for thread, clock in zip(threads, clocks, strict=True)
        if clock is not None and (_read(thread) or clock) - clock > GLANCE_SECONDS / 2
    ]
