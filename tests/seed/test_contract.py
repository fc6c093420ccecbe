"""What Ignition's manual promises of a request, one class for each promise."""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import pytest_asyncio

import headgate
from headgate.errors import (
    CancellationException,
    ClientNotFound,
    ConnectionLost,
    DeadlockError,
    GatewayUnreachable,
    HandlerError,
    HandlerNotFound,
    Overloaded,
    PayloadError,
    PermissionDenied,
    ProjectNotFound,
    RequestError,
    RequestTimeout,
)
from headgate.scope import Scope

if TYPE_CHECKING:
    from conftest import Rig
    from seed.conftest import Ends

Begun = Callable[[headgate.Gateway], Any]
Pair = tuple[headgate.Gateway, headgate.Gateway]

FOREVER = 80_000
"""A timeout in seconds that no test lives to see: what ends such a request ended it at once."""


@pytest.fixture
def util(client: headgate.Client) -> Any:
    """The manual's functions of a client."""
    return client.system.util


@pytest_asyncio.fixture
async def loop_client(hub: headgate.Gateway) -> AsyncIterator[headgate.Client]:
    """A client on the event loop of the test."""
    async with headgate.connect(hub.url) as client:
        yield client


class TestSignature:
    """The row "signature"."""

    def test_names_order_and_defaults(self, util: Any) -> None:
        """The arguments are those of the syntax line, in its order; hostName is a keyword only."""
        parameters = inspect.signature(util.sendRequestAsync).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert " ".join(positional) == (
            "project messageHandler payload remoteServer timeoutSec onSuccess onError"
        )
        assert keywords == {"hostName": None, "scope": None}
        assert [p.default for p in parameters][2:] == [None] * 7

    def test_host_name_is_no_positional_argument(self, util: Any) -> None:
        """An eighth positional argument is a TypeError."""
        with pytest.raises(TypeError, match="positional"):
            util.sendRequestAsync("ACME", "echo", {}, None, 5, None, None, "panel-7")

    @pytest.mark.parametrize("scope", ["G", "C", "CGS", "", None])
    def test_scope_is_accepted_and_selects_nothing(self, util: Any, scope: str | None) -> None:
        """A keyword scope changes nothing: the gateway's handler answers."""
        assert util.sendRequestAsync("ACME", "echo", {"a": 1}, scope=scope).get() == {"a": 1}
        assert util.sendRequest("ACME", "echo", {"a": 1}, scope=scope) == {"a": 1}

    @pytest.mark.parametrize("keyword", ["timeout", "hostname", "on_success", "retries"])
    def test_unknown_keyword_is_a_type_error_that_names_it(self, util: Any, keyword: str) -> None:
        """Any other keyword is a TypeError that names it."""
        for send in (util.sendRequestAsync, util.sendRequest):
            with pytest.raises(TypeError, match=f"'{keyword}'"):
                send("ACME", "echo", **{keyword: 1})


MALFORMED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"project": None}, ValueError, "^Missing required argument project$"),
    ({"project": ""}, ValueError, "^Missing required argument project$"),
    ({"messageHandler": None}, ValueError, "^Missing required argument messageHandler$"),
    ({"project": 5}, TypeError, "project is a string"),
    ({"messageHandler": b"echo"}, TypeError, "messageHandler is a string"),
    ({"project": "AC\ud800"}, ValueError, "project .* cannot be sent"),
    ({"messageHandler": "\udfff"}, ValueError, "messageHandler .* cannot be sent"),
    ({"remoteServer": 5}, TypeError, "remoteServer is a string"),
    ({"remoteServer": "\ud800"}, ValueError, "remoteServer .* cannot be sent"),
    ({"hostName": object()}, TypeError, "hostName is a string"),
    ({"hostName": "\ud800"}, ValueError, "hostName .* cannot be sent"),
    ({"payload": [1]}, TypeError, "payload is a dictionary, not list"),
    ({"payload": {"a": [1, 2, 3, object()]}}, PayloadError, r"payload\['a'\]\[3\]"),
    ({"timeoutSec": "soon"}, ValueError, "timeoutSec"),
    ({"onSuccess": "print"}, TypeError, "callback"),
    ({"onError": 5}, TypeError, "callback"),
]


class TestReturnsAtOnce:
    """The row "returns at once"."""

    def test_with_a_request_while_the_handler_runs(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """The call is over before the handler is."""
        handle = caller.system.util.sendRequestAsync("ACME", "hold", {"a": 1})
        begun(hub)
        assert (type(handle), handle.done) == (headgate.Request, False)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"project": "nowhere"}, ProjectNotFound),
            ({"messageHandler": "nothing"}, HandlerNotFound),
            ({"project": "ACM\u00c9"}, ProjectNotFound),
            ({"messageHandler": "fail"}, HandlerError),
            ({"remoteServer": "dairy"}, GatewayUnreachable),
            ({"hostName": "panel-7"}, ClientNotFound),
        ],
        ids=str,
    )
    def test_what_can_fail_later_fails_through_the_handle(
        self, caller: Scope, arguments: dict[str, str], error: type[RequestError]
    ) -> None:
        """The call returns its handle, and the handle has the error."""
        call = {"project": "ACME", "messageHandler": "echo", "timeoutSec": FOREVER, **arguments}
        handle = caller.system.util.sendRequestAsync(**call)
        assert type(handle.getError()) is error

    def test_with_a_request_without_a_connection(self, hub: headgate.Gateway, rig: Rig) -> None:
        """Even a client that is closed and a gateway that is stopped return a handle."""
        client = rig.client(hub)
        scope = hub.scope("")
        client.close()
        hub.stop(0)
        for util in (client.system.util, scope.system.util):
            assert isinstance(util.sendRequestAsync("ACME", "echo").getError(), GatewayUnreachable)

    async def test_with_a_request_from_a_client_that_is_not_open(
        self, hub: headgate.Gateway
    ) -> None:
        """A client whose `async with` has not begun returns a handle too, with a callback too."""
        client = headgate.connect(hub.url)
        for callback in (None, lambda error: None):
            handle = client.request("ACME", "echo", on_error=callback)
            assert isinstance(handle.error(), GatewayUnreachable)

    def test_only_a_malformed_call_raises_here(self, caller: Scope) -> None:
        """What cannot be sent at all is refused at the call, and harms no other request."""
        util = caller.system.util
        for arguments, error, text in MALFORMED:
            before = util.sendRequestAsync("ACME", "echo", {"a": 1})
            with pytest.raises(error, match=text):
                util.sendRequestAsync(**{"project": "ACME", "messageHandler": "echo", **arguments})
            assert before.get() == util.sendRequest("ACME", "echo", {"a": 1})

    def test_names_may_be_of_a_subclass_of_str(self, caller: Scope) -> None:
        """Names of a class made from str are sent as the text that they are."""

        class Name(str):
            __slots__ = ()

        assert caller.request(Name("ACME"), Name("echo"), 1, host_name=Name("")).get() == 1


