"""A client's life: callbacks, connections that come and go, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

import headgate
from headgate.channel.client import ClientChannel
from headgate.channel.local import publish_port, read_or_make_token
from headgate.errors import (
    ConfigurationError,
    ConnectionLost,
    GatewayUnreachable,
    HandlerNotFound,
    Overloaded,
    PayloadError,
    PermissionDenied,
    RequestTimeout,
)
from headgate.wire.codec import decode
from headgate.wire.frames import (
    Batch,
    Bye,
    Call,
    FateFrame,
    Hello,
    Result,
    Started,
    decode_batch,
    encode,
)
from headgate.wire.handshake import GatewayHandshake, welcome
from headgate.wire.session import Credit

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Rig


class Peerless:
    """A transport whose socket is not connected any more."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def get_extra_info(self, name: str) -> Any:
        return None if name == "peername" else self._transport.get_extra_info(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


ASYNC_HOLD = """
    import asyncio
    async def handleMessage(payload):
        system.util.globals["running"].put(payload)
        while not system.util.globals["go"].is_set():
            await asyncio.sleep(0.002)
        return payload
    """


IN_ORDER = """
    import headgate
    @headgate.handler(threading="Dedicated")
    def handleMessage(payload):
        return payload
    """


class Stage:
    """A gateway of the test's own making: it logs clients in, then does what it is told."""

    def __init__(self, folder: Path, act: Callable[[ServerConnection, int], None]) -> None:
        self.sessions = 0
        self._act = act
        self._token = os.urandom(32)
        self._server = serve(self._talk, "127.0.0.1", 0, compression=None)
        self.port = self._server.socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        (folder / "local-token").write_text(self._token.hex())
        (folder / "local-token").chmod(0o600)
        publish_port(self.port, folder)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _talk(self, peer: ServerConnection) -> None:
        handshake = GatewayHandshake(
            token=self._token, address=f"127.0.0.1:{self.port}", nonce=os.urandom(32)
        )
        answer = handshake.receive(peer.recv())
        assert isinstance(answer, bytes)
        peer.send(answer)
        assert isinstance(handshake.receive(peer.recv()), Hello)
        self.sessions += 1
        message, _ = welcome(
            time.monotonic(),
            session=f"{self.sessions:020x}",
            gateway="stage",
            user="",
            credit=Credit(),
            max_message=1 << 20,
        )
        peer.send(message)
        self._act(peer, self.sessions)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


def send(peer: ServerConnection, *frames: Any) -> None:
    peer.send(encode(Batch(time.monotonic() * 1000, list(frames))))


def calls(peer: ServerConnection) -> list[Any]:
    """Wait for a message, and return the calls in it."""
    return [frame for frame in decode_batch(peer.recv()).frames if isinstance(frame, Call)]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Give a function that sets up a gateway of the test's own making."""
    stages = []

    def make(act: Callable[[ServerConnection, int], None]) -> Stage:
        stages.append(Stage(tmp_path, act))
        return stages[-1]

    yield make
    for made in stages:
        made.close()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients connect again quickly."""
    monkeypatch.setattr("headgate.client.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("headgate.client.LONGEST_PAUSE", 0.1)


class TestCallbacks:
    def test_they_run_on_one_thread_in_the_order_of_ending(self, rig: Rig) -> None:
        """Under `with`, callbacks run on one callback thread, which is not the network's."""
        hub = rig.gateway({"ACME/echo": IN_ORDER})
        client, seen = rig.client(hub), []

        def note(value: Any) -> None:
            seen.append((value, threading.current_thread().name))

        handles = [client.request("ACME", "echo", n, on_success=note) for n in range(200)]
        handles += [client.request("ACME", "none", on_error=note) for _ in range(3)]
        rig.until(lambda: len(seen) == 203)
        assert {name for _, name in seen} == {"headgate-callbacks"}
        results = [value for value, _ in seen[:200] if isinstance(value, int)]
        assert sorted(results) == results
        assert all(handle.done for handle in handles)

    async def test_under_async_with_they_run_on_the_loop(self, rig: Rig) -> None:
        """In asyncio code the callbacks run on the loop's own thread, in order."""
        hub = await asyncio.to_thread(rig.gateway, {"ACME/echo": IN_ORDER})
        seen: list[Any] = []
        async with headgate.connect(hub.url) as client:
            for n in range(100):
                client.request(
                    "ACME", "echo", n, on_success=lambda v: seen.append((v, threading.get_ident()))
                )
            while len(seen) < 100:
                await asyncio.sleep(0.001)
        assert [value for value, _ in seen] == list(range(100))
        assert {thread for _, thread in seen} == {threading.get_ident()}

    async def test_a_large_result_does_not_hold_the_loop_up(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is large is decoded beside the loop, for `await`, callbacks and progress alike."""
        script = """
            def handleMessage(payload, context):
                context.progress(["x" * 1000] * 1000)
                return list(range(200_000))
            """
        hub = await asyncio.to_thread(rig.gateway, {"ACME/large": script, "ACME/echo": rig.ECHO})
        decoded: list[tuple[int, int]] = []
        progress, results = asyncio.Queue[Any](), asyncio.Queue[Any]()

        def watched(data: bytes) -> Any:
            decoded.append((len(data), threading.get_ident()))
            return decode(data)

        monkeypatch.setattr(headgate.Client, "decode", staticmethod(watched))
        async with headgate.connect(hub.url) as client:
            assert len(await client.request("ACME", "large")) == 200_000
            client.request(
                "ACME", "large", on_success=results.put_nowait, on_progress=progress.put_nowait
            )
            assert len(await asyncio.wait_for(results.get(), 30)) == 200_000
            assert len(await asyncio.wait_for(progress.get(), 30)) == 1000
            assert await client.request("ACME", "echo", 1) == 1
        here = threading.get_ident()
        assert [thread == here for size, thread in decoded] == [size < 1000 for size, _ in decoded]
        assert len(decoded) == 4

    async def test_a_request_of_another_thread_comes_back_to_the_loop(self, rig: Rig) -> None:
        """Any thread may use an asyncio client; the callbacks still run on its loop."""
        hub = await asyncio.to_thread(rig.gateway, {"ACME/echo": rig.ECHO})
        threads: list[int] = []
        async with headgate.connect(hub.url) as client:
            value = await asyncio.to_thread(
                lambda: client.request(
                    "ACME", "echo", 5, on_success=lambda v: threads.append(threading.get_ident())
                ).get()
            )
            assert value == 5
            while not threads:
                await asyncio.sleep(0.001)
        assert threads == [threading.get_ident()]

    async def test_a_handle_is_awaited_on_any_loop(self, rig: Rig) -> None:
        """A request of a threaded client can be awaited, and one of this loop in another."""
        hub = await asyncio.to_thread(rig.gateway, {"ACME/echo": rig.ECHO})
        threaded = await asyncio.to_thread(rig.client, hub)
        assert await threaded.request("ACME", "echo", 1) == 1
        async with headgate.connect(hub.url) as client:

            async def elsewhere() -> Any:
                return await client.request("ACME", "echo", 2)

            assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == 2

    @pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
    def test_one_that_raises_is_logged_and_hurts_nothing(
        self, rig: Rig, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
    ) -> None:
        """Whatever a callback raises, the next callbacks run."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client, seen = rig.client(hub), []

        def bad(value: Any) -> None:
            raise kind("in a callback")

        client.request("ACME", "echo", 1, on_success=bad).get()
        client.request("ACME", "echo", 2, on_success=seen.append).get()
        rig.until(lambda: seen == [2])
        assert "in a callback" in caplog.text

    def test_a_callback_may_block_on_another_request(self, rig: Rig) -> None:
        """The network goes on while a callback waits."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client, seen = rig.client(hub), []
        client.request(
            "ACME",
            "echo",
            1,
            on_success=lambda v: seen.append(client.request("ACME", "echo").get()),
        )
        rig.until(lambda: seen == [{}])

    def test_callbacks_that_are_due_run_before_close_returns(self, rig: Rig) -> None:
        """After close() nothing is called any more, and everything that was due was called."""
        hub = rig.gateway({"ACME/hold": ASYNC_HOLD})
        client, ends = headgate.connect(hub.url), []
        for n in range(50):
            client.request("ACME", "hold", n, on_error=ends.append)
        client.close()
        assert len(ends) == 50
        assert all(isinstance(error, ConnectionLost) for error in ends)

    def test_a_client_may_be_closed_in_a_callback(self, rig: Rig) -> None:
        """close() on the callback thread does not wait for itself."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client, closed = headgate.connect(hub.url), threading.Event()
        client.request("ACME", "echo", on_success=lambda v: (client.close(), closed.set()))
        assert closed.wait(20)
        assert not client.connected


class TestConnecting:
    def test_it_tells_whom_it_is_connected_to(self, rig: Rig) -> None:
        """gateway, session_id, url and connected describe the connection."""
        hub = rig.gateway({}, "plant")
        client = rig.client(hub)
        assert (client.gateway, client.url, client.connected) == ("plant", hub.url, True)
        assert len(client.session_id) == 20

    def test_nothing_there_is_an_error_at_once(self) -> None:
        """connect() raises where no gateway runs, and says how to start one."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(GatewayUnreachable, match=f"headgate run .*--port {port}"):
            headgate.connect(f"ws://127.0.0.1:{port}")

    def test_a_gateway_that_is_gone_is_unreachable(self, rig: Rig, headgate_home: Path) -> None:
        """A port with a token, but nobody listening, is GatewayUnreachable too."""
        hub = rig.gateway({})
        pointer = headgate_home / "ports" / str(hub.port)
        text = pointer.read_text()
        hub.stop()
        assert not pointer.exists()
        pointer.write_text(text)
        with pytest.raises(GatewayUnreachable, match="No gateway answers on ws://127"):
            headgate.connect(hub.url)

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:1", "127.0.0.1:1", "ws://", "ws://127.0.0.1:x", "ws://h:99999"]
    )
    def test_a_wrong_url_is_named(self, url: str) -> None:
        """ConfigurationError says what to write instead."""
        with pytest.raises(ConfigurationError, match=r"ws://127\.0\.0\.1:8188"):
            headgate.connect(url)

    @pytest.mark.parametrize("host", ["10.1.2.3", "127.0.0.1.example.com", "127.example.com"])
    def test_another_machine_gets_no_local_token(self, host: str) -> None:
        """The owner's token is for this machine's gateway; a name that only looks local is not."""
        with pytest.raises(PermissionDenied, match="is another machine"):
            headgate.connect(f"ws://{host}:8188")

    def test_it_is_refused_on_a_running_loop(self, rig: Rig) -> None:
        """`with connect()` in asyncio code would block the loop: the error names `async with`."""
        hub = rig.gateway({})

        async def wrong() -> None:
            with headgate.connect(hub.url):
                raise AssertionError

        with pytest.raises(RuntimeError, match="async with headgate"):
            asyncio.run(wrong())

    async def test_before_it_is_open_requests_fail_through_their_handles(self, rig: Rig) -> None:
        """In asyncio code connect() only makes the client; it is not open before `async with`."""
        hub = await asyncio.to_thread(rig.gateway, {"ACME/echo": rig.ECHO})
        client = headgate.connect(hub.url)
        errors: list[Any] = []
        handle = client.request("ACME", "echo", on_error=errors.append)
        error = handle.error()
        assert isinstance(error, GatewayUnreachable)
        assert error.started is False
        assert "async with" in str(error)
        async with client:
            assert await client.request("ACME", "echo", 1) == 1


class TestClosed:
    def test_a_closed_client_refuses_at_once(self, rig: Rig) -> None:
        """After close() every request ends with GatewayUnreachable, started False."""
        client = headgate.connect(rig.gateway({"ACME/echo": rig.ECHO}).url, connect_wait=10)
        client.close()
        client.close()
        for handle in (client.request("ACME", "echo"), client.message("ACME", "echo")):
            error = handle.getError()
            assert isinstance(error, GatewayUnreachable)
            assert error.started is False
            assert "closed" in str(error)

    def test_close_ends_everything_in_flight(self, rig: Rig) -> None:
        """Waiting threads are woken with ConnectionLost; tables of both ends are empty."""
        hub = rig.gateway({"ACME/hold": ASYNC_HOLD})
        client = headgate.connect(hub.url)
        handles = [client.request("ACME", "hold", n) for n in range(100)]
        hub.globals["running"].get(timeout=20)
        errors: list[Any] = []
        waiting = [
            threading.Thread(target=lambda h=handle: errors.append(h.getError()))
            for handle in handles[:10]
        ]
        for thread in waiting:
            thread.start()
        client.close()
        for thread in waiting:
            thread.join(20)
        assert len(errors) == 10
        assert all(isinstance(handle.getError(), ConnectionLost) for handle in handles)
        rig.settle(client)
        rig.settle(hub)
        assert hub.stats()["sessions"] == 0

    async def test_leaving_async_with_ends_everything_in_flight(self, rig: Rig) -> None:
        """The same in asyncio code, from whichever task awaits."""
        hub = await asyncio.to_thread(rig.gateway, {"ACME/hold": ASYNC_HOLD})
        async with headgate.connect(hub.url) as client:
            handles = [client.request("ACME", "hold", n) for n in range(50)]
            tasks = [asyncio.ensure_future(handle) for handle in handles]
            await asyncio.to_thread(hub.globals["running"].get, timeout=20)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, ConnectionLost) for result in results)

    def test_closing_while_many_threads_ask_leaves_no_request_open(self, rig: Rig) -> None:
        """Whatever moment a close comes at, each request ends."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client, handles = headgate.connect(hub.url), []
        asked = threading.Semaphore(0)

        def ask() -> None:
            for n in range(400):
                handles.append(client.request("ACME", "echo", n))
                asked.release()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            asked.acquire()
        client.close()
        for thread in threads:
            thread.join()
        rig.until(lambda: all(handle.done for handle in handles))
        assert len(handles) == 1600

    def test_close_on_its_own_loop_does_not_wait_for_itself(self, rig: Rig) -> None:
        """Where a collection of garbage closes a client on the client's own thread, it closes."""
        hub = rig.gateway({"ACME/hold": ASYNC_HOLD})
        client = headgate.connect(hub.url)
        handle = client.request("ACME", "hold", 1)
        hub.globals["running"].get(timeout=20)
        loop, thread = client._loop, client._loop_thread
        assert loop is not None
        assert thread is not None
        loop.call_soon_threadsafe(client.close)
        rig.until(loop.is_closed)
        assert isinstance(handle.error(), ConnectionLost)
        error = client.request("ACME", "hold", timeout=1).getError()
        assert isinstance(error, GatewayUnreachable)
        assert "closed" in str(error)
        client.close()
        rig.until(lambda: hub.stats()["sessions"] == 0)

    def test_a_request_that_comes_too_late_for_the_last_turn_ends(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thread that found the client open and posts after its close gets its error."""
        client = headgate.connect(rig.gateway({"ACME/echo": rig.ECHO}).url)
        mailbox = client._mailbox
        assert mailbox is not None
        client.close()
        # As a wake-up leaves them that the loop accepted and never came to.
        mailbox._waking = True
        monkeypatch.setattr(client, "_closed_for", "")
        handle = client.request("ACME", "echo")
        assert isinstance(handle.error(), GatewayUnreachable)

    def test_stopping_the_gateway_while_its_process_asks_leaves_no_request_open(
        self, rig: Rig
    ) -> None:
        """The same for requests in the gateway's own process."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        scope, handles = hub.scope(""), []
        asked = threading.Semaphore(0)

        def ask() -> None:
            for n in range(400):
                handles.append(scope.request("ACME", "echo", n))
                asked.release()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            asked.acquire()
        hub.stop()
        for thread in threads:
            thread.join()
        rig.until(lambda: all(handle.done for handle in handles))
        errors = {type(handle.getError()) for handle in handles}
        assert errors <= {type(None), GatewayUnreachable, ConnectionLost}

    async def test_cancelling_the_awaiting_task_cancels_the_request(self, rig: Rig) -> None:
        """The gateway is told; asyncio.shield keeps a request."""
        hub = await asyncio.to_thread(rig.gateway, {"ACME/hold": ASYNC_HOLD})
        async with headgate.connect(hub.url) as client:
            handle, kept = client.request("ACME", "hold", 1), client.request("ACME", "hold", 2)
            tasks = [asyncio.ensure_future(h) for h in (handle, asyncio.shield(kept))]
            for _ in tasks:
                await asyncio.to_thread(hub.globals["running"].get, timeout=20)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await asyncio.to_thread(handle.wait_fate, 5) == "stopped"
            assert not kept.done
            hub.globals["go"].set()
            assert await kept == 2


@pytest.mark.usefixtures("fast")
class TestReconnecting:
    def restart(self, rig: Rig, hub: headgate.Gateway) -> headgate.Gateway:
        return rig.gateway({}, port=hub.port)

    def test_requests_in_flight_end_and_the_client_comes_back(self, rig: Rig) -> None:
        """When the gateway stops, requests end; when it is back, the client is, too."""
        hub = rig.gateway({"ACME/hold": ASYNC_HOLD, "ACME/echo": rig.ECHO})
        client = rig.client(hub)
        before = client.session_id
        handle = client.request("ACME", "hold", 1)
        hub.globals["running"].get(timeout=20)
        hub.stop(0.05)
        assert isinstance(handle.getError(), ConnectionLost)
        rig.until(lambda: not client.connected)
        error = client.request("ACME", "echo").getError()
        assert isinstance(error, GatewayUnreachable)
        assert error.started is False
        assert (client.gateway, client.session_id) == ("", "")
        self.restart(rig, hub)
        rig.until(lambda: client.connected)
        assert client.request("ACME", "echo", 2).get() == 2
        assert client.session_id != before

    @pytest.mark.parametrize(
        ("place", "kind"),
        [
            ("headgate.channel.local.token_of_port", OSError),
            ("headgate.channel.local.token_of_port", UnicodeError),
            ("headgate.client.open_channel", LookupError),
        ],
    )
    def test_no_error_keeps_it_from_trying_again(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch, place: str, kind: type[Exception]
    ) -> None:
        """Whatever a try to connect again fails with, the next one follows."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client, tries = rig.client(hub), []

        def fail(*args: Any, **options: Any) -> None:
            tries.append(args)
            raise kind("not now")

        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            hub.stop()
            rig.until(lambda: len(tries) >= 3)
        self.restart(rig, hub)
        rig.until(lambda: client.connected)
        assert client.request("ACME", "echo", 1).get() == 1

    def test_a_silent_listener_does_not_end_the_tries(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A try that gets no answer to its login is given up after a time, and the next follows."""
        monkeypatch.setattr("headgate.channel.client.HANDSHAKE_SECONDS", 0.05)
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client, port = rig.client(hub), hub.port
        hub.stop()
        publish_port(port, hub.data)  # as after a kill
        with socket.create_server(("127.0.0.1", port)) as silent:
            silent.settimeout(10)
            accepted = [silent.accept()[0] for _ in range(2)]
        for connection in accepted:
            connection.close()
        monkeypatch.undo()
        self.restart(rig, hub)
        rig.until(lambda: client.connected)
        assert client.request("ACME", "echo", 1).get() == 1

    def test_a_silent_listener_is_told_as_such(
        self, rig: Rig, headgate_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first connection to something that never answers fails with GatewayUnreachable."""
        monkeypatch.setattr("headgate.channel.client.HANDSHAKE_SECONDS", 0.05)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            read_or_make_token(headgate_home)
            publish_port(port, headgate_home)
            with pytest.raises(GatewayUnreachable, match="no answer within"):
                headgate.connect(f"ws://127.0.0.1:{port}")

    def test_a_connection_that_breaks_as_it_is_made_is_tried_again(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A socket that has lost its peer already is a failed try like any other."""
        hub, lost = rig.gateway({"ACME/echo": rig.ECHO}), []
        made = ClientChannel.connection_made

        def without_peer(channel: ClientChannel, transport: asyncio.Transport) -> None:
            lost.append(channel)
            monkeypatch.setattr(ClientChannel, "connection_made", made)
            made(channel, Peerless(transport))  # type: ignore[arg-type]

        client = rig.client(hub)
        monkeypatch.setattr(ClientChannel, "connection_made", without_peer)
        session = client.session_id
        hub.call(lambda: [s.close("away") for s in hub._sessions.on_this_node()])
        rig.until(lambda: client.session_id not in ("", session))
        assert len(lost) == 1
        assert client.request("ACME", "echo", 1).get() == 1

    def test_with_connect_wait_requests_wait_in_order(self, rig: Rig) -> None:
        """They are held while there is no connection, and sent in the order they were made."""
        hub = rig.gateway(
            {
                "ACME/note": """
                import headgate
                @headgate.handler(threading="Dedicated")
                def handleMessage(payload):
                    system.util.globals["running"].put(payload)
                """
            }
        )
        client = rig.client(hub, connect_wait=20)
        hub.stop()
        rig.until(lambda: not client.connected)
        handles = [client.request("ACME", "note", n) for n in range(300)]
        rig.until(lambda: client.stats()["held"] == 300)
        again = self.restart(rig, hub)
        for handle in handles:
            assert handle.getError() is None
        assert [again.globals["running"].get(timeout=20) for _ in range(300)] == list(range(300))

    def test_a_held_request_ends_at_its_own_deadline(self, rig: Rig) -> None:
        """The deadline runs while a request is held, whatever is held before it."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client = rig.client(hub, connect_wait=60)
        hub.stop()
        rig.until(lambda: not client.connected)
        order: list[str] = []
        long = client.request("ACME", "echo", on_error=lambda e: order.append("long"))
        short = client.request(
            "ACME", "echo", timeout=0.1, on_error=lambda e: order.append("short")
        )
        rig.until(lambda: order == ["short"])
        error = short.getError()
        assert isinstance(error, RequestTimeout)
        assert error.started is False
        assert not long.done
        long.cancel()

    def test_connect_wait_has_an_end(self, rig: Rig) -> None:
        """After connect_wait seconds a held request is GatewayUnreachable, started False."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client = rig.client(hub, connect_wait=0.1)
        hub.stop()
        rig.until(lambda: not client.connected)
        error = client.request("ACME", "echo").getError()
        assert isinstance(error, GatewayUnreachable)
        assert error.started is False

    def test_at_most_a_thousand_are_held(self, rig: Rig) -> None:
        """One more is Overloaded at once; one that is cancelled makes room."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client = rig.client(hub, connect_wait=20)
        hub.stop()
        rig.until(lambda: not client.connected)
        handles = [client.request("ACME", "echo") for _ in range(1000)]
        error = client.request("ACME", "echo").getError()
        assert isinstance(error, Overloaded)
        assert error.started is False
        for handle in handles:
            handle.cancel()
        rig.settle(client)
        again = client.request("ACME", "echo", 1)
        self.restart(rig, hub)
        assert again.get() == 1

    def test_a_cancelled_held_request_is_never_sent(self, rig: Rig) -> None:
        """Cancel takes a held request back: it did not start."""
        hub = rig.gateway(
            {"ACME/note": "def handleMessage(p): system.util.globals['running'].put(p)"}
        )
        client = rig.client(hub, connect_wait=20)
        hub.stop()
        rig.until(lambda: not client.connected)
        cancelled, kept = client.request("ACME", "note", 1), client.request("ACME", "note", 2)
        cancelled.cancel()
        assert cancelled.started is False
        assert cancelled.fate == "not started"
        again = self.restart(rig, hub)
        kept.get()
        assert again.globals["running"].get(timeout=20) == 2
        assert again.globals["running"].empty()

    def test_close_ends_what_is_held(self, rig: Rig) -> None:
        """A client that is closed while it waits for a connection leaves nothing open."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client = headgate.connect(hub.url, connect_wait=20)
        hub.stop()
        rig.until(lambda: not client.connected)
        handles = [client.request("ACME", "echo") for _ in range(20)]
        client.close()
        assert all(isinstance(h.getError(), GatewayUnreachable) for h in handles)

    async def test_an_asyncio_client_that_asks_while_the_gateway_stops(self, rig: Rig) -> None:
        """Whatever moment the good-bye comes at, request() returns and each handle ends."""
        hub = await asyncio.to_thread(rig.gateway, {"ACME/echo": rig.ECHO})
        handles = []
        async with headgate.connect(hub.url) as client:
            stopping = asyncio.ensure_future(asyncio.to_thread(hub.stop, 0.05))
            while client.connected:
                handles += [client.request("ACME", "echo", n) for n in range(20)]
                await asyncio.sleep(0)
            handles += [client.request("ACME", "echo", n) for n in range(20)]
            await stopping
            async with asyncio.timeout(30):
                await asyncio.gather(*handles, return_exceptions=True)
        assert all(handle.done for handle in handles)

    def test_a_threaded_client_that_asks_while_the_gateway_stops(self, rig: Rig) -> None:
        """The same from other threads than the channel's."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client, handles = rig.client(hub), []
        stopping = threading.Thread(target=hub.stop, args=(0.05,))
        stopping.start()
        while client.connected:
            handles += [client.request("ACME", "echo", n) for n in range(5)]
        stopping.join()
        rig.until(lambda: all(handle.done for handle in handles), 5)

    def test_another_gateway_on_the_port_is_final(self, rig: Rig, headgate_home: Path) -> None:
        """What does not know the token ends the client for good, and the error says why."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client = rig.client(hub)
        token = (hub.data / "local-token").read_text()
        hub.stop()
        other = rig.gateway({}, "other", port=hub.port)
        stolen = rig.folder / "stolen-token"
        stolen.write_text(token)
        stolen.chmod(0o600)
        (headgate_home / "ports" / str(other.port)).write_text(str(stolen))
        rig.until(lambda: "token" in str(client.request("ACME", "echo").getError()))
        error = client.request("ACME", "echo").getError()
        assert isinstance(error, GatewayUnreachable)
        assert "does not know the owner's local token" in str(error)
        assert not client.connected


class TestLimits:
    def test_the_credit_of_a_session_in_asyncio_code(self, rig: Rig) -> None:
        """The 4,097th request is Overloaded at once, on the loop's own thread too."""

        async def main() -> None:
            async with headgate.connect(hub.url) as client:
                handles = [client.request("ACME", "hold", n) for n in range(4096)]
                error = client.request("ACME", "hold").error()
                assert isinstance(error, Overloaded)
                assert error.started is False
                hub.globals["go"].set()
                assert await asyncio.gather(*handles) == list(range(4096))
                assert isinstance(client.request("ACME", "none").error, object)
                with pytest.raises(HandlerNotFound):
                    await client.request("ACME", "none")
                assert not any(client.stats().values())

        hub = rig.gateway({"ACME/hold": ASYNC_HOLD})
        asyncio.run(main())

    def test_several_clients_are_told_apart(self, rig: Rig) -> None:
        """Each session has its own requests, its own id and its own order."""
        hub = rig.gateway(
            {"ACME/who": "def handleMessage(p, context): return context.caller.session"}
        )
        clients = [rig.client(hub) for _ in range(10)]
        sessions = [client.request("ACME", "who").get() for client in clients]
        assert sessions == [client.session_id for client in clients]
        assert len(set(sessions)) == 10
        assert hub.stats()["sessions"] == 10


@pytest.mark.usefixtures("fast")
class TestStrangeGateways:
    """Whatever the other side does, every request ends, and the client comes back."""

    def test_one_that_closes_right_after_the_welcome(
        self, rig: Rig, stage: Callable[..., Stage]
    ) -> None:
        """A connection that ends with the login is a lost one: the client connects again."""

        def act(peer: ServerConnection, session: int) -> None:
            if session > 3:
                for call in calls(peer):
                    send(peer, Result(call.id, b"\x07"))
                peer.recv()

        with headgate.connect(stage(act).url) as client:
            rig.until(lambda: client.session_id.endswith("4"))
            assert client.request("ACME", "test", timeout=5).get() == 7

    def test_one_that_says_goodbye_and_stays(self, rig: Rig, stage: Callable[..., Stage]) -> None:
        """After a Bye nothing hangs: what was in flight ends, and a new connection is made."""

        def act(peer: ServerConnection, session: int) -> None:
            if session == 1:
                calls(peer)
                send(peer, Bye("going"))
                with pytest.raises(ConnectionClosed):
                    peer.recv()
            else:
                for call in calls(peer):
                    send(peer, Result(call.id, b"\x07"))
                peer.recv()

        with headgate.connect(stage(act).url) as client:
            handle = client.request("ACME", "test", timeout=20)
            error = handle.getError()
            assert isinstance(error, ConnectionLost)
            assert error.started is None
            rig.until(lambda: client.session_id.endswith("2"))
            assert client.request("ACME", "test", timeout=5).get() == 7

    def test_one_that_sends_garbage(self, rig: Rig, stage: Callable[..., Stage]) -> None:
        """A message that is no batch of frames ends the connection, not the client."""

        def act(peer: ServerConnection, session: int) -> None:
            found = calls(peer)
            if session == 1:
                send(peer, Started([call.id for call in found]))
                peer.send(b"garbage")
            else:
                send(peer, *[Result(call.id, b"\x07") for call in found])
            try:
                peer.recv()
            except ConnectionClosed:
                pass

        with headgate.connect(stage(act).url) as client:
            error = client.request("ACME", "test", timeout=20).getError()
            assert isinstance(error, ConnectionLost)
            assert error.started is True
            rig.until(lambda: client.session_id.endswith("2"))
            assert client.request("ACME", "test", timeout=5).get() == 7

    def test_one_whose_result_cannot_be_read(self, stage: Callable[..., Stage]) -> None:
        """A result that is no value ends its request with PayloadError, and no other."""

        def act(peer: ServerConnection, session: int) -> None:
            found = calls(peer)
            while len(found) < 2:
                found += calls(peer)
            send(peer, Result(found[0].id, b"\xc1"), Result(found[1].id, b"\x07"))
            try:
                peer.recv()
            except ConnectionClosed:
                pass

        with headgate.connect(stage(act).url) as client:
            bad, good = (client.request("ACME", "test", timeout=5) for _ in range(2))
            error = bad.getError()
            assert isinstance(error, PayloadError)
            assert error.started is True
            assert good.get() == 7

    def test_one_that_answers_what_was_never_asked(self, stage: Callable[..., Stage]) -> None:
        """Answers to unknown or finished requests are dropped."""

        def act(peer: ServerConnection, session: int) -> None:
            (call,) = calls(peer)
            one, again = Result(call.id, b"\x07"), Result(call.id, b"\x08")
            send(peer, Result(99, b"\x01"), one, again, Started([1, 99]), FateFrame(5, "nonsense"))
            for call in calls(peer):
                send(peer, Result(call.id, b"\x09"))
            try:
                peer.recv()
            except ConnectionClosed:
                pass

        with headgate.connect(stage(act).url) as client:
            assert client.request("ACME", "test", timeout=5).get() == 7
            assert client.request("ACME", "test", timeout=5).get() == 9
            assert not any(client.stats().values())

    def test_one_that_never_answers(self, stage: Callable[..., Stage]) -> None:
        """The client's own clock ends the request, and nobody knows whether it started."""

        def act(peer: ServerConnection, session: int) -> None:
            try:
                while True:
                    peer.recv()
            except ConnectionClosed:
                pass

        with headgate.connect(stage(act).url) as client:
            error = client.request("ACME", "test", timeout=0.7).getError()
            assert isinstance(error, RequestTimeout)
            assert error.started is None
