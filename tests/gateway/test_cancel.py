"""What cancelling, and running out of time, does to handlers, and what callers learn of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import CancellationException, Overloaded, RequestTimeout
from headgate.invocation import Fate, Invocation
from headgate.outcome import Outcome
from headgate.runtimes.gate import begin
from headgate.scope import Scope

if TYPE_CHECKING:
    from conftest import Rig

ASYNC_HOLD = """
    import asyncio
    async def handleMessage(payload):
        shared = system.util.globals
        shared["running"].put(payload)
        try:
            await asyncio.Event().wait()
        finally:
            shared["stopped"] = payload
    """

STUBBORN = """
    import asyncio
    async def handleMessage(payload):
        shared = system.util.globals
        shared["running"].put(payload)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            shared["running"].put("interrupted")
            while not shared["go"].is_set():
                await asyncio.sleep(0.001)
        return "late"
    """

ONE_AT_A_TIME = '[defaults]\nthreading = "Dedicated"\n'


@pytest.fixture(params=["client", "in process"])
def scope(request: pytest.FixtureRequest, rig: Rig) -> Callable[[headgate.Gateway], Scope]:
    """Callers of both kinds: through a connection, and in the gateway's process."""
    return rig.client if request.param == "client" else lambda gateway: gateway.scope("")


def begun(gateway: headgate.Gateway) -> Any:
    """Wait until a handler has begun, and return what it got."""
    return gateway.globals["running"].get(timeout=20)


