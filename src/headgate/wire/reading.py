"""
One reading of bytes that a stranger may have made to take long.

Python gives equal hashes to many different numbers, UUIDs and tuples, and everybody can compute
them. As keys of a dictionary they would be compared each with each, 270 KiB of them for seconds.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any, Final

import ormsgpack
from msgspec.msgpack import Decoder

from headgate.wire.extensions import (
    CODES,
    DECIMAL,
    FROZENSET,
    INT,
    READERS,
    TIMEDELTA,
    TUPLE,
    UNIQUE_ID,
    Reader,
)
from headgate.wire.unpacking import guard, is_guarded, leaf_readers

__all__ = ["Reading"]

_Hook = Callable[[int, memoryview], Any]

_KINDS: Final = {code: kind for kind, code in CODES.items()}

_PREDICTABLE: Final = frozenset({INT, TUPLE, FROZENSET, TIMEDELTA, DECIMAL, UNIQUE_ID})
"""Extension types with hashes that do not differ from process to process."""

_MOST_ALIKE: Final = 64
"""Different values with one hash that are read; by chance there are never two."""


class Reading:
    """
    Decodes the parts of one payload.

    Args:
        max_depth: Levels of extension types that may stand inside each other.
    """

    def __init__(self, max_depth: int) -> None:
        self.has_extended = False
        """Whether a part had tuples, sets, tables or arrays; whoever wants to know clears it."""
        self._guarded = is_guarded()
        self._leaves = leaf_readers(self._guarded)
        self._counts: dict[int, int] = {}
        """How many values had a hash."""
        self._alike: dict[int, list[Any]] = {}
        """Different values that had the same hash, where it is one of many."""
        self._read: Reader = Decoder(ext_hook=self._hook(max_depth)).decode

    def read(self, data: bytes | memoryview) -> Any:
        """
        Decode one value.

        Raises:
            Exception: The bytes are not one value, or would take too long.
        """
        if self._guarded:
            ormsgpack.Fragment(bytes(data))
        if sys.version_info >= (3, 12) or not gc.isenabled():
            return self._read(data)
        # Up to Python 3.11 garbage would be looked for while msgspec builds: for each 700 objects,
        # in more and more of them, and nothing else could run meanwhile.
        gc.disable()
        try:
            return self._read(data)
        finally:
            gc.enable()

    def _hook(self, levels: int) -> _Hook:
        """Build a hook that reads so many levels of extension types."""
        nested: dict[int, Reader] = {}

        def hook(code: int, body: memoryview) -> Any:
            read = self._leaves.get(code) or nested.get(code)
            if read is None:
                read = nested[code] = self._nested(code, levels)
            if code not in READERS:
                self.has_extended = True
            value = read(body)
            if code in _PREDICTABLE:
                self._note(value)
            return value

        return hook

    def _nested(self, code: int, levels: int) -> Reader:
        if code not in _KINDS or not levels:
            problem = "nested too deeply" if code in _KINDS else "unknown to this release"
            raise ValueError(f"extension type {code} is {problem}")
        read: Reader = Decoder(_KINDS[code], ext_hook=self._hook(levels - 1)).decode
        return guard(read) if self._guarded else read

    def _note(self, value: Any) -> None:
        """Count a value's hash, before anybody puts it into a dictionary or set."""
        try:
            code = hash(value)
        except TypeError:
            return  # it cannot be a key
        count = self._counts[code] = self._counts.get(code, 0) + 1
        if count <= _MOST_ALIKE:
            return
        alike = self._alike.setdefault(code, [])
        if value not in alike:
            alike.append(value)
            if len(alike) > _MOST_ALIKE:
                raise ValueError(
                    f"more than {_MOST_ALIKE} different values have the same hash, which makes "
                    "dictionaries slow"
                )
