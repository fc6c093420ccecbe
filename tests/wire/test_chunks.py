"""Payloads that travel in parts: what a session sends of them, and what it takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from test_session import NOTHING, SKEW, Pair, message, sent

from headgate.errors import PayloadError, RemoteProtocolError
from headgate.invocation import Fate
from headgate.wire.chunks import CHUNK_BYTES, MAX_PARTIAL, Allowance
from headgate.wire.frames import (
    Call,
    Cancel,
    Cast,
    Chunk,
    FateFrame,
    Fault,
    Frame,
    Ping,
    Progress,
    Result,
    Started,
    decode_batch,
)
from headgate.wire.session import (
    ANSWER_GRACE,
    BATCH_BYTES,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_TEXT,
    Credit,
    Event,
    Session,
)

LARGE = bytes(range(256)) * (20 * CHUNK_BYTES // 256) + b"end"
"""A payload of 21 parts, each of its own contents."""

FOREVER = 10**9


def part(number: int, size: int, *, of: int = 1) -> Chunk:
    return Chunk(of, number, memoryview(bytes(size)))


def announced(number: int, size: int, first: int = 0) -> Call:
    return Call(number, "ACME", "test", bytes(first), FOREVER, size=size)


def all_up(pair: Pair) -> list[Event]:
    """Bring everything to the gateway."""
    events = []
    while pair.client.has_data:
        events += pair.up()
    return events


def all_down(pair: Pair) -> list[Event]:
    """Bring everything to the client."""
    events = []
    while pair.gateway.has_data:
        events += pair.down()
    return events


def half_up(**options: Any) -> tuple[Pair, Any]:
    """A large call of which one message has arrived."""
    pair = Pair()
    request = pair.call(payload=LARGE, **options)
    assert pair.up() == []
    assert pair.gateway.stats()["arriving"] == 1
    return pair, request


def half_down(timeout: float = 10.0) -> tuple[Pair, Any]:
    """A large result of which one message has arrived."""
    pair = Pair()
    request = pair.served(timeout)
    pair.gateway.result(request.number, LARGE)
    ((started, owner, _),) = pair.down()
    assert started == Started([request.number])
    assert owner is request
    return pair, request


def settled(pair: Pair) -> bool:
    """Let everything arrive, and look whether nothing is left."""
    while pair.client.has_data or pair.gateway.has_data:
        pair.up()
        pair.down()
    return pair.client.stats() | {"ends": 0} == pair.gateway.stats() == NOTHING


# --- the way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [CHUNK_BYTES, CHUNK_BYTES + 1, BATCH_BYTES, len(LARGE)])
def test_a_payload_arrives_as_it_was(size: int) -> None:
    """A call and its result have their payloads whole, whatever their size."""
    pair = Pair()
    request = pair.call(payload=LARGE[:size])
    ((call, subject, deadline),) = all_up(pair)
    assert (call.payload, subject, call.size) == (LARGE[:size], None, 0)
    assert deadline == pytest.approx(request.deadline + SKEW)
    pair.gateway.serve(call.id, "handler")
    pair.gateway.result(call.id, LARGE[-size:])
    result, owner, _ = all_down(pair)[-1]
    assert (result.payload, owner) == (LARGE[-size:], request)
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


def test_a_large_message_is_a_large_call() -> None:
    """The payload of a Cast travels like that of a Call."""
    pair = Pair()
    request = SimpleNamespace(deadline=pair.now + 5)
    pair.client.call(request, Cast(0, "ACME", "refresh", LARGE, 0, scope="C"))
    ((cast, _, _),) = all_up(pair)
    assert isinstance(cast, Cast)
    assert cast.payload == LARGE
    assert pair.gateway.stats()["serving"] == 1


def test_small_calls_overtake() -> None:
    """What is called while a large payload travels arrives with the next message."""
    pair, _ = half_up()
    for _ in range(3):
        small = pair.call(payload=b"small")
        ((call, _, _),) = pair.up()
        assert call.id == small.number
    assert len(all_up(pair)) == 1


def test_everything_else_leaves_before_the_parts() -> None:
    """Control, answers and calls leave first, then parts, and no message is longer for them."""
    pair, _ = half_up()
    client = pair.client
    client.receive(message(Ping(), Call(1, "A", "b", b"", FOREVER)), pair.now)
    client.result(1, b"answer")
    pair.call()
    data = client.data_to_send(pair.now)
    kinds = [type(frame).__name__ for frame in decode_batch(data).frames]
    assert kinds == ["Pong", "Result", "Call", "Chunk", "Chunk", "Chunk", "Chunk"]
    assert len(data) < BATCH_BYTES + 1000


def test_payloads_take_turns() -> None:
    """Of several payloads that are sent one part of each leaves in turn."""
    pair = Pair()
    for size in (9, 3, 3):
        pair.call(payload=bytes(size * CHUNK_BYTES))
    frames = []
    while pair.client.has_data:
        frames += sent(pair.client)
    assert [frame.id for frame in frames] == [1, 2, 3] + [1, 2, 3] * 3 + [1] * 5


def test_parts_are_views() -> None:
    """Nothing of a large payload is copied before its part is sent."""
    pair = Pair()
    pair.call(payload=LARGE)
    header, *parts = pair.client._next_frames()
    assert header.payload.obj is LARGE
    assert all(chunk.data.obj is LARGE for chunk in parts)


def test_waiting_bytes_are_counted_until_they_leave() -> None:
    """A payload counts against `unsent` with what was not sent of it."""
    pair = Pair()
    pair.call(payload=LARGE)
    waiting = [pair.client.stats()["bytes_waiting"]]
    while frames := sent(pair.client):
        gone = sum(len(getattr(frame, "payload", b"") or frame.data) for frame in frames)
        waiting.append(pair.client.stats()["bytes_waiting"])
        assert waiting[-2] - waiting[-1] == gone
    assert (waiting[0], waiting[-1]) == (len(LARGE), 0)


def test_a_credit_of_calls_counts_those_in_parts() -> None:
    """More calls than the credit are refused, also if none of them has arrived as a whole."""
    gateway = Session(now=0.0, serves=Credit(in_flight=3), connecting=False)
    gateway.receive(message(*(announced(n, 10**6) for n in range(1, 6))), 0.0)
    assert gateway.stats()["arriving"] == 3
    assert [(f.id, f.code, f.started) for f in sent(gateway)] == [
        (4, "overloaded", False),
        (5, "overloaded", False),
    ]


@pytest.mark.parametrize("waited", [0.0, 5.0])
def test_the_deadline_is_that_of_the_announcement(waited: float) -> None:
    """However long the parts take, the deadline is the same moment."""
    pair, request = half_up(timeout=60.0)
    pair.now += waited
    ((_, _, deadline),) = all_up(pair)
    assert deadline == pytest.approx(request.deadline + SKEW)


# --- progress -------------------------------------------------------------------------------------


def test_a_large_progress_value() -> None:
    """It arrives whole, and says at once that the handler runs."""
    pair = Pair()
    request = pair.served()
    pair.gateway.progress(request.number, LARGE)
    (started, _, _), *_, (progress, owner, _) = all_down(pair)
    assert started == Started([1])
    assert isinstance(progress, Progress)
    assert (progress.payload, owner) == (LARGE, request)
    pair.gateway.result(request.number, b"")
    pair.down()
    assert settled(pair)


def test_progress_waits_for_the_large_value_before_it() -> None:
    """Later values come after a large one that is being sent; of those that wait the last one."""
    pair = Pair()
    request = pair.served()
    pair.gateway.progress(request.number, LARGE)
    for value in (b"1", b"2", LARGE[::-1]):
        pair.gateway.progress(request.number, value)
    pair.down()
    assert pair.gateway.stats()["bytes_waiting"] > len(LARGE)
    values = [frame.payload for frame, _, _ in all_down(pair) if isinstance(frame, Progress)]
    assert values == [LARGE, LARGE[::-1]]
    pair.gateway.result(request.number, b"")
    pair.down()
    assert settled(pair)


def test_a_large_value_takes_the_place_of_a_small_one() -> None:
    """A value that waits is replaced by a later one, however large."""
    pair = Pair()
    request = pair.served()
    for value in (b"1", LARGE):
        pair.gateway.progress(request.number, value)
    values = [frame.payload for frame, _, _ in all_down(pair) if isinstance(frame, Progress)]
    assert values == [LARGE]


@pytest.mark.parametrize("answer", ["small", "large", "fault"])
def test_an_answer_cuts_a_progress_value_short(answer: str) -> None:
    """When the handler has ended, nobody waits for the rest of what it reported."""
    pair = Pair()
    request = pair.served()
    pair.gateway.progress(request.number, LARGE)
    pair.gateway.progress(request.number, b"later")
    pair.down()
    if answer == "fault":
        pair.gateway.fault(request.number, "error", "", started=True, details={})
    else:
        pair.gateway.result(request.number, LARGE[1:] if answer == "large" else b"")
    events = all_down(pair)
    assert not any(isinstance(frame, Progress) for frame, _, _ in events)
    assert isinstance(events[-1][0], Fault if answer == "fault" else Result)
    assert settled(pair)


def test_a_progress_value_that_is_not_taken_hurts_nobody() -> None:
    """One that is too large for this side is dropped as it comes, and the call goes on."""
    client = Session(now=0.0, serves=Credit(payload=10 * CHUNK_BYTES))
    client.call(SimpleNamespace(deadline=FOREVER), Call(0, "A", "b", b"", 0))
    client.data_to_send(0.0)
    for _ in range(2):
        client.receive(message(Progress(1, bytes(9), size=99 * CHUNK_BYTES)), 0.0)
        assert client.receive(message(*[part(1, CHUNK_BYTES, of=5)] * 99), 0.0) == []
    assert client.stats()["bytes_arriving"] == 0
    ((result, _, _),) = client.receive(message(Result(1, b"answer")), 0.0)
    assert isinstance(result, Result)
    assert client.stats() == NOTHING


# --- ends in the middle ---------------------------------------------------------------------------


def test_a_cancel_stops_a_call_in_the_middle() -> None:
    """Nothing more of it is sent, and its fate is that it has not started."""
    pair, request = half_up()
    pair.client.cancel(request.number, pair.now)
    assert sent_all(pair.client, pair.gateway, pair.now) == [Cancel(1)]
    assert pair.gateway.stats()["arriving"] == 0
    ((fate, owner, _),) = pair.down()
    assert (fate, owner) == (FateFrame(1, Fate.NOT_STARTED), request)
    assert settled(pair)


def sent_all(session: Session, peer: Session, now: float) -> list[Frame]:
    """Return all that a session sends, and bring it to its peer."""
    frames: list[Frame] = []
    while data := session.data_to_send(now):
        frames += decode_batch(data).frames
        peer.receive(data, now + SKEW)
    return frames


def test_a_cancel_before_anything_left() -> None:
    """The first part is followed by the cancellation alone."""
    pair = Pair()
    request = pair.call(payload=LARGE)
    pair.client.cancel(request.number, pair.now)
    assert pair.client.stats()["bytes_waiting"] == CHUNK_BYTES
    assert [type(frame) for frame in sent_all(pair.client, pair.gateway, pair.now)] == [
        Call,
        Cancel,
    ]
    assert settled(pair)


def test_the_deadline_ends_a_call_in_the_middle_at_both_ends() -> None:
    """The sender says that it did not start, and the receiver forgets it by itself."""
    pair, request = half_up(timeout=1.0)
    pair.now = request.deadline + ANSWER_GRACE + 0.01
    assert pair.gateway.wakeup <= pair.now + SKEW
    assert pair.gateway.tick(pair.now + SKEW) == []
    assert pair.gateway.stats()["arriving"] == pair.gateway.stats()["bytes_arriving"] == 0
    ((fault, owner, _),) = pair.client.tick(pair.now)
    assert (fault.code, fault.started, owner) == ("timeout", False, request)
    assert sum(isinstance(frame, Chunk) for frame in sent(pair.client)) == 0
    assert settled(pair)


def test_the_receivers_word_on_the_deadline() -> None:
    """The sender stops when the receiver says that time is over."""
    pair, request = half_up(timeout=1.0)
    pair.now = request.deadline + 0.01
    pair.gateway.tick(pair.now + SKEW)
    ((fault, owner, _),) = pair.down()
    assert (fault.code, fault.started, owner) == ("timeout", False, request)
    assert pair.client.stats() == NOTHING


def test_a_fault_stops_a_call_in_the_middle() -> None:
    """A refused call costs no more of the line; what was under way is dropped in silence."""
    pair, request = half_up()
    under_way = pair.client.data_to_send(pair.now)
    pair.gateway._arrivals.forget((1, 1))
    pair.gateway._refuse(Fault(1, "overloaded", "", False))
    ((fault, owner, _),) = pair.down()
    assert (fault.code, owner) == ("overloaded", request)
    assert pair.client.stats() == NOTHING
    assert pair.gateway.receive(under_way, pair.now + SKEW) == []
    assert settled(pair)


def test_refused_calls_are_not_remembered_for_ever() -> None:
    """That a call was incomplete is known until its error was acted on, and no longer."""
    pair, _ = half_up()
    pair.gateway._forget_call(1)
    pair.gateway._refuse(Fault(1, "overloaded", "", False))
    pair.down()
    assert not pair.client.was_handed_over(1)
    pair.client.receive(message(Ping(), at=pair.now), pair.now)
    assert pair.client._unfinished == set()


def test_the_end_of_a_session_ends_it() -> None:
    """An incomplete call has certainly not started, a complete one may have."""
    pair, _ = half_up()
    small = pair.call()
    late = pair.call(payload=LARGE)
    pair.up()
    assert [number for number, _ in pair.client.close()[0]] == [1, small.number, late.number]
    assert [pair.client.was_handed_over(number) for number in (1, 2, 3)] == [False, True, False]
    pair.gateway.serve(small.number, "handler")
    assert pair.gateway.close() == ([], ["handler"])
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


def test_a_cancel_stops_a_result_in_the_middle() -> None:
    """The rest is not sent, and the caller learns that the handler has finished."""
    pair, request = half_down()
    pair.client.cancel(request.number, pair.now)
    assert pair.client.stats()["arriving"] == 0
    under_way = pair.gateway.data_to_send(pair.now + SKEW)
    assert pair.up() == []
    assert pair.client.receive(under_way, pair.now) == []
    ((fate, owner, _),) = pair.down()
    assert (fate, owner) == (FateFrame(1, Fate.FINISHED), request)
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


def test_the_deadline_ends_a_result_in_the_middle() -> None:
    """The handler has started and finished, and the rest of its result is not sent."""
    pair, request = half_down(timeout=1.0)
    pair.now = request.deadline + ANSWER_GRACE + 0.01
    (fate, _, _), (fault, owner, _) = pair.client.tick(pair.now)
    assert fate == FateFrame(1, Fate.FINISHED)
    assert (fault.code, fault.started, owner) == ("timeout", True, request)
    assert sent_all(pair.client, pair.gateway, pair.now) == [Cancel(1)]
    assert settled(pair)


@pytest.mark.parametrize("ended", ["cancelled", "timed out", "timing out"])
def test_a_large_result_that_comes_too_late(ended: str) -> None:
    """It tells the handler's fate with its first part, and the rest is called off."""
    pair = Pair()
    request = pair.served(timeout=1.0)
    if ended == "cancelled":
        pair.client.cancel(request.number, pair.now)
        pair.client.data_to_send(pair.now)
    pair.now = request.deadline + (0.01 if ended == "timing out" else 0.5)
    if ended == "timed out":
        pair.client.tick(pair.now)
    pair.gateway.result(request.number, LARGE)
    events = pair.down()
    assert events[0][:2] == (FateFrame(1, Fate.FINISHED), request)
    assert len(events) == (2 if ended == "timing out" else 1)
    assert sent_all(pair.client, pair.gateway, pair.now) == [Cancel(1)]
    assert settled(pair)


