"""What handlers get, how many run at once, and what their callers learn of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import HandlerError, Overloaded, PayloadError, RequestTimeout
from headgate.scope import Scope

if TYPE_CHECKING:
    from conftest import Rig

Ask = Callable[..., headgate.Request]


@pytest.fixture(params=["client", "in process"])
def scope(request: pytest.FixtureRequest, rig: Rig) -> Callable[[headgate.Gateway], Scope]:
    """Callers of both kinds: through a connection, and in the gateway's process."""
    return rig.client if request.param == "client" else lambda gateway: gateway.scope("")


class TestForms:
    def test_a_handler_gets_the_payload_and_its_return_value_is_the_result(
        self, rig: Rig, scope: Any
    ) -> None:
        """handleMessage(payload) answers with what it returns."""
        hub = rig.gateway(
            {"ACME/test": "def handleMessage(payload): return {'double': payload['number'] * 2}"}
        )
        assert scope(hub).request("ACME", "test", {"number": 55}).get() == {"double": 110}

    def test_a_handler_without_return_gives_none(self, rig: Rig, scope: Any) -> None:
        """Without a return statement the result is None, and the request succeeded."""
        hub = rig.gateway({"ACME/test": "def handleMessage(payload): payload.clear()"})
        handle = scope(hub).request("ACME", "test", {"number": 55})
        assert (handle.get(), handle.block(), handle.getError()) == (None, True, None)

    def test_a_second_parameter_gets_the_context(self, rig: Rig) -> None:
        """context tells who asked, from where, the id, and the seconds that are left."""
        hub = rig.gateway(
            {
                "ACME/test": """
                def handleMessage(payload, context):
                    caller = context.caller
                    return {
                        "user": caller.user, "roles": caller.roles, "host": caller.host,
                        "gateway": caller.gateway, "session": caller.session,
                        "id": context.request_id, "remaining": context.remaining(),
                        "cancelled": context.cancelled,
                    }
                """
            }
        )
        client = rig.client(hub, host_name="panel-7")
        handle = client.request("ACME", "test", timeout=30)
        told = handle.get()
        assert told["user"]
        assert told["roles"] == frozenset({"owner"})
        assert told["host"] == "panel-7"
        assert told["gateway"] == ()
        assert told["session"] == client.session_id
        assert told["id"] == handle.request_id
        assert len(told["id"]) == 32
        assert 0 < told["remaining"] <= 30
        assert told["cancelled"] is False

    def test_the_gateways_own_scripts_are_a_caller_of_their_own(self, rig: Rig) -> None:
        """What the gateway's process asks for itself has the gateway as its caller."""
        hub = rig.gateway(
            {"ACME/test": "def handleMessage(payload, context): return context.caller.user"}
        )
        assert hub.scope("").request("ACME", "test").get() == "gateway:hub"

    def test_an_async_handler_is_awaited(self, rig: Rig, scope: Any) -> None:
        """An async def handler may await, and its return value is the result."""
        hub = rig.gateway(
            {
                "ACME/test": """
                import asyncio
                async def handleMessage(payload, context):
                    await asyncio.sleep(0)
                    return [payload["number"], context.remaining() > 0]
                """
            }
        )
        assert scope(hub).request("ACME", "test", {"number": 55}).get() == [55, True]

    def test_a_handler_may_have_a_name_with_folders(self, rig: Rig) -> None:
        """A script in a subfolder of messages is a handler with a slash in its name."""
        hub = rig.gateway({"ACME/messages/line/start.py": rig.ECHO})
        assert rig.client(hub).request("ACME", "line/start", {"a": 1}).get() == {"a": 1}

    def test_scripts_import_their_library_when_they_run(self, rig: Rig) -> None:
        """A handler may import its project's library at run time; each project sees its own."""
        body = "def handleMessage(payload):\n    import plant.line\n    return plant.line.name()\n"
        hub = rig.gateway(
            {
                "A/test": body,
                "B/test": body,
                "A/library/plant/line.py": "def name(): return 'line of A'",
                "B/library/plant/line.py": "def name(): return 'line of B'",
            }
        )
        client = rig.client(hub)
        assert client.request("A", "test").get() == "line of A"
        assert client.request("B", "test").get() == "line of B"

    def test_an_async_handler_imports_its_library_when_it_runs(self, rig: Rig) -> None:
        """The same from an async def handler."""
        hub = rig.gateway(
            {
                "A/test": """
                async def handleMessage(payload):
                    from plant import line
                    return line.name()
                """,
                "A/library/plant/line.py": "def name(): return 'line of A'",
            }
        )
        assert rig.client(hub).request("A", "test").get() == "line of A"


