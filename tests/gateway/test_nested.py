"""Requests that handlers make: whose they are, when they end, and what can never begin."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import (
    CancellationException,
    DeadlockError,
    HandlerError,
    RequestError,
    RequestTimeout,
)

if TYPE_CHECKING:
    from conftest import Rig

PASS_ON = """
    def handleMessage(payload):
        return system.util.sendRequest("ACME", payload.pop("next"), payload)
    """

TELL = """
    def handleMessage(payload, context):
        caller = context.caller
        return caller.user, caller.host, caller.session, context.remaining()
    """

COOPERATIVE = """
    import time
    def handleMessage(payload, context):
        system.util.globals["running"].put(payload)
        while not context.cancelled:
            time.sleep(0.001)
        system.util.globals["running"].put("cancelled")
    """


def begun(gateway: headgate.Gateway) -> Any:
    """Wait until a handler has begun, and return what it put."""
    return gateway.globals["running"].get(timeout=20)


class TestLifetime:
    def test_a_nested_request_has_the_same_caller(self, rig: Rig) -> None:
        """Whoever asked for the outer request is the caller of the nested one, too."""
        hub = rig.gateway({"ACME/outer": PASS_ON, "ACME/tell": TELL})
        client = rig.client(hub, host_name="panel-7")
        user, host, session, _ = client.request("ACME", "outer", {"next": "tell"}).get()
        assert (host, session) == ("panel-7", client.session_id)
        assert user == client.request("ACME", "tell").get()[0]

    def test_an_async_handlers_nested_request_has_the_same_caller(self, rig: Rig) -> None:
        """The same for await system.util.sendRequestAsync."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                async def handleMessage(payload):
                    return await system.util.sendRequestAsync("ACME", "tell")
                """,
                "ACME/tell": TELL,
            }
        )
        client = rig.client(hub, host_name="panel-7")
        assert client.request("ACME", "outer").get()[1:3] == ("panel-7", client.session_id)

    def test_it_ends_no_later_than_the_outer_one(self, rig: Rig) -> None:
        """The nested deadline is the earlier of its own and the outer one's."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    ask = system.util.sendRequest
                    return [ask("ACME", "tell", timeoutSec=s)[3] for s in (1, 50)]
                """,
                "ACME/tell": TELL,
            }
        )
        short, long = rig.client(hub).request("ACME", "outer", timeout=20).get()
        assert short <= 1
        assert 1 < long <= 20

    def test_the_outer_timeout_ends_three_levels(self, rig: Rig) -> None:
        """When the outermost is overdue, everything below it is cancelled at once."""
        hub = rig.gateway(
            {
                "ACME/outer": "def handleMessage(p): system.util.sendRequest('ACME', 'middle')",
                "ACME/middle": """
                def handleMessage(payload):
                    system.util.sendRequest("ACME", "hold", {"depth": 3})
                """,
                "ACME/hold": COOPERATIVE,
            }
        )
        client = rig.client(hub)
        handle = client.request("ACME", "outer", timeout=1)
        assert begun(hub) == {"depth": 3}
        assert isinstance(handle.getError(), RequestTimeout)
        assert begun(hub) == "cancelled"
        assert handle.wait_fate(20) == "finished"

    def test_cancelling_the_outer_one_cancels_three_levels(self, rig: Rig) -> None:
        """A cancel reaches the handler of a request of a request of a request."""
        hub = rig.gateway(
            {
                "ACME/a": "def handleMessage(payload): system.util.sendRequest('ACME', 'b')",
                "ACME/b": """
                async def handleMessage(payload):
                    await system.util.sendRequestAsync("ACME", "c")
                """,
                "ACME/c": COOPERATIVE,
            }
        )
        handle = rig.client(hub).request("ACME", "a")
        begun(hub)
        assert hub.stats()["open"] == 3
        handle.cancel()
        assert begun(hub) == "cancelled"
        assert handle.wait_fate(20) == "finished"

    def test_a_nested_request_that_waits_is_cancelled_too(self, rig: Rig) -> None:
        """What was still queued when the outer request ended never starts."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    handle = system.util.sendRequestAsync("ACME", "hold", {"n": 2})
                    system.util.globals["handle"] = handle
                    system.util.globals["running"].put("asked")
                    handle.get()
                """,
                "ACME/hold": rig.HOLD,
                "ACME/project.toml": '[handlers.hold]\nthreading = "Dedicated"\n',
            }
        )
        client = rig.client(hub)
        first = client.request("ACME", "hold", 1)
        assert begun(hub) == 1
        outer = client.request("ACME", "outer")
        assert begun(hub) == "asked"
        outer.cancel()
        nested = hub.globals.pop("handle")
        error = nested.getError()
        assert isinstance(error, CancellationException)
        assert error.started is False
        assert "ACME/outer" in str(error)
        hub.globals["go"].set()
        first.get()
        rig.settle(hub)
        assert hub.globals["running"].empty()

    def test_a_failing_handler_cancels_what_it_asked(self, rig: Rig) -> None:
        """An exception of the outer handler ends its unfinished nested requests."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    system.util.sendRequestAsync("ACME", "hold")
                    assert system.util.globals["running"].get(timeout=20) == {}
                    raise ValueError
                """,
                "ACME/hold": COOPERATIVE,
            }
        )
        assert isinstance(rig.client(hub).request("ACME", "outer").getError(), HandlerError)
        assert begun(hub) == "cancelled"

    def test_a_caller_that_goes_away_cancels_what_its_handlers_asked(self, rig: Rig) -> None:
        """A closed connection cancels nested requests, as a cancel does."""
        hub = rig.gateway({"ACME/pass": PASS_ON, "ACME/hold": COOPERATIVE})
        client = headgate.connect(hub.url)
        client.request("ACME", "pass", {"next": "hold"})
        begun(hub)
        client.close()
        assert begun(hub) == "cancelled"

    def test_success_detaches_what_is_unfinished(self, rig: Rig) -> None:
        """After the outer handler returned, its sendRequestAsync goes on, with its own timeout."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    handle = system.util.sendRequestAsync(
                        "ACME", "late", onSuccess=system.util.globals["running"].put
                    )
                    return "returned"
                """,
                "ACME/late": """
                def handleMessage(payload, context):
                    system.util.globals["returned"].wait(20)
                    return context.caller.host, context.cancelled, context.remaining()
                """,
            }
        )
        hub.globals["returned"] = threading.Event()
        client = rig.client(hub, host_name="panel-7")
        assert client.request("ACME", "outer", timeout=5).get() == "returned"
        client.close()
        hub.globals["returned"].set()
        host, cancelled, remaining = begun(hub)
        assert (host, cancelled) == ("panel-7", False)
        assert remaining > 30

    def test_a_detached_request_still_has_its_own_timeout(self, rig: Rig) -> None:
        """The timeout that the nested call was given ends it after the outer one returned."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    system.util.sendRequestAsync(
                        "ACME", "hold", timeoutSec=1, onError=system.util.globals["running"].put
                    )
                    return system.util.globals["running"].get(timeout=20)
                """,
                "ACME/hold": COOPERATIVE,
            }
        )
        assert rig.client(hub).request("ACME", "outer", timeout=9).get() == {}
        assert {type(begun(hub)), type(begun(hub))} == {RequestTimeout, str}

    def test_a_detached_request_is_still_capped_by_its_handlers_setting(self, rig: Rig) -> None:
        """A handler's timeout= counts for detached requests, too."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    system.util.sendRequestAsync(
                        "ACME", "hold", onError=system.util.globals["running"].put
                    )
                    return system.util.globals["running"].get(timeout=20)
                """,
                "ACME/hold": COOPERATIVE,
                "ACME/project.toml": "[handlers.hold]\ntimeout = 0.3\n",
            }
        )
        rig.client(hub).request("ACME", "outer", timeout=9).get()
        assert {type(begun(hub)), type(begun(hub))} == {RequestTimeout, str}

    def test_a_nested_request_after_the_outer_end_is_cancelled_at_once(self, rig: Rig) -> None:
        """A handler whose request was cancelled cannot start anything new."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload, context):
                    system.util.globals["running"].put("begun")
                    while not context.cancelled:
                        pass
                    handle = system.util.sendRequestAsync("ACME", "never")
                    handle.block()
                    system.util.globals["running"].put(handle.getError())
                """,
                "ACME/never": "def handleMessage(payload): system.util.globals['never'] = True",
            }
        )
        handle = rig.client(hub).request("ACME", "outer")
        begun(hub)
        handle.cancel()
        error = begun(hub)
        assert isinstance(error, CancellationException)
        assert error.started is False
        assert "never" not in hub.globals

    def test_a_handler_may_cancel_its_nested_request(self, rig: Rig) -> None:
        """The cancel of a nested handle stops that handler, and the outer one goes on."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    handle = system.util.sendRequestAsync("ACME", "hold")
                    system.util.globals["running"].get(timeout=20)
                    handle.cancel()
                    return handle.wait_fate(20), type(handle.getError()).__name__
                """,
                "ACME/hold": COOPERATIVE,
            }
        )
        answer = rig.client(hub).request("ACME", "outer").get()
        assert answer == ("finished", "CancellationException")

    def test_progress_of_a_nested_request_reaches_the_handler(self, rig: Rig) -> None:
        """A handler sees the progress of what it asked for, on the gateway's callback thread."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    ask = system.util.globals["ask"]
                    return ask("ACME", "work", on_progress=system.util.globals["seen"].put).get()
                """,
                "ACME/work": """
                def handleMessage(payload, context):
                    context.progress(1)
                    system.util.globals["running"].put(system.util.globals["seen"].get(timeout=20))
                    return "done"
                """,
            }
        )
        hub.globals.update(seen=queue.Queue(), ask=hub.scope("ACME").request)
        assert rig.client(hub).request("ACME", "outer").get() == "done"
        assert begun(hub) == 1

    def test_a_message_of_a_handler_outlives_it(self, rig: Rig) -> None:
        """sendMessage is no nested request: its handlers run on when the sender fails."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    system.util.sendMessage("ACME", "note", {"n": 1}, scope="G")
                    raise ValueError
                """,
                "ACME/note": """
                def handleMessage(payload, context):
                    system.util.globals["ended"].wait(20)
                    system.util.globals["running"].put(context.cancelled)
                """,
            }
        )
        hub.globals["ended"] = threading.Event()
        assert rig.client(hub).request("ACME", "outer").block() is False
        hub.globals["ended"].set()
        assert begun(hub) is False


class TestPlaces:
    def test_a_handler_that_waits_gives_its_place_back(self, rig: Rig) -> None:
        """More handlers than the pool has threads can wait for nested requests at once."""
        hub = rig.gateway(
            {
                "ACME/outer": "def handleMessage(n): return system.util.sendRequest('ACME', 'in')",
                "ACME/in": """
                import threading
                arrived, lock = [], threading.Lock()
                async def handleMessage(payload):
                    import asyncio
                    arrived.append(1)
                    while len(arrived) < 40:
                        await asyncio.sleep(0.001)
                    return "all"
                """,
            }
        )
        client = rig.client(hub)
        handles = [client.request("ACME", "outer", n, timeout=15) for n in range(40)]
        assert [handle.get() for handle in handles] == ["all"] * 40

    def test_handlers_of_one_pool_that_ask_each_other_all_answer(self, rig: Rig) -> None:
        """Thirty handlers that each ask another one of the same pool get their answers."""
        hub = rig.gateway({"ACME/pass": PASS_ON, "ACME/echo": rig.ECHO})
        client = rig.client(hub)
        handles = [
            client.request("ACME", "pass", {"next": "echo", "n": n}, timeout=15) for n in range(30)
        ]
        assert [handle.get() for handle in handles] == [{"n": n} for n in range(30)]

    def test_a_handler_may_ask_for_many_things_at_once(self, rig: Rig) -> None:
        """Five hundred unfinished nested requests of one handler, answered in any order."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    ask = system.util.sendRequestAsync
                    handles = [ask("ACME", "echo", {"n": n}) for n in range(500)]
                    return [handle.get()["n"] for handle in reversed(handles)]
                """,
                "ACME/echo": rig.ECHO,
            }
        )
        answer = rig.client(hub).request("ACME", "outer", timeout=20).get()
        assert answer == list(reversed(range(500)))


ITSELF = """
    import headgate
    @headgate.handler({settings})
    {form} handleMessage(payload):
        if payload.get("depth"):
            return "inner"
        handle = system.util.sendRequestAsync("ACME", "itself", {{"depth": 1}}, timeoutSec=50)
        {rest}
    """
ALONE = ["threading='Dedicated'", "concurrency=1"]


class TestDeadlock:
    @pytest.mark.parametrize("settings", ALONE)
    def test_a_handler_that_waits_for_itself_is_told_at_once(self, rig: Rig, settings: str) -> None:
        """Where the place is held by the caller itself, the nested request is a DeadlockError."""
        script = ITSELF.format(settings=settings, form="def", rest="return handle.get()")
        hub = rig.gateway({"ACME/itself": script})
        error = rig.client(hub).request("ACME", "itself", timeout=20).getError()
        assert isinstance(error, HandlerError)
        assert error.remote_type == "DeadlockError"
        assert "ACME/itself → ACME/itself" in error.remote_message

    def test_an_async_handler_that_awaits_itself_is_told_at_once(self, rig: Rig) -> None:
        """The same for an async handler with concurrency=1."""
        script = ITSELF.format(
            settings="concurrency=1", form="async def", rest="return await handle"
        )
        hub = rig.gateway({"ACME/itself": script})
        error = rig.client(hub).request("ACME", "itself", timeout=20).getError()
        assert isinstance(error, HandlerError)
        assert error.remote_type == "DeadlockError"

    @pytest.mark.parametrize("settings", ALONE)
    def test_the_handler_may_catch_it(self, rig: Rig, settings: str) -> None:
        """The nested request did not start, and the handler goes on."""
        rest = "return type(handle.getError()).__name__, handle.started"
        script = ITSELF.format(settings=settings, form="def", rest=rest)
        hub = rig.gateway({"ACME/itself": script})
        answer = rig.client(hub).request("ACME", "itself", timeout=20).get()
        assert answer == ("DeadlockError", False)

    @pytest.mark.parametrize(
        ("settings", "form"),
        [(ALONE[0], "def"), (ALONE[1], "def"), (ALONE[1], "async def")],
    )
    def test_without_waiting_it_works(self, rig: Rig, settings: str, form: str) -> None:
        """A handler may ask itself and return: the nested request runs after it."""
        rest = "handle.onSuccess(system.util.globals['running'].put)"
        script = ITSELF.format(settings=settings, form=form, rest=rest)
        hub = rig.gateway({"ACME/itself": script})
        assert rig.client(hub).request("ACME", "itself", timeout=20).get() is None
        assert begun(hub) == "inner"

    def test_a_wait_that_begins_long_after_the_request_is_seen(self, rig: Rig) -> None:
        """The circle may close when the last of its handlers begins to wait, in another project."""
        hub = rig.gateway(
            {
                "A/one": """
                import headgate
                @headgate.handler(threading="Dedicated")
                def handleMessage(payload):
                    if payload:
                        return "second"
                    system.util.sendRequest("B", "two")
                """,
                "B/two": """
                def handleMessage(payload):
                    handle = system.util.sendRequestAsync("A", "one", {"again": True})
                    system.util.globals["running"].put("asked")
                    system.util.globals["go"].wait(20)
                    handle.get()
                """,
            }
        )
        handle = rig.client(hub).request("A", "one", timeout=8)
        assert begun(hub) == "asked"
        # By now A/one waits for B/two, and the second A/one for its place.
        rig.until(lambda: hub.stats()["handlers_queued"] == 1)
        one = next(i for i in hub._requests.on_this_node() if not i.ancestors)
        rig.until(lambda: one.waits_for is not None)
        hub.globals["go"].set()
        error = handle.getError()
        assert isinstance(error, HandlerError)
        assert "DeadlockError" in error.remote_traceback or "would wait" in str(error)

    def test_a_circle_through_three_handlers(self, rig: Rig) -> None:
        """Three handlers that each hold the only place of the next one's request."""
        hub = rig.gateway(
            {
                "ACME/project.toml": "[defaults]\nconcurrency = 1\n",
                **{
                    f"ACME/{name}": f"""
                    def handleMessage(payload):
                        return system.util.sendRequest("ACME", "{following}")
                    """
                    for name, following in ("ab", "bc", "ca")
                },
            }
        )
        error = rig.client(hub).request("ACME", "a", timeout=20).getError()
        assert isinstance(error, HandlerError)
        assert "ACME/a → ACME/b → ACME/c" in str(error)

    def test_two_callers_that_meet_head_on(self, rig: Rig) -> None:
        """A holds one place and wants B's, B holds it and wants A's: one of them is told."""
        script = """
            import headgate
            @headgate.handler(concurrency=1)
            def handleMessage(payload):
                if payload:
                    system.util.globals["barrier"].wait(20)
                    system.util.sendRequest("ACME", "{other}")
                return "fine"
            """
        hub = rig.gateway({"ACME/a": script.format(other="b"), "ACME/b": script.format(other="a")})
        hub.globals["barrier"] = threading.Barrier(2)
        client = rig.client(hub)
        handles = [client.request("ACME", name, {"first": 1}, timeout=20) for name in "ab"]
        errors = [handle.getError() for handle in handles]
        assert any(isinstance(error, HandlerError) for error in errors)
        assert not any(isinstance(error, RequestTimeout) for error in errors)

    def test_someone_else_in_the_way_is_no_deadlock(self, rig: Rig) -> None:
        """A nested request that waits for a busy handler gets its answer when that one is done."""
        hub = rig.gateway(
            {
                "ACME/project.toml": '[handlers.hold]\nthreading = "Dedicated"\n',
                "ACME/hold": rig.HOLD,
                "ACME/outer": "def handleMessage(p): return system.util.sendRequest('ACME','hold')",
            }
        )
        client = rig.client(hub)
        first = client.request("ACME", "hold", 1)
        assert begun(hub) == 1
        nested = client.request("ACME", "outer", timeout=20)
        rig.until(lambda: hub.stats()["handlers_queued"] == 1)
        hub.globals["go"].set()
        assert (first.get(), nested.get()) == (1, {})

    def test_two_projects_that_ask_each_other_until_their_pools_are_full(self, rig: Rig) -> None:
        """Every request ends with an answer or an error that names the circle, in good time."""
        script = """
            def handleMessage(payload):
                if payload["depth"] == 0:
                    return "bottom"
                with_less = {{"depth": payload["depth"] - 1}}
                return system.util.sendRequest("{other}", "ask", with_less, timeoutSec=50)
            """
        hub = rig.gateway({"A/ask": script.format(other="B"), "B/ask": script.format(other="A")})
        client = rig.client(hub)
        handles = [client.request("AB"[n % 2], "ask", {"depth": 6}, timeout=25) for n in range(200)]
        errors = [handle.getError() for handle in handles]
        for error in errors:
            assert error is None or "would wait for ever" in str(error)
        assert errors.count(None) > 0

    def test_two_endless_projects_end_by_the_length_of_the_chain(self, rig: Rig) -> None:
        """Handlers that ask each other for ever are stopped by the limit, or by the full pools."""
        script = "def handleMessage(p): return system.util.sendRequest('{other}', 'ask')"
        hub = rig.gateway({"A/ask": script.format(other="B"), "B/ask": script.format(other="A")})
        client = rig.client(hub)
        handles = [client.request("AB"[n % 2], "ask", timeout=25) for n in range(40)]
        for handle in handles:
            error = handle.getError()
            assert isinstance(error, HandlerError)
            assert "chain" in str(error) or "would wait for ever" in str(error)


