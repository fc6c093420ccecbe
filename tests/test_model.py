"""
Handles and a session together, played through in every order that Hypothesis can think of.

A client-side session with its handles and a gateway-side session talk in bytes through two pipes.
Nothing happens by itself: time, delivery, the callback thread and the way onto the event loop are
rules, and a model beside them says what must be true. `PLANTED_BUGS` shows that it would notice.

``HEADGATE_LONG=1`` plays for some minutes.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headgate import exchange
from headgate import stream as stream_module
from headgate.deadlines import GRANULARITY
from headgate.errors import (
    GatewayUnreachable,
    Overloaded,
    PayloadError,
    RemoteProtocolError,
    RequestError,
)
from headgate.invocation import VALUE_COST, Fate
from headgate.outcome import Failure, Success
from headgate.request import Request
from headgate.stream import Stream
from headgate.wire import chunks as chunks_module
from headgate.wire import session as session_module
from headgate.wire import streams as streams_module
from headgate.wire.chunks import Arrivals, Departures
from headgate.wire.frames import (
    Batch,
    Bye,
    Call,
    Cancel,
    Chunk,
    Fault,
    Grant,
    Item,
    decode_batch,
    encode,
)
from headgate.wire.session import ANSWER_GRACE, FATE_SECONDS, Credit, Session, State
from headgate.wire.streams import Inflows, Outflows

CREDIT = Credit(in_flight=8, unsent=200, payload=170)
BATCH_BYTES = 60
CHUNK_BYTES = 20
"""Small, so that messages and payloads are split here as large ones are in earnest."""

WINDOW = 300
"""Bytes that the reader of a stream grants: a few values, with what each of them costs."""

LARGEST_VALUE = 100

UNDECODABLE = b"!"

QUIET = {
    "calls": 0,
    "serving": 0,
    "ends": 0,
    "frames_waiting": 0,
    "bytes_waiting": 0,
    "departing": 0,
    "arriving": 0,
    "bytes_arriving": 0,
    "streams": 0,
}


class Run:
    """What the model knows of one run of a handler on the gateway."""

    def __init__(self, record: Record, number: int, gateway: Session, deadline: float) -> None:
        self.record = record
        self.number = number
        self.gateway = gateway
        self.deadline = deadline
        self.attached = True
        """The gateway's session waits for its answer."""
        self.began = False
        self.spent = 0
        """What the values that it yielded have counted."""
        self.granted = WINDOW
        """What its reader takes, as far as that was heard here."""
        self.ended = ""
        """How the handler itself came to an end: a `Fate`, empty while it has not."""


class Record:
    """What the model knows of one request."""

    def __init__(self, index: int, *, direct: bool) -> None:
        self.index = index
        self.direct = direct
        """It was called on the event loop; else it comes there through the mailbox."""
        self.request: Request
        self.session: Session | None = None
        self.payload = b""
        self.left: int | None = None
        """Bytes of its call that the transport has not got; None before it got any."""
        self.run: Run | None = None
        self.refused = False
        """The gateway said that it has not begun and will not."""
        self.cancelled = False
        """`cancel` returned True."""
        self.answers: set[str] = set()
        self.values: list[str] = []
        """What its handler has yielded."""
        self.stream: Stream | None = None
        self.taken = 0
        """How many of the values were read one by one."""
        self.is_over = False
        """The handler came to its end, and its values are the result."""
        self.progress: list[str] = []
        self.shown = 0
        self.slots: dict[str, Slot | None] = {"success": None, "error": None}
        self.over = False
        self.ended_at = math.inf
        self.started: bool | None = None
        self.seen: tuple[RequestError | None, Any] | None = None

    @property
    def handed(self) -> bool:
        """The transport got its call."""
        return self.left == 0

    @property
    def began(self) -> bool:
        return self.run is not None and self.run.began


class Slot:
    """A callback; it remembers whether it was its turn."""

    def __init__(self, machine: Machine, record: Record, kind: str, action: str) -> None:
        self.machine = machine
        self.record = record
        self.kind = kind
        self.action = action

    def __call__(self, argument: Any) -> None:
        record = self.record
        # An assertion here would be logged as a callback's own error: it is noted for later.
        expected = record.slots[self.kind] is self
        self.machine.fired.append((self, argument, expected))
        record.slots[self.kind] = None
        if self.action == "raise":
            raise ValueError("a callback's own mistake")
        if self.action == "set again":
            self.machine.set_slot(record, self.kind, "nothing")
        if self.action == "cancel" and record.request.cancel():
            record.cancelled = True


