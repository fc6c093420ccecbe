"""
The handle of one request: get, cancel, block, getError, onSuccess, onError, and await.

The manual's sentences stand where they are fulfilled; what the manual leaves open is decided in
docs/design.md.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, Protocol

from headgate.errors import CancellationException, RequestError
from headgate.invocation import Fate, Invocation, current_invocation
from headgate.outcome import Failure, Outcome, Success

__all__ = ["Callback", "Request", "Requester", "refuse_on_event_loop"]

logger = logging.getLogger("headgate.request")

Callback = Callable[[Any], Any]
"""A function of one argument: the result, the error or the progress value."""

FINAL_FATES = frozenset({Fate.NOT_STARTED, Fate.STOPPED, Fate.FINISHED})

_long_ids = itertools.count(1)


class Requester(Protocol):
    """What a handle needs of the client or gateway that made it."""

    def decode(self, data: bytes) -> Any:
        """Turn an encoded result into a value; raises PayloadError."""

    def invoke(self, function: Callable[[], None]) -> None:
        """Run the function on the callback thread, soon and in order."""

    def withdraw(self, request: Request) -> None:
        """Tell the executing side that the request is cancelled."""


def refuse_on_event_loop(what: str, instead: str) -> None:
    """
    Refuse to block the thread of a running event loop.

    Args:
        what: The call that would block, for the message.
        instead: What to write there.

    Raises:
        RuntimeError: An asyncio event loop runs on this thread.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            f"{what} would block the event loop that runs on this thread. Write: {instead}"
        )


