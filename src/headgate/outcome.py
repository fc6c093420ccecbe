"""How a request ended: a value or an error, as one object that can be handed between threads."""

from __future__ import annotations

from typing import Any

import msgspec

from headgate.errors import RequestError

__all__ = ["Failure", "Outcome", "Success"]


class Success(msgspec.Struct, frozen=True, gc=False):
    """The handler returned; `value` is what it returned, still encoded where it travelled."""

    value: Any


class Failure(msgspec.Struct, frozen=True):
    """The request ended without a result."""

    error: RequestError


Outcome = Success | Failure