class TestChain:
    CHAIN = """
        def handleMessage(payload):
            if payload["more"] == 0:
                return 1
            rest = system.util.sendRequest("ACME", "chain", {"more": payload["more"] - 1})
            return 1 + rest
        """

    def test_sixteen_handlers_may_stand_in_a_chain(self, rig: Rig) -> None:
        """The longest chain that is allowed works."""
        hub = rig.gateway({"ACME/chain": self.CHAIN})
        assert rig.client(hub).request("ACME", "chain", {"more": 15}).get() == 16

    def test_the_seventeenth_is_refused(self, rig: Rig) -> None:
        """One more is a DeadlockError, which did not start."""
        hub = rig.gateway({"ACME/chain": self.CHAIN})
        error = rig.client(hub).request("ACME", "chain", {"more": 16}).getError()
        assert isinstance(error, HandlerError)
        assert "number 17" in str(error)

    def test_a_client_cannot_shorten_its_chain(self, rig: Rig) -> None:
        """A handler that calls through a client of its own stays in the chain."""
        hub = rig.gateway(
            {
                "ACME/chain": """
                def handleMessage(payload):
                    return system.util.globals["client"].request("ACME", "chain").get()
                """
            }
        )
        hub.globals["client"] = client = rig.client(hub)
        error = client.request("ACME", "chain", timeout=20).getError()
        assert isinstance(error, RequestError)
        assert "number 17" in str(error) or isinstance(error, DeadlockError)
        del hub.globals["client"]
