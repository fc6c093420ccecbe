"""The handle of a request, through its public methods, with real threads and event loops."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from headgate.errors import (
    CancellationException,
    ConnectionLost,
    HandlerError,
    Overloaded,
    PayloadError,
    RequestError,
    RequestTimeout,
)
from headgate.invocation import Fate
from headgate.outcome import Encoded, Failure, Success
from headgate.request import Request, refuse_on_event_loop
from headgate.threads import CallbackThread
from headgate.wire.codec import decode, encode

THREADS = 8


class Requester:
    """A client without a gateway: callbacks run on a callback thread, cancellations are noted."""

    def __init__(self) -> None:
        self.callbacks = CallbackThread("test-callbacks")
        self.withdrawn: list[Request] = []
        self.decoded = 0
        self.before_decoding: Callable[[], Any] = lambda: None

    def decode(self, data: bytes) -> Any:
        self.decoded += 1
        self.before_decoding()
        return decode(data)

    def future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def invoke(self, function: Callable[[], None]) -> None:
        self.callbacks.invoke(function)

    def withdraw(self, request: Request) -> None:
        self.withdrawn.append(request)

    def grant(self, request: Request, total: int) -> None:
        self.granted = total


@pytest.fixture
def requester() -> Iterator[Requester]:
    requester = Requester()
    yield requester
    requester.callbacks.close()


@pytest.fixture
def request_(requester: Requester) -> Request:
    """A request that was sent."""
    return sent(requester)


def sent(requester: Requester, **callbacks: Any) -> Request:
    request = Request(requester, "ACME", "test", 0.0, **callbacks)
    assert request.hand_over(f"{7:020x}", 1)
    return request


def succeed(request: Request, value: Any = 110) -> bool:
    return request.end(Encoded(encode(value)))


def fail(request: Request, error: RequestError | None = None) -> bool:
    return request.end(Failure(error or HandlerError(remote_type="ValueError")))


def settled(requester: Requester) -> None:
    """Wait until everything that was given to the callback thread has run."""
    latch = threading.Event()
    requester.invoke(latch.set)
    assert latch.wait(30)


def waiting(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start a thread that blocks; it is known to run, and its answer will be in the list."""
    answers: list[Any] = []
    running = threading.Event()

    def work() -> None:
        running.set()
        try:
            answers.append(function())
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert running.wait(30)
    return thread, answers


def answer_of(waiter: tuple[threading.Thread, list[Any]]) -> Any:
    thread, answers = waiter
    thread.join(30)
    assert answers, "the thread was not woken"
    return answers[0]


