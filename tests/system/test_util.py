"""`system.util`: requests, messages, globals, threads and JSON."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import headgate
from headgate.handler import PoolSettings

if TYPE_CHECKING:
    from conftest import Rig

Plant = Callable[..., headgate.Gateway]

POOL_THREADS = PoolSettings().threads

SENDERS = ["sendRequestAsync", "sendRequest", "sendMessage"]


# --- sendRequestAsync and sendRequest -------------------------------------------------------------


def test_manual_example(plant: Plant) -> None:
    """The manual's call gives a handle at once, and the handle gives the result."""
    hub = plant(test="def handleMessage(payload):\n    return payload['number'] * 2")
    with headgate.connect(hub.url) as client:
        system = client.system
        handle = system.util.sendRequestAsync(
            project="ACME", messageHandler="test", payload={"number": 55}
        )
        assert isinstance(handle, headgate.Request)
        assert handle.get() == 110


def test_positional_order(client: headgate.Client) -> None:
    """The arguments stand in the order of the manual's syntax line, callbacks last."""
    ends: list[Any] = []
    ended = threading.Semaphore(0)

    def success(result: Any) -> None:
        ends.append(result)
        ended.release()

    def error(problem: BaseException) -> None:
        ends.append(type(problem))
        ended.release()

    client.system.util.sendRequestAsync("ACME", "echo", {"a": 1}, "hub", 5, success, error)
    assert ended.acquire(timeout=20)
    client.system.util.sendRequestAsync("ACME", "fail", {}, "hub", 5, success, error)
    assert ended.acquire(timeout=20)
    assert ends == [{"a": 1}, headgate.HandlerError]
    assert client.system.util.sendRequest("ACME", "echo", {"a": 1}, "hub", "5") == {"a": 1}


def test_callback_is_a_function(client: headgate.Client) -> None:
    """A callback that cannot be called is refused at the call."""
    with pytest.raises(TypeError, match="callback"):
        client.system.util.sendRequestAsync("ACME", "echo", onSuccess="not a function")


def test_no_payload_is_an_empty_dictionary(client: headgate.Client) -> None:
    """A payload that is missing or None arrives as {}."""
    assert client.system.util.sendRequest("ACME", "echo") == {}
    assert client.system.util.sendRequest("ACME", "echo", None) == {}


@pytest.mark.parametrize("name", SENDERS)
@pytest.mark.parametrize("payload", [[1], "text", 55, [], 0, False])
def test_payload_is_a_dictionary(client: headgate.Client, name: str, payload: Any) -> None:
    """A payload of another type, empty ones too, is refused at the call."""
    with pytest.raises(TypeError, match="payload is a dictionary, not"):
        getattr(client.system.util, name)("ACME", "echo", payload)


@pytest.mark.parametrize("name", SENDERS)
def test_missing_arguments(client: headgate.Client, name: str) -> None:
    """A call without project, even without any argument, says so as Ignition does."""
    send = getattr(client.system.util, name)
    with pytest.raises(ValueError, match=r"^Missing required argument project$"):
        send()
    with pytest.raises(ValueError, match=r"^Missing required argument project$"):
        send(messageHandler="echo")
    with pytest.raises(ValueError, match=r"^Missing required argument messageHandler$"):
        send("ACME")


@pytest.mark.parametrize("name", SENDERS)
def test_unknown_keyword(client: headgate.Client, name: str) -> None:
    """An unknown keyword is a TypeError that names it."""
    with pytest.raises(TypeError, match="'timeout'"):
        getattr(client.system.util, name)("ACME", "echo", timeout=5)


@pytest.mark.parametrize("scope", ["G", "C", "CGS", None])
def test_scope_selects_nothing(client: headgate.Client, scope: str | None) -> None:
    """Both request functions accept the keyword scope, and it changes nothing."""
    util = client.system.util
    assert util.sendRequest("ACME", "echo", {"a": 1}, scope=scope) == {"a": 1}
    assert util.sendRequestAsync("ACME", "echo", {"a": 1}, scope=scope).get() == {"a": 1}


def test_host_name_selects_a_client(client: headgate.Client) -> None:
    """hostName means a client on that host; it is no positional argument."""
    util = client.system.util
    error = util.sendRequestAsync("ACME", "echo", hostName="panel-7").getError()
    assert isinstance(error, headgate.ClientNotFound)
    with pytest.raises(headgate.ClientNotFound, match="panel-7"):
        util.sendRequest("ACME", "echo", hostName="panel-7")
    with pytest.raises(TypeError, match="positional"):
        util.sendRequestAsync("ACME", "echo", {}, None, 5, None, None, "panel-7")


