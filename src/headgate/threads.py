"""Event loops on threads of their own, batched hops onto a loop, the callback thread, clocks."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

__all__ = [
    "CallbackThread",
    "LoopThread",
    "Mailbox",
    "cpu_clock",
    "new_event_loop",
    "to_its_end",
]

logger = logging.getLogger("headgate.threads")

BURST = 64
"""Things that a thread hands to a loop before it lets the loop have them."""

LONGEST_WAY = 0.001
"""Seconds that a thread waits at most until the loop has taken them."""

Item = TypeVar("Item")
Value = TypeVar("Value")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def to_its_end(work: Coroutine[Any, Any, Item]) -> Item:
    """Wait for work that goes on although whoever waits for it is cancelled, and return it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task


def cpu_clock() -> int | None:
    """
    Return the clock of the processor time that this thread uses, for `time.clock_gettime`.

    Any thread of the process may read it; once this one has ended that is an OSError. macOS and
    Windows have no such clock: None.
    """
    if hasattr(time, "pthread_getcpuclockid"):
        return time.pthread_getcpuclockid(threading.get_ident())
    return None


class Mailbox(Generic[Item]):
    """
    Hands things from any thread to a function on an event loop, in order.

    The loop is woken once for all that is posted until it gets to look: a wake-up costs more than
    the rest of a hop.

    Args:
        loop: Where `take` runs.
        take: Gets the items one by one.
        after: Runs once after the items of one turn.
    """

    __slots__ = ("_after", "_closed", "_items", "_latches", "_loop", "_take", "_waking")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[Item], None],
        after: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._take = take
        self._after = after
        self._items: deque[Item] = deque()
        self._waking = False
        self._closed = False
        self._latches: list[threading.Lock] = []

    def __len__(self) -> int:
        return len(self._items)

    def post(self, item: Item) -> bool:
        """
        Hand an item over.

        Returns:
            False if the mailbox or the loop is closed: then whoever posts sees to `take_all`.
        """
        # It looks after the append: what it then finds open is there for the `take_all` of whoever
        # closes.
        self._items.append(item)
        return not self._closed and (self._waking or self.wake())

    def put(self, item: Item) -> None:
        """Leave an item without waking the loop; `wake`, or a `drain` on the loop, must follow."""
        self._items.append(item)

    def wake(self) -> bool:
        """
        Wake the loop for what was put.

        Returns:
            False if the mailbox or the loop is closed, so that nothing will be taken.
        """
        if self._closed:
            return False
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self.drain)
            except RuntimeError:
                self._waking = False
                return False
        return True

    def give_way(self) -> None:
        """
        Let the loop take what was posted before this thread goes on, if it can soon.

        A thread that never waits keeps the interpreter for milliseconds. The loop, and with it the
        peer, would have nothing to do meanwhile, and all to do at once after that.
        """
        latch = threading.Lock()
        latch.acquire()
        self._latches.append(latch)
        if self.wake():
            latch.acquire(timeout=LONGEST_WAY)

    def close(self) -> None:
        """Take nothing any more; `take_all` must follow. Runs on the loop, or when it is closed."""
        self._closed = True

    def take_all(self) -> list[Item]:
        """Return what was posted and not taken, each item once; for what is closed."""
        taken: list[Item] = []
        try:
            while True:
                taken.append(self._items.popleft())
        except IndexError:
            return taken

    def drain(self) -> None:
        """Take what was posted; runs on the loop."""
        if self._closed:
            return
        # The flag falls before the items are taken: what is posted meanwhile wakes the loop again.
        self._waking = False
        items, take = self._items, self._take
        for _ in range(len(items)):
            try:
                take(items.popleft())
            except Exception:
                logger.exception("Something that was handed to the event loop failed")
        if self._after is not None:
            self._after()
        if self._latches:
            latches, self._latches = self._latches, []
            for latch in latches:
                latch.release()


class LoopThread:
    """
    An event loop that runs on a thread of its own.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self.loop = new_event_loop()
        self.clock: int | None = None
        """Its `cpu_clock`, once it runs."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def ident(self) -> int | None:
        """The thread's identifier, once it runs."""
        return self._thread.ident

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Value], timeout: float | None = None) -> Value:
        """
        Run a coroutine on the loop and wait for what it returns.

        Raises:
            RuntimeError: This is the loop's own thread, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                f"The thread {self._thread.name} would wait for itself: await the coroutine there"
            )
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def stop(self, timeout: float | None = None) -> None:
        """
        Stop the loop, wait for the thread and close the loop.

        On the loop's own thread it does not wait: the loop ends after its present turn.

        Args:
            timeout: Seconds to wait for the thread; if something blocks it for longer it is left
                behind. Default: as long as it takes.
        """
        if self._thread.ident is None:
            self.loop.close()
            return
        with suppress(RuntimeError):  # the thread has closed its loop already
            self.loop.call_soon_threadsafe(self.loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        self.clock = cpu_clock()
        asyncio.set_event_loop(self.loop)
        try:
            while not self._ran_until_stopped():
                pass
            self._cancel_tasks()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def _ran_until_stopped(self) -> bool:
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # A task that wants to end the program ends itself: others live on this loop too.
            logger.exception("A task on the thread %s wanted to exit", self._thread.name)
            return False
        return True

    def _cancel_tasks(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())


class CallbackThread:
    """
    The one thread on which callbacks run, in order; it starts with the first of them.

    After `close` it ends when nothing is left to run.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        return self._work.qsize()

    def invoke(self, function: Callable[[], None]) -> None:
        """Run the function on the callback thread, after what was given before it."""
        self._work.put(function)
        if self._thread is None:
            self._start()

    def close(self, timeout: float = 5.0) -> None:
        """
        Run what was given so far, then end the thread.

        A callback that blocks for longer than `timeout` seconds is left behind.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
            if thread is not None:
                self._work.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not (self._closed and self._ended()):
            function = self._work.get()
            if function is not None:
                self._call(function)
            # A handle hangs on it, and a result on that: not for as long as nothing follows.
            del function

    def _ended(self) -> bool:
        """End the thread if nothing is left; what comes after the close starts another one."""
        with self._lock:
            # The thread is gone before the look: what comes after it starts another one.
            thread, self._thread = self._thread, None
            if self._work.empty():
                return True
            self._thread = thread
            return False

    def _call(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException:
            # Also sys.exit(): there would be no thread for the callbacks after it.
            logger.exception("A function on the callback thread failed")
