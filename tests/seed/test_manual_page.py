"""
Every sentence of the manual page of sendRequestAsync about the call and its handle, in its order.

Each docstring quotes the sentence that its test holds Headgate to.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import (
    CancellationException,
    ClientNotFound,
    GatewayUnreachable,
    HandlerError,
    RequestError,
    RequestTimeout,
)
from headgate.scope import Scope

if TYPE_CHECKING:
    from conftest import Rig
    from seed.conftest import Ends

Begun = Callable[[headgate.Gateway], Any]
Pair = tuple[headgate.Gateway, headgate.Gateway]


class InThread:
    """What a function returns or raises that runs on a thread of its own, as a script does."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def waits(self) -> bool:
        return self._ended.empty()

    def end(self) -> Any:
        return self._ended.get(timeout=20)

    def _run(self) -> None:
        try:
            self._ended.put(self._function())
        except Exception as error:
            self._ended.put(error)


# --- the function ---------------------------------------------------------------------------------


def test_sends_a_message_to_the_gateway_and_expects_a_response(client: headgate.Client) -> None:
    """This function sends a message to the Gateway and expects a response."""
    handle = client.system.util.sendRequestAsync("ACME", "test", {"number": 55})
    assert handle.get() == {"double": 110}


def test_works_in_a_similar_manner_to_send_request(client: headgate.Client) -> None:
    """Works in a similar manner to the sendRequest function."""
    util = client.system.util
    call = {"project": "ACME", "messageHandler": "test", "payload": {"number": 55}, "timeoutSec": 5}
    assert util.sendRequestAsync(**call).get() == util.sendRequest(**call)
    failing = {**call, "messageHandler": "fail"}
    with pytest.raises(HandlerError, match="valve"):
        util.sendRequest(**failing)
    assert isinstance(util.sendRequestAsync(**failing).getError(), HandlerError)


def test_sends_the_request_and_then_immediately_returns_a_handle_for_it(
    hub: headgate.Gateway, client: headgate.Client, begun: Begun
) -> None:
    """sendRequestAsync will send the request and then immediately return a handle for it."""
    handle = client.system.util.sendRequestAsync("ACME", "hold", {"number": 55})
    assert begun(hub) == {"number": 55}
    assert not handle.done
    hub.globals["go"].set()
    assert handle.get() == {"number": 55}


# --- the request handle ---------------------------------------------------------------------------


def test_get_blocks_for_the_result(
    hub: headgate.Gateway, client: headgate.Client, begun: Begun
) -> None:
    """get() - Block for result, ..."""
    handle = client.system.util.sendRequestAsync("ACME", "hold", {"number": 55})
    script = InThread(handle.get)
    begun(hub)
    assert script.waits
    hub.globals["go"].set()
    assert script.end() == {"number": 55}


def test_get_throws_an_exception_on_failure(client: headgate.Client) -> None:
    """get() - ... throw an exception on failure."""
    handle = client.system.util.sendRequestAsync("ACME", "fail")
    with pytest.raises(HandlerError, match="valve"):
        handle.get()


def test_cancel_cancels_the_request(
    hub: headgate.Gateway, client: headgate.Client, begun: Begun
) -> None:
    """cancel() - Cancel the request."""
    handle = client.system.util.sendRequestAsync("ACME", "async_hold", {"number": 55})
    begun(hub)
    assert handle.cancel() is True
    assert handle.wait_fate(20) == "stopped"
    assert hub.globals["stopped"] == {"number": 55}


def test_cancel_calls_any_completion_callback_with_cancellation_exception(
    hub: headgate.Gateway, client: headgate.Client, ends: Ends
) -> None:
    """Any completion callback will be called with CancellationException."""
    handle = client.system.util.sendRequestAsync(
        "ACME", "hold", onSuccess=ends.success, onError=ends.error
    )
    handle.cancel()
    name, error = ends.next()
    assert (name, type(error)) == ("error", CancellationException)
    with pytest.raises(CancellationException):
        handle.get()
    hub.globals["go"].set()
    assert handle.wait_fate(20) in ("finished", "not started")
    assert ends.rest(client) == [], "the late result reached a callback"


def test_block_returns_true_or_false_once_complete(
    hub: headgate.Gateway, client: headgate.Client, begun: Begun
) -> None:
    """block() - Like get(), but will return a Boolean True or False once complete, ..."""
    handle = client.system.util.sendRequestAsync("ACME", "hold")
    script = InThread(handle.block)
    begun(hub)
    assert script.waits
    hub.globals["go"].set()
    assert script.end() is True
    assert client.system.util.sendRequestAsync("ACME", "fail").block() is False