def test_remote_server_selects_a_gateway(client: headgate.Client) -> None:
    """remoteServer means that gateway, and an unknown one is an error of the request."""
    with pytest.raises(headgate.RequestError, match="mill"):
        client.system.util.sendRequest("ACME", "echo", remoteServer="mill")
    error = client.system.util.sendRequestAsync("ACME", "echo", remoteServer="mill").getError()
    assert error is not None


@pytest.mark.parametrize("timeout", [0.05, "0.05"])
def test_timeout(client: headgate.Client, timeout: float | str) -> None:
    """timeoutSec, a number or a numeric string, ends a request of either form."""
    with pytest.raises(headgate.RequestTimeout):
        client.system.util.sendRequest("ACME", "slow", timeoutSec=timeout)
    handle = client.system.util.sendRequestAsync("ACME", "slow", timeoutSec=timeout)
    assert isinstance(handle.getError(), headgate.RequestTimeout)


@pytest.mark.parametrize("timeout", [True, 0, -1, "soon", float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("name", ["sendRequestAsync", "sendRequest"])
def test_bad_timeout(client: headgate.Client, name: str, timeout: Any) -> None:
    """A timeoutSec that is no time is refused at the call."""
    with pytest.raises(ValueError, match="timeoutSec"):
        getattr(client.system.util, name)("ACME", "echo", timeoutSec=timeout)


async def test_blocking_calls_refuse_an_event_loop(hub: headgate.Gateway) -> None:
    """On the thread of an event loop they name the awaitable form, and nothing is sent."""
    async with headgate.connect(hub.url) as client:
        util = client.system.util
        with pytest.raises(RuntimeError, match=r"await system\.util\.sendRequestAsync"):
            util.sendRequest("ACME", "count")
        with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(system\.util\.sendMe"):
            util.sendMessage("ACME", "count")
        assert await util.sendRequestAsync("ACME", "count") == 1
        assert len(await asyncio.to_thread(util.sendMessage, "ACME", "count")) == 1


# --- sendMessage ----------------------------------------------------------------------------------


def test_send_message_reports(client: headgate.Client) -> None:
    """The report is a list with one str for each receiver, which tells what became of it."""
    found = client.system.util.sendMessage("ACME", "echo", {"a": 1})
    missing = client.system.util.sendMessage("ACME", "nothing", {}, "G")
    assert [type(line) for line in found] == [str]
    assert "sendStatus=SENT" in found[0].split(",")
    assert "sendStatus=NO_HANDLER" in missing[0].split(",")


def test_send_message_scope(client: headgate.Client) -> None:
    """scope, the fourth argument, selects kinds of receivers; a filter leaves the gateway out."""
    util = client.system.util
    assert util.sendMessage("ACME", "echo", {}, "C") == []
    assert util.sendMessage("ACME", "echo", {}, "X") == []
    assert len(util.sendMessage("ACME", "echo", {}, "CG")) == 1
    for filtered in ("clientSessionId", "user", "hasRole", "hostName"):
        assert util.sendMessage("ACME", "echo", **{filtered: "somebody"}) == []
        assert len(util.sendMessage("ACME", "echo", **{filtered: ""})) == 1


def test_send_message_to_remote_servers(client: headgate.Client) -> None:
    """remoteServers is not there yet, and the error says so; an empty list means none."""
    util = client.system.util
    with pytest.raises(NotImplementedError, match=r"system\.util\.sendMessage\(remoteServers="):
        util.sendMessage("ACME", "echo", remoteServers=["mill"])
    assert len(util.sendMessage("ACME", "echo", remoteServers=[])) == 1


def test_handler_sends_a_message_after_a_request(plant: Plant) -> None:
    """A handler may send a message when it has made requests of its own."""
    hub = plant(
        echo="def handleMessage(payload):\n    return payload",
        both="""
            def handleMessage(payload):
                system.util.sendRequest("ACME", "echo")
                return system.util.sendMessage("ACME", "echo")
            """,
    )
    assert len(hub.system.util.sendRequest("ACME", "both", timeoutSec=5)) == 1


# --- projects and globals -------------------------------------------------------------------------


def test_project_name(plant: Plant) -> None:
    """It is the handler's own project in a handler, and the connection's in a client."""
    hub = plant(name="def handleMessage(payload):\n    return system.util.getProjectName()")
    assert hub.system.util.getProjectName() == ""
    assert hub.system.util.sendRequest("ACME", "name") == "ACME"
    with headgate.connect(hub.url, project="panels") as client:
        assert client.system.util.getProjectName() == "panels"
        assert client.system.util.sendRequest("ACME", "name") == "ACME"


def test_globals_of_a_gateway(hub: headgate.Gateway, client: headgate.Client) -> None:
    """All scripts of a gateway share one dictionary, and its clients have another."""
    assert [client.system.util.sendRequest("ACME", "count") for _ in range(2)] == [1, 2]
    assert hub.system.util.getGlobals() is hub.system.util.globals
    assert hub.system.util.globals == {"count": 2}
    assert "count" not in client.system.util.getGlobals()


def test_globals_of_clients(hub: headgate.Gateway, client: headgate.Client) -> None:
    """All clients of a process share one dictionary."""
    with headgate.connect(hub.url) as other:
        assert client.system.util.getGlobals() is other.system.util.globals


# --- invokeAsynchronous ---------------------------------------------------------------------------


def test_invoke_asynchronously(client: headgate.Client) -> None:
    """The function runs with its arguments on a started thread named after the description."""
    calls: list[Any] = []

    def work(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs, threading.current_thread()))

    thread = client.system.util.invokeAsynchronous(work, [1, 2], {"a": 3}, "Nightly report")
    assert isinstance(thread, threading.Thread)
    thread.join(20)
    assert calls == [((1, 2), {"a": 3}, thread)]
    assert thread.name == "Nightly report"
    assert thread.daemon
    unnamed = client.system.util.invokeAsynchronous(work)
    unnamed.join(20)
    assert calls[1] == ((), {}, unnamed)
    assert unnamed.name == "work"


def test_invoke_asynchronously_takes_a_function(client: headgate.Client) -> None:
    """What cannot be called is refused, where the mistake is."""
    with pytest.raises(TypeError, match="takes a function"):
        client.system.util.invokeAsynchronous("work")


def test_error_of_an_asynchronous_function(
    client: headgate.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """What the function raises is logged with its traceback."""

    def break_down() -> None:
        raise OSError("the valve is stuck")

    client.system.util.invokeAsynchronous(break_down, description="Valves").join(20)
    assert "Valves failed" in caplog.text
    assert "in break_down" in caplog.text
    assert "OSError: the valve is stuck" in caplog.text


START = """
    import threading

    def handleMessage(payload, context):
        shared = system.util.globals
        done = shared["done"] = threading.Event()
        shared["caller"] = context.caller.session
        def work():
            shared["ask"].wait(20)
            try:
                shared["answer"] = system.util.sendRequest("ACME", "who", timeoutSec=5)
            except Exception as error:
                shared["answer"] = repr(error)
            done.set()
        system.util.invokeAsynchronous(work)
        if payload.get("wait"):
            done.wait(20)
        if payload.get("fail"):
            raise ValueError("the handler fails")
        return shared.get("answer")
    """

WHO = """
    def handleMessage(payload, context):
        system.util.globals["go"].wait(20)
        return [context.caller.session, context.remaining() > 2]
    """


@pytest.mark.parametrize(
    ("payload", "after", "timeout"),
    [
        ({"wait": True}, False, 1),
        ({"fail": True}, False, 1),
        ({"fail": True}, True, 1),
        ({}, True, 1),
        ({"wait": True}, True, 0.7),
    ],
    ids=["while it runs", "as it fails", "after it failed", "after it returned", "past its end"],
)
def test_requests_of_an_asynchronous_function(
    plant: Plant, payload: dict[str, Any], after: bool, timeout: float
) -> None:
    """They have the handler's caller and their own timeout, whatever becomes of the handler."""
    hub = plant(start=START, who=WHO)
    shared = hub.system.util.globals
    ask, go = threading.Event(), threading.Event()
    shared.update(ask=ask, go=go)
    if not after:
        ask.set()
    if payload.get("wait"):
        go.set()
    with headgate.connect(hub.url) as client:
        handle = client.system.util.sendRequestAsync("ACME", "start", payload, timeoutSec=timeout)
        handle.block()
        ask.set()
        go.set()
        assert shared["done"].wait(20)
        assert shared["answer"] == [client.session_id, True]
        assert shared["caller"] == client.session_id


def test_asynchronous_function_keeps_out_of_the_pool(plant: Plant) -> None:
    """A function that waits does not touch the place of the handler that started it."""
    hub = plant(
        start="""
            import headgate
            @headgate.handler(threading="Dedicated")
            def handleMessage(payload):
                if payload.get("inner"):
                    return "inner"
                answers = []
                def work():
                    answers.append(system.util.sendRequest("ACME", "start", {"inner": True}))
                thread = system.util.invokeAsynchronous(work)
                thread.join(0.2)
                system.util.globals["thread"] = thread
                system.util.globals["answers"] = answers
                return list(answers)
            """,
    )
    # The one thread of the handler is busy, so the inner request waits; it is no deadlock.
    assert hub.system.util.sendRequest("ACME", "start") == []
    hub.system.util.globals["thread"].join(20)
    assert hub.system.util.globals["answers"] == ["inner"]
    stats = hub.stats()
    assert not any(stats.values()), stats


def test_waiting_asynchronous_functions_lend_no_places(plant: Plant, rig: Rig) -> None:
    """Handlers that work keep their places while functions that they started wait."""
    hub = plant(
        busy="""
            def handleMessage(payload):
                wait = lambda: system.util.sendRequest("ACME", "park")
                system.util.invokeAsynchronous(wait)
                system.util.globals["release"].wait(20)
            """,
        park="""
            import asyncio
            async def handleMessage(payload):
                system.util.globals["parked"].append(payload)
                while not system.util.globals["release"].is_set():
                    await asyncio.sleep(0.005)
            """,
        quick="def handleMessage(payload):\n    return 1",
    )
    util = hub.system.util
    release = util.globals["release"] = threading.Event()
    parked = util.globals["parked"] = []
    busy = [util.sendRequestAsync("ACME", "busy") for _ in range(POOL_THREADS)]
    rig.until(lambda: len(parked) == POOL_THREADS)
    error = util.sendRequestAsync("ACME", "quick", timeoutSec=0.2).getError()
    release.set()
    assert isinstance(error, headgate.RequestTimeout)
    assert error.started is False
    assert all(handle.block() for handle in busy)
    assert util.sendRequest("ACME", "quick") == 1


# --- JSON -----------------------------------------------------------------------------------------


def test_json_round_trip(client: headgate.Client) -> None:
    """What JSON can hold comes back as it was, without a needless space."""
    value = {"a": [1, 2.5, True, None, "ü\n"], "b": {"c": []}}
    text = client.system.util.jsonEncode(value)
    assert text == '{"a":[1,2.5,true,null,"ü\\n"],"b":{"c":[]}}'
    assert client.system.util.jsonDecode(text) == value


def test_json_indent(client: headgate.Client) -> None:
    """indentFactor is the number of spaces for each level."""
    assert client.system.util.jsonEncode({"a": [1]}, 2) == '{\n  "a": [\n    1\n  ]\n}'
    assert client.system.util.jsonEncode([1], indentFactor=4) == "[\n    1\n]"


@dataclass
class Valve:
    """Something with fields."""

    name: str
    opened: date


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 9, 29, 20, 35, 30, tzinfo=UTC), '"2026-09-29T20:35:30Z"'),
        (datetime(2026, 9, 29, 20, 35), '"2026-09-29T20:35:00"'),
        (date(2026, 9, 29), '"2026-09-29"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.50"), "1.5"),
        (b"\x00\x01", '"AAE="'),
        ((1, 2), "[1,2]"),
        ({7}, "[7]"),
        (Valve("v1", date(2026, 1, 2)), '{"name":"v1","opened":"2026-01-02"}'),
        (10**30, "1" + "0" * 30),
    ],
)
def test_json_of_other_types(client: headgate.Client, value: Any, text: str) -> None:
    """Values that JSON has no type for become the nearest it has, nested too."""
    assert client.system.util.jsonEncode(value) == text
    assert client.system.util.jsonEncode({"a": [value]}) == f'{{"a":[{text}]}}'