class Requester:
    """The client that made the handles; its callback thread runs when a rule says so."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def decode(self, data: bytes) -> str:
        if data.startswith(UNDECODABLE):
            raise PayloadError("What arrived is not a payload")
        return data.decode()

    def invoke(self, function: Callable[[], None]) -> None:
        self._machine.callbacks.append(function)

    def withdraw(self, request: Request) -> None:
        self._machine.withdraw(request)

    def grant(self, request: Request, total: int) -> None:
        if self._machine.client is not None:
            exchange.grant(self._machine.client, request, total)


class Machine(RuleBasedStateMachine):
    """The rules, and what must be true after each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.skew = 0.0
        self.requester = Requester(self)
        self.callbacks: deque[Callable[[], None]] = deque()
        self.fired: list[tuple[Slot, Any, bool]] = []
        self.posted: deque[tuple[Record, Call | None]] = deque()
        self.records: list[Record] = []
        self.runs: list[Run] = []
        self.sessions = 0
        self.patience = 0
        """Steps until the connection may break."""
        self.answers = 0
        self.client: Session | None = None
        self.gateway: Session
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()

    @property
    def gateway_now(self) -> float:
        return self.now + self.skew

    @initialize(skew=st.sampled_from([0.0, 1000.0, -20.0]), patience=st.sampled_from([0, 15, 60]))
    def begin(self, skew: float, patience: int) -> None:
        self.skew = skew
        self.connect(patience)

    # --- the connection ---------------------------------------------------------------------------

    @precondition(lambda self: self.client is None)
    @rule(patience=st.sampled_from([0, 15, 60]))
    def connect(self, patience: int) -> None:
        self.sessions += 1
        self.patience = patience
        name = f"{self.sessions:020x}"
        self.client = Session(now=self.now, id=name, credit=CREDIT)
        self.gateway = Session(now=self.gateway_now, id=name, serves=CREDIT, connecting=False)

    @precondition(lambda self: self.client is not None and self.patience <= 0)
    @rule(data=st.data())
    def suffer(self, data: st.DataObject) -> None:
        kinds = [self.lose, self.say_goodbye, self.sleep]
        kinds += [self.deliver_up_broken] * 3 * bool(self.up)
        kinds += [self.deliver_down_broken] * 3 * bool(self.down)
        data.draw(st.sampled_from(kinds))()

    def sleep(self) -> None:
        self.now += 7.0

    def lose(self) -> None:
        session, gateway = self.client, self.gateway
        assert session is not None
        self.client = None
        self.up.clear()
        self.down.clear()
        mine = [record for record in self.records if record.session is session]
        lost = [record for record in mine if not record.request.done]
        exchange.lose(session, "the connection broke")
        for record in mine:
            assert record.request.done, "a request hangs"
        for record in lost:
            assert record.handed or record.request.started is False, "a part counts as the whole"
        _, serving = gateway.close()
        attached = {run for run in self.runs if run.attached}
        assert all(isinstance(run, Run) for run in serving), "what serves a call is not given back"
        assert set(serving) == attached, "the gateway forgot a handler, or kept one"
        for run in attached:
            run.attached = False
        assert session.stats() == gateway.stats() == QUIET

    def say_goodbye(self) -> None:
        assert self.client is not None
        (self.client if len(self.records) % 2 else self.gateway).bye("on purpose")

    def send_up(self) -> None:
        assert self.client is not None
        data = self.client.data_to_send(self.now)
        if not data:
            assert not self.client.has_data
            return
        assert len(data) < 2000
        for frame in decode_batch(data).frames:
            if isinstance(frame, Call):
                record = self.called(frame.id)
                assert record.left is None, "a call is sent twice"
                record.left = (frame.size or len(frame.payload)) - len(frame.payload)
            elif isinstance(frame, Chunk):
                record = self.called(frame.id)
                assert record.left, "a part of a payload overtakes the others"
                record.left -= len(frame.data)
        self.up.append(data)

    def called(self, number: int) -> Record:
        return next(
            record
            for record in self.records
            if record.session is self.client and record.request.sequence == number
        )

    def send_down(self) -> None:
        data = self.gateway.data_to_send(self.gateway_now)
        assert data or not self.gateway.has_data
        if data:
            self.down.append(data)

    def deliver_up(self) -> None:
        self.serve(self.gateway.receive(self.up.popleft(), self.gateway_now))

    def deliver_down(self, twice: bool) -> None:
        assert self.client is not None
        data = self.down.popleft()
        # Answers that come twice count once; of payloads in parts and streams nothing may.
        in_parts = any(
            getattr(frame, "size", isinstance(frame, Chunk | Item))
            for frame in decode_batch(data).frames
        )
        for _ in range(1 + (twice and not in_parts)):
            exchange.take(self.client.receive(data, self.now))

    def deliver_up_broken(self) -> None:
        if self.gateway.state is not State.CLOSED:
            with pytest.raises(RemoteProtocolError):
                self.gateway.receive(_break(self.up.popleft()), self.gateway_now)
        self.lose()

    def deliver_down_broken(self) -> None:
        assert self.client is not None
        if self.client.state is not State.CLOSED:
            with pytest.raises(RemoteProtocolError):
                self.client.receive(_break(self.down.popleft()), self.now)
        self.lose()

    @precondition(lambda self: self.client is not None)
    @rule(way=st.sampled_from(["send", "send", "deliver", "both", "both", "both"]))
    def carry_up(self, way: str) -> None:
        if way != "deliver":
            self.send_up()
        while self.up and way != "send":
            self.deliver_up()
            if way == "deliver":
                break

    @precondition(lambda self: self.client is not None)
    @rule(way=st.sampled_from(["send", "send", "deliver", "twice", "both", "both", "both"]))
    def carry_down(self, way: str) -> None:
        if way in ("send", "both"):
            self.send_down()
        while self.down and way != "send":
            self.deliver_down(twice=way == "twice")
            if way != "both":
                break

    # --- time -------------------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([0.001, 0.02, 0.06, 0.06, 0.3, 0.3, 1.0, 2.5]),
        looks=st.sampled_from(["nobody", "client", "gateway", "gateway"]),
    )
    def wait(self, seconds: float, looks: str) -> None:
        self.now += seconds
        if looks == "client" and self.client is not None:
            self.tick_client()
        if looks == "gateway" and self.client is not None:
            self.tick_gateway()

    def tick_client(self) -> None:
        assert self.client is not None
        exchange.take(self.client.tick(self.now))
        latest = self.now - ANSWER_GRACE - GRANULARITY - 1e-6
        for record in self.records:
            if record.session is self.client and record.request.deadline <= latest:
                assert record.request.done, "a request outlives its deadline"
        if self.client.state is State.CLOSED:
            self.lose()

    def tick_gateway(self) -> None:
        for run in self.runs:
            if run.attached and run.deadline <= self.gateway_now:
                self.time_out(run)
        arriving = set(self.gateway._arriving)
        assert self.gateway.tick(self.gateway_now) == []
        for _, number in arriving - set(self.gateway._arriving):
            self.called(number).refused = True
        if self.gateway.state is State.CLOSED:
            self.lose()

    # --- requests ---------------------------------------------------------------------------------

    @rule(
        timeouts=st.lists(st.sampled_from([0.1, 0.5, 5.0, 100.0]), min_size=1, max_size=2),
        size=st.sampled_from([0, 0, 0, 10, 10, 10, 10, 50, 150]),
        direct=st.booleans(),
        slots=st.sets(st.sampled_from(["success", "error"])),
        action=st.sampled_from(["nothing", "raise", "set again", "cancel"]),
        reaches=st.sampled_from(["mailbox", "session", "transport", "gateway", *["handler"] * 4]),
    )
    def call(
        self,
        timeouts: list[float],
        size: int,
        direct: bool,
        slots: set[str],
        action: str,
        reaches: str,
    ) -> None:
        if self.client is None and reaches == "handler":
            self.connect(patience=20)
        for timeout in timeouts:
            self.call_one(timeout, size, direct=direct, slots=slots, action=action)
        while self.posted and reaches != "mailbox":
            self.take_posted()
        if self.client is not None and reaches not in ("mailbox", "session"):
            self.carry_up("send" if reaches == "transport" else "both")
        if reaches == "handler":
            self.begin_handlers(refuse=False, all_of_them=True)

    def call_one(
        self, timeout: float, size: int, *, direct: bool, slots: set[str], action: str
    ) -> None:
        record = Record(len(self.records), direct=direct)
        for kind in slots:
            record.slots[kind] = Slot(self, record, kind, action)
        record.request = Request(
            self.requester,
            "ACME",
            "test",
            self.now + timeout,
            record.slots["success"],
            record.slots["error"],
            lambda value: self.check_progress(record, value),
        )
        self.records.append(record)
        record.payload = (b"%d|" % record.index).ljust(size, b".")
        frame = Call(0, "ACME", "test", record.payload, 0)
        if direct:
            self.send(record, frame)
        else:
            self.posted.append((record, frame))

    def send(self, record: Record, frame: Call) -> None:
        session, request = self.client, record.request
        if session is None:
            request.end(Failure(GatewayUnreachable("not connected", started=False)))
            return
        stats, over, is_open = session.stats(), request.done, session.state is State.OPEN
        full = stats["calls"] >= CREDIT.in_flight or (
            stats["bytes_waiting"] > 0
            and stats["bytes_waiting"] + len(frame.payload) > CREDIT.unsent
        )
        (exchange.send if record.direct else exchange.hand_over)(session, request, frame)
        if over:
            assert session.stats() == stats, "a request that is over was sent"
        elif not is_open or full:
            kind = Overloaded if is_open else GatewayUnreachable
            assert isinstance(request.error(), kind)
            assert request.started is False
            assert session.stats() == stats
        else:
            record.session = session
            assert not request.done

    @precondition(lambda self: self.posted)
    @rule()
    def take_posted(self) -> None:
        record, frame = self.posted.popleft()
        if frame is not None:
            self.send(record, frame)
        elif self.client is not None:
            exchange.cancel(self.client, record.request, self.now)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.records[-5:]))
        was_over = record.request.done
        assert record.request.cancel() is not was_over
        assert record.request.done
        record.cancelled = record.cancelled or not was_over

    def withdraw(self, request: Request) -> None:
        record = next(record for record in self.records if record.request is request)
        if not record.direct:
            self.posted.append((record, None))
        elif self.client is not None:
            exchange.cancel(self.client, request, self.now)

    # --- callbacks --------------------------------------------------------------------------------

    @precondition(lambda self: self.records)
    @rule(
        data=st.data(),
        kind=st.sampled_from(["success", "error"]),
        action=st.sampled_from(["nothing", "raise", "set again", "cancel", "clear", "clear"]),
    )
    def set_callback(self, data: st.DataObject, kind: str, action: str) -> None:
        self.set_slot(data.draw(st.sampled_from(self.records[-8:])), kind, action)

    def set_slot(self, record: Record, kind: str, action: str) -> None:
        slot = None if action == "clear" else Slot(self, record, kind, action)
        record.slots[kind] = slot
        if kind == "success":
            record.request.onSuccess(slot)
        else:
            record.request.onError(slot)

    @precondition(lambda self: self.callbacks)
    @rule()
    def run_callback(self) -> None:
        function = self.callbacks.popleft()
        self.fired.clear()
        function()
        assert len(self.fired) <= 1
        for slot, argument, expected in self.fired:
            assert expected, "a callback ran twice, or after it was cleared or replaced"
            record = slot.record
            assert record.request.done
            error = record.request.error()
            assert (slot.kind == "success") == (error is None), "the wrong callback ran"
            assert argument is (record.request.result() if error is None else error)
            self.look_at(record)

    def check_progress(self, record: Record, value: str) -> None:
        place = record.progress.index(value)
        assert place >= record.shown, "progress overtakes what was reported before"
        record.shown = place

    # --- the gateway's handlers -------------------------------------------------------------------

    def serve(self, events: list[Any]) -> None:
        for frame, subject, deadline in events:
            if isinstance(frame, Call):
                record = self.called(frame.id)
                assert frame.payload == record.payload, "a payload is not whole"
                assert record.run is None, "a call arrived twice"
                run = record.run = Run(record, frame.id, self.gateway, deadline)
                self.runs.append(run)
                self.gateway.serve(frame.id, run)
                if deadline <= self.gateway_now:
                    self.time_out(run)
            elif isinstance(frame, Grant):
                assert subject.granted < frame.total, "what was granted is granted again"
                subject.granted = frame.total
            elif isinstance(frame, Cancel):
                assert isinstance(subject, Run), "a cancellation brings back what serves the call"
                assert subject.attached
                assert subject.record.cancelled
                subject.attached = False
                self.give_up(subject)

    def give_up(self, run: Run) -> None:
        """Stop a handler whose answer is not wanted any more, as far as that goes."""
        if not run.began:
            run.record.refused = True
            run.ended = Fate.NOT_STARTED
        self.gateway.fate(run.number, run.ended or Fate.STILL_RUNNING)

    def time_out(self, run: Run) -> None:
        run.attached = False
        self.gateway.fault(run.number, "timeout", "", started=run.began, details={})
        self.give_up(run)

    def waiting(self) -> list[Run]:
        return [run for run in self.runs if run.attached and not run.began][-6:]

    def running(self) -> list[Run]:
        return [run for run in self.runs if run.began and not run.ended][-6:]

    @precondition(lambda self: self.waiting())
    @rule(refuse=st.sampled_from([False, False, False, True]), all_of_them=st.booleans())
    def begin_handlers(self, refuse: bool, all_of_them: bool) -> None:
        for run in self.waiting() if all_of_them else self.waiting()[:1]:
            if refuse:
                run.attached, run.ended, run.record.refused = False, Fate.NOT_STARTED, True
                run.gateway.fault(run.number, "overloaded", "full", started=False, details={})
            elif run.deadline > self.gateway_now:
                run.began = True

    @precondition(lambda self: self.running())
    @rule(
        data=st.data(),
        how=st.sampled_from(
            ["started", "progress", "result", "result", "undecodable", "fault", "stopped"]
        ),
        size=st.sampled_from([0, 0, 0, 0, 0, 0, 30, 160]),
        way=st.sampled_from(["", "send", "send", "both"]),
    )
    def go_on(self, data: st.DataObject, how: str, size: int, way: str) -> None:
        run = data.draw(st.sampled_from(self.running()))
        if how == "started":
            run.gateway.started(run.number)
        elif how == "progress":
            self.answers += 1
            value = f"p{self.answers}|".ljust(size, ".")
            run.record.progress.append(value)
            run.gateway.progress(run.number, value.encode())
        else:
            self.finish(run, how, size)
        if way and self.client is not None:
            self.carry_down(way)

    @precondition(lambda self: any(run.attached for run in self.running()))
    @rule(
        data=st.data(),
        lengths=st.sampled_from([(0,), (0, 0), (50, 0), (0, LARGEST_VALUE, 0)]),
        way=st.sampled_from(["", "both", "both"]),
        ends=st.booleans(),
    )
    def yield_values(
        self, data: st.DataObject, lengths: tuple[int, ...], way: str, ends: bool
    ) -> None:
        """Yield values, as far as the reader takes them, and perhaps come to the end."""
        run = data.draw(st.sampled_from([run for run in self.running() if run.attached]))
        for length in lengths:
            if run.spent < run.granted:
                self.answers += 1
                value = f"v{self.answers}|".ljust(length, ".")
                run.record.values.append(value)
                run.spent += len(value) + VALUE_COST
                run.gateway.items(run.number, [value.encode()])
        if ends:
            self.finish(run, "result")
        if way and self.client is not None:
            self.carry_down(way)

    @precondition(lambda self: any(record.run for record in self.records))
    @rule(data=st.data(), count=st.sampled_from([0, 1, 5]))
    def read(self, data: st.DataObject, count: int) -> None:
        """Read some of what has come of a stream, without waiting."""
        began = [record for record in self.records if record.run]
        record = data.draw(st.sampled_from(began[-4:]))
        if record.stream is None:
            record.stream = record.request.stream()
        for _ in range(count):
            if not self.read_value(record):
                break

    def read_value(self, record: Record) -> bool:
        assert record.stream is not None
        values = record.request.values
        assert values is not None
        if not values.parts:
            return False
        assert next(record.stream) == record.values[record.taken], "a value is lost or comes twice"
        record.taken += 1
        return True

    def read_to_the_end(self, record: Record) -> None:
        """Read what is left of a stream whose request is over."""
        assert record.stream is not None
        while self.read_value(record):
            pass
        error = record.request.error()
        if error is not None:
            with pytest.raises(type(error)):
                next(record.stream)
            return
        left = list(record.stream)
        assert left == [] if record.is_over else left in ([record.request.result()], [])
        assert not record.is_over or record.taken == len(record.values), "values are missing"

    def finish(self, run: Run, how: str, size: int = 0) -> None:
        if not run.attached:
            run.ended = Fate.STOPPED if how == "stopped" else Fate.FINISHED
            run.gateway.fate(run.number, run.ended)
            return
        run.attached, run.ended = False, Fate.FINISHED
        self.answers += 1
        answer = (b"r%d|" % self.answers).ljust(size, b".")
        if how == "fault":
            run.gateway.fault(run.number, "handler_error", "it failed", started=True, details={})
        elif how == "undecodable":
            run.gateway.result(run.number, UNDECODABLE + answer[: 5 if run.spent else None])
        elif run.spent:
            run.record.is_over = True
            run.gateway.result(run.number, b"")
        else:
            run.record.answers.add(answer.decode())
            run.gateway.result(run.number, answer)

    def answer_again(self, run: Run) -> None:
        before = run.gateway.stats()
        run.gateway.result(run.number, b"again")
        run.gateway.fault(run.number, "handler_error", "again", started=True, details={})
        run.gateway.started(run.number)
        run.gateway.progress(run.number, b"again")
        run.gateway.items(run.number, [b"again"])
        assert run.gateway.stats() == before, "a call was answered twice"

    # --- what must be true ------------------------------------------------------------------------

    @precondition(lambda self: any(record.over for record in self.records))
    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        over = [record for record in self.records if record.over]
        record = data.draw(st.sampled_from(over))
        self.look_at(record)
        if record.run is not None and not record.run.attached:
            self.answer_again(record.run)

    def look_at(self, record: Record) -> None:
        """Compare a request that is over with what the model knows, and with the last look."""
        request = record.request
        error = request.error()
        value = request.result() if error is None else None
        if record.seen is None:
            record.seen = (error, value)
        assert record.seen[0] is error, "a request ended twice"
        assert record.seen[1] == value, "a request ended twice"
        assert request.block() is (error is None)
        assert request.getError() is error
        if error is None:
            assert request.get() == value
            if record.is_over:
                is_read = value is None and record.stream is not None
                assert is_read or value == record.values, "values are lost, or came twice"
            else:
                assert value in record.answers
            assert record.ended_at <= request.deadline, "a result was taken after the deadline"
            assert not record.cancelled
            assert request.started is True
            return
        assert (error.code == "cancelled") == record.cancelled
        assert error.started is request.started
        assert error.request_id == request.request_id

    @invariant()
    def windows_are_kept(self) -> None:
        for record in self.records:
            values = record.request.values
            if record.stream is not None and values is not None and values.read:
                waits = values.arrived - values.read
                assert waits < WINDOW + LARGEST_VALUE + VALUE_COST, "beyond what is read"

    @invariant()
    def time_is_short(self) -> None:
        self.patience -= 1

    @invariant()
    def every_end_is_final(self) -> None:
        for record in self.records:
            request = record.request
            if not record.over and request.done:
                record.over, record.ended_at = True, self.now
                record.started = request.started
            assert request.done is record.over, "a request that was over is open again"
            if record.over:
                assert request.started is record.started, "started changed after the end"
                self.check_started(record)
                self.check_fate(record)

    def check_started(self, record: Record) -> None:
        request = record.request
        if request.started:
            assert record.began
        elif request.started is False:
            assert not record.began, "started is False, but the handler ran"
            # A success has started: so this is an error, and looking at it decodes nothing.
            error = request.error()
            assert not record.handed or record.refused or isinstance(error, Overloaded)

    def check_fate(self, record: Record) -> None:
        fate = record.request.fate
        if fate == Fate.NOT_STARTED:
            assert not record.began
        elif fate in (Fate.FINISHED, Fate.STOPPED):
            assert record.run is not None
            assert record.run.ended == fate
        elif fate == Fate.STILL_RUNNING:
            assert record.began

    @invariant()
    def ids_are_unique(self) -> None:
        ids = [record.request.request_id for record in self.records if record.request.request_id]
        assert len(ids) == len(set(ids))

    @invariant()
    def tables_hold_what_is_open(self) -> None:
        if self.client is None:
            return
        mine = [record for record in self.records if record.session is self.client]
        is_open = sum(not record.request.done for record in mine)
        withdrawn = sum(frame is None for _, frame in self.posted)
        stats = self.client.stats()
        assert is_open <= stats["calls"] <= is_open + withdrawn, "an ended call is in the table"
        assert stats["calls"] <= CREDIT.in_flight
        gateway = self.gateway.stats()
        assert gateway["serving"] == sum(run.attached for run in self.runs)
        assert gateway["bytes_arriving"] <= CREDIT.payload
        assert (gateway["arriving"] > 0) >= (gateway["bytes_arriving"] > 0)

    def teardown(self) -> None:
        """Bring everything to its end: nothing may be left anywhere."""
        while self.posted:
            self.take_posted()
        if self.client is not None:
            self.settle()
        if self.client is not None:
            assert self.client.stats() == self.gateway.stats() == QUIET
            self.lose()
        while self.callbacks:
            self.run_callback()
        for record in self.records:
            assert record.request.done, "a request hangs"
            self.every_end_is_final()
            self.look_at(record)
            kind = "error" if record.request.error() is not None else "success"
            assert record.slots[kind] is None, "a callback did not run"
            if record.stream is not None:
                self.read_to_the_end(record)

    def settle(self) -> None:
        """Answer what is open, and let the deadlines and the remembered fates pass."""
        self.pump()
        for run in self.runs:
            if run.attached and not run.began and run.deadline > self.gateway_now:
                run.began = True
            if run.began and not run.ended:
                self.finish(run, "result")
        self.pump()
        for seconds in (101.0, FATE_SECONDS + 1.0, 0.0):
            self.now += seconds
            for tick in (self.tick_client, self.tick_gateway, self.pump):
                if self.client is not None:
                    tick()

    def pump(self) -> None:
        while self.client is not None and (
            self.client.has_data or self.gateway.has_data or self.up or self.down
        ):
            self.send_up()
            self.send_down()
            if self.up:
                self.deliver_up()
            if self.down:
                self.deliver_down(twice=False)
            self.every_end_is_final()


