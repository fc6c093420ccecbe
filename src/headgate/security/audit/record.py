"""What is recorded: one thing that happened, who takes the records, and the settings."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import Annotated, Any, Literal, Protocol

import msgspec
from annotated_types import Ge, Gt, Le

from headgate.errors import HandlerError, PayloadError, PermissionDenied, RequestError
from headgate.invocation import Caller, Invocation

__all__ = ["MAX_PAYLOAD", "AuditSettings", "LogRecorder", "Record", "Recorder", "Recorders"]

logger = logging.getLogger("headgate.audit")

MAX_PAYLOAD = 4 * 1024
"""Bytes of an encoded payload above which a row holds its size alone."""

MAX_DETAIL = 200
"""Characters of an error's message that a record holds."""


@dataclass(frozen=True)
class AuditSettings:
    """What is written down, and for how long."""

    requests: Literal["all", "failed", "none"] = "failed"
    """Which requests are recorded; logins, refusals and administration always are."""

    payloads: bool = False
    """Whether records of requests hold their payloads, and the texts of what handlers raised."""

    redact: tuple[str, ...] = ()
    """
    More patterns of keys in payloads whose values are left out, at any depth and without case.
    These always are: *password*, *passwd*, *passphrase*, *secret*, *token*, *key*, *credential*,
    authorization, pin, *_pin.
    """

    segment_bytes: Annotated[int, Ge(64 * 1024), Le(1024**3)] = 16 * 1024 * 1024
    """Bytes after which a segment is closed and the next one begun."""

    retain_days: Annotated[float, Gt(0), Le(36_500)] = 365.0
    """Days after which a closed segment is removed, whole."""

    on_full: Literal["refuse", "continue"] = "continue"
    """What happens to requests while nothing can be written: refuse them, or go on unrecorded."""

    strict: bool = False
    """Whether a request's record is on the disk before its handler begins."""

    def __post_init__(self) -> None:
        # Settings that a program makes may be shorter than those of a file, but not for ever.
        if not (self.segment_bytes > 0 and 0 < self.retain_days < math.inf):
            raise ValueError("audit.segment_bytes and audit.retain_days are finite and above 0")


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened."""

    event: str
    """
    What: ``login``, ``logout``, ``refused``, ``limited``, ``administered``, ``failed``,
    ``answered``, ``begun``, ``started`` or ``stopped``; the log's own rows are ``checkpoint``,
    ``removed``, ``recovered``, ``damaged`` and ``lost``.
    """

    user: str = ""
    host: str = ""
    """The host name that the caller claims."""
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
    verified_host: str = ""
    """The host name that the gateway verified."""
    roles: tuple[str, ...] = ()
    """The user's roles at that time, sorted."""
    method: str = ""
    """How the caller logged in."""
    action: str = ""
    """What the caller wanted to do: ``request``, ``message``, ``see``, ``administer``, ``host``."""
    payload: bytes = b""
    """The encoded payload, where the settings want it."""
    payload_bytes: int = 0
    """Size of a payload that is too large to be recorded."""

    @classmethod
    def by(cls, caller: Caller, event: str, **fields: Any) -> Record:
        """Return a record of something that a caller did or wanted; fields are the others."""
        return cls(
            event,
            user=caller.user,
            host=caller.host,
            address=caller.address,
            session=caller.session,
            gateways=caller.gateway,
            verified_host=caller.verified_host,
            roles=_sorted(caller.roles),
            method=caller.method,
            **fields,
        )

    @classmethod
    def of(
        cls,
        event: str,
        invocation: Invocation,
        *,
        outcome: str,
        detail: str = "",
        payload: bool = False,
    ) -> Record:
        """
        Return a record of a request.

        Args:
            event: What happened to it.
            invocation: The request.
            outcome: What came of it.
            detail: What else there is to say.
            payload: Whether the record holds its payload, or how large that is.
        """
        caller, arrived = invocation.caller, invocation.arrived
        data = invocation.payload if payload else b""
        fits = len(data) <= MAX_PAYLOAD
        # Written out by position: half as long as with names, and there may be one a request.
        return cls(
            event,
            caller.user,
            caller.host,
            caller.address,
            invocation.target,
            outcome,
            invocation.request_id,
            detail,
            caller.session,
            caller.gateway,
            round(monotonic() - arrived, 6) if arrived else None,
            caller.verified_host,
            _sorted(caller.roles),
            caller.method,
            invocation.action,
            data if fits else b"",
            0 if fits else len(data),
        )

    @classmethod
    def failed(cls, invocation: Invocation, error: RequestError, *, payload: bool) -> Record:
        """
        Return the record of a request that came to an error: refused, or failed.

        Without `payload` it holds of what a handler raised the type alone, and of a wrong payload
        the place: such texts are often made of what was in the payload.
        """
        event = "refused" if type(error) is PermissionDenied else "failed"
        if invocation.action == "administer" and event == "failed":
            event = "administered"
        detail = error.message
        if isinstance(error, HandlerError) and not payload:
            detail = str(error.details().get("type", ""))
        elif isinstance(error, PayloadError) and not payload:
            detail = error.place or detail
        return cls.of(
            event, invocation, outcome=error.code, detail=detail[:MAX_DETAIL], payload=payload
        )


class Recorder(Protocol):
    """Takes records; it must not block."""

    def record(self, record: Record) -> None:
        """Keep a record."""


class Recorders:
    """Gives each record to several recorders; one that fails keeps none of the others from it."""

    def __init__(self, recorders: Iterable[Recorder]) -> None:
        self._recorders = tuple(recorders)

    def record(self, record: Record) -> None:
        """Give the record to each of them."""
        for recorder in self._recorders:
            try:
                recorder.record(record)
            except Exception:
                logger.exception("%s lost a record: %s", type(recorder).__name__, record.event)


class LogRecorder:
    """Writes records to the log ``headgate.audit``, without payloads."""

    def record(self, record: Record) -> None:
        """Write the record's fields that are set, in one line whatever stands in them."""
        if record.event != "answered" and logger.isEnabledFor(logging.INFO):
            fields = msgspec.structs.asdict(record)
            event = fields.pop("event")
            del fields["payload"]
            text = " ".join(f"{name}={_text(value)}" for name, value in fields.items() if value)
            logger.info("%s %s", event, _printable(text))


@lru_cache(1024)
def _sorted(roles: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(roles))


def _text(value: object) -> str:
    """Return a field's value; in quotes if it could be taken for several fields."""
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if set(text) & set(' ="'):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def _printable(text: str) -> str:
    """Escape what is no printable character: a name with a newline would forge a record."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
