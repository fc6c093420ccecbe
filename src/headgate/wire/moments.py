"""
Dates and times as text: RFC 9557, which is ISO 8601 with the zone's name behind it.

What Python knows of a moment beyond that, its ``fold``, stands in a tag of its own.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import Final, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from headgate.scalars import ZONE_NAME, zone_name

__all__ = ["read_datetime", "read_time", "text_of"]

_Moment = TypeVar("_Moment", datetime, time)


def text_of(value: datetime | time) -> str:
    """
    Give a moment as text: ``2024-10-27T02:30:00+01:00[Europe/Berlin]``.
    """
    return value.isoformat() + _tags(value)


def _tags(value: datetime | time) -> str:
    zone = value.tzinfo
    name = zone_name(zone) if type(zone) is ZoneInfo else ""
    return (f"[{name}]" if name else "") + ("[_fold=1]" if value.fold else "")


def read_datetime(text: str) -> datetime:
    """
    Read a date with a time of day.

    Raises:
        ValueError: It is none.
    """
    if not text.endswith("]"):
        return _parse(datetime, text)
    text, zone, fold = _split_tags(text)
    value = _parse(datetime, text).replace(fold=fold)
    return _in_zone(value, zone) if zone else value


def read_time(text: str) -> time:
    """
    Read a time of day.

    Raises:
        ValueError: It is none, or its zone is not known here.
    """
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


_TAGGED: Final = re.compile(rf"([^\[\]]+)(?:\[({ZONE_NAME})\])?(\[_fold=1\])?")


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