class TestCancel:
    def test_what_waits_is_taken_out_of_the_queue(self, rig: Rig, scope: Any) -> None:
        """A request that is cancelled while it waits did not start, and never will."""
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/project.toml": ONE_AT_A_TIME})
        caller = scope(hub)
        first = caller.request("ACME", "hold", 1)
        assert begun(hub) == 1
        second = caller.request("ACME", "hold", 2)
        rig.until(lambda: hub.stats()["handlers_queued"] == 1)
        assert second.cancel() is True
        assert second.done
        assert isinstance(second.error(), CancellationException)
        assert second.wait_fate(20) == "not started"
        hub.globals["go"].set()
        assert first.get() == 1
        assert caller.request("ACME", "hold", 3).get() == 3
        assert [begun(hub)] == [3]

    def test_what_waits_for_the_handlers_concurrency_is_taken_back(
        self, rig: Rig, scope: Any
    ) -> None:
        """The same where not the threads but the handler's own limit makes it wait."""
        hub = rig.gateway(
            {"ACME/hold": rig.HOLD, "ACME/project.toml": "[defaults]\nconcurrency = 1\n"}
        )
        caller = scope(hub)
        first = caller.request("ACME", "hold", 1)
        assert begun(hub) == 1
        second = caller.request("ACME", "hold", 2)
        rig.until(lambda: hub.stats()["handlers_queued"] == 1)
        second.cancel()
        assert second.wait_fate(20) == "not started"
        hub.globals["go"].set()
        assert first.get() == 1

    def test_a_thread_runs_on_and_its_end_is_told(self, rig: Rig, scope: Any) -> None:
        """After a cancel in the middle the fate is "still running", and then "finished"."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        handle = scope(hub).request("ACME", "hold", 1)
        assert begun(hub) == 1
        # The word that the handler runs comes after 20 ms without a result.
        rig.until(lambda: handle.started is True)
        assert handle.cancel() is True
        error = handle.error()
        assert isinstance(error, CancellationException)
        assert (error.started, handle.started) == (True, True)
        rig.until(lambda: handle.fate == "still running")
        assert hub.stats()["handlers_abandoned"] == 1
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"

    def test_the_handler_sees_that_it_is_cancelled(self, rig: Rig, scope: Any) -> None:
        """context.cancelled becomes True; a handler that looks can return early."""
        hub = rig.gateway(
            {
                "ACME/test": """
                import time
                def handleMessage(payload, context):
                    system.util.globals["running"].put(context.cancelled)
                    while not context.cancelled:
                        time.sleep(0.001)
                """
            }
        )
        handle = scope(hub).request("ACME", "test")
        assert begun(hub) is False
        handle.cancel()
        assert handle.wait_fate(20) == "finished"

    def test_an_async_handler_is_interrupted(self, rig: Rig, scope: Any) -> None:
        """The task of an async handler is cancelled, its finally runs; fate "stopped"."""
        hub = rig.gateway({"ACME/hold": ASYNC_HOLD})
        handle = scope(hub).request("ACME", "hold", "valve")
        assert begun(hub) == "valve"
        handle.cancel()
        assert handle.wait_fate(20) == "stopped"
        assert hub.globals["stopped"] == "valve"

    def test_an_async_handler_that_goes_on_is_finished_when_it_returns(
        self, rig: Rig, scope: Any
    ) -> None:
        """An async handler may hold the interruption up; its late result is dropped."""
        hub = rig.gateway({"ACME/hold": STUBBORN})
        handle = scope(hub).request("ACME", "hold", 1)
        assert begun(hub) == 1
        handle.cancel()
        assert begun(hub) == "interrupted"
        rig.until(lambda: handle.fate == "still running")
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"
        assert isinstance(handle.error(), CancellationException)

    def test_a_request_that_is_over_is_not_cancelled(self, rig: Rig, scope: Any) -> None:
        """cancel() after the end is False and changes nothing."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        handle = scope(hub).request("ACME", "echo", 1)
        assert handle.get() == 1
        assert handle.cancel() is False
        assert (handle.get(), handle.fate) == (1, "finished")

    def test_cancelling_at_any_moment_ends_every_request_once(self, rig: Rig, scope: Any) -> None:
        """Whatever a cancel meets (queue, thread, answer), each request ends, and ends once."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        caller, ends = scope(hub), []
        handles = []
        for n in range(600):
            handle = caller.request("ACME", "echo", n, on_success=ends.append, on_error=ends.append)
            handles.append(handle)
            if n % 3 == 0:
                handles[n // 2].cancel()
        for handle in handles:
            handle.block()
        rig.until(lambda: len(ends) == 600)
        rig.settle(hub)
        assert len(ends) == 600

    def test_a_cancel_that_crosses_the_result_learns_of_the_end(self, rig: Rig) -> None:
        """When the handler has just returned, the fate of the cancelled request is "finished"."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        handle = hub.scope("").request("ACME", "hold", 1)
        assert begun(hub) == 1
        blocked, free = threading.Event(), threading.Event()
        hub.call(lambda: (blocked.set(), free.wait(20)))
        assert blocked.wait(20)
        hub.globals["go"].set()
        rig.until(lambda: hub.stats()["posted"] == 1)
        handle.cancel()
        free.set()
        assert handle.wait_fate(20) == "finished"

    def test_cancelled_before_it_left_never_reaches_the_gateway(self, rig: Rig) -> None:
        """Requests that are cancelled at once did not start, or are known to have started."""
        hub = rig.gateway(
            {"ACME/count": "def handleMessage(payload): system.util.globals['running'].put(1)"}
        )
        client = rig.client(hub)
        handles = [client.request("ACME", "count") for _ in range(200)]
        for handle in handles:
            handle.cancel()
        fates = [handle.wait_fate(20) for handle in handles]
        rig.settle(hub)
        assert set(fates) <= {"not started", "finished"}
        assert fates.count("finished") == hub.globals["running"].qsize()


