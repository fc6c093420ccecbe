"""Members are counted in the bytes, before anything is made of them."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_codec import carried
from timing import least_seconds

from headgate.dataset import Dataset
from headgate.errors import PayloadError
from headgate.wire.codec import DEFAULT, Limits, decode, encode
from headgate.wire.members import count_members

MANY = 10**12


def members(value: Any) -> int:
    """Count the members of a value, as its definition says."""
    if isinstance(value, dict):
        return len(value) + sum(members(part) for item in value.items() for part in item)
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) + sum(map(members, value))
    if isinstance(value, Dataset):
        # Its parts, their names, their types, their cells.
        columns = value.columnCount
        return 2 + columns * (3 + value.rowCount)
    if isinstance(value, numpy.ndarray):
        return 4 + value.ndim
    return 0


@given(carried)
@settings(max_examples=150, deadline=None)
def test_values_of_all_kinds(value: Any) -> None:
    """Each element and each entry of every container counts, whatever stands around it."""
    arrived = decode(encode(value))
    assert count_members(encode(value), MANY) == members(arrived)


MAKE: dict[str, Callable[[int], Any]] = {
    "number": lambda size: -(2**31) + size * 40_000,
    "long number": lambda size: 256 ** (size % 300),
    "float": lambda size: size / 7,
    "text": lambda size: "x" * size,
    "bytes": lambda size: b"\x9f\xdd" * size,
    "list": lambda size: [None] * size,
    "tuple": lambda size: ("\x9f",) * size,
    "dict": lambda size: dict.fromkeys(range(size), True),
}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(MAKE)),
            st.sampled_from([0, 1, 7, 15, 16, 20, 31, 32, 255, 256, 3_000, 70_000]),
        ),
        max_size=20,
    ),
    st.integers(0, 8_000),
)
@example([("bytes", 255), ("tuple", 255), ("bytes", 255), ("tuple", 70_000)], 0)
@settings(max_examples=25, deadline=None)
def test_wherever_a_step_ends(parts: list[tuple[str, int]], offset: int) -> None:
    """Values of every size, beside each other and across the places where the count pauses."""
    values = [MAKE[kind](size) for kind, size in parts]
    value = {"offset": "x" * offset, "values": [values, {"again": values}]}
    data = encode(value, limits=Limits(max_members=MANY))
    assert count_members(data, MANY) == members(value)
    assert count_members(memoryview(bytearray(data)), MANY) == members(value)


def test_headers_longer_than_needed() -> None:
    """Other programs may write lengths in more bytes than they need."""
    data = (
        b"\xdd\0\0\0\x0c"
        b"\xdb\0\0\0\x01x" b"\xda\0\x01x" b"\xd9\x01x"
        b"\xc6\0\0\0\x01\x91" b"\xc5\0\x01\x91" b"\xc4\x01\x91"
        b"\xc9\0\0\0\x02\x03\x91\x01" b"\xc8\0\x02\x03\x91\x01" b"\xc7\x02\x03\x91\x01"
        b"\xde\0\x01\x01\x90" b"\xdf\0\0\0\x01\x01\xdc\0\0" b"\xd5\x03\x91\x90"
    )  # fmt: skip
    assert len(decode(data)) == 12
    assert count_members(data, MANY) == 12 + 3 + 2 + 1


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_random_bytes(data: bytes) -> None:
    """The count of anything comes to its end; it is never too low for what can be decoded."""
    count = count_members(data, MANY)
    try:
        value = decode(data)
    except PayloadError:
        return
    assert count >= members(value)


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, dict.fromkeys])
def test_the_limit_is_exact(kind: Callable[[Any], Any]) -> None:
    """A million members are carried; one more is refused on both sides, with the number."""
    limits = Limits(max_members=1_001)
    allowed, refused = [kind(range(1_000))], [kind(range(1_001))]
    assert decode(encode(allowed, limits=limits), limits=limits) == allowed
    with pytest.raises(PayloadError, match="more than 1,001 members") as caught:
        encode(refused, limits=limits, root="result")
    assert (caught.value.place, caught.value.started) == ("result", False)
    with pytest.raises(PayloadError, match=r"1,002 members or more arrived; 1,001 are allowed"):
        decode(encode(refused), limits=limits)


def test_a_million() -> None:
    """The limit that a peer may count on."""
    assert DEFAULT.max_members == 1_000_000
    assert len(decode(encode([0] * 1_000_000))) == 1_000_000
    with pytest.raises(PayloadError, match="more than 1,000,000 members"):
        encode({"rows": [0] * 1_000_000})


HOSTILE = {
    "empty maps": (b"\xdd" + (8 << 20).to_bytes(4, "big") + b"\x80" * (8 << 20), "8,388,608"),
    "one too many": (b"\x91\xdd" + (10**6).to_bytes(4, "big") + b"\x80" * 10**6, "1,000,001"),
    "in a tuple": (b"\xc9\0\x0f\x42\x46\x03\xdd\0\x0f\x42\x41" + b"\x80" * 1_000_001, "1,000,001"),
    "a list's claim": (b"\xdd\xff\xff\xff\xff" + b"\x80" * 2_000_000, "4,294,967,295"),
    "a map's claim": (b"\xdf\xff\xff\xff\xff" + b"\x80" * 2_000_000, "4,294,967,295"),
    "claims in each other": (b"\xdd\x00\x0f\x00\x00" * 400 + b"\x80" * 10**6, "1,000,000 are"),
    "a short claim": (b"\xdd\xff\xff\xff\xff" + b"\x80" * 900_000, "truncated"),
    "a text's claim": (b"\xdb\xff\xff\xff\xff" + b"x" * 2_000_000, "truncated"),
    "bytes' claim": (b"\xc6\xff\xff\xff\xff" + b"x" * 2_000_000, "truncated"),
    "a tuple's claim": (b"\xc9\xff\xff\xff\xff\x03" + b"x" * 2_000_000, "truncated"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="memory is measured with POSIX's means")
def test_memory() -> None:
    """Whatever is claimed, it is refused before there is memory for it."""
    program = """
        import resource, sys
        from test_members import HOSTILE
        from headgate.errors import PayloadError
        from headgate.wire.codec import decode

        def peak():
            # In kilobytes on Linux, in bytes on macOS.
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        decode(b"\\x91" * 10 + b"\\x90")
        before = peak()
        for name, (data, text) in HOSTILE.items():
            try:
                decode(data)
            except PayloadError as error:
                assert text in str(error), (name, error)
            else:
                raise AssertionError(name)
        print((peak() - before) // (1024 if sys.platform == "linux" else 1024 * 1024))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=__file__.rpartition("test_members")[0] or ".",
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32


MODULUS = sys.hash_info.modulus

COLLIDING: dict[str, Callable[[int], Any]] = {
    "numbers": lambda index: (2**64 // MODULUS + 1 + index) * MODULUS,
    "decimals": lambda index: Decimal((index + 1) * MODULUS),
    "uuids": lambda index: UUID(int=(2**64 // MODULUS + 1 + index) * MODULUS),
    "tuples": lambda index: ((2**64 // MODULUS + 1 + index) * MODULUS,),
    "sets": lambda index: frozenset({(2**64 // MODULUS + 1 + index) * MODULUS}),
}


def as_map(keys: list[bytes]) -> bytes:
    return b"\xdf" + len(keys).to_bytes(4, "big") + b"".join(key + b"\xc0" for key in keys)


def as_set(keys: list[bytes]) -> bytes:
    body = b"\xdd" + len(keys).to_bytes(4, "big") + b"".join(keys)
    return b"\xc9" + len(body).to_bytes(4, "big") + b"\x04" + body


class TestCollidingKeys:
    @pytest.mark.parametrize("kind", COLLIDING)
    @pytest.mark.parametrize("wrap", [as_map, as_set])
    def test_are_refused(self, kind: str, wrap: Callable[[list[bytes]], bytes]) -> None:
        """Many different keys with one hash are refused at once, in one slice or in many."""
        keys = [encode(COLLIDING[kind](index)) for index in range(8_000)]
        with pytest.raises(PayloadError, match="same hash"):
            decode(wrap(keys[:400]))
        hostile, benign = wrap(keys), wrap([encode(2**64 + index) for index in range(8_000)])

        def refuse() -> None:
            with pytest.raises(PayloadError, match="same hash"):
                decode(hostile)

        # Usually a tenth of it; to compare each with each would take 70 times as long.
        assert least_seconds(refuse) <= 5 * least_seconds(lambda: decode(benign))

    def test_equal_values_do_not_collide(self) -> None:
        """The same value a thousand times is no attack."""
        value = [(1, 2), Decimal(7), UUID(int=1), timedelta(1), 2**70, frozenset({1})] * 2_000
        assert decode(encode(value)) == value

    def test_few_are_read(self) -> None:
        """What can happen by chance is read, in whatever order it comes."""
        keys = [COLLIDING["numbers"](index) for index in range(40)] * 300
        random.Random(1).shuffle(keys)
        value = [keys, dict.fromkeys(keys, "x" * 100)]
        assert decode(encode(value)) == value
