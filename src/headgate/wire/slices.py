"""
Large payloads, decoded slice by slice.

One call of the decoder may not take long: while it runs, no other thread does. So the containers
that are larger than a slice are walked here, and their members are decoded as many at a time as a
slice holds.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from typing import Any, Final

from msgpack import OutOfData, Unpacker

from headgate.errors import PayloadError
from headgate.wire.conversion import Conversion
from headgate.wire.extensions import CODES
from headgate.wire.limits import Limits, is_shallow, is_shallow_outside
from headgate.wire.reading import Reading

__all__ = ["SLICE", "read_sliced", "small_maps"]

SLICE: Final = 64 * 1024
"""Bytes that are decoded in one step: a few milliseconds, whatever they are. 32 at least."""

_IN_ONE_COPY: Final = 2 * 1024 * 1024
"""Bytes of a text, or of bytes, that are copied in one step."""

_LIST: Final = 0xDD
_MAP: Final = 0xDF
"""First bytes of the headers with four bytes of length: what every slice begins with."""

_EMPTY: Final = b"\x90"
"""An empty list."""

_LENGTHS: Final = {
    **dict.fromkeys((0xC4, 0xC7, 0xD9), 1),
    **dict.fromkeys((0xC5, 0xC8, 0xDA, 0xDC, 0xDE), 2),
    **dict.fromkeys((0xC6, 0xC9, 0xDB, 0xDD, 0xDF), 4),
}
"""First bytes of what may be larger than 32 bytes, and their bytes of length."""

_LISTS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_MAPS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_BYTES: Final = frozenset((0xC4, 0xC5, 0xC6))
_TEXTS: Final = frozenset((0xD9, 0xDA, 0xDB))
_EXTENSIONS: Final = frozenset((0xC7, 0xC8, 0xC9))

_FROM_LIST: Final[dict[int, Callable[[list[Any]], Any]]] = {
    code: kind for kind, code in CODES.items()
}


def read_sliced(data: bytes | memoryview, limits: Limits) -> Any:
    """
    Decode a value; what comes out is what the decoder would give in one call.

    Raises:
        PayloadError: It is too deep.
        Exception: The bytes are not one value.
    """
    return _SlicedReading(memoryview(data), limits.max_depth).whole()


def small_maps(data: bytes | memoryview, limits: Limits) -> Iterator[bytes]:
    """
    Give the entries of a dictionary as dictionaries of a slice at most, still encoded.

    A value that is larger than a slice is passed over: an empty list stands in its place.

    Raises:
        PayloadError: It is too deep.
        Exception: The bytes are not a dictionary.
    """
    return _SlicedReading(memoryview(data), limits.max_depth).small_maps()


class _SlicedReading:
    """A walk through the containers that are larger than a slice."""

    def __init__(self, data: memoryview, max_depth: int) -> None:
        self._data = data
        self._max_depth = max_depth
        self._reading = Reading(max_depth)
        self._group = 1024
        """Members to try for the next slice."""

    def whole(self) -> Any:
        value, end = self._member(0, 0)
        if end != len(self._data):
            raise ValueError(f"trailing bytes (byte {end})")
        return value

    def small_maps(self) -> Iterator[bytes]:
        first, at, count = self._head(0)
        if first not in _MAPS:
            raise ValueError("it is no dictionary")
        while count:
            taken, end = self._fitting(_MAP, at, count)
            if taken:
                yield _header(_MAP, taken) + bytes(self._data[at:end])
            else:
                taken = 1
                _, value = self._key(at, 0)
                yield _header(_MAP, 1) + bytes(self._data[at:value]) + _EMPTY
                end = self._past(value)
            at, count = end, count - taken

    def _past(self, at: int) -> int:
        """Tell where a value of any size ends, and make nothing of it."""
        left = [1]
        while left:
            taken, end = self._fitting(_LIST, at, left[-1])
            if not taken:
                first, body, length = self._head(at)
                taken, end = 1, body + length
                if first in _LISTS or first in _MAPS:
                    if len(left) == self._max_depth:
                        raise self._too_deep()
                    left[-1] -= 1
                    left.append(2 * length if first in _MAPS else length)
                    at = body
                    continue
                if end > len(self._data):
                    raise ValueError("input data was truncated")
            at = end
            left[-1] -= taken
            while left and not left[-1]:
                left.pop()
        return at

    def _member(self, at: int, level: int) -> tuple[Any, int]:
        """Read one value of any size, inside of so many containers, and tell where it ends."""
        fits, end = self._fitting(_LIST, at, 1)
        if not fits:
            return self._value(at, level)
        (value,) = self._slice(_LIST, 1, at, end, level - 1)
        return value, end

    def _value(self, at: int, level: int) -> tuple[Any, int]:
        """Read a value that is larger than a slice, and tell where it ends."""
        first, body, length = self._head(at)
        if first in _LISTS or first in _MAPS:
            if level == self._max_depth:
                raise self._too_deep()
            if first in _LISTS:
                return self._list(body, length, level)
            return self._dict(body, length, level)
        end = body + length
        if end > len(self._data):
            raise ValueError("input data was truncated")
        if first in _EXTENSIONS:
            return self._extension(at, body, end, level), end
        if length <= _IN_ONE_COPY:
            return self._reading.read(self._data[at:end]), end
        if first in _BYTES:
            # Other threads run between the pieces, and while join() copies more than a mebibyte.
            return b"".join(map(bytes, self._pieces(body, end))), end
        if first in _TEXTS:
            decode = getincrementaldecoder("utf-8")().decode
            return "".join([*map(decode, self._pieces(body, end)), decode(b"", True)]), end
        return self._reading.read(self._data[at:end]), end

    def _head(self, at: int) -> tuple[int, int, int]:
        """Give the first byte of a value, where its contents begin, and its length or members."""
        if at >= len(self._data):
            raise ValueError("input data was truncated")
        first = self._data[at]
        digits = _LENGTHS.get(first, 0)
        body = at + 1 + digits
        if digits:
            return first, body + (first in _EXTENSIONS), int.from_bytes(self._data[at + 1 : body])
        return first, body, first & 15 if 0x80 <= first < 0xA0 else 0

    def _list(self, at: int, count: int, level: int) -> tuple[list[Any], int]:
        members: list[Any] = []
        while count:
            taken, end = self._fitting(_LIST, at, count)
            if taken:
                members += self._slice(_LIST, taken, at, end, level)
            else:
                taken = 1
                member, end = self._value(at, level + 1)
                members.append(member)
            at, count = end, count - taken
        return members, at

    def _dict(self, at: int, count: int, level: int) -> tuple[dict[Any, Any], int]:
        entries: dict[Any, Any] = {}
        while count:
            taken, end = self._fitting(_MAP, at, count)
            if taken:
                entries.update(self._slice(_MAP, taken, at, end, level))
            else:
                taken = 1
                key, end = self._key(at, level)
                entries[key], end = self._member(end, level + 1)
            at, count = end, count - taken
        return entries, at

    def _key(self, at: int, level: int) -> tuple[Any, int]:
        """Read a key that may be larger than a slice, in one call."""
        width = SLICE
        while not (end := self._end(_LIST, 1, at, width)):
            if at + width >= len(self._data):
                raise ValueError("input data was truncated")
            width *= 2
        data = b"\x81" + bytes(self._data[at:end]) + b"\xc0"
        (key,) = self._checked(data, self._max_depth - level)
        return key, end

    def _extension(self, at: int, body: int, end: int, level: int) -> Any:
        code = self._data[body - 1]
        if code not in _FROM_LIST:
            value = self._reading.read(self._data[at:end])
            self._check_levels([value], self._data[at:end], self._max_depth - level + 1)
            return value
        first, start, count = self._head(body)
        if first not in _LISTS:
            raise ValueError(f"extension type {code} has no array")
        if level == self._max_depth:
            raise self._too_deep()
        members, stop = self._list(start, count, level)
        if stop != end:
            raise ValueError(f"extension type {code} has other bytes than its array")
        return _FROM_LIST[code](members)

    def _pieces(self, body: int, end: int) -> Iterator[memoryview]:
        for at in range(body, end, SLICE):
            yield self._data[at : min(at + SLICE, end)]

    def _fitting(self, form: int, at: int, count: int) -> tuple[int, int]:
        """Tell how many of the next members make a slice, and where it ends; 0 if not even one."""
        group = min(self._group, count)
        while group:
            if end := self._end(form, group, at, SLICE):
                self._group = 2 * group if end - at < SLICE // 2 else group
                return group, end
            group //= 2
        self._group = 1
        return 0, at

    def _end(self, form: int, count: int, at: int, width: int) -> int:
        """Tell where so many members end; 0 if that is too far."""
        unpacker = Unpacker()
        unpacker.feed(_header(form, count))
        unpacker.feed(self._data[at : at + width])
        try:
            unpacker.skip()
        except OutOfData:
            return 0
        end: int = at + unpacker.tell() - 5
        return end

    def _slice(self, form: int, count: int, at: int, end: int, level: int) -> Any:
        data = _header(form, count) + bytes(self._data[at:end])
        return self._checked(data, self._max_depth - level)

    def _checked(self, data: bytes, levels: int) -> Any:
        """Decode bytes, unless they are too deep."""
        self._reading.has_extended = False
        certain = is_shallow_outside(data, levels)
        value = self._reading.read(data)
        if not certain or self._reading.has_extended:
            self._check_levels(value, data, levels)
        return value

    def _check_levels(self, value: Any, data: bytes | memoryview, levels: int) -> None:
        if not is_shallow(value, data, levels):
            try:
                Conversion("payload", levels).of(value)
            except PayloadError as error:
                raise self._too_deep() from error

    def _too_deep(self) -> PayloadError:
        return PayloadError(
            f"A payload deeper than {self._max_depth} levels arrived. Let it be sent flatter."
        )


def _header(form: int, count: int) -> bytes:
    return bytes((form,)) + count.to_bytes(4, "big")
