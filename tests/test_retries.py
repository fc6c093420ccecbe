"""Requests that are sent again by themselves: after which failures, when, and when not."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

import headgate
from headgate.errors import (
    CancellationException,
    ConnectionLost,
    GatewayUnreachable,
    Overloaded,
    RequestError,
    RequestTimeout,
)
from headgate.runtimes.forkserver import why_unsupported
from headgate.wire.codec import decode
from headgate.wire.frames import FateFrame, Fault, Result
from test_client import Stage, calls, send, stage

if TYPE_CHECKING:
    from conftest import Rig

__all__ = ["stage"]

MAY_PASS = {"overloaded", "unreachable", "connection_lost"}

CODES = [
    *MAY_PASS,
    *("timeout", "cancelled", "project_not_found", "handler_not_found", "client_not_found"),
    *("denied", "deadlock", "payload", "killed", "handler_error", "error", "of a later release"),
]

NO_ROOM = """
    import headgate
    @headgate.handler(threading="Dedicated", queue=0)
    def handleMessage(payload):
        system.util.globals["running"].put(payload)
        system.util.globals["go"].wait(20)
        return payload
    """


@dataclass(frozen=True)
class Answer:
    """How a try is answered; without a code with a result."""

    code: str = ""
    started: bool | None = False
    retry_after: float | None = None

    def is_retried(self) -> bool:
        """Whether another try follows, as the documentation says."""
        asks = self.code == "overloaded" and self.retry_after is not None
        late = asks and (self.retry_after or 0) > 20
        return self.code in MAY_PASS and self.started is False and not late

    def frames(self, number: int) -> list[Any]:
        """What a gateway sends."""
        if not self.code:
            return [Result(number, b"\x07")]
        details = {} if self.retry_after is None else {"retry_after": self.retry_after}
        frames = [Fault(number, self.code, "no", self.started, details)]
        # Of what the gateway stopped the client wants to know what came of it.
        is_stopped = self.code in ("timeout", "cancelled", "connection_lost")
        return [*frames, FateFrame(number, "finished")] if is_stopped else frames


@dataclass
class Script:
    """What the gateway answers to the tries of one request, and which tries there were."""

    answers: list[Answer]
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class Player:
    """A gateway that answers as the scripts say that payloads name."""

    def __init__(self, stage: Callable[..., Stage]) -> None:
        self.scripts: dict[str, Script] = {}
        self.url = stage(self._act).url

    def add(self, *answers: Answer) -> Script:
        script = Script(list(answers))
        self.scripts[str(len(self.scripts))] = script
        return script

    def _act(self, peer: ServerConnection, session: int) -> None:
        try:
            while True:
                for call in calls(peer):
                    script = self.scripts[decode(call.payload)["script"]]
                    script.times.append(time.monotonic())
                    script.seen.append((f"{session:020x}{call.id:012x}", call.payload))
                    send(peer, *script.answers[len(script.seen) - 1].frames(call.id))
        except ConnectionClosed:
            pass

    def ask(self, client: headgate.Client, script: Script, **options: Any) -> headgate.Request:
        name = next(name for name, each in self.scripts.items() if each is script)
        return client.request("ACME", "test", {"script": name, "more": [1.5, "x"]}, **options)


@pytest.fixture
def player(stage: Callable[..., Stage]) -> Player:
    return Player(stage)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hardly any time pass between two tries, and clients connect again quickly."""
    monkeypatch.setattr("headgate.retries.FIRST_PAUSE", 0.002)
    monkeypatch.setattr("headgate.retries.LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("headgate.client.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("headgate.client.LONGEST_PAUSE", 0.1)


ANSWERS = st.builds(
    Answer,
    st.sampled_from([*CODES, *MAY_PASS, *MAY_PASS, ""]),
    st.sampled_from([False, False, False, None, True]),
    st.sampled_from([None, None, 0.001, 1e9, -3, float("inf"), float("nan")]),
)


class TestWhichFailures:
    @pytest.mark.usefixtures("quick")
    def test_any_sequence_of_answers(self, player: Player) -> None:
        """It is sent again while the failures may pass and began nothing, and ends as the last."""

        @given(st.lists(ANSWERS, max_size=5), st.integers(1, 4))
        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        def play(answers: list[Answer], retries: int) -> None:
            script = player.add(*answers, Answer())
            tries = next(
                n
                for n, answer in enumerate(script.answers, 1)
                if not answer.is_retried() or n > retries
            )
            last, ends = script.answers[tries - 1], []
            over = threading.Event()

            def end(value: Any) -> None:
                ends.append(value)
                over.set()

            handle = player.ask(
                client, script, retries=retries, timeout=20, on_success=end, on_error=end
            )
            error = handle.getError()
            assert over.wait(20)
            assert len(script.seen) == tries
            assert {payload for _, payload in script.seen} == {script.seen[0][1]}
            assert handle.request_id == script.seen[-1][0]
            if last.code:
                assert isinstance(error, RequestError)
                assert ends == [error]
                assert (error.code in (last.code, "error"), error.started) == (True, last.started)
                assert error.request_id == handle.request_id
            else:
                assert (error, ends, handle.started) == (None, [7], True)
            assert not any(client.stats().values())

        with headgate.connect(player.url) as client:
            play()

    def test_without_retries_it_is_sent_once(self, player: Player) -> None:
        """The default is to let the program decide."""
        script = player.add(Answer("overloaded"), Answer())
        with headgate.connect(player.url) as client:
            assert isinstance(player.ask(client, script).getError(), Overloaded)
        assert len(script.seen) == 1

    @pytest.mark.usefixtures("quick")
    async def test_in_asyncio_code(self, player: Player) -> None:
        """The same under async with: await gives the last try's result."""
        script = player.add(Answer("overloaded"), Answer("unreachable"), Answer())
        async with headgate.connect(player.url) as client:
            assert await player.ask(client, script, retries=3) == 7
            assert not any(client.stats().values())
        assert len(script.seen) == 3

    @pytest.mark.usefixtures("quick")
    def test_a_connection_that_broke_after_sending_ends_it(self, stage: Any) -> None:
        """Whether it began nobody knows, so it is never sent again."""
        seen: list[Any] = []

        def act(peer: ServerConnection, session: int) -> None:
            try:
                seen.extend(calls(peer))
            except ConnectionClosed:
                pass

        with headgate.connect(stage(act).url) as client:
            error = client.request("ACME", "test", retries=9, timeout=20).getError()
            assert isinstance(error, ConnectionLost)
            assert error.started is None
        assert len(seen) == 1

    @pytest.mark.parametrize("retries", [-1, 101, 1.5, "3", True])
    def test_a_number_of_retries_that_cannot_be(self, rig: Rig, retries: Any) -> None:
        """It is a ValueError where the request is made."""
        scope = rig.gateway({"ACME/echo": rig.ECHO}).scope("")
        with pytest.raises(ValueError, match="retries is a whole number from 0 to 100"):
            scope.request("ACME", "echo", retries=retries)


class TestPauses:
    def test_never_earlier_than_the_gateway_asks(self, player: Player) -> None:
        """Overloaded.retry_after is waited for."""
        script = player.add(Answer("overloaded", False, 0.3), Answer())
        with headgate.connect(player.url) as client:
            assert player.ask(client, script, retries=1).get() == 7
        assert script.times[1] - script.times[0] >= 0.3

    def test_what_does_not_fit_into_the_deadline_ends_at_once(self, player: Player) -> None:
        """A wait beyond the deadline would be in vain: the error is the refusal, not a timeout."""
        script = player.add(Answer("overloaded", False, 81_000), Answer())
        with headgate.connect(player.url) as client:
            error = player.ask(client, script, retries=5, timeout=80_000).getError()
            assert isinstance(error, Overloaded)
            assert error.retry_after == 81_000

    def test_cancel_ends_the_wait(self, rig: Rig, player: Player) -> None:
        """While it waits it is not over; a cancel ends it at once, as one that did not start."""
        script = player.add(Answer("overloaded", False, 30), Answer())
        ends: list[Any] = []
        with headgate.connect(player.url) as client:
            handle = player.ask(client, script, retries=5, on_success=ends.append)
            handle.onError(ends.append)
            rig.until(lambda: client.stats()["pausing"] == 1)
            assert (handle.done, ends, handle.started) == (False, [], False)
            assert handle.cancel() is True
            error = handle.error()
            assert isinstance(error, CancellationException)
            assert (error.started, handle.fate) == (False, "not started")
            rig.settle(client)
            assert ends == [error]
        assert len(script.seen) == 1

    def test_closing_the_client_ends_the_wait(self, rig: Rig, player: Player) -> None:
        """No request is left behind by a client that closes."""
        script = player.add(Answer("overloaded", False, 30), Answer())
        with headgate.connect(player.url) as client:
            handle = player.ask(client, script, retries=5)
            rig.until(lambda: client.stats()["pausing"] == 1)
        assert isinstance(handle.error(), GatewayUnreachable)
        assert handle.started is False
        assert not any(client.stats().values())

    async def test_a_cancelled_task_ends_the_wait(self, player: Player) -> None:
        """Cancelling the task that awaits cancels the request between its tries, too."""
        script = player.add(Answer("overloaded", False, 30), Answer())
        async with headgate.connect(player.url) as client:
            handle = player.ask(client, script, retries=5)
            task = asyncio.ensure_future(handle)
            while client.stats()["pausing"] == 0:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert isinstance(handle.error(), CancellationException)
            assert client.stats()["pausing"] == 0

    @pytest.mark.usefixtures("quick")
    def test_at_most_a_thousand_wait(self, rig: Rig, player: Player) -> None:
        """One more ends with its refusal: nothing grows without bound."""
        scripts = [player.add(Answer("overloaded", False, 30)) for _ in range(1001)]
        with headgate.connect(player.url) as client:
            handles = [player.ask(client, script, retries=5) for script in scripts]
            assert isinstance(handles[1000].getError(), Overloaded)
            assert sum(not handle.done for handle in handles) == 1000


class TestConnections:
    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("connect_wait", [0.0, 0.05, 20.0])
    def test_a_gateway_that_comes_back(self, rig: Rig, connect_wait: float) -> None:
        """A request that is made while the gateway is away gets its answer when it is back."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        port = hub.port
        client = rig.client(hub, connect_wait=connect_wait)
        hub.stop()
        rig.until(lambda: not client.connected)
        handle = client.request("ACME", "echo", 5, retries=100, timeout=30)
        with headgate.Gateway(
            "hub", projects=rig.folder / "hub/projects", data=rig.folder / "hub/data", port=port
        ):
            assert handle.get() == 5
            rig.settle(client)

    @pytest.mark.usefixtures("quick")
    def test_what_never_left_is_sent_on_the_next_connection(self, rig: Rig, stage: Any) -> None:
        """A connection that ends before a request is on it costs only a retry."""
        closing = threading.Event()

        def act(peer: ServerConnection, session: int) -> None:
            if session == 1:
                closing.wait(20)
                return
            try:
                send(peer, *[Result(call.id, b"\x07") for call in calls(peer)])
                peer.recv()
            except ConnectionClosed:
                pass

        with headgate.connect(stage(act).url) as client:
            closing.set()
            rig.until(lambda: not client.connected)
            assert client.request("ACME", "test", retries=100, timeout=20).get() == 7


@pytest.fixture
def busy(rig: Rig) -> Iterator[headgate.Gateway]:
    """A gateway whose handler is busy, and takes nothing more."""
    hub = rig.gateway(
        {
            "ACME/hold": NO_ROOM,
            "ACME/thread": """
            def handleMessage(payload):
                ask = system.util.globals["scope"].request
                handle = system.util.globals["handle"] = ask("ACME", "hold", 2, **payload)
                return handle.get()
            """,
            "ACME/async": """
            async def handleMessage(payload):
                ask = system.util.globals["scope"].request
                handle = system.util.globals["handle"] = ask("ACME", "hold", 2, **payload)
                return await handle
            """,
        }
    )
    hub.globals["scope"] = hub.scope("ACME")
    first = hub.scope("").request("ACME", "hold", 1)
    assert hub.globals["running"].get(timeout=20) == 1
    yield hub
    hub.globals["go"].set()
    first.block()


def refused_once(rig: Rig, hub: headgate.Gateway) -> None:
    """Wait until a nested request waits for its next try."""
    rig.until(lambda: "handle" in hub.globals and hub._dispatch.pauses._timers)


class TestInsideAGateway:
    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("handler", ["thread", "async"])
    def test_a_handlers_own_request(self, rig: Rig, busy: headgate.Gateway, handler: str) -> None:
        """What a handler asks for is sent again until there is room."""
        outer = rig.client(busy).request("ACME", handler, {"retries": 100})
        refused_once(rig, busy)
        assert not busy.globals["handle"].done
        busy.globals["go"].set()
        assert outer.get() == 2
        del busy.globals["handle"]

    @pytest.mark.parametrize("handler", ["thread", "async"])
    def test_the_end_of_the_outer_one_ends_the_wait(
        self, rig: Rig, busy: headgate.Gateway, handler: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A nested request that waits for its next try is cancelled with its handler's request."""
        monkeypatch.setattr("headgate.retries.random.uniform", lambda a, b: 500)
        options = {"retries": 3, "timeout": 1000}
        outer = rig.client(busy).request("ACME", handler, options, timeout=1000)
        refused_once(rig, busy)
        nested = busy.globals.pop("handle")
        outer.cancel()
        assert outer.wait_fate(20) in ("finished", "stopped")
        error = nested.error()
        assert isinstance(error, CancellationException)
        assert error.started is False
        assert busy.stats()["open"] == 1

    def test_its_deadline_is_the_outer_ones(
        self, rig: Rig, busy: headgate.Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wait inside a handler ends no later than the handler's own request."""
        monkeypatch.setattr("headgate.retries.random.uniform", lambda a, b: 500)
        options = {"retries": 3, "timeout": 1000}
        outer = rig.client(busy).request("ACME", "thread", options, timeout=0.7)
        assert isinstance(outer.getError(), RequestTimeout)
        nested = busy.globals.pop("handle")
        assert nested.block() is False
        assert nested.started is False

    def test_cancel_ends_the_wait(
        self, rig: Rig, busy: headgate.Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A program in the gateway's process cancels between two tries; nothing is left."""
        monkeypatch.setattr("headgate.retries.random.uniform", lambda a, b: 20)
        handle = busy.scope("").request("ACME", "hold", 2, retries=3)
        rig.until(lambda: busy._dispatch.pauses._timers)
        assert handle.cancel() is True
        assert (handle.started, handle.fate) == (False, "not started")
        rig.until(lambda: busy.stats()["open"] == 1)
        assert busy._dispatch.pauses._timers == {}

    def test_a_cancel_as_the_wait_begins_ends_it(
        self, rig: Rig, busy: headgate.Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whichever comes first, nothing is left in a table until the next try."""
        monkeypatch.setattr("headgate.retries.random.uniform", lambda a, b: 50)
        asked: queue.Queue[bool] = queue.Queue()
        may_wait = busy.may_wait

        def cancelled(parent: Any) -> bool:
            with ThreadPoolExecutor(1) as other:
                asked.put(other.submit(handles.get(timeout=20).cancel).result())
            return may_wait(parent)

        handles: queue.Queue[headgate.Request] = queue.Queue()
        monkeypatch.setattr(busy, "may_wait", cancelled)
        handles.put(busy.scope("").request("ACME", "hold", 2, retries=3))
        assert asked.get(timeout=20) is True
        rig.until(lambda: busy.stats()["open"] == 1, seconds=10)
        rig.until(lambda: busy._dispatch.pauses._timers == {}, seconds=10)

    def test_stopping_the_gateway_ends_the_wait(
        self, rig: Rig, busy: headgate.Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A gateway that stops leaves no request open."""
        monkeypatch.setattr("headgate.retries.random.uniform", lambda a, b: 20)
        handle = busy.scope("").request("ACME", "hold", 2, retries=3)
        rig.until(lambda: busy._dispatch.pauses._timers)
        busy.globals["go"].set()
        busy.stop(0.0)
        assert isinstance(handle.error(), ConnectionLost)
        assert handle.started is False


@pytest.mark.skipif(bool(why_unsupported()), reason=why_unsupported())
class TestInsideAWorker:
    @pytest.fixture
    def hub(self, rig: Rig) -> headgate.Gateway:
        """A gateway whose thread handler is busy, and one in a worker process that asks for it."""
        hub = rig.gateway(
            {
                "ACME/hold": NO_ROOM,
                "ACME/outer": """
                import headgate
                from headgate.scope import current_scope

                @headgate.handler(runtime="process")
                def handleMessage(payload, context):
                    handle = current_scope().request("ACME", "hold", 2, retries=100)
                    return handle.get()
                """,
                "ACME/many": """
                import headgate, threading, time
                from headgate.scope import current_scope

                @headgate.handler(runtime="process")
                def handleMessage(payload):
                    ask = current_scope().request
                    handles = [ask("ACME", "hold", 2, retries=100) for _ in range(payload)]
                    while not any(handle.done for handle in handles):
                        time.sleep(0.005)
                    threads = threading.active_count()
                    for handle in handles:
                        handle.cancel()
                    return threads
                """,
            }
        )
        self.first = hub.scope("").request("ACME", "hold", 1)
        assert hub.globals["running"].get(timeout=20) == 1
        return hub

    def test_a_handlers_own_request(self, rig: Rig, hub: headgate.Gateway) -> None:
        """What a handler in a worker asks for is sent again, with its request's priority."""
        tries: list[int] = []
        dispatch = hub._dispatch.nested

        def watch(invocation: Any, *pause: Any) -> None:
            tries.append(invocation.priority)
            dispatch(invocation, *pause)

        hub._dispatch.nested = watch  # type: ignore[method-assign]
        outer = rig.client(hub).request("ACME", "outer", priority="high")
        rig.until(lambda: len(tries) >= 2)
        assert not outer.done
        hub.globals["go"].set()
        assert outer.get() == 2
        assert set(tries) == {1}

    def test_at_most_a_hundred_wait(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Each has a thread of the worker; one more ends with what it failed with."""
        threads = rig.client(hub).request("ACME", "many", 250, timeout=20).get()
        hub.globals["go"].set()
        assert threads < 120
