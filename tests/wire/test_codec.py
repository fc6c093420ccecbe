"""What a payload can hold: it arrives equal and of the same type, or is refused with its place."""

from __future__ import annotations

import dataclasses
import math
import random
import subprocess
import sys
import textwrap
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy
import ormsgpack
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Ext
from sameness import same

from headgate.dataset import Dataset
from headgate.errors import ConfigurationError, PayloadError
from headgate.wire import extensions, limits
from headgate.wire.codec import DEFAULT, Limits, convert, decode, encode

BERLIN = ZoneInfo("Europe/Berlin")


def nested(levels: int, wrap: Callable[[Any], Any], core: Any) -> Any:
    for _ in range(levels):
        core = wrap(core)
    return core


WRAPS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"a": value},
    "int keys": lambda value: {1: value},
    "frozenset": lambda value: frozenset([value]),
}


# Values


class Colour(Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    GO = "go"


class Bits(Flag):
    A = 1
    B = 2


class MyInt(int):
    def __int__(self) -> int:
        return 7

    def __str__(self) -> str:
        return "mine"


class MyFloat(float): ...


class MyStr(str):
    def __str__(self) -> str:
        return "not the text"


class MyBytes(bytes): ...


class MyList(list[Any]): ...


class MyDict(dict[Any, Any]): ...


class MySet(set[Any]): ...


class MyDatetime(datetime): ...


class MyDate(date): ...


class MyDecimal(Decimal): ...


class MyUUID(UUID): ...


class Odd(tzinfo):
    """A zone that is neither a ZoneInfo nor a fixed offset."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=2)

    def dst(self, when: datetime | None) -> None:
        return None


Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Reading:
    tag: Any
    value: Any = None


class Frame(msgspec.Struct):
    number: int
    rest: Any = msgspec.UNSET


class Model(pydantic.BaseModel):
    name: str
    inner: Any = None


offsets = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59))
zones = st.one_of(
    st.none(),
    st.just(UTC),
    offsets.map(timezone),
    st.sampled_from(["Europe/Berlin", "UTC", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo),
    st.just(Odd()),
)
years = {
    "min_value": datetime(2, 1, 1),
    "max_value": datetime(9998, 12, 31),
}
folds = st.integers(0, 1)
moments = st.builds(
    lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold),
    st.one_of(
        st.datetimes(**years),
        st.datetimes(datetime(2024, 10, 27), datetime(2024, 10, 27, 4)),
        st.datetimes(datetime(2024, 3, 31), datetime(2024, 3, 31, 4)),
    ),
    zones,
    folds,
)
times = st.builds(
    lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold), st.times(), zones, folds
)
texts = st.one_of(st.text(), st.text(st.characters(codec=None, categories=None)))
integers = st.one_of(
    st.integers(), st.integers(-(2**70), 2**70), st.sampled_from([2**64, 2**64 - 1, -(2**63) - 1])
)
hashable_decimals = st.one_of(
    st.decimals().filter(lambda value: not value.is_snan()),
    st.sampled_from([Decimal("1E+3"), Decimal("-0.00"), Decimal("Infinity"), Decimal("1E-999")]),
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(),
    texts,
    st.binary(),
    moments,
    st.dates(),
    times,
    st.timedeltas(),
    hashable_decimals,
    st.uuids(),
)
keys = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=4,
)
cells: dict[type, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: integers,
    float: st.floats(),
    str: texts,
    bytes: st.binary(),
    datetime: moments,
    date: st.dates(),
    time: times,
    timedelta: st.timedeltas(),
    Decimal: hashable_decimals,
    UUID: st.uuids(),
}


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Tables of any types, with and without rows."""
    names = draw(st.lists(texts, max_size=4, unique=True))
    types = [draw(st.sampled_from([*cells])) for _ in names]
    row = st.tuples(*(st.one_of(st.none(), cells[kind]) for kind in types))
    return Dataset(names, draw(st.lists(row, max_size=4)), types)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Arrays of each type of element, in the order of C, of Fortran, and of neither."""
    size = draw(st.sampled_from("1248"))
    element = draw(
        st.sampled_from(["|b1", f"<i{size}", f">u{size}", "<f2", "<f4", ">f8", "<c8", "|S3", "<U2"])
        | st.sampled_from(["<M8[us]", "<m8[ns]", ">M8[25D]", "<M8"])
    )
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    dtype = numpy.dtype(element)
    count = math.prod(shape)
    if element in ("|b1", "<U2"):
        array = numpy.arange(count).reshape(shape).astype(dtype)
    else:
        data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
        array = numpy.array(numpy.ndarray(shape, dtype, data or None))
    return draw(st.sampled_from([array, array.T, array[::-1] if array.ndim else array]))


carried = st.recursive(
    st.one_of(leaves, st.just(Decimal("sNaN123")), datasets(), arrays()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
    ),
    max_leaves=12,
)
converted = st.recursive(
    st.one_of(
        leaves,
        st.sampled_from([*Colour, *Level, *Word, Bits.A | Bits.B]),
        st.integers().map(MyInt),
        st.floats().map(MyFloat),
        texts.map(MyStr),
        st.binary().map(MyBytes),
        st.binary().map(bytearray),
        st.binary().map(memoryview),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(MyList),
        st.builds(Point, inner, inner),
        st.builds(Reading, inner, inner),
        st.builds(Frame, st.integers(), inner),
        st.dictionaries(texts.map(MyStr), inner, max_size=3).map(MyDict),
        st.dictionaries(st.sampled_from([*Colour, *Level]), inner, max_size=3).map(OrderedDict),
    ),
    max_leaves=8,
)


def has_odd_zone(value: Any) -> bool:
    """Whether a time in a value, not in a table, is in a zone that is converted."""
    if isinstance(value, (datetime, time)):
        return isinstance(value.tzinfo, Odd)
    inside = [*value, *value.values()] if isinstance(value, dict) else value
    return isinstance(inside, (list, tuple, set, frozenset)) and any(map(has_odd_zone, inside))


class TestCarried:
    """Equal and of the same type on arrival."""

    @given(carried)
    def test_arrives_as_it_was(self, value: Any) -> None:
        """What is carried arrives as it was, types included, nested."""
        arrived = decode(encode(value))
        assert same(arrived, convert(value))

    @given(carried.filter(lambda value: not has_odd_zone(value)))
    def test_carried_values_are_not_converted(self, value: Any) -> None:
        """convert() changes nothing that is carried."""
        assert same(convert(value), value)

    @given(converted)
    def test_converted_values_arrive_as_documented(self, value: Any) -> None:
        """What is converted arrives as convert() says."""
        assert same(decode(encode(value)), convert(value))

    @pytest.mark.parametrize(
        "value",
        [
            {key: str(key) for key in (1, True, 1.0)},
            {None: 1, b"": 2, "": 3, 0: 4, (): 5, -0.5: 6},
            {2**64: "big", -(2**63) - 1: "small"},
            {date(2024, 1, 1): {UUID(int=1): {Decimal("1.50"): {timedelta(1): {time(1): 1}}}}},
            {(1, (2, datetime(2024, 1, 1, tzinfo=BERLIN))): [1, (2, [3, {4}])]},
            {float("nan"): 1, (float("nan"),): 2},
            {"\ud800": "\udfff", "a": ["\ud83d\ude00", "é"]},
            [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324],
            {(1, 2), frozenset({1, (2, 3)}), None, "x"},
            [{index: [index]} for index in range(20)],
            {index: index for index in range(70_000)},
            *({(0, index): [index] for index in range(size)} for size in (15, 16, 17)),
            *([{1: [index]} for index in range(size)] for size in (15, 16, 17)),
            list(range(70_000)),
            [{1: index} for index in range(70_000)],
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_examples(self, value: Any) -> None:
        """Keys of every kind, order, signs, surrogates, and all lengths of headers."""
        assert same(decode(encode(value)), value)

    def test_arrived_objects_are_new(self) -> None:
        """What arrives is the receiver's own: changing it does not change what was sent."""
        sent = {"rows": [1, {"a": set()}], 1: []}
        arrived = decode(encode(sent))
        arrived["rows"][1]["a"].add(1)
        arrived[1].append(2)
        assert sent == {"rows": [1, {"a": set()}], 1: []}

    def test_decodes_a_memoryview(self) -> None:
        """A payload is decoded out of the buffer that it arrived in, short or long."""
        for value in ({"a": 1}, [{"a": (index,)} for index in range(1000)], list(range(100))):
            data = b"xx" + encode(value) + b"xx"
            assert decode(memoryview(data)[2:-2]) == value


class TestDateAndTime:
    @pytest.mark.parametrize("fold", [0, 1])
    @pytest.mark.parametrize(
        "zone", [None, UTC, timezone(timedelta(hours=5, minutes=45)), BERLIN, ZoneInfo("UTC")]
    )
    def test_fold_and_zone_are_kept(self, zone: tzinfo | None, fold: int) -> None:
        """The hour that comes twice, and the hour that does not exist, arrive as they were."""
        for wall in (datetime(2024, 10, 27, 2, 30), datetime(2024, 3, 31, 2, 30)):
            value = wall.replace(tzinfo=zone, fold=fold)
            assert same(decode(encode(value)), value)
            assert same(decode(encode(value.timetz())), value.timetz())

    @pytest.mark.parametrize("value", [datetime.min, datetime.max, time.min, time.max, date.min])
    def test_ends_of_the_calendar(self, value: Any) -> None:
        """The first and the last moments are carried, with and without a zone."""
        assert same(decode(encode(value)), value)
        if isinstance(value, datetime):
            assert same(decode(encode(value.replace(tzinfo=UTC))), value.replace(tzinfo=UTC))

    def test_other_zones_keep_their_offset(self) -> None:
        """A zone that is no ZoneInfo arrives as its offset."""
        value = datetime(2024, 7, 1, 12, tzinfo=Odd())
        arrived = decode(encode([value]))[0]
        assert arrived == value
        assert same(arrived.tzinfo, timezone(timedelta(hours=2)))

    @pytest.mark.parametrize(
        "microseconds", [-1_000_000, -999_999, -1, 1, 1_000_001, 3_600_000_000]
    )
    def test_any_offset_is_kept(self, microseconds: int) -> None:
        """Offsets of less than a minute or a second are offsets too."""
        zone = timezone(timedelta(microseconds=microseconds))
        for micro in (0, 1):
            for fold in (0, 1):
                value = datetime(2024, 1, 1, 0, 0, 0, micro, tzinfo=zone, fold=fold)
                assert same(decode(encode(value)), value)
                assert same(decode(encode(value.timetz())), value.timetz())

    def test_fold_follows_from_the_offset(self) -> None:
        """Another language need not know Python's fold."""
        text = b"2024-10-27T02:30:00+01:00[Europe/Berlin]"
        arrived = decode(msgspec.msgpack.encode(Ext(extensions.DATETIME, text)))
        assert same(arrived, datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1))

    def test_instant_counts_where_zones_differ(self) -> None:
        """If the sender's rules of a zone are not ours, the instant is kept."""
        text = b"2024-07-01T12:00:00+05:00[Europe/Berlin]"
        arrived = decode(msgspec.msgpack.encode(Ext(extensions.DATETIME, text)))
        assert same(arrived, datetime(2024, 7, 1, 9, tzinfo=BERLIN))

    def test_unknown_zone_keeps_its_offset(self) -> None:
        """A zone that this machine does not know costs the name, not the value."""
        for name in ("Mars/Base", "America", "Mars/Base2"):
            text = f"2024-07-01T12:00:00+05:00[{name}]".encode()
            arrived = decode(msgspec.msgpack.encode(Ext(extensions.DATETIME, text)))
            assert same(arrived, datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=5))))

    def test_many_unknown_zones_cost_no_search_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hostile payload cannot make the receiver search the disk a million times."""
        searched: list[str] = []

        def search(name: str) -> ZoneInfo:
            searched.append(name)
            return ZoneInfo(name)

        monkeypatch.setattr("headgate.wire.moments.ZoneInfo", search)
        names = (f"2024-07-01T12:00:00+05:00[X/{index}]" for index in range(20_000))
        data = msgspec.msgpack.encode([Ext(extensions.DATETIME, name.encode()) for name in names])
        assert len(decode(data)) == 20_000
        assert len(searched) <= 1

    def test_timestamp_of_messagepack_is_read(self) -> None:
        """Other programs write the standard's own timestamp."""
        assert same(decode(b"\xd6\xff\x00\x00\x00\x01"), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))