class TestPayload:
    def test_the_handler_gets_a_mutable_copy(self, rig: Rig, scope: Any) -> None:
        """What a handler does to its payload is not seen by the caller, also in one process."""
        hub = rig.gateway(
            {
                "ACME/test": """
                def handleMessage(payload):
                    payload["list"].append(3)
                    payload["new"] = True
                    return payload
                """
            }
        )
        sent = {"list": [1, 2]}
        assert scope(hub).request("ACME", "test", sent).get() == {"list": [1, 2, 3], "new": True}
        assert sent == {"list": [1, 2]}

    def test_the_payload_is_taken_when_the_call_is_made(self, rig: Rig, scope: Any) -> None:
        """What the caller does to its payload after the call is not seen by the handler."""
        hub = rig.gateway(
            {
                "ACME/test": """
                def handleMessage(payload):
                    system.util.globals["go"].wait(20)
                    return payload
                """
            }
        )
        sent = {"list": [1, 2]}
        handle = scope(hub).request("ACME", "test", sent)
        sent["list"].append(3)
        hub.globals["go"].set()
        assert handle.get() == {"list": [1, 2]}

    def test_the_result_is_a_copy_too(self, rig: Rig, scope: Any) -> None:
        """What the caller does to a result is not seen by the handler's module."""
        hub = rig.gateway(
            {"ACME/test": "LAST = [1]\ndef handleMessage(payload):\n    return LAST\n"}
        )
        caller = scope(hub)
        caller.request("ACME", "test").get().append(2)
        assert caller.request("ACME", "test").get() == [1]

    def test_nothing_means_an_empty_dictionary(self, rig: Rig, scope: Any) -> None:
        """Without a payload the handler gets {}."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        assert scope(hub).request("ACME", "test").get() == {}

    def test_python_callers_may_send_any_value(self, rig: Rig, scope: Any) -> None:
        """client.request takes values that are no dictionary."""
        hub = rig.gateway({"ACME/test": rig.ECHO})
        assert scope(hub).request("ACME", "test", (1, {2}, b"3")).get() == (1, {2}, b"3")

    @pytest.mark.parametrize("form", ["def", "async def"])
    def test_a_result_that_cannot_be_sent_is_named(self, rig: Rig, scope: Any, form: str) -> None:
        """An unsendable result is a PayloadError with its place; the handler did run."""
        hub = rig.gateway(
            {"ACME/test": f"{form} handleMessage(payload): return {{'a': [0, 1, 2, object()]}}"}
        )
        error = scope(hub).request("ACME", "test").getError()
        assert isinstance(error, PayloadError)
        assert error.place == "result['a'][3]"
        assert "result['a'][3]" in str(error)
        assert error.started is True


FAILING = """
from plant import pump

{form} handleMessage(payload):
    return pump.start(payload["speed"])
"""
PUMP = """
def start(speed):
    raise ValueError(f"The pump cannot turn at {speed}")
