"""The gateway's port: who may speak there, and what is said to everybody else."""

from __future__ import annotations

import asyncio
import http.client
import math
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode
from websockets.protocol import State as WebSocketState
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

import headgate
from headgate.channel import protocol
from headgate.channel.local import is_loopback
from headgate.errors import ConfigurationError, GatewayUnreachable, PermissionDenied
from headgate.gateway.rows import Rows
from headgate.wire.frames import (
    Batch,
    Call,
    Cancel,
    Cast,
    Fault,
    Ping,
    Pong,
    Proof,
    Refuse,
    Result,
    decode_batch,
    decode_greeting,
    encode,
)
from headgate.wire.handshake import MAX_GREETING, Claim, ClientHandshake
from headgate.wire.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Records, Rig


@pytest.fixture
def hub(rig: Rig, records: Records) -> Iterator[headgate.Gateway]:
    """A gateway; whatever was done to its port, it serves at the end."""
    note = "def handleMessage(payload): system.util.globals['noted'] = payload"
    scripts = {"ACME/echo": rig.ECHO, "ACME/hold": rig.HOLD, "ACME/note": note}
    hub = rig.gateway(scripts, recorder=records)
    watching = rig.client(hub)
    session = watching.session_id
    yield hub
    assert watching.request("ACME", "echo", 1, timeout=5).get() == 1
    assert watching.session_id == session
    rig.until(lambda: hub.stats()["sessions"] == 1)


def talk(hub: headgate.Gateway, data: bytes) -> bytes:
    """Send bytes to the port, and return all that comes until it closes."""
    with socket.create_connection(("127.0.0.1", hub.port), timeout=20) as peer:
        peer.sendall(data)
        found = b""
        try:
            while chunk := peer.recv(65536):
                found += chunk
        except ConnectionResetError:
            pass
        return found


def get(hub: headgate.Gateway, path: str, **headers: str) -> tuple[int, str]:
    """GET a path over HTTP."""
    with closing(http.client.HTTPConnection("127.0.0.1", hub.port, timeout=20)) as peer:
        peer.request("GET", path, headers=headers)
        answer = peer.getresponse()
        return answer.status, answer.read().decode()


def open_socket(hub: headgate.Gateway, **options: Any) -> ClientConnection:
    """Open a WebSocket at the channel, without the login."""
    return connect(f"ws://127.0.0.1:{hub.port}/channel", compression=None, **options)


@contextmanager
def logged_in(hub: headgate.Gateway) -> Iterator[ClientConnection]:
    """Log in by hand."""
    with open_socket(hub) as peer:
        handshake = ClientHandshake(
            Claim.local(hub.token), address=f"127.0.0.1:{hub.port}", nonce=os.urandom(32)
        )
        peer.send(handshake.hello())
        answer = handshake.receive(peer.recv(), time.monotonic())
        assert isinstance(answer, bytes)
        peer.send(answer)
        assert isinstance(handshake.receive(peer.recv(), time.monotonic()), Session)
        yield peer


def batch(*frames: Any, sent: float | None = None) -> bytes:
    return encode(Batch(time.monotonic() * 1000 if sent is None else sent, list(frames)))


def in_a_minute() -> int:
    return int((time.monotonic() + 60) * 1000)


def call(number: int, handler: str = "echo", payload: bytes = b"\x01", **more: Any) -> Call:
    return Call(number, "ACME", handler, payload, in_a_minute(), **more)


def until_closed(peer: ClientConnection) -> ConnectionClosed:
    """Read on until the gateway closes the connection, and return how it did."""
    try:
        while True:
            peer.recv(timeout=20)
    except ConnectionClosed as closed:
        return closed


def answers(peer: ClientConnection, count: int) -> list[Any]:
    """Wait for answers, whatever else comes."""
    found: list[Any] = []
    while len(found) < count:
        frames = decode_batch(peer.recv(timeout=20)).frames
        found += [frame for frame in frames if isinstance(frame, Result | Fault)]
    return found


