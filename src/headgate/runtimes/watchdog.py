"""The watchdog: names handlers that hold the interpreter, so that everything else stands still."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from time import monotonic

from headgate.invocation import Invocation
from headgate.runtimes.running import HandlerThread, Turn, stack_of

__all__ = ["Watchdog"]

logger = logging.getLogger("headgate.watchdog")

LOOK_SECONDS = 0.05
"""Seconds between two looks at what runs."""

HELD_SECONDS = 0.1
"""Seconds of processor time, used without letting others go on, from which a handler is named."""

SILENT_SECONDS = 60.0
"""Seconds for which a handler that was named is not named again."""

REST_AFTER = 1.0
"""Seconds in which nothing ran, after which the watchdog sleeps until it is woken."""

STACK_LINES = 12
"""Lines of the stack that are logged, the innermost ones."""

CLOSE_SECONDS = 2.0
"""Seconds that its thread has to end."""


class Watchdog:
    """
    Names in the log, once a minute, each handler that holds the interpreter for over 100 ms.

    Theory of operation: Python runs one thread at a time. The watchdog sleeps for 50 ms and looks
    how late it was: whoever waits for the interpreter gets it no sooner than after the switch
    interval (5 ms) if another thread computes, and only at the end of a call in C that keeps it.
    If it was late, somebody computes, and the processor time of each thread tells who. What such a
    turn has used is added up, for as long as every look finds the interpreter held. So a handler
    that sleeps, waits or computes in a library that lets go of the interpreter is never named, and
    neither is one that is slow because the machine is: only its own processor time counts. Of
    a turn that began after the last look, what others can have used before it is left out.

    It costs a request nothing: it reads what threads write down for themselves anyway, and sleeps
    while nothing runs.

    Args:
        name: Name of its thread.
        threads: Gives the threads that run handlers.
        look: Seconds between two looks.
        silent: Seconds for which a handler that was named is not named again.
    """

    def __init__(
        self,
        name: str,
        threads: Callable[[], Iterable[HandlerThread]],
        *,
        look: float = LOOK_SECONDS,
        silent: float = SILENT_SECONDS,
    ) -> None:
        self._name = name
        self._threads = threads
        self._pause = look
        self._silent = silent
        self._turns: dict[HandlerThread, Turn] = {}
        self._cpu: dict[HandlerThread, float] = {}
        self._process = 0.0
        self._looked_at = 0.0
        self._busy_at = 0.0
        self._named: dict[str, float] = {}
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._resting = True
        self._woken_at = 0.0
        self._closed = False

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
        """Return the seconds that a run has used, up to the last look; None if unknown."""
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
                due = monotonic() + self._pause
                self._bell.wait(self._pause)

    def _begin(self) -> float:
        """Begin to look: between its last look and the moment it was woken nothing has run."""
        self._looked_at = self._busy_at = self._woken_at
        self._process = time.process_time()
        return self._woken_at

    def _rest(self) -> float:
        self._bell.clear()
        self._resting = True
        if not self._closed:
            self._bell.wait()
            self._bell.clear()
        return self._begin()

    def _look(self, due: float) -> None:
        now = monotonic()
        was_held = now - due >= sys.getswitchinterval() / 2
        used, rest = self._measure(due, now)
        # The interpreter is shared by all that want it. Who got far less than another did not
        # want it all the time. What the process used beyond the time there was, it used without.
        rest = min(rest, now - self._looked_at - sum(used.values()))
        fair = max([rest, *used.values()]) / 2
        for thread, turn in self._turns.items():
            share = used[thread]
            turn.cpu += share
            turn.held = turn.held + share if was_held and share >= fair else 0.0
            if turn.held > HELD_SECONDS:
                self._name_it(thread, turn, now)
        self._looked_at = now

    def _measure(self, due: float, now: float) -> tuple[dict[HandlerThread, float], float]:
        """Return what each turn has used since the last look, and what the rest of all has."""
        process = time.process_time()
        rest, self._process = process - self._process, process
        turns, clocks, used = {}, {}, {}
        for thread in self._threads():
            clock = _read(thread)
            if clock is None:
                continue
            before = self._turns.get(thread)
            spent = clock - self._cpu.get(thread, 0.0)
            rest -= spent
            clocks[thread] = clock
            turn = thread.turn(before)
            if turn is not None:
                turns[thread] = turn
                used[thread] = spent if turn is before else self._at_least(turn, spent, due)
        if turns:
            self._busy_at = now
        self._turns, self._cpu = turns, clocks
        return used, rest

    def _at_least(self, turn: Turn, spent: float, due: float) -> float:
        """Return what a new turn has certainly used of what its thread has spent."""
        # Who executes now what nobody saw begin has executed since the watchdog was due.
        since = turn.since if turn.since is not None else due
        return max(0.0, spent - max(0.0, since - self._looked_at))

    def _name_it(self, thread: HandlerThread, turn: Turn, now: float) -> None:
        invocation = turn.invocation
        last = self._named.get(invocation.target)
        if last is not None and now - last < self._silent:
            return
        self._named[invocation.target] = now
        stack = stack_of(thread.ident) if thread.turn(turn) is turn else []
        logger.warning(
            "The handler %s holds the interpreter: it has computed for %d ms without a pause, and "
            "meanwhile nothing else of this gateway goes on (request %s of %s, thread %s). %s\n%s",
            invocation.target,
            turn.held * 1000,
            invocation.request_id,
            invocation.caller.user,
            thread.name,
            CURE,
            "\n".join(stack[-STACK_LINES:]),
        )


CURE = (
    "Compute in a process of its own (concurrent.futures.ProcessPoolExecutor) or in a library that "
    "lets go of the interpreter, as NumPy does, or in small steps with time.sleep(0.001) between "
    "them."
)


def _read(thread: HandlerThread) -> float | None:
    if thread.clock is None:
        return None
    try:
        return time.clock_gettime(thread.clock)
    except OSError:
        # The thread has ended.
        return None
