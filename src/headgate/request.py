"""
The handle of one request: get, cancel, block, getError, onSuccess, onError, and await.

The manual's sentences stand where they are fulfilled; what the manual leaves open is decided in
docs/design.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from asyncio import Future, _get_running_loop
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol, TypeVar

import msgspec

from headgate.errors import CancellationException, PayloadError, RequestError
from headgate.invocation import Fate, Invocation, current_invocation
from headgate.outcome import LARGE, Encoded, Failure, Outcome, Success
from headgate.stream import MAX_GATHERED, Stream, Values

__all__ = ["Callback", "Request", "Requester", "refuse_on_event_loop"]

logger = logging.getLogger("headgate.request")

Value = TypeVar("Value")

Callback = Callable[[Any], Any]
"""A function of one argument: the result, the error or the progress value."""

Waiter = Callable[[], None] | asyncio.Future[None]
"""Whoever waits for the end: a thread's wake-up, or a coroutine's future."""

_long_ids = itertools.count(1)


class Requester(Protocol):
    """What a handle needs of the client or gateway that made it."""

    def decode(self, data: bytes) -> Any:
        """Turn an encoded result into a value; raises PayloadError."""

    def future(self) -> Future[None]:
        """Return a new future of the event loop that runs on this thread."""

    def invoke(self, function: Callable[[], None]) -> None:
        """Run the function on the callback thread, soon and in order."""

    def withdraw(self, request: Request) -> None:
        """Tell the executing side that the request is cancelled."""

    def grant(self, request: Request, total: int) -> None:
        """Tell the executing side how many bytes of yielded values are taken in all."""


def refuse_on_event_loop(what: str, instead: str) -> None:
    """
    Refuse to block the thread of a running event loop.

    Args:
        what: The call that would block, for the message.
        instead: What to write there.

    Raises:
        RuntimeError: An asyncio event loop runs on this thread.
    """
    if _get_running_loop() is not None:
        raise RuntimeError(
            f"{what} would block the event loop that runs on this thread. Write: {instead}"
        )


# One lock for all handles: what it guards are a few assignments, and a lock for each handle would
# cost more than they do. It is reentrant and taken by `with` alone, because a signal's handler may
# cancel a request, or raise, in the middle of anything that this thread does.
_lock = threading.RLock()


class Request(msgspec.Struct, eq=False):
    """
    Handle of one request to a message handler.

    A request ends exactly once: with a result, an error, a timeout or a cancellation. Every
    method may be called from any thread; in asyncio code, of any loop, `await request` gives the
    result. Cancelling the task that awaits cancels the request; `asyncio.shield` keeps it.
    """

    # A Struct, because its fields are set in C: the handle is made once for each request.
    _requester: Requester
    project: str
    """Name of the project."""
    handler: str
    """Name of the message handler."""
    deadline: float
    """When the request must be over, on the monotonic clock, in seconds."""
    _success_slot: Callback | None = None
    _error_slot: Callback | None = None
    _progress_slot: Callback | None = None
    session: str = ""
    """The session that numbered the request, as 20 hex digits; empty until it is sent."""
    sequence: int = 0
    """The request's number in that session."""
    invocation: Invocation | None = None
    """What the request is on a gateway of this process; None where it is on another."""
    made_in: Invocation | None = None
    """The invocation whose handler made the request; its callbacks are called on its behalf."""
    streams: bool = True
    """Whether it takes the values of a generator; a message's handle does not."""
    values: Values | None = None
    """What a generator has yielded; None as long as that is nothing."""
    _progress: list[bytes] | None = None
    _outcome: Outcome | None = None
    _started: bool = False
    _fate: str = ""
    _waiters: list[Waiter] = []
    _long_id: int = 0

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

    def stream(self) -> Stream:
        """
        Read the values that the handler yields, one by one, as they come.

        ::

            for value in request.stream(): ...
            async for value in request.stream(): ...

        The handler waits while 256 KiB of values are not read. After the last one the loop ends;
        if the request ends in another way, the values that came before come first, and then its
        error is raised. A handler that yields nothing but returns gives its result as one value.

        Values that are read here are no part of the result: `get` and `onSuccess` give None then.
        Without `stream` they give a list of all values. To leave the loop before its end cancels
        the request.
        """
        with _lock:
            values = self._open_values()
            values.is_read = True
        return Stream(self, values, self._requester)

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
        with _lock:
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
        with _lock:
            self._error_slot = function
            over = self._outcome is not None
        if over:
            self._requester.invoke(self._fire)

    def getLongId(self) -> int:
        """Return a number that no other handle of this process has."""
        with _lock:
            if not self._long_id:
                self._long_id = next(_long_ids)
            return self._long_id

    # --- Python's names --------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the request is over."""
        return self._outcome is not None

    @property
    def yielded(self) -> bool:
        """
        Whether the handler has yielded a value, so that its values are the result.

        Of a handler that yields none it becomes True when the result is looked at.
        """
        values = self.values
        return values is not None and (values.arrived > 0 or values.is_over)

    @property
    def started(self) -> bool | None:
        """
        Whether the handler began to run: True, False, or None where nobody can know.

        It is fixed when the request ends. Only False makes it safe to send the request again.
        """
        outcome = self._outcome
        if isinstance(outcome, Failure):
            return outcome.error.started
        return True if outcome is not None else self._known_started()

    @property
    def fate(self) -> str:
        """
        What became of the handler, as far as it is known.

        ``"not started"``: it never begins. ``"stopped"``: it was cut off, and nothing of it goes
        on. ``"still running"``: it goes on. ``"finished"``: it came to its own end. ``"unknown"``:
        nobody can know, or the request is not over. After a cancellation or a timeout the executing
        side updates it, for up to 60 seconds.
        """
        outcome = self._outcome
        if self._fate or outcome is None:
            return self._fate or Fate.UNKNOWN
        return Fate.of(outcome)

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
        if self.fate not in Fate.FINAL:
            refuse_on_event_loop("wait_fate()", "await asyncio.to_thread(request.wait_fate)")
            latch = threading.Event()
            end = time.monotonic() + timeout
            while self._add_waiter(latch.set, until_fate=True):
                if not latch.wait(max(0.0, end - time.monotonic())):
                    self._remove_waiter(latch.set)
                    break
                latch.clear()
        return self.fate

    def __await__(self) -> Generator[Any, None, Any]:
        if self._outcome is None:
            future = self._requester.future()
            self._waiters.append(future)
            if self._outcome is None:
                # Written out, as in `awaited`: a generator less for each request.
                running = current_invocation.get()
                awaits = running.awaits if running is not None else None
                if running is not None and awaits is not None:
                    awaits(running, self.invocation)
                try:
                    yield from future
                except asyncio.CancelledError:
                    self.cancel()
                    raise
                finally:
                    if running is not None and awaits is not None:
                        awaits(running, None)
        if self._encoded_bytes() >= LARGE:
            yield from asyncio.to_thread(self._settle).__await__()
        return self.result()

    def __repr__(self) -> str:
        outcome = self._outcome
        if outcome is None:
            state = "open"
        elif not isinstance(outcome, Failure):
            state = "succeeded"
        else:
            state = f"failed: {type(outcome.error).__name__}"
        return f"<Request {self.project}/{self.handler} {state}>"

    # --- for the client or gateway that made it ---------------------------------------------------

    def end(self, outcome: Outcome, loop: asyncio.AbstractEventLoop | None = None) -> bool:
        """
        End the request, if it is not over yet.

        An error that does not say whether the handler started gets what the handle knows.

        Args:
            outcome: How it ended.
            loop: The event loop that runs on this thread, if the caller knows it.

        Returns:
            True if this call ended it.
        """
        with _lock:
            # Nothing is called between the look and the assignment, so no signal comes between.
            if self._outcome is not None:
                return False
            self._outcome = outcome
            if type(outcome) is Failure:
                self._fix_started(outcome.error)
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            _wake(waiters, loop or _get_running_loop())
        if self._success_slot is not None or self._error_slot is not None:
            self._requester.invoke(self._fire)
        return True

    def hand_over(self, session: str, sequence: int) -> bool:
        """
        Note that the request is now given to a transport, under this id.

        Returns:
            False if the request is over already: then it must not be sent.
        """
        with _lock:
            if self._outcome is not None:
                return False
            self.session = session
            self.sequence = sequence
            return True

    def take_back(self, error: RequestError) -> bool:
        """
        Take the request back from the transport, so that it can be sent again.

        Args:
            error: How the try failed; if it does not say whether the handler started, it gets what
                the handle knows.

        Returns:
            False if the request is over, or its handler may have begun.
        """
        with _lock:
            if self._outcome is not None:
                return False
            self._fix_started(error)
            if error.started is not False:
                return False
            self.session, self.sequence = "", 0
            return True

    def note_started(self) -> None:
        """Note the executing side's word that the handler runs."""
        with _lock:
            if self._outcome is None:
                self._started = True

    def note_progress(self, data: bytes) -> None:
        """Hand an encoded progress value to the callback; a newer one replaces one that waits."""
        with _lock:
            if self._outcome is not None:
                return
            self._started = True
            waiting, self._progress = self._progress, [data]
            if waiting or self._progress_slot is None:
                return
        self._requester.invoke(self._fire_progress)

    def note_yielded(self, parts: list[bytes]) -> None:
        """Take the next encoded values that the handler yielded."""
        with _lock:
            if self._outcome is not None:
                return
            self._started = True
            values = self._open_values()
            values.add(parts)
        if not values.is_read:
            if values.gathered > MAX_GATHERED:
                self._end_too_large()
            elif values.arrived >= values.due_at:
                self._requester.grant(self, values.next_grant(values.arrived))
        _wake(values.take_waiters(), _get_running_loop())

    def _end_too_large(self) -> None:
        error = PayloadError(
            f"The values of {self.project}/{self.handler} have more than {MAX_GATHERED:,} bytes "
            "together, too many for one list. Read them one by one, with request.stream()",
            place="result",
            started=True,
        )
        if self.end(Failure(error)):
            self._requester.withdraw(self)

    def note_late(self, outcome: Outcome) -> None:
        """Note what an outcome that came after the end says of the handler."""
        fate = Fate.of(outcome)
        if fate != Fate.UNKNOWN:
            self.note_fate(fate)

    def note_fate(self, fate: str) -> None:
        """Note what the executing side learned of the handler."""
        with _lock:
            if self._fate in Fate.FINAL:
                return
            self._fate = fate
            if self._outcome is None:
                return  # whoever waits, waits for the end
        waiters, self._waiters = self._waiters, []
        _wake(waiters, _get_running_loop())

    # --- for a stream of its values ---------------------------------------------------------------

    @contextlib.contextmanager
    def woken_by(self, values: Values, waiter: Waiter) -> Iterator[bool]:
        """Have somebody woken by the next values or the end; gives whether to wait for that."""
        values.waiters.append(waiter)
        is_open = self._add_waiter(waiter)
        try:
            yield is_open and not values.parts
        finally:
            self._remove_waiter(waiter)
            with contextlib.suppress(ValueError):
                values.waiters.remove(waiter)

    def wait_for_value(self, event: threading.Event) -> None:
        """Wait on this thread, as `get` does."""
        refuse_on_event_loop("To read a stream", "async for value in request.stream()")
        self._block(event.wait)

    async def awaited(self, future: Future[None]) -> None:
        """Wait for a future in a task, as ``await request`` does."""
        running = current_invocation.get()
        awaits = running.awaits if running is not None else None
        if running is not None and awaits is not None:
            awaits(running, self.invocation)
        try:
            await future
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            if running is not None and awaits is not None:
                awaits(running, None)

    # --- inside ----------------------------------------------------------------------------------

    def _open_values(self) -> Values:
        if self.values is None:
            self.values = Values()
        return self.values

    def _known_started(self) -> bool | None:
        """A request that was never given to a transport certainly did not start."""
        if self._started:
            return True
        return None if self.session else False

    def _fix_started(self, error: RequestError) -> None:
        # Once the handler was seen to run, no error can say that it did not.
        if error.started is None or self._started:
            error.started = self._known_started()
        if not error.request_id:
            error.request_id = self.request_id

    def _encoded_bytes(self) -> int:
        """Give the size of a result that still has to be decoded; 0 without one."""
        outcome = self._outcome
        if type(outcome) is not Encoded:
            return 0
        if not outcome.data and self.values is not None and not self.values.is_read:
            return self.values.gathered
        return len(outcome.data)

    def _settle(self) -> Success | Failure:
        """Return the outcome, decoded on the thread that is the first to want it."""
        outcome = self._outcome
        if outcome is None:
            raise RuntimeError(f"{self!r} is not over yet")
        if not isinstance(outcome, Encoded):
            return outcome
        decoded: Success | Failure
        try:
            data = outcome.data
            decoded = Success(self._requester.decode(data) if data else self._gathered())
        except RequestError as error:
            error.started, error.request_id = True, self.request_id
            self._fate = Fate.FINISHED
            decoded = Failure(error)
        # Of two threads that decoded at once, the first one's value is everybody's.
        if self._outcome is outcome:
            self._outcome = decoded
            return decoded
        return self._settle()

    def _gathered(self) -> Any:
        """Return the result of a generator that came to its end."""
        values = self._open_values()
        values.is_over = True
        return None if values.is_read else values.as_list(self._requester)

    def _add_waiter(self, waiter: Waiter, *, until_fate: bool = False) -> bool:
        """
        Register whom to wake at the end; False if there is nothing to wait for.

        Whoever ends the request does so before it looks at the list; here the list comes before
        the look. So a waiter is woken, or sees that it need not wait.
        """
        self._waiters.append(waiter)
        return self._outcome is None or (until_fate and self.fate not in Fate.FINAL)

    def _remove_waiter(self, waiter: Waiter) -> None:
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)

    def _wait(self, what: str, instead: str) -> None:
        if self._outcome is not None:
            return
        refuse_on_event_loop(what, instead)
        latch = threading.Lock()
        latch.acquire()
        if self._add_waiter(latch.release):
            self._block(latch.acquire)

    def _block(self, wait: Callable[[], Any]) -> None:
        """Call what waits for the handler; one that asked for it gives its place back meanwhile."""
        running = current_invocation.get()
        slot = running.slot if running is not None else None
        left = slot is not None and slot.leave(self.invocation)
        try:
            wait()
        finally:
            if slot is not None and left:
                slot.enter()

    def _fire(self) -> None:
        _beside_loop(self._encoded_bytes(), self._settle, self._fire_settled)

    def _fire_settled(self, settle: Callable[[], Success | Failure]) -> None:
        """Run the callback that fits the outcome, if it is set and has not run."""
        outcome = settle()
        # The slot is read and marked as fired in one step: what is set later runs as a new one.
        with _lock:
            if isinstance(outcome, Success):
                function, self._success_slot = self._success_slot, None
            else:
                function, self._error_slot = self._error_slot, None
        if function is not None:
            argument = outcome.value if isinstance(outcome, Success) else outcome.error
            self._call(function, argument)

    def _fire_progress(self) -> None:
        with _lock:
            waiting, self._progress = self._progress, None
            function = self._progress_slot
        if waiting and function is not None:
            data, call = waiting[0], function
            _beside_loop(
                len(data),
                lambda: self._requester.decode(data),
                lambda decode: self._call_progress(call, decode),
            )

    def _call_progress(self, function: Callback, decode: Callable[[], Any]) -> None:
        try:
            value = decode()
        except RequestError as error:
            logger.warning("A progress value of %s was dropped: %s", self, error)
        else:
            self._call(function, value)

    def _call(self, function: Callback, argument: Any) -> None:
        made_in = self.made_in
        token = current_invocation.set(None if made_in is None else made_in.detached())
        try:
            function(argument)
        except (Exception, SystemExit):
            # SystemExit would end the callback thread, or the event loop that runs the callback.
            logger.exception("A callback of the request to %s failed", self)
        finally:
            current_invocation.reset(token)


