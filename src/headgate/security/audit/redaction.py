"""Payloads as the audit log shows them: JSON, without secrets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from fnmatch import translate
from functools import lru_cache
from typing import Any
from uuid import UUID

from headgate.errors import PayloadError
from headgate.wire.codec import decode

__all__ = ["described", "payload_json", "redacted"]

MAX_DESCRIPTION = 1_000
"""Characters of a description."""

SECRET_KEYS = (
    *("*password*", "*passwd*", "*passphrase*", "*secret*", "*token*", "*key*", "*credential*"),
    *("authorization", "pin", "*_pin"),
)
"""Patterns of keys whose values are always left out."""

LEFT_OUT = "(left out)"
"""Stands in place of a value whose key is one of those that are redacted."""


def payload_json(payload: bytes, patterns: Sequence[str]) -> bytes:
    """Return an encoded payload as JSON in ASCII, without the values of redacted keys."""
    try:
        value = redacted(decode(payload), patterns)
    except PayloadError:
        value = f"({len(payload)} bytes that are no payload)"
    return json.dumps(value, separators=(",", ":")).encode()


def described(payload: Any) -> str:
    """Return what an administrator asked for, for a record's detail: never with a secret."""
    text = json.dumps(redacted(payload), ensure_ascii=False)
    return text[:MAX_DESCRIPTION]


def redacted(value: Any, patterns: Sequence[str] = ()) -> Any:
    """
    Return what stands for a value in JSON, without the values of redacted keys.

    They are those that match `SECRET_KEYS` or one of the patterns. Bytes, tables and arrays are
    only described: no key would tell what is in them.
    """
    return _plain(value, _matcher((*SECRET_KEYS, *patterns)))


def _plain(value: Any, secret: re.Pattern[str]) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {
            str(key): LEFT_OUT if secret.fullmatch(str(key).casefold()) else _plain(item, secret)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, secret) for item in value]
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    size = f" of {len(value)}" if isinstance(value, bytes) else ""
    return f"({type(value).__name__}{size})"


@lru_cache(16)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(pattern.casefold()) for pattern in patterns))
