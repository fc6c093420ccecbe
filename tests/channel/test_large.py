"""Large payloads through a real port: whole ones, broken ones, and peers that do not read them."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from test_server import answers, batch, call, in_a_minute, logged_in, until_closed

import headgate
from headgate.errors import CancellationException, PayloadError
from headgate.invocation import Fate
from headgate.wire.chunks import CHUNK_BYTES, MAX_PARTIAL
from headgate.wire.frames import Call, Cancel, Chunk, FateFrame, Fault, Result, decode_batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

    from conftest import Rig

REPORT = """
    def handleMessage(payload, context):
        context.progress(payload)
        context.progress("last")
        return len(payload)
    """


@pytest.fixture
def hub(rig: Rig) -> Iterator[headgate.Gateway]:
    """A gateway; whatever one client does, another one is served at the end."""
    hub = rig.gateway({"ACME/echo": rig.ECHO, "ACME/hold": rig.HOLD, "ACME/report": REPORT})
    watching = rig.client(hub)
    session = watching.session_id
    yield hub
    assert watching.request("ACME", "echo", 1, timeout=20).get() == 1
    assert watching.session_id == session
    rig.until(lambda: hub.stats()["bytes_arriving"] == 0)


def announced(number: int, size: int, first: int = 0) -> Call:
    return Call(number, "ACME", "echo", bytes(first), in_a_minute(), size=size)


def chunk(number: int, size: int) -> Chunk:
    return Chunk(1, number, memoryview(bytes(size)))


def whole(peer: ClientConnection, number: int) -> bytes:
    """Wait for a result that comes in parts."""
    found, size = bytearray(), 0
    while not size or len(found) < size:
        for frame in decode_batch(peer.recv(timeout=20)).frames:
            if isinstance(frame, Result) and frame.id == number:
                size = frame.size
                found += frame.payload
            elif isinstance(frame, Chunk) and (frame.of, frame.id) == (6, number):
                found += frame.data
    return bytes(found)


class TestWhole:
    @pytest.mark.parametrize("value", [os.urandom(9_000_001), ["x" * 99_999, {"b": b"y"}] * 70])
    def test_there_and_back(self, rig: Rig, hub: headgate.Gateway, value: Any) -> None:
        """A large payload and a large result arrive as they were."""
        client = rig.client(hub)
        assert client.request("ACME", "echo", value, timeout=60).get() == value

    def test_many_at_once(self, rig: Rig, hub: headgate.Gateway) -> None:
        """More payloads than may be under way together all arrive, and small ones between them."""
        client = rig.client(hub)
        values = [os.urandom(4 * CHUNK_BYTES) for _ in range(3 * MAX_PARTIAL)]
        requests = [client.request("ACME", "echo", value, timeout=60) for value in values]
        small = client.request("ACME", "echo", "small", timeout=60)
        assert small.get() == "small"
        assert [request.get() for request in requests] == values

    def test_progress(self, rig: Rig, hub: headgate.Gateway) -> None:
        """A large progress value arrives whole, or makes room for the result."""
        client, found = rig.client(hub), []
        value = os.urandom(3_000_000)
        request = client.request("ACME", "report", value, timeout=60, on_progress=found.append)
        assert request.get() == len(value)
        assert all(reported in (value, "last") for reported in found)

    def test_cancelled_at_any_moment(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Wherever the payload is when its request is cancelled, nothing of it is left."""
        client, value = rig.client(hub), bytes(16_000_000)
        for pause in (0.0, 0.005, 0.02, 0.05):
            request = client.request("ACME", "hold", value, timeout=60)
            time.sleep(pause)  # any moment will do
            assert request.cancel()
            assert isinstance(request.error(), CancellationException)
        hub.globals["go"].set()
        assert client.request("ACME", "echo", value, timeout=60).get() == value

    def test_the_gateway_stops_when_they_have_left(self, rig: Rig) -> None:
        """A result that is being sent when the gateway stops arrives."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client, value = rig.client(hub), os.urandom(20_000_000)
        request = client.request("ACME", "hold", value, timeout=60)
        hub.globals["running"].get(timeout=30)
        stopping = threading.Thread(target=hub.stop, args=(30.0,))
        stopping.start()
        hub.globals["go"].set()
        assert request.get() == value
        stopping.join()


class TestByHand:
    def test_a_payload_in_parts(self, hub: headgate.Gateway) -> None:
        """Parts of whatever size make a payload; the result is in parts, too."""
        data = b"\xc6" + (3 * CHUNK_BYTES).to_bytes(4, "big") + os.urandom(3 * CHUNK_BYTES)
        with logged_in(hub) as peer:
            frames: list[Any] = [
                Call(1, "ACME", "echo", data[:7], in_a_minute(), size=len(data)),
                Chunk(1, 1, memoryview(data)[7:100_000]),
            ]
            peer.send(batch(*frames))
            peer.send(batch(call(2), Chunk(1, 1, memoryview(data)[100_000:])))
            assert whole(peer, 1) == data

    @pytest.mark.parametrize("size", [2**63, -1, 2**40])
    def test_an_absurd_size(self, hub: headgate.Gateway, size: int) -> None:
        """That call ends, the session goes on."""
        with logged_in(hub) as peer:
            peer.send(batch(announced(1, size, first=50), chunk(1, 50), call(2)))
            first, second = sorted(answers(peer, 2), key=lambda frame: frame.id)
            assert isinstance(first, Fault)
            assert (first.code, first.started) == (PayloadError.code, False)
            assert isinstance(second, Result)

    def test_half_sent_payloads(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Of 300 the first ones may wait, the others are refused; then all are cancelled."""
        with logged_in(hub) as peer:
            for number in range(1, 301):
                peer.send(batch(announced(number, 10**6, first=50_000)))
            refused = answers(peer, 300 - MAX_PARTIAL)
            assert {(fault.code, fault.started) for fault in refused} == {("overloaded", False)}
            assert hub.stats()["session_arriving"] == MAX_PARTIAL
            assert hub.stats()["bytes_arriving"] == MAX_PARTIAL * 50_000
            peer.send(batch(call(301)))
            assert isinstance(answers(peer, 1)[0], Result)
            peer.send(batch(*map(Cancel, range(1, 302))))
            fates: list[Any] = []
            while len(fates) < MAX_PARTIAL:
                frames = decode_batch(peer.recv(timeout=20)).frames
                fates += [frame for frame in frames if isinstance(frame, FateFrame)]
            assert {frame.fate for frame in fates} == {Fate.NOT_STARTED}
            assert hub.stats()["bytes_arriving"] == 0

    @pytest.mark.parametrize(
        "frames",
        [
            [chunk(1, 9)],
            [call(1), chunk(2, 9)],
            [announced(1, 20, first=9), chunk(1, 12)],
        ],
        ids=["unknown", "another number", "too much"],
    )
    def test_parts_of_nothing(self, hub: headgate.Gateway, frames: list[Any]) -> None:
        """The session of who sends parts that it did not announce is closed, alone."""
        with logged_in(hub) as peer:
            peer.send(batch(*frames))
            closed = until_closed(peer)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1002

    def test_a_connection_that_ends_in_the_middle(self, rig: Rig, hub: headgate.Gateway) -> None:
        """What had arrived is forgotten."""
        with logged_in(hub) as peer:
            peer.send(batch(announced(1, 10**6, first=50_000)))
            rig.until(lambda: hub.stats()["bytes_arriving"] == 50_000)
        rig.until(lambda: hub.stats()["bytes_arriving"] == 0)

    def test_who_does_not_read_is_cut(
        self, rig: Rig, hub: headgate.Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A peer that takes no byte of its result for so long loses its session."""
        monkeypatch.setattr("headgate.channel.protocol.STALLED_AFTER", 0.3)
        size = 20_000_000
        data = b"\xc6" + size.to_bytes(4, "big") + bytes(size)
        with logged_in(hub) as peer:
            peer.close_timeout = 0.1
            peer.send(batch(announced(1, len(data))))
            for start in range(0, len(data), 1 << 20):
                peer.send(batch(Chunk(1, 1, memoryview(data)[start : start + (1 << 20)])))
            rig.until(lambda: hub.stats()["sessions"] == 1, 20)