def _break(message: bytes) -> bytes:
    """Add what no peer may send: a call with a number that was used."""
    batch = decode_batch(message)
    batch.frames.append(Call(0, "ACME", "test", b"", 0))
    return encode(batch)


LONG = bool(os.environ.get("HEADGATE_LONG"))
CALM = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def small_and_silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Split messages early, and leave out the log of the callbacks that raise."""
    monkeypatch.setattr(session_module, "BATCH_BYTES", BATCH_BYTES)
    for module in (session_module, chunks_module, streams_module):
        monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK_BYTES)
    for module in (stream_module, streams_module):
        monkeypatch.setattr(module, "FIRST_GRANT", WINDOW)
    logger = logging.getLogger("headgate.request")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.mark.timeout(3600 if LONG else 120)
def test_every_request_ends_exactly_once() -> None:
    """Whatever happens in whatever order, the promises of a handle and a session are kept."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20_000 if LONG else 400,
            stateful_step_count=120 if LONG else 60,
            deadline=None,
            suppress_health_check=CALM,
        ),
    )


# --- what the machine cannot reach ---------------------------------------------------------------


class Asking:
    """A requester that keeps what is to be cancelled."""

    def __init__(self) -> None:
        self.withdrawn: list[Request] = []

    def decode(self, data: bytes) -> bytes:
        return data

    def invoke(self, function: Callable[[], None]) -> None:
        function()

    def withdraw(self, request: Request) -> None:
        self.withdrawn.append(request)

    def grant(self, request: Request, total: int) -> None:
        raise NotImplementedError