"""


class TestExceptions:
    @pytest.mark.parametrize("form", ["def", "async def"])
    def test_an_exception_arrives_as_text(self, rig: Rig, scope: Any, form: str) -> None:
        """HandlerError has the exception's type, message and the traceback of the script alone."""
        hub = rig.gateway(
            {"ACME/test": FAILING.format(form=form), "ACME/library/plant/pump.py": PUMP}
        )
        error = scope(hub).request("ACME", "test", {"speed": 9}).getError()
        assert isinstance(error, HandlerError)
        assert error.remote_type == "ValueError"
        assert error.remote_message == "The pump cannot turn at 9"
        assert str(error) == "ValueError: The pump cannot turn at 9"
        assert error.started is True
        files = [line for line in error.remote_traceback.splitlines() if "File " in line]
        assert [line.split('"')[1].rpartition("/")[2] for line in files] == ["test.py", "pump.py"]
        assert error.remote_traceback.endswith("ValueError: The pump cannot turn at 9\n")

    @pytest.mark.parametrize("form", ["def", "async def"])
    @pytest.mark.parametrize(
        "kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"]
    )
    def test_what_would_end_a_program_ends_the_request_only(
        self, rig: Rig, scope: Any, form: str, kind: str
    ) -> None:
        """A handler that exits or is interrupted fails; the gateway and the project go on."""
        hub = rig.gateway(
            {
                "ACME/bad": f"{form} handleMessage(payload): raise {kind}('enough')",
                "ACME/good": f"{form} handleMessage(payload): return 'fine'",
            }
        )
        caller = scope(hub)
        error = caller.request("ACME", "bad", timeout=5).getError()
        assert isinstance(error, HandlerError)
        assert (error.remote_type, error.remote_message) == (kind, "enough")
        assert caller.request("ACME", "good", timeout=5).get() == "fine"

    def test_a_task_of_an_async_handler_that_exits_hurts_no_other_handler(self, rig: Rig) -> None:
        """SystemExit in a task that a handler left behind does not end the project's loop."""
        hub = rig.gateway(
            {
                "ACME/bad": """
                import asyncio, sys
                async def leave():
                    try:
                        sys.exit(3)
                    finally:
                        system.util.globals["running"].put("left")
                async def handleMessage(payload):
                    system.util.globals["task"] = asyncio.create_task(leave())
                """,
                "ACME/good": "async def handleMessage(payload): return 'fine'",
            }
        )
        client = rig.client(hub)
        client.request("ACME", "bad", timeout=5).block()
        hub.globals["running"].get(timeout=20)
        assert client.request("ACME", "good", timeout=5).get() == "fine"
        hub.globals.pop("task").exception()

    def test_an_exception_whose_text_cannot_be_made_is_still_told(self, rig: Rig) -> None:
        """A broken __str__ does not keep the request from ending."""
        hub = rig.gateway(
            {
                "ACME/test": """
                class Bad(Exception):
                    def __str__(self): raise RuntimeError
                def handleMessage(payload): raise Bad
                """
            }
        )
        error = rig.client(hub).request("ACME", "test", timeout=5).getError()
        assert isinstance(error, HandlerError)
        assert error.remote_type == "Bad"

    @pytest.mark.parametrize("form", ["def", "async def"])
    def test_a_text_that_is_no_unicode_arrives_escaped(self, rig: Rig, form: str) -> None:
        """Names of files may hold such text; it hurts neither this request nor its neighbours."""
        hub = rig.gateway(
            {
                "ACME/bad": f"{form} handleMessage(payload): raise OSError('no file \\udcff')",
                "ACME/good": rig.ECHO,
            }
        )
        client = rig.client(hub)
        handles = [client.request("ACME", "bad", timeout=5) for _ in range(5)]
        others = [client.request("ACME", "good", {"n": n}, timeout=5) for n in range(5)]
        assert [other.get() for other in others] == [{"n": n} for n in range(5)]
        for handle in handles:
            error = handle.getError()
            assert isinstance(error, HandlerError)
            assert error.remote_message == "no file \\udcff"

    def test_a_very_long_text_is_cut(self, rig: Rig) -> None:
        """The text of an exception cannot make the answer larger than a message may be."""
        hub = rig.gateway(
            {"ACME/bad": "def handleMessage(payload): raise ValueError('x' * 1_000_000)"}
        )
        error = rig.client(hub).request("ACME", "bad", timeout=5).getError()
        assert isinstance(error, HandlerError)
        assert len(str(error)) < 100_000

    def test_a_caller_that_stays_in_the_process_gets_no_live_objects(self, rig: Rig) -> None:
        """Also in one process an exception is text: no cause, no frames of the handler."""
        hub = rig.gateway({"ACME/bad": "def handleMessage(payload): raise ValueError(payload)"})
        error = hub.scope("").request("ACME", "bad").getError()
        assert isinstance(error, HandlerError)
        assert (error.__cause__, error.__context__, error.__traceback__) == (None, None, None)

    def test_a_failing_nested_request_is_the_handlers_error(self, rig: Rig) -> None:
        """An error that a handler lets pass is its own exception to its caller, and names both."""
        hub = rig.gateway(
            {"ACME/test": "def handleMessage(payload): system.util.sendRequest('ACME', 'none')"}
        )
        error = rig.client(hub).request("ACME", "test").getError()
        assert isinstance(error, HandlerError)
        assert error.remote_type == "HandlerNotFound"
        assert '"none"' in error.remote_message
        assert error.started is True

    def test_an_async_handler_that_cancels_itself_has_failed(self, rig: Rig) -> None:
        """asyncio's CancelledError that nobody asked for is the handler's exception."""
        hub = rig.gateway(
            {
                "ACME/test": """
                import asyncio
                async def handleMessage(payload):
                    raise asyncio.CancelledError("by itself")
                """
            }
        )
        error = rig.client(hub).request("ACME", "test", timeout=5).getError()
        assert isinstance(error, HandlerError)
        assert error.remote_type == "CancelledError"


