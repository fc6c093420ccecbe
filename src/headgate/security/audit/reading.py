"""Rows of an audit log, read and filtered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from headgate.errors import ConfigurationError
from headgate.security.audit.journal import Places

__all__ = ["Filter", "Tail", "point_in_time", "read_rows"]


@dataclass(frozen=True)
class Filter:
    """Which rows are wanted; what is empty matches all. Texts are patterns, without case."""

    since: str = ""
    """The first moment, as `point_in_time` returns it."""
    until: str = ""
    """The moment before which the rows end."""
    user: str = ""
    event: str = ""
    target: str = ""
    outcome: str = ""

    def matches(self, row: dict[str, Any]) -> bool:
        """Whether a row is wanted."""
        time = str(row.get("time", ""))
        if (self.since and time < self.since) or (self.until and time >= self.until):
            return False
        for name in ("user", "event", "target", "outcome"):
            pattern = getattr(self, name)
            value = str(row.get(name, "")).casefold()
            if pattern and not fnmatchcase(value, pattern.casefold()):
                return False
        return True


class Tail:
    """Reads on in a log where it had stopped, for `--follow`."""

    def __init__(self, data: Path) -> None:
        self._places = Places(data)
        self._number, self._offset = 0, 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return the rows that are new since the last time, without lines that are no rows."""
        for number in self._places.numbers():
            if number < self._number:
                continue
            if number > self._number:
                self._number, self._offset = number, 0
            yield from self._segment(self._places.segment(number))

    def _segment(self, file: Path) -> Iterator[dict[str, Any]]:
        try:
            stream = file.open("rb")
        except FileNotFoundError:
            return  # retention removed it at this moment
        with stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # it is being written
                self._offset += len(line)
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield row


def read_rows(data: Path, wanted: Filter) -> Iterator[dict[str, Any]]:
    """
    Return the rows of a gateway's audit log that are wanted, the oldest first.

    Raises:
        ConfigurationError: There is no audit log in this data folder.
    """
    places = Places(data)
    if not (places.head.exists() or places.segments.is_dir()):
        raise ConfigurationError(
            "There is no audit log here",
            cure="Give the gateway's folder with --data, or its name with --name",
            file=str(data),
        )
    return (row for row in Tail(data).rows() if wanted.matches(row))


def point_in_time(text: str, now: datetime) -> str:
    """
    Return a moment as the rows have it: RFC 3339 in UTC.

    Args:
        text: ISO 8601, in local time if it has no offset, or how long ago: ``30m``, ``24h``.
        now: The time of now, aware.

    Raises:
        ConfigurationError: The text is neither.
    """
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[-1:] in units and text[:-1].isdecimal():
            moment = now - timedelta(**{units[text[-1]]: int(text[:-1])})
        else:
            moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is no time", cure="Write 2030-01-31T08:00, or how long ago: 30m, 24h, 7d"
        ) from None
