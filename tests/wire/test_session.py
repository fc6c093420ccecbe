"""One session, both ends as pure state machines: bytes and the time go in, frames come out."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from headgate.errors import LocalProtocolError, Overloaded, RemoteProtocolError
from headgate.invocation import Fate
from headgate.wire import session as session_module
from headgate.wire.chunks import CHUNK_BYTES
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
    Ping,
    Pong,
    Progress,
    Result,
    Started,
    decode_batch,
    encode,
)
from headgate.wire.session import (
    ANSWER_GRACE,
    BATCH_BYTES,
    DEAD_AFTER,
    FATE_SECONDS,
    MAX_NAME,
    MAX_TEXT,
    PING_AFTER,
    REMEMBERED_ENDS,
    Credit,
    Event,
    Session,
    State,
)

SKEW = 1000.0
"""The gateway's clock is ahead of the client's by this."""

NOTHING = {
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


class Pair:
    """A client's and a gateway's session, and the messages between them."""

    def __init__(self, credit: Credit | None = None, serves: Credit | None = None) -> None:
        self.now = 100.0
        credit = credit or Credit()
        self.client = Session(now=self.now, id="ab" * 10, credit=credit)
        self.gateway = Session(
            now=self.now + SKEW, id="ab" * 10, serves=serves or credit, connecting=False
        )

    def call(self, timeout: float = 10.0, payload: bytes = b"question") -> Any:
        """Call from the client; what is returned has the call's number and deadline."""
        request = SimpleNamespace(deadline=self.now + timeout, streams=True)
        request.number = self.client.call(request, Call(0, "ACME", "test", payload, 0))
        return request

    def served(self, timeout: float = 10.0) -> Any:
        """Call, and let the gateway begin to serve it."""
        request = self.call(timeout)
        self.up()
        self.gateway.serve(request.number, request)
        return request

    def up(self, transit: float = 0.0) -> list[Event]:
        """Bring one message to the gateway."""
        message = self.client.data_to_send(self.now)
        self.now += transit
        return self.gateway.receive(message, self.now + SKEW) if message else []

    def down(self, transit: float = 0.0) -> list[Event]:
        """Bring one message to the client."""
        message = self.gateway.data_to_send(self.now + SKEW)
        self.now += transit
        return self.client.receive(message, self.now) if message else []


def sent(session: Session) -> list[Frame]:
    """Return the frames of the session's next message."""
    message = session.data_to_send(0.0)
    return decode_batch(message).frames if message else []


def message(*frames: Frame, at: float = 0.0) -> bytes:
    return encode(Batch(at * 1000, list(frames)))


# --- calls and answers ----------------------------------------------------------------------------


def test_a_call_is_answered() -> None:
    """A call arrives with its contents, its result comes back with what it was called for."""
    pair = Pair()
    request = pair.call(payload=b"question")
    ((call, subject, _),) = pair.up()
    assert isinstance(call, Call)
    assert (call.project, call.handler, call.payload) == ("ACME", "test", b"question")
    assert subject is None
    pair.gateway.result(call.id, b"answer")
    ((result, owner, _),) = pair.down()
    assert isinstance(result, Result)
    assert result.payload == b"answer"
    assert owner is request
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


def test_a_fault_answers_too() -> None:
    """An error travels with code, text, details and what is known of the start."""
    pair = Pair()
    request = pair.served()
    pair.gateway.fault(
        request.number, "overloaded", "full", started=False, details={"retry_after": 1}
    )
    ((fault, owner, _),) = pair.down()
    assert fault == Fault(request.number, "overloaded", "full", False, {"retry_after": 1})
    assert owner is request
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


def test_a_text_that_is_not_utf8_costs_nobody_an_answer() -> None:
    """Lone surrogates in an error's text or details are escaped, so its whole batch is sent."""
    pair = Pair()
    first, second = pair.served(), pair.served()
    details = {"traceback": "in m\udcfcller", "retry_after": 1.5, "count": 2**70}
    pair.gateway.fault(first.number, "error", "m\udcfcller", started=False, details=details)
    pair.gateway.result(second.number, b"answer")
    (fault, _, _), (result, _, _) = pair.down()
    assert fault.message == "m\\udcfcller"
    assert fault.details == {
        "traceback": "in m\\udcfcller",
        "retry_after": 1.5,
        "count": str(2**70),
    }
    assert result == Result(second.number, b"answer")


def test_a_text_that_is_too_long_loses_its_middle() -> None:
    """Of a long text of an error both ends are sent, also in letters of several bytes."""
    pair = Pair()
    request = pair.served()
    text = "begin" + "ä" * MAX_TEXT + "end"
    pair.gateway.fault(request.number, "error", text, started=True, details={"traceback": text})
    ((fault, _, _),) = pair.down()
    for sent_text in (fault.message, fault.details["traceback"]):
        assert len(sent_text.encode()) <= MAX_TEXT
        assert sent_text.startswith("begin")
        assert sent_text.endswith("end")