class TestConverted:
    def test_order_is_the_dictionary_s_own(self) -> None:
        """An OrderedDict arrives in its own order, not in that of its making."""
        value = OrderedDict(a=1, b=2)
        value.move_to_end("a")
        assert list(decode(encode(value))) == ["b", "a"]


@dataclasses.dataclass
class Failing:
    a: int = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "a":
            raise OSError("no device")
        return super().__getattribute__(name)


class FailingZone(Odd):
    def utcoffset(self, when: datetime | None) -> timedelta:
        raise OSError("no zone")


class TestRefused:
    """What cannot be sent is refused before sending, with its type and its place."""

    @pytest.mark.parametrize(
        ("value", "place"),
        [
            (object(), "payload"),
            ({"a": [1, 2, 3, object()]}, "payload['a'][3]"),
            ({"a": {1: {b"k": {1j}}}}, "payload['a'][1][b'k']{…}"),
            ({"a": (1, print)}, "payload['a'][1]"),
            ({1j: 1}, "payload.keys()"),
            ({("a", (object(),)): 1}, "payload.keys()[1][0]"),
            ([Reading(tag=lambda: 0)], "payload[0]['tag']"),
            (Reading, "payload"),
            (ValueError("x"), "payload"),
            (iter([]), "payload"),
            ({10**5000: print}, "payload[…]"),
            ({"x" * 1000: print}, f"payload['{'x' * 78}…]"),
            ({"a": Failing()}, "payload['a']"),
            ([datetime(2024, 1, 1, tzinfo=FailingZone())], "payload[0]"),
        ],
        ids=lambda value: repr(value)[:30] if isinstance(value, str) else "",
    )
    def test_names_the_place(self, value: Any, place: str) -> None:
        """The error says where, and that nothing was started."""
        for call in (encode, convert):
            with pytest.raises(PayloadError) as caught:
                call(value)
            assert caught.value.place == place
            assert caught.value.started is False
            assert str(caught.value).startswith(place)

    def test_names_the_type(self) -> None:
        """The error says what, and what to send instead."""
        with pytest.raises(
            PayloadError, match=r"reply\[1\] is of type types.SimpleNamespace, .*Send"
        ):
            encode([1, SimpleNamespace()], root="reply")

    @pytest.mark.parametrize("value", [{Model}, {Point(1, Frame)}])
    def test_types_are_not_instances(self, value: Any) -> None:
        """A class is not an instance of itself."""
        with pytest.raises(PayloadError):
            encode(value)

    def test_hashable_here_but_not_there(self) -> None:
        """A key or member that arrives as a dictionary or a list is refused, not lost."""

        @dataclasses.dataclass(frozen=True)
        class Key:
            a: int

        for value in ({Key(1): 1}, {Key(1)}, [{(1, (Key(1),))}], frozenset({Key(1)})):
            with pytest.raises(PayloadError, match="cannot be a key or a member of a set"):
                encode(value)

    def test_circles(self) -> None:
        """A value that contains itself is refused with the place of the circle."""
        ring: list[Any] = [1]
        ring.append({"a": (ring,)})
        loop: dict[Any, Any] = {}
        loop[1] = [loop]
        node = Reading("a")
        node.value = [node]
        for value, place in (
            (ring, "payload[1]['a'][0]"),
            (loop, "payload[1][0]"),
            (node, "payload['value'][0]"),
        ):
            with pytest.raises(PayloadError, match="contains itself") as caught:
                encode(value)
            assert caught.value.place == place

    def test_the_same_object_twice_is_no_circle(self) -> None:
        """An object may stand in several places; it arrives as several objects."""
        row = [1]
        value = {"a": row, 1: (row, row)}
        assert decode(encode(value)) == value