def asked(requester: Asking) -> tuple[Request, Call]:
    return Request(requester, "ACME", "test", 100.0), Call(0, "ACME", "test", b"", 0)


def test_a_refused_request_does_not_take_another_ones_number() -> None:
    """A request that another thread cancels while it is refused leaves the next one alone."""
    requester = Asking()
    (first, its_frame), (second, frame) = asked(requester), asked(requester)

    class CancelledMeanwhile(Session):
        def call(self, outstanding: Any, call: Any) -> int:
            if outstanding is first:
                assert first.cancel()
                raise Overloaded("full", started=False)
            return super().call(outstanding, call)

    session = CancelledMeanwhile(now=0.0, id="ab" * 10)
    exchange.hand_over(session, first, its_frame)
    exchange.hand_over(session, second, frame)
    assert requester.withdrawn == [first]
    exchange.cancel(session, first, 1.0)
    assert list(session.calls.values()) == [second]
    exchange.lose(session, "gone")
    assert isinstance(second.error(), RequestError)
    assert first.request_id != second.request_id


@pytest.mark.parametrize("hand_on", [exchange.send, exchange.hand_over])
def test_a_closing_session_is_no_connection(hand_on: Callable[..., None]) -> None:
    """A request in the moment between good-bye and the end of the connection ends at once."""
    session = Session(now=0.0, id="ab" * 10)
    session.receive(encode(Batch(0.0, [Bye("maintenance")])), 0.0)
    request, frame = asked(Asking())
    hand_on(session, request, frame)
    error = request.error()
    assert isinstance(error, GatewayUnreachable)
    assert error.started is False
    assert session.stats() == QUIET