def test_a_message_that_breaks_a_rule_takes_a_result_back() -> None:
    """A result whose last part comes with a broken frame has not come."""
    pair, request = half_down()
    while pair.gateway.has_data:
        last = pair.gateway.data_to_send(pair.now + SKEW)
        frames = decode_batch(last).frames
        if pair.gateway.has_data:
            pair.client.receive(last, pair.now)
    with pytest.raises(RemoteProtocolError):
        pair.client.receive(message(*frames, Call(0, "", "", b"", 0), at=pair.now), pair.now)
    assert pair.client.close() == ([(1, request)], [])
    assert pair.client.stats() == NOTHING


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, -1, -(2**63), Credit().payload + 1])
def test_an_absurd_size_ends_that_call_alone(size: int) -> None:
    """The call is refused at once, costs nothing, and what follows of it is dropped."""
    gateway = Session(now=0.0, connecting=False)
    frames = [announced(1, size, first=100), part(1, CHUNK_BYTES), part(1, 0)]
    small = Call(2, "ACME", "test", b"", FOREVER)
    ((call, _, _),) = gateway.receive(message(*frames, small), 0.0)
    assert call.id == 2
    (fault,) = sent(gateway)
    assert (fault.id, fault.code, fault.started) == (1, "payload", False)
    assert gateway.stats() == {**NOTHING, "serving": 1}