def in_thread(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on an event loop of another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result(30)


# --- get, block, getError -------------------------------------------------------------------------


def test_get_blocks_for_the_result(request_: Request) -> None:
    """get() waits until the request is over and returns the result."""
    waiter = waiting(request_.get)
    succeed(request_, {"double": 110})
    assert answer_of(waiter) == {"double": 110}
    assert request_.get() == {"double": 110}


def test_get_throws_on_failure(request_: Request) -> None:
    """get() raises the error that the request ended with."""
    waiter = waiting(request_.get)
    error = HandlerError(remote_type="ValueError", remote_message="no")
    fail(request_, error)
    assert answer_of(waiter) is error
    with pytest.raises(HandlerError, match="ValueError: no"):
        request_.get()


def test_block_says_whether_it_succeeded(requester: Requester) -> None:
    """block() waits and returns True for a result and False for an error."""
    good, bad = sent(requester), sent(requester)
    waiters = [waiting(good.block), waiting(bad.block)]
    succeed(good)
    fail(bad)
    assert [answer_of(waiter) for waiter in waiters] == [True, False]
    assert (good.block(), bad.block()) == (True, False)


def test_get_error_returns_the_error_or_none(requester: Requester) -> None:
    """getError() waits and returns the error, None for a result."""
    good, bad = sent(requester), sent(requester)
    waiters = [waiting(good.getError), waiting(bad.getError)]
    error = RequestTimeout("late")
    succeed(good)
    fail(bad, error)
    assert answer_of(waiters[0]) is None
    assert answer_of(waiters[1]) is error


def test_get_error_returns_a_cancellation(request_: Request) -> None:
    """A cancellation is an error, and getError() returns it."""
    waiter = waiting(request_.getError)
    request_.cancel()
    assert isinstance(answer_of(waiter), CancellationException)


def test_every_waiting_thread_is_woken(request_: Request) -> None:
    """Many threads may wait for one request, and all get its result."""
    waiters = [waiting(request_.get) for _ in range(THREADS)]
    succeed(request_, "yes")
    assert [answer_of(waiter) for waiter in waiters] == ["yes"] * THREADS


def test_an_error_is_raised_again_and_again(request_: Request) -> None:
    """Each get() raises the same error, without the traceback of the one before."""
    fail(request_)
    errors = []
    for _ in range(2):
        with pytest.raises(HandlerError) as caught:
            request_.get()
        errors.append(caught.value)
        depth = len(caught.traceback)
    assert errors[0] is errors[1]
    with pytest.raises(HandlerError) as caught:
        request_.get()
    assert len(caught.traceback) == depth


def test_the_result_is_decoded_once(requester: Requester) -> None:
    """However often a result is looked at, it is decoded once."""
    request = sent(requester)
    succeed(request, [1])
    first = request.get()
    assert request.get() is first
    assert request.block()
    assert requester.decoded == 1


def test_two_threads_that_decode_at_once_get_one_value(requester: Requester) -> None:
    """The result is one object for all who ask, also for those who ask at the same time."""
    request = sent(requester)
    barrier = threading.Barrier(2, timeout=30)
    requester.before_decoding = barrier.wait
    succeed(request, [1])
    waiters = [waiting(request.get) for _ in range(2)]
    first, second = [answer_of(waiter) for waiter in waiters]
    assert first == [1]
    assert first is second is request.get()


def test_a_result_that_is_no_value_is_one_payload_error(requester: Requester) -> None:
    """A result that cannot be decoded is the same PayloadError for everybody who looks."""
    caught: list[RequestError] = []
    unwanted: list[Any] = []
    request = sent(requester, _success_slot=unwanted.append, _error_slot=caught.append)
    request.end(Encoded(b"\xc1"))
    assert request.block() is False
    settled(requester)
    error = request.getError()
    assert isinstance(error, PayloadError)
    assert caught == [error]
    assert unwanted == []
    with pytest.raises(PayloadError) as raised:
        request.get()
    assert raised.value is error
    assert error.started is True
    assert error.request_id == request.request_id
    assert requester.decoded == 1


def test_a_handler_whose_result_is_no_value_has_finished(request_: Request) -> None:
    """A result that cannot be decoded still says that the handler finished."""
    request_.end(Encoded(b"\xc1"))
    assert request_.fate == Fate.FINISHED
    assert request_.block() is False
    assert request_.fate == Fate.FINISHED
    assert request_.started is True
    assert request_.wait_fate(0) == Fate.FINISHED


def test_a_value_that_was_not_encoded_is_taken_as_it_is(requester: Requester) -> None:
    """A result from inside the process needs no decoding."""
    request = sent(requester)
    request.end(Success("value"))
    assert request.get() == "value"
    assert requester.decoded == 0


def test_result_and_error_do_not_wait(request_: Request) -> None:
    """result() and error() of a request that is open raise RuntimeError."""
    for look in (request_.result, request_.error):
        with pytest.raises(RuntimeError, match="not over"):
            look()
    succeed(request_)
    assert (request_.result(), request_.error()) == (110, None)


# --- on an event loop -----------------------------------------------------------------------------


async def test_blocking_calls_are_refused_on_a_loop_thread(request_: Request) -> None:
    """On the thread of an event loop a blocking call raises, and says what to write instead."""
    for block in (request_.get, request_.block, request_.getError):
        with pytest.raises(RuntimeError, match="await request"):
            block()
    with pytest.raises(RuntimeError, match=r"wait_fate\(\).*to_thread"):
        request_.wait_fate()
    assert not request_.done


async def test_blocking_calls_of_a_finished_request_are_allowed(request_: Request) -> None:
    """A request that is over does not block, so its methods work on a loop's thread too."""
    succeed(request_)
    assert request_.get() == 110
    assert request_.block() is True
    assert request_.getError() is None
    assert request_.wait_fate() == Fate.FINISHED


async def test_refusal_names_the_call_and_the_cure() -> None:
    """Whatever blocks is refused with the text that its author gave."""
    with pytest.raises(RuntimeError, match=r"^x\(\) would block .*Write: await y$"):
        refuse_on_event_loop("x()", "await y")


def test_nothing_is_refused_without_a_loop() -> None:
    """A thread without an event loop may block."""
    refuse_on_event_loop("x()", "await y")


# --- await ----------------------------------------------------------------------------------------


async def test_await_gives_the_result(request_: Request) -> None:
    """`await request` gives the result."""
    asyncio.get_running_loop().call_soon(succeed, request_)
    assert await request_ == 110


async def test_await_raises_the_error(request_: Request) -> None:
    """`await request` raises the error that the request ends with."""
    asyncio.get_running_loop().call_soon(fail, request_)
    with pytest.raises(HandlerError):
        await request_


async def test_await_is_woken_by_another_thread(request_: Request) -> None:
    """A request that ends on another thread wakes the coroutine on its own loop."""
    task = asyncio.ensure_future(request_)
    await asyncio.sleep(0)
    await asyncio.to_thread(succeed, request_)
    assert await task == 110


async def test_await_after_the_end(request_: Request) -> None:
    """A request that is over can be awaited, again and again."""
    succeed(request_)
    assert await request_ == 110
    assert await request_ == 110


async def test_many_coroutines_await_one_request(request_: Request) -> None:
    """All coroutines that await a request get its result."""
    tasks = [asyncio.ensure_future(request_) for _ in range(5)]
    await asyncio.sleep(0)
    succeed(request_)
    assert await asyncio.gather(*tasks) == [110] * 5


def test_loops_of_several_threads_await_one_request(request_: Request) -> None:
    """A request can be awaited on any loop, on several at once."""
    barrier = threading.Barrier(THREADS + 1, timeout=30)

    async def wait() -> Any:
        task = asyncio.ensure_future(request_)
        await asyncio.sleep(0)
        await asyncio.to_thread(barrier.wait)
        return await task

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(asyncio.run, wait()) for _ in range(THREADS)]
        barrier.wait()
        succeed(request_, "all")
        assert [future.result(30) for future in futures] == ["all"] * THREADS


