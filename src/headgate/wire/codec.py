"""
What a payload can hold, as bytes: MessagePack, and extension types for the rest of Python.

None, booleans, integers of 64 bits, floats, text, bytes, lists and dictionaries are MessagePack's
own; the keys of a map may be any value that Python can hash. Whatever else is carried is an
extension type:

====  ==========  ================================================================================
code  carries     contents
====  ==========  ================================================================================
1     int         an integer beyond 64 bits: two's complement, big-endian, any number of bytes
2     str         text with lone surrogates: UTF-8 with each surrogate as its own three bytes
                  (WTF-8); all other text is MessagePack's own str
3     tuple       one MessagePack array of the members
4     set         one MessagePack array of the members, in any order
5     frozenset   one MessagePack array of the members, in any order
6     datetime    ASCII, RFC 9557: ``2024-10-27T02:30:00.000001+01:00[Europe/Berlin]``. Without
                  offset: naive. The zone, an IANA name, is left out if only the offset is known.
                  ``[_fold=1]`` may end it: Python's ``fold``, for naive times too
7     date        ASCII, ISO 8601: ``2024-10-27``
8     time        ASCII, as in 6, without the date: ``02:30:00+01:00``, ``02:30:00[Europe/Berlin]``
9     timedelta   ASCII: the whole number of microseconds in decimal digits, ``-`` before a negative
10    Decimal     ASCII: ``-1.50``, ``1E+3``, ``NaN``, ``sNaN``, ``-Infinity``; the exponent is kept
11    UUID        its 16 bytes, in the order of the text form
12    Dataset     reserved
13    array       reserved
14…   nothing     reserved for later releases; refused
====  ==========  ================================================================================

MessagePack's own timestamp (code -1) is read as a datetime in UTC and never written. A receiver
refuses an unknown code, bytes after the value, and more bytes or levels than its `Limits`; every
list, tuple, dictionary and set is one level, whether it stands in an extension or not. Of equal
keys in a map the last one counts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cache, lru_cache
from itertools import chain
from sys import getrecursionlimit
from typing import Any, Final, NoReturn, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgspec
import ormsgpack
from msgspec.msgpack import Decoder
from ormsgpack import Ext, packb

from headgate.errors import ConfigurationError, PayloadError

__all__ = ["DEFAULT", "Limits", "convert", "decode", "encode"]

INT: Final = 1
WTF8: Final = 2
TUPLE: Final = 3
SET: Final = 4
FROZENSET: Final = 5
DATETIME: Final = 6
DATE: Final = 7
TIME: Final = 8
TIMEDELTA: Final = 9
DECIMAL: Final = 10
UNIQUE_ID: Final = 11


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a value may grow to; a receiver refuses more, a sender does not send it."""

    max_bytes: int = 64 * 1024 * 1024
    """Bytes of the whole encoded value."""

    max_depth: int = 64
    """Lists, tuples, dictionaries and sets inside each other, the outermost counted."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ConfigurationError(
                f"max_bytes is {self.max_bytes}", cure="Write a number of bytes above 0"
            )
        # The limit of ormsgpack, 255 levels, leaves room for the lists of _shell().
        if not 1 <= self.max_depth <= 200:
            raise ConfigurationError(
                f"max_depth is {self.max_depth}", cure="Write a number from 1 to 200"
            )


DEFAULT: Final = Limits()


_CERTAINLY_FINE: Final = DEFAULT.max_depth
"""Bytes up to which an encoding is neither too large nor too deep: each level takes one."""


def encode(value: Any, *, root: str = "payload", limits: Limits = DEFAULT) -> bytes:
    """
    Encode a value.

    Args:
        value: Anything that is carried or converted.
        root: What errors call the value.
        limits: How large and how deep it may be.

    Raises:
        PayloadError: The value cannot be sent; the error names what and where.
    """
    try:
        data = packb(value, _default, _OPTIONS)
        if len(data) <= _CERTAINLY_FINE and limits is DEFAULT:
            return data
    except Exception:
        # Something in it is not for ormsgpack: a key that is no str, a lone surrogate, a mistake.
        data = b""
    if not data:
        data = _pack(convert(value, root=root, limits=limits))
    # Each level takes a byte at least, so few bytes cannot be too deep.
    elif len(data) > limits.max_depth and not _is_shallow(value, data, limits.max_depth):
        convert(value, root=root, limits=limits)
    if len(data) > limits.max_bytes:
        raise PayloadError(
            f"{root} has {len(data):,} bytes when encoded, more than the {limits.max_bytes:,} "
            "that may be sent. Send it in parts.",
            place=root,
            started=False,
        )
    return data


def decode(data: bytes | memoryview, *, limits: Limits = DEFAULT) -> Any:
    """
    Decode what `encode` made, here or in another program.

    Lists, dictionaries and sets are new and the receiver's own.

    Raises:
        PayloadError: The bytes are not one value, or exceed the limits.
    """
    if len(data) <= _CERTAINLY_FINE and limits is DEFAULT:
        try:
            return _read(data)
        except Exception as error:
            raise PayloadError(f"What arrived is not a payload: {error}") from error
    if len(data) > limits.max_bytes:
        raise PayloadError(
            f"A payload of {len(data):,} bytes arrived; {limits.max_bytes:,} are allowed."
        )
    try:
        guarded = len(data) > _SAFE_LEVELS and getrecursionlimit() > _SAFE_LEVELS
        if guarded or limits is not DEFAULT:
            value = _reader(limits.max_depth, guarded)(data)
        else:
            value = _read(data)
    except Exception as error:
        raise PayloadError(f"What arrived is not a payload: {error}") from error
    if len(data) > limits.max_depth and not _is_shallow(value, data, limits.max_depth):
        try:
            convert(value, limits=limits)
        except PayloadError as error:
            error.started = None  # it may be a result that arrived
            raise
    return value


def convert(value: Any, *, root: str = "payload", limits: Limits = DEFAULT) -> Any:
    """
    Give what arrives when the value is sent: ``decode(encode(value)) == convert(value)``.

    An Enum becomes its value; a dataclass, an attrs, msgspec or pydantic object a dictionary of
    its fields; bytearray and memoryview become bytes; an instance of a subclass one of the
    carried type; a time zone that is no `ZoneInfo` with a key becomes its offset.

    Args:
        value: Anything that is carried or converted.
        root: What errors call the value.
        limits: How deep it may be.

    Raises:
        PayloadError: The value cannot be sent; the error names what and where.
    """
    try:
        return _Conversion(root, limits.max_depth).of(value, None)
    except RecursionError as error:
        raise PayloadError(
            f"{root} cannot be sent from here: the calling code has used up Python's recursion "
            "limit. Send it from a function that is called less deeply.",
            place=root,
            started=False,
        ) from error


# Writing. ormsgpack asks a *default* for each value that MessagePack has no type for.

_OPTIONS: Final = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)

_Default = Callable[[Any], Any]


def _write_int(value: int) -> Ext:
    return Ext(INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _write_text(value: str) -> Ext:
    return Ext(WTF8, value.encode("utf-8", "surrogatepass"))


def _write_datetime(value: datetime) -> Ext:
    return Ext(DATETIME, (value.isoformat() + _tags(value)).encode())


def _write_date(value: date) -> Ext:
    return Ext(DATE, value.isoformat().encode())


def _write_time(value: time) -> Ext:
    return Ext(TIME, (value.isoformat() + _tags(value)).encode())


def _write_timedelta(value: timedelta) -> Ext:
    return Ext(TIMEDELTA, str(value // timedelta.resolution).encode())


def _write_decimal(value: Decimal) -> Ext:
    return Ext(DECIMAL, str(value).encode())


def _write_uuid(value: UUID) -> Ext:
    return Ext(UNIQUE_ID, value.bytes)


_WRITERS: Final[dict[type, Callable[[Any], Ext]]] = {
    int: _write_int,
    datetime: _write_datetime,
    date: _write_date,
    time: _write_time,
    timedelta: _write_timedelta,
    Decimal: _write_decimal,
    UUID: _write_uuid,
}

_CODES: Final[dict[type, int]] = {tuple: TUPLE, set: SET, frozenset: FROZENSET}

_LEAVES: Final = frozenset({*_WRITERS, type(None), bool, float, str, bytes})
_FIXED: Final = _LEAVES - {datetime, time}
"""Types that convert() leaves as they are."""

_CONTAINERS: Final = frozenset({*_CODES, list, dict})

_ZONE_NAME: Final = r"[A-Za-z0-9_+./-]+"


def _tags(value: datetime | time) -> str:
    zone = value.tzinfo
    name = _zone_tag(zone) if type(zone) is ZoneInfo else ""
    return name + "[_fold=1]" if value.fold else name


@lru_cache(maxsize=1024)
def _zone_tag(zone: ZoneInfo) -> str:
    return f"[{zone.key}]" if zone.key and re.fullmatch(_ZONE_NAME, zone.key) else ""


def _nested_default(inner: _Default | None) -> _Default:
    """Build a default that packs the members of tuples and sets with the inner default."""

    def default(value: Any) -> Any:
        kind = type(value)
        write = _WRITERS.get(kind)
        if write is not None:
            return write(value)
        code = _CODES.get(kind)
        if code is None:
            return _base(value)
        if inner is None or (code != TUPLE and not _stay_hashable(value)):
            raise TypeError
        return Ext(code, packb(list(value), inner, _OPTIONS))

    return default


def _default_of(levels: int) -> _Default:
    default = _nested_default(None)
    for _ in range(levels):
        default = _nested_default(default)
    return default


# ormsgpack may go 255 levels down on the C stack for each of these: eight of them fit the
# smallest stack that a thread has (512 KiB). What is nested deeper goes through convert().
_default: Final = _default_of(8)


def _stay_hashable(members: Iterable[Any]) -> bool:
    """Whether members of a set surely stay hashable; False says that nobody looked."""
    return _LEAVES.issuperset(map(type, members)) or all(
        type(member) in _LEAVES or (type(member) is tuple and _LEAVES.issuperset(map(type, member)))
        for member in members
    )


_KEYS: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Types that ormsgpack writes unchanged as keys; of others it makes text or arrays."""