class TestOrderAndLimits:
    def test_shared_handlers_start_in_order_of_arrival(self, rig: Rig) -> None:
        """Requests to the pool begin in the order in which they were made."""
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/note": NOTE})
        client = rig.client(hub)
        busy = [client.request("ACME", "hold", n) for n in range(8)]
        for _ in busy:
            hub.globals["running"].get(timeout=20)
        hub.globals["order"] = []
        # All threads are busy; with one given back at a time the order can be seen exactly.
        waiting = [client.request("ACME", "note", n) for n in range(50)]
        rig.until(lambda: hub.stats()["handlers_queued"] == 50)
        hub.globals["go"].set()
        for handle in waiting:
            handle.get()
        begun = [n for n, _ in hub.globals["order"]]
        # Each thread notes its invocation just after it took it: neighbours may swap places.
        assert sorted(begun) == list(range(50))
        assert all(abs(place - n) <= 8 for place, n in enumerate(begun))

    def test_a_dedicated_handler_runs_strictly_in_order_on_one_thread(self, rig: Rig) -> None:
        """Every run of a Dedicated handler is on the same thread, in order, one at a time."""
        hub = rig.gateway(
            {
                "ACME/test": """
                import threading
                import headgate
                inside = []
                @headgate.handler(threading="Dedicated")
                def handleMessage(payload):
                    inside.append(payload)
                    alone = inside == [payload]
                    inside.clear()
                    return payload, threading.get_ident(), alone
                """
            }
        )
        client = rig.client(hub)
        order: list[int] = []
        handles = [
            client.request("ACME", "test", n, on_success=lambda r: order.append(r[0]))
            for n in range(300)
        ]
        results = [handle.get() for handle in handles]
        assert len({thread for _, thread, _ in results}) == 1
        assert all(alone for _, _, alone in results)
        rig.until(lambda: len(order) == 300)
        assert order == list(range(300))

    def test_two_dedicated_handlers_do_not_wait_for_each_other(self, rig: Rig) -> None:
        """Each Dedicated handler has a thread of its own."""
        dedicated = {"ACME/project.toml": '[defaults]\nthreading = "Dedicated"\n'}
        hub = rig.gateway({**dedicated, "ACME/hold": rig.HOLD, "ACME/echo": rig.ECHO})
        client = rig.client(hub)
        held = client.request("ACME", "hold", 1)
        hub.globals["running"].get(timeout=20)
        assert client.request("ACME", "echo", 2, timeout=5).get() == 2
        assert not held.done

    @pytest.mark.parametrize("form", ["def", "async def"])
    def test_no_more_run_at_once_than_the_concurrency(self, rig: Rig, form: str) -> None:
        """With concurrency=3, three run at once, and the fourth begins when one has ended."""
        hub = rig.gateway(
            {
                "ACME/test": f"""
                import asyncio, headgate
                @headgate.handler(concurrency=3)
                {form} handleMessage(payload):
                    shared = system.util.globals
                    shared["running"].put(payload)
                    {
                    "await asyncio.to_thread(shared[payload].wait, 10)"
                    if "async" in form
                    else "shared[payload].wait(20)"
                }
                    return payload
                """
            }
        )
        hub.globals.update({name: threading.Event() for name in "abcd"})
        client = rig.client(hub)
        handles = {name: client.request("ACME", "test", name) for name in "abcd"}
        running = {hub.globals["running"].get(timeout=20) for _ in range(3)}
        assert running == {"a", "b", "c"}
        assert hub.stats()["handlers_under_way"] == 4
        with pytest.raises(queue.Empty):
            hub.globals["running"].get(timeout=0.05)
        hub.globals["b"].set()
        assert handles["b"].get() == "b"
        assert hub.globals["running"].get(timeout=20) == "d"
        for name in "acd":
            hub.globals[name].set()
        assert [handle.get() for handle in handles.values()] == list("abcd")

    def test_a_full_queue_answers_overloaded_at_once(self, rig: Rig, scope: Any) -> None:
        """One runs, two wait, the fourth is refused, and the refusal says that it did not start."""
        hub = rig.gateway(
            {
                "ACME/hold": rig.HOLD,
                "ACME/project.toml": "[handlers.hold]\nconcurrency = 1\nqueue = 2\n",
            }
        )
        caller = scope(hub)
        handles = [caller.request("ACME", "hold", n) for n in range(3)]
        hub.globals["running"].get(timeout=20)
        error = caller.request("ACME", "hold", 3).getError()
        assert isinstance(error, Overloaded)
        assert error.started is False
        assert "ACME/hold" in str(error)
        assert "queue" in str(error)
        hub.globals["go"].set()
        assert [handle.get() for handle in handles] == [0, 1, 2]
        assert caller.request("ACME", "hold", 4).get() == 4

    def test_a_dedicated_handler_without_queue_takes_one_at_a_time(self, rig: Rig) -> None:
        """queue=0 means: run at once or refuse."""
        hub = rig.gateway(
            {
                "ACME/hold": rig.HOLD,
                "ACME/project.toml": '[handlers.hold]\nthreading = "Dedicated"\nqueue = 0\n',
            }
        )
        client = rig.client(hub)
        first = client.request("ACME", "hold", 1)
        hub.globals["running"].get(timeout=20)
        assert isinstance(client.request("ACME", "hold", 2).getError(), Overloaded)
        hub.globals["go"].set()
        assert first.get() == 1

    def test_a_withdrawn_request_gives_its_place_in_the_queue_back(self, rig: Rig) -> None:
        """What is cancelled while it waits makes room for another at once."""
        hub = rig.gateway(
            {
                "ACME/hold": rig.HOLD,
                "ACME/project.toml": "[handlers.hold]\nconcurrency = 1\nqueue = 1\n",
            }
        )
        client = rig.client(hub)
        first = client.request("ACME", "hold", 1)
        hub.globals["running"].get(timeout=20)
        for n in range(5):
            waiting = client.request("ACME", "hold", n)
            assert waiting.cancel()
            assert waiting.wait_fate(20) == "not started"
        last = client.request("ACME", "hold", "last")
        hub.globals["go"].set()
        assert (first.get(), last.get()) == (1, "last")

    def test_async_handlers_wait_side_by_side(self, rig: Rig) -> None:
        """Many more async handlers than threads of the pool can wait at once."""
        hub = rig.gateway(
            {
                "ACME/meet": """
                import asyncio
                arrived, everybody = [], asyncio.Event()
                async def handleMessage(payload):
                    arrived.append(payload)
                    if len(arrived) == 500:
                        everybody.set()
                    await everybody.wait()
                    return payload
                """
            }
        )
        client = rig.client(hub)
        handles = [client.request("ACME", "meet", n) for n in range(500)]
        assert [handle.get() for handle in handles] == list(range(500))

    def test_a_busy_project_does_not_keep_another_waiting(self, rig: Rig) -> None:
        """Each project has its own threads."""
        hub = rig.gateway({"A/hold": rig.HOLD, "B/echo": rig.ECHO})
        client = rig.client(hub)
        held = [client.request("A", "hold", n) for n in range(20)]
        for _ in range(8):
            hub.globals["running"].get(timeout=20)
        assert client.request("B", "echo", 1, timeout=5).get() == 1
        assert not any(handle.done for handle in held)