def test_many_long_faults_leave_in_several_messages() -> None:
    """Texts of errors count as waiting bytes, so they never make one message too large."""
    pair = Pair()
    text = "x" * MAX_TEXT
    requests = [pair.served() for _ in range(40)]
    for request in requests:
        pair.gateway.fault(
            request.number, "handler_error", text, started=True, details={"traceback": text}
        )
    assert pair.gateway.stats()["bytes_waiting"] == 40 * 2 * MAX_TEXT
    found = []
    while data := pair.gateway.data_to_send(pair.now + SKEW):
        assert len(data) < BATCH_BYTES + 3 * MAX_TEXT
        found += [subject for _, subject, _ in pair.client.receive(data, pair.now)]
    assert found == requests
    assert pair.gateway.stats() == pair.client.stats() | {"ends": 0} == NOTHING


@pytest.mark.parametrize(("project", "handler"), [("x" * 256, "test"), ("ACME", "x" * 256)])
def test_a_name_that_is_too_long_is_refused(project: str, handler: str) -> None:
    """It is no handler's, is answered without a copy of it, and reaches nobody."""
    pair = Pair()
    request = SimpleNamespace(deadline=pair.now + 5)
    pair.client.call(request, Call(0, project, handler, b"", 0))
    assert pair.up() == []
    assert pair.gateway.stats()["serving"] == 0
    ((fault, owner, _),) = pair.down()
    assert (fault.code, fault.started, owner) == ("handler_not_found", False, request)
    assert "xx" not in fault.message


def test_a_name_of_the_greatest_length_is_taken() -> None:
    """A name may have 255 characters, whatever bytes they take."""
    pair = Pair()
    pair.client.call(
        SimpleNamespace(deadline=pair.now + 5), Call(0, "ä" * MAX_NAME, "ö" * MAX_NAME, b"", 0)
    )
    assert len(pair.up()) == 1


def test_a_cast_is_a_call() -> None:
    """A message to receivers has a number, a deadline and an answer like a request."""
    pair = Pair()
    request = SimpleNamespace(deadline=pair.now + 5)
    pair.client.call(request, Cast(0, "ACME", "refresh", b"", 0, scope="C"))
    ((cast, _, deadline),) = pair.up()
    assert isinstance(cast, Cast)
    assert deadline == pytest.approx(pair.now + SKEW + 5)
    pair.gateway.result(cast.id, b"report")
    ((_, owner, _),) = pair.down()
    assert owner is request


def test_numbers_go_up() -> None:
    """Each call has the next number, and `next_number` tells it before."""
    pair = Pair()
    numbers = []
    for _ in range(3):
        expected = pair.client.next_number
        numbers.append(pair.call().number)
        assert numbers[-1] == expected
    assert numbers == [1, 2, 3]
    assert [call.id for call, _, _ in pair.up()] == numbers


@pytest.mark.parametrize("numbers", [(0,), (-1,), (1, 1), (5, 4), (2, 3, 2)])
def test_a_number_that_does_not_go_up_breaks_the_rules(numbers: tuple[int, ...]) -> None:
    """A peer that uses a number again, or an earlier one, is in error."""
    gateway = Pair().gateway
    calls = [Call(number, "ACME", "test", b"", 10**9) for number in numbers]
    with pytest.raises(RemoteProtocolError, match="numbers go up"):
        gateway.receive(message(*calls), 0.0)


def test_numbers_may_be_left_out() -> None:
    """Numbers go up by at least one."""
    gateway = Pair().gateway
    calls = [Call(number, "ACME", "test", b"", 10**9) for number in (3, 17)]
    assert len(gateway.receive(message(*calls), 0.0)) == 2


def test_a_message_that_breaks_a_rule_has_no_effect() -> None:
    """What a broken message answered or cancelled is still there when the session is closed."""
    pair = Pair()
    answered, failed, still_open = pair.call(), pair.call(), pair.call()
    broken = Call(0, "", "", b"", 0)
    frames = [
        Result(answered.number, b""),
        Fault(failed.number, "denied", "", None),
        Call(1, "ACME", "test", b"", 10**9),
        broken,
    ]
    with pytest.raises(RemoteProtocolError):
        pair.client.receive(message(*frames), pair.now)
    calls, serving = pair.client.close()
    assert sorted(number for number, _ in calls) == [1, 2, 3]
    assert {id(request) for _, request in calls} == {id(answered), id(failed), id(still_open)}
    assert serving == []

    pair = Pair()
    request = pair.served()
    with pytest.raises(RemoteProtocolError):
        pair.gateway.receive(message(Cancel(request.number), broken), pair.now + SKEW)
    assert pair.gateway.close() == ([], [request])