def _pack(value: Any) -> bytes:
    """Pack what convert() returned: ormsgpack takes all that it can, the rest is written here."""
    try:
        return packb(value, _default, _OPTIONS)
    except Exception:
        kind = type(value)
    if kind is str:
        return packb(_write_text(value))
    if kind is dict:
        if _KEYS.issuperset(map(type, value)) and _LEAVES.issuperset(map(type, value.values())):
            try:
                return packb(value, _default, _OPTIONS | ormsgpack.OPT_NON_STR_KEYS)
            except Exception:
                pass
        return _head(0x80, 0xDE, len(value)) + b"".join(map(_pack, chain(*value.items())))
    data = _head(0x90, 0xDC, len(value)) + b"".join(map(_pack, value))
    return data if kind is list else packb(Ext(_CODES[kind], data))


def _head(short: int, long: int, members: int) -> bytes:
    """Give the first bytes of a MessagePack array or map."""
    if members < 16:
        return bytes((short | members,))
    if members < 1 << 16:
        return bytes((long,)) + members.to_bytes(2, "big")
    return bytes((long + 1,)) + members.to_bytes(4, "big")


# Converting: what arrives. The one place that knows where in the value it is.

_Trail = tuple[Any, str, Any] | None
"""The steps to a value, the last one first: (steps before, form, key or index)."""