class TestAbandonedThreads:
    def test_they_count_against_the_handlers_concurrency(self, rig: Rig) -> None:
        """A thread that hangs keeps its place in the handler's own limit."""
        hub = rig.gateway(
            {"ACME/hold": rig.HOLD, "ACME/project.toml": "[defaults]\nconcurrency = 1\n"}
        )
        client = rig.client(hub)
        hanging = client.request("ACME", "hold", 1)
        assert begun(hub) == 1
        hanging.cancel()
        error = client.request("ACME", "hold", 2, timeout=0.1).getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is False

    def test_they_do_not_take_the_pools_places(self, rig: Rig) -> None:
        """Seven hanging threads leave as many places in the pool as there were."""
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/meet": MEET})
        hub.globals["barrier"] = threading.Barrier(8)
        client = rig.client(hub)
        for n in range(7):
            handle = client.request("ACME", "hold", n)
            begun(hub)
            handle.cancel()
        rig.until(lambda: hub.stats()["handlers_abandoned"] == 7)
        meeting = [client.request("ACME", "meet", n, timeout=10) for n in range(8)]
        assert [handle.get() for handle in meeting] == list(range(8))

    def test_eight_of_them_close_the_projects_thread_handlers(self, rig: Rig) -> None:
        """Then its thread handlers answer Overloaded; async ones and other projects go on."""
        hub = rig.gateway(
            {
                "A/hold": rig.HOLD,
                "A/echo": rig.ECHO,
                "A/own": "import headgate\n@headgate.handler(threading='Dedicated')\n" + rig.ECHO,
                "A/wait": "async " + rig.ECHO,
                "B/echo": rig.ECHO,
            }
        )
        client = rig.client(hub)
        hanging = [client.request("A", "hold", n) for n in range(8)]
        for _ in hanging:
            begun(hub)
        for handle in hanging:
            handle.cancel()
        rig.until(lambda: hub.stats()["handlers_abandoned"] == 8)
        for name in ("echo", "own"):
            error = client.request("A", name, 1).getError()
            assert isinstance(error, Overloaded)
            assert error.started is False
            assert "8 threads of A hang" in str(error)
        assert client.request("A", "wait", 1).get() == 1
        assert client.request("B", "echo", 1).get() == 1
        hub.globals["go"].set()
        for handle in hanging:
            assert handle.wait_fate(20) == "finished"
        assert client.request("A", "echo", 1).get() == 1


MEET = """
    def handleMessage(payload):
        system.util.globals["barrier"].wait(20)
        return payload
    """


class TestTimeout:
    def test_a_running_handler_is_known_to_have_started(self, rig: Rig, scope: Any) -> None:
        """The gateway ends an overdue request, and says that it had begun."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        handle = scope(hub).request("ACME", "hold", 1, timeout=0.7)
        error = handle.getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is True
        rig.until(lambda: handle.fate == "still running")
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"

    def test_a_waiting_one_is_known_not_to_have_started(self, rig: Rig, scope: Any) -> None:
        """An overdue request that was still queued says so, and never runs."""
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/project.toml": ONE_AT_A_TIME})
        caller = scope(hub)
        first = caller.request("ACME", "hold", 1)
        begun(hub)
        handle = caller.request("ACME", "hold", 2, timeout=0.1)
        error = handle.getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is False
        assert "had not begun" in str(error)
        assert handle.wait_fate(20) == "not started"
        hub.globals["go"].set()
        first.get()
        rig.settle(hub)
        assert hub.globals["running"].empty()

    def test_an_async_handler_is_interrupted(self, rig: Rig, scope: Any) -> None:
        """An overdue async handler is cancelled, as by its caller."""
        hub = rig.gateway({"ACME/hold": ASYNC_HOLD})
        handle = scope(hub).request("ACME", "hold", 1, timeout=0.7)
        error = handle.getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is True
        assert handle.wait_fate(20) == "stopped"

    def test_requests_with_different_timeouts_each_end_at_their_own(
        self, rig: Rig, scope: Any
    ) -> None:
        """A short timeout is not held up by longer ones that were asked before it."""
        hub = rig.gateway({"ACME/hold": ASYNC_HOLD})
        caller, order = scope(hub), []
        handles = [
            caller.request(
                "ACME", "hold", n, timeout=seconds, on_error=lambda e, n=n: order.append(n)
            )
            for n, seconds in enumerate((20, 0.6, 0.3, 0.1))
        ]
        for handle in handles[1:]:
            assert isinstance(handle.getError(), RequestTimeout)
        handles[0].cancel()
        rig.until(lambda: len(order) == 4)
        assert order == [3, 2, 1, 0]

    def test_an_answer_that_comes_too_late_changes_nothing(self, rig: Rig, scope: Any) -> None:
        """The result of an overdue handler is dropped: the request stays timed out."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        handle = scope(hub).request("ACME", "hold", 1, timeout=0.7)
        assert isinstance(handle.getError(), RequestTimeout)
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"
        assert isinstance(handle.getError(), RequestTimeout)
        assert handle.block() is False


