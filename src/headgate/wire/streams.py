"""
Yielded values on their way: what is left to send of each stream, and what has arrived.

Who reads grants bytes, in all and counted as in `cost`. A value is begun while the values before it
have fewer than that; so one value may always be on its way, however large it is, and what waits
anywhere is a window and one value at most. A large value travels in pieces, and streams take turns
with each other and with the parts of large payloads.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from headgate.errors import PayloadError, RemoteProtocolError
from headgate.invocation import FIRST_GRANT, VALUE_COST
from headgate.wire.chunks import CHUNK_BYTES, MAX_PAYLOAD
from headgate.wire.frames import Fault, Item, Result, cost

__all__ = ["MAX_AHEAD", "Inflows", "Outflows"]

MAX_AHEAD = 1024 * 1024
"""Bytes at most that a reader may grant beyond what was sent to it."""


class Outflow:
    """A stream that is being sent."""

    __slots__ = ("end", "sent", "values")

    def __init__(self) -> None:
        self.values: deque[bytes | memoryview] = deque()
        """What waits; the first may be the rest of a value."""
        self.sent = 0
        """What was given to be sent, waiting or not."""
        self.end: Result | Fault | None = None
        """What follows the last value."""


class Outflows:
    """
    The streams that are being sent, one frame of each in turn.

    Args:
        limit: Bytes of one value.
    """

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        self._limit = limit
        self.table: dict[int, Outflow] = {}
        """All that have begun, and whose end has not been given to the transport."""
        self.waiting: OrderedDict[int, Outflow] = OrderedDict()
        """Those of which something waits."""

    def put(self, number: int, parts: list[bytes]) -> int:
        """
        Queue values.

        Returns:
            The bytes that wait more than before.

        Raises:
            PayloadError: One is larger than what the receiver takes; none is queued.
        """
        size = sum(map(len, parts))
        if size > self._limit and (largest := max(map(len, parts))) > self._limit:
            raise PayloadError(
                f"A value of the stream has {largest:,} bytes when encoded, more than the "
                f"{self._limit:,} that the other side takes. Yield it in parts",
                started=True,
            )
        flow = self.table.get(number)
        if flow is None:
            flow = self.table[number] = Outflow()
        flow.values += parts
        flow.sent += size + VALUE_COST * len(parts)
        self.waiting[number] = flow
        return size

    def end(self, frame: Result | Fault) -> bool:
        """Queue what follows the last value of a stream; False if no value waits."""
        flow = self.waiting.get(frame.id)
        if flow is None:
            self.table.pop(frame.id, None)
            return False
        flow.end = frame
        return True

    def next(self) -> tuple[Item, Result | Fault | None]:
        """Return the next values of the stream whose turn it is, and its end if it has come."""
        number, flow = next(iter(self.waiting.items()))
        item = Item(number, [])
        values, parts, room = flow.values, item.parts, CHUNK_BYTES
        while values and room > 0:
            value = values.popleft()
            size = len(value)
            if size > room and (not parts or size > CHUNK_BYTES):
                # Only slices are taken: nothing large is copied in one go.
                rest = memoryview(value)
                value, item.partial = rest[:room], True
                values.appendleft(rest[room:])
            elif size > room:
                values.appendleft(value)
                break
            parts.append(value)  # type: ignore[arg-type]
            room -= size + VALUE_COST
            if item.partial:
                break
        if values:
            self.waiting.move_to_end(number)
            return item, None
        del self.waiting[number]
        if flow.end is not None:
            del self.table[number]
        return item, flow.end

    def allow(self, number: int, total: int) -> None:
        """
        Look at what the reader of a stream grants.

        Raises:
            RemoteProtocolError: It grants more than it may.
        """
        flow = self.table.get(number)
        sent = flow.sent if flow is not None else 0
        if total > sent + MAX_AHEAD:
            raise RemoteProtocolError(
                f"The peer grants {total} bytes of values of call {number}, of which {sent} were "
                f"sent; it may be {MAX_AHEAD} ahead of that"
            )

    def stop(self, number: int) -> tuple[int, Result | Fault | None]:
        """Send no more of a stream; return the bytes that were left, and its end if it waited."""
        flow = self.table.pop(number, None)
        if flow is None or self.waiting.pop(number, None) is None:
            return 0, None
        return sum(map(len, flow.values)), flow.end

    def clear(self) -> None:
        """Send nothing more."""
        self.table.clear()
        self.waiting.clear()


class Inflow:
    """A stream that arrives."""

    __slots__ = ("granted", "part", "received")

    def __init__(self) -> None:
        self.granted = FIRST_GRANT
        self.received = 0
        self.part: bytearray | None = None
        """What has arrived of a value that goes on in the next frame."""


class Inflows:
    """
    The streams that arrive.

    Args:
        limit: Bytes of one value.
    """

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        self._limit = limit
        self.table: dict[int, Inflow] = {}
        """All of which something has arrived, or for which more was granted."""

    @property
    def held(self) -> int:
        """Bytes that are held, of values that have arrived in part."""
        return sum(len(flow.part) for flow in self.table.values() if flow.part is not None)

    def grant(self, number: int, total: int) -> bool:
        """Let the peer send more; False if it may do so already."""
        flow = self.table.get(number)
        if flow is None:
            flow = self.table[number] = Inflow()
        if total <= flow.granted:
            return False
        flow.granted = total
        return True

    def add(self, item: Item) -> list[bytes]:
        """
        Take the next values.

        Returns:
            Those that are there as a whole.

        Raises:
            RemoteProtocolError: They are more than was granted, or too large.
        """
        flow = self.table.get(item.id)
        if flow is None:
            flow = self.table[item.id] = Inflow()
        parts, is_new = item.parts, flow.part is None
        if not parts:
            raise RemoteProtocolError(f"The peer sent values of call {item.id}, but none")
        if is_new or len(parts) > 1:
            self._require_grant(flow, item)
        flow.received += cost(parts) - (0 if is_new else VALUE_COST)
        if is_new and not item.partial:
            return parts
        return self._assembled(flow, item)

    def _require_grant(self, flow: Inflow, item: Item) -> None:
        # The last of them may be beyond the grant, but must not begin there.
        before = flow.received + cost(item.parts[:-1])
        if flow.part is not None:
            before -= VALUE_COST
        if before >= flow.granted:
            raise RemoteProtocolError(
                f"The peer sent values of call {item.id} beyond the {flow.granted} bytes that "
                "were granted"
            )

    def _assembled(self, flow: Inflow, item: Item) -> list[bytes]:
        parts = list(item.parts)
        if flow.part is not None:
            flow.part += parts[0]
            if len(flow.part) > self._limit:
                raise RemoteProtocolError(
                    f"The peer sends a value of call {item.id} of more than {self._limit} bytes"
                )
            if len(parts) == 1 and item.partial:
                return []
            # Whoever reads a value takes any buffer: to make it bytes would copy it once more.
            parts[0] = flow.part  # type: ignore[call-overload]
        flow.part = bytearray(parts.pop()) if item.partial else None
        return parts

    def stop(self, number: int) -> bool:
        """Take no more of a stream; whether a value had arrived in part."""
        flow = self.table.pop(number, None)
        return flow is not None and flow.part is not None

    def clear(self) -> None:
        """Let all of them go."""
        self.table.clear()