class _Conversion:
    """One walk through a value."""

    def __init__(self, root: str, max_depth: int) -> None:
        self._root = root
        self._max_depth = max_depth
        self._depth = 0
        self._open: set[int] = set()
        """Identities of the objects that the walk is inside of."""

    def of(self, value: Any, trail: _Trail) -> Any:
        kind = type(value)
        if kind is datetime or kind is time:
            return self._with_plain_zone(value, trail)
        if kind in _LEAVES:
            return value
        if id(value) in self._open:
            self._refuse(trail, "contains itself. Send a copy without the circle.")
        self._open.add(id(value))
        try:
            if kind in _CONTAINERS:
                return self._container(value, trail)
            return self.of(self._base(value, trail), trail)
        finally:
            self._open.remove(id(value))

    def _container(self, value: Any, trail: _Trail) -> Any:
        if self._depth == self._max_depth:
            self._refuse(trail, f"is deeper than {self._max_depth} levels. Send it flatter.")
        self._depth += 1
        try:
            if type(value) is dict:
                return self._dict(value, trail)
            return type(value)(self._items(value, trail))
        finally:
            self._depth -= 1

    def _dict(self, value: dict[Any, Any], trail: _Trail) -> dict[Any, Any]:
        if _FIXED.issuperset(map(type, chain(value, value.values()))):
            return dict(value)
        result = {}
        for key, item in list(value.items()):
            if type(key) is not str:
                key = self._hashable(key, (trail, ".keys()", None))
            result[key] = self.of(item, (trail, "[{}]", key))
        return result

    def _items(self, value: Collection[Any], trail: _Trail) -> Iterable[Any]:
        if _FIXED.issuperset(map(type, value)):
            return value
        if type(value) is list or type(value) is tuple:
            return (self.of(item, (trail, "[{}]", at)) for at, item in enumerate(value))
        return [self._hashable(item, (trail, "{{…}}", None)) for item in value]

    def _hashable(self, value: Any, trail: _Trail) -> Any:
        result = self.of(value, trail)
        try:
            hash(result)
        except TypeError:
            self._refuse(
                trail,
                f"is of type {_name(value)} and arrives as {_name(result)}, which cannot be a key "
                "or a member of a set. Use a tuple or text.",
            )
        return result

    def _base(self, value: Any, trail: _Trail) -> Any:
        try:
            return _base(value)
        except _NotCarriedError:
            self._refuse(
                trail,
                f"is of type {_name(value)}, which cannot be sent. Send numbers, text, bytes, "
                "dates, lists, tuples, sets, dictionaries or dataclasses of these.",
            )
        except Exception as error:
            self._refuse(
                trail, f"is of type {_name(value)} and cannot be read: {error!r}.", cause=error
            )

    def _with_plain_zone(self, value: datetime | time, trail: _Trail) -> datetime | time:
        zone = value.tzinfo
        if zone is None or (type(zone) is ZoneInfo and _zone_tag(zone)):
            return value
        try:
            offset = value.utcoffset()
        except Exception as error:
            self._refuse(trail, f"has a time zone that fails: {error!r}.", cause=error)
        return value.replace(tzinfo=None if offset is None else timezone(offset))

    def _refuse(self, trail: _Trail, reason: str, cause: Exception | None = None) -> NoReturn:
        steps = []
        while trail is not None:
            trail, form, key = trail
            steps.append(form.format(_short(key)))
        place = self._root + "".join(reversed(steps))
        raise PayloadError(f"{place} {reason}", place=place, started=False) from cause