class TestTakenAndNotBegun:
    """A thread, or a loop, has taken it out of the queue and has not begun it yet."""

    @pytest.fixture
    def held_up(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """Set, it lets threads go on that have taken an invocation."""
        go = threading.Event()

        def late(invocation: Invocation) -> Outcome | None:
            assert go.wait(20)
            return begin(invocation)

        monkeypatch.setattr("headgate.runtimes.project.begin", late)
        yield go
        go.set()

    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_a_deadline_in_between_leaves_it_open_whether_it_began(
        self, rig: Rig, held_up: threading.Event, kind: str
    ) -> None:
        """The timeout does not say that it began; its fate is known when the thread has looked."""
        client = rig.client(rig.gateway({"ACME/echo": rig.ECHO.replace("def", kind)}))
        request = client.request("ACME", "echo", timeout=0.7)
        error = request.getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is None
        assert request.fate == Fate.UNKNOWN
        held_up.set()
        assert request.wait_fate(20) == Fate.NOT_STARTED

    def test_what_is_cancelled_in_between_runs(self, rig: Rig, held_up: threading.Event) -> None:
        """It is not known at once that it will run; when it has, its fate is that it finished."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client = rig.client(hub)
        request = client.request("ACME", "echo")
        rig.until(lambda: hub.stats()["handlers_running"])
        assert request.cancel()
        assert request.started is None
        held_up.set()
        assert request.wait_fate(20) == Fate.FINISHED

    def test_a_task_that_is_cancelled_before_its_first_step_is_over_too(
        self, rig: Rig, held_up: threading.Event
    ) -> None:
        """It gives its place back, and its fate is told."""
        hub = rig.gateway({"ACME/hold": ASYNC_HOLD})
        client = rig.client(hub)
        request = client.request("ACME", "hold")

        def taken() -> bool:
            stats = hub.stats()
            return stats["handlers_under_way"] == 1 and stats["handlers_queued"] == 0

        rig.until(taken)
        assert request.cancel()
        rig.until(lambda: hub.stats()["open"] == 0)
        held_up.set()
        assert request.wait_fate(20) == Fate.STOPPED
        rig.until(lambda: hub.stats()["handlers_under_way"] == 0)


class TestCallerGone:
    @pytest.mark.parametrize("hold", ["thread", "async"])
    def test_a_client_that_leaves_cancels_what_it_asked(self, rig: Rig, hold: str) -> None:
        """Closing the connection stops handlers, running and queued, as far as they let it."""
        hub = rig.gateway(
            {"ACME/hold": ASYNC_HOLD if hold == "async" else COOPERATIVE, "ACME/echo": rig.ECHO}
        )
        client = headgate.connect(hub.url)
        handles = [client.request("ACME", "hold", n) for n in range(30)]
        begun(hub)
        client.close()
        assert all(handle.done for handle in handles)
        rig.settle(hub)
        assert rig.client(hub).request("ACME", "echo", 1).get() == 1

    def test_others_are_not_touched(self, rig: Rig) -> None:
        """Only the requests of the client that left are cancelled."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        leaving, staying = headgate.connect(hub.url), rig.client(hub)
        kept = staying.request("ACME", "hold", "kept")
        lost = leaving.request("ACME", "hold", "lost")
        assert {begun(hub), begun(hub)} == {"kept", "lost"}
        leaving.close()
        rig.until(lambda: hub.stats()["handlers_abandoned"] == 1)
        hub.globals["go"].set()
        assert kept.get() == "kept"
        assert lost.block() is False


COOPERATIVE = """
    import time
    def handleMessage(payload, context):
        system.util.globals["running"].put(payload)
        while not context.cancelled:
            time.sleep(0.001)
    """


class TestWhileThePayloadIsDecoded:
    def test_an_async_handler_gives_its_place_back(self, rig: Rig) -> None:
        """A request that is cancelled while its large payload is decoded holds no place."""
        hub = rig.gateway(
            {
                "ACME/count": """
                import headgate
                @headgate.handler(concurrency=1)
                async def handleMessage(payload):
                    return len(payload)
                """
            }
        )
        client = rig.client(hub)
        large = [{"number": number} for number in range(300_000)]
        first = client.request("ACME", "count", large)
        rig.until(lambda: hub.stats()["handlers_running"])
        first.cancel()
        assert client.request("ACME", "count", [1, 2, 3]).get() == 3
        rig.until(lambda: hub.stats()["handlers_under_way"] == 0)
