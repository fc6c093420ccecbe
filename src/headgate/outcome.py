"""How a request ended: a value or an error, as one object that can be handed between threads."""

from __future__ import annotations

from typing import Any

import msgspec

from headgate.errors import RequestError

__all__ = ["Encoded", "Failure", "Outcome", "Success"]


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """The handler returned, and its result is still as it travels."""

    data: bytes


class Success(msgspec.Struct, frozen=True):
    """The handler returned `value`."""

    value: Any


class Failure(msgspec.Struct, frozen=True):
    """The request ended without a result."""

    error: RequestError


Outcome = Encoded | Success | Failure
