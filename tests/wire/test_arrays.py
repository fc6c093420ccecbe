"""NumPy's arrays: carried with type, shape and order; NumPy is imported when one arrives."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
from typing import Any

import numpy
import pytest
from msgspec.msgpack import Ext
from msgspec.msgpack import encode as pack
from sameness import same

from headgate.errors import PayloadError
from headgate.wire.codec import Limits, convert, decode, encode

ELEMENTS = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", ">f8", ">i2", ">c16"),
    *("S5", "U5", ">U5", "M8[s]", "M8[25us]", ">M8[D]", "m8[ns]", "M8", "m8"),
]


def array(*body: Any) -> bytes:
    """The bytes of an extension type 13 with these contents."""
    return pack(Ext(13, pack(list(body))))


class TestCarried:
    @pytest.mark.parametrize("element", ELEMENTS)
    def test_type_and_shape(self, element: str) -> None:
        """Every type of fixed size arrives as it was, in any number of dimensions."""
        for shape in ((), (0,), (6,), (2, 3), (1, 2, 3), (0, 2)):
            sent = numpy.ones(shape, "u1").astype(element)
            assert same(decode(encode(sent)), sent)

    def test_order(self) -> None:
        """The order of C or Fortran is kept; a view arrives as the array that it shows."""
        sent = numpy.arange(24).reshape(2, 3, 4)
        assert decode(encode(sent)).flags.c_contiguous
        arrived = decode(encode(sent.T))
        assert same(arrived, sent.T)
        assert arrived.flags.f_contiguous
        for view in (sent[:, ::2], sent[::-1], numpy.broadcast_to(sent[0], (5, 3, 4))):
            assert same(decode(encode(view)), numpy.array(view))

    def test_it_is_the_receiver_s_own(self) -> None:
        """What arrives can be written to, and does not keep the message alive."""
        data = encode([numpy.zeros(3), b"x" * 100])
        arrived = decode(memoryview(data))[0]
        arrived += 1
        assert arrived.flags.owndata
        assert decode(data)[0].tolist() == [0, 0, 0]

    def test_inside_of_anything(self) -> None:
        """An array stands anywhere but in a key."""
        sent = numpy.arange(3)
        for value in ([sent], {"a": (sent,)}, {1: sent, (2,): [sent]}):
            assert same(decode(encode(value)), value)

    def test_subclasses(self) -> None:
        """An array of a subclass arrives as the array."""
        mapped = numpy.zeros(3).view(numpy.recarray)
        assert type(convert(mapped)) is numpy.ndarray
        assert same(decode(encode(mapped)), numpy.zeros(3))

    def test_two_levels(self) -> None:
        """An array is two levels, on both sides."""
        fits: Any = numpy.arange(100)
        for _ in range(62):
            fits = [fits]
        assert same(decode(encode(fits)), fits)
        with pytest.raises(PayloadError, match="deeper than 64 levels"):
            encode([fits])
        with pytest.raises(PayloadError):
            decode(encode([fits], limits=Limits(max_depth=65)))


class TestRefused:
    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (numpy.array([{}]), r"Python objects: send array.tolist\(\)"),
            (numpy.zeros(1, "i4,f4"), "have fields"),
            (numpy.zeros(1, "longdouble"), "not the same everywhere"),
            (numpy.zeros(1, "V3"), "not the same everywhere"),
            (numpy.array(["a"], numpy.dtypes.StringDType()), "Python objects"),
            (numpy.ma.array([1], mask=[True]), r"array.filled\(\)"),
        ],
    )
    def test_names_the_cure(self, value: Any, words: str) -> None:
        """What cannot be carried is refused before sending, with its place and a cure."""
        with pytest.raises(PayloadError, match=words) as caught:
            encode({"a": [value]})
        assert caught.value.place == "payload['a'][0]"
        assert caught.value.started is False

    @pytest.mark.parametrize(
        "value",
        [
            numpy.complex128(1j),
            numpy.void(b"abc"),
            numpy.datetime64("30000-01-01"),
            numpy.timedelta64(1, "Y"),
        ],
    )
    def test_scalars(self, value: Any) -> None:
        """Scalars that Python has no carried type for are refused."""
        with pytest.raises(PayloadError):
            encode([value])


class TestHostile:
    """Whatever stands in code 13, decode() gives an array or PayloadError."""

    @pytest.mark.parametrize(
        "body",
        [
            (),
            ("<f8",),
            ("<f8", "C", [1], bytes(8), 1),
            ("<f8", "C", [1], "x" * 8),
            ("<f8", "C", [1], None),
            ("<f8", "C", 1, bytes(8)),
            ("<f8", "C", [1.0], bytes(8)),
            ("<f8", "C", [float("nan")], bytes(8)),
            ("<f8", "C", [None], bytes(8)),
            ("<f8", "C", [True], bytes(8)),
            ("<f8", "C", [-1], b""),
            ("<f8", "C", [-1, -1], bytes(8)),
            ("<f8", "C", [2], bytes(8)),
            ("<f8", "C", [1], bytes(9)),
            ("<f8", "C", [], b""),
            ("<f8", "C", [2**62, 0], b""),
            ("<f8", "C", [2**62, 2**62], bytes(8)),
            ("<f8", "C", [2**61, 2**3], b""),
            ("<f8", "C", [1] * 65, bytes(8)),
            ("<f8", "C", [2**63] * 200_000, bytes(8)),
            ("<f8", "K", [1], bytes(8)),
            ("<f8", "", [1], bytes(8)),
            ("<f8", 0, [1], bytes(8)),
            *((element, "C", [1], bytes(8)) for element in (
                *("|O", "O", "object", "<O8", "f8", "=f8", "float64", "<f16", "<f3", "<c32"),
                *("|V8", "<i4,<i4", "<f8,", "(2,)<f4", "8<i1", "<M8[ps", "<M8[x]", "<M8[1e9s]"),
                *("<M8[0us]", "<M8[٣us]"),
                *("|S0", "|S", "|S99999999999", "<U0", "<m8[s]\n", "", "\ud800", "T", "<U2 "),
            )),
            ("|b1", "C", [1], b"\x02"),
            ("<U1", "C", [1], b"\xff\xff\xff\xff"),
            (">U1", "C", [1], b"\x00\x11\x00\x00"),
        ],
        ids=lambda body: repr(body)[:40],
    )  # fmt: skip
    def test_examples(self, body: tuple[Any, ...]) -> None:
        """Wrong types, shapes and lengths are refused, before NumPy makes anything of them."""
        data = array(*body) if "\ud800" not in body else array(b"\xed\xa0\x80", *body[1:])
        tracemalloc.start()
        try:
            with pytest.raises(PayloadError, match="not a payload"):
                decode(data)
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()

    def test_no_key_and_no_member(self) -> None:
        """An array is refused where Python wants a hash."""
        one = array("<f8", "C", [1], bytes(8))
        for data in (b"\x81" + one + b"\x01", pack(Ext(4, b"\x91" + one))):
            with pytest.raises(PayloadError, match="not a payload"):
                decode(data)


def run(program: str) -> str:
    """Run a program in a new interpreter and return what it prints."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