def test_block_false_then_get_error_gives_the_exception_object(client: headgate.Client) -> None:
    """If False, call getError() to get the exception object."""
    handle = client.system.util.sendRequestAsync("ACME", "fail")
    assert handle.block() is False
    error = handle.getError()
    assert isinstance(error, HandlerError)
    with pytest.raises(HandlerError) as raised:
        handle.get()
    assert raised.value is error


def test_get_error_returns_the_error_result_or_null(client: headgate.Client) -> None:
    """getError() - Returns the error result or null."""
    util = client.system.util
    assert isinstance(util.sendRequestAsync("ACME", "fail").getError(), HandlerError)
    assert util.sendRequestAsync("ACME", "echo").getError() is None


def test_get_error_blocks_for_a_result(
    hub: headgate.Gateway, client: headgate.Client, begun: Begun
) -> None:
    """Similar to get(), in that this will block for a result."""
    handle = client.system.util.sendRequestAsync("ACME", "hold")
    script = InThread(handle.getError)
    begun(hub)
    assert script.waits
    hub.globals["go"].set()
    assert script.end() is None


def test_on_success_sets_a_function_to_run_on_a_successful_completion(
    client: headgate.Client, ends: Ends
) -> None:
    """onSuccess - Will set a function to run on a successful completion callback ..."""
    handle = client.system.util.sendRequestAsync("ACME", "test", {"number": 55})
    handle.onSuccess(ends.success)
    assert ends.next() == ("success", {"double": 110})
    assert ends.rest(client) == []


def test_on_success_sets_a_new_one_if_one_was_already_defined(
    hub: headgate.Gateway, client: headgate.Client, ends: Ends
) -> None:
    """... or set a new one if one was already defined in the sendRequestAsync call."""
    handle = client.system.util.sendRequestAsync("ACME", "hold", onSuccess=ends.named("old"))
    handle.onSuccess(ends.named("new"))
    hub.globals["go"].set()
    assert ends.next() == ("new", {})
    assert ends.rest(client) == []


def test_on_error_sets_a_function_to_run_on_a_failed_completion(
    client: headgate.Client, ends: Ends
) -> None:
    """onError - Will set a function to run on a failed completion callback ..."""
    handle = client.system.util.sendRequestAsync("ACME", "fail")
    handle.onError(ends.error)
    assert ends.next() == ("error", handle.getError())
    assert ends.rest(client) == []


def test_on_error_sets_a_new_one_if_one_was_already_defined(
    client: headgate.Client, ends: Ends
) -> None:
    """... or set a new one if one was already defined in the sendRequestAsync call."""
    handle = client.system.util.sendRequestAsync("ACME", "hold", onError=ends.named("old"))
    handle.onError(ends.named("new"))
    handle.cancel()
    assert ends.next()[0] == "new"
    assert ends.rest(client) == []


# --- permission, syntax ---------------------------------------------------------------------------


def test_has_no_client_permission_restrictions(rig: Rig, hub: headgate.Gateway) -> None:
    """This scripting function has no Client Permission restrictions."""
    for options in ({}, {"project": "ACME"}, {"project": "panels", "host_name": "elsewhere"}):
        client = rig.client(hub, **options)
        assert client.system.util.sendRequest("ACME", "test", {"number": 1}) == {"double": 2}


def test_syntax_line_gives_the_order_of_the_arguments(pair: Pair, rig: Rig, ends: Ends) -> None:
    """sendRequestAsync(project, messageHandler, [payload], [remoteServer], [timeoutSec], ..."""
    util = rig.client(pair[0]).system.util
    before = monotonic()
    handle = util.sendRequestAsync("ACME", "where", {}, "mill", 500, ends.success, ends.error)
    assert before + 500 <= handle.deadline <= monotonic() + 500
    assert ends.next() == ("success", ["hub"])
    handle = util.sendRequestAsync("ACME", "fail", {}, "mill", 500, ends.success, ends.error)
    assert ends.next() == ("error", handle.getError())


# --- parameters -----------------------------------------------------------------------------------


