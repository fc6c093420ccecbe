"""
One session between a client and a gateway, as a pure state machine.

Messages and the time go in; frames to act on and messages to send come out. There is no socket,
no event loop and no clock in here, so every interleaving can be played through in a test. Both
ends are the same: each may call and each may answer.

Rule 1: A call that this side made is in `calls` from `call` until its answer, its deadline, its
cancellation or the end of the session, whichever is first. What comes after that is late, and is
dropped, but for the word on what became of the handler.

Rule 2: A call that the peer made is in `serving` from its arrival until it is answered, cancelled
by the peer, or the session ends. Only while it is there can it be answered.

Rule 3: The numbers of one side's calls go up by at least one. A number is never used again.

Rule 4: Nothing in here grows without bound: open calls are limited by the credit, waiting bytes by
`unsent`, with values of streams by `MAX_VALUES` times that, waiting answers by `MAX_ANSWERS` and
one more message of `MAX_FRAMES`, remembered ends by `REMEMBERED_ENDS` and `FATE_SECONDS`, payloads
that arrive in parts by `Credit.payload`, `MAX_PARTIAL` and the `Allowance`.

Rule 5: Nothing is encoded before the transport has room for it. Control frames leave before
answers, answers before calls, and all of them before the parts of large payloads.

Rule 6: Whoever owns the session sees a call or an answer when its payload has arrived as a whole.
A call of which something is missing has certainly not begun. Who gives up a call while a payload
of it is under way, in whatever direction, says `Cancel`, so that the rest is not sent.

Rule 7: The values of a stream come in order and before the answer to their call. Of each stream
what waits here is bounded by what its reader granted (see `streams`); they leave in turn with the
parts of large payloads. Values for a call whose sender takes none, or beyond the grant, break the
protocol; those of a call that is over are late.

Deadlines travel on the sender's clock, with the sender's time beside them in each message; the
receiver subtracts the transit (see `TransitClock`), so time in buffers counts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import Enum
from itertools import islice
from typing import Any, Protocol

import msgspec

from headgate.deadlines import Deadlines
from headgate.errors import (
    HandlerNotFound,
    LocalProtocolError,
    Overloaded,
    PayloadError,
    RemoteProtocolError,
    RequestError,
)
from headgate.invocation import VALUE_COST, Fate
from headgate.wire.chunks import (
    CALLS,
    CHUNK_BYTES,
    MAX_PAYLOAD,
    PROGRESS,
    RESULT,
    Allowance,
    Arrivals,
    Carrier,
    Departures,
)
from headgate.wire.clock import TransitClock
from headgate.wire.frames import (
    MAX_FRAMES,
    Batch,
    Bye,
    Call,
    Cancel,
    Cast,
    Chunk,
    FateFrame,
    Fault,
    Frame,
    Grant,
    Item,
    Ping,
    Pong,
    Progress,
    Result,
    Started,
    decode_batch,
    encode,
)
from headgate.wire.streams import Inflows, Outflows

__all__ = ["MAX_MESSAGE", "Credit", "Event", "Outstanding", "Session", "State"]

PING_AFTER = 2.0
"""Seconds of silence after which the connecting side asks for a sign of life."""

DEAD_AFTER = 6.0
"""Seconds of silence after which the peer counts as gone."""

ANSWER_GRACE = 0.05
"""
Seconds after the deadline that a call waits for the peer's own word on it.

The peer ends the call at the same deadline and knows whether the handler began; without the grace
this side would end it a transit earlier and could only say that nobody knows. A result that comes
after the deadline is not taken.
"""

FATE_SECONDS = 60.0
"""For how long the peer's word on a cancelled or overdue call is waited for."""

STOPPED_BY_PEER = ("timeout", "cancelled", "connection_lost")
"""Codes of faults after which the peer tells what became of the handler."""

REMEMBERED_ENDS = 4096
"""How many such calls are remembered at most."""

MAX_ANSWERS = 4 * 4096
"""Answers that wait to be sent at most, before the peer counts as one that does not read."""

MAX_VALUES = 4
"""How often `Credit.unsent` may wait to be sent before a stream that has more to send ends."""

BATCH_BYTES = 256 * 1024
"""Payload and error bytes after which a message is closed and the next one begun."""

FRAME_BYTES = 64
"""Bytes of a frame that stand around its payload and its names, at most."""

FEW_FRAMES = 512
"""Frames that are sent as they are; of more it is counted what their names take too."""

MAX_DETAILS = 15
"""Details that an error has at most; what it has beyond is left out."""

MAX_MESSAGE = 4 * 1024 * 1024
"""
Bytes that a message has at most.

At worst it holds `BATCH_BYTES` less one, one error more with `MAX_DETAILS` texts and its own, of
`MAX_TEXT` each, and what stands around `FEW_FRAMES` payloads: four names of `MAX_NAME` letters of
four bytes each, and a chain of ids. Together that is 3.8 MiB.
"""

