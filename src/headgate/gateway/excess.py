"""What went beyond a limit: counted, and recorded without flooding the audit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from headgate.security.audit import Record, Recorder

__all__ = ["LIMITS", "Excess"]

logger = logging.getLogger("headgate.gateway")

LIMITS = (
    "connections",
    "connections_per_address",
    "failures",
    "in_flight",
    "login_seconds",
    "logins",
    "name_length",
    "refusals",
    "requests_per_second",
    "sessions",
    "sessions_per_address",
    "sessions_per_user",
    "user_requests_per_second",
)
"""
The limits that have a counter, as their settings are named.

Three are none of them: ``logins``, which came while too many were considered, or after wrong ones;
``refusals``, connections and logins that were refused while the audit had rows of many others; and
``failures``, a user's refused and failed requests while the audit had rows of many others of them.
"""

_SUMMED = {
    "refusals": "connections and logins were refused within {} s, beyond those with a row each",
    "failures": "requests were refused or failed within {} s, beyond those with a row each",
}
"""What is told of the limits that are no settings and stand for rows of the audit."""

ROW_SECONDS = 1.0
"""Seconds that one row of the audit tells of."""

MAX_ROWS = 256
"""Rows of `ROW_SECONDS` that name users and addresses; what is more is added up for each limit."""


class Timer(Protocol):
    """A function that will be called."""

    def cancel(self) -> None:
        """Do not call it."""


class Excess:
    """
    Counts refusals by limit, and records one row for each limit, user and address in a second.

    Nothing is recorded before `start` or without a recorder.

    Args:
        recorder: Gets the rows, with the event ``limited``.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.counters = dict.fromkeys(LIMITS, 0)
        """How often each limit was exceeded since the gateway was made."""
        self._recorder = recorder
        self._later: Callable[[float, Callable[[], None]], Timer] | None = None
        self._timer: Timer | None = None
        self._rows: dict[tuple[str, str, str], int] = {}

    def start(self, later: Callable[[float, Callable[[], None]], Timer]) -> None:
        """Record from now on; `later` runs a function on the event loop after some seconds."""
        self._later = later

    def stop(self) -> None:
        """Record what is left, and nothing after it."""
        self._later = None
        if self._timer is not None:
            self._timer.cancel()
        self._write()

    def add(self, limit: str, *, user: str = "", address: str = "", number: int = 1) -> bool:
        """
        Count what was refused.

        Args:
            limit: Name of the setting.
            user: Who it was, if that is known.
            address: The IP address.
            number: How many requests, connections or logins.

        Returns:
            Whether a row will tell of it.
        """
        self.counters[limit] += number
        if self._recorder is None or self._later is None:
            return False
        rows, key = self._rows, (limit, user, address)
        if key not in rows and len(rows) >= MAX_ROWS:
            key = (limit, "", "")
        rows[key] = rows.get(key, 0) + number
        if self._timer is None:
            self._timer = self._later(ROW_SECONDS, self._write)
        return True

    def _write(self) -> None:
        self._timer = None
        rows, self._rows = self._rows, {}
        for (limit, user, address), number in rows.items():
            record = Record(
                event="limited",
                user=user,
                address=address,
                outcome=limit,
                detail=f"{number} {_told(limit)}",
            )
            self._record(record)

    def _record(self, record: Record) -> None:
        assert self._recorder is not None
        try:
            self._recorder.record(record)
        except Exception:
            # The limits hold whether or not it can be written down.
            logger.exception("A record was lost: %s", record)


def _told(limit: str) -> str:
    return _SUMMED.get(limit, f"refused within {{}} s by limits.{limit}").format(f"{ROW_SECONDS:g}")