class TestPages:
    def test_the_first_page_says_what_this_is(self, hub: headgate.Gateway) -> None:
        """GET / names the gateway and how to connect."""
        status, text = get(hub, "/")
        assert status == 200
        assert "gateway 'hub'" in text
        assert f"headgate.connect('{hub.url}')" in text

    def test_health(self, hub: headgate.Gateway) -> None:
        """GET /health is 200 while the gateway serves."""
        assert get(hub, "/health") == (200, "ok\n")
        assert get(hub, "/health?full=1")[0] == 200

    def test_anything_else_is_not_found(self, hub: headgate.Gateway) -> None:
        """Another path is 404, and names the channel."""
        status, text = get(hub, "/admin")
        assert status == 404
        assert "/channel" in text

    def test_the_channel_without_a_websocket(self, hub: headgate.Gateway) -> None:
        """A browser at /channel gets an answer, and no session."""
        status, _ = get(hub, "/channel")
        assert status == 426

    @pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.5.5.5", "[::1]"])
    def test_the_names_of_this_machine_are_welcome(self, hub: headgate.Gateway, name: str) -> None:
        """The Host of a request may be any name of loopback, with or without the port."""
        assert get(hub, "/health", Host=f"{name}:{hub.port}")[0] == 200
        assert get(hub, "/health", Host=name)[0] == 200

    @pytest.mark.parametrize(
        "name",
        [
            "example.com",
            "127.0.0.1.example.com",
            "127.example.com",
            "localhost.example.com",
            "10.1.2.3",
            "0.0.0.0",
            "",
        ],
    )
    @pytest.mark.parametrize("path", ["/", "/health", "/channel"])
    def test_other_hosts_are_refused(
        self, hub: headgate.Gateway, records: Records, name: str, path: str
    ) -> None:
        """A page that made its own name lead here gets 403, and it is recorded."""
        status, text = get(hub, path, Host=f"{name}:{hub.port}" if name else "")
        assert status == 403
        assert "use localhost or 127.0.0.1" in text
        assert records.told("refused", "Host")

    @pytest.mark.parametrize(
        "origin",
        ["https://example.com", "null", "http://127.0.0.1", "http://127.0.0.1:1", "file://"],
    )
    def test_pages_of_others_are_refused(
        self, hub: headgate.Gateway, records: Records, origin: str
    ) -> None:
        """A browser's request from another page is 403, also at the channel."""
        assert get(hub, "/", Origin=origin)[0] == 403
        with pytest.raises(InvalidStatus) as caught, open_socket(hub, origin=origin):
            pass
        assert caught.value.response.status_code == 403
        assert records.told("refused", origin)

    @pytest.mark.parametrize(
        "lines",
        ["", "Host: localhost\r\nHost: evil\r\n", "Host: localhost\r\nOrigin: a\r\nOrigin: b\r\n"],
    )
    @pytest.mark.parametrize("path", ["/", "/channel"])
    def test_a_head_with_several_names_is_refused(
        self, hub: headgate.Gateway, records: Records, lines: str, path: str
    ) -> None:
        """Not exactly one Host, or more than one Origin, is 403, and it is recorded."""
        answer = talk(hub, f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert records.told("refused", "send one Host")

    def test_its_own_page_is_welcome(self, hub: headgate.Gateway) -> None:
        """A page that the gateway itself served may call it."""
        origin = f"http://127.0.0.1:{hub.port}"
        assert get(hub, "/health", Origin=origin)[0] == 200
        with open_socket(hub, origin=origin):
            pass


class TestGarbage:
    @pytest.mark.parametrize(
        "data",
        [
            b"garbage\r\n\r\n",
            b"\x00\xff\xfe\r\n\r\n",
            b"EHLO example.com\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/0.9\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
            b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        ],
    )
    def test_it_gets_an_explanation(
        self, hub: headgate.Gateway, records: Records, data: bytes
    ) -> None:
        """Bytes that are no request are answered with a 400 that says what listens here."""
        answer = talk(hub, data)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"This is a Headgate gateway" in answer
        assert records.told("refused", "not an HTTP request")

    def test_a_flood_does_not_fill_the_audit(
        self, hub: headgate.Gateway, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Refusals beyond a rate are counted, and have no rows of their own."""
        few = Rows("refusals", hub._reception.limiter.excess, rate=1e-6, burst=3)
        monkeypatch.setattr(hub._reception, "_refusals", few)
        for _ in range(10):
            talk(hub, b"garbage\r\n\r\n")
        assert sum(record.event == "refused" for record in records.records) == 3
        assert hub.counters()["refusals"] == 7

    def test_random_bytes_never_disturb(self, hub: headgate.Gateway) -> None:
        """Whatever comes, the connection ends and the gateway goes on."""
        for size in (1, 7, 100, 5000, 20_000):
            talk(hub, os.urandom(size) + b"\r\n\r\n")

    def test_a_head_that_is_too_large_is_cut(self, hub: headgate.Gateway, records: Records) -> None:
        """More than 16 KiB of head are not read."""
        head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Long: " + b"x" * 1000 + b"\r\n"
        answer = talk(
            hub, head + b"".join(b"X-%d: " % n + b"y" * 1000 + b"\r\n" for n in range(20))
        )
        assert b"200" not in answer
        assert records.told("refused", "too large")

    def test_a_slow_head_is_cut(
        self, hub: headgate.Gateway, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A head that does not come in time ends the connection."""
        monkeypatch.setattr("headgate.channel.server.HEAD_SECONDS", 0.05)
        for data in (b"", b"GET / HT", b"\x16\x03\x01"):
            talk(hub, data)
        assert records.told("refused", "head of the request did not come")

    def test_many_that_wait_disturb_nobody(self, hub: headgate.Gateway) -> None:
        """A hundred connections that say nothing do not keep a client from its answers."""
        waiting = [socket.create_connection(("127.0.0.1", hub.port)) for _ in range(100)]
        with headgate.connect(hub.url) as client:
            assert client.request("ACME", "echo", 1, timeout=5).get() == 1
        for peer in waiting:
            peer.close()


class TestLogin:
    def test_a_wrong_token_is_refused(
        self, rig: Rig, hub: headgate.Gateway, records: Records, headgate_home: Path
    ) -> None:
        """A client that does not know the token notices first, and tells nothing."""
        other = rig.folder / "local-token"
        other.write_text("00" * 32)
        other.chmod(0o600)
        pointer = headgate_home / "ports" / str(hub.port)
        text = pointer.read_text()
        pointer.write_text(str(other))
        with pytest.raises(PermissionDenied, match="does not know the owner's local token"):
            headgate.connect(hub.url)
        pointer.write_text(text)

    def test_a_forged_proof_is_refused(self, hub: headgate.Gateway, records: Records) -> None:
        """Who cannot prove the token gets a Refuse with its reason, and no session."""
        with open_socket(hub) as peer:
            handshake = ClientHandshake(
                Claim.local(b"?" * 32), address=f"127.0.0.1:{hub.port}", nonce=os.urandom(32)
            )
            peer.send(handshake.hello())
            peer.recv(timeout=20)
            peer.send(encode(Proof(b"?" * 32)))
            refusal = decode_greeting(peer.recv(timeout=20))
            assert isinstance(refusal, Refuse)
            assert refusal.code == "denied"
            with pytest.raises(ConnectionClosed):
                peer.recv(timeout=20)
        assert records.told("refused", "proof")

    def test_there_is_one_try(self, hub: headgate.Gateway) -> None:
        """After a wrong proof even the right one opens no session."""
        with open_socket(hub) as peer:
            handshake = ClientHandshake(
                Claim.local(hub.token), address=f"127.0.0.1:{hub.port}", nonce=os.urandom(32)
            )
            peer.send(handshake.hello())
            answer = handshake.receive(peer.recv(timeout=20), time.monotonic())
            try:
                peer.send(encode(Proof(b"?" * 32)))
                peer.send(answer)
            except ConnectionClosed:
                pass
            until_closed(peer)
        assert hub.stats()["sessions"] == 1

    def test_a_call_before_the_login_is_not_taken(
        self, hub: headgate.Gateway, records: Records
    ) -> None:
        """Before the login nothing but the login is understood."""
        with open_socket(hub) as peer:
            peer.send(batch(call(1)))
            with pytest.raises(ConnectionClosed):
                peer.recv(timeout=20)
        assert records.told("refused", "greeting")

    def test_a_greeting_that_is_too_large(self, hub: headgate.Gateway) -> None:
        """A frame of the login has at most 4 KiB."""
        with open_socket(hub) as peer:
            peer.send(b"x" * (MAX_GREETING + 1))
            with pytest.raises(ConnectionClosed):
                peer.recv(timeout=20)

    def test_another_protocol_version_is_told(self, hub: headgate.Gateway) -> None:
        """A client of another time learns which version is spoken here."""
        with open_socket(hub) as peer:
            hello = msgspec.msgpack.encode([32, [99], [], "local", os.urandom(32)])
            peer.send(hello)
            refusal = decode_greeting(peer.recv(timeout=20))
            assert isinstance(refusal, Refuse)
            assert "version 1" in refusal.message
            assert "[99]" in refusal.message

    def test_a_squatter_on_the_port_learns_nothing(self, rig: Rig, headgate_home: Path) -> None:
        """A program that took the gateway's port is found out, and the client says so."""
        hub = rig.gateway({})
        pointer = headgate_home / "ports" / str(hub.port)
        text = pointer.read_text()
        hub.stop()
        squatter = rig.gateway({}, "squatter", port=hub.port)
        pointer.write_text(text)
        with pytest.raises(PermissionDenied, match=f":{hub.port} does not know"):
            headgate.connect(squatter.url)
        assert squatter.stats()["sessions"] == 0

    def test_something_else_on_the_port(self, rig: Rig, headgate_home: Path) -> None:
        """A program that speaks no WebSocket is no gateway, and is named as such."""
        hub = rig.gateway({})
        pointer = headgate_home / "ports" / str(hub.port)
        text = pointer.read_text()
        hub.stop()
        pointer.write_text(text)
        pointer.chmod(0o600)
        with socket.create_server(("127.0.0.1", hub.port)) as server:

            def answer() -> None:
                peer, _ = server.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(b"220 mail.example.com ESMTP\r\n")
                    peer.recv(65536)

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(GatewayUnreachable, match="is no Headgate gateway"):
                headgate.connect(hub.url)
            thread.join()

    def test_a_token_that_others_can_read_proves_nothing(self, rig: Rig) -> None:
        """A file that is open to others is refused at the start, with the cure."""
        data = rig.folder / "open"
        data.mkdir()
        (data / "local-token").write_text("00" * 32)
        (data / "local-token").chmod(0o644)
        with pytest.raises(ConfigurationError, match="can be read by others"):
            rig.gateway({}, "open", data=data)


class TestBrokenClients:
    def test_a_hand_made_client_is_served(self, hub: headgate.Gateway) -> None:
        """The handshake and the frames are all that a client needs."""
        with logged_in(hub) as peer:
            peer.send(batch(Ping(), call(1), call(2, payload=b"\x02")))
            frames = []
            while len(frames) < 3:
                frames += decode_batch(peer.recv(timeout=20)).frames
            results = {f.id: f.payload for f in frames if isinstance(f, Result)}
            assert results == {1: b"\x01", 2: b"\x02"}
            assert any(isinstance(frame, Pong) for frame in frames)

    @pytest.mark.parametrize(
        "message",
        [
            b"garbage",
            b"",
            b"\xc0",
            msgspec.msgpack.encode([0.0, [[99, 1]]]),
            msgspec.msgpack.encode([0.0, [[1, "one", "ACME", "echo", b"", 0]]]),
            msgspec.msgpack.encode([0.0, [[32, [1], [], "local", b"x" * 32]]]),
            msgspec.msgpack.encode([0.0, [[1, 1, "A", "echo", 5, 0]]]),
            b"\x92\xcb" + b"\x00" * 8 + b"\xdd\xff\xff\xff\xff",
        ],
    )
    def test_a_broken_batch_closes_its_session_alone(
        self, rig: Rig, hub: headgate.Gateway, records: Records, message: bytes
    ) -> None:
        """Its requests are cancelled, it is recorded, and others go on."""
        with logged_in(hub) as peer:
            peer.send(batch(call(1, "hold")))
            hub.globals["running"].get(timeout=20)
            peer.send(message)
            closed = until_closed(peer)
            assert closed.rcvd is not None
            assert closed.rcvd.code == 1002
        rig.until(lambda: hub.stats()["sessions"] == 1)
        assert records.told("logout", "batch")
        assert hub.stats()["open"] == 0

    @pytest.mark.parametrize("numbers", [(1, 1), (2, 1), (0,), (-1,)])
    def test_a_number_that_was_used_closes_the_session(
        self, hub: headgate.Gateway, numbers: tuple[int, ...]
    ) -> None:
        """Numbers of calls go up, from 1."""
        with logged_in(hub) as peer:
            peer.send(batch(*[call(number) for number in numbers]))
            until_closed(peer)

    def test_text_closes_the_session(self, hub: headgate.Gateway) -> None:
        """Frames are binary messages."""
        with logged_in(hub) as peer:
            peer.send("hello")
            with pytest.raises(ConnectionClosed):
                peer.recv(timeout=20)

    @pytest.mark.parametrize("sent", [math.nan, math.inf, -math.inf])
    def test_a_clock_that_shows_no_time_closes_the_session(
        self, hub: headgate.Gateway, sent: float
    ) -> None:
        """The time of a message is a finite number: deadlines are reckoned from it."""
        with logged_in(hub) as peer:
            peer.send(batch(call(1, "hold"), sent=sent))
            with pytest.raises(ConnectionClosed):
                peer.recv(timeout=20)
        assert hub.globals["running"].empty()

    # Sent in the far future, they come after their deadlines: both are over at once.
    @pytest.mark.parametrize(("sent", "held"), [(1e308, 0), (-1e308, 1), (0.0, 1)])
    def test_an_absurd_clock_does_no_harm(
        self, hub: headgate.Gateway, sent: float, held: int
    ) -> None:
        """Whatever time a client claims, its requests have a deadline of a day at most."""
        with logged_in(hub) as peer:
            peer.send(batch(call(1, "hold"), call(2), sent=sent))
            answers(peer, 1)
            invocations = list(hub._requests.on_this_node())
            assert len(invocations) == held
            for invocation in invocations:
                assert invocation.deadline <= time.monotonic() + 86_401

    @pytest.mark.parametrize("deadline", [0, -1, -(2**63), 2**63 - 1, 2**64 - 1])
    def test_an_absurd_deadline_does_no_harm(
        self, rig: Rig, hub: headgate.Gateway, deadline: int
    ) -> None:
        """A deadline that is over ends the call; one that is too far is at most a day away."""
        with logged_in(hub) as peer:
            far = Call(1, "ACME", "echo", b"\x01", deadline)
            peer.send(batch(far, call(2)))
            first, second = sorted(answers(peer, 2), key=lambda frame: frame.id)
            assert isinstance(second, Result)
            if deadline <= 0:
                assert isinstance(first, Fault)
                assert (first.code, first.started) == ("timeout", False)
            else:
                assert isinstance(first, Result)

    def test_a_payload_that_is_no_value(self, hub: headgate.Gateway) -> None:
        """It is the caller's PayloadError; the handler did not run."""
        with logged_in(hub) as peer:
            peer.send(batch(call(1, payload=b"\xc1"), call(2)))
            by_id = {frame.id: frame for frame in answers(peer, 2)}
            assert by_id[1].code == "payload"
            assert by_id[1].started is not True
            assert isinstance(by_id[2], Result)

    def test_too_many_calls_of_one_session(self, rig: Rig, hub: headgate.Gateway) -> None:
        """A client that ignores its credit gets Overloaded for what is beyond it."""
        with logged_in(hub) as peer:
            peer.send(batch(*[call(number, "hold") for number in range(1, 4106)]))
            for fault in answers(peer, 9):
                assert (fault.code, fault.started) == ("overloaded", False)
        hub.globals["go"].set()
        rig.settle(hub)

    def test_cancelling_what_never_was(self, hub: headgate.Gateway) -> None:
        """It is answered, and changes nothing."""
        with logged_in(hub) as peer:
            peer.send(batch(Cancel(7), Cancel(0), call(9)))
            (result,) = answers(peer, 1)
            assert result.id == 9

    def test_a_made_up_chain_is_only_a_chain(self, hub: headgate.Gateway) -> None:
        """Ancestors that a client invents can only get its own call refused."""
        with logged_in(hub) as peer:
            invented = tuple(f"{n:032x}" for n in range(16))
            peer.send(batch(call(1, ancestors=invented), call(2, ancestors=invented[:15])))
            by_id = {frame.id: frame for frame in answers(peer, 2)}
            assert by_id[1].code == "deadlock"
            assert isinstance(by_id[2], Result)

    def test_unknown_extensions_are_ignored(self, hub: headgate.Gateway) -> None:
        """What a later release adds to a frame does no harm."""
        with logged_in(hub) as peer:
            peer.send(batch(call(1, extensions={"later": [1, 2, {"x": None}]})))
            assert isinstance(answers(peer, 1)[0], Result)

    def test_names_that_are_no_unicode_close_the_session(self, hub: headgate.Gateway) -> None:
        """A string of a frame is UTF-8."""
        with logged_in(hub) as peer:
            peer.send(batch(call(1)).replace(b"\xa4ACME", b"\xa4AC\xff\xfe"))
            until_closed(peer)

    def test_a_message_of_a_hand_made_client(self, hub: headgate.Gateway) -> None:
        """A Cast is answered with its report, whatever its scope says."""
        with logged_in(hub) as peer:
            casts = [
                Cast(n, "ACME", "echo", b"\x80", in_a_minute(), scope)
                for n, scope in enumerate(("G", "", "XYZ", "CGS" * 100), 1)
            ]
            peer.send(batch(*casts))
            assert {type(frame) for frame in answers(peer, 4)} == {Result}

    @pytest.mark.parametrize(
        ("extensions", "code"),
        [
            ({"remote": "mars"}, "unreachable"),
            ({"host": "panel-7"}, "client_not_found"),
            ({"remote": "hub", "host": "panel-7"}, "client_not_found"),
            ({"remote": "HUB"}, ""),
            ({"remote": "", "host": ""}, ""),
        ],
    )
    def test_a_message_for_somebody_else_is_not_delivered_here(
        self, rig: Rig, hub: headgate.Gateway, extensions: Any, code: str
    ) -> None:
        """It is refused, and no handler runs; by this gateway's own name it is delivered."""
        with logged_in(hub) as peer:
            frame = Cast(1, "ACME", "note", b"\x01", in_a_minute(), "G", extensions=extensions)
            peer.send(batch(frame, call(2)))
            told = {each.id: each for each in answers(peer, 2)}
            assert getattr(told[1], "code", "") == code
            if code:
                assert told[1].started is False
                assert "ACME/note" in told[1].message
            rig.settle(hub)
            assert ("noted" in hub.globals) is not bool(code)


class Pipe(asyncio.Transport):
    """A transport whose other end takes bytes only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = bytearray()
        self.reading = True
        self.aborted = False

    def write(self, data: Any) -> None:
        self.waiting += data

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The test says when it is full."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


class Bare(protocol.Channel):
    """A channel whose login is done."""

    def __init__(self) -> None:
        core = ClientProtocol(parse_uri("ws://127.0.0.1/channel"), state=WebSocketState.OPEN)
        super().__init__(core)
        self.pipe = Pipe()
        self.connection_made(self.pipe)
        self._open(Session(now=time.monotonic()))

    def _head_received(self, head: Any) -> None:
        raise AssertionError

    def _greeting_received(self, message: bytes) -> None:
        raise AssertionError


WEBSOCKET_PING = WebSocketFrame(Opcode.PING, b"x" * 125).serialize(mask=False)


class TestPeersThatDoNotRead:
    """Without a socket: the test is the event loop's transport."""

    def test_nothing_is_written_while_the_buffer_is_full(self) -> None:
        """WebSocket pings are not answered then, nor read on; afterwards they are."""

        async def scenario() -> None:
            channel = Bare()
            channel.pause_writing()
            channel.data_received(WEBSOCKET_PING)
            assert channel.pipe.waiting == b""
            assert not channel.pipe.reading
            channel.resume_writing()
            assert len(channel.pipe.waiting) > 125
            assert channel.pipe.reading
            channel.connection_lost(None)

        asyncio.run(scenario())

    def test_a_crowded_session_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who asks without taking answers is not heard until it has, and is not taken for dead."""
        monkeypatch.setattr("headgate.wire.session.MAX_ANSWERS", 4)

        async def scenario() -> None:
            channel = Bare()
            channel.pause_writing()
            for count in range(1, 4):
                channel._message_received(batch(Ping()))
                assert channel.pipe.reading is (count < 3)
            session = channel.open_session
            session.excuse_silence(time.monotonic() - 60)
            channel._tick()
            assert not session.is_dead
            assert session.wakeup > time.monotonic()
            channel.resume_writing()
            assert channel.pipe.reading
            channel.connection_lost(None)

        asyncio.run(scenario())

    def test_only_bytes_that_were_taken_count(self) -> None:
        """A peer that took no byte is cut, however the buffer's size has changed since."""

        async def scenario() -> None:
            channel = Bare()
            channel.data_received(WEBSOCKET_PING)
            channel.pause_writing()

            def look() -> None:
                timer = channel._stall_timer
                assert timer is not None
                arguments = timer._args
                timer.cancel()
                channel._watch_stall(*arguments)

            del channel.pipe.waiting[:1]
            look()
            assert not channel.pipe.aborted
            channel._core.send_binary(b"more")
            channel._write()
            look()
            assert channel.pipe.aborted
            channel.connection_lost(None)

        asyncio.run(scenario())


class TestSlowLines:
    """What takes its time is not dead, and nothing waits behind it that need not."""

    def test_a_part_of_a_message_is_a_sign_of_life(self) -> None:
        """A peer whose message is still arriving is heard."""

        async def scenario() -> None:
            channel = Bare()
            session = channel.open_session
            session.excuse_silence(time.monotonic() - 60)
            data = WebSocketFrame(Opcode.BINARY, batch(call(1))).serialize(mask=False)
            channel.data_received(data[:20])
            channel._tick()
            assert not session.is_dead
            assert session.wakeup > time.monotonic()
            channel.connection_lost(None)

        asyncio.run(scenario())

    def test_crumbs_of_a_message_take_no_more_room_than_it(self) -> None:
        """A message may come in many fragments, empty ones too, and is put together."""

        async def scenario() -> None:
            channel = Bare()
            got = []
            channel._message_received = got.append  # type: ignore[method-assign]
            count = 5_000
            crumb, nothing = (
                WebSocketFrame(Opcode.CONT, data, fin=False).serialize(mask=False)
                for data in (b"ab", b"")
            )
            tracemalloc.start()
            try:
                first = WebSocketFrame(Opcode.BINARY, b"<", fin=False)
                channel.data_received(first.serialize(mask=False))
                for _ in range(count // 100):
                    channel.data_received((crumb + nothing) * 100)
                assert tracemalloc.get_traced_memory()[0] < 10 * count
            finally:
                tracemalloc.stop()
            channel.data_received(WebSocketFrame(Opcode.CONT, b">").serialize(mask=False))
            assert got == [b"<" + b"ab" * count + b">"]
            channel.connection_lost(None)

        asyncio.run(scenario())

    @pytest.mark.parametrize("takes", [True, False])
    def test_who_takes_bytes_is_alive(self, takes: bool) -> None:
        """A peer that takes what waits for it is alive, though its pong waits; else it is dead."""

        async def scenario() -> None:
            channel = Bare()
            session = channel.open_session
            channel._core.send_binary(bytes(1000))
            channel._write()
            channel.pause_writing()
            channel._tick()
            for _ in range(3):
                session.excuse_silence(time.monotonic() - 60)
                if takes:
                    del channel.pipe.waiting[:10]
                channel._tick()
            assert channel.pipe.aborted is session.is_dead is not takes
            channel.connection_lost(None)

        asyncio.run(scenario())

    def test_a_large_payload_leaves_in_several_turns(self) -> None:
        """What a session sends in one turn of the event loop is limited."""

        async def scenario() -> None:
            channel = Bare()
            size = 10 * protocol.TURN_MESSAGES * 256 * 1024
            request = SimpleNamespace(deadline=time.monotonic() + 60)
            channel.open_session.call(request, Call(0, "ACME", "echo", bytes(size), 0))
            channel.flush_soon()
            turns, before = 0, 0
            while channel.open_session.has_data:
                await asyncio.sleep(0)
                turns += 1
                assert len(channel.pipe.waiting) - before < 2 * protocol.TURN_MESSAGES * 256 * 1024
                before = len(channel.pipe.waiting)
            assert turns >= 8
            assert len(channel.pipe.waiting) > size
            channel.connection_lost(None)

        asyncio.run(scenario())

    def test_the_systems_buffers_are_small(self, hub: headgate.Gateway) -> None:
        """On loopback the gateway lets the system keep little that nobody has read."""
        with logged_in(hub):
            sessions = hub._reception.sessions.on_this_node()
            assert len(sessions) == 2
            for session in sessions:
                transport = session._channel.transport
                assert transport is not None
                end = transport.get_extra_info("socket")
                kept = end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                assert kept <= 4 * protocol.UNREAD_BYTES


class TestListening:
    def test_a_taken_port_names_the_cure(self, rig: Rig, hub: headgate.Gateway) -> None:
        """ConfigurationError names the port, and --port 0."""
        with pytest.raises(ConfigurationError, match=f"Port {hub.port} .* is taken") as caught:
            rig.gateway({}, "second", port=hub.port)
        assert "--port 0" in str(caught.value)

    @pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "127.0.0.1.example.com"])
    def test_only_loopback_is_listened_on(self, rig: Rig, host: str) -> None:
        """Without users and TLS the gateway does not listen beyond this machine."""
        with pytest.raises(ConfigurationError, match=r"Use --host 127\.0\.0\.1"):
            rig.gateway({}, host=host)

    def test_localhost_and_ipv6_work(self, rig: Rig) -> None:
        """Other names of loopback can be listened on, and connected to."""
        for host in ("localhost", "::1"):
            try:
                hub = rig.gateway({"ACME/echo": rig.ECHO}, f"at-{host[:1]}", host=host)
            except ConfigurationError:
                pytest.skip(f"this machine has no {host}")
            assert rig.client(hub).request("ACME", "echo", 1).get() == 1

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("127.0.0.1", True),
            ("127.255.0.3", True),
            ("::1", True),
            ("[::1]", True),
            ("localhost", True),
            ("127.example.com", False),
            ("127.0.0.1.example.com", False),
            ("0.0.0.0", False),
            ("", False),
        ],
    )
    def test_what_counts_as_loopback(self, host: str, expected: bool) -> None:
        """Names that only begin like an address of loopback are none."""
        assert is_loopback(host) is expected

    def test_the_same_folder_twice(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Two gateways never share one data folder, and the first is not disturbed."""
        with pytest.raises(ConfigurationError):
            rig.gateway({}, "second", data=hub.data)

    def test_a_stopped_gateways_port_is_free(self, rig: Rig) -> None:
        """It can be taken again at once."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client = headgate.connect(hub.url)
        hub.stop()
        client.close()
        again = rig.gateway({}, port=hub.port)
        assert rig.client(again).request("ACME", "echo", 1).get() == 1