class TestLimits:
    @pytest.mark.parametrize("kind", WRAPS)
    def test_sixty_four_levels(self, kind: str) -> None:
        """Sixty-four levels are carried, the next is refused on both sides."""
        allowed, refused = (nested(levels, WRAPS[kind], 1) for levels in (64, 65))
        assert decode(encode(allowed)) == allowed
        with pytest.raises(PayloadError, match="deeper than 64 levels") as caught:
            encode(refused)
        assert caught.value.started is False
        with pytest.raises(PayloadError) as caught:
            decode(encode(refused, limits=Limits(max_depth=65)))
        assert caught.value.started is None

    @given(st.lists(st.sampled_from(sorted(WRAPS)), min_size=60, max_size=68), st.integers(0, 99))
    @example(["list"] * 66, 0)
    @settings(max_examples=60)
    def test_levels_of_all_kinds_count(self, kinds: list[str], padding: int) -> None:
        """Each container is one level, of whatever kind, beside little data or much."""
        value: Any = "x"
        for kind in kinds:
            value = (WRAPS["tuple"] if kind == "frozenset" else WRAPS[kind])(value)
        value = {"value": value, "rows": [{"a": [1]} for _ in range(padding * 20)]}
        if len(kinds) + 1 <= 64:
            assert decode(encode(value)) == value
            return
        with pytest.raises(PayloadError, match="deeper than 64"):
            encode(value)
        with pytest.raises(PayloadError):
            decode(encode(value, limits=Limits(max_depth=200)))

    @pytest.mark.parametrize("max_depth", [1, 2, 3, 100, 200])
    def test_max_depth_is_exact(self, max_depth: int) -> None:
        """The setting means what it says, whatever the value's size."""
        limits = Limits(max_depth=max_depth)
        padding: list[Any] = ["x" * 5000] if max_depth > 2 else []
        for wrap in (WRAPS["list"], WRAPS["tuple"]):
            value = nested(max_depth - 1, wrap, [*padding, 1])
            assert decode(encode(value, limits=limits), limits=limits) == value
            with pytest.raises(PayloadError, match="deeper than"):
                encode([value], limits=limits)
            with pytest.raises(PayloadError):
                decode(
                    encode([value], limits=Limits(max_depth=200))
                    if max_depth < 200
                    else b"\x91" + encode(value, limits=limits),
                    limits=limits,
                )

    def test_long_containers_count_too(self) -> None:
        """A level whose header is of the long kind is a level."""
        value = nested(64, lambda inner: [inner, *range(16)], 1)
        assert decode(encode(value)) == value
        with pytest.raises(PayloadError, match="deeper than 64"):
            encode([value])
        with pytest.raises(PayloadError, match="deeper than 64"):
            decode(b"\x91" + encode(value))

    def test_levels_in_keys_count_too(self) -> None:
        """A key is as deep as a value, also beside one long text."""
        value = {nested(63, WRAPS["tuple"], 1): 1, "text": "x" * 5_000}
        assert decode(encode(value)) == value
        with pytest.raises(PayloadError, match="deeper than 64"):
            decode(b"\x91" + encode(value))

    def test_wide_is_not_deep(self) -> None:
        """Many containers beside each other are no depth; bytes that look like headers neither."""
        for value in (
            [[] for _ in range(10_000)],
            [{"a": (index, {index})} for index in range(10_000)],
            {index: {index: ()} for index in range(1_000)},
            [b"\x91" * 4_000],
            [b"\x91" * 100_000],
            [-1] * 3_000,
            [{frozenset({1}): Reading(1)}] * 10 + [Decimal(1)] * 80 + [{Decimal(2): 1}] * 80,
        ):
            assert same(decode(encode(value)), convert(value))

    def test_max_bytes(self) -> None:
        """The setting counts encoded bytes, on both sides."""
        limits = Limits(max_bytes=100)
        assert decode(encode(b"x" * 98, limits=limits), limits=limits) == b"x" * 98
        with pytest.raises(PayloadError, match="101 bytes") as caught:
            encode(b"x" * 99, limits=limits, root="reply")
        assert (caught.value.place, caught.value.started) == ("reply", False)
        with pytest.raises(PayloadError, match="101 bytes"):
            decode(encode(b"x" * 99), limits=limits)

    def test_default_is_64_mib(self) -> None:
        """More than 64 MiB are refused."""
        with pytest.raises(PayloadError, match="67,108,864"):
            encode(b"x" * 64 * 1024 * 1024)

    @pytest.mark.parametrize("wrong", [{"max_depth": 0}, {"max_depth": 201}, {"max_bytes": 0}])
    def test_limits_are_checked(self, wrong: dict[str, int]) -> None:
        """A limit that cannot be kept is refused."""
        with pytest.raises(ConfigurationError):
            Limits(**wrong)

    def test_ormsgpack_s_own_limit(self) -> None:
        """The check of large values rests on a limit of ormsgpack: it is where it was measured."""
        shell, levels = limits._shell(64), 0
        while shell[0] is not limits._HEART:
            shell, levels = shell[0], levels + 1
        assert levels == 255 - 64 - 1

    def test_any_depth_is_refused_without_a_crash(self) -> None:
        """100,000 levels end in PayloadError, on a small stack or with a raised recursion limit."""
        program = """
            import faulthandler, sys, threading
            from headgate.wire.codec import PayloadError, decode, encode
            faulthandler.enable()

            def ext(code, body):
                return b"\\xc9" + len(body).to_bytes(4, "big") + bytes([code]) + body

            def nested(wrap, core, levels=100_000):
                for _ in range(levels):
                    core = wrap(core)
                return core

            def refused(call, value):
                try:
                    call(value)
                except PayloadError:
                    return
                raise AssertionError(value)

            def check():
                for core in ([], "\\ud800"):
                    refused(encode, nested(lambda value: [value], core))
                    refused(encode, nested(lambda value: (value,), core))
                    refused(encode, nested(lambda value: {"a": value}, core))
                    refused(encode, nested(lambda value: {(1,): value}, core))
                    step = lambda value: (nested(lambda inner: [inner], value, 250),)
                    refused(encode, nested(step, core, 100))
                refused(encode, {nested(lambda value: (value,), (), 1_000): 1})
                refused(encode, {nested(lambda value: frozenset((value,)), 1)})
                refused(decode, b"\\x91" * 100_000 + b"\\x90")
                refused(decode, ext(3, b"\\x91" * 100_000 + b"\\x90"))
                refused(decode, b"\\x81\\xa1a" * 5_000 + b"\\x90")
                refused(decode, b"\\x81" * 5_000 + b"\\x90" + b"\\x01" * 5_000)
                for code in (3, 4, 5):
                    wrap = lambda body: ext(code, b"\\x91" + body)
                    refused(decode, nested(wrap, b"\\x90", 5_000))
                many = lambda body: ext(3, b"\\x91" * 60 + body)
                refused(decode, nested(many, b"\\x90", 5_000))

            threading.stack_size(512 * 1024)
            thread = threading.Thread(target=check)
            thread.start()
            thread.join()
            sys.setrecursionlimit(10**6)
            check()
            print("alive")
        """
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.stdout, result.stderr, result.returncode) == ("alive\n", "", 0)

    def test_little_recursion_left(self) -> None:
        """Deep in the caller's own recursion a value is sent or refused, never RecursionError."""

        def deeper(levels: int) -> None:
            try:
                assert decode(encode([(1, {2: [3]})])) == [(1, {2: [3]})]
            except PayloadError:
                pass
            if levels:
                deeper(levels - 1)

        with pytest.raises(RecursionError):
            deeper(2_000)


