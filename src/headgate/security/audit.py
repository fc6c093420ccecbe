"""The recorder of what happened: logins, refusals, requests that failed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import msgspec
from annotated_types import Ge, Gt

from headgate.errors import RequestError
from headgate.invocation import Invocation

__all__ = ["AuditSettings", "LogRecorder", "Record", "Recorder"]

logger = logging.getLogger("headgate.audit")


@dataclass(frozen=True)
class AuditSettings:
    """What is written down, and for how long."""

    requests: Literal["all", "failed", "none"] = "failed"
    """Which requests are recorded; logins, refusals and administration always are."""

    payloads: bool = False
    """Whether the records of requests hold their payloads."""

    redact: tuple[str, ...] = ("password", "passwd", "secret", "token", "key", "pin")
    """Keys in payloads whose values are left out, compared without case, as patterns."""

    segment_bytes: Annotated[int, Ge(4096)] = 16 * 1024 * 1024
    """Bytes after which a segment is closed and the next one begun."""

    retain_days: Annotated[float, Gt(0)] = 365.0
    """Days after which a closed segment is removed, whole."""

    on_full: Literal["refuse", "continue"] = "continue"
    """What happens to requests while nothing can be written: refuse them, or go on unrecorded."""

    strict: bool = False
    """Whether a request's record is on the disk before its handler begins."""


class Record(msgspec.Struct, frozen=True):
    """One thing that happened."""

    event: str
    """
    What: ``login``, ``logout``, ``refused``, ``administered``, ``failed``, ``started`` or
    ``stopped``.
    """

    user: str = ""
    host: str = ""
    """The verified host name if there is one, else the claimed one in quotation marks."""
    address: str = ""
    """The IP address that the caller connects from."""
    target: str = ""
    """Project and handler, as ``project/handler``."""
    outcome: str = ""
    """The error's code, or what else came of it."""
    request_id: str = ""
    detail: str = ""
    session: str = ""
    gateways: tuple[str, ...] = ()
    """The gateways that the request came through."""
    duration: float | None = None
    """Seconds from its arrival to its end, for requests."""

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
