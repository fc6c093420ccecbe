"""
Thousands of sessions in one process, which lose their gateway all at once and come back.

A member is what a client has of `headgate.Client` without the handles: the product's connection,
login, ticket and session, and its pauses. One process has room for 10,000 of them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import ssl
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from benchmarks.gateway import raise_file_limit
from headgate.channel.address import Address
from headgate.channel.client import ClientChannel, open_channel
from headgate.channel.login import ClientLogin
from headgate.channel.protocol import Channel
from headgate.channel.tls import ClientTls
from headgate.client import FIRST_PAUSE, LONGEST_PAUSE
from headgate.errors import HeadgateError, PermissionDenied
from headgate.wire.codec import decode, encode
from headgate.wire.frames import Call, Fault, Result
from headgate.wire.session import Event

__all__ = ["Return", "crowd"]

LOGINS_AT_ONCE = 25
"""Members that log in at the same time at first."""


@dataclass
class Return:
    """How the members of a crowd came back."""

    seconds: float = 0.0
    """From the cut until the last one had an answer in its new session."""
    by_ticket: int = 0
    """Members that came back without being asked for their secret again."""
    answered: int = 0
    """Members that got the right answer in their new session."""
    attempts: int = 0
    """Connections that were tried."""
    cpu: float = 0.0
    """Seconds of processor time that the crowd itself used."""
    lost: list[str] = field(default_factory=list)
    """What else happened, a few of each."""


class _Target(Address):
    """The gateway's address; what TLS trusts is read once for the whole crowd."""

    @cached_property
    def _context(self) -> ssl.SSLContext:
        found = super().tls()
        assert found is not None
        return found.context()

    def tls(self) -> ClientTls | None:
        return _Shared(self._context) if self.secure else None


class _Shared(ClientTls):
    def __init__(self, context: ssl.SSLContext) -> None:
        object.__setattr__(self, "_made", context)

    def context(self) -> ssl.SSLContext:
        made: ssl.SSLContext = self._made  # type: ignore[attr-defined]
        return made


class _Outstanding:
    """What a session keeps of the one request of a member."""

    def __init__(self, answer: asyncio.Future[Any]) -> None:
        self.answer = answer
        self.deadline = time.monotonic() + 60


class Member:
    """One session that comes back when it is cut."""

    def __init__(self, number: int, address: Address, token: str, *, at_once: bool) -> None:
        self.number = number
        self.asked = 0
        """How often the secret was needed."""
        self.attempts = 0
        self.channel: ClientChannel | None = None
        self.gone = asyncio.Event()
        self._address = address
        self._first_pause = 0.0 if at_once else FIRST_PAUSE
        self._token = token
        self._login = ClientLogin(token=self._tell)

    def _tell(self) -> str:
        self.asked += 1
        return self._token

    async def connect(self) -> None:
        """Log in."""
        self.attempts += 1
        self.gone.clear()
        self.channel = await open_channel(
            self._address,
            self._login,
            project="",
            host_name="",
            kind="client",
            on_events=self._received,
            on_closed=self._lost,
        )

    async def come_back(self) -> Any:
        """Wait until the connection is cut, connect again as a client does, and ask something."""
        await self.gone.wait()
        longest, pause = FIRST_PAUSE, random.uniform(0, self._first_pause)
        while True:
            await asyncio.sleep(pause)
            longest = min(longest * 2, LONGEST_PAUSE)
            try:
                await self.connect()
                return await self._ask()
            except PermissionDenied:
                raise
            except HeadgateError as error:
                pause = getattr(error, "retry_after", None) or 0.0
                pause += random.uniform(0, longest)

    def cut(self) -> None:
        """Close the socket, without a word."""
        assert self.channel is not None
        self.channel.abort("cut")

    async def _ask(self) -> Any:
        assert self.channel is not None
        answer: asyncio.Future[Any] = self.channel.loop.create_future()
        frame = Call(0, "ACME", "sync", encode({"number": self.number}), 0)
        self.channel.open_session.call(_Outstanding(answer), frame)
        self.channel.flush_soon()
        return decode(await answer)

    def _received(self, channel: Channel, events: list[Event]) -> None:
        for frame, subject, _ in events:
            if isinstance(frame, Result | Fault) and not subject.answer.done():
                answer = frame.payload if isinstance(frame, Result) else encode(repr(frame))
                subject.answer.set_result(answer)

    def _lost(self, channel: Channel, reason: str) -> None:
        self.gone.set()
        if channel.session is not None:
            for _, subject in channel.session.close()[0]:
                subject.answer.cancel()


def crowd(pipe: Connection, url: str, token: str, *, sessions: int, at_once: bool) -> None:
    """
    Run a part of a crowd, as told through a pipe: ``cut`` is answered with a `Return`.

    Args:
        pipe: Gets ``"there"`` first, when all have logged in.
        url: The gateway.
        token: An API token, the secret of all of them.
        sessions: How many.
        at_once: Whether their first try is at once, not after the pause that clients make.
    """
    logging.disable()
    raise_file_limit()
    # What collecting garbage takes would count as the gateway's time.
    gc.disable()

    async def main() -> None:
        address = _Target(url)
        members = [Member(number, address, token, at_once=at_once) for number in range(sessions)]
        for start in range(0, sessions, LOGINS_AT_ONCE):
            some = members[start : start + LOGINS_AT_ONCE]
            await asyncio.gather(*(member.connect() for member in some))
        pipe.send("there")
        while await asyncio.to_thread(_told, pipe):
            pipe.send(asdict(await _returned(members)))

    uvloop.run(main())


def _told(pipe: Connection) -> bool:
    try:
        pipe.recv()
    except EOFError:
        return False
    return True


async def _returned(members: list[Member]) -> Return:
    """Cut all members and wait until they are back."""
    asked = sum(member.asked for member in members)
    attempts = sum(member.attempts for member in members)
    coming = [asyncio.ensure_future(member.come_back()) for member in members]
    start, used = time.perf_counter(), time.process_time()
    for member in members:
        member.cut()
    found = await asyncio.gather(*coming, return_exceptions=True)
    seconds = time.perf_counter() - start
    wrong = [repr(answer) for number, answer in enumerate(found) if answer != {"ok": number}]
    again = sum(member.asked for member in members) - asked
    return Return(
        seconds=seconds,
        by_ticket=len(members) - len(wrong) - again,
        answered=len(members) - len(wrong),
        attempts=sum(member.attempts for member in members) - attempts,
        cpu=time.process_time() - used,
        lost=sorted(set(wrong))[:5],
    )
