"""Hops between threads and event loops: in order, coalesced, and never lost."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headgate.threads import CallbackThread, LoopThread, Mailbox, new_event_loop

THREADS = 8


class CountingLoop:
    """Stands for an event loop: notes what is scheduled, and runs it when the test says so."""

    def __init__(self) -> None:
        self.scheduled: list[Callable[[], None]] = []
        self.closed = False

    def call_soon_threadsafe(self, function: Callable[[], None]) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.scheduled.append(function)

    def turn(self) -> None:
        scheduled, self.scheduled = self.scheduled, []
        for function in scheduled:
            function()


def mailbox_on(
    loop: Any, take: Callable[[Any], None], after: Callable[[], None] | None = None
) -> Mailbox[Any]:
    return Mailbox(loop, take, after)


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread("test-loop")
    thread.start()
    yield thread
    thread.stop()


# --- Mailbox --------------------------------------------------------------------------------------


def test_one_wake_up_for_all_that_is_posted() -> None:
    """What is posted until the loop gets to look wakes it once, and arrives in order."""
    loop, taken, turns = CountingLoop(), [], []
    mailbox = mailbox_on(loop, taken.append, lambda: turns.append(len(taken)))
    assert all(mailbox.post(item) for item in range(100))
    assert len(loop.scheduled) == 1
    assert len(mailbox) == 100
    loop.turn()
    assert taken == list(range(100))
    assert turns == [100]
    assert len(mailbox) == 0


def test_a_later_post_wakes_the_loop_again() -> None:
    """After the loop has looked, the next post wakes it anew."""
    loop, taken = CountingLoop(), []
    mailbox = mailbox_on(loop, taken.append)
    mailbox.post(1)
    loop.turn()
    mailbox.post(2)
    assert len(loop.scheduled) == 1
    loop.turn()
    assert taken == [1, 2]


def test_what_is_posted_meanwhile_comes_in_the_next_turn() -> None:
    """An item that is posted while others are taken does not make this turn longer."""
    loop, taken = CountingLoop(), []

    def take(item: int) -> None:
        taken.append(item)
        if item < 3:
            mailbox.post(item + 1)

    mailbox = mailbox_on(loop, take)
    mailbox.post(1)
    for turn in (1, 2, 3):
        assert len(loop.scheduled) == 1
        loop.turn()
        assert taken == list(range(1, turn + 1))
    assert loop.scheduled == []


def test_an_item_that_fails_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """When taking an item raises, it is logged, and the rest is taken in the same turn."""
    loop, taken, turns = CountingLoop(), [], []

    def take(item: int) -> None:
        if item == 2:
            raise ValueError("number two")
        taken.append(item)

    mailbox = mailbox_on(loop, take, lambda: turns.append(1))
    for item in (1, 2, 3):
        mailbox.post(item)
    with caplog.at_level(logging.ERROR, "headgate.threads"):
        loop.turn()
    assert taken == [1, 3]
    assert turns == [1]
    assert "number two" in caplog.text


def test_a_closed_loop_is_told_each_time() -> None:
    """Every post to a closed loop says that nothing will take it, and what was posted is kept."""
    loop = CountingLoop()
    mailbox = mailbox_on(loop, lambda item: None)
    loop.closed = True
    assert [mailbox.post(item) for item in range(3)] == [False] * 3
    assert mailbox.take_all() == [0, 1, 2]
    assert mailbox.take_all() == []


def test_a_real_loop_that_is_closed() -> None:
    """The event loops in use say that they are closed as the mailbox expects it."""
    for loop in (new_event_loop(), asyncio.new_event_loop()):
        mailbox = mailbox_on(loop, lambda item: None)
        loop.close()
        assert mailbox.post(1) is False
        assert mailbox.post(2) is False
        assert mailbox.take_all() == [1, 2]


def test_a_closed_mailbox_refuses_what_is_posted() -> None:
    """After close() a post says so, also where a wake-up is still due, and take_all has it all."""
    loop, taken = CountingLoop(), []
    mailbox = mailbox_on(loop, taken.append)
    assert mailbox.post(1) is True
    mailbox.close()
    assert mailbox.post(2) is False
    assert mailbox.wake() is False
    loop.turn()
    assert mailbox.post(3) is False
    assert taken == []
    assert mailbox.take_all() == [1, 2, 3]


def test_what_is_posted_while_a_mailbox_closes_is_had_once() -> None:
    """Each item that many threads post during a close is taken, once, by one of them."""
    mailbox, had = mailbox_on(CountingLoop(), lambda item: None), []
    barrier = threading.Barrier(THREADS + 1, timeout=30)

    def post(thread: int) -> None:
        barrier.wait()
        for item in range(500):
            if not mailbox.post((thread, item)):
                had.extend(mailbox.take_all())

    def close() -> None:
        barrier.wait()
        mailbox.close()
        had.extend(mailbox.take_all())

    with ThreadPoolExecutor(THREADS + 1) as pool:
        work = [pool.submit(post, thread) for thread in range(THREADS)] + [pool.submit(close)]
    assert [task.exception() for task in work] == [None] * (THREADS + 1)
    assert sorted(had) == [(thread, item) for thread in range(THREADS) for item in range(500)]


def test_what_is_put_waits_for_a_wake_up() -> None:
    """put() leaves an item without a wake-up; wake() brings all that was left."""
    loop, taken = CountingLoop(), []
    mailbox = mailbox_on(loop, taken.append)
    mailbox.put(1)
    mailbox.put(2)
    assert loop.scheduled == []
    assert mailbox.wake() is True
    assert mailbox.wake() is True
    assert len(loop.scheduled) == 1
    loop.turn()
    assert taken == [1, 2]


def test_many_threads_post(loop_thread: LoopThread) -> None:
    """From many threads nothing is lost, and each thread's items keep their order."""
    taken: list[tuple[int, int]] = []
    done = threading.Event()
    count = 500

    def take(item: tuple[int, int]) -> None:
        taken.append(item)
        if len(taken) == THREADS * count:
            done.set()

    mailbox = mailbox_on(loop_thread.loop, take)
    barrier = threading.Barrier(THREADS, timeout=30)

    def post(thread: int) -> None:
        barrier.wait()
        for item in range(count):
            mailbox.post((thread, item))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(post, range(THREADS)))
    assert done.wait(30)
    for thread in range(THREADS):
        assert [item for owner, item in taken if owner == thread] == list(range(count))