NOTE = """
import threading
def handleMessage(payload):
    system.util.globals["order"].append((payload, threading.get_ident()))
"""


class TestTime:
    def test_the_handlers_own_timeout_caps_the_callers(self, rig: Rig, scope: Any) -> None:
        """timeout= of a handler ends a request earlier than its caller would."""
        hub = rig.gateway(
            {
                "ACME/test": """
                import headgate
                @headgate.handler(timeout=0.7)
                def handleMessage(payload, context):
                    system.util.globals["remaining"] = context.remaining()
                    system.util.globals["go"].wait(20)
                """
            }
        )
        handle = scope(hub).request("ACME", "test", timeout=50)
        error = handle.getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is True
        assert hub.globals["remaining"] <= 0.7
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"

    def test_the_handlers_own_timeout_does_not_lengthen_the_callers(self, rig: Rig) -> None:
        """The earlier of the two deadlines counts."""
        hub = rig.gateway(
            {
                "ACME/test": """
                import headgate
                @headgate.handler(timeout=50)
                def handleMessage(payload, context): return context.remaining()
                """
            }
        )
        assert rig.client(hub).request("ACME", "test", timeout=5).get() <= 5

    def test_a_handler_never_starts_after_its_deadline(self, rig: Rig, scope: Any) -> None:
        """What waits for longer than its deadline ends with started False and never runs."""
        hub = rig.gateway(
            {
                "ACME/project.toml": '[handlers.test]\nthreading = "Dedicated"\n',
                "ACME/test": """
                def handleMessage(payload):
                    system.util.globals["running"].put(payload)
                    system.util.globals["go"].wait(20)
                """,
            }
        )
        caller = scope(hub)
        first = caller.request("ACME", "test", "first")
        assert hub.globals["running"].get(timeout=20) == "first"
        late = [caller.request("ACME", "test", n, timeout=0.05) for n in range(10)]
        for handle in late:
            error = handle.getError()
            assert isinstance(error, RequestTimeout)
            assert error.started is False
            assert handle.fate == "not started"
        hub.globals["go"].set()
        first.get()
        assert caller.request("ACME", "test", "last").get() is None
        assert hub.globals["running"].get(timeout=20) == "last"

    def test_a_running_handler_sees_that_its_time_is_up(self, rig: Rig) -> None:
        """context.cancelled is set and remaining() is 0 once the deadline has passed."""
        hub = rig.gateway(
            {
                "ACME/test": """
                import time
                def handleMessage(payload, context):
                    while not context.cancelled:
                        time.sleep(0.002)
                    system.util.globals["running"].put(context.remaining())
                """
            }
        )
        handle = rig.client(hub).request("ACME", "test", timeout=0.7)
        assert isinstance(handle.getError(), RequestTimeout)
        assert hub.globals["running"].get(timeout=20) == 0.0
        assert handle.wait_fate(20) == "finished"