class _NotCarriedError(TypeError):
    """There is no conversion for a value."""


def _base(value: Any) -> Any:
    """Take a value that is not carried one step towards what is."""
    if isinstance(value, Enum):
        return value.value
    for kind, build in _BASES.items():
        if isinstance(value, kind):
            return build(value)
    return _fields(value)


_BASES: Final[dict[type, Callable[[Any], Any]]] = {
    int: int.__int__,
    float: float.__float__,
    # A subclass may override what str() and bytes() give.
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    list: list,
    tuple: tuple,
    dict: dict,
    set: set,
    frozenset: frozenset,
    bytearray: bytes,
    memoryview: bytes,
    datetime: lambda value: datetime.combine(value.date(), value.timetz()),
    date: lambda value: date(value.year, value.month, value.day),
    time: lambda value: time(
        value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
    ),
    timedelta: lambda value: timedelta(value.days, value.seconds, value.microseconds),
    Decimal: Decimal,
    UUID: lambda value: UUID(int=value.int),
}


def _fields(value: Any) -> Any:
    """Give the fields of a dataclass, a msgspec, attrs or pydantic object as a dictionary."""
    kind: Any = type(value)
    if hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(kind):
        names: Iterable[str] = (field.name for field in dataclasses.fields(kind))
    elif isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif hasattr(kind, "__attrs_attrs__"):
        names = (field.name for field in kind.__attrs_attrs__)
    else:
        raise _NotCarriedError
    fields = {name: getattr(value, name) for name in names}
    return {name: field for name, field in fields.items() if field is not msgspec.UNSET}


