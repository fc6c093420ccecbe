"""Reading one key of a payload without the rest."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import PayloadError
from headgate.wire.codec import decode, encode
from headgate.wire.keys import LATER, KeyReader

READER = KeyReader("line")

HASHABLE: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.decimals(allow_nan=False)
    | st.uuids(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
ANYTHING: st.SearchStrategy[Any] = HASHABLE | st.lists(st.integers()) | st.just({"line": "inside"})


@settings(max_examples=200, deadline=None)
@given(
    entries=st.dictionaries(st.text(max_size=5) | st.integers(), ANYTHING, max_size=6),
    value=HASHABLE,
)
def test_it_reads_what_the_decoder_would(entries: dict[Any, Any], value: Any) -> None:
    """Whatever stands beside it, and on whichever way."""
    data = encode({**entries, "line": value})
    quick = READER.read(data)
    if quick is LATER:
        assert any(not isinstance(key, str) for key in entries)
    else:
        assert quick == value
        assert type(quick) is type(value)
    assert READER.read_all(data) == value


def read(data: bytes) -> Any:
    """Read a key as the gateway does."""
    found = READER.read(data)
    return READER.read_all(data) if found is LATER else found


LARGE: list[Any] = [
    {"a": b"x" * 3_000_000, "line": 7},
    {"a": [[1.0] * 30_000, {"line": 8, "b": ["x" * 100_000] * 3}], "line": 7},
    {"line": 7, "a": {str(number): {"line": number} for number in range(30_000)}},
    {**{str(number): number for number in range(60_000)}, "line": 7},
    {**{number: number for number in range(60_000)}, "line": 7},
    {"x" * 300_000: 1, "line": 7},
    {"a": tuple(range(200_000)), "line": 7, "b": "y" * 100_000},
]


@pytest.mark.parametrize("payload", LARGE, ids=range(len(LARGE)))
def test_large_payloads(payload: dict[Any, Any]) -> None:
    """They are left for another thread, and read there."""
    data = encode(payload)
    assert READER.read(data) is LATER
    assert READER.read_all(data) == 7


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\nb", "é", "a b", "class"])
def test_names_of_any_kind(key: str) -> None:
    """Also those that msgspec has no fields for."""
    reader, data = KeyReader(key), encode({"x": 1, key: 5})
    assert reader.read(data) in (5, LATER)
    assert reader.read_all(data) == 5


@pytest.mark.parametrize(
    "value", [Decimal("1.5"), UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), (1, ("a", None))]
)
def test_values_of_extension_types(value: Any) -> None:
    """They come as themselves."""
    assert READER.read(encode({"line": value})) == value


REFUSED = [
    (None, "no dictionary"),
    ([{"line": 1}], "no dictionary"),
    ({}, "no such key"),
    ({"lines": 1}, "no such key"),
    ({1: 2}, "no such key"),
    ({"line": [1]}, "not hashable"),
    ({"line": (1, [2])}, "not hashable"),
    ({"line": "x" * 1100}, "more than 1,024 bytes"),
    ({1: 2, "line": "x" * 1100}, "more than 1,024 bytes"),
    ({"line": "x" * 500_000}, "more than 1,024 bytes"),
    ({"line": [1.0] * 50_000}, "not hashable"),
]


@pytest.mark.parametrize(("payload", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_is_refused(payload: Any, why: str) -> None:
    """The error names the place and says why; nothing was started."""
    with pytest.raises(PayloadError, match=why) as caught:
        read(encode(payload))
    assert caught.value.place == "payload['line']"
    assert "payload['line']" in str(caught.value)
    assert caught.value.started is False


def large(count: int, body: bytes) -> bytes:
    """A dictionary with the key, and a list that says to have so many members."""
    return b"\x82\xa4line\x01\xa1a\xdd" + count.to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x82\xa4line\x01",
        large(1_000_000, b"\x01" * 500_000),
        b"\x82\xa4line\x01\xa1a" + b"\x91" * 5_000_000 + b"\x01",
        b"\x82\xa4line\x01\xa1a" + b"\x91" * 5_000 + b"\x01",
    ],
    ids=["nothing", "cut", "cut, large", "deep, large", "deep"],
)
def test_what_is_no_payload(data: bytes) -> None:
    """Bytes that somebody has made up end with an error, in bounded time."""
    assert READER.read(data) is LATER
    with pytest.raises(PayloadError) as caught:
        READER.read_all(data)
    assert caught.value.started is False


@pytest.mark.parametrize("filler", [[1] * 250_000, [[]] * 250_000, [{"a": 1}] * 60_000])
def test_the_rest_is_passed_over(filler: list[Any]) -> None:
    """The largest payloads that are read at once take a part of the time of their decoding."""
    data = encode({"line": 1, "a": filler})
    looks = [seconds(READER.read, data) for _ in range(5)]
    assert min(looks) < min(seconds(decode, data) for _ in range(5))


def seconds(read: Any, data: bytes) -> float:
    begin = time.perf_counter()
    assert read(data) is not LATER
    return time.perf_counter() - begin
