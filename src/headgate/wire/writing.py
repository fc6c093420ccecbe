"""
Large values, encoded slice by slice.

One call of the encoder may not take long: while it runs, no other thread does. So large lists,
dictionaries, bytes and texts are taken apart here, and their members are encoded some at a time.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from ormsgpack import packb

from headgate.wire.extensions import LEAVES
from headgate.wire.limits import Limits, is_shallow, is_shallow_outside
from headgate.wire.packing import OPTIONS, default, head
from headgate.wire.slices import SLICE

__all__ = ["is_large", "write_sliced"]

_MANY: Final = 1000
"""Members from which on a list or a dictionary may be large."""

_MOST: Final = 4096
"""Members that are encoded in one step."""

_FEW: Final = 16
"""Members up to which it costs little to look at each."""

_LEAST: Final[dict[type, int]] = {dict: 0, list: _FEW, str: SLICE, bytes: SLICE}
"""Lengths up to which a member of a value is not looked at."""


def is_large(value: Any, levels: int = 3) -> bool:
    """
    Whether a value looks as if encoding it might take long.

    It is asked of every value, so it only glances: what is large inside of short lists, or some
    levels down, is not seen.
    """
    kind = type(value)
    if kind is not dict and kind is not list:
        return (kind is str or kind is bytes) and len(value) > SLICE
    count = len(value)
    if count > _MANY:
        return True
    members = value.values() if kind is dict else value
    if count > _FEW:
        # One of many stands for all of them.
        first = next(iter(members))
        return (levels > 1 and is_large(first, levels - 1)) or (
            (type(first) is list or type(first) is dict) and count * len(first) > _FEW * _MANY
        )
    for member in members:
        least = _LEAST.get(type(member))
        if (
            least is not None
            and len(member) > least
            and levels > 1
            and is_large(member, levels - 1)
        ):
            return True
    return False


def write_sliced(value: Any, limits: Limits) -> bytes | None:
    """
    Encode a value, unless there is something in it that ormsgpack does not write.

    Returns:
        What the encoder would give in one call, or more bytes than are allowed. None if something
        in it needs conversion, or is too deep.
    """
    writing = _SlicedWriting(limits)
    try:
        writing.add(value, 0)
    except Exception:
        return None
    # Other threads run while join() copies more than a mebibyte.
    return b"".join(writing.pieces)


class _SlicedWriting:
    """A walk through the lists and dictionaries that are large."""

    def __init__(self, limits: Limits) -> None:
        self.pieces: list[bytes] = []
        self._limits = limits
        self._size = 0
        self._has_extended = False

    def add(self, value: Any, level: int) -> None:
        """Encode a value that stands inside of so many containers."""
        kind = type(value)
        if kind is bytes and len(value) >= 1 << 16:
            self._put(b"\xc6" + len(value).to_bytes(4, "big"))
            self._put(value)
        elif kind is str and len(value) >= 1 << 16:
            parts = [value[at : at + SLICE].encode() for at in range(0, len(value), SLICE)]
            self._put(b"\xdb" + sum(map(len, parts)).to_bytes(4, "big"))
            self._put(*parts)
        elif kind is list and level < self._limits.max_depth:
            # A copy, so that what others do to the list meanwhile changes nothing.
            members = value.copy()
            self._put(head(0x90, 0xDC, len(members)))
            self._members(members, level + 1)
        elif kind is dict and level < self._limits.max_depth:
            entries = value.copy()
            self._put(head(0x80, 0xDE, len(entries)))
            self._entries(entries, level + 1)
        else:
            self._group([value], level)

    def _members(self, members: list[Any], level: int) -> None:
        at, group = 0, 1
        while at < len(members) and self._size <= self._limits.max_bytes:
            before = self._size
            if group == 1:
                self._one(members[at], level)
            else:
                self._group(members[at : at + group], level)
            at += group
            group = _next_group(group, self._size - before)

    def _entries(self, entries: dict[Any, Any], level: int) -> None:
        items, left, group = iter(entries.items()), len(entries), 1
        while left > 0 and self._size <= self._limits.max_bytes:
            before = self._size
            if group == 1:
                key, value = next(items)
                # As an entry: keys that are no text have another encoding elsewhere.
                self._put(packb({key: None}, default, OPTIONS)[1:-1])
                self._one(value, level)
            else:
                self._group(dict(islice(items, group)), level)
            left -= group
            group = _next_group(group, self._size - before)

    def _one(self, value: Any, level: int) -> None:
        if is_large(value):
            self.add(value, level)
        else:
            self._group([value], level)

    def _group(self, members: list[Any] | dict[Any, Any], level: int) -> None:
        """Encode members of one container in one call, without the container."""
        self._has_extended = False
        data = packb(members, self._default, OPTIONS)
        levels = self._limits.max_depth - level + 1
        if not is_shallow_outside(data, levels) or (
            self._has_extended and not is_shallow(members, data, levels)
        ):
            raise ValueError("too deep")
        self._put(data[1 if len(members) < 16 else 3 :])

    def _default(self, value: Any) -> Any:
        if type(value) not in LEAVES:
            self._has_extended = True
        return default(value)

    def _put(self, *pieces: bytes) -> None:
        self.pieces += pieces
        self._size += sum(map(len, pieces))


def _next_group(group: int, size: int) -> int:
    """Give how many members to encode next, if so many had that size."""
    return max(1, min(_MOST, group * SLICE // max(1, 2 * size)))