@pytest.mark.parametrize("value", [float("nan"), Decimal("Infinity"), float("-inf")])
def test_json_refuses_what_is_not_finite(client: headgate.Client, value: Any) -> None:
    """A number that is not finite is a ValueError: no other program could read it."""
    with pytest.raises(ValueError, match="float"):
        client.system.util.jsonEncode([value])


def test_json_refuses_what_has_no_form(client: headgate.Client) -> None:
    """An object that has no form in JSON is a TypeError that names its type."""
    with pytest.raises(TypeError, match="Thread"):
        client.system.util.jsonEncode({"a": threading.current_thread()})
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="Circular"):
        client.system.util.jsonEncode(endless)


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "[1,]", "NaN", "[Infinity]", "[" * 100_000])
def test_bad_json(client: headgate.Client, text: str) -> None:
    """What is no JSON is a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        client.system.util.jsonDecode(text)


def test_logger_of_a_script(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    """A script's logger writes to Python's logging, with the script as the place."""
    hub = plant(log="def handleMessage(payload):\n    system.util.getLogger('plant').info('Hi')")
    with caplog.at_level(logging.INFO, logger="plant"):
        hub.system.util.sendRequest("ACME", "log")
    (record,) = [record for record in caplog.records if record.name == "plant"]
    assert (record.filename, record.message) == ("log.py", "Hi")