def _name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except ValueError:  # an int of more digits than Python writes
        text = "…"
    return text if len(text) <= 80 else text[:79] + "…"


# Reading. msgspec asks a hook for each extension type.

_Reader = Callable[[Any], Any]
_Hook = Callable[[int, memoryview], Any]
_Moment = TypeVar("_Moment", datetime, time)


def _read_int(body: memoryview) -> int:
    return int.from_bytes(body, "big", signed=True)


def _read_text(body: memoryview) -> str:
    return bytes(body).decode("utf-8", "surrogatepass")


def _read_datetime(body: memoryview) -> datetime:
    text = str(body, "ascii")
    if not text.endswith("]"):
        return _parse(datetime, text)
    text, zone, fold = _split_tags(text)
    value = _parse(datetime, text).replace(fold=fold)
    return _in_zone(value, zone) if zone else value


def _read_date(body: memoryview) -> date:
    return date.fromisoformat(str(body, "ascii"))


def _read_time(body: memoryview) -> time:
    text = str(body, "ascii")
    if not text.endswith("]"):
        return _parse(time, text)
    text, zone, fold = _split_tags(text)
    value = _parse(time, text).replace(fold=fold)
    return value.replace(tzinfo=_known_zone(zone)) if zone else value


def _parse(kind: type[_Moment], text: str) -> _Moment:
    value = kind.fromisoformat(text)
    # Python reads an offset of less than a second as none.
    if value.tzinfo is UTC and text[-16:-7] in ("+00:00:00", "-00:00:00"):
        offset = timedelta(microseconds=int(text[-16] + text[-6:]))
        return value.replace(tzinfo=timezone(offset))
    return value


def _read_timedelta(body: memoryview) -> timedelta:
    return timedelta(microseconds=int(str(body, "ascii")))


def _read_decimal(body: memoryview) -> Decimal:
    return Decimal(str(body, "ascii"))


def _read_uuid(body: memoryview) -> UUID:
    return UUID(bytes=bytes(body))


_READERS: Final[dict[int, _Reader]] = {
    INT: _read_int,
    WTF8: _read_text,
    DATETIME: _read_datetime,
    DATE: _read_date,
    TIME: _read_time,
    TIMEDELTA: _read_timedelta,
    DECIMAL: _read_decimal,
    UNIQUE_ID: _read_uuid,
}

_TAGGED: Final = re.compile(rf"([^\[\]]+)(?:\[({_ZONE_NAME})\])?(\[_fold=1\])?")


def _split_tags(text: str) -> tuple[str, str, int]:
    match = _TAGGED.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is not a time of RFC 9557")
    return match[1], match[2] or "", 1 if match[3] else 0


def _in_zone(value: datetime, name: str) -> datetime:
    offset = value.utcoffset()
    zone = _zone(name)
    if zone is None and offset is not None:
        return value  # a zone that this machine does not know: the offset is kept
    zone = _known_zone(name)
    for fold in (value.fold, 1 - value.fold):
        local = value.replace(tzinfo=zone, fold=fold)
        if offset is None or local.utcoffset() == offset:
            return local
    # The rules of the zone differ between the machines: the instant counts, not the wall clock.
    return value.astimezone(zone)


def _known_zone(name: str) -> ZoneInfo:
    zone = _zone(name)
    if zone is None:
        raise ValueError(f"time zone {name[:80]!r} is not known here; pip install tzdata")
    return zone


_zone_names: frozenset[str] | None = None
"""The zones of this machine, looked up (80 ms) when the first unknown one arrives."""


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo | None:
    global _zone_names
    # Searching the disk for an unknown zone takes 0.1 ms: a payload could hold a million of them.
    if _zone_names is not None and name not in _zone_names:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError):
        _zone_names = frozenset(available_timezones())
        return None


