"""Large values: encoded slice by slice, into the bytes that one call would give."""

from __future__ import annotations

import threading
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_codec import WRAPS, carried, nested
from test_slices import LARGE

from headgate.errors import PayloadError
from headgate.wire import writing
from headgate.wire.codec import DEFAULT, Limits, decode, encode
from headgate.wire.packing import pack
from headgate.wire.writing import is_large, write_sliced


@pytest.mark.parametrize("name", LARGE)
def test_large_values(name: str) -> None:
    """The bytes are those of one call, or somebody else has to encode the value."""
    value = LARGE[name]()
    assert write_sliced(value, DEFAULT) in (pack(value), None)
    assert encode(value) == pack(value)


@given(st.lists(carried, max_size=30), st.sampled_from([1, 20, 100]))
@settings(max_examples=100, deadline=None)
def test_slices_of_any_size(values: list[Any], size: int) -> None:
    """Wherever the cuts are, the bytes are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "SLICE", size)
        patch.setattr(writing, "_MANY", 1)
        patch.setattr(writing, "is_large", lambda value, levels=3: type(value) in (list, dict))
        for value in (values, {str(index): item for index, item in enumerate(values)}):
            sliced = write_sliced(value, DEFAULT)
            assert sliced is None or sliced == encode(value)


def test_what_is_large() -> None:
    """Large is what has many members, or much in it where a look costs little."""
    for value in (
        [0] * 1_001,
        dict.fromkeys(map(str, range(1_001))),
        bytes(70_000),
        {"rows": [[1, 2]] * 2_000},
        {"result": {"rows": [0] * 2_000, "total": 2_000}},
        {"image": bytes(70_000)},
        ["ä" * 70_000, "x" * 70_000, "x" * (1 << 16), "€" * 30_000],
    ):
        assert is_large(value)
        assert write_sliced(value, DEFAULT) == encode(value)
    for value in (None, 1, "x", {}, [], {"a": [1, {"b": 2}]}, [0] * 1_000, bytes(60_000)):
        assert not is_large(value)


@pytest.mark.parametrize("kind", WRAPS)
def test_levels(kind: str) -> None:
    """The limit of levels is as exact as it is in one call, and the place is named."""
    padding = [0] * 2_000
    allowed, refused = ([*padding, nested(levels, WRAPS[kind], 1)] for levels in (63, 64))
    assert decode(encode(allowed)) == allowed
    with pytest.raises(PayloadError, match="deeper than 64 levels") as caught:
        encode(refused)
    assert caught.value.place.startswith("payload[2000]")


def test_the_place_of_what_cannot_be_sent() -> None:
    """An error in one of many slices names the place in the whole value."""
    rows: list[Any] = [{"at": datetime(2024, 1, 1), "value": Decimal(index)} for index in range(9)]
    value = {"rows": rows * 1_000}
    value["rows"][7_777] = {"value": object()}
    with pytest.raises(PayloadError) as caught:
        encode(value)
    assert caught.value.place == "payload['rows'][7777]['value']"


def test_too_much_is_refused_early() -> None:
    """A value that is far too large is not encoded to its end."""
    value = ["x" * 50_000] * 10_000
    with pytest.raises(PayloadError, match="more than the 1,000 that may be sent"):
        encode([b"x" * 10] * 1_500, limits=Limits(max_bytes=1_000))
    with pytest.raises(PayloadError, match=r"^result has at least 67,1\d\d,\d\d\d bytes"):
        encode(value, root="result")


def test_a_value_that_others_change() -> None:
    """What other threads do to a large list meanwhile makes no bytes that cannot be read."""
    value = {
        "rows": [[index] for index in range(20_000)],
        "names": dict.fromkeys(map(str, range(5_000))),
    }
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            value["rows"].append([1])
            value["names"][str(len(value["rows"]))] = None
            value["rows"].pop(0)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(20):
            assert len(decode(encode(value))["rows"]) >= 19_999
    finally:
        over.set()
        thread.join()
