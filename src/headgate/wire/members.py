"""
How many members a payload has, counted in its bytes before anything is made of them.

A member is an element of a list, a tuple or a set, a cell of a table, or an entry of a dictionary.
Each container says in its header how many it has, so their number is the sum over the headers,
however they stand inside each other. Regular expressions go from token to token, hundreds of them
in one step of C; no decoder counts, and one that builds values to count them takes 70 times the
memory of the bytes.
"""

from __future__ import annotations

import re
import struct
from functools import cache
from typing import Final

from headgate.wire.extensions import ARRAY, DATASET, FROZENSET, SET, TUPLE

__all__ = ["count_members"]

_NARROW: Final = 4 * 1024
_WIDE: Final = 64 * 1024
"""
Bytes that are looked at in one step.

Few enough to need little memory and to let other threads run every few milliseconds; narrow ones
follow a long text, because others are likely to follow it.
"""

_LONG: Final = {0xDA: 2, 0xDB: 4, 0xC5: 2, 0xC6: 4, 0xC8: 2, 0xC9: 4}
"""First bytes of what may be longer than a step, and the bytes of its length."""

_EXTENSIONS: Final = (0xC8, 0xC9)
"""Those of them with a byte for the type."""

_COUNTED_INSIDE: Final = (TUPLE, SET, FROZENSET, DATASET, ARRAY)
"""Types of extensions that have an array in them, whose members count."""

_TWO_DIGITS: Final = (0xDC, 0xDE)
"""Headers of containers with two bytes of length; the other long ones have four."""

_SHORT: Final = bytes(range(0x80, 0xA0))
"""Headers of one byte."""

_COUNTS: Final = bytes(byte & 15 if byte in _SHORT else 0 for byte in range(256))
"""What each of them says, as a table for `bytes.translate`."""


def count_members(data: bytes | memoryview, most: int) -> int:
    """
    Count the members of all containers of a MessagePack value.

    What is malformed ends the count: it is the decoder's to refuse.

    Args:
        data: The value.
        most: Where to stop; what is returned then is higher, and may be less than there are.
    """
    find = _headers().findall
    count, at, width = 0, 0, _NARROW
    while at < len(data) and count <= most:
        end = min(at + width, len(data))
        heads = find(data, at, end)
        while heads and not heads[-1]:
            heads.pop()
        rest = len(heads.pop()) if heads and not _is_whole(heads[-1]) else 0
        count += _declared(heads)
        start, at, width = at, end - rest, min(2 * width, _WIDE)
        if rest:
            at, width = _after_long(data, at), _NARROW
            if at == start:
                break
    return count


def _after_long(data: bytes | memoryview, at: int) -> int:
    """Give the place after the long texts, bytes and extensions that begin here."""
    while at < len(data) and (digits := _LONG.get(data[at])) is not None:
        start = at + 1 + digits
        size = int.from_bytes(data[at + 1 : start], "big")
        if data[at] in _EXTENSIONS:
            if start < len(data) and data[start] in _COUNTED_INSIDE:
                return start + 1
            start += 1
        at = start + size
        if size < 256:
            break  # the next ones are read faster by the expression
    return at


def _is_whole(head: bytes) -> bool:
    """Whether this is headers of containers, and not what the step could not read."""
    first = head[0]
    if first < 0xA0:
        return first >= 0x80
    return 0xDC <= first < 0xE0 and len(head) % (3 if first in _TWO_DIGITS else 5) == 0


def _declared(heads: list[bytes]) -> int:
    """Add up what headers say; each item has headers of one kind."""
    joined = b"".join(heads)
    if not joined.translate(None, _SHORT):
        return sum(joined.translate(_COUNTS))
    count = 0
    for head in heads:
        if head[0] < 0xA0:
            count += sum(head.translate(_COUNTS))
        else:
            form = ">xH" if head[0] in _TWO_DIGITS else ">xI"
            count += sum(number for (number,) in struct.iter_unpack(form, head))
    return count


@cache
def _headers() -> re.Pattern[bytes]:
    """
    Build what finds the headers of containers, token by token.

    Each match skips scalars, then takes headers of one kind, or all the rest if it can read none:
    that is the last match of a step. Every quantifier is possessive, so nothing is read twice.
    """
    inside = b"[%b]" % b"".join(map(_byte, _COUNTED_INSIDE))
    scalars = (
        rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]++",  # small integers, nil, false, true
        rb"(?:\xcb.{8})++",  # float
        rb"(?:[\xcd\xd1]..)++",  # integers
        b"|".join(_byte(0xA0 + size) + b".{%d}" % size for size in range(32)),  # short text
        rb"[\xcc\xd0].|[\xca\xce\xd2].{4}|[\xcf\xd3].{8}",  # integers, short float
        rb"(?:[\xd9\xc4]|[\xda\xc5]\x00|[\xdb\xc6]\x00{3})" + _sized(b""),  # text, bytes
        rb"(?:[\xd4-\xd8]|\xc7.|\xc8..|\xc9.{4})" + inside,
        rb"\xd4.{2}|\xd5.{3}|\xd6.{5}|\xd7.{9}|\xd8.{17}",  # extensions of one size
        rb"(?:\xc7|\xc8\x00|\xc9\x00{3})" + _sized(b"."),  # extensions
    )
    heads = rb"[\x80-\x9f]++|(?:[\xdc\xde]..)++|(?:[\xdd\xdf].{4})++"
    return re.compile(b"(?:%b)*+(%b|.++)?+" % (b"|".join(scalars), heads), re.DOTALL)


def _byte(value: int) -> bytes:
    return b"\\x%02x" % value


def _sized(between: bytes) -> bytes:
    """Match a byte of length, what is between, and as many bytes; found in two steps of 16."""
    groups = []
    for first in range(0, 256, 16):
        sizes = (_byte(size) + between + b".{%d}" % size for size in range(first, first + 16))
        groups.append(b"(?=[%b-%b])(?:%b)" % (_byte(first), _byte(first + 15), b"|".join(sizes)))
    return b"(?:%b)" % b"|".join(groups)
