"""
The value of one key of a payload, read without the rest.

A scheduler wants it for every call, on an event loop. So what is not looked for is passed over by
`msgspec` without making anything of it, and what might take long is left for another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw
from msgspec.msgpack import Decoder

from headgate.errors import PayloadError
from headgate.wire.codec import decode, encode
from headgate.wire.limits import DEFAULT, Limits
from headgate.wire.slices import small_maps
from headgate.wire.unpacking import SAFE_LEVELS, is_guarded

__all__ = ["LATER", "KeyReader", "Later"]

_QUICK: Final = 256 * 1024
"""Bytes that are passed over within a millisecond, whatever they are (2.6 µs for each KiB)."""

_LONGEST: Final = 1024
"""Bytes of a value that is looked for."""

_NO_KEY: Final = f"has a value there that is not hashable, or has more than {_LONGEST:,} bytes"

_MAPS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
"""First bytes of dictionaries."""


class Later:
    """Says that a key is to be read on another thread."""


LATER: Final = Later()


class KeyReader:
    """
    Reads the value of one key, which is a string, in payloads that are dictionaries.

    Args:
        key: The key.
        limits: How large and how deep a payload may be.
    """

    def __init__(self, key: str, limits: Limits = DEFAULT) -> None:
        self._key = key
        self._limits = limits
        self._entry: Callable[[bytes], Any] | None = None
        """Reads a dictionary, and of that one member; None if `msgspec` cannot."""
        try:
            entry = msgspec.defstruct(
                "Entry", [("value", Raw, UNSET)], rename={"value": key}, gc=False
            )
            self._entry = Decoder(entry).decode
        except ValueError:
            # It has no fields with quotes, backslashes or control characters in their names.
            return

    def read(self, data: bytes) -> Hashable | Later:
        """
        Return the value, or `LATER` if that may take more than a millisecond; then `read_all`.

        Raises:
            PayloadError: The payload is no dictionary, or has no value there that can be compared
                and is at most 1,024 bytes long. The error names the place; nothing was started.
        """
        size = len(data)
        if self._entry is None or size > _QUICK or (size > SAFE_LEVELS and is_guarded()):
            return LATER
        if data[:1] and data[0] not in _MAPS:
            raise self._refusal("is no dictionary")
        try:
            value = self._entry(data).value
        except (msgspec.DecodeError, RecursionError):
            # A key that is no string, or something that is wrong.
            return LATER
        if value is UNSET:
            raise self._refusal("has no such key")
        return self._comparable(bytes(value))

    def read_all(self, data: bytes) -> Hashable:
        """
        Return the value, however long that takes; other threads run meanwhile.

        Raises:
            PayloadError: As in `read`, or the bytes are not a payload.
        """
        found: Any = UNSET
        try:
            for entries in small_maps(data, self._limits):
                value = self._in(entries)
                found = found if value is UNSET else value
        except PayloadError as error:
            error.started = False
            raise
        except Exception as error:
            raise self._refusal(f"cannot be read: {error or type(error).__name__}") from error
        if found is UNSET:
            raise self._refusal("has no such key")
        comparable: Hashable = found
        return comparable

    def _in(self, entries: bytes) -> Any:
        """Return the value in one of the parts of a dictionary; UNSET if it is not there."""
        if self._entry is not None and not is_guarded():
            try:
                value = self._entry(entries).value
                return value if value is UNSET else self._comparable(bytes(value))
            except (msgspec.DecodeError, RecursionError):
                pass
        value = decode(entries, limits=self._limits).get(self._key, UNSET)
        return value if value is UNSET else self._comparable(encode(value))

    def _comparable(self, data: bytes) -> Hashable:
        if len(data) > _LONGEST:
            raise self._refusal(_NO_KEY)
        try:
            value: Hashable = decode(data)
            hash(value)
        except PayloadError as error:
            raise self._refusal(f"cannot be read: {error}") from error
        except TypeError as error:
            raise self._refusal(_NO_KEY) from error
        return value

    def _refusal(self, problem: str) -> PayloadError:
        place = f"payload[{self._key!r}]"
        return PayloadError(
            f"The handler keeps its calls in order by {place}, but the payload {problem}",
            place=place,
            started=False,
        )
