"""Drives websockets' sans-I/O core and a `Session` over one asyncio transport, at both ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as WebSocketCore
from websockets.protocol import State as WebSocketState

from headgate.channel.local import is_loopback
from headgate.errors import RemoteProtocolError
from headgate.wire.handshake import MAX_GREETING
from headgate.wire.session import Event, Session, State

__all__ = ["SHUTDOWN_SECONDS", "Channel", "Closed", "Events"]

logger = logging.getLogger("headgate.channel")

HIGH_WATER = 512 * 1024
"""Bytes in the transport's buffer above which nothing more is encoded."""

UNSENT_BYTES = 128 * 1024
"""
Bytes that wait in the system's own buffer before they are sent, at most (where it can be told).

Nothing overtakes there, so on a slow line a small call would wait behind megabytes of a large one.
"""

UNREAD_BYTES = 128 * 1024
"""
Bytes that wait to be read, about, on a connection inside of one machine.

There the buffer need not cover any distance, and the system would let it grow to megabytes.
"""

TURN_MESSAGES = 4
"""Messages that leave in one turn of the event loop; then others have theirs."""

BATCH_FRAMES = 64
"""Frames of one turn after which a message is sent without waiting for the turn's end."""

STALLED_AFTER = 30.0
"""Seconds for which a peer may take no byte while data waits."""

SHUTDOWN_SECONDS = 2.0
"""Seconds for which the end of a TLS connection waits for the other side's."""

Events = Callable[["Channel", list[Event]], None]
"""Gets what a channel's session received."""

Closed = Callable[["Channel", str], None]
"""Gets the reason why a channel is over."""


