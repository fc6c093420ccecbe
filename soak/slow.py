"""
Peers that do not read: they log in by hand, ask for much, and take the answers late or never.

It is told what to do as the client processes are.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from headgate.channel.address import Address
from headgate.errors import HeadgateError
from headgate.wire.codec import encode as encode_value
from headgate.wire.frames import Batch, Call, Chunk, Fault, Ping, Result, decode_batch, encode
from headgate.wire.handshake import NONCE_BYTES, Claim, ClientHandshake, address_of
from headgate.wire.session import Session
from soak.ledger import GRACE, MOST_PROBLEMS
from soak.plan import Setup

__all__ = ["SlowPeer", "main"]

BUFFER = 16 * 1024
"""Bytes of the receive buffer: what is not read fills the gateway's side."""

BODY = b"\x5a" * 64 * 1024

PATIENCE = 10.0
"""Seconds without a byte after which a peer that reads gives up."""


class Connection:
    """A blocking connection, with websockets' core and the login."""

    def __init__(self, url: str) -> None:
        address = Address(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._socket.settimeout(PATIENCE)
        self._core = ClientProtocol(parse_uri(f"{url}/channel"), max_size=None)
        self._messages: list[bytes] = []
        try:
            self._socket.connect((address.host, address.port))
            self._log_in(address)
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes) -> None:
        """Send a message."""
        self._core.send_binary(data)
        self._write()

    def receive(self, size: int = 65536) -> bytes | None:
        """Return the next message, None if the connection is over; reads `size` bytes at a time."""
        while not self._messages:
            data = self._socket.recv(size)
            if not data or self._core.state is State.CLOSED:
                return None
            self._core.receive_data(data)
            self._take_events()
            self._write()
        return self._messages.pop(0)

    def close(self) -> None:
        """Close it; unread bytes make that a reset."""
        self._socket.close()

    def _take_events(self) -> None:
        for event in self._core.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                self._messages.append(bytes(event.data))

    def _write(self) -> None:
        for data in self._core.data_to_send():
            if data:
                self._socket.sendall(data)

    def _log_in(self, address: Address) -> None:
        handshake = ClientHandshake(
            Claim.local(address.token()),
            address=address_of(self._socket.getpeername()),
            nonce=os.urandom(NONCE_BYTES),
        )
        self._core.send_request(self._core.connect())
        self._write()
        while self._core.state is State.CONNECTING:
            self._core.receive_data(self._socket.recv(4096))
            self._take_events()
        answer: bytes | Session = handshake.hello()
        while isinstance(answer, bytes):
            self.send(answer)
            message = self.receive()
            if message is None:
                raise ConnectionError("closed during the login")
            answer = handshake.receive(message, time.monotonic())


class Answers:
    """
    The answers to a peer's calls, of which the large ones come in parts.

    Args:
        open_calls: Numbers of the calls; each is taken out when its answer is complete.
        complain: Gets what is wrong.
    """

    def __init__(self, open_calls: set[int], complain: Callable[[str], None]) -> None:
        self._open = open_calls
        self._complain = complain
        self._parts: dict[int, bytearray] = {}
        self._sizes: dict[int, int] = {}

    def take(self, frame: object) -> None:
        """Take a frame."""
        if isinstance(frame, Fault):
            self._end(frame.id)
        elif isinstance(frame, Result):
            if frame.id in self._parts or frame.id not in self._open:
                self._complain("a second answer to a call")
                return
            self._parts[frame.id] = bytearray(frame.payload)
            self._sizes[frame.id] = frame.size or len(frame.payload)
            self._look(frame.id)
        elif isinstance(frame, Chunk) and frame.id in self._parts:
            self._parts[frame.id] += frame.data
            self._look(frame.id)

    def _look(self, number: int) -> None:
        if len(self._parts[number]) >= self._sizes[number]:
            if BODY not in self._parts.pop(number):
                self._complain("an answer without its body")
            self._end(number)

    def _end(self, number: int) -> None:
        if number not in self._open:
            self._complain("a second answer to a call")
        self._open.discard(number)