soup = st.lists(
    st.one_of(
        st.binary(max_size=3),
        st.sampled_from(
            [b"\x81", b"\x91", b"\x92", b"\xc7\x01\x06", b"\xd4\x04\x90", b"\xd5\x03\x91\x90",
             b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xa1a"]
        ),
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


def decode_or_refuse(data: bytes) -> None:
    try:
        value = decode(data)
    except PayloadError:
        return
    # What a stranger sent can be sent on.
    assert same(decode(encode(value)), value)


class TestHostile:
    """Whatever the bytes are, decode() gives a value or PayloadError."""

    @given(st.one_of(st.binary(max_size=200), soup))
    @settings(max_examples=500)
    def test_random_bytes(self, data: bytes) -> None:
        """Random bytes never raise anything else."""
        decode_or_refuse(data)

    @given(carried, st.randoms(use_true_random=False))
    @settings(max_examples=300)
    def test_mutated_values(self, value: Any, chance: random.Random) -> None:
        """A valid value with some bytes changed, cut or added never raises anything else."""
        data = bytearray(encode(value))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
        decode_or_refuse(bytes(data))

    @given(st.integers(-128, 127), st.one_of(st.binary(max_size=40), st.text().map(str.encode)))
    @settings(max_examples=500)
    def test_random_extensions(self, code: int, body: bytes) -> None:
        """Wrong contents of an extension never raise anything else."""
        decode_or_refuse(b"\xc7" + bytes([len(body) % 256, code & 0xFF]) + body[:255])

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xc1",
            b"\x01\x02",
            b"\x92\x01",
            b"\xa1\xff",
            b"\xa3\xed\xa0\x80",
            b"\xdd\xff\xff\xff\xff",
            b"\x81\x80\x01",
            b"\x81\xd4\x04\x90\x01",
            b"\xd4\x0c\x00",
            b"\xd4\x0d\x00",
            b"\xd4\x0e\x00",
            b"\xd4\x00\x00",
            b"\xd4\xff\x00",
            b"\xd4\x03\x01",
            b"\xd5\x03\x90\x90",
            b"\xd5\x04\x91\x80",
            b"\xd4\x0b\x00",
            b"\xc7\x00\x0a",
            b"\xc7\x04\x0asNaN"[:6],
            b"\xc7\x00\x06",
            b"\xc7\x03\x06[a]",
            b"\xc7\x0d\x0801:00[../../x]"[:16],
        ],
        ids=repr,
    )
    def test_examples(self, data: bytes) -> None:
        """Truncated, trailing, reserved, unknown, unhashable and malformed are refused."""
        with pytest.raises(PayloadError, match="not a payload"):
            decode(data)

    def test_every_truncation(self) -> None:
        """A value that was cut anywhere is refused."""
        data = encode({"a": [1, (2, {3})], 1: datetime(2024, 1, 1, tzinfo=BERLIN), "n": 2**70})
        for length in range(len(data)):
            with pytest.raises(PayloadError):
                decode(data[:length])

    @pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", ".", "a/../b"])
    def test_zone_names_open_no_files(self, name: str) -> None:
        """A zone's name is no way to the disk."""
        text = f"2024-07-01T12:00:00+05:00[{name}]".encode()
        decode_or_refuse(msgspec.msgpack.encode(Ext(extensions.DATETIME, text)))
        with pytest.raises(PayloadError):
            decode(msgspec.msgpack.encode(Ext(extensions.TIME, f"12:00:00[{name}]".encode())))

    @pytest.mark.parametrize(
        "value", [{1: "a", None: [True]}, {"a": 1.5}, [2**64 - 1, -(2**63)], {b"k": b""}]
    )
    def test_plain_messagepack_of_others(self, value: Any) -> None:
        """What other programs write without extensions is read as it is."""
        assert same(decode(msgspec.msgpack.encode(value)), value)
        assert same(decode(ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)), value)