class TestPermission:
    """The row "permission"."""

    def test_every_session_may_call_every_handler(self, rig: Rig, hub: headgate.Gateway) -> None:
        """The project and host that a client claims permit and forbid nothing."""
        for claimed in ({}, {"project": "panels"}, {"project": "queued", "host_name": "elsewhere"}):
            util = rig.client(hub, **claimed).system.util
            for project in ("ACME", "queued"):
                assert util.sendRequest(project, "echo", {"a": 1}) == {"a": 1}

    def test_only_a_rule_narrows_that(self, rig: Rig) -> None:
        """What the gateway's policy refuses ends with PermissionDenied, and did not start."""

        class OnlyEcho:
            def authorise(self, caller: Any, action: str, project: str, handler: str) -> None:
                if handler != "echo":
                    raise PermissionDenied(f"No permission for {project}/{handler}")

        scripts = {"ACME/echo": rig.ECHO, "ACME/secret": rig.HOLD}
        hub = rig.gateway(scripts, policy=OnlyEcho())
        client = rig.client(hub)
        assert client.request("ACME", "echo", 1).get() == 1
        # Whether the target exists is not told.
        for handler in ("secret", "nothing"):
            error = client.request("ACME", handler, timeout=FOREVER).getError()
            assert isinstance(error, PermissionDenied)
            assert error.started is False
        assert hub.globals["running"].empty()