def test_project_is_the_one_that_contains_the_message_handler(rig: Rig) -> None:
    """String project - The name of the project containing the message handler."""
    name = "def handleMessage(payload):\n    return system.util.getProjectName()"
    util = rig.client(rig.gateway({"ACME/name": name, "mill/name": name})).system.util
    assert [util.sendRequest(project, "name") for project in ("ACME", "mill")] == ["ACME", "mill"]


def test_message_handler_is_the_one_that_will_fire(client: headgate.Client) -> None:
    """The name of the message handler that will fire upon receiving a message."""
    util = client.system.util
    assert util.sendRequest("ACME", "test", {"number": 55}) == {"double": 110}
    assert util.sendRequest("ACME", "echo", {"number": 55}) == {"number": 55}


def test_payload_is_a_dictionary_which_gets_passed_to_the_message_handler(
    client: headgate.Client,
) -> None:
    """Dictionary[String, Any] payload - A dictionary which will get passed to the handler."""
    payload = {"number": 55, "text": "ü", "list": [1, 2.5, None, True], "nested": {"a": {"b": []}}}
    assert client.system.util.sendRequest("ACME", "echo", payload) == payload


def test_payload_in_the_message_handler_accesses_dictionary_variables(rig: Rig) -> None:
    """Use "payload" in the message handler to access dictionary variables."""
    hub = rig.gateway({"ACME/x": "def handleMessage(payload):\n    return payload['x']"})
    assert rig.client(hub).system.util.sendRequest("ACME", "x", {"x": 7}) == 7


def test_host_name_limits_the_delivery_to_the_client_on_that_host(
    hub: headgate.Gateway, client: headgate.Client
) -> None:
    """hostName - Limits the message delivery to the client that has the specified host name."""
    util = client.system.util
    # No client hosts handlers, not even this one: the gateway's own handler must not answer.
    for host in ("panel-7", client.host_name):
        handle = util.sendRequestAsync("ACME", "hold", hostName=host, timeoutSec=80_000)
        assert isinstance(handle.getError(), ClientNotFound)
        assert host in str(handle.getError())
    assert hub.globals["running"].empty()


def test_remote_server_is_the_target_gateway(pair: Pair, rig: Rig) -> None:
    """String remoteServer - A string representing the target Gateway server name."""
    util = rig.client(pair[0]).system.util
    assert util.sendRequest("ACME", "where", remoteServer="mill") == ["hub"]
    assert util.sendRequest("ACME", "where", remoteServer="hub") == []
    handle = util.sendRequestAsync("ACME", "where", remoteServer="dairy", timeoutSec=80_000)
    assert isinstance(handle.getError(), GatewayUnreachable)
    assert "'dairy'" in str(handle.getError())


def test_remote_server_gets_the_message_over_the_gateway_network(
    pair: Pair, rig: Rig, begun: Begun
) -> None:
    """The message will be delivered to the remote Gateway over the Gateway Network."""
    hub, mill = pair
    handle = rig.client(hub).system.util.sendRequestAsync("ACME", "hold", {"a": 1}, "mill")
    assert begun(mill) == {"a": 1}
    assert hub.globals["running"].empty()
    mill.globals["go"].set()
    assert handle.get() == {"a": 1}


def test_remote_server_distributes_it_as_per_the_other_parameters(pair: Pair, rig: Rig) -> None:
    """Upon delivery, the message is distributed to the local Gateway and clients as per ..."""
    util = rig.client(pair[0]).system.util
    handle = util.sendRequestAsync("ACME", "echo", {}, "mill", hostName="panel-7")
    assert isinstance(handle.getError(), ClientNotFound)


@pytest.mark.parametrize("timeout", [0.05, "0.05"], ids=["number", "String"])
def test_timeout_sec_is_the_number_of_seconds_before_the_call_times_out(
    client: headgate.Client, timeout: float | str
) -> None:
    """String timeoutSec - The number of seconds before the sendRequest call times out."""
    handle = client.system.util.sendRequestAsync("ACME", "hold", timeoutSec=timeout)
    assert isinstance(handle.getError(), RequestTimeout)
    assert handle.block() is False


def test_on_success_takes_one_argument_the_result_from_the_message_handler(
    client: headgate.Client, ends: Ends
) -> None:
    """Callable onSuccess - Should take one argument, which will be the result."""
    client.system.util.sendRequestAsync("ACME", "test", {"number": 55}, onSuccess=ends.success)
    assert ends.next() == ("success", {"double": 110})