@pytest.mark.parametrize("way", ["broken message", "no turn", "overdue after it"])
def test_an_error_that_is_taken_back_leaves_a_part_a_part(way: str) -> None:
    """The error stops what is left of the call; the session's end must know that it was left."""
    session = Session(now=0.0, id="ab" * 10)
    request, frame = asked(Asking())
    frame.payload = bytes(BATCH_BYTES + 5 * CHUNK_BYTES)
    exchange.send(session, request, frame)
    session.data_to_send(0.0)
    assert session.stats()["departing"] == 1
    answer = encode(Batch(0.0, [Fault(1, "timeout", "", False)]))
    if way == "no turn":
        session.take_back(session.receive(answer, 0.0))
    else:
        with pytest.raises(RemoteProtocolError):
            session.receive(_break(answer), 0.0)
    if way == "overdue after it":
        exchange.take(session.tick(request.deadline + 1.0))
    exchange.lose(session, "gone")
    assert isinstance(request.error(), RequestError)
    assert request.started is False
    assert session.stats() | {"ends": 0} == QUIET


@pytest.mark.parametrize(
    ("code", "text"),
    [("timeout", "ACME/test gave no result before the request's deadline"), ("denied", "")],
)
def test_only_a_timeout_speaks_of_the_deadline(code: str, text: str) -> None:
    """An error that arrives without a text is not given the text of another one."""
    session = Session(now=0.0, id="ab" * 10)
    request, frame = asked(Asking())
    exchange.send(session, request, frame)
    exchange.take(session.receive(encode(Batch(0.0, [Fault(1, code, "", None)])), 0.0))
    error = request.error()
    assert error is not None
    assert (error.code, str(error)) == (code, text)