async def test_cancelling_the_awaiting_task_cancels_the_request(
    request_: Request, requester: Requester
) -> None:
    """When the task that awaits is cancelled, so is the request, and the gateway is told."""
    task = asyncio.ensure_future(request_)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(request_.error(), CancellationException)
    assert requester.withdrawn == [request_]


async def test_shield_keeps_the_request(request_: Request, requester: Requester) -> None:
    """Under asyncio.shield the request outlives the task that awaits it."""

    async def wait() -> Any:
        return await asyncio.shield(asyncio.ensure_future(request_))

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not request_.done
    assert requester.withdrawn == []
    succeed(request_)
    assert await request_ == 110


async def test_a_task_cancelled_after_the_end_leaves_the_request_as_it_is(
    request_: Request, requester: Requester
) -> None:
    """A task that is cancelled when the request is over already changes nothing for it."""
    task = asyncio.ensure_future(request_)
    await asyncio.sleep(0)
    succeed(request_)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert request_.result() == 110
    assert requester.withdrawn == []


async def test_one_cancelled_task_ends_the_request_for_the_others(request_: Request) -> None:
    """Who else awaits a request that a task's cancellation ended gets CancellationException."""
    first, second = asyncio.ensure_future(request_), asyncio.ensure_future(request_)
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(CancellationException):
        await second
    assert first.cancelled() or first.cancelling()
    assert not second.cancelled()
    await asyncio.wait([first])


