"""Tables of pandas, Polars and Arrow: each kind of column, with missing values and without rows."""

from __future__ import annotations

import warnings
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pandas
import polars
import pyarrow
import pytest
from sameness import same

from headgate.dataset import Dataset
from headgate.errors import PayloadError
from headgate.wire.codec import convert, decode, encode

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 7, 1, 12)
NANO = pandas.Timestamp("2026-07-01T12:00:00.123456789")


def zoned(zone: Any) -> pandas.Series[Any]:
    return pandas.Series([NOON, None]).dt.tz_localize(zone)


PANDAS: list[tuple[Any, type, list[Any]]] = [
    (pandas.Series([1, 2], dtype="uint8"), int, [1, 2]),
    (pandas.Series([1.5, None]), float, [1.5, float("nan")]),
    (pandas.Series([True, False]), bool, [True, False]),
    (pandas.Series(["a", None]), str, ["a", None]),
    (pandas.Series(["a", None], dtype=object), str, ["a", None]),
    (pandas.Series(["a", None], dtype="string"), str, ["a", None]),
    (pandas.Series([b"a", float("nan")], dtype=object), bytes, [b"a", None]),
    (pandas.Series([date(2026, 1, 2), pandas.NaT], dtype=object), date, [date(2026, 1, 2), None]),
    (pandas.Series([Decimal("1.50"), pandas.NA]), Decimal, [Decimal("1.50"), None]),
    (pandas.Series([1, 2.5], dtype=object), float, [1.0, 2.5]),
    (pandas.Series([None, None], dtype=object), type(None), [None, None]),
    (pandas.Series([NOON, None]), datetime, [NOON, None]),
    (pandas.Series([NANO, None]), datetime, [NANO.to_pydatetime(warn=False), None]),
    (zoned("Europe/Berlin"), datetime, [NOON.replace(tzinfo=BERLIN), None]),
    (zoned(UTC), datetime, [NOON.replace(tzinfo=UTC), None]),
    (
        zoned(timezone(timedelta(hours=-5, minutes=-30))),
        datetime,
        [NOON.replace(tzinfo=timezone(timedelta(hours=-5, minutes=-30))), None],
    ),
    (
        zoned("dateutil/Europe/Berlin"),
        datetime,
        [NOON.replace(tzinfo=timezone(timedelta(hours=2))), None],
    ),
    (pandas.Series([timedelta(1), None]), timedelta, [timedelta(1), None]),
    (pandas.Series([1, None], dtype="Int64"), int, [1, None]),
    (pandas.Series([True, None], dtype="boolean"), bool, [True, None]),
    (pandas.Series([1.5, None], dtype="Float32"), float, [1.5, None]),
    (pandas.Series(["u", None], dtype="category"), str, ["u", None]),
    (pandas.Series([7, 7], dtype="category"), int, [7, 7]),
    (pandas.Series([0, 1], dtype="Sparse[int]"), int, [0, 1]),
    (pandas.Series([1, None], dtype=pandas.ArrowDtype(pyarrow.int16())), int, [1, None]),
]

POLARS: list[tuple[Any, Any, type, list[Any]]] = [
    (polars.UInt8(), [1, None], int, [1, None]),
    (polars.Int64(), [1, None], int, [1, None]),
    (polars.Float32(), [1.5, None], float, [1.5, None]),
    (polars.Float64(), [float("nan"), None], float, [float("nan"), None]),
    (polars.Boolean(), [True, None], bool, [True, None]),
    (polars.Decimal(10, 2), [Decimal("1.50"), None], Decimal, [Decimal("1.50"), None]),
    (polars.String(), ["a", None], str, ["a", None]),
    (polars.Binary(), [b"a", None], bytes, [b"a", None]),
    (polars.Categorical(), ["a", None], str, ["a", None]),
    (polars.Enum(["a"]), ["a", None], str, ["a", None]),
    (polars.Date(), [date(2026, 1, 2), None], date, [date(2026, 1, 2), None]),
    (polars.Time(), [time(3, 4), None], time, [time(3, 4), None]),
    (polars.Datetime("ns"), [NOON, None], datetime, [NOON, None]),
    (
        polars.Datetime("ms", "Europe/Berlin"),
        [NOON.replace(tzinfo=BERLIN), None],
        datetime,
        [NOON.replace(tzinfo=BERLIN), None],
    ),
    (polars.Duration(), [timedelta(1), None], timedelta, [timedelta(1), None]),
    (polars.Null(), [None, None], type(None), [None, None]),
]

