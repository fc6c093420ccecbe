"""Requests that scripts make in a worker, with the test as the gateway that answers them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from headgate.runtimes.link import (
    Logged,
    NestedAnswer,
    NestedCall,
    NestedCancel,
    NestedEvent,
    NestedGrant,
    Returned,
    Waits,
)
from headgate.wire.codec import decode, encode

if TYPE_CHECKING:
    from worker_ends import Nursery, WorkerEnd

REQUEST_ID = f"{7:020x}{9:012x}"

SCRIPTS = {
    "ask": """
        def handleMessage(payload):
            return system.util.sendRequest("ACME", "inner", payload, timeoutSec=5) + 1
        """,
    "hasty": """
        def handleMessage(payload):
            error = system.util.sendRequestAsync("ACME", "inner", {}, None, 0.01).getError()
            return [error.code, error.started]
        """,
    "ask_elsewhere": """
        import headgate
        def handleMessage(payload):
            client = headgate.system.util
            return client.sendRequest("ACME", "inner", {}, remoteServer="mill", hostName="panel")
        """,
    "ask_later": """
        async def handleMessage(payload):
            return await system.util.sendRequestAsync("ACME", "inner", payload) + 1
        """,
    "detach": """
        handles = []
        def work():
            handles.append(system.util.sendRequestAsync("ACME", "inner", {"from": "thread"}))
        def handleMessage(payload):
            system.util.invokeAsynchronous(work).join()
            return handles[-1].get()
        """,
    "forget": """
        def follow(value):
            print("got", value)
            system.util.sendRequestAsync("ACME", "outer")
        def handleMessage(payload):
            print("begun")
            system.util.sendRequestAsync(
                "ACME", "inner", {},
                onSuccess=follow, onError=lambda error: print("failed", error.code),
            )
            return "returned"
        """,
    "cancel": """
        def handleMessage(payload):
            handle = system.util.sendRequestAsync("ACME", "inner", {})
            handle.cancel()
            return [handle.getError().code, handle.wait_fate(20), handle.started]
        """,
    "progress": """
        import threading
        def handleMessage(payload, context):
            scope = system.util._scope
            seen = []
            handle = scope.request("ACME", "inner", {}, on_progress=seen.append)
            handle.get()
            return [seen, handle.request_id]
        """,
    "stream": """
        def handleMessage(payload):
            return [n * 2 for n in system.util.sendRequestAsync("ACME", "inner", {}).stream()]
        """,
    "message": """
        def handleMessage(payload):
            return system.util.sendMessage("ACME", "refresh", {"a": 1}, scope="C", user="anna")
        """,
    "globals": """
        def handleMessage(payload):
            system.util.getGlobals()["runs"] = system.util.getGlobals().get("runs", 0) + 1
            return [system.util.globals["runs"], system.util.getProjectName()]
        """,
    "child": """
        import os
        def handleMessage(payload):
            reading, writing = os.pipe()
            if os.fork() == 0:
                error = system.util.sendRequestAsync("ACME", "inner", {}).getError()
                os.write(writing, f"{error.code} {error.started}".encode())
                os._exit(0)
            os.close(writing)
            return os.read(reading, 100).decode()
        """,
}


@pytest.fixture
def worker(nursery: Nursery) -> WorkerEnd:
    """A worker that has loaded `SCRIPTS`."""
    return nursery.loaded(SCRIPTS)


def answer(worker: WorkerEnd, call: NestedCall, value: Any) -> None:
    """Answer a request with a result."""
    worker.send(NestedAnswer(call.number, encode(value), request_id=REQUEST_ID))


def test_a_request_is_nested_in_its_run(worker: WorkerEnd) -> None:
    """It names its run, its own deadline, and that the handler waits for it until it ends."""
    run = worker.begin("ask", {"n": 1})
    call = worker.take(NestedCall)
    assert (call.parent, call.project, call.handler) == (run.number, "ACME", "inner")
    assert decode(call.payload) == {"n": 1}
    assert 0 < call.deadline - time.monotonic() <= 5
    assert (call.caller, call.ancestors, call.streams) == (None, (), True)
    assert worker.take(Waits) == Waits(run.number, call.number)
    answer(worker, call, 41)
    assert worker.take(Waits) == Waits(run.number, 0)
    assert decode(worker.take(Returned).payload) == 42


def test_a_request_goes_where_it_is_sent(worker: WorkerEnd) -> None:
    """Also from `headgate.system`, to another gateway or host."""
    worker.begin("ask_elsewhere")
    call = worker.take(NestedCall)
    assert (call.remote_server, call.host_name) == ("mill", "panel")
    answer(worker, call, None)
    worker.take(Returned)


def test_an_error_of_a_request_is_raised(worker: WorkerEnd) -> None:
    """As the error it is, with what it says of the start."""
    worker.begin("ask")
    call = worker.take(NestedCall)
    worker.send(NestedAnswer(call.number, b"", "overloaded", "full", False, {"retry_after": 2}))
    end = worker.take(Returned)
    assert (end.code, end.details["type"]) == ("handler_error", "Overloaded")
    assert end.details["message"] == "full"


def test_a_request_is_awaited(worker: WorkerEnd) -> None:
    """In an ``async def`` handler, which says what it waits for, too."""
    run = worker.begin("ask_later", {"n": 1})
    call = worker.take(NestedCall)
    assert worker.take(Waits) == Waits(run.number, call.number)
    answer(worker, call, 41)
    assert worker.take(Waits) == Waits(run.number, 0)
    assert decode(worker.take(Returned).payload) == 42


def test_a_thread_of_its_own_asks_for_the_same_caller(worker: WorkerEnd) -> None:
    """It names no run, for it may outlive it, but on whose behalf it asks."""
    run = worker.begin("detach")
    call = worker.take(NestedCall)
    assert (call.parent, call.caller) == (0, run.caller)
    assert call.ancestors == (f"{run.origin}{run.sequence:012x}",)
    answer(worker, call, "done")
    assert decode(worker.take(Returned).payload) == "done"


def test_callbacks_run_after_the_handler_has_returned(worker: WorkerEnd) -> None:
    """On the callback thread; what they ask for has the caller, and no run."""
    run = worker.begin("forget")
    call = worker.take(NestedCall)
    assert call.parent == run.number
    assert decode(worker.take(Returned).payload) == "returned"
    answer(worker, call, 5)
    assert worker.take(Logged, lambda frame: "got" in frame.message).number == 0
    following = worker.take(NestedCall)
    assert (following.parent, following.caller) == (0, run.caller)


def test_a_cancelled_request_learns_its_fate(worker: WorkerEnd) -> None:
    """The gateway is told, and what it says of the handler later still comes."""
    worker.begin("cancel")
    call = worker.take(NestedCall)
    assert worker.take(NestedCancel).number == call.number
    worker.send(
        NestedEvent(call.number, started=True),
        NestedAnswer(call.number, b"", "cancelled", "cancelled", True),
        NestedEvent(call.number, fate="still running"),
        NestedEvent(call.number, fate="stopped"),
    )
    assert decode(worker.take(Returned).payload)[:2] == ["cancelled", "stopped"]


def test_progress_of_a_request_comes_to_its_callback(worker: WorkerEnd) -> None:
    """And the request's id is known when it is over."""
    worker.begin("progress")
    call = worker.take(NestedCall)
    worker.send(NestedEvent(call.number, progress=encode("half")))
    answer(worker, call, None)
    seen, request_id = decode(worker.take(Returned).payload)
    assert seen in ([], ["half"])
    assert request_id == REQUEST_ID