async def test_awaiting_a_cancelled_request_raises_an_exception(request_: Request) -> None:
    """A cancelled request raises an Exception where it is awaited: it cancels no task."""
    request_.cancel()
    with pytest.raises(CancelledError):
        await request_
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


def test_a_closed_loop_does_not_disturb_the_end(request_: Request) -> None:
    """When a loop on which the request was awaited is gone, it still ends for everybody else."""
    loop = asyncio.new_event_loop()
    coroutine = request_.__await__()
    waiter = waiting(request_.get)

    async def begin() -> None:
        next(coroutine)

    loop.run_until_complete(begin())
    loop.close()
    succeed(request_)
    assert answer_of(waiter) == 110


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_ends_the_request_at_once(request_: Request, requester: Requester) -> None:
    """cancel() ends the request with CancellationException, and the executing side is told."""
    assert request_.cancel() is True
    assert request_.done
    with pytest.raises(CancellationException, match="ACME/test was cancelled"):
        request_.get()
    assert requester.withdrawn == [request_]


def test_cancel_of_a_request_that_is_over(request_: Request, requester: Requester) -> None:
    """cancel() returns False for a request that is over, and changes nothing."""
    succeed(request_)
    assert request_.cancel() is False
    assert request_.get() == 110
    assert requester.withdrawn == []


def test_a_late_answer_is_dropped(request_: Request) -> None:
    """After cancel() the answer changes nothing."""
    assert request_.cancel() is True
    assert succeed(request_) is False
    assert fail(request_) is False
    assert isinstance(request_.getError(), CancellationException)


def test_cancel_calls_the_error_callback(requester: Requester) -> None:
    """The error callback gets the CancellationException, the success callback nothing."""
    results: list[Any] = []
    errors: list[Any] = []
    request = sent(requester, _success_slot=results.append, _error_slot=errors.append)
    request.cancel()
    settled(requester)
    assert results == []
    assert errors == [request.error()]


def test_only_one_of_many_threads_ends_the_request(requester: Requester) -> None:
    """Of all threads that cancel or end a request at once, exactly one did it."""
    ends: list[Callable[[Request], bool]] = [Request.cancel, succeed, fail] * 3
    barrier = threading.Barrier(len(ends), timeout=30)
    for _ in range(50):
        fired: list[Any] = []
        request = sent(requester, _success_slot=fired.append, _error_slot=fired.append)

        def end(how: Callable[[Request], bool], request: Request = request) -> bool:
            barrier.wait()
            return how(request)

        with ThreadPoolExecutor(len(ends)) as pool:
            done = list(pool.map(end, ends))
        assert done.count(True) == 1
        settled(requester)
        expected = request.error() or request.result()
        assert fired == [expected]
        how = ends[done.index(True)]
        assert (how is succeed) == (request.error() is None)


# --- callbacks ------------------------------------------------------------------------------------


def test_callbacks_run_on_the_callback_thread(requester: Requester) -> None:
    """A callback runs on the callback thread, when the request is over already."""
    seen: list[tuple[str, bool, Any]] = []
    request = sent(
        requester,
        _success_slot=lambda value: seen.append(
            (threading.current_thread().name, request.done, value)
        ),
    )
    succeed(request)
    settled(requester)
    assert seen == [("test-callbacks", True, 110)]


def test_a_callback_set_before_the_end(request_: Request, requester: Requester) -> None:
    """onSuccess and onError set the function that will run."""
    results: list[Any] = []
    request_.onSuccess(results.append)
    request_.onError(results.append)
    succeed(request_)
    settled(requester)
    assert results == [110]