def test_answers_to_no_call_are_dropped() -> None:
    """A result, an error, a start, progress or a fate of an unknown call changes nothing."""
    client = Pair().client
    frames = [
        Result(5, b""),
        Fault(5, "denied", "", None),
        Started([5, 6]),
        Progress(5, b""),
        FateFrame(5, Fate.FINISHED),
    ]
    assert client.receive(message(*frames), 100.0) == []
    assert client.stats() == NOTHING


def test_a_call_is_answered_once() -> None:
    """Only the first answer to a call is sent."""
    pair = Pair()
    request = pair.served()
    pair.gateway.result(request.number, b"first")
    pair.gateway.result(request.number, b"second")
    pair.gateway.fault(request.number, "handler_error", "", started=True, details={})
    pair.gateway.started(request.number)
    pair.gateway.progress(request.number, b"late")
    assert sent(pair.gateway) == [Result(request.number, b"first")]


def test_an_answer_that_arrives_twice_counts_once() -> None:
    """The same result a second time is dropped."""
    pair = Pair()
    request = pair.served()
    pair.gateway.result(request.number, b"")
    data = pair.gateway.data_to_send(pair.now + SKEW)
    assert len(pair.client.receive(data, pair.now)) == 1
    assert pair.client.receive(data, pair.now) == []


# --- started and progress -------------------------------------------------------------------------


def test_started_calls_share_a_frame() -> None:
    """Calls that start one after the other are told of in one frame."""
    pair = Pair()
    requests = [pair.call() for _ in range(3)]
    pair.up()
    for request in requests:
        pair.gateway.started(request.number)
    assert sent(pair.gateway) == [Started([1, 2, 3])]


def test_started_does_not_overtake() -> None:
    """A start that is told of after an answer stays after it."""
    pair = Pair()
    first, second = pair.call(), pair.call()
    pair.up()
    pair.gateway.started(first.number)
    pair.gateway.result(first.number, b"")
    pair.gateway.started(second.number)
    assert sent(pair.gateway) == [Started([1]), Result(1, b""), Started([2])]


def test_started_reaches_each_caller() -> None:
    """One Started frame is an event for each of its calls that is open."""
    pair = Pair()
    first, second = pair.served(), pair.served()
    pair.gateway.started(first.number)
    pair.gateway.started(second.number)
    pair.client.cancel(second.number, pair.now)
    assert [subject for _, subject, _ in pair.down()] == [first]


def test_progress_reaches_its_caller() -> None:
    """A progress value is an event of its call."""
    pair = Pair()
    request = pair.served()
    pair.gateway.progress(request.number, b"50 %")
    ((frame, subject, _),) = pair.down()
    assert frame == Progress(request.number, b"50 %")
    assert subject is request


def test_progress_that_cannot_be_sent_is_conflated() -> None:
    """Of the values that wait to be sent for one call only the latest is kept, in its place."""
    pair = Pair()
    first, second = pair.served(), pair.served()
    for value in range(1000):
        pair.gateway.progress(first.number, b"%d" % value)
        pair.gateway.progress(second.number, b"%d" % value)
    pair.gateway.result(first.number, b"")
    assert pair.gateway.stats()["frames_waiting"] == 3
    assert pair.gateway.stats()["bytes_waiting"] == 6
    assert sent(pair.gateway) == [Progress(1, b"999"), Progress(2, b"999"), Result(1, b"")]
    pair.gateway.progress(second.number, b"next")
    assert sent(pair.gateway) == [Progress(2, b"next")]


def test_progress_goes_on_after_a_split_message() -> None:
    """A value that left in a part of a large backlog is not changed afterwards."""
    pair = Pair()
    first, second = pair.served(), pair.served()
    pair.gateway.progress(first.number, b"1")
    pair.gateway.result(second.number, bytes(2 * BATCH_BYTES))
    frames = sent(pair.gateway)
    assert frames[0] == Progress(1, b"1")
    pair.gateway.progress(first.number, b"2")
    assert sent(pair.gateway)[0] == Progress(1, b"2")
    while pair.gateway.has_data:
        assert not any(isinstance(frame, Progress) for frame in sent(pair.gateway))
    assert pair.gateway.stats()["bytes_waiting"] == 0


def test_progress_that_finds_no_room_is_left_out() -> None:
    """A progress value never makes the waiting bytes exceed the credit."""
    pair = Pair()
    request = pair.served()
    pair.gateway.progress(request.number, bytes(Credit().unsent + 1))
    assert not pair.gateway.has_data


# --- cancellations and fates ----------------------------------------------------------------------


