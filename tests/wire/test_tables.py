"""A Dataset as bytes: compact, the same on arrival, and refused if it is none."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from msgspec.msgpack import Ext
from msgspec.msgpack import encode as pack
from sameness import same

from headgate.dataset import Dataset
from headgate.errors import PayloadError
from headgate.wire.codec import Limits, convert, decode, encode

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


def table(*body: Any) -> bytes:
    """The bytes of an extension type 12 with these contents."""
    return pack(Ext(12, pack(list(body))))


class TestWire:
    """The bytes are a promise to other languages."""

    @pytest.mark.parametrize(
        ("kind", "value", "written"),
        [
            (type(None), None, None),
            (bool, True, True),
            (int, -5, -5),
            (int, 2**64, Ext(1, b"\x01" + bytes(8))),
            (float, 1.5, 1.5),
            (str, "ü", "ü"),
            (str, "\ud800", Ext(2, b"\xed\xa0\x80")),
            (bytes, b"\x00", b"\x00"),
            (datetime, MOMENT, "2026-01-02T00:00:00+00:00"),
            (datetime, MOMENT.replace(tzinfo=None, fold=1), "2026-01-02T00:00:00[_fold=1]"),
            (date, date(2026, 1, 2), "2026-01-02"),
            (time, time(3, 4), "03:04:00"),
            (timedelta, timedelta(seconds=-1), -1_000_000),
            (timedelta, timedelta.max, Ext(1, (timedelta.max // timedelta.resolution).to_bytes(9))),
            (Decimal, Decimal("-1.50"), "-1.50"),
            (UUID, UUID(int=5), bytes(15) + b"\x05"),
        ],
        ids=repr,
    )
    def test_values(self, kind: type, value: Any, written: Any) -> None:
        """Each type of a column has the form that docs/protocol.md tells."""
        name = "null" if kind is type(None) else kind.__name__
        dataset = Dataset(["a"], [[None], [value]], [kind])
        assert encode(dataset) == table(["a"], [name], [None, written])
        assert same(decode(encode(dataset)), dataset)

    def test_whole_numbers_of_a_float(self) -> None:
        """Other languages write a float that is whole as an integer."""
        arrived = decode(table(["a"], ["float"], [1, 2.5, None]))
        assert same(arrived, Dataset(["a"], [[1.0], [2.5], [None]]))

    def test_columns_only(self) -> None:
        """Tables without rows or columns are carried with all that they have."""
        for dataset in (Dataset([]), Dataset(["a", "b"], [], [int, str])):
            assert same(decode(encode(dataset)), dataset)

    def test_names_are_any_text(self) -> None:
        """The names of columns are any text, beside values that are any."""
        dataset = Dataset(["", "\ud800", "ü"], [["\udfff", 2**70, timedelta.max]])
        assert same(decode(encode(dataset)), dataset)

    def test_inside_of_anything(self) -> None:
        """A table stands anywhere but in a key."""
        dataset = Dataset(["a"], [[1]])
        for value in ([dataset], {"a": (dataset,)}, {1: dataset, (2,): [dataset]}):
            assert same(decode(encode(value)), value)
        assert convert(dataset) is dataset

    def test_it_is_smaller_than_rows(self) -> None:
        """Times cost no extension header each."""
        rows = [[MOMENT, index] for index in range(1000)]
        assert len(encode(Dataset(["at", "n"], rows))) < len(encode(rows))


class TestLimits:
    def test_two_levels(self) -> None:
        """A table is two levels, on both sides."""
        dataset = Dataset(["a"], [[x] for x in range(200)])
        fits: Any = dataset
        for _ in range(62):
            fits = [fits]
        assert decode(encode(fits)) == fits
        for value in ([fits], {"a": fits}):
            with pytest.raises(PayloadError, match="deeper than 64 levels"):
                encode(value)
            with pytest.raises(PayloadError):
                decode(encode(value, limits=Limits(max_depth=65)))

    def test_bytes(self) -> None:
        """A table is refused before sending if it is too large."""
        with pytest.raises(PayloadError, match="more than the 100 that may be sent"):
            encode(Dataset(["a"], [["x" * 100]]), limits=Limits(max_bytes=100))


class TestHostile:
    """Whatever stands in code 12, decode() gives a table or PayloadError."""

    @pytest.mark.parametrize(
        "data",
        [
            pack(Ext(12, b"")),
            pack(Ext(12, b"\xc0")),
            pack(Ext(12, b"\x93\x90\x90")),
            pack(Ext(12, b"\x92\x90\x90\x90")),
            pack(Ext(12, b"\xdd\xff\xff\xff\xff")),
            pack(Ext(12, b"\x93\x91\xa1a\x91\xa3int\xdd\xff\xff\xff\xff")),
            table(),
            table([]),
            table([], ["int"]),
            table(["a"], ["int"]),
            table(["a"], ["int"], [1], [2]),
            table(["a"], [], [1]),
            table(["a", "a"], ["int", "int"], [1], [2]),
            table(["a", "b"], ["int", "int"], [1], [2, 3]),
            table([1], ["int"], [1]),
            table([None], ["int"], [1]),
            table(["a"], ["object"], [1]),
            table(["a"], [None], [1]),
            table(["a"], ["int"], 1),
            table(["a"], ["int"], {"a": 1}),
            table(["a"], ["int"], [1.5]),
            table(["a"], ["int"], [True]),
            table(["a"], ["int"], [[1]]),
            table(["a"], ["int"], [Ext(2, b"a")]),
            table(["a"], ["int"], [Ext(3, b"\x90")]),
            table(["a"], ["float"], ["1"]),
            table(["a"], ["float"], [Ext(1, b"a")]),
            table(["a"], ["str"], [1]),
            table(["a"], ["str"], [b"a"]),
            table(["a"], ["str"], [Ext(1, b"a")]),
            table(["a"], ["bool"], [1]),
            table(["a"], ["bytes"], ["a"]),
            table(["a"], ["null"], [1]),
            table(["a"], ["datetime"], ["yesterday"]),
            table(["a"], ["datetime"], [1]),
            table(["a"], ["date"], ["2026-13-01"]),
            table(["a"], ["time"], ["03:04[Mars/Base]"]),
            table(["a"], ["timedelta"], [Ext(1, bytes([127] * 9))]),
            table(["a"], ["Decimal"], ["one"]),
            table(["a"], ["UUID"], [b"\x00"]),
            table(["a"], ["int"], [1])[:-1],
            b"\x81" + table([], []) + b"\x01",
            pack(Ext(4, b"\x91" + table([], []))),
        ],
    )
    def test_examples(self, data: bytes) -> None:
        """Wrong shapes, names, types and values are refused; a table is no key and no member."""
        with pytest.raises(PayloadError, match="not a payload"):
            decode(data)

    def test_nesting_costs_nothing(self) -> None:
        """Arrays inside of a table are refused, however many there are inside each other."""
        program = """
            import sys
            from headgate.wire.codec import PayloadError, decode

            def ext(body):
                return b"\\xc9" + len(body).to_bytes(4, "big") + b"\\x0c" + body

            for limit in (1000, 10**6):
                sys.setrecursionlimit(limit)
                for nested in (b"\\x91" * 500_000, b"\\x81\\x01" * 500_000):
                    for start in (b"", b"\\x92", b"\\x93\\x91\\xa1a\\x91\\xa3int"):
                        try:
                            decode(ext(start + nested + b"\\x90"))
                        except PayloadError:
                            continue
                        raise AssertionError
                body = b"\\x92\\x90\\x90"
                for _ in range(2_000):
                    body = ext(body)
                try:
                    decode(body)
                except PayloadError:
                    continue
                raise AssertionError
            print("alive")
            """
        command = [sys.executable, "-c", textwrap.dedent(program)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("alive\n", "", 0)

    def test_claimed_lengths_cost_nothing(self) -> None:
        """A length that is claimed and not there takes no memory."""
        claims = b"\xdd\x7f\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdb\x7f\xff\xff\xff"
        tracemalloc.start()
        try:
            for claim in claims:
                for start in (b"", b"\x93", b"\x93\x91", b"\x93\x91\xa1a\x91\xa3int"):
                    with pytest.raises(PayloadError):
                        decode(pack(Ext(12, start + claim)))
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()