# --- planted bugs ---------------------------------------------------------------------------------

_end, _cancel_request, _on_error = Request.end, Request.cancel, Request.onError
_close, _tick, _receive = Session.close, Session.tick, Session.receive
_add, _stop = Arrivals.add, Departures.stop
_next_values, _arrived = Outflows.next, Inflows.add


def _result_overwrites(self: Request, outcome: Any, loop: Any = None) -> bool:
    if self.done and not isinstance(outcome, Failure):
        self._outcome = outcome
        return False
    return _end(self, outcome, loop)


def _cancel_only_asks(self: Request) -> bool:
    if self.done:
        return False
    self._requester.withdraw(self)
    return True


def _fire_without_clearing(self: Request) -> None:
    outcome = self._settle()
    if isinstance(outcome, Success):
        if self._success_slot is not None:
            self._call(self._success_slot, outcome.value)
    elif self._error_slot is not None:
        self._call(self._error_slot, outcome.error)


def _none_does_not_clear(self: Request, function: Any) -> None:
    if function is not None:
        _on_error(self, function)


def _close_forgets_unsent(self: Session) -> Any:
    calls, serving = _close(self)
    return [call for call in calls if self.was_handed_over(call[0])], serving


def _tick_leaks(self: Session, now: float) -> Any:
    calls = dict(self.calls)
    events = _tick(self, now)
    self.calls.update(calls)
    return events