def test_an_absurd_size_of_a_result_ends_that_request_alone() -> None:
    """The caller learns that the handler has finished; the session goes on."""
    pair = Pair()
    request, other = pair.served(), pair.served()
    frame = Result(request.number, b"", size=2**63)
    (fate, _, _), (fault, owner, _) = pair.client.receive(message(frame), pair.now)
    assert (fate.fate, fault.code, fault.started) == (Fate.FINISHED, "payload", True)
    assert owner is request
    assert pair.client.receive(message(part(1, 99, of=6)), pair.now) == []
    assert sent(pair.client) == [Cancel(1)]
    assert list(pair.client.calls.values()) == [other]


def test_half_sent_payloads_are_limited() -> None:
    """The first ones may stay, the others end with the word that they did not start."""
    gateway = Session(now=0.0, connecting=False)
    for number in range(1, 301):
        assert gateway.receive(message(announced(number, 10**6, first=50_000)), 0.0) == []
    assert gateway.stats()["arriving"] == MAX_PARTIAL
    assert gateway.stats()["bytes_arriving"] == MAX_PARTIAL * 50_000
    refused = [(fault.id, fault.code, fault.started) for fault in sent(gateway)]
    assert refused == [(n, "overloaded", False) for n in range(MAX_PARTIAL + 1, 301)]
    gateway.close()
    assert gateway.stats() == NOTHING


