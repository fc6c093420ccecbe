"""
Floods a gateway with connections, as a process of its own; prints what became of them.

    python flooder.py PORT KIND RATE SECONDS

KIND is ``passwords`` (logins over TLS with wrong passwords of several users) or ``connections``
(bare ones, of which every second sends garbage and the others nothing), each from 500 addresses in
turn. It prints a line when it begins.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import struct
import sys
import time
from collections import Counter

from headgate.wire.frames import Frame, Hello, Proof, decode_greeting, encode

HEAD = (
    b"GET /channel HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
USERS = ("ada", "nobody", "root", "operator")
SECONDS_EACH = 5.0
"""For how long one connection is kept open, at most."""


def masked(frame: Frame) -> bytes:
    """A frame in a WebSocket message whose mask changes nothing."""
    data = encode(frame)
    return struct.pack(">BBHI", 0x82, 0xFE, len(data), 0) + data


def login(user: str) -> bytes:
    """All that a client sends at a login with a password, without waiting for the answers."""
    hello = Hello([1], [], "password", os.urandom(32), extensions={"user": user})
    return HEAD + masked(hello) + masked(Proof(b"wrong horse battery"))


class Flood:
    """Opens connections at a rate that does not wait for their ends."""

    def __init__(self, port: int, kind: str) -> None:
        self.ends: Counter[str] = Counter()
        """How many came to which end."""
        self._port = port
        self._logins = [login(user) for user in USERS] if kind == "passwords" else []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float) -> float:
        """Flood; return how many connections a second were opened."""
        begun = time.monotonic()
        number = 0
        while (passed := time.monotonic() - begun) < seconds:
            while number < passed * rate:
                self._begin(number)
                number += 1
            await asyncio.sleep(0.002)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        return number / passed

    def _begin(self, number: int) -> None:
        task = asyncio.create_task(self._connect(number))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, number: int) -> None:
        try:
            async with asyncio.timeout(SECONDS_EACH):
                end = await self._attack(number)
        except TimeoutError:
            end = "was kept open"
        except (OSError, asyncio.IncompleteReadError) as error:
            end = type(error).__name__
        except asyncio.CancelledError:
            self.ends["was open at the end"] += 1
            raise
        self.ends[end] += 1

    async def _attack(self, number: int) -> str:
        source = f"127.9.{number // 250 % 2}.{number % 250 + 1}"
        secure = {"ssl": self._context} if self._logins else {}
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(source, 0), **secure
        )
        try:
            if not self._logins:
                writer.write(b"garbage" if number % 2 else b"")
                return "was answered" if await reader.read() else "was cut"
            writer.write(self._logins[number % len(self._logins)])
            await reader.readuntil(b"\r\n\r\n")
            answers = await reader.read()
            return self._told(answers)
        finally:
            writer.transport.abort()

    @staticmethod
    def _told(answers: bytes) -> str:
        """What the last data frame says; those of the gateway have no mask."""
        told = "was cut"
        while len(answers) >= 2 and answers[0] == 0x82:
            size, start = answers[1], 2
            if size == 126:
                size, start = int.from_bytes(answers[2:4]), 4
            frame = decode_greeting(answers[start : start + size])
            told = f"{type(frame).__name__} {getattr(frame, 'code', '')}".strip()
            answers = answers[start + size :]
        return told


async def main() -> None:
    """Do what the arguments say."""
    port, kind, rate, seconds = sys.argv[1:]
    # A flood comes from other machines, which do not take the gateway's processor away from it.
    os.nice(5)
    # Connections are left in the middle of everything: what the loop says of that is no news.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    flood = Flood(int(port), kind)
    print("it begins", flush=True)
    opened = await flood.run(float(rate), float(seconds))
    print(json.dumps({"a second": round(opened), "ends": flood.ends}))


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