def _receive_ignores_deadlines(self: Session, message: bytes, now: float) -> Any:
    deadlines = [(call, call.deadline) for call in self.calls.values()]
    for call, _ in deadlines:
        call.deadline = math.inf
    try:
        return _receive(self, message, now)
    finally:
        for call, deadline in deadlines:
            call.deadline = deadline


def _cancelled_without_a_look(self: Session, frame: Any, events: list[Any], now: float) -> None:
    subject = self.serving.pop(frame.id, None)
    if subject is not None:
        events.append((frame, subject, 0.0))


def _cancelled_means_finished(self: Session, frame: Any, events: list[Any], now: float) -> None:
    subject = self.serving.pop(frame.id, None)
    if subject is None:
        self.fate(frame.id, Fate.FINISHED)
    elif isinstance(subject, Call):
        self._withdrawn.add(id(subject))
    else:
        events.append((frame, subject, 0.0))


def _add_loses_the_end(self: Arrivals, key: Any, arrival: Any, part: Any) -> bool:
    whole = _add(self, key, arrival, part)
    if whole and len(part) > 1:
        del arrival.data[-1]
    return whole


def _stop_goes_on(self: Departures, key: Any) -> int | None:
    departure = self.table.get(key)
    left = _stop(self, key)
    if departure is not None and departure.rest:
        self.table[key] = self._moving[key] = departure
    return left


