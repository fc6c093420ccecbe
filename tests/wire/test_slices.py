"""Large payloads: decoded slice by slice, and nobody can tell from what comes out."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_codec import WRAPS, carried, nested, same

from headgate.errors import PayloadError
from headgate.wire import slices
from headgate.wire.codec import Limits, decode, encode
from headgate.wire.limits import DEFAULT
from headgate.wire.slices import read_sliced


def sliced(data: bytes, size: int, limits: Limits = DEFAULT) -> Any:
    """Decode in slices of so many bytes, so that a small value has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE", size)
        patch.setattr(slices, "_IN_ONE_COPY", size)
        return read_sliced(data, limits)


def ext(code: int, body: bytes) -> bytes:
    return b"\xc9" + len(body).to_bytes(4, "big") + bytes([code]) + body


LARGE: dict[str, Callable[[], Any]] = {
    "texts": lambda: [f"text {index}" for index in range(50_000)],
    "rows": lambda: [{"id": index, "at": [index / 3, None]} for index in range(20_000)],
    "columns": lambda: {"a": list(range(100_000)), "b": ["x"] * 50_000, "c": b"x" * 300_000},
    "long text": lambda: {"text": "äb€𝄞" * 50_000, "more": ["x" * 200_000, ["y" * 70_000]]},
    "tuple": lambda: ((1, (2, "x" * 100)),) * 5_000,
    "sets": lambda: [set(range(40_000)), frozenset(f"{index}" for index in range(40_000))],
    "keys": lambda: {(index, Decimal(index)): date(2024, 1, 1) for index in range(20_000)},
    "large key": lambda: {("k" * 70_000, tuple(range(90_000))): ["v" * 70_000], 1: 2},
    "large key and small": lambda: {"k" * 70_000: 1, "l" * 70_000: [2]},
    "deep and large": lambda: nested(63, lambda inner: [inner, "x" * 70_000], [1]),
    "large number": lambda: [2**600_000, (UUID(int=1), timedelta(1)) * 9_000],
}


@pytest.mark.parametrize("name", LARGE)
def test_large_values(name: str) -> None:
    """Values of many kinds arrive as they were sent, also in the order of their keys."""
    value = LARGE[name]()
    data = encode(value)
    assert len(data) > slices.SLICE
    arrived = decode(data)
    assert same(arrived, value)
    if isinstance(value, dict):
        assert list(arrived) == list(value)


@given(carried, st.sampled_from([32, 50, 100, 300]))
@example({frozenset({(1, 2)}): [{1}, ("a", "b" * 50)]}, 32)
@settings(max_examples=150, deadline=None)
def test_slices_of_any_size(value: Any, size: int) -> None:
    """Wherever the cuts are, the value is the same."""
    assert same(sliced(encode(value), size), decode(encode(value)))


@given(carried, st.randoms(use_true_random=False), st.sampled_from([32, 60]))
@settings(max_examples=150, deadline=None)
def test_mutated_values(value: Any, chance: random.Random, size: int) -> None:
    """What the decoder refuses in one call is refused in slices too, and nothing else is."""
    data = bytearray(encode(value))
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
    try:
        expected = decode(bytes(data))
    except PayloadError:
        with pytest.raises(Exception):  # noqa: B017, PT011
            sliced(bytes(data), size)
    else:
        assert same(sliced(bytes(data), size), expected)


@pytest.mark.parametrize("size", [32, 1000])
def test_of_equal_keys_the_last_one_counts(size: int) -> None:
    """Keys that come again in another slice keep their place and get the new value."""
    data = b"\xde\x01\x00" + b"".join(b"\xa1" + bytes([65 + i % 10, i % 100]) for i in range(256))
    expected = msgspec.msgpack.decode(data)
    assert list(sliced(data, size).items()) == list(expected.items())


@pytest.mark.parametrize("kind", WRAPS)
@pytest.mark.parametrize("size", [32, 80, 10_000])
def test_levels(kind: str, size: int) -> None:
    """The limit of levels is as exact as it is in one call."""
    levels = Limits(max_depth=65)
    allowed, refused = (encode(nested(n, WRAPS[kind], 1), limits=levels) for n in (64, 65))
    assert same(sliced(allowed, size), decode(allowed))
    with pytest.raises(Exception, match="deep"):
        sliced(refused, size)


@pytest.mark.parametrize(
    "data",
    [
        b"\x92" + b"\xa1x" * 3,
        b"\xdd\xff\xff\xff\xff" + b"\x01" * 100,
        b"\xdf\xff\xff\xff\xff" + b"\x01" * 100,
        b"\xc6\xff\xff\xff\xff" + b"\x01" * 100,
        b"\x91\xdb\x7f\xff\xff\xff" + b"\x01" * 100,
        b"\x92\x01\xc1" + b"\x01" * 100,
        b"\xd9\x40" + b"x" * 63 + b"\xff",
        b"\xd9\x40" + b"x" * 63 + b"\xc3",
        ext(3, b"\x91" + b"\x01" * 100),
        ext(3, b"\xdc\x00\x65" + b"\x01" * 100),
        ext(4, b"\x01" * 100),
        ext(4, b""),
        ext(99, b"\x01" * 100),
        b"\x81" + ext(4, b"\xdc\x00\x64" + b"\x01" * 100) + b"\x01",
    ],
    ids=repr,
)
def test_malformed(data: bytes) -> None:
    """Truncated, trailing, unknown and unhashable values are refused in slices too."""
    for size in (32, 50):
        with pytest.raises(Exception):  # noqa: B017, PT011
            sliced(data, size)
