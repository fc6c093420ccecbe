"""The recorder of what happened: logins, refusals, requests that failed."""

from __future__ import annotations

import logging
from typing import Protocol

import msgspec

from headgate.errors import RequestError
from headgate.invocation import Invocation

__all__ = ["LogRecorder", "Record", "Recorder"]

logger = logging.getLogger("headgate.audit")


class Record(msgspec.Struct, frozen=True):
    """One thing that happened."""

    event: str
    """
    What: ``login``, ``logout``, ``refused``, ``administered``, ``failed``, ``started`` or
    ``stopped``.
    """

    user: str = ""
    host: str = ""
    target: str = ""
    """Project and handler, as ``project/handler``."""
    outcome: str = ""
    """The error's code, or what else came of it."""
    request_id: str = ""
    detail: str = ""

    @classmethod
    def of(cls, event: str, invocation: Invocation, error: RequestError) -> Record:
        """Return the record of a request that came to an error."""
        return cls(
            event=event,
            user=invocation.caller.user,
            host=invocation.caller.host,
            target=invocation.target,
            outcome=error.code,
            request_id=invocation.request_id,
            detail=error.message[:200],
        )


class Recorder(Protocol):
    """Takes records; it must not block."""

    def record(self, record: Record) -> None:
        """Keep a record."""


class LogRecorder:
    """Writes records to the log ``headgate.audit``."""

    def record(self, record: Record) -> None:
        """Write the record's fields that are set, in one line whatever stands in them."""
        if logger.isEnabledFor(logging.INFO):
            fields = msgspec.structs.asdict(record)
            event = fields.pop("event")
            text = " ".join(f"{name}={value}" for name, value in fields.items() if value)
            logger.info("%s %s", event, _printable(text))


def _printable(text: str) -> str:
    """Escape what is no printable character: a name with a newline would forge a record."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