class TestWire:
    """The bytes are a promise to other languages."""

    @pytest.mark.parametrize(
        ("value", "code", "body"),
        [
            (2**64, 1, b"\x01" + bytes(8)),
            (-(2**63) - 1, 1, b"\xff\x7f" + b"\xff" * 7),
            ("\ud800", 2, b"\xed\xa0\x80"),
            ((1, "a"), 3, b"\x92\x01\xa1a"),
            ({1}, 4, b"\x91\x01"),
            (frozenset({1}), 5, b"\x91\x01"),
            (datetime(2024, 1, 2, 3, 4, 5, 6), 6, b"2024-01-02T03:04:05.000006"),
            (datetime(2024, 1, 2, tzinfo=UTC), 6, b"2024-01-02T00:00:00+00:00"),
            (datetime(2024, 1, 2, tzinfo=BERLIN), 6, b"2024-01-02T00:00:00+01:00[Europe/Berlin]"),
            (datetime(2024, 1, 2, fold=1), 6, b"2024-01-02T00:00:00[_fold=1]"),
            (date(2024, 1, 2), 7, b"2024-01-02"),
            (time(1, 2, tzinfo=BERLIN), 8, b"01:02:00[Europe/Berlin]"),
            (timedelta(days=-1, microseconds=1), 9, b"-86399999999"),
            (Decimal("-1.50"), 10, b"-1.50"),
            (UUID(int=1), 11, bytes(15) + b"\x01"),
        ],
        ids=repr,
    )
    def test_contents(self, value: Any, code: int, body: bytes) -> None:
        """Each extension type holds what the table of the module says."""
        assert encode(value) == msgspec.msgpack.encode(Ext(code, body))
        assert same(decode(encode(value)), value)

    def test_keys_are_plain_map_keys(self) -> None:
        """A key that is no text is a key of an ordinary map, an extension if need be."""
        assert encode({1: "a"}) == b"\x81\x01\xa1a"
        assert encode({(): [{None: 1}]}) == b"\x81" + encode(()) + b"\x91\x81\xc0\x01"

    def test_default_limits(self) -> None:
        """The limits that a peer may count on."""
        assert (DEFAULT.max_bytes, DEFAULT.max_depth) == (64 * 1024 * 1024, 64)