def _values_change_places(self: Outflows) -> Any:
    flow = next(iter(self.waiting.values()))
    if len(flow.values) > 1:
        flow.values.reverse()
    return _next_values(self)


def _pieces_are_values(self: Inflows, item: Any) -> Any:
    item.partial = False
    return _arrived(self, item)


PLANTED_BUGS: dict[str, tuple[type, str, Any]] = {
    "a late result overwrites a cancellation": (Request, "end", _result_overwrites),
    "cancel asks, but does not end the request": (Request, "cancel", _cancel_only_asks),
    "a callback's slot is not cleared when it fires": (Request, "_fire", _fire_without_clearing),
    "onError(None) does not clear": (Request, "onError", _none_does_not_clear),
    "a lost session forgets its unsent calls": (Session, "close", _close_forgets_unsent),
    "overdue calls stay in the table": (Session, "tick", _tick_leaks),
    "a result is taken after the deadline": (Session, "receive", _receive_ignores_deadlines),
    "started is False for what was handed over": (
        Session,
        "was_handed_over",
        lambda self, number: False,
    ),
    "a broken message swallows the answers before it": (
        Session,
        "take_back",
        lambda self, events: None,
    ),
    "a call cancelled in its own message comes back as a frame": (
        Session,
        "_cancelled",
        _cancelled_without_a_look,
    ),
    "the end of a payload is lost": (Arrivals, "add", _add_loses_the_end),
    "a call of which a part was sent may have begun": (
        Session,
        "was_handed_over",
        lambda self, number: number <= self._last_handed,
    ),
    "the rest of a cancelled call is sent": (Departures, "stop", _stop_goes_on),
    "an answer overtakes values": (Outflows, "end", lambda self, frame: False),
    "values change places": (Outflows, "next", _values_change_places),
    "a piece counts as a value": (Inflows, "add", _pieces_are_values),
    "a stream goes on that nobody reads": (Outflows, "stop", lambda self, n: (0, None)),
    "an answered handler counts as finished": (Session, "_cancelled", _cancelled_means_finished),
}
"""What is wrong: where it is planted, and the buggy variant."""


@contextmanager
def planted(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    owner, method, variant = PLANTED_BUGS[name]
    right = getattr(owner, method)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, variant)
        for kind, receiver in session_module._RECEIVERS.items():
            if receiver is right:
                patch.setitem(session_module._RECEIVERS, kind, variant)
        yield


@pytest.mark.parametrize("name", PLANTED_BUGS)
def test_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model notices when a handle or a session breaks this promise."""
    with planted(name, monkeypatch), pytest.raises(AssertionError):
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=2_000,
                stateful_step_count=60,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                print_blob=False,
                suppress_health_check=CALM,
            ),
        )