class Request:
    """
    Handle of one request to a message handler.

    A request ends exactly once: with a result, an error, a timeout or a cancellation. Every
    method may be called from any thread; in asyncio code, of any loop, `await request` gives the
    result. Cancelling the task that awaits cancels the request; `asyncio.shield` keeps it.
    """

    __slots__ = (
        "_decode",
        "_error_slot",
        "_fate",
        "_lock",
        "_long_id",
        "_outcome",
        "_progress",
        "_progress_slot",
        "_requester",
        "_started",
        "_success_slot",
        "_waiters",
        "deadline",
        "handler",
        "invocation",
        "project",
        "sequence",
        "session",
    )

    def __init__(
        self,
        requester: Requester,
        project: str,
        handler: str,
        *,
        deadline: float,
        on_success: Callback | None = None,
        on_error: Callback | None = None,
        on_progress: Callback | None = None,
    ) -> None:
        self._requester = requester
        self.project = project
        """Name of the project."""
        self.handler = handler
        """Name of the message handler."""
        self.deadline = deadline
        """When the request must be over, on the monotonic clock, in seconds."""
        self.session = ""
        self.sequence = 0
        self.invocation: Invocation | None = None
        self._success_slot = on_success
        self._error_slot = on_error
        self._progress_slot = on_progress
        self._progress: list[bytes] | None = None
        self._lock = threading.Lock()
        self._outcome: Outcome | None = None
        self._decode = True
        self._started: bool | None = False
        self._fate = ""
        self._waiters: list[Callable[[], None]] | None = None
        self._long_id = 0

    # --- the manual's methods --------------------------------------------------------------------

    def get(self) -> Any:
        """
        Wait for the result.

        Returns:
            What the message handler returned.

        Raises:
            RequestError: The request failed, timed out or was cancelled; see `headgate.errors`.
            RuntimeError: An event loop runs on this thread: write ``await request`` there.
        """
        # Manual: "Block for result, throw an exception on failure."
        self._wait("get()", "await request")
        return self.result()

    def cancel(self) -> bool:
        """
        Cancel the request.

        It ends at once, and the executing side is told to stop the handler as far as it can;
        `wait_fate` tells what became of it.

        Returns:
            True if this call ended the request, False if it was over already.
        """
        # Manual: "Cancel the request. Any completion callback will be called with
        # CancellationException". It is an error: the error callback gets it.
        error = CancellationException(
            f"The request to {self.project}/{self.handler} was cancelled",
            request_id=self.request_id,
        )
        if not self.end(Failure(error)):
            return False
        self._requester.withdraw(self)
        return True

    def block(self) -> bool:
        """
        Wait until the request is over.

        Returns:
            True if it succeeded, False if it failed; `getError` then gives the error.

        Raises:
            RuntimeError: An event loop runs on this thread: await the request there.
        """
        # Manual: "Like get(), but will return a Boolean True or False once complete, indicating
        # completion success. If False, call getError() to get the exception object."
        self._wait("block()", "await request")
        return isinstance(self._settle(), Success)

    def getError(self) -> RequestError | None:
        """
        Wait until the request is over.

        Returns:
            The error that it ended with, also a timeout or a cancellation; None if it succeeded.

        Raises:
            RuntimeError: An event loop runs on this thread: await the request there.
        """
        # Manual: "Returns the error result or null. Similar to get(), in that this will block for
        # a result."
        self._wait("getError()", "await request")
        return self.error()

    def onSuccess(self, function: Callback | None) -> None:
        """
        Set, replace or (with None) clear the function that gets the result.

        Args:
            function: Takes one argument. It runs once, on the callback thread; promptly if the
                request has succeeded already.
        """
        # Manual: "Will set a function to run on a successful completion callback or set a new one
        # if one was already defined in the sendRequestAsync call."
        _require_callable(function, "onSuccess")
        with self._lock:
            self._success_slot = function
            over = self._outcome is not None
        if over:
            self._requester.invoke(self._fire)

    def onError(self, function: Callback | None) -> None:
        """
        Set, replace or (with None) clear the function that gets the error.

        Args:
            function: Takes one argument, a `RequestError`. It runs once, on the callback thread;
                promptly if the request has failed already.
        """
        # Manual: "Will set a function to run on a failed completion callback or set a new one if
        # one was already defined in the sendRequestAsync call."
        _require_callable(function, "onError")
        with self._lock:
            self._error_slot = function
            over = self._outcome is not None
        if over:
            self._requester.invoke(self._fire)

    def getLongId(self) -> int:
        """Return a number that no other handle of this process has."""
        with self._lock:
            if not self._long_id:
                self._long_id = next(_long_ids)
            return self._long_id

    # --- Python's names --------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the request is over."""
        return self._outcome is not None

    @property
    def started(self) -> bool | None:
        """
        Whether the handler began to run: True, False, or None where nobody can know.

        It is fixed when the request ends. Only False makes it safe to send the request again.
        """
        return self._started

    @property
    def fate(self) -> str:
        """
        What became of the handler, as far as it is known.

        One of ``"not started"``, ``"stopped"``, ``"still running"``, ``"finished"`` and
        ``"unknown"``. After a cancellation or a timeout the executing side updates it, for up to
        60 seconds.
        """
        if self._fate:
            return self._fate
        if self._started is False and self.done:
            return Fate.NOT_STARTED
        return Fate.UNKNOWN

    @property
    def request_id(self) -> str:
        """The request's id, 32 hex digits; empty until it is sent."""
        return f"{self.session}{self.sequence:012x}" if self.session else ""

    def result(self) -> Any:
        """
        Return the result of a request that is over.

        Raises:
            RequestError: The error that the request ended with.
            RuntimeError: It is not over.
        """
        outcome = self._settle()
        if isinstance(outcome, Success):
            return outcome.value
        raise outcome.error.with_traceback(None)

    def error(self) -> RequestError | None:
        """
        Return the error of a request that is over, None if it succeeded.

        Raises:
            RuntimeError: It is not over.
        """
        outcome = self._settle()
        return outcome.error if isinstance(outcome, Failure) else None

    def wait_fate(self, timeout: float = 60.0) -> str:
        """
        Wait until it is known for good what became of the handler.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            The last known `fate`.

        Raises:
            RuntimeError: An event loop runs on this thread.
        """
        if self.fate not in FINAL_FATES:
            refuse_on_event_loop("wait_fate()", "await asyncio.to_thread(request.wait_fate)")
            latch = threading.Event()
            end = time.monotonic() + timeout
            while self._add_waiter(latch.set, until_fate=True):
                if not latch.wait(max(0.0, end - time.monotonic())):
                    break
                latch.clear()
        return self.fate

    def __await__(self) -> Generator[Any, None, Any]:
        if self._outcome is None:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            if self._add_waiter(_Wake(loop, future)):
                try:
                    yield from future
                except asyncio.CancelledError:
                    self.cancel()
                    raise
        return self.result()

    def __repr__(self) -> str:
        outcome = self._outcome
        if outcome is None:
            state = "open"
        elif isinstance(outcome, Success):
            state = "succeeded"
        else:
            state = f"failed: {type(outcome.error).__name__}"
        return f"<Request {self.project}/{self.handler} {state}>"

    # --- for the client or gateway that made it ---------------------------------------------------

    def end(self, outcome: Outcome) -> bool:
        """
        End the request, if it is not over yet.

        An error that does not say whether the handler started gets what the handle knows.

        Returns:
            True if this call ended it.
        """
        with self._lock:
            if self._outcome is not None:
                return False
            if type(outcome) is Success:
                self._started = True
                self._fate = Fate.FINISHED
            else:
                self._fix_started(outcome.error)
            self._outcome = outcome
            waiters, self._waiters = self._waiters, None
            called_back = self._success_slot is not None or self._error_slot is not None
        if waiters is not None:
            for wake in waiters:
                wake()
        if called_back:
            self._requester.invoke(self._fire)
        return True

    def hand_over(self, session: str, sequence: int) -> bool:
        """
        Note that the request is now given to a transport, under this id.

        Returns:
            False if the request is over already: then it must not be sent.
        """
        with self._lock:
            if self._outcome is not None:
                return False
            self.session = session
            self.sequence = sequence
            self._started = None
            return True

    def note_started(self) -> None:
        """Note the executing side's word that the handler runs."""
        with self._lock:
            if self._outcome is None:
                self._started = True

    def note_progress(self, data: bytes) -> None:
        """Hand an encoded progress value to the callback; a newer one replaces one that waits."""
        with self._lock:
            if self._outcome is not None:
                return
            self._started = True
            waiting, self._progress = self._progress, [data]
            if waiting or self._progress_slot is None:
                return
        self._requester.invoke(self._fire_progress)

    def note_fate(self, fate: str) -> None:
        """Note what the executing side learned of the handler."""
        with self._lock:
            if self._fate in FINAL_FATES:
                return
            self._fate = fate
            waiters, self._waiters = self._waiters, None
        for wake in waiters or ():
            wake()

    # --- inside ----------------------------------------------------------------------------------

    def _fix_started(self, error: RequestError) -> None:
        if error.started is None:
            error.started = self._started
        self._started = error.started
        if not error.request_id:
            error.request_id = self.request_id
        if error.code == "handler_error":
            self._fate = Fate.FINISHED

    def _settle(self) -> Outcome:
        """Decode the result, once, on the thread that is the first to want it."""
        outcome = self._outcome
        if outcome is None:
            raise RuntimeError(f"{self!r} is not over yet")
        if self._decode:
            with self._lock:
                if self._decode:
                    self._outcome = outcome = self._decoded(self._outcome)
                    self._decode = False
                else:
                    outcome = self._outcome
        assert outcome is not None
        return outcome

    def _decoded(self, outcome: Outcome | None) -> Outcome | None:
        if type(outcome) is not Success:
            return outcome
        try:
            return Success(self._requester.decode(outcome.value))
        except RequestError as error:
            error.started, error.request_id = True, self.request_id
            return Failure(error)

    def _add_waiter(self, wake: Callable[[], None], *, until_fate: bool = False) -> bool:
        """Register a function to call at the end; False if there is nothing to wait for."""
        with self._lock:
            over = self._outcome is not None
            if over and (not until_fate or self._fate in FINAL_FATES or self._started is False):
                return False
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(wake)
            return True

    def _wait(self, what: str, instead: str) -> None:
        if self._outcome is not None:
            return
        refuse_on_event_loop(what, instead)
        latch = threading.Lock()
        latch.acquire()
        if not self._add_waiter(latch.release):
            return
        running = current_invocation.get()
        slot = running.slot if running is not None else None
        if slot is None:
            latch.acquire()
            return
        slot.leave(self)
        try:
            latch.acquire()
        finally:
            slot.enter()

    def _fire(self) -> None:
        """Run the callback that fits the outcome, if it is set and has not run."""
        outcome = self._settle()
        # The slot is read and marked as fired in one step: what is set later runs as a new one.
        with self._lock:
            if isinstance(outcome, Success):
                function, self._success_slot = self._success_slot, None
            else:
                function, self._error_slot = self._error_slot, None
        if function is not None:
            argument = outcome.value if isinstance(outcome, Success) else outcome.error
            self._call(function, argument)

    def _fire_progress(self) -> None:
        with self._lock:
            waiting, self._progress = self._progress, None
            function = self._progress_slot
        if waiting and function is not None:
            self._call(function, self._requester.decode(waiting[0]))

    def _call(self, function: Callback, argument: Any) -> None:
        try:
            function(argument)
        except Exception:
            logger.exception("A callback of the request to %s failed", self)


class _Wake:
    """Wakes a coroutine that awaits a request, on its own loop."""

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
        self._loop = loop
        self._future = future

    def __call__(self) -> None:
        if asyncio._get_running_loop() is self._loop:
            self._set()
            return
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            # The loop was closed while the coroutine waited: nobody is left to be woken.
            logger.debug("The event loop that awaited a request is closed")

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


def _require_callable(function: Callback | None, name: str) -> None:
    if function is not None and not callable(function):
        raise TypeError(f"{name} takes a function of one argument or None, not {function!r}")