class TestImports:
    """Who sends no arrays and tables needs and imports none of the libraries."""

    def test_nothing_is_imported(self) -> None:
        """Encoding, converting and refusing anything, and decoding a Dataset, import nothing."""
        printed = run(
            """
            import sys
            from datetime import datetime
            from headgate import Dataset
            from headgate.errors import PayloadError
            from headgate.wire.codec import convert, decode, encode

            table = Dataset(["a", "b"], [[1, datetime.now()], [None, None]])
            for value in (table, {1: [table], "b": {(2,)}}, bytearray(b"x"), [True.__class__(1)]):
                decode(encode(value))
                convert(value)
            try:
                encode(object())
            except PayloadError:
                pass
            print({"numpy", "pandas", "polars", "pyarrow", "pydantic"} & set(sys.modules))
            """
        )
        assert printed == "set()\n"

    def test_numpy_is_imported_for_an_array(self) -> None:
        """An array that arrives imports NumPy, and nothing else."""
        data = encode(numpy.arange(3))
        printed = run(
            f"""
            import sys
            from headgate.wire.codec import decode
            print(decode({data!r}).tolist())
            print({{"pandas", "polars", "pyarrow"}} & set(sys.modules))
            """
        )
        assert printed == "[0, 1, 2]\nset()\n"

    def test_without_numpy(self) -> None:
        """Where NumPy is not installed an array that arrives is refused with the cure."""
        short, long = encode(numpy.arange(3)), encode([numpy.arange(30), "x" * 99])
        printed = run(
            f"""
            import sys
            sys.modules["numpy"] = None
            from headgate.errors import PayloadError
            from headgate.wire.codec import decode
            for data in ({short!r}, {long!r}):
                try:
                    decode(data)
                except PayloadError as error:
                    print(error)
            """
        )
        assert printed == 2 * (
            "An array arrived, and NumPy is not installed here. Install it, pip install numpy, "
            "or let the sender send array.tolist().\n"
        )