def test_a_new_callback_replaces_the_one_of_the_call(requester: Requester) -> None:
    """onSuccess sets a new function if one was defined in the call already."""
    old: list[Any] = []
    new: list[Any] = []
    request = sent(requester, _success_slot=old.append)
    request.onSuccess(new.append)
    succeed(request)
    settled(requester)
    assert (old, new) == ([], [110])


@pytest.mark.parametrize("ends", [succeed, fail])
def test_a_callback_set_after_the_end_runs_promptly(
    request_: Request, requester: Requester, ends: Callable[[Request], bool]
) -> None:
    """A function that is set when the request is over runs once, if it fits the outcome."""
    ends(request_)
    results: list[Any] = []
    errors: list[Any] = []
    request_.onSuccess(results.append)
    request_.onError(errors.append)
    settled(requester)
    error = request_.error()
    assert (results, errors) == (([110], []) if error is None else ([], [error]))


def test_a_callback_that_replaces_a_fired_one_runs_once(requester: Requester) -> None:
    """Replacing a callback that has run runs the new one once, and the old one not again."""
    old: list[Any] = []
    new: list[Any] = []
    request = sent(requester, _success_slot=old.append)
    succeed(request)
    settled(requester)
    request.onSuccess(new.append)
    request.onError(new.append)
    settled(requester)
    assert (old, new) == ([110], [110])


def test_a_callback_replaced_between_end_and_firing(
    request_: Request, requester: Requester
) -> None:
    """Of two callbacks that are set before the callback thread gets to look, the last one runs."""
    gate = threading.Event()
    requester.invoke(lambda: gate.wait(30) and None)
    old: list[Any] = []
    new: list[Any] = []
    request_.onSuccess(old.append)
    succeed(request_)
    request_.onSuccess(new.append)
    gate.set()
    settled(requester)
    assert (old, new) == ([], [110])


def test_none_clears_a_callback(requester: Requester) -> None:
    """onSuccess(None) and onError(None) clear the slot, also when the request is over already."""
    results: list[Any] = []
    good = sent(requester, _success_slot=results.append)
    bad = sent(requester, _error_slot=results.append)
    gate = threading.Event()
    requester.invoke(lambda: gate.wait(30) and None)
    good.onSuccess(None)
    succeed(good)
    fail(bad)
    bad.onError(None)
    gate.set()
    settled(requester)
    assert results == []


def test_what_is_not_callable_is_refused(request_: Request) -> None:
    """onSuccess and onError raise TypeError for what cannot be called."""
    with pytest.raises(TypeError, match="onSuccess takes a function"):
        request_.onSuccess("print")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="onError takes a function"):
        request_.onError(5)  # type: ignore[arg-type]


