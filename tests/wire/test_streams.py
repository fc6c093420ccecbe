"""Yielded values between two sessions: in order, within the grant, and dropped when it is over."""

from __future__ import annotations

from typing import Any

import pytest
from test_session import NOTHING, SKEW, Pair, message, sent

from headgate.errors import LocalProtocolError, Overloaded, PayloadError, RemoteProtocolError
from headgate.invocation import Fate
from headgate.wire.chunks import CHUNK_BYTES
from headgate.wire.frames import (
    FIRST_GRANT,
    VALUE_COST,
    Call,
    Cancel,
    FateFrame,
    Fault,
    Grant,
    Item,
    Result,
    cost,
    decode_batch,
)
from headgate.wire.session import Credit
from headgate.wire.streams import MAX_AHEAD


@pytest.fixture
def pair() -> Pair:
    return Pair()


def arrived(pair: Pair) -> list[Any]:
    """Bring all that the gateway has to the client, and return the frames it must act on."""
    found = []
    while pair.gateway.has_data:
        found += [frame for frame, _, _ in pair.down()]
    return found


def values(frames: list[Any]) -> list[bytes]:
    return [bytes(part) for frame in frames if isinstance(frame, Item) for part in frame.parts]


def test_values_come_before_the_answer(pair: Pair) -> None:
    """However the values were handed over, they arrive in order, and then the call's end."""
    number = pair.served().number
    pair.gateway.items(number, [b"a", b"b"])
    pair.gateway.items(number, [b"c"])
    pair.gateway.result(number, b"")
    *items, result = arrived(pair)
    assert values(items) == [b"a", b"b", b"c"]
    assert isinstance(result, Result)
    assert result.payload == b""
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