MAX_NAME = 255
"""Characters that the name of a project or a handler has at most."""

MAX_TEXT = 64 * 1024
"""Bytes that each text of an error has at most; of a longer one both ends are sent."""


class State(Enum):
    """Where a session is in its life."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Credit(msgspec.Struct, frozen=True):
    """What one side lets the other have under way."""

    in_flight: int = 4096
    """Calls that are not answered yet."""

    unsent: int = 64 * 1024 * 1024
    """Payload bytes that wait to be sent."""

    payload: int = MAX_PAYLOAD
    """Bytes of one payload, and of all together that have arrived in part."""

    name_length: int = MAX_NAME
    """Characters of the name of a project or a handler."""


FULL_CREDIT = Credit()


class Outstanding(Protocol):
    """What a caller hands to `Session.call`: it comes back with the answer."""

    @property
    def deadline(self) -> float:
        """When it is overdue, in seconds on a monotonic clock."""

    @property
    def streams(self) -> bool:
        """Whether its call has the flag `STREAMS`."""


Event = tuple[Frame, Any, float]
"""
A frame of the peer; what was handed to `call` or `serve` under its number, None for a new call;
and, for a new call, its deadline on this side's clock.
"""


class Session:
    """
    The state of one open session.

    Args:
        now: The time, in seconds on a monotonic clock.
        id: The session's 20 hex digits.
        credit: What this side may have under way at the peer.
        serves: What the peer may have under way here.
        connecting: Whether this side opened the connection; then it is the one that pings first.
        allowance: What it may hold, together with other sessions, of payloads that have arrived
            in part. Default: an allowance of its own.
        on_limit: Told the name of the limit for which a call of the peer was refused.
    """

    # With slots each look is quicker: there are more attributes than Python keeps inline.
    __slots__ = (
        "_answers",
        "_arrivals",
        "_arriving",
        "_calls_out",
        "_clock",
        "_control",
        "_credit",
        "_deadlines",
        "_departing",
        "_departures",
        "_ended",
        "_ends",
        "_heard",
        "_inflowing",
        "_inflows",
        "_last_arrival",
        "_last_call",
        "_last_handed",
        "_last_served",
        "_later_reports",
        "_on_limit",
        "_outflowing",
        "_outflows",
        "_ping_after",
        "_pinged",
        "_reports",
        "_serves",
        "_unfinished",
        "_unsent",
        "_withdrawn",
        "calls",
        "id",
        "serving",
        "state",
    )

    def __init__(
        self,
        *,
        now: float,
        id: str = "",
        credit: Credit = FULL_CREDIT,
        serves: Credit = FULL_CREDIT,
        connecting: bool = True,
        allowance: Allowance | None = None,
        on_limit: Callable[[str], None] | None = None,
    ) -> None:
        self.id = id
        self.state = State.OPEN
        self.calls: dict[int, Any] = {}
        """What this side called and the peer has not answered."""
        self.serving: dict[int, Any] = {}
        """What the peer called and this side has not answered."""
        self._credit = credit
        self._serves = serves
        self._on_limit = on_limit
        self._deadlines = Deadlines(ANSWER_GRACE)
        self._ended: deque[tuple[float, int]] = deque()
        self._ends: dict[int, Any] = {}
        self._last_call = 0
        self._last_served = 0
        self._last_handed = 0
        self._control: list[Frame] = []
        self._answers: list[Frame] = []
        self._calls_out: list[Frame] = []
        self._unsent = 0
        self._clock = TransitClock()
        self._heard = now
        self._ping_after = PING_AFTER if connecting else PING_AFTER * 1.5
        self._pinged = False
        self._last_arrival: tuple[float, float] = (0.0, 0.0)
        self._withdrawn: set[int] = set()
        self._reports: dict[int, Progress] = {}
        self._departures = Departures(credit.payload)
        self._departing = self._departures.table
        self._later_reports: dict[int, bytes] = {}
        """Progress values that wait until an earlier, large one has left."""
        self._unfinished: set[int] = set()
        """
        Calls whose payload will not leave as a whole: the session ended, or the peer's error came
        first. The owner may not have seen that error, and `take_back` opens the call again.
        """
        self._arrivals = Arrivals(serves.payload, allowance)
        self._arriving = self._arrivals.table
        self._outflows = Outflows(credit.payload)
        self._outflowing = self._outflows.table
        self._inflows = Inflows(serves.payload)
        self._inflowing = self._inflows.table

    # --- calls of this side ----------------------------------------------------------------------

    @property
    def next_number(self) -> int:
        """The number that the next call will have."""
        return self._last_call + 1

    def call(self, outstanding: Outstanding, call: Call | Cast) -> int:
        """
        Queue a call; its answer comes with an event whose subject is `outstanding`.

        Args:
            outstanding: The handle, with its deadline on this side's clock.
            call: The frame; `id` and `deadline` are set here.

        Returns:
            The call's number.

        Raises:
            Overloaded: The credit is used up; the call was not queued.
            PayloadError: The peer takes no payload of this size.
            LocalProtocolError: The session is not open.
        """
        if self.state is not State.OPEN:
            raise LocalProtocolError("The session is closed: nothing can be called")
        calls, credit = self.calls, self._credit
        size = len(call.payload)
        unsent = self._unsent + size
        if len(calls) >= credit.in_flight or unsent > credit.unsent:
            self._require_credit(unsent)
        if size > CHUNK_BYTES:
            self._departures.split(call, self._last_call + 1)
        self._last_call = call.id = number = self._last_call + 1
        deadline = outstanding.deadline
        call.deadline = deadline * 1000
        calls[number] = outstanding
        deadlines = self._deadlines
        if deadline < deadlines.next:
            deadlines.add(deadline)
        self._unsent = unsent
        self._calls_out.append(call)
        return number

    def _require_credit(self, unsent: int) -> None:
        credit = self._credit
        if len(self.calls) >= credit.in_flight:
            raise Overloaded(
                f"{len(self.calls)} requests of this session are in flight, and its limit is "
                f"{credit.in_flight}: wait for some of them",
                started=False,
            )
        if self._unsent:
            raise Overloaded(
                f"{unsent} bytes of this session would wait to be sent, and its limit is "
                f"{credit.unsent}: wait until some are",
                started=False,
            )

    def cancel(self, number: int, now: float) -> None:
        """Give a call of this side up, and ask the peer to stop it."""
        outstanding = self.calls.pop(number, None)
        if outstanding is not None:
            if self._departing or self._arriving or self._inflowing:
                self._drop_parts(number)
            self._remember(number, outstanding, now)
            # Among the calls, so that it does not overtake the one that it cancels.
            self._calls_out.append(Cancel(number))

    def grant(self, number: int, total: int) -> None:
        """
        Take more yielded values of a call of this side, if it is open.

        Args:
            number: The call.
            total: Bytes in all, from the first value on, as `cost` counts them.
        """
        if number in self.calls and self._inflows.grant(number, total):
            self._calls_out.append(Grant(number, total))

    def was_handed_over(self, number: int) -> bool:
        """Whether all of a call was given to the transport, so that its handler may have begun."""
        return number <= self._last_handed and not self._is_incomplete(number)

    def _is_incomplete(self, number: int) -> bool:
        """Whether some of a call's payload has not left."""
        return number in self._unfinished or any((tag, number) in self._departing for tag in CALLS)

    def _drop_parts(self, number: int) -> tuple[bool, bool]:
        """
        Let go what is under way of a call of this side that is over.

        Returns:
            Whether some of the call was not sent, and some of its result was still to arrive.
        """
        was_incomplete = self._is_incomplete(number)
        for tag in CALLS:
            self._unsent -= self._departures.stop((tag, number)) or 0
        self._arrivals.forget((PROGRESS, number))
        self._inflows.stop(number)
        return was_incomplete, self._arrivals.forget((RESULT, number)) is not None

    # --- answers to the peer's calls --------------------------------------------------------------

    def result(self, number: int, payload: bytes) -> None:
        """
        Answer a call of the peer, if it still waits for the answer.

        Args:
            number: The call.
            payload: The encoded result; empty where the values that were sent are the result.

        Raises:
            LocalProtocolError: A large result is to follow values.
        """
        if self.serving.pop(number, None) is not None:
            size = len(payload)
            if size > CHUNK_BYTES or self._departing or self._outflowing:
                self._large_result(number, payload)
                return
            self._unsent += size
            self._answers.append(Result(number, payload))

    def _large_result(self, number: int, payload: bytes) -> None:
        self._drop_reports(number)
        result = Result(number, payload)
        if len(payload) > CHUNK_BYTES:
            if number in self._outflowing:
                raise LocalProtocolError(f"Call {number} has sent values: its result is small")
            try:
                self._departures.split(result, number)
            except PayloadError as error:
                self._refuse(Fault(number, error.code, error.message, True))
                return
        self._unsent += len(payload)
        if not self._outflows.end(result):
            self._answers.append(result)

    def _drop_reports(self, number: int) -> None:
        """Send no more of a progress value: the call's answer comes behind it."""
        self._unsent -= self._departures.stop((PROGRESS, number)) or 0
        self._unsent -= len(self._later_reports.pop(number, b""))

    def fault(
        self,
        number: int,
        code: str,
        message: str,
        *,
        started: bool | None,
        details: dict[str, Any],
    ) -> None:
        """Answer a call of the peer with an error, if it still waits for the answer."""
        if self.serving.pop(number, None) is not None:
            if self._departing:
                self._drop_reports(number)
            chosen = islice(details.items(), MAX_DETAILS)
            sent = {name[:MAX_NAME]: _sendable(value) for name, value in chosen}
            self._refuse(Fault(number, code[:MAX_NAME], _text(message), started, sent))

    def _refuse(self, fault: Fault) -> None:
        self._unsent += _size(fault)
        if not self._outflowing or not self._outflows.end(fault):
            self._answers.append(fault)

    def serve(self, number: int, subject: Any) -> None:
        """Attach what serves a call of the peer; `Cancel` and the session's end bring it back."""
        if number in self.serving:
            self.serving[number] = subject

    def started(self, number: int) -> None:
        """Tell the peer that the handler of this call runs."""
        if number not in self.serving or self.state is not State.OPEN:
            return
        last = self._answers[-1] if self._answers else None
        if isinstance(last, Started) and len(last.ids) < MAX_FRAMES:
            last.ids.append(number)
        else:
            self._answers.append(Started([number]))

    def progress(self, number: int, payload: bytes) -> None:
        """Tell the peer a progress value, if it still waits and there is room for it."""
        if number not in self.serving or self.state is not State.OPEN:
            return
        waiting = self._reports.get(number)
        is_busy = (PROGRESS, number) in self._departing
        replaced: bytes = b""
        if is_busy:
            replaced = self._later_reports.get(number, b"")
        elif waiting is not None:
            replaced = waiting.payload
        unsent = self._unsent + len(payload) - len(replaced)
        if unsent > self._credit.unsent or len(payload) > self._credit.payload:
            return
        self._unsent = unsent
        if is_busy:
            self._later_reports[number] = payload
            return
        # A later value takes the place of one that waits, so a fast handler fills nothing.
        report = waiting or Progress(number, payload)
        report.payload = payload
        if len(payload) > CHUNK_BYTES:
            self._departures.split(report, number)
        if waiting is None:
            self._reports[number] = report
            self._answers.append(report)

    def items(self, number: int, parts: list[bytes]) -> None:
        """
        Send values that the handler of this call yielded, if the peer still waits for them.

        Raises:
            PayloadError: The peer takes no value of this size.
            Overloaded: The peer does not read, and too much waits for it already.
        """
        if number in self.serving:
            # Each stream has its window, but there may be thousands of them.
            if self._unsent > MAX_VALUES * self._credit.unsent:
                raise Overloaded(
                    f"{self._unsent} bytes wait for the caller, which does not read them: read "
                    "faster, or fewer streams at a time",
                    started=True,
                )
            self._unsent += self._outflows.put(number, parts)

    def fate(self, number: int, fate: str) -> None:
        """Tell the peer what became of a call that it cancelled or that was overdue."""
        if self.state is State.OPEN:
            self._answers.append(FateFrame(number, fate))

    # --- bytes in --------------------------------------------------------------------------------

    def receive(self, message: bytes, now: float) -> list[Event]:
        """
        Take one message of the peer, when what the one before it brought is acted on.

        Returns:
            What the owner of the session must act on, in order.

        Raises:
            RemoteProtocolError: The peer broke a rule; the session must be closed.
        """
        if self.state is State.CLOSED:
            return []
        if len(self._answers) + len(self._control) > MAX_ANSWERS:
            raise RemoteProtocolError(
                f"The peer goes on asking without reading: {MAX_ANSWERS} answers wait for it"
            )
        batch = decode_batch(message)
        sent = batch.sent / 1000
        if not math.isfinite(sent):
            raise RemoteProtocolError(f"The peer's clock is {batch.sent}")
        transit = self._clock.arrived(sent, now)
        self._heard = now
        self._pinged = False
        if self._unfinished:
            # The other ones' errors were acted on.
            self._unfinished = {number for number in self._unfinished if number in self.calls}
        # A deadline on the sender's clock becomes one on this side's by adding this.
        self._last_arrival = (sent, now - sent - transit)
        events: list[Event] = []
        calls, arriving, inflowing = self.calls, self._arriving, self._inflowing
        try:
            for frame in batch.frames:
                if (
                    type(frame) is Result
                    and frame.id in calls
                    and now <= calls[frame.id].deadline
                    and not frame.size
                    and not arriving
                    and not inflowing
                ):
                    # The common case of `_answered`, without the calls.
                    events.append((frame, calls.pop(frame.id), 0.0))
                else:
                    _RECEIVERS[type(frame)](self, frame, events, now)
        except RemoteProtocolError:
            self.take_back(events)
            raise
        return self._without_withdrawn(events) if self._withdrawn else events

    def _without_withdrawn(self, events: list[Event]) -> list[Event]:
        """Leave out the calls that the same message cancels: nobody has seen them yet."""
        withdrawn, self._withdrawn = self._withdrawn, set()
        return [event for event in events if id(event[0]) not in withdrawn]

    def take_back(self, events: list[Event]) -> None:
        """
        Undo what nobody has acted on, so that `close` returns every call that it ended.

        That is a message that breaks a rule, or what had no turn before the session's end.
        """
        for frame, subject, _ in events:
            if isinstance(frame, Result | Fault):
                self.calls[frame.id] = subject
            elif isinstance(frame, Cancel):
                self.serving[frame.id] = subject
            elif isinstance(frame, Call | Cast):
                self.serving.pop(frame.id, None)

    def _called(self, call: Any, events: list[Event], now: float) -> None:
        number = call.id
        if number <= self._last_served:
            raise RemoteProtocolError(
                f"The peer used the number {number} after {self._last_served}: numbers go up"
            )
        self._last_served = number
        if self.state is not State.OPEN:
            return
        serving = self.serving
        if len(serving) >= self._serves.in_flight:
            text = f"The session has {len(serving)} requests in flight, as limits.in_flight allows"
            self._refuse_over("in_flight", Fault(number, Overloaded.code, text, False))
            return
        longest = self._serves.name_length
        if len(call.handler) > longest or len(call.project) > longest:
            text = f"No name has more than {longest} characters: limits.name_length"
            self._refuse_over("name_length", Fault(number, HandlerNotFound.code, text, False))
            return
        deadline = call.deadline / 1000 + self._last_arrival[1]
        if call.size and not self._is_whole(call, events, deadline):
            return
        serving[number] = call
        events.append((call, None, deadline))

    def _refuse_over(self, limit: str, fault: Fault) -> None:
        self._refuse(fault)
        if self._on_limit is not None:
            self._on_limit(limit)

    def _resulted(self, frame: Any, events: list[Event], now: float) -> None:
        number, size = frame.id, frame.size
        outstanding = self.calls.get(number)
        self._end_inflow(number)
        if self._arriving:
            self._arrivals.forget((PROGRESS, number))
            if not size:
                self._arrivals.forget((RESULT, number))
        if size and outstanding is not None and now <= outstanding.deadline:
            if not self._is_whole(frame, events, math.inf):
                if number in self.calls:
                    events.append((Started([number]), outstanding, 0.0))
                return
        elif size and (outstanding is not None or number in self._ends):
            # It is late: the rest need not come.
            self._calls_out.append(Cancel(number))
        self._answered(frame, events, now)

    def _end_inflow(self, number: int) -> None:
        if self._inflowing and self._inflows.stop(number):
            raise RemoteProtocolError(f"The peer answers {number} in the middle of a value")

    def _yielded(self, frame: Any, events: list[Event], now: float) -> None:
        number = frame.id
        outstanding = self.calls.get(number)
        if outstanding is None:
            if number > self._last_call:
                raise RemoteProtocolError(f"The peer sent values of {number}, which is no call")
            return
        if not outstanding.streams:
            raise RemoteProtocolError(f"The peer sent values of {number}, which takes none")
        frame.parts, frame.partial = self._inflows.add(frame), False
        if now <= outstanding.deadline:
            events.append((frame, outstanding, 0.0))

    def _granted(self, frame: Any, events: list[Event], now: float) -> None:
        subject = self.serving.get(frame.id)
        if subject is not None:
            self._outflows.allow(frame.id, frame.total)
            events.append((frame, subject, 0.0))

    def _faulted(self, frame: Any, events: list[Event], now: float) -> None:
        if self._departing or self._arriving or self._inflowing:
            was_incomplete, _ = self._drop_parts(frame.id)
            if was_incomplete:
                self._unfinished.add(frame.id)
        self._answered(frame, events, now)

    def _continued(self, chunk: Any, events: list[Event], now: float) -> None:
        key = (chunk.of, chunk.id)
        arrival = self._arriving.get(key)
        if arrival is None:
            self._require_announced(chunk)
            return
        carrier = arrival.carrier
        try:
            if not self._arrivals.add(key, arrival, chunk.data):
                return
        except Overloaded as error:
            self._turn_away(carrier, error, events)
            return
        if not isinstance(carrier, Call | Cast):
            _RECEIVERS[type(carrier)](self, carrier, events, now)
        elif self.state is State.OPEN:
            self.serving[carrier.id] = carrier
            events.append((carrier, None, arrival.deadline))

    def _require_announced(self, chunk: Chunk) -> None:
        """Let a part pass whose call is over; any other one breaks the rules."""
        number = chunk.id
        if chunk.of in CALLS:
            is_over = number <= self._last_served and number not in self.serving
        else:
            is_over = number <= self._last_call and number not in self.calls
            is_over = is_over and chunk.of in (PROGRESS, RESULT)
        if not is_over:
            raise RemoteProtocolError(
                f"The peer sent a part of a payload that it did not announce: frame {chunk.of} "
                f"of number {number}"
            )

    def _is_whole(self, carrier: Carrier, events: list[Event], deadline: float) -> bool:
        """Take the frame that announces a payload; whether the payload is in it as a whole."""
        try:
            if len(self._arriving) >= self._serves.in_flight:
                raise Overloaded("Too many payloads are announced to this side", started=False)
            return self._arrivals.begin(carrier, deadline)
        except (PayloadError, Overloaded) as error:
            self._turn_away(carrier, error, events)
            return False

    def _turn_away(self, carrier: Carrier, error: RequestError, events: list[Event]) -> None:
        """End the call of a payload that is not taken; the rest of it is dropped when it comes."""
        number = carrier.id
        if isinstance(carrier, Progress):
            self._arrivals.ignore(carrier)
        elif isinstance(carrier, Result):
            self._arrivals.forget((RESULT, number))
            self._calls_out.append(Cancel(number))
            outstanding = self.calls.pop(number)
            events.append((FateFrame(number, Fate.FINISHED), outstanding, 0.0))
            fault = Fault(number, error.code, error.message, True)
            events.append((fault, outstanding, 0.0))
        else:
            self._forget_call(number)
            self._refuse(Fault(number, error.code, error.message, False))

    def _forget_call(self, number: int) -> bool:
        """Drop what has arrived of a call of the peer; whether there was something."""
        found = [self._arrivals.forget((tag, number)) for tag in CALLS]
        return any(found)

    def _answered(self, frame: Any, events: list[Event], now: float) -> None:
        outstanding = self.calls.pop(frame.id, None)
        if outstanding is None:
            # Rule 1: the call was over. A late answer changes nothing for its caller, who was told
            # another end; that the handler came to an end is still worth knowing.
            ended = self._ends.get(frame.id)
            fate = _fate_of(frame)
            if ended is not None and fate != Fate.UNKNOWN:
                del self._ends[frame.id]
                events.append((FateFrame(frame.id, fate), ended, 0.0))
            return
        if now > outstanding.deadline and type(frame) is Result:
            events.append((FateFrame(frame.id, Fate.FINISHED), outstanding, 0.0))
            events.append((overdue_fault(frame.id, started=True), outstanding, 0.0))
            return
        if type(frame) is Fault and frame.code in STOPPED_BY_PEER and frame.started is not False:
            # Its handler has begun, so there is a word to come on what became of it.
            self._remember(frame.id, outstanding, now)
        events.append((frame, outstanding, 0.0))

    def _started(self, frame: Any, events: list[Event], now: float) -> None:
        for number in frame.ids:
            outstanding = self.calls.get(number)
            if outstanding is not None:
                events.append((frame, outstanding, 0.0))

    def _progressed(self, frame: Any, events: list[Event], now: float) -> None:
        outstanding = self.calls.get(frame.id)
        if outstanding is None:
            return
        if frame.size and not self._is_whole(frame, events, math.inf):
            events.append((Started([frame.id]), outstanding, 0.0))
        else:
            events.append((frame, outstanding, 0.0))

    def _cancelled(self, frame: Any, events: list[Event], now: float) -> None:
        number = frame.id
        if self._arriving and self._forget_call(number):
            self.fate(number, Fate.NOT_STARTED)
            return
        if self._departing:
            self._drop_reports(number)
            left = self._departures.stop((RESULT, number))
            if left is not None:
                self._unsent -= left
                self.fate(number, Fate.FINISHED)
                return
        if self._outflowing:
            left, end = self._outflows.stop(number)
            self._unsent -= left
            if end is not None:
                self._unsent -= _size(end)
                fate = _fate_of(end)
                self.fate(number, Fate.FINISHED if fate == Fate.UNKNOWN else fate)
                return
        subject = self.serving.pop(number, None)
        if subject is None:
            # What was answered is on its way already, and with it what is known of the handler.
            if frame.id > self._last_served:
                self.fate(frame.id, Fate.NOT_STARTED)
            return
        if isinstance(subject, Call | Cast):
            self._withdrawn.add(id(subject))
            self.fate(frame.id, Fate.NOT_STARTED)
            return
        events.append((frame, subject, 0.0))

    def _fate(self, frame: Any, events: list[Event], now: float) -> None:
        outstanding = self._ends.get(frame.id)
        if outstanding is not None:
            if frame.fate not in (Fate.STILL_RUNNING, Fate.UNKNOWN):
                del self._ends[frame.id]
            events.append((frame, outstanding, 0.0))

    def _ping(self, frame: Any, events: list[Event], now: float) -> None:
        self._control.append(Pong(self._last_arrival[0] * 1000))

    def _pong(self, frame: Any, events: list[Event], now: float) -> None:
        self._clock.round_trip(now - frame.sent / 1000)

    def _bye(self, frame: Any, events: list[Event], now: float) -> None:
        self.state = State.CLOSING
        events.append((frame, None, 0.0))

    # --- time ------------------------------------------------------------------------------------

    def excuse_silence(self, now: float) -> None:
        """Note that this side did not listen until now: the peer may have said something."""
        self._heard = now

    @property
    def wakeup(self) -> float:
        """When `tick` must be called next."""
        silence = DEAD_AFTER if self._pinged else self._ping_after
        return min(self._deadlines.next, self._arrivals.deadlines.next, self._heard + silence)

    @property
    def is_dead(self) -> bool:
        """Whether the peer has been silent for too long, as the last `tick` saw it."""
        return self.state is State.CLOSED

    def tick(self, now: float) -> list[Event]:
        """
        Let time pass.

        Returns:
            A `Fault` for each call of this side whose deadline has passed without the peer's word.
        """
        events: list[Event] = []
        for number in self._deadlines.overdue(self.calls, now):
            self._time_out(number, events, now)
        for key in self._arrivals.overdue(now):
            self._arrivals.forget(key)
            self._refuse(overdue_fault(key[1], started=False))
        self._forget(now)
        if self.state is not State.CLOSED:
            silence = now - self._heard
            # A peer that was not asked is not dead: it may be this side that slept.
            if silence >= self._ping_after and not self._pinged:
                self._pinged = True
                self._control.append(Ping())
            elif silence >= DEAD_AFTER:
                self.state = State.CLOSED
        return events

    def _time_out(self, number: int, events: list[Event], now: float) -> None:
        outstanding = self.calls.pop(number)
        is_incomplete, has_result = self._drop_parts(number)
        if is_incomplete or has_result:
            self._calls_out.append(Cancel(number))
        started: bool | None = None
        if is_incomplete:
            started = False
        elif has_result:
            started = True
            events.append((FateFrame(number, Fate.FINISHED), outstanding, 0.0))
        if not has_result:
            self._remember(number, outstanding, now)
        events.append((overdue_fault(number, started=started), outstanding, 0.0))

    def _remember(self, number: int, outstanding: Any, now: float) -> None:
        self._forget(now)
        if len(self._ended) >= REMEMBERED_ENDS:
            self._ends.pop(self._ended.popleft()[1], None)
        self._ends[number] = outstanding
        self._ended.append((now + FATE_SECONDS, number))

    def _forget(self, now: float) -> None:
        ended = self._ended
        while ended and (ended[0][0] <= now or ended[0][1] not in self._ends):
            self._ends.pop(ended.popleft()[1], None)

    # --- bytes out -------------------------------------------------------------------------------

    @property
    def has_data(self) -> bool:
        """Whether there is anything to send."""
        frames = self._answers or self._calls_out or self._control
        return bool(frames or self._departing or self._outflows.waiting)

    @property
    def is_crowded(self) -> bool:
        """
        Whether so much waits for the peer that it should take some before it is heard again.

        Only answers count. Who has only calls goes on reading, so that two sides never wait for
        each other.
        """
        answers = len(self._answers) + len(self._control)
        full = self._unsent > self._credit.unsent and (
            bool(self._answers or self._outflows.waiting)
            or any(tag not in CALLS for tag, _ in self._departing)
        )
        return full or answers > MAX_ANSWERS // 2

    def data_to_send(self, now: float) -> bytes:
        """
        Encode the next message; empty if there is none.

        Ask again while the transport has room: more may wait than one message holds.
        """
        frames = self._next_frames()
        if not frames:
            return b""
        return encode(Batch(now * 1000, frames))

    def _next_frames(self) -> list[Frame]:
        waiting = len(self._control) + len(self._answers) + len(self._calls_out)
        is_flowing = self._departing or self._outflows.waiting
        if self._unsent <= BATCH_BYTES and waiting <= FEW_FRAMES and not is_flowing:
            frames = self._control + self._answers + self._calls_out
            self._control, self._answers, self._calls_out = [], [], []
            self._unsent = 0
            if self._reports:
                self._reports = {}
            self._last_handed = self._last_call
            return frames
        return self._some_frames()

    def _some_frames(self) -> list[Frame]:
        frames: list[Frame] = []
        room = BATCH_BYTES
        for queue in (self._control, self._answers, self._calls_out):
            taken = 0
            for frame in islice(queue, MAX_FRAMES - len(frames)):
                if room <= 0:
                    break
                size = _size(frame)
                self._unsent -= size
                room -= size + _surroundings(frame)
                taken += 1
            frames += queue[:taken]
            del queue[:taken]
        # Nothing is left before them, so each part comes behind the frame that announces it.
        while room > 0 and not (self._answers or self._calls_out):
            if not self._departing and not self._outflows.waiting:
                break
            if self._departing:
                chunk = self._next_chunk()
                room -= len(chunk.data) + FRAME_BYTES
                frames.append(chunk)
            if self._outflows.waiting:
                room -= self._add_values(frames)
        for frame in frames:
            if type(frame) is Call or type(frame) is Cast:
                self._last_handed = frame.id
            elif type(frame) is Progress:
                del self._reports[frame.id]
        return frames

    def _add_values(self, frames: list[Frame]) -> int:
        """Add the next values of a stream, and its end behind the last ones; return their size."""
        item, end = self._outflows.next()
        frames.append(item)
        size = sum(map(len, item.parts))
        if end is not None:
            size += _size(end)
            frames.append(end)
        self._unsent -= size
        return size + VALUE_COST * len(item.parts) + 2 * FRAME_BYTES

    def _next_chunk(self) -> Chunk:
        chunk = self._departures.next()
        self._unsent -= len(chunk.data)
        number = chunk.id
        if chunk.of == PROGRESS and (PROGRESS, number) not in self._departing:
            later = self._later_reports.pop(number, None)
            if later is not None:
                self._unsent -= len(later)
                self.progress(number, later)
        return chunk

    # --- the end ---------------------------------------------------------------------------------

    def bye(self, reason: str = "") -> None:
        """Tell the peer that this side closes the session; nothing new is taken after it."""
        if self.state is State.OPEN:
            self.state = State.CLOSING
            self._answers.append(Bye(_text(reason)))

    def close(self) -> tuple[list[tuple[int, Any]], list[Any]]:
        """
        End the session; nothing is left in its tables.

        Returns:
            The calls of this side that are not answered, with their numbers, and what serves the
            peer's.
        """
        self.state = State.CLOSED
        calls, serving = list(self.calls.items()), list(self.serving.values())
        self._unfinished |= {number for tag, number in self._departing if tag in CALLS}
        self._departures.clear()
        self._arrivals.clear()
        self._outflows.clear()
        self._inflows.clear()
        self._later_reports.clear()
        self.calls.clear()
        self.serving.clear()
        self._ends.clear()
        self._ended.clear()
        self._control, self._answers, self._calls_out, self._unsent = [], [], [], 0
        self._reports = {}
        self._deadlines = Deadlines(ANSWER_GRACE)
        return calls, serving

    def stats(self) -> dict[str, int]:
        """Return the size of every table."""
        return {
            "calls": len(self.calls),
            "serving": len(self.serving),
            "ends": len(self._ends),
            "frames_waiting": len(self._control) + len(self._answers) + len(self._calls_out),
            "bytes_waiting": self._unsent,
            "departing": len(self._departing),
            "arriving": len(self._arriving),
            "bytes_arriving": self._arrivals.bytes + self._inflows.held,
            "streams": len(self._outflowing) + len(self._inflowing),
        }