class TestProgress:
    @pytest.mark.parametrize("form", ["def", "async def"])
    def test_progress_reaches_the_caller_before_the_result(
        self, rig: Rig, scope: Any, form: str
    ) -> None:
        """context.progress values come to on_progress in order, and mark the request as started."""
        hub = rig.gateway(
            {
                "ACME/test": f"""
                {form} handleMessage(payload, context):
                    for n in range(3):
                        context.progress({{"done": n}})
                        system.util.globals["seen"].acquire(timeout=20)
                    return "ready"
                """
            }
        )
        hub.globals["seen"] = threading.Semaphore(0)
        values, started = [], []

        def seen(value: Any) -> None:
            values.append(value)
            started.append(handle.started)
            hub.globals["seen"].release()

        handle = scope(hub).request("ACME", "test", on_progress=seen)
        assert handle.get() == "ready"
        assert values == [{"done": n} for n in range(3)]
        assert started == [True] * 3

    def test_fast_progress_is_conflated_and_the_last_value_counts(self, rig: Rig) -> None:
        """Values that come faster than they can be sent are left out; order is kept."""
        hub = rig.gateway(
            {
                "ACME/test": """
                def handleMessage(payload, context):
                    for n in range(5000):
                        context.progress(n)
                    system.util.globals["last"].wait(20)
                """
            }
        )
        hub.globals["last"] = threading.Event()
        values: list[int] = []

        def seen(value: int) -> None:
            values.append(value)
            if value == 4999:
                hub.globals["last"].set()

        rig.client(hub).request("ACME", "test", on_progress=seen).get()
        assert values[-1] == 4999
        assert values == sorted(set(values))

    def test_a_progress_value_that_cannot_be_sent_raises_in_the_handler(self, rig: Rig) -> None:
        """context.progress names the place in the value, as for every payload."""
        hub = rig.gateway(
            {"ACME/test": "def handleMessage(payload, context): context.progress([object()])"}
        )
        error = rig.client(hub).request("ACME", "test").getError()
        assert isinstance(error, HandlerError)
        assert error.remote_type == "PayloadError"
        assert "progress[0]" in error.remote_message

    def test_progress_of_a_cancelled_request_is_dropped(self, rig: Rig) -> None:
        """After the end no value comes any more, and reporting one hurts nothing."""
        hub = rig.gateway(
            {
                "ACME/test": """
                def handleMessage(payload, context):
                    context.progress(1)
                    system.util.globals["go"].wait(20)
                    context.progress(2)
                """
            }
        )
        first, values = threading.Event(), []
        handle = rig.client(hub).request(
            "ACME", "test", on_progress=lambda value: (values.append(value), first.set())
        )
        assert first.wait(20)
        handle.cancel()
        rig.until(lambda: handle.fate == "still running")
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"
        assert values == [1]