def test_announcements_cost_nothing() -> None:
    """Calls of which no byte has come do not count as half sent."""
    gateway = Session(now=0.0, connecting=False)
    gateway.receive(message(*(announced(n, 10**6) for n in range(1, 301))), 0.0)
    assert gateway.stats()["arriving"] == 300
    assert not gateway.has_data


def test_bytes_of_half_sent_payloads_are_limited() -> None:
    """The call whose part is too much ends; the others go on."""
    gateway = Session(now=0.0, serves=Credit(payload=10 * CHUNK_BYTES), connecting=False)
    frames: list[Frame] = [announced(n, 6 * CHUNK_BYTES) for n in (1, 2)]
    gateway.receive(message(*frames, *[part(1, CHUNK_BYTES)] * 5, *[part(2, CHUNK_BYTES)] * 6), 0.0)
    assert [(f.id, f.code, f.started) for f in sent(gateway)] == [(2, "overloaded", False)]
    ((call, _, _),) = gateway.receive(message(part(2, 1), part(1, CHUNK_BYTES)), 0.0)
    assert (call.id, len(call.payload)) == (1, 6 * CHUNK_BYTES)
    assert gateway.stats()["bytes_arriving"] == 0


def test_the_allowance_is_shared() -> None:
    """What one session holds another one cannot have, until it is given back."""
    allowance = Allowance(10)
    first, second = (Session(now=0.0, connecting=False, allowance=allowance) for _ in range(2))
    first.receive(message(announced(1, 100, first=8)), 0.0)
    second.receive(message(announced(1, 100, first=3)), 0.0)
    assert [(f.id, f.code, f.started) for f in sent(second)] == [(1, "overloaded", False)]
    assert allowance.taken == 8
    first.close()
    assert allowance.taken == 0
    second.receive(message(announced(2, 100, first=3)), 0.0)
    assert allowance.taken == 3
    second.close()
    assert allowance.taken == 0