def _beside_loop(
    size: int, decode: Callable[[], Value], then: Callable[[Callable[[], Value]], None]
) -> None:
    """
    Call a function with what decodes a value of so many bytes.

    On the thread of an event loop a large one is decoded by another thread before, so that the
    loop goes on; what ended after it may come first there.
    """
    # Whether a loop runs here is asked last: it costs a system call.
    if size < LARGE or (loop := _get_running_loop()) is None:
        then(decode)
    else:
        loop.run_in_executor(None, decode).add_done_callback(lambda done: then(done.result))


def _wake(waiters: list[Waiter], running: asyncio.AbstractEventLoop | None) -> None:
    for waiter in waiters:
        if not isinstance(waiter, Future):
            waiter()
        elif (loop := waiter.get_loop()) is not running:
            _wake_elsewhere(loop, waiter)
        elif not waiter.done():
            waiter.set_result(None)


_elsewhere: dict[asyncio.AbstractEventLoop, list[Future[None]]] = {}
"""Futures of other threads' event loops that are to be set; each loop is woken for the first."""


def _wake_elsewhere(loop: asyncio.AbstractEventLoop, future: Future[None]) -> None:
    with _lock:
        waiting = _elsewhere.get(loop)
        if waiting is not None:
            waiting.append(future)
            return
        # A loop that was closed before it came to its futures is gone, and they with it.
        for closed in [each for each in _elsewhere if each.is_closed()]:
            del _elsewhere[closed]
        _elsewhere[loop] = [future]
    try:
        loop.call_soon_threadsafe(_set_waiting, loop)
    except RuntimeError:
        # The loop was closed while the coroutine waited: nobody is left to be woken.
        _take_waiting(loop)
        logger.debug("The event loop that awaited a request is closed")
    except BaseException:
        # A signal's handler raised here, and nobody knows whether the loop was woken.
        loop.call_soon_threadsafe(_set_all, _take_waiting(loop))
        raise


def _set_waiting(loop: asyncio.AbstractEventLoop) -> None:
    _set_all(_take_waiting(loop))


def _take_waiting(loop: asyncio.AbstractEventLoop) -> list[Future[None]]:
    with _lock:
        return _elsewhere.pop(loop, [])


def _set_all(futures: list[Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _require_callable(function: Callback | None, name: str) -> None:
    if function is not None and not callable(function):
        raise TypeError(f"{name} takes a function of one argument or None, not {function!r}")