def test_a_cancel_brings_back_what_serves_the_call() -> None:
    """The gateway gets what it attached, and the call is not answered any more."""
    pair = Pair()
    request = pair.served()
    pair.client.cancel(request.number, pair.now)
    ((frame, subject, _),) = pair.up()
    assert isinstance(frame, Cancel)
    assert subject is request
    pair.gateway.result(request.number, b"too late")
    assert not pair.gateway.has_data
    assert pair.gateway.stats() == NOTHING


@pytest.mark.parametrize("fate", [Fate.NOT_STARTED, Fate.STOPPED, Fate.FINISHED])
def test_the_fate_of_a_cancelled_call_is_told(fate: str) -> None:
    """The word on a cancelled handler reaches its caller; after a final one nothing is kept."""
    pair = Pair()
    request = pair.served()
    pair.client.cancel(request.number, pair.now)
    pair.up()
    for word in (Fate.UNKNOWN, Fate.STILL_RUNNING, fate, Fate.FINISHED):
        pair.gateway.fate(request.number, word)
    told = [(frame.fate, subject) for frame, subject, _ in pair.down()]
    assert told == [(Fate.UNKNOWN, request), (Fate.STILL_RUNNING, request), (fate, request)]
    assert pair.client.stats() == NOTHING


def test_a_cancel_that_crosses_the_answer() -> None:
    """The late result is dropped, but it tells that the handler finished."""
    pair = Pair()
    request = pair.served()
    pair.gateway.result(request.number, b"answer")
    pair.client.cancel(request.number, pair.now)
    ((frame, subject, _),) = pair.down()
    assert frame == FateFrame(request.number, Fate.FINISHED)
    assert subject is request
    assert pair.up() == []
    assert pair.down() == []
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


@pytest.mark.parametrize(
    ("code", "started", "fates"),
    [
        ("handler_error", True, [Fate.FINISHED]),
        ("payload", True, [Fate.FINISHED]),
        ("payload", False, [Fate.NOT_STARTED]),
        ("overloaded", False, [Fate.NOT_STARTED]),
        ("timeout", True, []),
        ("killed", None, []),
    ],
)
def test_a_cancel_that_crosses_an_error(code: str, started: bool | None, fates: list[str]) -> None:
    """A late error tells of the handler what it knows, and nothing else."""
    pair = Pair()
    request = pair.served()
    pair.gateway.fault(request.number, code, "", started=started, details={})
    pair.client.cancel(request.number, pair.now)
    assert [frame.fate for frame, _, _ in pair.down()] == fates
    pair.up()
    assert not pair.gateway.has_data


def test_the_fate_after_a_timeout_that_crosses_a_cancel() -> None:
    """A handler that was overdue and still runs does not count as finished before it is."""
    pair = Pair()
    request = pair.served()
    pair.gateway.fault(request.number, "timeout", "", started=True, details={})
    pair.gateway.fate(request.number, Fate.STILL_RUNNING)
    pair.client.cancel(request.number, pair.now)
    assert [frame.fate for frame, _, _ in pair.down()] == [Fate.STILL_RUNNING]
    pair.up()
    assert pair.down() == []
    pair.gateway.fate(request.number, Fate.FINISHED)
    assert [frame.fate for frame, _, _ in pair.down()] == [Fate.FINISHED]


def test_a_call_that_is_cancelled_in_its_own_message() -> None:
    """Nobody sees it: it is not served, and its fate is that it never started."""
    pair = Pair()
    before, request, after = pair.call(), pair.call(), pair.call()
    pair.client.cancel(request.number, pair.now)
    assert [frame.id for frame, _, _ in pair.up()] == [before.number, after.number]
    assert list(pair.gateway.serving) == [before.number, after.number]
    ((frame, subject, _),) = pair.down()
    assert frame == FateFrame(request.number, Fate.NOT_STARTED)
    assert subject is request


def test_a_cancel_does_not_overtake_its_call() -> None:
    """In a backlog of several messages the Cancel leaves after the Call."""
    pair = Pair()
    request = None
    for _ in range(4):
        request = pair.call(payload=bytes(CHUNK_BYTES))
    pair.client.call(SimpleNamespace(deadline=1.0), Call(0, "A", "b", bytes(BATCH_BYTES), 0))
    pair.client.cancel(request.number, pair.now)
    order = []
    while frames := sent(pair.client):
        order += frames
    assert [type(frame) for frame in order] == [Call] * 5 + [Cancel] + [Chunk] * 3


def test_a_cancel_of_an_unknown_call() -> None:
    """The peer is told that a call that never arrived did not start; nothing else happens."""
    gateway = Pair().gateway
    assert gateway.receive(message(Cancel(7)), 0.0) == []
    assert sent(gateway) == [FateFrame(7, Fate.NOT_STARTED)]


def test_a_call_is_given_up_once() -> None:
    """Cancelling an unknown, answered or cancelled call sends nothing."""
    pair = Pair()
    request = pair.served()
    pair.client.cancel(99, pair.now)
    pair.client.cancel(request.number, pair.now)
    pair.client.cancel(request.number, pair.now)
    assert sent(pair.client) == [Cancel(request.number)]