class Channel(asyncio.Protocol, ABC):
    """
    One connection.

    All frames that one turn of the event loop produces leave in one WebSocket message.

    Nothing is written while the transport's buffer is full. If answers pile up then, no more is
    read: who asks must take the answers. Two peers that wait for each other so are cut by the
    check for stalled peers.

    Args:
        core: websockets' state machine of this end.
    """

    turn_frames = sys.maxsize
    """Frames of the peer that are acted on in one turn of the event loop."""

    def __init__(self, core: WebSocketCore) -> None:
        self._core = core
        self._on_events: Events = _ignore_events
        self._on_closed: Closed = _ignore_close
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.session: Session | None = None
        self._fragments = bytearray()
        self._flushing = False
        self._unflushed = 0
        self._paused = False
        self._owes_pong = False
        self._reading = True
        self._acted = 0
        self._going_on = False
        self._postponed: deque[bytes | list[Event]] = deque()
        self._written = 0
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._reason = ""

    # --- asyncio's side --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are transports without being subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        _limit_buffers(self.transport)

    def data_received(self, data: bytes) -> None:
        core = self._core
        core.receive_data(data)
        events = core.events_received()
        if not events and self.session is not None:
            # A part of a message is a sign of life, too: on a slow line it takes its time.
            self.session.excuse_silence(monotonic())
        if not self._postponed:
            self._acted = 0
        for event in events:
            if type(event) is Frame:
                self._frame_received(event)
            else:
                self._head_received(event)
        if self._paused and self._owes_pong:
            self._stop_reading()
        else:
            self._write()
        if core.close_expected():
            self._close_transport()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self.transport = self._timer = self._stall_timer = None
        self._forget_postponed()
        on_closed = self._on_closed
        self._let_go()
        if self.session is not None:
            text = f"the connection broke ({exc})" if exc else "the peer closed the connection"
            on_closed(self, self._reason or text)

    def pause_writing(self) -> None:
        self._paused = True
        self._watch_stall(-1)

    def resume_writing(self) -> None:
        self._paused = False
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        self._write()
        self._read_again()
        self.flush_soon()

    # --- the owner's side ------------------------------------------------------------------------

    @property
    def open_session(self) -> Session:
        """The session of a channel that is logged in."""
        assert self.session is not None
        return self.session

    def attach(self, on_events: Events, on_closed: Closed) -> None:
        """
        Connect the channel to its owner.

        Args:
            on_events: Gets what the session received.
            on_closed: Gets the reason when the connection is over, once, if a session was open.
        """
        self._on_events = on_events
        self._on_closed = on_closed

    def flush_soon(self) -> None:
        """
        Send what the session has, at the end of this turn of the event loop.

        After `BATCH_FRAMES` calls it is sent at once: so the peer has something to do while this
        side goes on.
        """
        self._unflushed += 1
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_turn)
        elif self._unflushed >= BATCH_FRAMES:
            self._flush()

    def close(self, reason: str = "") -> None:
        """Say good-bye and close the connection, once what was written has left."""
        if self.transport is None:
            return
        self._reason = self._reason or reason
        if self.session is not None:
            self.session.bye(reason)
            self._flush(everything=True)
        if self._core.state is WebSocketState.OPEN:
            self._core.send_close(1000, reason[:100])
            self._write()
        self._close_transport()

    def abort(self, reason: str) -> None:
        """Cut the connection."""
        self._reason = self._reason or reason
        if self.transport is not None:
            self.transport.abort()

    async def over(self) -> None:
        """
        Wait for the end of a TLS connection that was closed, which takes both sides a moment.

        After `SHUTDOWN_SECONDS` it is cut. Without TLS there is nothing to wait for.
        """
        end = self.loop.time() + SHUTDOWN_SECONDS
        while self.transport is not None and self.transport.get_extra_info("ssl_object"):
            if self.loop.time() >= end or not self.transport.is_closing():
                self.abort("this side ended")
                return
            await asyncio.sleep(0.001)

    # --- inside ----------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """
        Break what refers to itself, so that the memory is free at once.

        Else the sessions of thousands of clients that come back stay there beside their new ones,
        until all objects of the process are searched for garbage.
        """
        self.attach(_ignore_events, _ignore_close)
        self._core.parser.close()
        self._core.parser_exc = self._core.handshake_exc = None

    @abstractmethod
    def _head_received(self, head: Any) -> None:
        """Take the head of the other end's HTTP request or response."""

    @abstractmethod
    def _greeting_received(self, message: bytes) -> None:
        """Take a message that comes before the session is open."""

    def _open(self, session: Session) -> None:
        self.session = session
        self._arm_timer()

    def _stop_reading(self) -> None:
        if self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def _read_again(self) -> None:
        if self._postponed:
            return
        self._owes_pong = False
        if not self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()
            if self.session is not None:
                self.session.excuse_silence(monotonic())

    def _frame_received(self, frame: Frame) -> None:
        data = cast(bytes, frame.data)
        if frame.opcode is Opcode.BINARY and frame.fin:
            self._message_received(data)
        elif frame.opcode is Opcode.BINARY or frame.opcode is Opcode.CONT:
            # In one piece: fragments can be as small as a byte, or empty.
            self._fragments += data
            if frame.fin:
                message, self._fragments = bytes(self._fragments), bytearray()
                self._message_received(message)
        elif frame.opcode is Opcode.TEXT:
            self._fail(RemoteProtocolError("The peer sent text: frames are binary messages"))
        elif frame.opcode is Opcode.PING:
            self._owes_pong = True

    def _message_received(self, message: bytes) -> None:
        session = self.session
        if session is None:
            if len(message) > MAX_GREETING:
                self._fail(RemoteProtocolError(f"A greeting has at most {MAX_GREETING} bytes"))
            else:
                self._greeting_received(message)
        elif self._postponed:
            self._postponed.append(message)
        else:
            self._take(session, message)

    def _take(self, session: Session, message: bytes) -> None:
        try:
            events = session.receive(message, monotonic())
        except RemoteProtocolError as error:
            self._fail(error)
        else:
            self._act(session, events)

    def _act(self, session: Session, events: list[Event]) -> None:
        """Act on as many events as this turn has room for, and leave the rest to the next one."""
        if self._acted + len(events) > self.turn_frames:
            room = self.turn_frames - self._acted
            self._postponed.appendleft(events[room:])
            events = events[:room]
            self._stop_reading()
            self._go_on_soon()
        self._acted += len(events)
        if events:
            self._on_events(self, events)
        if session.state is State.CLOSING and not self._postponed:
            self.close("the peer said good-bye")
        elif session.has_data:
            self.flush_soon()
            if self._paused and session.is_crowded:
                self._stop_reading()

    def _go_on(self) -> None:
        """Act on what was left over from the turn before; others have had theirs meanwhile."""
        self._going_on = False
        self._acted = 0
        session, postponed = self.session, self._postponed
        try:
            while session is not None and postponed and self._acted < self.turn_frames:
                item = postponed.popleft()
                if isinstance(item, bytes):
                    self._take(session, item)
                else:
                    self._act(session, item)
        except Exception:
            logger.exception("What the peer sent could not be acted on")
            self.abort("this side failed at what the peer sent")
            return
        if postponed:
            self._go_on_soon()
        elif session is not None and not (self._paused and (self._owes_pong or session.is_crowded)):
            self._read_again()

    def _forget_postponed(self) -> None:
        """Undo what had no turn yet, so that the session's end stops what it was about, too."""
        postponed = list(self._postponed)
        self._postponed.clear()
        for item in postponed:
            if self.session is not None and not isinstance(item, bytes):
                self.session.take_back(item)

    def _go_on_soon(self) -> None:
        if not self._going_on:
            self._going_on = True
            self.loop.call_soon(self._go_on)

    def _fail(self, error: RemoteProtocolError) -> None:
        """The peer broke a rule: say so in the closing handshake and close."""
        self._forget_postponed()
        logger.warning("A connection is closed: %s", error)
        self._reason = str(error)
        if self._core.state is WebSocketState.OPEN:
            self._core.fail(1002, str(error)[:100])
            self._write()
        self._close_transport()

    def _flush_turn(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self, *, everything: bool = False) -> None:
        self._unflushed = 0
        session, transport = self.session, self.transport
        if session is None or transport is None or self._core.state is not WebSocketState.OPEN:
            return
        now = monotonic()
        try:
            messages = 0
            while not self._paused and (message := session.data_to_send(now)):
                self._core.send_binary(message)
                self._write()
                messages += 1
                if messages == TURN_MESSAGES and not everything:
                    self.flush_soon()
                    break
        except Exception:
            # What was taken from the session is lost: nobody may wait for it.
            logger.exception("A message could not be sent")
            self.abort("this side could not send a message")
            return
        if session.wakeup < self._timer_at:
            self._arm_timer()

    def _write(self) -> None:
        transport = self.transport
        for data in self._core.data_to_send():
            if transport is None or transport.is_closing():
                return
            if data:
                self._written += len(data)
                transport.write(data)
            elif transport.can_write_eof():
                transport.write_eof()

    def _close_transport(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        assert self.session is not None
        self._timer_at = self.session.wakeup
        self._timer = self.loop.call_later(max(0.0, self._timer_at - monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        session = self.session
        if session is None or self.transport is None:
            return
        now = monotonic()
        # A connection that is being closed reads no more: that is no excuse for its peer.
        paused = not self._reading and not self.transport.is_closing()
        if paused or self._is_taking():
            session.excuse_silence(now)
        events = session.tick(now)
        if events:
            self._on_events(self, events)
        if session.is_dead:
            self.abort("the peer gave no sign of life")
            return
        if session.has_data:
            self.flush_soon()
        self._arm_timer()

    def _is_taking(self) -> bool:
        """Whether the peer took some of what waited for it, since the last look."""
        if self.transport is None or not self._paused:
            return False
        before, self._taken = self._taken, self._count_taken(self.transport)
        return self._taken != before

    def _count_taken(self, transport: asyncio.Transport) -> int:
        return self._written - transport.get_write_buffer_size()

    def _watch_stall(self, taken: int) -> None:
        """Close the connection if the peer has taken no byte since the last look."""
        if self.transport is None:
            return
        now_taken = self._count_taken(self.transport)
        if now_taken == taken:
            self.abort(f"the peer took nothing for {STALLED_AFTER:.0f} seconds")
            return
        self._stall_timer = self.loop.call_later(STALLED_AFTER, self._watch_stall, now_taken)


def _limit_buffers(transport: asyncio.Transport) -> None:
    """Keep the system's buffers of a connection small: what is in them cannot be overtaken."""
    end, peer = transport.get_extra_info("socket"), transport.get_extra_info("peername")
    if end is None or not isinstance(peer, tuple):
        return
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    with suppress(OSError):
        if option is not None:
            end.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)
        if is_loopback(peer[0]):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)


def _ignore_events(channel: Channel, events: list[Event]) -> None:
    """Nobody is attached yet."""


def _ignore_close(channel: Channel, reason: str) -> None:
    """Nobody is attached yet."""