def test_a_sender_keeps_to_the_limits() -> None:
    """However many payloads wait, the receiver has not to refuse one of them."""
    credit = Credit(payload=8 * CHUNK_BYTES)
    pair = Pair(credit)
    payloads = [bytes([n]) * (1 + n % 7) * CHUNK_BYTES + b"." for n in range(1, 150)]
    for payload in payloads:
        pair.call(payload=payload)
    small = pair.call(payload=b"small")
    found: dict[int, bytes] = {}
    found |= {call.id: call.payload for call, _, _ in pair.up()}
    assert list(found) == [small.number]
    while pair.client.has_data:
        found |= {call.id: call.payload for call, _, _ in pair.up()}
        assert pair.gateway.stats()["bytes_arriving"] <= credit.payload
    assert not pair.gateway.has_data
    assert [found[n] for n in range(1, 150)] == payloads


def test_small_payloads_do_not_wait_behind_one_that_does_not_fit() -> None:
    """Of what waits for room, what fits goes on."""
    pair = Pair(Credit(payload=8 * CHUNK_BYTES))
    sizes = [7, 6, 2, 2]
    numbers = [pair.call(payload=bytes(size * CHUNK_BYTES - 1)).number for size in sizes]
    order = [call.id for call, _, _ in all_up(pair)]
    assert sorted(order) == numbers
    assert order.index(3) < order.index(2)