# --- LoopThread -----------------------------------------------------------------------------------


def test_a_coroutine_runs_on_the_loops_thread(loop_thread: LoopThread) -> None:
    """run() returns what a coroutine returns that ran on the loop's own thread."""

    async def where() -> tuple[str, bool]:
        return threading.current_thread().name, asyncio.get_running_loop() is loop_thread.loop

    assert loop_thread.run(where()) == ("test-loop", True)


def test_an_error_of_a_coroutine_is_raised(loop_thread: LoopThread) -> None:
    """run() raises what the coroutine raises, and the loop goes on."""

    async def fail() -> None:
        raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        loop_thread.run(fail())

    async def fine() -> int:
        return 1

    assert loop_thread.run(fine()) == 1


def test_stop_cancels_what_still_runs() -> None:
    """stop() cancels the loop's tasks, lets them clean up, and closes the loop."""
    thread = LoopThread("test-loop")
    thread.start()
    ended: list[str] = []
    tasks = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    async def begin() -> None:
        tasks.append(asyncio.create_task(work()))
        await asyncio.sleep(0)

    thread.run(begin())
    thread.stop()
    assert ended == ["cleaned up"]
    assert thread.loop.is_closed()
    thread.stop()


def test_run_on_its_own_thread_is_refused(loop_thread: LoopThread) -> None:
    """run() on the loop's own thread would wait for itself: it raises, and the loop goes on."""

    async def inner() -> None:
        raise AssertionError

    async def outer() -> int:
        with pytest.raises(RuntimeError, match="test-loop would wait for itself"):
            loop_thread.run(inner(), timeout=20)
        return 1

    assert loop_thread.run(outer(), timeout=20) == 1


def test_stop_on_its_own_thread_does_not_wait() -> None:
    """stop() on the loop's own thread returns; the thread ends and closes the loop."""
    thread = LoopThread("test-loop")
    thread.start()
    returned = threading.Event()

    async def leave() -> None:
        thread.stop()
        returned.set()

    thread.run(leave(), timeout=20)
    assert returned.wait(20)
    thread.stop(10)
    assert thread.loop.is_closed()


def test_stop_before_start() -> None:
    """A loop that never ran is closed without its thread."""
    thread = LoopThread("test-loop")
    thread.stop()
    assert thread.loop.is_closed()


# --- CallbackThread -------------------------------------------------------------------------------


