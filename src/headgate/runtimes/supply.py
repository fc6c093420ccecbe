"""The supply of worker processes: made and loaded on threads, with pauses when that fails."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from time import monotonic

from headgate.errors import ConfigurationError
from headgate.runtimes.forkserver import ForkServer, WorkerProcess
from headgate.runtimes.link import WorkerCode

__all__ = ["Supply"]

logger = logging.getLogger("headgate.runtimes")

LOAD_SECONDS = 30.0
"""Seconds in which a worker has to load the project's scripts."""

FIRST_PAUSE, LAST_PAUSE = 0.1, 30.0
"""Seconds of pause after the first worker that could not be made, and after the last ones."""

MOST_FAILURES = 3
"""Workers in a row that could not be made, from which on nobody should wait for the next one."""


class Supply:
    """
    Makes the workers of a project; it belongs to the gateway's event loop.

    Args:
        project: Name of the project.
        loop: The event loop.
        forkserver: Gives what workers are forked from; another one when that has died.
        take: Gets each worker that has loaded the code that is in force.
        after: Called after that, and after each failure.
    """

    def __init__(
        self,
        project: str,
        *,
        loop: asyncio.AbstractEventLoop,
        forkserver: Callable[[], ForkServer],
        take: Callable[[WorkerProcess, WorkerCode], None],
        after: Callable[[], None],
    ) -> None:
        self.code: WorkerCode | None = None
        """What workers load; None if there is nothing to load."""
        self.why = ""
        """Why the last one could not be made."""
        self.making = 0
        """How many are being made of the code that is in force."""
        self._project = project
        self._loop = loop
        self._forkserver = forkserver
        self._take = take
        self._after = after
        self._failures = 0
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def fails(self) -> bool:
        """Whether so many failed in a row that nobody should wait for the next one."""
        return self._failures >= MOST_FAILURES

    def exchange(self, code: WorkerCode | None) -> None:
        """Let workers load this from now on."""
        self.code = code
        # Nobody waits for those of the older code, which may hang.
        self.making = 0
        self.prove()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def order(self, number: int) -> None:
        """Make so many workers more, unless that fails at this time."""
        code = self.code
        if code is None or self._closed or self._pause is not None:
            return
        for _ in range(number):
            self.making += 1
            name = f"headgate-{self._project}-spawn"
            threading.Thread(target=self._make, args=(code,), name=name, daemon=True).start()

    def prove(self) -> None:
        """Take note that a worker is good for something."""
        self._failures = 0

    def fail(self, why: str) -> None:
        """Take note that a worker is good for nothing, and pause for longer each time."""
        self.why = why
        delay = min(LAST_PAUSE, FIRST_PAUSE * 2**self._failures)
        self._failures += 1
        logger.error("project %r: no worker for %.1f s: %s", self._project, delay, why)
        if self._pause is None:
            self._pause = self._loop.call_later(delay, self._go_on)

    def close(self) -> None:
        """Make nothing any more."""
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()

    def _go_on(self) -> None:
        self._pause = None
        self._after()

    def _made(self, process: WorkerProcess | None, code: WorkerCode, problem: str) -> None:
        is_current = code is self.code
        self.making -= is_current
        is_wanted = is_current and not self._closed
        if process is not None and is_wanted:
            self._take(process, code)
        elif process is not None:
            process.close()
        elif is_wanted:
            self.fail(problem)
        self._after()

    # --- on a thread -----------------------------------------------------------------------------

    def _make(self, code: WorkerCode) -> None:
        process, problem = None, ""
        try:
            process = self._forkserver().spawn(code.environment)
            loaded = process.load(code, monotonic() + LOAD_SECONDS)
            if loaded.problems and not loaded.handlers:
                problem = str(loaded.problems[0].get("problem", ""))
        except ConfigurationError as error:
            problem = str(error)
        except Exception as error:
            logger.exception("A worker of %s could not be made", self._project)
            problem = f"{type(error).__name__}: {error}"
        if problem and process is not None:
            process.close()
            process = None
        try:
            self._loop.call_soon_threadsafe(self._made, process, code, problem)
        except RuntimeError:
            if process is not None:
                process.close()