def test_a_payload_that_the_peer_does_not_take_is_not_sent() -> None:
    """A call is refused here; of a result the caller is told."""
    pair = Pair(Credit(payload=CHUNK_BYTES))
    stats = pair.client.stats()
    with pytest.raises(PayloadError) as caught:
        pair.call(payload=bytes(CHUNK_BYTES + 1))
    assert caught.value.started is False
    assert pair.client.stats() == stats
    gateway = Session(now=0.0, credit=Credit(payload=CHUNK_BYTES), connecting=False)
    gateway.receive(message(Call(1, "A", "b", b"", FOREVER)), 0.0)
    gateway.serve(1, "handler")
    gateway.result(1, bytes(CHUNK_BYTES + 1))
    (fault,) = sent(gateway)
    assert (fault.code, fault.started) == ("payload", True)
    assert gateway.stats() == NOTHING


# --- broken peers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        [part(1, 9)],
        [part(1, 9, of=2)],
        [part(1, 9, of=6)],
        [part(1, 9, of=5)],
        [part(0, 9, of=4)],
        [Call(1, "A", "b", b"", FOREVER), part(1, 9)],
        [announced(1, 20, first=9), part(1, 12)],
        [announced(1, 20, first=21)],
        [announced(1, 20, first=10), part(1, 10), part(1, 1)],
        [announced(1, 20), part(2, 10)],
        [announced(1, 20), announced(1, 20)],
    ],
)
def test_parts_that_were_not_announced_break_the_rules(frames: list[Frame]) -> None:
    """A part of what was not announced, of what is whole, or beyond the size closes the session."""
    gateway = Session(now=0.0, connecting=False)
    with pytest.raises(RemoteProtocolError):
        gateway.receive(message(*frames), 0.0)
    gateway.close()
    assert gateway.stats() == NOTHING


@pytest.mark.parametrize(
    "frames",
    [
        [part(1, 9, of=6)],
        [part(1, 9, of=5)],
        [part(9, 9, of=6)],
        [Result(1, b"", size=20), Result(1, b"", size=20)],
        [Result(1, b"", size=20), part(1, 21, of=6)],
        [Result(1, b"", size=20), part(1, 2, of=5)],
        [Result(1, bytes(21), size=20)],
    ],
)
def test_parts_of_answers_that_were_not_announced(frames: list[Frame]) -> None:
    """So does one of an answer; the caller's request is still there to be ended."""
    client = Session(now=0.0)
    request = SimpleNamespace(deadline=FOREVER)
    client.call(request, Call(0, "A", "b", b"", 0))
    client.data_to_send(0.0)
    with pytest.raises(RemoteProtocolError):
        client.receive(message(*frames), 0.0)
    assert client.close() == ([(1, request)], [])
    assert client.stats() == NOTHING


@pytest.mark.parametrize("answer", [Result(1, b"small"), Fault(1, "denied", "", False)])
def test_an_answer_before_the_question_is_complete(answer: Frame) -> None:
    """A peer that answers half a call, or answers twice, leaves nothing behind."""
    pair, _ = half_up()
    pair.client.receive(message(Result(1, b"", size=20), answer), pair.now)
    while pair.client.data_to_send(pair.now):
        pass
    assert pair.client.stats() == NOTHING


# --- the size of a message ------------------------------------------------------------------------


def longest_call() -> Call:
    name = "\U0001f600" * MAX_NAME
    where = {"remote": name, "host": name}
    return Call(0, name, name, b"", 0, ancestors=("f" * 32,) * 16, extensions=where)


def test_no_message_is_longer_than_allowed() -> None:
    """However long the names and the texts of errors are, they leave in more messages."""
    pair = Pair()
    for count in (512, 4096):
        for _ in range(count):
            pair.client.call(SimpleNamespace(deadline=pair.now + 9), longest_call())
        while data := pair.client.data_to_send(pair.now):
            assert len(data) < MAX_MESSAGE
            pair.gateway.receive(data, pair.now + SKEW)
        details = {f"{'x' * 300}{n}": "y" * 2 * MAX_TEXT for n in range(99)}
        for number in list(pair.gateway.serving):
            if number % 16:
                pair.gateway.result(number, bytes(60))
            else:
                pair.gateway.fault(number, "e" * 999, "x" * 99_999, started=None, details=details)
        while data := pair.gateway.data_to_send(pair.now + SKEW):
            assert len(data) < MAX_MESSAGE
            pair.client.receive(data, pair.now)
    assert settled(pair)