def test_a_stream_of_a_request_is_read(worker: WorkerEnd) -> None:
    """Its values come before its end, and more is granted as they are read."""
    worker.begin("stream")
    call = worker.take(NestedCall)
    values = [encode(n) for n in range(3_000)]
    worker.send(NestedEvent(call.number, parts=values))
    assert worker.take(NestedGrant).total > 256 * 1024
    worker.send(NestedAnswer(call.number, b"", request_id=REQUEST_ID))
    assert decode(worker.take(Returned).payload) == [n * 2 for n in range(3_000)]


def test_a_message_is_delivered_by_the_gateway(worker: WorkerEnd) -> None:
    """Its scope and filters go along, and the report comes back."""
    worker.begin("message")
    call = worker.take(NestedCall)
    assert (call.handler, call.scope, call.filters) == ("refresh", "C", {"user": "anna"})
    answer(worker, call, ["sendStatus=SENT"])
    assert decode(worker.take(Returned).payload) == ["sendStatus=SENT"]


def test_a_request_ends_by_itself_if_the_gateway_says_nothing(
    nursery: Nursery, worker: WorkerEnd
) -> None:
    """Some seconds after its deadline: no handle hangs."""
    worker.begin("hasty")
    worker.take(NestedCall)
    assert decode(worker.take(Returned).payload) == ["timeout", None]


def test_globals_are_those_of_the_process(worker: WorkerEnd) -> None:
    """They last from run to run."""
    assert worker.call("globals") == [1, "ACME"]
    assert worker.call("globals") == [2, "ACME"]


def test_a_child_of_a_handler_cannot_ask(worker: WorkerEnd) -> None:
    """Its request ends at once, and has not started."""
    assert worker.call("child") == "unreachable False"