def test_fates_are_waited_for_only_so_long() -> None:
    """After FATE_SECONDS a cancelled call is forgotten."""
    pair = Pair()
    request = pair.served()
    pair.client.cancel(request.number, pair.now)
    pair.client.tick(pair.now + FATE_SECONDS - 0.1)
    assert pair.client.stats()["ends"] == 1
    pair.client.tick(pair.now + FATE_SECONDS)
    assert pair.client.stats()["ends"] == 0


def test_remembered_ends_are_bounded() -> None:
    """However many calls are cancelled, no more than REMEMBERED_ENDS are remembered: the last."""
    pair = Pair(Credit(in_flight=10))
    count = REMEMBERED_ENDS + 500
    for _ in range(count):
        request = pair.call()
        pair.client.cancel(request.number, pair.now)
        pair.client.data_to_send(pair.now)
    assert pair.client.stats()["ends"] == REMEMBERED_ENDS
    words = [FateFrame(number, Fate.STOPPED) for number in (1, 500, 501, count)]
    told = [frame.id for frame, _, _ in pair.client.receive(message(*words), pair.now)]
    assert told == [501, count]


# --- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("waited", [0.0, 1.0, 4.0])
def test_the_deadline_counts_the_time_in_buffers(waited: float) -> None:
    """The gateway's deadline is the client's, however long the call was under way."""
    pair = Pair()
    pair.call()
    pair.up()
    request = pair.call(timeout=10.0)
    ((_, _, deadline),) = pair.up(transit=waited)
    assert deadline == pytest.approx(request.deadline + SKEW, abs=0.002)


def test_the_deadline_counts_the_time_before_the_message() -> None:
    """A call that waited for the transport has less time left when it arrives."""
    pair = Pair()
    pair.call()
    pair.up()
    request = pair.call(timeout=10.0)
    pair.now += 4.0
    ((_, _, deadline),) = pair.up()
    assert deadline == pytest.approx(request.deadline + SKEW, abs=0.002)


def test_an_overdue_call_ends_without_the_peer() -> None:
    """When nothing comes, tick() ends the call a little after its deadline; nobody knows more."""
    pair = Pair()
    request = pair.served(timeout=1.0)
    assert pair.client.wakeup <= request.deadline + ANSWER_GRACE
    assert pair.client.tick(request.deadline) == []
    ((fault, subject, _),) = pair.client.tick(request.deadline + ANSWER_GRACE)
    assert (fault.code, fault.started) == ("timeout", None)
    assert subject is request
    assert pair.client.stats()["calls"] == 0
    assert pair.client.tick(request.deadline + 1.0) == []


def test_the_peers_word_on_the_timeout_comes_first() -> None:
    """Within the grace the peer's own timeout is taken: it knows whether the handler began."""
    pair = Pair()
    request = pair.served(timeout=1.0)
    pair.gateway.fault(request.number, "timeout", "late", started=False, details={})
    pair.now = request.deadline + ANSWER_GRACE / 2
    ((fault, _, _),) = pair.down()
    assert (fault.message, fault.started) == ("late", False)
    pair.gateway.fate(request.number, Fate.NOT_STARTED)
    assert pair.down() == []


def test_a_result_after_the_deadline_is_not_taken() -> None:
    """A result within the grace is a timeout of a handler that has started and finished."""
    pair = Pair()
    request = pair.served(timeout=1.0)
    pair.gateway.result(request.number, b"late")
    pair.now = request.deadline + ANSWER_GRACE / 2
    events = pair.down()
    assert [subject for _, subject, _ in events] == [request, request]
    fate, fault = sorted((frame for frame, _, _ in events), key=lambda frame: type(frame).__name__)
    assert fate == FateFrame(request.number, Fate.FINISHED)
    assert (fault.code, fault.started) == ("timeout", True)
    assert pair.client.stats() == NOTHING


def test_a_result_at_the_deadline_is_taken() -> None:
    """A result that arrives at the very deadline counts."""
    pair = Pair()
    request = pair.served(timeout=1.0)
    pair.gateway.result(request.number, b"just")
    pair.now = request.deadline
    ((frame, _, _),) = pair.down()
    assert frame == Result(request.number, b"just")


@pytest.mark.parametrize("clock", [math.nan, math.inf, -math.inf])
def test_a_clock_that_is_no_time_breaks_the_rules(clock: float) -> None:
    """A peer cannot make deadlines endless with a clock of nonsense."""
    gateway = Pair().gateway
    with pytest.raises(RemoteProtocolError, match="clock"):
        gateway.receive(encode(Batch(clock, [Call(1, "ACME", "test", b"", 1)])), 0.0)


# --- signs of life --------------------------------------------------------------------------------