ARROW: list[tuple[Any, list[Any], type, list[Any]]] = [
    (pyarrow.int8(), [1, None], int, [1, None]),
    (pyarrow.uint64(), [2**64 - 1, None], int, [2**64 - 1, None]),
    (pyarrow.float32(), [1.5, None], float, [1.5, None]),
    (pyarrow.bool_(), [True, None], bool, [True, None]),
    (pyarrow.decimal128(10, 2), [Decimal("1.50"), None], Decimal, [Decimal("1.50"), None]),
    (pyarrow.string(), ["a", None], str, ["a", None]),
    (pyarrow.large_string(), ["a", None], str, ["a", None]),
    (pyarrow.string_view(), ["a", None], str, ["a", None]),
    (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), ["a", None], str, ["a", None]),
    (pyarrow.binary(), [b"a", None], bytes, [b"a", None]),
    (pyarrow.binary(2), [b"ab", None], bytes, [b"ab", None]),
    (pyarrow.date32(), [date(2026, 1, 2), None], date, [date(2026, 1, 2), None]),
    (pyarrow.date64(), [date(2026, 1, 2), None], date, [date(2026, 1, 2), None]),
    (pyarrow.time32("s"), [time(3, 4), None], time, [time(3, 4), None]),
    (pyarrow.time64("ns"), [time(3, 4), None], time, [time(3, 4), None]),
    (pyarrow.timestamp("s"), [NOON, None], datetime, [NOON, None]),
    (
        pyarrow.timestamp("ns"),
        [NANO.value, None],
        datetime,
        [NANO.to_pydatetime(warn=False), None],
    ),
    (
        pyarrow.timestamp("us", "Europe/Berlin"),
        [NOON.replace(tzinfo=BERLIN), None],
        datetime,
        [NOON.replace(tzinfo=BERLIN), None],
    ),
    (
        pyarrow.timestamp("us", "-05:30"),
        [NOON.replace(tzinfo=UTC), None],
        datetime,
        [NOON.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=-5, minutes=-30))), None],
    ),
    (pyarrow.duration("ns"), [timedelta(1), None], timedelta, [timedelta(1), None]),
    (pyarrow.null(), [None, None], type(None), [None, None]),
]


def check(sent: Any, empty: Any, kind: type, values: list[Any]) -> None:
    """A table of the column `a` arrives so; without rows it keeps its type."""
    expected = Dataset.from_columns({"a": values}, [kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(convert(sent), expected)
        assert same(decode(encode({"t": sent})), {"t": expected})
        assert same(decode(encode(empty)), Dataset(["a"], [], [kind]))


@pytest.mark.parametrize(("series", "kind", "values"), PANDAS)
def test_pandas(series: pandas.Series[Any], kind: type, values: list[Any]) -> None:
    """Each kind of a column of pandas; one of objects does not know its type without a value."""
    frame = series.to_frame("a")
    if series.dtype == object:
        kind_of_none = Dataset(["a"])
        assert convert(frame.iloc[:0]) == kind_of_none
        assert same(convert(frame), Dataset.from_columns({"a": values}, [kind]))
    else:
        check(frame, frame.iloc[:0], kind, values)


@pytest.mark.parametrize(("dtype", "sent", "kind", "values"), POLARS)
def test_polars(dtype: Any, sent: list[Any], kind: type, values: list[Any]) -> None:
    """Each kind of a column of Polars."""
    frame = polars.DataFrame({"a": polars.Series(sent, dtype=dtype)})
    check(frame, frame.clear(), kind, values)


@pytest.mark.parametrize(("dtype", "sent", "kind", "values"), ARROW)
def test_arrow(dtype: Any, sent: list[Any], kind: type, values: list[Any]) -> None:
    """Each kind of a column of an Arrow table, in several chunks, and of a record batch."""
    column = pyarrow.chunked_array([pyarrow.array([each], dtype) for each in sent], dtype)
    table = pyarrow.table({"a": column})
    check(table, table.slice(0, 0), kind, values)
    batch = pyarrow.record_batch({"a": pyarrow.array(sent, dtype)})
    check(batch, batch.slice(0, 0), kind, values)


def test_subclass_and_names() -> None:
    """A subclass of a table is a table; names that are no text become text."""

    class Frame(pandas.DataFrame):
        """What geopandas makes of it, for example."""

    assert convert(Frame([[1, "x"]])) == Dataset(["0", "1"], [[1, "x"]])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (pandas.DataFrame({"a": [[1]]}), "column 'a', row 0: .* is of type list"),
        (pandas.DataFrame({"a": [1, "x"]}), "column 'a', row 1: 'x' is of type str"),
        (pandas.DataFrame({"a": pandas.period_range("2026", periods=1)}), "'a' is of type period"),
        (pandas.DataFrame({("a", "b"): [1]}), "'b'.* has a name of several levels"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column 'a'"),
        (polars.DataFrame({"a": [[1]]}), "'a' is of type List"),
        (polars.DataFrame({"a": [{"b": 1}]}), "'a' is of type Struct"),
        (pyarrow.table({"a": [{"b": 1}]}), "'a' is of type struct"),
        (pyarrow.table([[1], [2]], ["a", "a"]), "more than one column 'a'"),
        (
            pyarrow.table({"a": pyarrow.array([0], pyarrow.timestamp("us", "Mars/Base"))}),
            "time zone 'Mars/Base' is not known here",
        ),
        (pandas.Series([1]), "of type pandas.Series, which cannot be sent"),
    ],
)
def test_refused(value: Any, words: str) -> None:
    """A column that a Dataset cannot hold is refused before sending, by its name."""
    with pytest.raises(PayloadError, match=words) as caught:
        encode({"a": [value]})
    assert caught.value.place == "payload['a'][0]"
    assert caught.value.started is False