@pytest.mark.parametrize("size", [CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES // 2])
def test_a_large_value_travels_in_pieces(pair: Pair, size: int) -> None:
    """No frame is longer than a chunk, and what arrives is whole."""
    number = pair.served().number
    given = [b"x", bytes(size), b"y" * 70, bytes(size), b"z"]
    pair.gateway.items(number, given)
    pair.gateway.fault(number, "handler_error", "no", started=True, details={})
    found = []
    while data := pair.gateway.data_to_send(pair.now + SKEW):
        for frame in decode_batch(data).frames:
            assert sum(map(len, getattr(frame, "parts", []))) <= CHUNK_BYTES
        found += [frame for frame, _, _ in pair.client.receive(data, pair.now)]
    *items, fault = found
    assert values(items) == given
    assert isinstance(fault, Fault)
    assert pair.client.stats() == pair.gateway.stats() == NOTHING


def test_an_answer_overtakes_the_values_of_others(pair: Pair) -> None:
    """Values leave when nothing else waits, those of several streams in turn."""
    first, second, third = (pair.served().number for _ in range(3))
    for number in (first, second):
        pair.gateway.items(number, [bytes(CHUNK_BYTES)] * 2)
    pair.gateway.result(third, b"quick")
    frames = []
    while pair.gateway.has_data:
        frames += sent(pair.gateway)
    assert [frame.id for frame in frames] == [third, first, second, first, second]


def test_a_grant_reaches_who_serves(pair: Pair) -> None:
    """It comes with what serves the call; one that grants nothing more is not sent."""
    request = pair.served()
    pair.gateway.items(request.number, [b"a"])
    arrived(pair)
    pair.client.grant(request.number, FIRST_GRANT)
    assert not pair.client.has_data
    pair.client.grant(request.number, FIRST_GRANT + 1)
    ((grant, subject, _),) = pair.up()
    assert grant == Grant(request.number, FIRST_GRANT + 1)
    assert subject is request


def test_one_value_may_be_beyond_the_grant(pair: Pair) -> None:
    """A value is begun within the grant, whatever its size; the next one is not."""
    number = pair.served().number
    pair.client.receive(message(Item(number, [bytes(FIRST_GRANT - VALUE_COST - 1), b"x" * 999])), 0)
    with pytest.raises(RemoteProtocolError, match="beyond the 262144 bytes"):
        pair.client.receive(message(Item(number, [b""])), 0)


def test_a_piece_does_not_count_as_a_value(pair: Pair) -> None:
    """The grant is compared where a value begins, not where it goes on."""
    number = pair.served().number
    for part in (bytes(FIRST_GRANT), bytes(FIRST_GRANT)):
        pair.client.receive(message(Item(number, [part], partial=True)), 0)
    ((item, _, _),) = pair.client.receive(message(Item(number, [b"end"])), 0)
    assert len(item.parts[0]) == 2 * FIRST_GRANT + 3
    with pytest.raises(RemoteProtocolError, match="beyond"):
        pair.client.receive(message(Item(number, [b"more"])), 0)


def test_both_ends_count_the_same(pair: Pair) -> None:
    """What a sender counts of its values is what the receiver does, to the byte, in pieces too."""
    number = pair.served().number
    given = [bytes(size) for size in (0, 70_000, 1, 150_000, 64)]
    pair.gateway.items(number, given)
    arrived(pair)
    left = FIRST_GRANT - cost(given)
    pair.gateway.items(number, [bytes(left - VALUE_COST)])
    arrived(pair)
    # The grant is used up exactly: one byte more would be too much.
    pair.gateway.items(number, [b""])
    with pytest.raises(RemoteProtocolError, match="beyond"):
        arrived(pair)
    pair = Pair()
    number = pair.served().number
    pair.gateway.items(number, [*given, bytes(left - VALUE_COST - 1), b""])
    assert len(values(arrived(pair))) == len(given) + 2


@pytest.mark.parametrize(
    "break_rule",
    [
        lambda pair, number: pair.client.receive(message(Item(number, [])), 0),
        lambda pair, number: pair.client.receive(message(Item(number + 1, [b"x"])), 0),
        lambda pair, number: pair.client.receive(
            message(Item(number, [b"x"], partial=True), Result(number, b"")), 0
        ),
        lambda pair, number: pair.gateway.receive(
            message(Grant(number, MAX_AHEAD + 1), at=pair.now), pair.now + SKEW
        ),
    ],
    ids=["no value", "no call", "an answer in a value", "too far ahead"],
)
def test_what_breaks_the_protocol(pair: Pair, break_rule: Any) -> None:
    """A peer that breaks a rule of streams is cut off."""
    number = pair.served().number
    with pytest.raises(RemoteProtocolError):
        break_rule(pair, number)


def test_values_that_nobody_asked_for_break_the_protocol(pair: Pair) -> None:
    """A call without the flag takes none."""
    request = pair.served()
    request.streams = False
    with pytest.raises(RemoteProtocolError, match="takes none"):
        pair.client.receive(message(Item(request.number, [b"x"])), 0)


def test_a_reader_may_grant_ahead_of_what_was_sent(pair: Pair) -> None:
    """The limit moves with the values that were sent."""
    request = pair.served()
    pair.gateway.items(request.number, [b"x"])
    grant = Grant(request.number, MAX_AHEAD + 1 + VALUE_COST)
    ((frame, _, _),) = pair.gateway.receive(message(grant, at=pair.now), pair.now + SKEW)
    assert frame == grant


def test_a_value_that_is_too_large_is_not_sent() -> None:
    """The sender knows what the receiver takes."""
    pair = Pair(credit=Credit(payload=1000), serves=Credit(payload=1000))
    pair.gateway = type(pair.gateway)(
        now=pair.now + SKEW, credit=Credit(payload=1000), connecting=False
    )
    number = pair.served().number
    with pytest.raises(PayloadError, match="1,001 bytes"):
        pair.gateway.items(number, [b"", bytes(1001)])
    assert pair.gateway.stats()["streams"] == 0


def test_a_large_result_cannot_follow_values(pair: Pair) -> None:
    """Whoever answers is told of the mistake."""
    number = pair.served().number
    pair.gateway.items(number, [b"x"])
    with pytest.raises(LocalProtocolError):
        pair.gateway.result(number, bytes(CHUNK_BYTES + 1))


@pytest.mark.parametrize("ended", [True, False])
def test_a_cancelled_stream_leaves_nothing(pair: Pair, ended: bool) -> None:
    """What waits is dropped; if the handler has ended, the caller learns that."""
    request = pair.served()
    pair.gateway.items(request.number, [bytes(CHUNK_BYTES)] * 20)
    pair.down()
    if ended:
        pair.gateway.result(request.number, b"")
    pair.client.cancel(request.number, pair.now)
    events = pair.up()
    assert [type(frame) for frame, _, _ in events] == ([] if ended else [Cancel])
    assert pair.gateway.stats() == NOTHING | {"frames_waiting": int(ended)}
    if ended:
        assert arrived(pair) == [FateFrame(request.number, Fate.FINISHED)]
    assert pair.client.stats()["streams"] == 0


def test_late_values_are_dropped(pair: Pair) -> None:
    """Those of a call that was cancelled meanwhile, in pieces too."""
    request = pair.served()
    pair.client.cancel(request.number, pair.now)
    for partial in (True, False):
        late = message(Item(request.number, [b"x"], partial=partial))
        assert pair.client.receive(late, pair.now) == []
    assert pair.client.stats()["streams"] == 0


def test_values_after_the_deadline_are_not_taken(pair: Pair) -> None:
    """A value comes in time, or not at all."""
    request = pair.served(timeout=1.0)
    pair.gateway.items(request.number, [b"x"])
    assert pair.down(transit=1.01) == []


def test_who_does_not_read_is_crowded(pair: Pair) -> None:
    """Values that wait count: a peer that does not take them is not heard."""
    pair = Pair(credit=Credit(unsent=1000))
    pair.gateway = type(pair.gateway)(
        now=pair.now + SKEW, credit=Credit(unsent=1000), connecting=False
    )
    number = pair.served().number
    pair.gateway.items(number, [bytes(1001)])
    assert pair.gateway.is_crowded
    arrived(pair)
    assert not pair.gateway.is_crowded
    assert pair.gateway.stats()["bytes_waiting"] == 0


def test_who_does_not_read_gets_no_more_streams() -> None:
    """However many streams there are, what waits for one peer is bounded."""
    pair = Pair()
    credit = Credit(unsent=1000)
    pair.gateway = type(pair.gateway)(now=pair.now + SKEW, credit=credit, connecting=False)
    numbers = [pair.served().number for _ in range(20)]
    for number in numbers[:9]:
        pair.gateway.items(number, [bytes(500)])
    with pytest.raises(Overloaded, match="4500 bytes wait for the caller") as caught:
        pair.gateway.items(numbers[9], [b"x"])
    assert caught.value.started is True
    arrived(pair)
    pair.gateway.items(numbers[9], [b"x"])
    assert values(arrived(pair)) == [b"x"]


def test_the_end_of_the_session_empties_the_tables(pair: Pair) -> None:
    """Nothing is kept of streams in the middle."""
    request = pair.served()
    pair.gateway.items(request.number, [bytes(5 * CHUNK_BYTES)])
    pair.down()
    pair.client.call(request, Call(0, "ACME", "test", b"", 0))
    pair.client.close()
    pair.gateway.close()
    assert pair.client.stats() == pair.gateway.stats() == NOTHING