class TestPayload:
    """The row "payload"."""

    @pytest.mark.parametrize("arguments", [(), (None,), ({},)], ids=["missing", "None", "{}"])
    def test_missing_or_none_means_an_empty_dictionary(
        self, caller: Scope, arguments: tuple[Any, ...]
    ) -> None:
        """The handler gets {}."""
        assert caller.system.util.sendRequestAsync("ACME", "echo", *arguments).get() == {}

    def test_is_encoded_before_the_call_returns(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """What the caller changes afterwards does not reach a request that still waits."""
        first = caller.request("queued", "hold", 1)
        begun(hub)
        payload = {"list": [1], "nested": {"a": 1}}
        handle = caller.system.util.sendRequestAsync("queued", "hold", payload)
        payload["list"].append(2)
        payload["nested"]["a"] = 2
        payload["new"] = 3
        hub.globals["go"].set()
        assert (first.get(), handle.get()) == (1, {"list": [1], "nested": {"a": 1}})

    def test_handler_gets_its_own_mutable_copy(self, rig: Rig) -> None:
        """A handler may change all of its payload, and the caller's object stays as it was."""
        hub = rig.gateway(
            {
                "ACME/change": """
                    def handleMessage(payload):
                        del payload["a"]
                        payload["list"].append(2)
                        payload["nested"]["b"] = payload.pop("c")
                        return payload
                    """
            }
        )
        for scope in (rig.client(hub), hub.scope("")):
            payload = {"a": 1, "list": [1], "nested": {}, "c": 3}
            changed = scope.system.util.sendRequest("ACME", "change", payload)
            assert changed == {"list": [1, 2], "nested": {"b": 3}}
            assert payload == {"a": 1, "list": [1], "nested": {}, "c": 3}

    def test_client_request_takes_any_value(self, client: headgate.Client) -> None:
        """Python's name for the call is not limited to dictionaries."""
        for value in (55, "text", [1, {"a": None}], b"\x00", 0, False, ""):
            assert client.request("ACME", "echo", value).get() == value


TIMEOUTS = [
    *((5, 5), (1.5, 1.5), ("5", 5), ("1.5", 1.5), ("1200", 1200), (" 10 ", 10)),
    *((Decimal("2.5"), 2.5), (86_400, 86_400), ("86400", 86_400), (None, 60)),
]

NO_TIMEOUTS = [
    *(True, False, 0, 0.0, "0", -1, "-1.5"),
    *(float("nan"), "nan", float("inf"), "inf", float("-inf"), "1e999"),
    *(86_400.5, "86401", 10**400),
    *("soon", "", "5 s", b"5", [5], {}, object()),
]


class TestTimeoutSec:
    """The row "timeoutSec"."""

    def test_is_a_number_or_a_numeric_string(self, util: Any) -> None:
        """The deadline is that many seconds away; None means 60."""
        for given, seconds in TIMEOUTS:
            before = monotonic()
            handle = util.sendRequestAsync("ACME", "echo", timeoutSec=given)
            assert before + seconds <= handle.deadline <= monotonic() + seconds, repr(given)

    def test_anything_else_is_refused_at_the_call(self, util: Any) -> None:
        """A bool, what is not finite, not more than 0, too long, or no number is a ValueError."""
        for given in NO_TIMEOUTS:
            for send in (util.sendRequestAsync, util.sendRequest):
                with pytest.raises(ValueError, match="timeoutSec"):
                    send("ACME", "echo", timeoutSec=given)

    def test_default_and_longest_are_settings(self, rig: Rig, hub: headgate.Gateway) -> None:
        """A client may have another default, and another longest timeout."""
        client = rig.client(hub)
        client.default_timeout, client.max_timeout = 7, 9
        before = monotonic()
        handle = client.request("ACME", "echo")
        assert before + 7 <= handle.deadline <= monotonic() + 7
        with pytest.raises(ValueError, match="at most 9 seconds"):
            client.request("ACME", "echo", timeout=10)

    def test_deadline_rules_the_queue(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """A request that waits for its turn ends at its deadline, and never begins."""
        first = caller.request("queued", "hold", "first")
        begun(hub)
        error = caller.request("queued", "hold", "late", timeout=0.05).getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is False
        hub.globals["go"].set()
        assert first.get() == "first"
        assert caller.request("queued", "echo", 1).get() == 1
        assert hub.globals["running"].empty()

    def test_deadline_rules_the_handler(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """A request ends at its deadline while its handler runs."""
        handle = caller.request("ACME", "async_hold", 1, timeout=0.7)
        assert begun(hub) == 1
        assert isinstance(handle.getError(), RequestTimeout)
        assert handle.wait_fate(20) == "stopped"

    @pytest.mark.parametrize("timeout", [30, "500", None])
    def test_handler_sees_what_remains(self, caller: Scope, timeout: float | str | None) -> None:
        """A handler has what is left of the caller's seconds, and never no deadline."""
        remaining = caller.request("ACME", "remaining", timeout=timeout).get()
        assert 0 < remaining <= float(timeout or 60)


class TestWhereItGoes:
    """The row "where it goes"."""

    def test_without_host_name_to_the_gateways_own_handler(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """The gateway runs its handler, once."""
        handle = caller.request("ACME", "hold", 1)
        assert begun(hub) == 1
        hub.globals["go"].set()
        assert handle.get() == 1
        assert hub.globals["running"].empty()

    def test_remote_server_means_that_gateways(self, pair: Pair, rig: Rig) -> None:
        """The named gateway's handler answers, whichever way the name is written."""
        hub, mill = pair
        for scope in (rig.client(hub), hub.scope("")):
            for name in ("mill", "MILL"):
                assert scope.request("ACME", "where", remote_server=name).get() == ["hub"]
        assert mill.scope("").request("ACME", "where", remote_server="hub").get() == ["mill"]

    @pytest.mark.parametrize("name", ["hub", "HUB", ""])
    def test_own_name_means_itself(self, caller: Scope, name: str) -> None:
        """A gateway's own name needs no network."""
        assert caller.request("ACME", "where", remote_server=name).get() == []

    @pytest.mark.parametrize("name", ["dairy", "mil", "hub mill"])
    def test_unknown_remote_server_is_an_error_at_once(
        self, pair: Pair, rig: Rig, name: str
    ) -> None:
        """A name that no gateway has ends the request, and the text tells which there are."""
        client = rig.client(pair[0])
        error = client.request("ACME", "echo", remote_server=name, timeout=FOREVER).getError()
        assert isinstance(error, GatewayUnreachable)
        assert error.started is False
        assert repr(name) in str(error)
        assert "Reachable now: mill" in str(error)

    def test_remote_server_that_is_down_is_an_error_at_once(
        self, pair: Pair, rig: Rig, begun: Begun
    ) -> None:
        """A gateway that stops ends what it was asked, and what it is asked afterwards."""
        hub, mill = pair
        client = rig.client(hub)
        running = client.request("ACME", "async_hold", 1, remote_server="mill", timeout=FOREVER)
        begun(mill)
        mill.stop(0)
        assert isinstance(running.getError(), ConnectionLost)
        error = client.request("ACME", "echo", remote_server="mill", timeout=FOREVER).getError()
        assert isinstance(error, GatewayUnreachable)
        assert error.started is False

    def test_host_name_of_no_client_is_an_error_at_once(
        self, hub: headgate.Gateway, caller: Scope
    ) -> None:
        """No client hosts handlers yet, and the gateway's own one does not stand in."""
        handle = caller.request("ACME", "hold", host_name="panel-7", timeout=FOREVER)
        error = handle.getError()
        assert isinstance(error, ClientNotFound)
        assert error.started is False
        assert hub.globals["running"].empty()

    @pytest.mark.parametrize("name", ["hub", "mill"])
    def test_host_name_with_remote_server_is_sought_on_that_side(
        self, pair: Pair, rig: Rig, name: str
    ) -> None:
        """With both, no gateway's own handler answers either."""
        handle = rig.client(pair[0]).request(
            "ACME", "echo", remote_server=name, host_name="panel-7", timeout=FOREVER
        )
        assert isinstance(handle.getError(), ClientNotFound)


class TestGet:
    """The row "`get()`"."""

    def test_blocks_for_the_result_and_raises_on_failure(self, caller: Scope) -> None:
        """It gives the result or raises the error, as often as it is asked."""
        good, bad = caller.request("ACME", "echo", [1]), caller.request("ACME", "fail")
        for _ in range(2):
            assert good.get() == [1]
            with pytest.raises(HandlerError, match="KeyError: 'valve'"):
                bad.get()

    def test_from_many_threads(self, hub: headgate.Gateway, caller: Scope, begun: Begun) -> None:
        """Every thread that waits gets the result."""
        handle = caller.request("ACME", "hold", [1])
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threads = [threading.Thread(target=lambda: results.put(handle.get())) for _ in range(8)]
        for thread in threads:
            thread.start()
        begun(hub)
        hub.globals["go"].set()
        assert [results.get(timeout=20) for _ in threads] == [[1]] * 8


class TestBlock:
    """The row "`block()`"."""

    def test_blocks_and_gives_true_or_false(self, caller: Scope) -> None:
        """It is a bool that tells whether the request succeeded, and it never raises the error."""
        assert caller.request("ACME", "echo").block() is True
        assert caller.request("ACME", "fail").block() is False
        assert caller.request("ACME", "hold", timeout=0.05).block() is False
        cancelled = caller.request("ACME", "hold")
        cancelled.cancel()
        assert cancelled.block() is False


class TestGetError:
    """The row "`getError()`"."""

    def test_blocks_and_returns_the_error_or_none(self, caller: Scope) -> None:
        """It returns what `get` would raise, or None."""
        assert caller.request("ACME", "echo").getError() is None
        failed = caller.request("ACME", "fail")
        with pytest.raises(HandlerError) as raised:
            failed.get()
        assert failed.getError() is raised.value

    def test_cancellation_and_timeout_are_returned(self, caller: Scope) -> None:
        """They are errors of the request, not of getError."""
        late = caller.request("ACME", "hold", timeout=0.05)
        cancelled = caller.request("ACME", "hold")
        cancelled.cancel()
        assert isinstance(late.getError(), RequestTimeout)
        assert isinstance(cancelled.getError(), CancellationException)


BLOCKING_CALLS: dict[str, Callable[[headgate.Client, headgate.Request], Any]] = {
    "await request": lambda client, handle: handle.get(),
    "await request (block)": lambda client, handle: handle.block(),
    "await request (getError)": lambda client, handle: handle.getError(),
    "await system.util.sendRequestAsync": lambda client, handle: client.system.util.sendRequest(
        "ACME", "hold"
    ),
    "await asyncio.to_thread(system.util.sendMessage": lambda client, handle: (
        client.system.util.sendMessage("ACME", "hold")
    ),
    "await asyncio.to_thread(request.wait_fate": lambda client, handle: handle.wait_fate(),
    "async with headgate.connect": lambda client, handle: client.__class__.open(
        headgate.connect(client.url)
    ),
}


class TestBlockingCalls:
    """The row "blocking calls"."""

    @pytest.mark.parametrize("kind", ["async with", "with"])
    async def test_raise_on_the_thread_of_an_event_loop(
        self,
        hub: headgate.Gateway,
        client: headgate.Client,
        loop_client: headgate.Client,
        kind: str,
    ) -> None:
        """Each is a RuntimeError that names what to write instead, and sends nothing."""
        scope = client if kind == "with" else loop_client
        handle = scope.request("ACME", "async_hold", 1)
        for awaitable, blocking in BLOCKING_CALLS.items():
            with pytest.raises(RuntimeError) as raised:
                blocking(scope, handle)
            assert awaitable.partition(" (")[0] in str(raised.value)
        handle.cancel()
        # What was sent before this one would have begun before it.
        assert await scope.request("ACME", "echo", 2) == 2
        running = hub.globals["running"]
        assert {running.get_nowait() for _ in range(running.qsize())} <= {1}

    async def test_do_not_raise_for_a_finished_request(self, loop_client: headgate.Client) -> None:
        """Where there is nothing to wait for they answer on any thread."""
        good, bad = loop_client.request("ACME", "echo", 1), loop_client.request("ACME", "fail")
        assert await good == 1
        with pytest.raises(HandlerError):
            await bad
        assert (good.get(), good.block(), good.getError(), good.wait_fate()) == (
            *(1, True, None, "finished"),
        )
        assert (bad.block(), type(bad.getError())) == (False, HandlerError)
        with pytest.raises(HandlerError):
            bad.get()

    def test_raise_in_an_async_handler(self, rig: Rig) -> None:
        """An ``async def`` handler is on an event loop too."""
        hub = rig.gateway(
            {
                "ACME/echo": rig.ECHO,
                "ACME/wrong": """
                    async def handleMessage(payload):
                        try:
                            system.util.sendRequest("ACME", "echo")
                        except RuntimeError as error:
                            return [str(error), await system.util.sendRequestAsync("ACME", "echo")]
                    """,
            }
        )
        text, value = rig.client(hub).request("ACME", "wrong").get()
        assert "await system.util.sendRequestAsync(...)" in text
        assert value == {}


class TestCancel:
    """The row "`cancel()`"."""

    def test_ends_the_request_at_once(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun, ends: Ends
    ) -> None:
        """The request is over when it returns; the error callback gets it, never the other."""
        handle = caller.request(
            "ACME", "hold", 1, on_success=ends.success, on_error=ends.error, timeout=FOREVER
        )
        begun(hub)
        assert handle.cancel() is True
        assert handle.done
        assert isinstance(handle.error(), CancellationException)
        assert ends.next() == ("error", handle.error())
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"
        assert ends.rest(caller) == []

    @pytest.mark.parametrize("handler", ["echo", "fail"])
    def test_is_false_if_it_was_over(self, caller: Scope, ends: Ends, handler: str) -> None:
        """After the end it changes nothing and no callback runs again."""
        handle = caller.request("ACME", handler, on_success=ends.success, on_error=ends.error)
        outcome = (handle.block(), handle.getError())
        assert handle.cancel() is False
        assert (handle.block(), handle.getError()) == outcome
        ends.next()
        assert ends.rest(caller) == []

    def test_is_true_for_one_call_only(self, caller: Scope) -> None:
        """The second cancel did not do it."""
        handle = caller.request("ACME", "async_hold")
        assert [handle.cancel(), handle.cancel()] == [True, False]

    def test_the_gateway_stops_the_handler(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """An ``async def`` handler is interrupted, which `wait_fate` tells."""
        handle = caller.request("ACME", "async_hold", 1)
        begun(hub)
        handle.cancel()
        assert handle.wait_fate(20) == "stopped"
        assert hub.globals["stopped"] == 1

    def test_before_it_begins_takes_it_out_of_the_queue(
        self, rig: Rig, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """A handler whose request was cancelled in time never runs."""
        first = caller.request("queued", "hold", "first")
        begun(hub)
        handle = caller.request("queued", "hold", "second")
        handle.cancel()
        assert handle.wait_fate(20) == "not started"
        hub.globals["go"].set()
        assert first.get() == "first"
        rig.settle(hub)
        assert hub.globals["running"].empty()


SLOTS: dict[str, tuple[str, Callable[[headgate.Request, Ends, Callable[[], None]], None], str]] = {
    # name: (callback of the call, what is done with the handle, names of what runs, in order)
    "of the call": ("a", lambda handle, ends, finish: finish(), "a"),
    "set before the end": (
        "",
        lambda handle, ends, finish: (_set(handle, ends, "b"), finish()),
        "b",
    ),
    "set after the end": (
        "",
        lambda handle, ends, finish: (finish(), _set(handle, ends, "b")),
        "b",
    ),
    "replaced before the end": (
        "a",
        lambda handle, ends, finish: (_set(handle, ends, "b"), _set(handle, ends, "c"), finish()),
        "c",
    ),
    "replaced after it fired": (
        "a",
        lambda handle, ends, finish: (finish(), _set(handle, ends, "b")),
        "a b",
    ),
    "replaced twice after it fired": (
        "a",
        lambda handle, ends, finish: (
            finish(),
            _set(handle, ends, "b"),
            finish(),
            _set(handle, ends, "c"),
        ),
        "a b c",
    ),
    "cleared before the end": (
        "a",
        lambda handle, ends, finish: (_set(handle, ends, None), finish()),
        "",
    ),
    "cleared, then set": (
        "a",
        lambda handle, ends, finish: (_set(handle, ends, None), _set(handle, ends, "b"), finish()),
        "b",
    ),
    "cleared after it fired": (
        "a",
        lambda handle, ends, finish: (finish(), _set(handle, ends, None)),
        "a",
    ),
    "cleared after it fired, then set": (
        "a",
        lambda handle, ends, finish: (
            finish(),
            _set(handle, ends, None),
            _set(handle, ends, "b"),
        ),
        "a b",
    ),
}


def _set(handle: headgate.Request, ends: Ends, name: str | None) -> None:
    """Set both slots; the one that does not fit the end must stay silent."""
    handle.onSuccess(None if name is None else ends.named(f"{name}: success"))
    handle.onError(None if name is None else ends.named(f"{name}: error"))


class TestOnSuccessOnError:
    """The row "`onSuccess(f)`, `onError(f)`"."""

    @pytest.mark.parametrize("moment", SLOTS)
    @pytest.mark.parametrize("end", ["success", "error"])
    def test_slot_rules_at_every_moment(
        self, hub: headgate.Gateway, caller: Scope, ends: Ends, moment: str, end: str
    ) -> None:
        """What is in the slot of the end that comes runs, once; the other slot never does."""
        name, act, expected = SLOTS[moment]
        handle = caller.request(
            "ACME",
            "hold",
            on_success=ends.named(f"{name}: success") if name else None,
            on_error=ends.named(f"{name}: error") if name else None,
        )
        seen: list[tuple[str, Any]] = []

        def finish() -> None:
            if end == "success":
                hub.globals["go"].set()
            else:
                handle.cancel()
            handle.block()
            # Before the handle's thread goes on, all callbacks that are due have run.
            seen.extend(ends.rest(caller))

        act(handle, ends, finish)
        seen.extend(ends.rest(caller))
        argument = handle.error() if end == "error" else handle.result()
        assert seen == [(f"{name}: {end}", argument) for name in expected.split()]

    def test_set_inside_of_a_callback(self, caller: Scope, ends: Ends) -> None:
        """A callback that sets a new one, even itself, has that run once more, after it."""
        handle = caller.request("ACME", "echo", 1)
        handle.block()

        def first(value: Any) -> None:
            handle.onSuccess(ends.named("second"))
            ends.named("first")(value)

        handle.onSuccess(first)
        assert [ends.next(), ends.next()] == [("first", 1), ("second", 1)]
        assert ends.rest(caller) == []

    def test_takes_a_function_or_none(self, client: headgate.Client, ends: Ends) -> None:
        """Anything else is a TypeError, and leaves the slot as it was."""
        handle = client.request("ACME", "hold", on_error=ends.error)
        for function in ("print", 5, [], b""):
            for setter in (handle.onSuccess, handle.onError):
                with pytest.raises(TypeError, match="function of one argument or None"):
                    setter(function)
        handle.cancel()
        assert ends.next() == ("error", handle.error())


class TestCallbackThread:
    """The row "callback thread"."""

    def test_is_one_thread_in_the_order_of_ending(self, rig: Rig, ends: Ends) -> None:
        """Requests that end in another order than they began call back in that order."""
        wait = """
            import asyncio
            async def handleMessage(payload):
                while payload not in system.util.globals:
                    await asyncio.sleep(0.001)
                return payload
            """
        hub = rig.gateway({"ACME/wait": wait})
        for round_, scope in enumerate((rig.client(hub), hub.scope(""))):
            names = [f"{round_}{n}" for n in range(4)]
            handles = {n: scope.request("ACME", "wait", n, on_success=ends.success) for n in names}
            for name in (names[2], names[0], names[3], names[1]):
                hub.globals[name] = True
                assert handles[name].get() == name
            order = [ends.next()[1] for _ in names]
            assert order == [names[2], names[0], names[3], names[1]]

    def test_is_never_the_thread_that_receives(self, caller: Scope, ends: Ends) -> None:
        """A callback may wait for another request: its answer still arrives."""

        def ask_again(value: Any) -> None:
            ends.success(caller.request("ACME", "echo", value + 1).get())

        caller.request("ACME", "echo", 1, on_success=ask_again)
        assert ends.next() == ("success", 2)

    @pytest.mark.parametrize("handler", ["echo", "fail"])
    def test_handle_is_over_before_its_callback_runs(
        self, hub: headgate.Gateway, caller: Scope, ends: Ends, handler: str
    ) -> None:
        """Inside a callback nothing is left to wait for."""
        handle = caller.request("ACME", handler)
        look = lambda value: ends.success([handle.done, handle.cancel()])  # noqa: E731
        handle.onSuccess(look)
        handle.onError(look)
        assert ends.next() == ("success", [True, False])

    @pytest.mark.parametrize("end", ["on time", "after the end"])
    async def test_is_that_loop_under_async_with(
        self, loop_client: headgate.Client, end: str
    ) -> None:
        """Under ``async with`` callbacks run on the loop's thread, where they may use the loop."""
        ran: asyncio.Queue[Any] = asyncio.Queue()

        def note(value: Any) -> None:
            ran.put_nowait((threading.current_thread(), asyncio.get_running_loop(), value))

        handle = loop_client.request("ACME", "echo", 1)
        if end == "after the end":
            await handle
            # From another thread too: the handle may be given to anybody.
            await asyncio.to_thread(handle.onSuccess, note)
        else:
            handle.onSuccess(note)
        here = (threading.current_thread(), asyncio.get_running_loop())
        assert await asyncio.wait_for(ran.get(), 30) == (*here, 1)

    @pytest.mark.parametrize("problem", [ValueError("stuck"), SystemExit(3)], ids=repr)
    def test_callback_that_raises_is_logged_and_hurts_nothing(
        self,
        hub: headgate.Gateway,
        ends: Ends,
        caplog: pytest.LogCaptureFixture,
        problem: BaseException,
    ) -> None:
        """Its traceback is in the log; the handle and later callbacks are as without it."""

        def valve_is_stuck(value: Any) -> NoReturn:
            raise problem

        with headgate.connect(hub.url) as client, caplog.at_level(logging.ERROR):
            handle = client.request("ACME", "echo", 1, on_success=valve_is_stuck)
            client.request("ACME", "echo", 2, on_success=ends.success)
            assert ends.next() == ("success", 2)
            assert handle.get() == 1
        assert "in valve_is_stuck" in caplog.text
        assert type(problem).__name__ in caplog.text

    def test_callback_of_another_arity_is_logged(
        self, client: headgate.Client, ends: Ends, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A function that does not take one argument is such a callback."""
        client.request("ACME", "echo", 1, on_success=lambda: None)
        client.request("ACME", "echo", 2, on_success=ends.success)
        assert ends.next() == ("success", 2)
        assert "takes 0 positional arguments" in caplog.text


class TestExactlyOnce:
    """The row "exactly once"."""

    def test_whatever_meets_a_request_ends_once(self, caller: Scope, ends: Ends) -> None:
        """Answers and cancels at the same time end each request once, with one callback."""
        count, handles = 400, queue.SimpleQueue[headgate.Request | None]()
        done: list[bool] = []

        def cancel_some() -> None:
            while (handle := handles.get()) is not None:
                done.append(handle.cancel())

        thread = threading.Thread(target=cancel_some)
        thread.start()
        asked = []
        for n in range(count):
            asked.append(
                caller.request("ACME", "echo", n, on_success=ends.success, on_error=ends.error)
            )
            handles.put(asked[-1] if n % 2 else asked[n // 2])
        handles.put(None)
        thread.join()
        outcomes = [handle.block() for handle in asked]
        got = ends.rest(caller)
        assert len(got) == count
        assert [name for name, _ in got].count("success") == outcomes.count(True)
        assert done.count(True) == outcomes.count(False)

    def test_late_answer_is_dropped(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun, ends: Ends
    ) -> None:
        """The result of a handler that returns after the timeout reaches nobody."""
        handle = caller.request(
            "ACME", "hold", 1, timeout=0.05, on_success=ends.success, on_error=ends.error
        )
        assert ends.next() == ("error", handle.getError())
        hub.globals["go"].set()
        assert handle.wait_fate(20) in ("finished", "not started")
        assert isinstance(handle.error(), RequestTimeout)
        assert ends.rest(caller) == []

    @pytest.mark.parametrize("who", ["gateway", "client"])
    def test_death_of_a_connection_ends_every_request_on_it(
        self, hub: headgate.Gateway, rig: Rig, begun: Begun, ends: Ends, who: str
    ) -> None:
        """None hangs, none ends twice, and nothing is left in the client's tables."""
        client = rig.client(hub)
        handles = [
            client.request("ACME", "hold", n, timeout=FOREVER, on_error=ends.error)
            for n in range(40)
        ]
        ran = handles[begun(hub)]
        client.close() if who == "client" else hub.stop(0)
        assert ran.getError().started is not False, "a handler that ran must not be sent again"
        assert all(isinstance(handle.getError(), ConnectionLost) for handle in handles)
        assert len(ends.rest(client)) == 40
        rig.settle(client)


class TestAwaitable:
    """The row "awaitable"."""

    async def test_await_gives_the_result_or_raises(self, loop_client: headgate.Client) -> None:
        """``await request`` is `get` for coroutines, as often as it is awaited."""
        good, bad = loop_client.request("ACME", "echo", 1), loop_client.request("ACME", "fail")
        for _ in range(2):
            assert await good == 1
            with pytest.raises(HandlerError, match="valve"):
                await bad
        assert await asyncio.gather(
            *(loop_client.request("ACME", "echo", n) for n in range(9))
        ) == [*range(9)]

    @pytest.mark.parametrize("kind", ["with", "async with", "in process"])
    async def test_in_any_loop(
        self,
        hub: headgate.Gateway,
        client: headgate.Client,
        loop_client: headgate.Client,
        kind: str,
    ) -> None:
        """A handle of any client can be awaited in this loop, and at once in that of a thread."""
        scopes = {"with": client, "async with": loop_client, "in process": hub.scope("")}
        handle = scopes[kind].request("ACME", "hold", 1)

        async def wait() -> Any:
            return await handle

        elsewhere = asyncio.to_thread(lambda: asyncio.run(wait()))
        both = asyncio.gather(wait(), elsewhere)
        await asyncio.to_thread(hub.globals["running"].get, timeout=20)
        hub.globals["go"].set()
        assert await both == [1, 1]

    async def test_cancelling_the_awaiting_task_cancels_the_request(
        self, hub: headgate.Gateway, loop_client: headgate.Client
    ) -> None:
        """The handler is stopped, as by `cancel`."""
        handle = loop_client.request("ACME", "async_hold", 1)
        task = asyncio.ensure_future(handle)
        await asyncio.to_thread(hub.globals["running"].get, timeout=20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(handle.error(), CancellationException)
        assert await asyncio.to_thread(handle.wait_fate, 10) == "stopped"

    async def test_a_timeout_around_the_await_cancels_it_too(
        self, loop_client: headgate.Client
    ) -> None:
        """asyncio.timeout and asyncio.wait_for do so by cancelling."""
        handle = loop_client.request("ACME", "async_hold", timeout=FOREVER)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle, 0.01)
        assert isinstance(handle.error(), CancellationException)

    async def test_shield_keeps_it(
        self, hub: headgate.Gateway, loop_client: headgate.Client
    ) -> None:
        """Under asyncio.shield the request goes on, and can be awaited again."""
        handle = loop_client.request("ACME", "hold", 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(handle), 0.01)
        assert not handle.done
        hub.globals["go"].set()
        assert await handle == 1


NOT_STARTED: dict[str, tuple[dict[str, Any], type[RequestError]]] = {
    "no project": ({"project": "nowhere"}, ProjectNotFound),
    "no handler": ({"handler": "nothing"}, HandlerNotFound),
    "no remote server": ({"remote_server": "dairy"}, GatewayUnreachable),
    "no client": ({"host_name": "panel-7"}, ClientNotFound),
}


class TestDidItHappen:
    """The row "did it happen?"."""

    @pytest.mark.parametrize("why", NOT_STARTED)
    def test_false_if_the_executing_side_refused_it(self, caller: Scope, why: str) -> None:
        """Only False is safe to send again."""
        arguments, kind = NOT_STARTED[why]
        handle = caller.request(**{"project": "ACME", "handler": "echo", **arguments})
        error = handle.getError()
        assert (type(error), error.started) == (kind, False)
        assert (handle.started, handle.fate) == (False, "not started")

    def test_false_if_it_was_never_handed_to_a_transport(
        self, rig: Rig, hub: headgate.Gateway
    ) -> None:
        """A closed client sends nothing."""
        client = rig.client(hub)
        client.close()
        handle = client.request("ACME", "echo")
        assert (handle.getError().started, handle.fate) == (False, "not started")

    def test_true_after_the_handlers_own_exception(self, caller: Scope) -> None:
        """A handler that raised ran."""
        handle = caller.request("ACME", "fail")
        assert handle.getError().started is True
        assert handle.fate == "finished"

    def test_true_after_progress(self, rig: Rig, ends: Ends) -> None:
        """A handler that reported something ran, whatever ends its request."""
        hub = rig.gateway(
            {
                "ACME/work": """
                    def handleMessage(payload, context):
                        context.progress(1)
                        system.util.globals["go"].wait(20)
                    """
            }
        )
        for scope in (rig.client(hub), hub.scope("")):
            handle = scope.request("ACME", "work", on_progress=ends.named("progress"))
            assert ends.next() == ("progress", 1)
            handle.cancel()
            assert handle.error().started is True

    def test_true_after_a_started_frame(
        self, rig: Rig, hub: headgate.Gateway, caller: Scope
    ) -> None:
        """The gateway tells that a handler runs, and from then on no error can deny it."""
        handle = caller.request("ACME", "hold")
        rig.until(lambda: handle.started)
        handle.cancel()
        assert handle.error().started is True

    def test_none_where_nobody_can_know(
        self, rig: Rig, hub: headgate.Gateway, begun: Begun
    ) -> None:
        """A cancellation cannot wait for the gateway's word, so `.started` is fixed without it."""
        client = rig.client(hub)
        first = client.request("queued", "hold", "first")
        begun(hub)
        handle = client.request("queued", "hold", "second")
        rig.until(lambda: handle.request_id)
        handle.cancel()
        assert handle.error().started is None
        assert handle.wait_fate(20) == "not started"
        assert handle.error().started is None, "it is fixed when the handle ends"
        hub.globals["go"].set()
        assert first.get() == "first"

    def test_fate_after_a_cancel_of_a_thread(
        self, rig: Rig, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """It is "still running", then "finished"; an async handler's is "stopped"."""
        handle = caller.request("ACME", "hold")
        begun(hub)
        handle.cancel()
        rig.until(lambda: handle.fate == "still running")
        hub.globals["go"].set()
        assert handle.wait_fate(20) == "finished"
        stopped = caller.request("ACME", "async_hold", 1)
        begun(hub)
        stopped.cancel()
        assert stopped.wait_fate(20) == "stopped"

    def test_fate_after_a_timeout(self, hub: headgate.Gateway, caller: Scope, begun: Begun) -> None:
        """The same holds when time runs out."""
        first = caller.request("queued", "hold", "first")
        begun(hub)
        waiting = caller.request("queued", "hold", "second", timeout=0.05)
        running = caller.request("ACME", "async_hold", 1, timeout=0.7)
        begun(hub)
        assert (waiting.block(), running.block()) == (False, False)
        assert (waiting.wait_fate(20), running.wait_fate(20)) == ("not started", "stopped")
        hub.globals["go"].set()
        assert first.get() == "first"

    def test_wait_fate_gives_up_after_its_timeout(
        self, hub: headgate.Gateway, caller: Scope, begun: Begun
    ) -> None:
        """It returns the last that is known."""
        handle = caller.request("ACME", "hold")
        begun(hub)
        assert handle.wait_fate(0.01) == "unknown"
        handle.cancel()
        assert handle.wait_fate(0.01) in ("unknown", "still running")


class TestDisconnected:
    """The row "disconnected"."""

    @staticmethod
    @contextmanager
    def gone(rig: Rig, hub: headgate.Gateway, **options: Any) -> Iterator[headgate.Client]:
        """Give a client whose gateway has just stopped."""
        with headgate.connect(hub.url, **options) as client:
            hub.stop(0)
            rig.until(lambda: not client.connected)
            yield client

    def test_a_new_request_ends_at_once(self, rig: Rig, hub: headgate.Gateway, ends: Ends) -> None:
        """It ends with GatewayUnreachable, did not start, and calls back as ever."""
        with self.gone(rig, hub) as client:
            handle = client.request("ACME", "echo", timeout=FOREVER, on_error=ends.error)
            error = handle.getError()
            assert isinstance(error, GatewayUnreachable)
            assert error.started is False
            assert ends.next() == ("error", error)

    def test_connect_wait_waits_in_order(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Requests wait for the connection, and arrive in the order in which they were made."""
        projects = rig.folder / "hub" / "projects"
        with self.gone(rig, hub, connect_wait=30) as client:
            handles = [client.request("queued", "hold", n) for n in range(20)]
            rig.until(lambda: client.stats()["held"] == 20)
            hub.globals["go"].set()
            again = headgate.Gateway("hub", projects=projects, port=hub.port, data=hub.data)
            again.globals.update(hub.globals)
            with again:
                assert [handle.get() for handle in handles] == [*range(20)]
        running = hub.globals["running"]
        assert [running.get_nowait() for _ in range(20)] == [*range(20)]

    def test_connect_wait_is_for_that_many_seconds(self, rig: Rig, hub: headgate.Gateway) -> None:
        """After them the request ends as it would have at once."""
        with self.gone(rig, hub, connect_wait=0.1) as client:
            error = client.request("ACME", "echo", timeout=FOREVER).getError()
            assert isinstance(error, GatewayUnreachable)
            assert error.started is False

    @pytest.mark.parametrize("before_it", [[], [FOREVER]], ids=["alone", "behind a longer one"])
    def test_connect_wait_lets_the_deadline_run(
        self, rig: Rig, hub: headgate.Gateway, before_it: list[float], ends: Ends
    ) -> None:
        """A request that waits ends at its own deadline, whatever waits before it."""
        with self.gone(rig, hub, connect_wait=20) as client:
            waiting = [client.request("ACME", "echo", timeout=timeout) for timeout in before_it]
            client.request("ACME", "echo", timeout=0.05, on_error=ends.error)
            _, error = ends.next()
            assert isinstance(error, RequestTimeout)
            assert error.started is False
            assert not any(handle.done for handle in waiting)

    def test_connect_wait_is_for_1000_at_most(self, rig: Rig, hub: headgate.Gateway) -> None:
        """One more is Overloaded, until one of them is cancelled."""
        with self.gone(rig, hub, connect_wait=30) as client:
            handles = [client.request("ACME", "echo", timeout=FOREVER) for _ in range(1000)]
            error = client.request("ACME", "echo").getError()
            assert isinstance(error, Overloaded)
            assert error.started is False
            handles[500].cancel()
            handle = client.request("ACME", "echo", timeout=FOREVER)
            assert isinstance(client.request("ACME", "echo").getError(), Overloaded)
            assert not handle.done

    def test_a_first_connect_that_fails_raises(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Nobody gets a client of a gateway that is not there."""
        hub.stop(0)
        with pytest.raises(GatewayUnreachable, match=str(hub.port)):
            headgate.connect(hub.url)

    def test_wrong_credentials_are_final(self, rig: Rig, hub: headgate.Gateway) -> None:
        """A token that proves nothing is refused, whatever `connect_wait` says."""
        (hub.data / "local-token").write_text("00" * 32)
        with pytest.raises(PermissionDenied):
            headgate.connect(hub.url, connect_wait=30)


class TestTooMuch:
    """The row "too much"."""

    async def test_4096_requests_in_flight(
        self, rig: Rig, hub: headgate.Gateway, loop_client: headgate.Client
    ) -> None:
        """One more is Overloaded at once, and the session goes on."""
        # Nothing leaves before this coroutine lets the loop turn.
        handles = [loop_client.request("ACME", "echo", n) for n in range(4096)]
        assert not any(handle.done for handle in handles)
        error = loop_client.request("ACME", "echo").error()
        assert isinstance(error, Overloaded)
        assert error.started is False
        assert "4096" in str(error)
        ends = await asyncio.gather(*handles, return_exceptions=True)
        # The gateway may have refused some, because the handler's queue is shorter.
        assert all(end == n or isinstance(end, Overloaded) for n, end in enumerate(ends))
        assert ends[0] == 0
        assert await loop_client.request("ACME", "echo", 1) == 1

    async def test_64_mib_unsent(self, loop_client: headgate.Client) -> None:
        """Payloads that would fill more are Overloaded at once, and the session goes on."""
        first = loop_client.request("ACME", "test", {"number": bytes(33 << 20)})
        error = loop_client.request("ACME", "test", {"number": bytes(33 << 20)}).error()
        assert isinstance(error, Overloaded)
        assert error.started is False
        assert str(64 << 20) in str(error)
        first.cancel()
        assert await loop_client.request("ACME", "echo", 1) == 1

    def test_a_handlers_queue_is_bounded(self, rig: Rig, begun: Begun) -> None:
        """What does not fit into it is Overloaded at once, and did not start."""
        settings = '[handlers.hold]\nthreading = "Dedicated"\nqueue = 2\n'
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/project.toml": settings})
        client = rig.client(hub)
        handles = [client.request("ACME", "hold", n, timeout=FOREVER) for n in range(4)]
        error = handles[-1].getError()
        assert isinstance(error, Overloaded)
        assert error.started is False
        hub.globals["go"].set()
        assert [handle.get() for handle in handles[:-1]] == [0, 1, 2]


class TestNested:
    """The row "nested"."""

    @pytest.mark.parametrize(("own", "outer"), [(500, 30), (10, 30), (None, 30), (None, 100)])
    def test_deadline_is_the_earlier_of_its_own_and_the_outer_one(
        self, client: headgate.Client, own: float | None, outer: float
    ) -> None:
        """While the handler runs, what it asked for cannot outlive it."""
        inner = {"messageHandler": "remaining", "timeoutSec": own}
        left = client.request("ACME", "nest", {"inner": inner, "waits": True}, timeout=outer).get()
        assert 0 < left <= min(own or 60, outer)

    @pytest.mark.parametrize("end", ["cancel", "deadline", "exception", "caller gone"])
    def test_any_end_but_success_cancels_them(
        self, rig: Rig, hub: headgate.Gateway, begun: Begun, end: str
    ) -> None:
        """The gateway stops what a handler asked for when the handler's own request fails."""
        client = rig.client(hub)
        inner = {"messageHandler": "async_hold", "payload": {"a": 1}, "timeoutSec": FOREVER}
        outer = client.request(
            "ACME",
            "nest",
            {"inner": inner, "waits": end != "exception", "raises": end == "exception"},
            timeout=1.0 if end == "deadline" else FOREVER,
        )
        assert begun(hub) == {"a": 1}
        if end == "cancel":
            outer.cancel()
        elif end == "exception":
            hub.globals["raise"].set()
        elif end == "caller gone":
            client.close()
        assert outer.block() is False
        error = hub.globals["inner"].getError()
        assert isinstance(error, (CancellationException, RequestTimeout))
        rig.until(lambda: hub.globals.get("stopped") == {"a": 1})

    def test_success_detaches_what_is_unfinished(
        self, hub: headgate.Gateway, client: headgate.Client
    ) -> None:
        """It goes on with its own timeout and the same caller, and its handle gets the result."""
        inner = {"messageHandler": "caller", "timeoutSec": 500}
        assert client.request("ACME", "nest", {"inner": inner}, timeout=30).get() is None
        handle = hub.globals["inner"]
        assert not handle.done
        hub.globals["go"].set()
        session, left = handle.get()
        assert session == client.session_id
        assert 30 < left <= 500

    def test_chain_is_at_most_16_long(self, caller: Scope) -> None:
        """The seventeenth handler in a chain is refused with DeadlockError."""
        assert caller.request("ACME", "chain", {"left": 16}).get() == 16
        error = caller.request("ACME", "chain", {"left": 17}).getError()
        assert isinstance(error, HandlerError)
        assert DeadlockError.__name__ in error.remote_traceback


class TestCallerGone:
    """The row "caller gone"."""

    def test_a_disconnecting_caller_cancels_what_it_started(
        self, rig: Rig, hub: headgate.Gateway, begun: Begun
    ) -> None:
        """Its handlers are stopped, and nobody else's."""
        leaving, staying = rig.client(hub), rig.client(hub)
        kept = staying.request("ACME", "hold", "kept")
        assert begun(hub) == "kept"
        leaving.request("ACME", "async_hold", "lost")
        assert begun(hub) == "lost"
        leaving.close()
        rig.until(lambda: hub.globals.get("stopped") == "lost")
        hub.globals["go"].set()
        assert kept.get() == "kept"