def test_functions_run_in_order_on_one_thread() -> None:
    """Functions run in the order in which they were given, on the thread of that name."""
    callbacks = CallbackThread("test-callbacks")
    ran: list[tuple[int, str]] = []
    for number in range(100):
        callbacks.invoke(lambda n=number: ran.append((n, threading.current_thread().name)))
    callbacks.close()
    assert ran == [(number, "test-callbacks") for number in range(100)]
    assert len(callbacks) == 0


def test_a_function_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A function's error is logged with its traceback, and the next one runs."""
    callbacks = CallbackThread("test-callbacks")
    ran: list[int] = []

    def careless() -> None:
        raise ValueError("oops")

    with caplog.at_level(logging.ERROR, "headgate.threads"):
        callbacks.invoke(careless)
        callbacks.invoke(lambda: ran.append(1))
        callbacks.close()
    assert ran == [1]
    assert "careless" in caplog.text


def test_a_function_that_exits_ends_nothing() -> None:
    """sys.exit() in a callback ends neither the thread nor the program."""
    callbacks = CallbackThread("test-callbacks")
    ran: list[int] = []

    def leave() -> None:
        raise SystemExit(3)

    callbacks.invoke(leave)
    callbacks.invoke(lambda: ran.append(1))
    callbacks.close()
    assert ran == [1]


def test_what_has_run_is_not_kept() -> None:
    """While it waits for the next function, the thread does not hold the last one's result."""
    callbacks = CallbackThread("test-callbacks")
    gone = threading.Event()

    def work() -> None:
        pass

    weakref.finalize(work, gone.set)
    callbacks.invoke(work)
    del work
    assert gone.wait(30)
    callbacks.close()


def test_close_runs_what_was_given() -> None:
    """close() returns when everything that was given before has run."""
    callbacks = CallbackThread("test-callbacks")
    gate = threading.Event()
    ran: list[int] = []
    callbacks.invoke(lambda: gate.wait(30) and None)
    for number in range(10):
        callbacks.invoke(lambda n=number: ran.append(n))
    gate.set()
    callbacks.close()
    assert ran == list(range(10))


def test_nothing_is_left_after_close() -> None:
    """A callback thread that is closed, used or not, has nothing waiting."""
    unused, used = CallbackThread("unused"), CallbackThread("used")
    used.invoke(lambda: None)
    for callbacks in (unused, used):
        callbacks.close()
        callbacks.close()
        assert len(callbacks) == 0


def test_a_function_given_after_close_runs() -> None:
    """What ends after the close still gets its callback, each time."""
    callbacks = CallbackThread("test-callbacks")
    callbacks.invoke(lambda: None)
    callbacks.close()
    for _ in range(20):
        ran = threading.Event()
        callbacks.invoke(ran.set)
        assert ran.wait(30)


def test_no_function_is_lost_while_the_thread_ends() -> None:
    """A function that is given at the very moment in which the closed thread ends still runs."""
    callbacks = CallbackThread("test-callbacks")
    callbacks.close()
    for _ in range(2_000):
        ran = threading.Event()
        callbacks.invoke(lambda: None)
        callbacks.invoke(ran.set)
        assert ran.wait(30)


def test_close_from_a_callback_does_not_wait_for_itself() -> None:
    """A callback may close the client, and with it its own thread."""
    callbacks = CallbackThread("test-callbacks")
    closed = threading.Event()

    def close() -> None:
        callbacks.close()
        closed.set()

    callbacks.invoke(close)
    assert closed.wait(30)


def test_close_leaves_a_blocked_callback_behind() -> None:
    """A callback that does not return holds close() up only for its timeout."""
    callbacks = CallbackThread("test-callbacks")
    gate, running = threading.Event(), threading.Event()
    ran: list[int] = []

    def block() -> None:
        running.set()
        gate.wait(30)

    callbacks.invoke(block)
    callbacks.invoke(lambda: ran.append(1))
    assert running.wait(30)
    callbacks.close(timeout=0.01)
    assert ran == []
    gate.set()
    callbacks.close()
    assert ran == [1]


def test_many_threads_invoke() -> None:
    """From many threads nothing is lost, and only one thread runs the functions."""
    callbacks = CallbackThread("test-callbacks")
    ran: list[int] = []
    threads: set[int] = set()
    barrier = threading.Barrier(THREADS, timeout=30)

    def note(number: int) -> None:
        ran.append(number)
        threads.add(threading.get_ident())

    def give(thread: int) -> None:
        barrier.wait()
        for number in range(200):
            callbacks.invoke(lambda n=number: note(thread * 1000 + n))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(give, range(THREADS)))
    callbacks.close()
    assert len(ran) == THREADS * 200
    assert len(threads) == 1
