"""How a request ended: a value or an error, as one object that can be handed between threads."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from headgate.errors import RequestError

__all__ = ["ENDED", "LARGE", "Encoded", "Failure", "Outcome", "Success"]

LARGE: Final = 256 * 1024
"""Bytes of an encoded value from which on it is not decoded on an event loop, but beside it."""


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """The handler returned, and its result is still as it travels."""

    data: bytes


ENDED: Final = Encoded(b"")
"""The generator came to its end: the values that it yielded before are the result."""


class Success(msgspec.Struct, frozen=True):
    """The handler returned `value`."""

    value: Any


class Failure(msgspec.Struct, frozen=True):
    """The request ended without a result."""

    error: RequestError


Outcome = Encoded | Success | Failure