_SAFE_LEVELS: Final = 3000
"""
Levels that msgspec may go down on the C stack, 300 bytes each.

Up to Python 3.11 it stops at Python's recursion limit. Where a program has raised that, the
bytes are scanned first by ormsgpack, which stops at 253 levels (and takes half as long again).
"""


def _guard(read: _Reader) -> _Reader:
    def read_scanned(data: bytes | memoryview) -> Any:
        ormsgpack.Fragment(bytes(data))
        return read(data)

    return read_scanned


def _nested_hook(inner: _Hook | None, guarded: bool) -> _Hook:
    """Build a hook that reads the members of tuples and sets with the inner hook."""
    readers = dict(_READERS)
    if inner is not None:
        for kind, code in _CODES.items():
            read: _Reader = Decoder(kind, ext_hook=inner).decode
            readers[code] = _guard(read) if guarded else read

    def hook(code: int, body: memoryview) -> Any:
        read = readers.get(code)
        if read is None:
            problem = "nested too deeply" if code in _CODES.values() else "unknown to this release"
            raise ValueError(f"extension type {code} is {problem}")
        return read(body)

    return hook


@cache
def _reader(max_depth: int, guarded: bool = False) -> _Reader:
    """Build a decoder for so many levels of extension types: more cannot use up the stack."""
    hook = _nested_hook(None, guarded)
    for _ in range(max_depth):
        hook = _nested_hook(hook, guarded)
    read: _Reader = Decoder(ext_hook=hook).decode
    return _guard(read) if guarded else read


_read: Final = _reader(DEFAULT.max_depth)


# The depth of a value, without a walk in Python where it can be avoided.

_HEADERS: Final = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
"""First bytes of MessagePack's arrays and maps."""


def _is_shallow(value: Any, data: bytes | memoryview, max_depth: int) -> bool:
    """Whether a value is surely not too deep; False says only that it has to be walked through."""
    if len(data) <= 4096:
        raw = data if type(data) is bytes else bytes(data)
        # Each level has a header; bytes that only look like one make this count too high.
        if len(raw) - len(raw.translate(None, _HEADERS)) <= max_depth:
            return True
    elif _has_few_members(value, max_depth):
        return True
    return _fits(_shell(max_depth), value)


def _has_few_members(value: Any, max_depth: int) -> bool:
    """Whether a value is not too deep and has few members, such as one long text."""
    level, budget = [value], 64
    for _ in range(max_depth + 1):
        containers = []
        for member in level:
            if type(member) in _CONTAINERS:
                containers.append(member)
            elif type(member) not in _LEAVES:
                return False
        budget -= sum(map(len, containers))
        if not containers or budget < 0:
            return budget >= 0
        level = [
            member
            for container in containers
            for member in (chain(*container.items()) if type(container) is dict else container)
        ]
    return False


_HEART: Final = object()


@cache
def _shell(max_depth: int) -> list[Any]:
    """
    Build lists around lists around `_HEART`.

    So many that a value of max_depth levels in the place of the heart is the deepest that
    ormsgpack packs: its own limit then counts ours, at its own speed.
    """
    deepest: list[Any] = []
    for _ in range(max_depth - 1):
        deepest = [deepest]
    shell = [_HEART]
    for _ in range(1024):
        if not _fits([shell], deepest):
            return shell
        shell = [shell]
    raise AssertionError("this release of ormsgpack has no limit of its own")


_ANY_KEYS: Final = (_OPTIONS & ~ormsgpack.OPT_PASSTHROUGH_TUPLE) | ormsgpack.OPT_NON_STR_KEYS


def _fits(shell: list[Any], value: Any) -> bool:
    def default(member: Any) -> Any:
        if member is _HEART:
            return value
        if type(member) in _LEAVES:
            return None
        return list(member) if type(member) in _CONTAINERS else _base(member)

    try:
        packb(shell, default, _ANY_KEYS)
    except Exception:
        return False
    return True