def test_on_error_takes_one_argument_the_exception_encountered(
    client: headgate.Client, ends: Ends
) -> None:
    """Callable onError - Should take one argument, which will be the exception encountered."""
    client.system.util.sendRequestAsync("ACME", "fail", onError=ends.error)
    name, error = ends.next()
    assert (name, type(error)) == ("error", HandlerError)
    assert isinstance(error, Exception)


def test_callback_functions_are_executed_on_one_thread(caller: Scope, ends: Ends) -> None:
    """Callback functions will be executed on the GUI thread, similar to system.util.invokeLater."""
    # There is no GUI here: it is the callback thread, always the same one and never the caller's.
    threads: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def note(argument: Any) -> None:
        threads.put(threading.current_thread())

    for handler in ("echo", "fail"):
        caller.request("ACME", handler, on_success=note, on_error=note)
    first, second = threads.get(timeout=20), threads.get(timeout=20)
    assert first is second is not threading.current_thread()
    assert first.name.endswith("-callbacks")


@pytest.mark.parametrize("left_out", [0, 1, 2, 3, 4, 5])
def test_what_stands_in_brackets_is_optional(client: headgate.Client, left_out: int) -> None:
    """[payload], [remoteServer], [timeoutSec], [onSuccess], [onError] - [optional]"""
    arguments = [{}, None, None, None, None][left_out:]
    assert client.system.util.sendRequestAsync("ACME", "echo", *arguments).get() == {}


# --- what it returns, where it works --------------------------------------------------------------


def test_returns_the_request_object_to_use_while_waiting(
    hub: headgate.Gateway, client: headgate.Client, ends: Ends
) -> None:
    """Request Handle - The Request object that can be used while waiting for the callback."""
    handle = client.system.util.sendRequestAsync("ACME", "hold", {"a": 1}, onSuccess=ends.success)
    assert isinstance(handle, headgate.Request)
    assert not handle.done
    hub.globals["go"].set()
    assert handle.block() is True
    assert ends.next() == ("success", {"a": 1})


def test_scope_gateway(rig: Rig, ends: Ends) -> None:
    """Scope: Gateway - in a message handler, with the handle's methods and both callbacks."""
    hub = rig.gateway(
        {
            "ACME/fail": "def handleMessage(payload):\n    raise KeyError('valve')",
            "ACME/test": "def handleMessage(payload):\n    return payload['number'] * 2",
            "ACME/all": """
                import queue

                def handleMessage(payload):
                    ends = queue.Queue()
                    good = system.util.sendRequestAsync(
                        "ACME", "test", {"number": 55}, onSuccess=ends.put)
                    bad = system.util.sendRequestAsync("ACME", "fail")
                    bad.onError(lambda error: ends.put(type(error).__name__))
                    found = [good.get(), good.block(), good.getError(), bad.block()]
                    found += [type(bad.getError()).__name__, bad.cancel()]
                    return [found, sorted(str(ends.get(timeout=20)) for _ in range(2))]
                """,
        }
    )
    assert rig.client(hub).system.util.sendRequest("ACME", "all") == [
        [110, True, None, False, "HandlerError", False],
        ["110", "HandlerError"],
    ]


def test_scope_vision_client(rig: Rig, hub: headgate.Gateway) -> None:
    """Scope: Vision Client - a connected program, whose `headgate.system` finds the connection."""
    with pytest.raises(RuntimeError, match=r"headgate\.connect"):
        headgate.system.util.sendRequestAsync("ACME", "echo")
    with headgate.connect(hub.url):
        assert headgate.system.util.sendRequestAsync("ACME", "echo", {"a": 1}).get() == {"a": 1}


# --- the comments of its examples -----------------------------------------------------------------


def test_request_should_time_out_after_5_seconds(client: headgate.Client) -> None:
    """We're specifying that the request should timeout after 5 seconds."""
    before = monotonic()
    handle = client.system.util.sendRequestAsync(
        project="ACME", messageHandler="test", payload={"number": 55}, timeoutSec=5
    )
    assert before + 5 <= handle.deadline <= monotonic() + 5
    assert handle.get() == {"double": 110}


def test_get_waits_for_a_return_or_throws(client: headgate.Client) -> None:
    """get() will block the script and will wait for a return or throw an exception on failure."""
    util = client.system.util
    assert util.sendRequestAsync("ACME", "echo", {"a": 1}).get() == {"a": 1}
    with pytest.raises(RequestError):
        util.sendRequestAsync("ACME", "nothing").get()