def test_silence_is_asked_about() -> None:
    """After PING_AFTER seconds of silence the connecting side pings, once, and gets its Pong."""
    pair = Pair()
    assert pair.client.wakeup == pair.now + PING_AFTER
    pair.client.tick(pair.now + PING_AFTER - 0.01)
    assert not pair.client.has_data
    pair.now += PING_AFTER
    pair.client.tick(pair.now)
    pair.client.tick(pair.now + 0.5)
    assert pair.up() == []
    assert pair.down() == []
    assert pair.client.wakeup == pair.now + PING_AFTER
    assert not pair.client.has_data


def test_the_listening_side_asks_later() -> None:
    """So that not both ends ping, the gateway waits longer."""
    pair = Pair()
    assert pair.gateway.wakeup > pair.client.wakeup + SKEW


def test_a_pong_measures_the_round_trip() -> None:
    """Half of the round trip is what a message is known to have been under way."""
    pair = Pair()
    pair.now += PING_AFTER
    pair.gateway.tick(pair.now + SKEW + PING_AFTER)
    pair.down(transit=0.2)
    pair.up(transit=0.2)
    request = pair.call(timeout=10.0)
    ((_, _, deadline),) = pair.up(transit=0.2)
    assert deadline == pytest.approx(request.deadline + SKEW, abs=0.002)


def test_a_silent_peer_is_dead() -> None:
    """A peer that does not answer the ping for DEAD_AFTER seconds counts as gone."""
    pair = Pair()
    client, start = pair.client, pair.now
    client.tick(start + PING_AFTER)
    assert client.wakeup == start + DEAD_AFTER
    client.tick(start + DEAD_AFTER - 0.01)
    assert not client.is_dead
    client.tick(start + DEAD_AFTER)
    assert client.is_dead
    assert client.state is State.CLOSED


def test_this_side_may_have_slept() -> None:
    """A peer that was not asked is asked first, however long it was silent."""
    pair = Pair()
    pair.now += 100.0
    pair.client.tick(pair.now)
    assert not pair.client.is_dead
    pair.up()
    pair.down()
    pair.client.tick(pair.now)
    assert not pair.client.is_dead


def test_any_message_is_a_sign_of_life() -> None:
    """A peer that sends something needs no ping."""
    pair = Pair()
    pair.client.receive(message(Started([])), pair.now + PING_AFTER - 0.1)
    pair.client.tick(pair.now + PING_AFTER + 0.1)
    assert not pair.client.has_data


@pytest.mark.parametrize("says_bye", ["client", "gateway"])
def test_a_closing_session_does_not_hang(says_bye: str) -> None:
    """Also after good-bye a silent peer is found dead, and no wake-up lies in the past."""
    pair = Pair()
    getattr(pair, says_bye).bye("stop")
    pair.up()
    pair.down()
    now = pair.now
    while not pair.client.is_dead:
        assert now <= pair.now + DEAD_AFTER
        pair.client.tick(now)
        assert pair.client.is_dead or pair.client.wakeup > now
        now = pair.client.wakeup


# --- credit ---------------------------------------------------------------------------------------


def test_calls_in_flight_are_limited() -> None:
    """Beyond the credit a call raises Overloaded, and has no effect; an answer gives room."""
    pair = Pair(Credit(in_flight=2))
    first = pair.served()
    pair.call()
    stats = pair.client.stats()
    with pytest.raises(Overloaded, match="its limit is 2") as caught:
        pair.call()
    assert caught.value.started is False
    assert pair.client.stats() == stats
    assert pair.client.next_number == 3
    pair.gateway.result(first.number, b"")
    pair.down()
    assert pair.call().number == 3


@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_an_ended_call_gives_its_credit_back(end: str) -> None:
    """A call that is cancelled or overdue is not in flight any more."""
    pair = Pair(Credit(in_flight=1))
    request = pair.call(timeout=1.0)
    if end == "cancel":
        pair.client.cancel(request.number, pair.now)
    else:
        pair.client.tick(request.deadline + ANSWER_GRACE)
    pair.call()


def test_unsent_bytes_are_limited() -> None:
    """Payload bytes that wait to be sent may not exceed the credit; sending gives room."""
    pair = Pair(Credit(unsent=100))
    pair.call(payload=bytes(60))
    with pytest.raises(Overloaded, match="its limit is 100"):
        pair.call(payload=bytes(41))
    pair.call(payload=bytes(40))
    pair.up()
    pair.call(payload=bytes(100))


def test_one_large_payload_always_fits() -> None:
    """A payload above the credit can be sent when nothing else waits."""
    pair = Pair(Credit(unsent=100))
    pair.call(payload=bytes(500))
    with pytest.raises(Overloaded):
        pair.call(payload=b"x")