class TestNeighbours:
    """A handler that is slow delays no answer of another one."""

    def test_an_answer_does_not_wait_for_what_its_thread_does_next(self, rig: Rig) -> None:
        """When a handler returns and its thread goes on with a slow one, the answer leaves."""
        hub = rig.gateway({"ACME/quick": QUICK, "ACME/hold": rig.HOLD})
        client = rig.client(hub)
        for n in range(30):
            # A message to a slow handler, and then the end: both for the same thread, perhaps.
            assert client.request("ACME", "quick", {"n": n}, timeout=5).get() == n
            hub.globals["running"].get(timeout=20)
            hub.globals["go"].set()
            rig.until(lambda: client.request("@gateway", "stats").get()["handlers_running"] == 0)
            hub.globals["go"].clear()

    def test_an_answer_of_a_dedicated_handler_does_not_wait_for_the_next_run(
        self, rig: Rig
    ) -> None:
        """A Dedicated handler that waited for a nested request answers before its next run."""
        hub = rig.gateway(
            {
                "ACME/own": """
                import headgate
                @headgate.handler(threading="Dedicated")
                def handleMessage(payload):
                    if payload["n"] == 0:
                        return system.util.sendRequest("ACME", "hold", payload)
                    system.util.globals["stop"].wait(20)
                """,
                "ACME/hold": rig.HOLD,
            }
        )
        hub.globals["stop"] = threading.Event()
        client = rig.client(hub)
        first = client.request("ACME", "own", {"n": 0}, timeout=5)
        hub.globals["running"].get(timeout=20)
        second = client.request("ACME", "own", {"n": 1})
        rig.until(lambda: hub.stats()["handlers_queued"] == 1)
        hub.globals["go"].set()
        assert first.get() == {"n": 0}
        hub.globals["stop"].set()
        assert second.get() is None

    def test_requests_of_one_moment_all_begin(self, rig: Rig) -> None:
        """Of handlers that wait for each other, asked in one breath, none is left in the queue."""
        hub = rig.gateway(
            {
                "ACME/meet": """
                def handleMessage(payload):
                    system.util.globals["barrier"].wait(20)
                    return payload
                """
            }
        )
        client = rig.client(hub)
        for size in (2, 3, 8, 2, 5):
            hub.globals["barrier"] = threading.Barrier(size)
            handles = [client.request("ACME", "meet", n, timeout=8) for n in range(size)]
            assert [handle.get() for handle in handles] == list(range(size))


QUICK = """
    def handleMessage(payload):
        system.util.sendMessage("ACME", "hold", payload, scope="G")
        return payload["n"]
    """