class SlowPeer(threading.Thread):
    """One peer, which connects again and again."""

    def __init__(self, process: SlowProcess, seed: str) -> None:
        super().__init__(name="soak-slow", daemon=True)
        self.resting = False
        self._process = process
        self._dice = random.Random(seed)

    def run(self) -> None:
        """Play until the process ends."""
        while not self._process.ended.is_set():
            self.resting = not self._process.active.is_set()
            if self.resting:
                self._process.ended.wait(0.02)
                continue
            try:
                self._play()
            except (OSError, HeadgateError, WebSocketException):
                # Gateways are killed and peers that read nothing are cut: both are as it must be.
                self._process.count("cut")
                self._process.ended.wait(0.2)

    def _play(self) -> None:
        connection = Connection(self._process.setup.url)
        try:
            asked = self._ask(connection, self._dice.randint(1, 150))
            self._stand_still(connection, self._dice.choice((0.0, 1.0, 4.0, 8.0)))
            if self._dice.random() < 0.3:
                self._process.count("left without reading")
                return
            self._read(connection, asked)
        finally:
            connection.close()

    def _ask(self, connection: Connection, count: int) -> set[int]:
        frames = []
        for number in range(1, count + 1):
            name = [self._process.setup.process, self._process.next_number()]
            payload = encode_value({"id": name, "body": BODY})
            deadline = (time.monotonic() + 60) * 1000
            frames.append(Call(number, "prompt", "echo", payload, deadline))
        for frame in frames:
            connection.send(encode(Batch(time.monotonic() * 1000, [frame])))
        return {frame.id for frame in frames}

    def _stand_still(self, connection: Connection, seconds: float) -> None:
        """Read nothing; but say that it lives, as a client with a slow consumer does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.active.is_set():
            self._process.ended.wait(0.5)
            connection.send(encode(Batch(time.monotonic() * 1000, [Ping()])))

    def _read(self, connection: Connection, asked: set[int]) -> None:
        """Read slowly until every call has its answer, each of them once."""
        pause = self._dice.choice((0.0, 0.0005, 0.002))
        answers = Answers(asked, self._process.complain)
        while asked:
            message = connection.receive(8192 if pause else 65536)
            if message is None:
                self._process.count("cut")
                return
            for frame in decode_batch(message).frames:
                answers.take(frame)
            time.sleep(pause)
        self._process.count("read all")


class SlowProcess:
    """The peers of this process."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.active, self.ended = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._made = 0
        self._counts: Counter[str] = Counter()
        self._problems: list[str] = []
        self.peers = [
            SlowPeer(self, f"{setup.seed}/{setup.process}/{number}")
            for number in range(setup.clients)
        ]

    def next_number(self) -> int:
        """Return the number of a call."""
        with self._lock:
            self._made += 1
            return self._made

    def count(self, what: str) -> None:
        """Count how a peer's connection went."""
        with self._lock:
            self._counts[what] += 1

    def complain(self, text: str) -> None:
        """Keep a problem."""
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(f"a slow peer got {text}")

    def load(self) -> dict[str, Any]:
        """Let the peers connect."""
        self.active.set()
        return {}

    def rest(self) -> dict[str, Any]:
        """Let the peers come to their end."""
        self.active.clear()
        end = time.monotonic() + 2 * (GRACE + PATIENCE)
        while not all(peer.resting for peer in self.peers) and time.monotonic() < end:
            time.sleep(0.02)
        if not all(peer.resting for peer in self.peers):
            self.complain("no end of its answers")
        return {}

    def end(self) -> dict[str, Any]:
        """Return the sums."""
        self.ended.set()
        return {"made": self._made, "counts": self._counts, "problems": self._problems}


def main() -> None:
    """Run the process; its set-up is the argument."""
    process = SlowProcess(msgspec.json.decode(sys.argv[1], type=Setup))
    for peer in process.peers:
        peer.start()
    commands: dict[str, Callable[[], dict[str, Any]]] = {
        "load": process.load,
        "rest": process.rest,
        "end": process.end,
    }
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), flush=True)
        if line.strip() == "end":
            break
    process.ended.set()


if __name__ == "__main__":
    main()