def test_a_peer_that_ignores_the_credit_is_refused() -> None:
    """Calls beyond what this side serves are answered with Overloaded, and not begun."""
    pair = Pair(credit=Credit(in_flight=10), serves=Credit(in_flight=2))
    requests = [pair.call() for _ in range(3)]
    assert [call.id for call, _, _ in pair.up()] == [1, 2]
    ((fault, subject, _),) = pair.down()
    assert (fault.code, fault.started) == ("overloaded", False)
    assert subject is requests[2]
    assert pair.gateway.stats()["serving"] == 2


def test_a_peer_that_asks_without_reading_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that a peer does not take may not pile up without end."""
    monkeypatch.setattr(session_module, "MAX_ANSWERS", 100)
    gateway = Pair().gateway
    for _ in range(101):
        gateway.receive(message(Ping()), 0.0)
    with pytest.raises(RemoteProtocolError, match="without reading"):
        gateway.receive(message(Ping()), 0.0)


@pytest.mark.parametrize("frames", [[Ping()] * (MAX_FRAMES + 1), [Started([1] * (MAX_FRAMES + 1))]])
def test_a_message_of_too_many_frames_breaks_the_rules(frames: list[Frame]) -> None:
    """Nobody can keep this side busy, or fill its memory, with one message of tiny frames."""
    gateway = Pair().gateway
    with pytest.raises(RemoteProtocolError, match=f"length <= {MAX_FRAMES}"):
        gateway.receive(message(*frames), 0.0)
    assert not gateway.has_data


def test_a_side_that_is_not_read_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that pile up make a session crowded, in number or in bytes; calls never do."""
    monkeypatch.setattr(session_module, "MAX_ANSWERS", 8)
    pair = Pair(Credit(unsent=100))
    for _ in range(20):
        pair.call(payload=bytes(5))
    assert not pair.client.is_crowded
    gateway = Session(now=0.0, credit=Credit(unsent=100))
    for _ in range(5):
        assert not gateway.is_crowded
        gateway.receive(message(Ping()), 0.0)
    assert gateway.is_crowded
    gateway.data_to_send(0.0)
    assert not gateway.is_crowded
    gateway.receive(message(Call(1, "ACME", "test", b"", 10**9)), 0.0)
    gateway.result(1, bytes(101))
    assert gateway.is_crowded


def test_silence_counts_only_while_this_side_listens() -> None:
    """A peer that could not be heard is not taken for dead, and no wake-up lies in the past."""
    pair = Pair()
    client, now = pair.client, pair.now
    client.tick(now + PING_AFTER)
    client.excuse_silence(now + DEAD_AFTER)
    client.tick(now + DEAD_AFTER)
    assert not client.is_dead
    assert client.wakeup == now + 2 * DEAD_AFTER


# --- bytes out ------------------------------------------------------------------------------------


def test_control_leaves_before_answers_and_calls() -> None:
    """One message holds what waits: control frames, then answers, then calls."""
    pair = Pair()
    request = pair.served()
    gateway = pair.gateway
    gateway.call(SimpleNamespace(deadline=pair.now + SKEW + 5), Call(0, "A", "b", b"", 0))
    gateway.result(request.number, b"")
    gateway.tick(pair.now + SKEW + 2 * PING_AFTER)
    assert [type(frame) for frame in sent(gateway)] == [Ping, Result, Call]
    assert gateway.data_to_send(0.0) == b""
    assert not gateway.has_data


def test_a_large_backlog_leaves_in_several_messages() -> None:
    """A message is closed after BATCH_BYTES; control leaves first, order is kept, nothing lost."""
    pair = Pair()
    size = BATCH_BYTES // 4
    numbers = []
    for index in range(20):
        pair.call(payload=b"%02d" % index + bytes(size))
    pair.client.tick(pair.now + PING_AFTER)
    messages = []
    while data := pair.client.data_to_send(pair.now):
        messages.append(data)
        assert len(data) < BATCH_BYTES + 2 * size
    assert len(messages) >= 4
    assert isinstance(decode_batch(messages[0]).frames[0], Ping)
    for data in messages:
        numbers += [call.id for call, _, _ in pair.gateway.receive(data, pair.now + SKEW)]
    assert numbers == list(range(1, 21))
    assert pair.client.stats()["bytes_waiting"] == 0


def test_many_frames_leave_in_several_messages() -> None:
    """Calls that are cancelled at once free their credit, but no message has too many frames."""
    pair = Pair()
    for _ in range(MAX_FRAMES):
        pair.client.cancel(pair.call().number, pair.now)
    kinds: list[type] = []
    while frames := sent(pair.client):
        assert len(frames) <= MAX_FRAMES
        kinds += map(type, frames)
    assert kinds == [Call, Cancel] * MAX_FRAMES
    assert pair.client.stats()["bytes_waiting"] == 0


