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
`unsent`, waiting answers by `MAX_ANSWERS` and one more message of `MAX_FRAMES`, remembered ends by
`REMEMBERED_ENDS` and `FATE_SECONDS`.

Rule 5: Nothing is encoded before the transport has room for it. Control frames leave before
answers, answers before calls.

Deadlines travel on the sender's clock, with the sender's time beside them in each message; the
receiver subtracts the transit (see `TransitClock`), so time in buffers counts.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from itertools import islice
from typing import Any, Protocol

import msgspec

from headgate.deadlines import Deadlines
from headgate.errors import (
    HandlerNotFound,
    LocalProtocolError,
    Overloaded,
    RemoteProtocolError,
)
from headgate.invocation import Fate
from headgate.wire.clock import TransitClock
from headgate.wire.frames import (
    MAX_FRAMES,
    Batch,
    Bye,
    Call,
    Cancel,
    Cast,
    FateFrame,
    Fault,
    Frame,
    Ping,
    Pong,
    Progress,
    Result,
    Started,
    decode_batch,
    encode,
)

__all__ = ["Credit", "Event", "Outstanding", "Session", "State"]

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

REMEMBERED_ENDS = 4096
"""How many such calls are remembered at most."""

MAX_ANSWERS = 4 * 4096
"""Answers that wait to be sent at most, before the peer counts as one that does not read."""

BATCH_BYTES = 256 * 1024
"""Payload and error bytes after which a message is closed and the next one begun."""

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


FULL_CREDIT = Credit()


class Outstanding(Protocol):
    """What a caller hands to `Session.call`: it comes back with the answer."""

    @property
    def deadline(self) -> float:
        """When it is overdue, in seconds on a monotonic clock."""


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
    """

    def __init__(
        self,
        *,
        now: float,
        id: str = "",
        credit: Credit = FULL_CREDIT,
        serves: Credit = FULL_CREDIT,
        connecting: bool = True,
    ) -> None:
        self.id = id
        self.state = State.OPEN
        self.calls: dict[int, Any] = {}
        """What this side called and the peer has not answered."""
        self.serving: dict[int, Any] = {}
        """What the peer called and this side has not answered."""
        self._credit = credit
        self._serves = serves
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
        self._receivers = {
            Result: self._answered,
            Fault: self._answered,
            Call: self._called,
            Cast: self._called,
            Started: self._started,
            Progress: self._progressed,
            Cancel: self._cancelled,
            FateFrame: self._fate,
            Ping: self._ping,
            Pong: self._pong,
            Bye: self._bye,
        }

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
            LocalProtocolError: The session is not open.
        """
        if self.state is not State.OPEN:
            raise LocalProtocolError("The session is closed: nothing can be called")
        calls, credit = self.calls, self._credit
        unsent = self._unsent + len(call.payload)
        if len(calls) >= credit.in_flight or unsent > credit.unsent:
            self._require_credit(unsent)
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
            self._remember(number, outstanding, now)
            # Among the calls, so that it does not overtake the one that it cancels.
            self._calls_out.append(Cancel(number))

    def was_handed_over(self, number: int) -> bool:
        """Whether the call was given to the transport, so that the peer may have seen it."""
        return number <= self._last_handed

    # --- answers to the peer's calls --------------------------------------------------------------

    def result(self, number: int, payload: bytes) -> None:
        """Answer a call of the peer, if it still waits for the answer."""
        if self.serving.pop(number, None) is not None:
            self._unsent += len(payload)
            self._answers.append(Result(number, payload))

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
            sent = {name: _sendable(value) for name, value in details.items()}
            self._refuse(Fault(number, code, _text(message), started, sent))

    def _refuse(self, fault: Fault) -> None:
        self._unsent += _size(fault)
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
        more = len(payload) - (0 if waiting is None else len(waiting.payload))
        if self._unsent + more > self._credit.unsent:
            return
        self._unsent += more
        if waiting is None:
            self._reports[number] = waiting = Progress(number, payload)
            self._answers.append(waiting)
        else:
            # A later value takes the place of one that waits, so a fast handler fills nothing.
            waiting.payload = payload

    def fate(self, number: int, fate: str) -> None:
        """Tell the peer what became of a call that it cancelled or that was overdue."""
        if self.state is State.OPEN:
            self._answers.append(FateFrame(number, fate))

    # --- bytes in --------------------------------------------------------------------------------

    def receive(self, message: bytes, now: float) -> list[Event]:
        """
        Take one message of the peer.

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
        # A deadline on the sender's clock becomes one on this side's by adding this.
        self._last_arrival = (sent, now - sent - transit)
        events: list[Event] = []
        calls, receivers = self.calls, self._receivers
        try:
            for frame in batch.frames:
                if type(frame) is Result and frame.id in calls and now <= calls[frame.id].deadline:
                    # The common case of `_answered`, without the calls.
                    events.append((frame, calls.pop(frame.id), 0.0))
                else:
                    receivers[type(frame)](frame, events, now)
        except RemoteProtocolError:
            self._take_back(events)
            raise
        return self._without_withdrawn(events) if self._withdrawn else events

    def _without_withdrawn(self, events: list[Event]) -> list[Event]:
        """Leave out the calls that the same message cancels: nobody has seen them yet."""
        withdrawn, self._withdrawn = self._withdrawn, set()
        return [event for event in events if id(event[0]) not in withdrawn]

    def _take_back(self, events: list[Event]) -> None:
        """Undo a message that breaks a rule, so that `close` returns every call that it ended."""
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
            text = f"More than {self._serves.in_flight} requests of this session are in flight"
            self._refuse(Fault(number, Overloaded.code, text, False))
            return
        if len(call.handler) > MAX_NAME or len(call.project) > MAX_NAME:
            text = f"The name of a project or a handler has at most {MAX_NAME} characters"
            self._refuse(Fault(number, HandlerNotFound.code, text, False))
            return
        serving[number] = call
        events.append((call, None, call.deadline / 1000 + self._last_arrival[1]))

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
        if type(frame) is Fault and frame.code == "timeout" and frame.started is not False:
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
        if outstanding is not None:
            events.append((frame, outstanding, 0.0))

    def _cancelled(self, frame: Any, events: list[Event], now: float) -> None:
        subject = self.serving.pop(frame.id, None)
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
        return min(self._deadlines.next, self._heard + silence)

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
            outstanding = self.calls.pop(number)
            self._remember(number, outstanding, now)
            events.append((overdue_fault(number, started=None), outstanding, 0.0))
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
        return bool(self._answers or self._calls_out or self._control)

    @property
    def is_crowded(self) -> bool:
        """
        Whether so much waits for the peer that it should take some before it is heard again.

        Only answers count. Who has only calls goes on reading, so that two sides never wait for
        each other.
        """
        answers = len(self._answers) + len(self._control)
        full = self._unsent > self._credit.unsent and bool(self._answers)
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
        if self._unsent <= BATCH_BYTES and waiting <= MAX_FRAMES:
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
                room -= _size(frame)
                taken += 1
            frames += queue[:taken]
            del queue[:taken]
        self._unsent -= BATCH_BYTES - room
        for frame in frames:
            if type(frame) is Call or type(frame) is Cast:
                self._last_handed = frame.id
            elif type(frame) is Progress:
                del self._reports[frame.id]
        return frames

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
        }


def _size(frame: Frame) -> int:
    """Return the bytes of a frame that count as waiting to be sent."""
    if isinstance(frame, Fault):
        texts = (text for text in frame.details.values() if isinstance(text, str))
        return len(frame.message) + sum(map(len, texts))
    return len(getattr(frame, "payload", b""))


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