def test_a_callback_that_raises_is_logged(
    requester: Requester, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback's own error is logged with its traceback, and the next callback runs."""

    def careless(value: Any) -> None:
        raise KeyError("oops")

    after: list[Any] = []
    first = sent(requester, _success_slot=careless)
    second = sent(requester, _success_slot=after.append)
    with caplog.at_level(logging.ERROR, "headgate.request"):
        succeed(first)
        succeed(second)
        settled(requester)
    assert first.get() == 110
    assert after == [110]
    record = caplog.records[0]
    assert "ACME/test" in record.getMessage()
    assert record.exc_info is not None
    assert "careless" in caplog.text


def test_callbacks_run_in_the_order_of_ending(requester: Requester) -> None:
    """Callbacks of different requests run in the order in which these ended."""
    order: list[int] = []
    requests = [
        sent(requester, _success_slot=order.append, _error_slot=lambda error, i=i: order.append(i))
        for i in range(20)
    ]
    ending = list(reversed(range(20)))
    for index in ending:
        if index % 2:
            succeed(requests[index], index)
        else:
            requests[index].cancel()
    settled(requester)
    assert order == ending


def test_a_callback_may_use_its_own_handle(requester: Requester) -> None:
    """Inside a callback the handle is over: get() returns, cancel() says False."""
    seen: list[Any] = []

    def callback(value: Any) -> None:
        seen.append((request.get(), request.cancel(), request.block()))

    request = sent(requester, _success_slot=callback)
    succeed(request)
    settled(requester)
    assert seen == [(110, False, True)]


def test_callbacks_set_while_the_request_ends_run_once(requester: Requester) -> None:
    """A callback that is set at the very moment of the end runs exactly once."""
    barrier = threading.Barrier(2, timeout=30)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(200):
            request = sent(requester)
            fired: list[Any] = []

            def end(request: Request = request) -> None:
                barrier.wait()
                succeed(request)

            ending = pool.submit(end)
            barrier.wait()
            request.onSuccess(fired.append)
            ending.result(30)
            settled(requester)
            assert fired == [110]


def test_progress_reaches_its_callback(requester: Requester) -> None:
    """Progress values arrive decoded; after the end none does."""
    values: list[Any] = []
    request = sent(requester, _progress_slot=values.append)
    request.note_progress(encode(1))
    settled(requester)
    request.note_progress(encode(2))
    settled(requester)
    succeed(request)
    request.note_progress(encode(3))
    settled(requester)
    assert values == [1, 2]


def test_progress_that_comes_too_fast_is_conflated(requester: Requester) -> None:
    """Of progress values that wait for the callback thread only the newest arrives."""
    gate = threading.Event()
    requester.invoke(lambda: gate.wait(30) and None)
    values: list[Any] = []
    request = sent(requester, _progress_slot=values.append)
    for value in range(5):
        request.note_progress(encode(value))
    gate.set()
    settled(requester)
    assert values == [4]


# --- did it happen? -------------------------------------------------------------------------------


def test_a_request_that_was_never_sent_did_not_start(requester: Requester) -> None:
    """Without a transport `.started` is False, for the handle and for its error."""
    request = Request(requester, "ACME", "test", 0.0)
    assert request.started is False
    request.cancel()
    error = request.error()
    assert error is not None
    assert error.started is False
    assert request.fate == Fate.NOT_STARTED
    assert request.request_id == ""
    assert request.hand_over(f"{7:020x}", 1) is False
    assert request.started is False


def test_a_request_that_was_sent_may_have_started(request_: Request) -> None:
    """Once the transport has the call nobody knows, so `.started` is None."""
    assert request_.started is None
    fail(request_, ConnectionLost("gone"))
    error = request_.error()
    assert error is not None
    assert error.started is None
    assert request_.started is None
    assert request_.fate == Fate.UNKNOWN


def test_a_request_whose_handler_runs_has_started(requester: Requester) -> None:
    """After the word that the handler runs, or a progress value, `.started` is True."""
    for note in (Request.note_started, lambda request: request.note_progress(encode(1))):
        request = sent(requester)
        note(request)
        assert request.started is True
        request.cancel()
        error = request.error()
        assert error is not None
        assert error.started is True


def test_no_error_unsays_that_the_handler_runs(request_: Request) -> None:
    """An error that claims False cannot outdo the word that the handler runs."""
    request_.note_started()
    fail(request_, Overloaded("full", started=False))
    error = request_.error()
    assert error is not None
    assert error.started is True
    assert request_.started is True


def test_started_is_fixed_at_the_end(request_: Request) -> None:
    """What comes after the end does not change `.started`."""
    request_.cancel()
    request_.note_started()
    request_.note_progress(encode(1))
    assert request_.started is None


def test_a_result_means_that_it_started(request_: Request) -> None:
    """A result says that the handler ran to its end."""
    succeed(request_)
    assert request_.started is True
    assert request_.fate == Fate.FINISHED


def test_a_refusal_is_told_by_the_executing_side(request_: Request) -> None:
    """An error with `.started` False makes the handle say the same."""
    fail(request_, Overloaded("full", started=False))
    assert request_.started is False
    assert request_.fate == Fate.NOT_STARTED


def test_the_handlers_own_error_means_that_it_finished(request_: Request) -> None:
    """A handler that raised has finished."""
    fail(request_, HandlerError(remote_type="ValueError"))
    assert request_.fate == Fate.FINISHED


@pytest.mark.parametrize("fate", [Fate.NOT_STARTED, Fate.STOPPED, Fate.FINISHED])
def test_wait_fate_waits_for_the_last_word(request_: Request, fate: str) -> None:
    """wait_fate() goes on waiting while the handler still runs."""
    request_.cancel()
    waiter = waiting(request_.wait_fate)
    request_.note_fate(Fate.STILL_RUNNING)
    assert request_.fate == Fate.STILL_RUNNING
    request_.note_fate(fate)
    assert answer_of(waiter) == fate


def test_wait_fate_may_begin_before_the_end(request_: Request) -> None:
    """wait_fate() of an open request waits for its end, and then for the fate."""
    waiter = waiting(request_.wait_fate)
    request_.cancel()
    request_.note_fate(Fate.STOPPED)
    assert answer_of(waiter) == Fate.STOPPED


def test_wait_fate_gives_up(request_: Request) -> None:
    """wait_fate() returns what is known when its time is up, however often it is asked."""
    request_.cancel()
    for _ in range(3):
        assert request_.wait_fate(0.0) == Fate.UNKNOWN
    request_.note_fate(Fate.STILL_RUNNING)
    assert request_.wait_fate(0.0) == Fate.STILL_RUNNING


def test_the_final_fate_does_not_change(request_: Request) -> None:
    """After a final word another one is ignored."""
    request_.cancel()
    request_.note_fate(Fate.FINISHED)
    request_.note_fate(Fate.STILL_RUNNING)
    assert request_.fate == Fate.FINISHED


def test_a_fate_before_the_end_wakes_nobody(request_: Request) -> None:
    """Who waits for the result goes on waiting when only the fate is known."""
    waiter = waiting(request_.get)
    coroutine = threading.Event()

    async def wait() -> Any:
        task = asyncio.ensure_future(request_)
        await asyncio.sleep(0)
        coroutine.set()
        return await task

    awaiting = waiting(lambda: in_thread(wait))
    assert coroutine.wait(30)
    request_.note_fate(Fate.FINISHED)
    error = RequestTimeout("late", started=True)
    fail(request_, error)
    assert answer_of(waiter) is error
    assert answer_of(awaiting) is error
    assert request_.fate == Fate.FINISHED


# --- names ----------------------------------------------------------------------------------------


def test_long_ids_are_unique(requester: Requester) -> None:
    """getLongId() is another number for each handle, and stays the same."""
    requests = [sent(requester) for _ in range(100)]
    with ThreadPoolExecutor(THREADS) as pool:
        ids = list(pool.map(Request.getLongId, requests * 2))
    assert ids[:100] == ids[100:]
    assert len(set(ids)) == 100


def test_the_request_id_has_session_and_number(requester: Requester) -> None:
    """A request's id is its session's 20 hex digits and its number's 12."""
    request = Request(requester, "ACME", "test", 0.0)
    request.hand_over("ab" * 10, 255)
    assert request.request_id == "ab" * 10 + "0000000000ff"
    request.cancel()
    error = request.error()
    assert error is not None
    assert error.request_id == request.request_id


def test_repr_says_how_it_is(requester: Requester) -> None:
    """The repr of a handle names its target and its state."""
    states = [sent(requester), sent(requester), sent(requester)]
    succeed(states[1])
    states[2].cancel()
    assert [repr(request) for request in states] == [
        "<Request ACME/test open>",
        "<Request ACME/test succeeded>",
        "<Request ACME/test failed: CancellationException>",
    ]


def test_handles_are_equal_only_to_themselves(requester: Requester) -> None:
    """Handles can be members of sets and keys of dictionaries."""
    first, second = sent(requester), sent(requester)
    assert first != second
    assert len({first, second, first}) == 2
