"""
Payloads that travel in parts: what is left to send of each, and what has arrived.

A payload of more than `CHUNK_BYTES` is announced by its frame, which has the whole size and, if
no other one is on its way, the first part; `Chunk` frames bring the rest, between other frames.
The number of a call and its deadline are known at once, and small calls overtake large ones.

Of a payload that is being sent only slices are taken, of one that arrives the parts are put behind
each other as they come: nothing large is copied in one go.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import cast

from headgate.deadlines import Deadlines
from headgate.errors import Overloaded, PayloadError, RemoteProtocolError
from headgate.wire.frames import Call, Cast, Chunk, Progress, Result

__all__ = [
    "CALLS",
    "CHUNK_BYTES",
    "MAX_GATEWAY_PARTIAL",
    "MAX_PARTIAL",
    "MAX_PAYLOAD",
    "PROGRESS",
    "RESULT",
    "Allowance",
    "Arrivals",
    "Carrier",
    "Departures",
]

CHUNK_BYTES = 64 * 1024
"""Bytes of a payload that one frame carries; a larger payload is sent in parts."""

MAX_PAYLOAD = 64 * 1024 * 1024
"""Bytes of one payload, and of all payloads of a session that have arrived in part."""

MAX_GATEWAY_PARTIAL = 256 * 1024 * 1024
"""Bytes of all payloads that have arrived in part at one gateway."""

MAX_PARTIAL = 64
"""Payloads of a session of which some bytes have arrived, but not all."""

Carrier = Call | Cast | Progress | Result
"""A frame with a payload."""

Key = tuple[int, int]
"""What a `Chunk` says of its payload: the tag of the carrier, and its number."""

TAGS: dict[type, int] = {Call: 1, Cast: 2, Progress: 5, Result: 6}
CALLS, PROGRESS, RESULT = (TAGS[Call], TAGS[Cast]), TAGS[Progress], TAGS[Result]


class Allowance:
    """Bytes that sessions may hold together of payloads that have arrived in part."""

    __slots__ = ("_limit", "taken")

    def __init__(self, limit: int = MAX_GATEWAY_PARTIAL) -> None:
        self._limit = limit
        self.taken = 0
        """Bytes that are held now."""

    def take(self, size: int) -> None:
        """
        Take some more.

        Raises:
            Overloaded: There is not so much left.
        """
        if self.taken + size > self._limit:
            raise Overloaded(
                f"The payloads that are arriving here have {self._limit:,} bytes together, which "
                "is the limit: try again later",
                started=False,
            )
        self.taken += size

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self.taken -= size


class Departure:
    """A payload that is being sent."""

    __slots__ = ("rest", "size")

    def __init__(self, rest: memoryview, size: int) -> None:
        self.rest = rest
        self.size = size


class Departures:
    """
    The payloads that are being sent in parts, one part of each in turn.

    The receiver holds at most `limit` bytes and `MAX_PARTIAL` payloads that have not arrived as a
    whole. So what exceeds this is announced, and its bytes wait until others are through.

    Args:
        limit: Bytes of one payload, and of all that are under way together.
    """

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        self._limit = limit
        self.table: dict[Key, Departure] = {}
        """All that are announced and not sent as a whole."""
        self._moving: OrderedDict[Key, Departure] = OrderedDict()
        self._waiting: OrderedDict[Key, Departure] = OrderedDict()
        self._moving_bytes = 0

    def split(self, carrier: Carrier, number: int) -> None:
        """
        Leave at most the first part of a large payload in its frame; the rest is sent later.

        Raises:
            PayloadError: It is larger than what the receiver takes.
        """
        payload = memoryview(carrier.payload)
        size = len(payload)
        if size > self._limit:
            raise PayloadError(
                f"The payload has {size:,} bytes when encoded, more than the {self._limit:,} that "
                "the other side takes. Send it in parts",
                started=False,
            )
        key = (TAGS[type(carrier)], number)
        moves = self._has_room(size)
        # While another one is being sent, not even a first part stands before what follows.
        first = 0 if self._moving else CHUNK_BYTES
        departure = Departure(payload[first:], size)
        carrier.size, carrier.payload = size, cast(bytes, payload[:first])
        self.table[key] = departure
        if moves:
            self._move(key, departure)
        else:
            self._waiting[key] = departure

    def next(self) -> Chunk:
        """Return the next part of the payload whose turn it is; the table must not be empty."""
        key, departure = next(iter(self._moving.items()))
        data, departure.rest = departure.rest[:CHUNK_BYTES], departure.rest[CHUNK_BYTES:]
        if departure.rest:
            self._moving.move_to_end(key)
        else:
            self.stop(key)
        return Chunk(*key, data)

    def stop(self, key: Key) -> int | None:
        """
        Send no more of a payload.

        Returns:
            The bytes that were left of it; None if it is not being sent.
        """
        departure = self.table.pop(key, None)
        if departure is None:
            return None
        if self._waiting.pop(key, None) is None:
            del self._moving[key]
            self._moving_bytes -= departure.size
            self._let_move()
        return len(departure.rest)

    def clear(self) -> None:
        """Send nothing more."""
        for table in (self.table, self._moving, self._waiting):
            table.clear()
        self._moving_bytes = 0

    def _has_room(self, size: int) -> bool:
        return not self._moving or (
            len(self._moving) < MAX_PARTIAL and self._moving_bytes + size <= self._limit
        )

    def _move(self, key: Key, departure: Departure) -> None:
        self._moving[key] = departure
        self._moving_bytes += departure.size

    def _let_move(self) -> None:
        """Let those go on that fit now; a small one need not wait for a large one before it."""
        if not self._waiting:
            return
        for key, departure in list(self._waiting.items()):
            if self._has_room(departure.size):
                self._move(key, self._waiting.pop(key))
            elif len(self._moving) >= MAX_PARTIAL:
                return


class Arrival:
    """A payload of which something has arrived."""

    __slots__ = ("carrier", "data", "deadline", "wanted")

    def __init__(self, carrier: Carrier, deadline: float) -> None:
        self.carrier = carrier
        self.deadline = deadline
        self.data = bytearray()
        self.wanted = True
        """False if the rest is dropped as it comes."""


class Arrivals:
    """
    The payloads that arrive in parts.

    Bytes are counted as they come: what a frame claims to follow costs nothing.

    Args:
        limit: Bytes of one payload, and of all together that have arrived in part.
        allowance: What this session shares with others.
    """

    def __init__(self, limit: int = MAX_PAYLOAD, allowance: Allowance | None = None) -> None:
        self._limit = limit
        self._allowance = allowance or Allowance()
        self.table: dict[Key, Arrival] = {}
        """All that are announced and have not arrived as a whole."""
        self.bytes = 0
        """Bytes that are held."""
        self._begun = 0
        self.deadlines = Deadlines()

    def begin(self, carrier: Carrier, deadline: float = math.inf) -> bool:
        """
        Take the frame that announces a payload.

        Args:
            carrier: The frame; its `size` is not 0.
            deadline: When it is not wanted any more, on this side's clock.

        Returns:
            Whether the payload is in the frame as a whole.

        Raises:
            PayloadError: It is larger than what is taken here.
            Overloaded: Too much has arrived in part.
            RemoteProtocolError: The frame holds more than it announces, or for a second time.
        """
        size, first = carrier.size, carrier.payload
        if not 0 < size <= self._limit:
            raise PayloadError(
                f"A payload of {size:,} bytes was announced; {self._limit:,} are allowed",
                started=False,
            )
        if len(first) == size:
            carrier.size = 0
            return True
        key = (TAGS[type(carrier)], carrier.id)
        if type(carrier) is Progress:
            self.forget(key)  # it was not wanted, or the peer thought better of it
        elif key in self.table:
            raise RemoteProtocolError(f"The peer announced the payload of {carrier.id} twice")
        arrival = self.table[key] = Arrival(carrier, deadline)
        self.deadlines.add(deadline)
        carrier.payload = b""
        try:
            self.add(key, arrival, first)
        except Overloaded:
            self.forget(key)
            raise
        return False

    def add(self, key: Key, arrival: Arrival, part: bytes | memoryview) -> bool:
        """
        Take the next part of a payload.

        Returns:
            Whether the payload is there as a whole; then it is in its frame, and no longer here.

        Raises:
            Overloaded: Too much has arrived in part.
            RemoteProtocolError: It is more than what was announced.
        """
        if not arrival.wanted:
            return False
        carrier, data, size = arrival.carrier, arrival.data, len(part)
        if len(data) + size > carrier.size:
            raise RemoteProtocolError(
                f"The peer sent more than the {carrier.size} bytes that it announced for the "
                f"payload of {carrier.id}"
            )
        self._make_room(size, is_new=size > 0 and not data)
        data += part
        if len(data) < carrier.size:
            return False
        self.forget(key)
        # Whoever reads a payload takes any buffer: to make it bytes would copy it once more.
        carrier.payload, carrier.size = cast(bytes, data), 0
        return True

    def _make_room(self, size: int, *, is_new: bool) -> None:
        if is_new and self._begun >= MAX_PARTIAL:
            raise Overloaded(
                f"{MAX_PARTIAL} payloads of this session are arriving already: finish some first",
                started=False,
            )
        if self.bytes + size > self._limit:
            raise Overloaded(
                f"The payloads of this session that are arriving have more than {self._limit:,} "
                "bytes together, which is the limit: finish some first",
                started=False,
            )
        self._allowance.take(size)
        self.bytes += size
        self._begun += is_new

    def forget(self, key: Key) -> Arrival | None:
        """Let a payload go, and return it."""
        arrival = self.table.pop(key, None)
        if arrival is not None and arrival.data and arrival.wanted:
            self._begun -= 1
            self.bytes -= len(arrival.data)
            self._allowance.give_back(len(arrival.data))
        return arrival

    def ignore(self, carrier: Carrier) -> None:
        """Drop what has arrived of a payload, and what is still to come of it."""
        key = (TAGS[type(carrier)], carrier.id)
        self.forget(key)
        carrier.payload = b""
        arrival = self.table[key] = Arrival(carrier, math.inf)
        arrival.wanted = False

    def overdue(self, now: float) -> list[Key]:
        """Return those that are not wanted any more."""
        return self.deadlines.overdue(self.table, now)

    def clear(self) -> None:
        """Let all of them go."""
        for key in list(self.table):
            self.forget(key)
        self.deadlines = Deadlines()