def test_answers_of_a_backlog_leave_before_calls() -> None:
    """In a backlog the calls wait until the answers have left."""
    pair = Pair()
    requests = [pair.served() for _ in range(3)]
    gateway = pair.gateway
    gateway.call(SimpleNamespace(deadline=pair.now + SKEW + 5), Call(0, "A", "b", b"", 0))
    details = {str(n): "x" * MAX_TEXT for n in range(3)}
    for request in requests:
        gateway.fault(request.number, "error", "x" * MAX_TEXT, started=True, details=details)
    kinds: list[type] = []
    while frames := sent(gateway):
        assert len(frames) < 3
        kinds += [type(frame) for frame in frames]
    assert kinds == [Fault, Fault, Fault, Call]


def test_nothing_is_handed_over_before_it_is_asked_for() -> None:
    """`was_handed_over` is true of a call from the message on that holds it."""
    pair = Pair()
    calls = [pair.call(payload=bytes(CHUNK_BYTES)) for _ in range(9)]

    def handed_over() -> list[bool]:
        return [pair.client.was_handed_over(call.number) for call in calls]

    assert handed_over() == [False] * 9
    pair.client.data_to_send(pair.now)
    assert handed_over() == [True] * 4 + [False] * 5
    pair.client.close()
    assert handed_over() == [True] * 4 + [False] * 5


# --- the end --------------------------------------------------------------------------------------


def test_bye_is_told() -> None:
    """The peer learns that the session ends on purpose, after what waits."""
    pair = Pair()
    request = pair.served()
    pair.gateway.result(request.number, b"last")
    pair.gateway.bye("maintenance")
    result, bye = pair.down()
    assert isinstance(result[0], Result)
    assert bye[0] == Bye("maintenance")
    assert pair.client.state is pair.gateway.state is State.CLOSING


def test_nothing_new_is_taken_after_bye() -> None:
    """A session that is closing calls nothing and takes no call, but still takes answers."""
    pair = Pair()
    request = pair.served()
    late = pair.call()
    pair.gateway.bye()
    assert pair.up() == []
    assert late.number not in pair.gateway.serving
    pair.gateway.result(request.number, b"")
    frames = [frame for frame, _, _ in pair.down()]
    assert [type(frame) for frame in frames] == [Bye, Result]
    with pytest.raises(LocalProtocolError):
        pair.call()


def test_close_gives_back_what_is_open() -> None:
    """The open calls of both sides come back, sent or not, and every table is empty."""
    pair = Pair()
    sent_one = pair.served()
    overdue, cancelled = pair.call(timeout=0.5), pair.call()
    pair.client.cancel(cancelled.number, pair.now)
    pair.client.tick(overdue.deadline + ANSWER_GRACE)
    unsent = pair.call()
    assert pair.client.close() == ([(sent_one.number, sent_one), (unsent.number, unsent)], [])
    assert pair.gateway.close() == ([], [sent_one])
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


def test_a_closed_session_is_silent() -> None:
    """After close() nothing is taken, sent or waited for."""
    pair = Pair()
    request = pair.served()
    pair.gateway.result(request.number, b"")
    data = pair.gateway.data_to_send(pair.now + SKEW)
    for session in (pair.client, pair.gateway):
        session.close()
    assert pair.client.receive(data, pair.now) == []
    pair.gateway.fate(request.number, Fate.FINISHED)
    pair.gateway.started(request.number)
    pair.client.cancel(request.number, pair.now)
    pair.client.bye()
    assert pair.client.tick(pair.now + 100) == []
    with pytest.raises(LocalProtocolError, match="closed"):
        pair.call()
    assert pair.client.stats() == pair.gateway.stats() == NOTHING
    assert pair.client.close() == ([], [])


def test_garbage_closes_nothing_by_itself() -> None:
    """Garbage raises RemoteProtocolError; the open calls are still there to be ended."""
    pair = Pair()
    request = pair.call()
    with pytest.raises(RemoteProtocolError):
        pair.client.receive(b"garbage", pair.now)
    assert pair.client.close() == ([(request.number, request)], [])


def test_pongs_answer_pings() -> None:
    """A Pong repeats the sender's clock of the ping."""
    gateway = Pair().gateway
    gateway.receive(message(Ping(), at=12.5), 0.0)
    assert sent(gateway) == [Pong(12_500.0)]


@pytest.mark.parametrize(("started", "remembered"), [(False, 0), (True, 1), (None, 1)])
def test_a_timeout_is_remembered_while_there_is_something_to_learn(
    started: bool | None, remembered: int
) -> None:
    """No word on the handler follows a timeout that says it never began."""
    pair = Pair()
    request = pair.served()
    pair.gateway.fault(request.number, "timeout", "too late", started=started, details={})
    pair.down()
    assert pair.client.stats() == {**NOTHING, "ends": remembered}