_RECEIVERS: dict[type[Frame], Callable[[Session, Any, list[Event], float], None]] = {
    Result: Session._resulted,
    Fault: Session._faulted,
    Chunk: Session._continued,
    Call: Session._called,
    Cast: Session._called,
    Started: Session._started,
    Item: Session._yielded,
    Progress: Session._progressed,
    Grant: Session._granted,
    Cancel: Session._cancelled,
    FateFrame: Session._fate,
    Ping: Session._ping,
    Pong: Session._pong,
    Bye: Session._bye,
}
"""What takes each kind of frame; one table for all sessions, which are many."""


def _size(frame: Frame) -> int:
    """Return the bytes of a frame that count as waiting to be sent."""
    if isinstance(frame, Fault):
        texts = (text for text in frame.details.values() if isinstance(text, str))
        return len(frame.message) + sum(map(len, texts))
    return len(getattr(frame, "payload", b""))


def _surroundings(frame: Frame) -> int:
    """Return about how many bytes a frame has around its payload, at most."""
    if not isinstance(frame, Call | Cast):
        return FRAME_BYTES
    texts = [frame.project, frame.handler, *map(str, frame.extensions.values())]
    if isinstance(frame, Cast):
        texts += [*frame.filters, *frame.filters.values()]
    return FRAME_BYTES + 4 * sum(map(len, texts)) + 34 * len(frame.ancestors)


def _text(text: str) -> str:
    """Return a text that can be sent: UTF-8, and not longer than `MAX_TEXT` bytes."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > MAX_TEXT:
        half = MAX_TEXT // 2 - 8
        data = data[:half] + b" [...] " + data[-half:]
    return data.decode("utf-8", "ignore")


def _sendable(value: Any) -> Any:
    """Return a detail of an error as it can be sent: a number as it is, all else as text."""
    if type(value) in (int, float) and abs(value) < 2**63:
        return value
    return _text(str(value))


def overdue_fault(number: int, *, started: bool | None) -> Fault:
    """Return the fault of a call whose deadline passed on this side."""
    return Fault(number, "timeout", "", started)


def _fate_of(answer: Result | Fault) -> str:
    """Return what an answer says of its handler's end; ``UNKNOWN`` if nothing."""
    if isinstance(answer, Result):
        return Fate.FINISHED
    return Fate.of_failure(answer.code, answer.started)
