"""
Every error that Headgate raises, as one tree.

::

    HeadgateError
    ├── RequestError                what a request can end with: .code .started .request_id
    │   ├── RequestTimeout          (TimeoutError)                          timeout
    │   ├── CancellationException   (concurrent.futures.CancelledError)     cancelled
    │   ├── ProjectNotFound         (LookupError)                           project_not_found
    │   ├── HandlerNotFound         (LookupError)                           handler_not_found
    │   ├── ClientNotFound          (LookupError)                           client_not_found
    │   ├── PermissionDenied        (PermissionError)                       denied
    │   ├── GatewayUnreachable      (ConnectionError)                       unreachable
    │   ├── ConnectionLost          (ConnectionError)                       connection_lost
    │   ├── Overloaded              .retry_after                            overloaded
    │   ├── DeadlockError           names the cycle                         deadlock
    │   ├── PayloadError            (ValueError) names the place            payload
    │   ├── HandlerKilled           names the one to blame                  killed
    │   └── HandlerError            the handler's own exception, as text    handler_error
    ├── ProtocolError
    │   ├── LocalProtocolError      this side's mistake: it raises
    │   └── RemoteProtocolError     the peer's mistake: it closes the connection
    └── ConfigurationError          .file .line .problem .cure

An error that travels is rebuilt from its wire code and its text by `RequestError.from_wire`;
nothing is ever unpickled. Errors that inherit `OSError` take one positional argument: two would
be read as an errno and its text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError
from typing import Any, ClassVar

__all__ = [
    "CancellationException",
    "ClientNotFound",
    "ConfigurationError",
    "ConnectionLost",
    "DeadlockError",
    "GatewayUnreachable",
    "HandlerError",
    "HandlerKilled",
    "HandlerNotFound",
    "HeadgateError",
    "LocalProtocolError",
    "Overloaded",
    "PayloadError",
    "PermissionDenied",
    "ProjectNotFound",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestError",
    "RequestTimeout",
]


class HeadgateError(Exception):
    """Parent of every error that Headgate raises."""


class RequestError(HeadgateError):
    """
    A request ended without a result.

    Args:
        message: What happened, where, and what to do about it.
        started: Whether the handler began to run: True, False, or None where nobody can know.
        request_id: 32 hex digits of the request, empty if it was never given an id.
    """

    code: ClassVar[str] = "error"
    """Stable name of the error on the wire."""

    started: bool | None
    """Did the handler begin to run? Only False makes it safe to send the request again."""

    request_id: str
    """The request that ended, 32 hex digits, or an empty string."""

    def __init__(
        self, message: str = "", *, started: bool | None = None, request_id: str = ""
    ) -> None:
        super().__init__(message)
        self.started = started
        self.request_id = request_id

    @property
    def message(self) -> str:
        """The text of the error."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.code, self.message, self.details(), self.started, self.request_id)

    def details(self) -> dict[str, Any]:
        """What the error carries on the wire beside its code and text."""
        return {}

    @staticmethod
    def from_wire(
        code: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        started: bool | None = None,
        request_id: str = "",
    ) -> RequestError:
        """
        Rebuild an error that another program sent.

        An unknown code, as a later release may send, gives a plain `RequestError` that names it.
        """
        kind = _BY_CODE.get(code)
        if kind is None:
            error = RequestError(f"{message} (error code {code!r})")
        else:
            error = kind._from_wire(message, details or {})
        error.started = started
        error.request_id = request_id
        return error

    @classmethod
    def _from_wire(cls, message: str, details: Mapping[str, Any]) -> RequestError:
        return cls(message)


class RequestTimeout(RequestError, TimeoutError):
    """The deadline passed before the result arrived."""

    code = "timeout"


class CancellationException(RequestError, CancelledError):
    """The request was cancelled."""

    # Manual: "Any completion callback will be called with CancellationException".
    code = "cancelled"


class ProjectNotFound(RequestError, LookupError):
    """The gateway has no project of that name."""

    code = "project_not_found"


class HandlerNotFound(RequestError, LookupError):
    """The project has no message handler of that name."""

    code = "handler_not_found"


class ClientNotFound(RequestError, LookupError):
    """No connected client on that host has the message handler."""

    code = "client_not_found"


class PermissionDenied(RequestError, PermissionError):
    """The caller may not do this; whether the target exists is not told."""

    code = "denied"


class GatewayUnreachable(RequestError, ConnectionError):
    """There is no connection to the gateway, so the request was not sent."""

    code = "unreachable"


class ConnectionLost(RequestError, ConnectionError):
    """The connection ended while the request was under way."""

    code = "connection_lost"


class Overloaded(RequestError):
    """
    A queue or a credit is used up; nothing was started.

    Args:
        message: What is full, and how large it is.
        retry_after: Seconds after which another try is sensible; None if nobody can say.
        started: As for every `RequestError`; False where the request was refused.
        request_id: As for every `RequestError`.
    """

    code = "overloaded"

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        started: bool | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message, started=started, request_id=request_id)
        self.retry_after = retry_after

    def details(self) -> dict[str, Any]:
        return {} if self.retry_after is None else {"retry_after": self.retry_after}

    @classmethod
    def _from_wire(cls, message: str, details: Mapping[str, Any]) -> RequestError:
        retry_after = details.get("retry_after")
        known = isinstance(retry_after, (int, float))
        return cls(message, retry_after=retry_after if known else None)


class DeadlockError(RequestError):
    """The request waits for something that one of its own callers holds; the text names both."""

    code = "deadlock"


class PayloadError(RequestError, ValueError):
    """
    A value cannot be sent, or what arrived is not a value.

    Args:
        message: What is wrong, with the place.
        place: Where in the payload, such as ``payload['a'][3]``; empty if it is the whole.
        started: As for every `RequestError`.
        request_id: As for every `RequestError`.
    """

    code = "payload"

    def __init__(
        self,
        message: str = "",
        *,
        place: str = "",
        started: bool | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message, started=started, request_id=request_id)
        self.place = place

    def details(self) -> dict[str, Any]:
        return {"place": self.place} if self.place else {}

    @classmethod
    def _from_wire(cls, message: str, details: Mapping[str, Any]) -> RequestError:
        return cls(message, place=str(details.get("place", "")))


class HandlerKilled(RequestError):
    """
    The worker process that the handler ran in died; what the handler had done by then is done.

    It crashed, ended itself, or held more memory than it may: the text tells which. A worker that
    is killed because of a timeout or a cancellation ends its request with these.
    """

    code = "killed"


class HandlerError(RequestError):
    """
    The message handler raised an exception.

    Args:
        message: The whole text; built from type and message if left out.
        remote_type: Name of the exception's type, such as ``ValueError``.
        remote_message: Its text.
        remote_traceback: Its traceback as text; empty for a caller who may not see it.
        started: As for every `RequestError`; True, since the handler ran.
        request_id: As for every `RequestError`.
    """

    code = "handler_error"

    def __init__(
        self,
        message: str = "",
        *,
        remote_type: str = "",
        remote_message: str = "",
        remote_traceback: str = "",
        started: bool | None = True,
        request_id: str = "",
    ) -> None:
        text = message or (f"{remote_type}: {remote_message}" if remote_message else remote_type)
        super().__init__(text, started=started, request_id=request_id)
        self.remote_type = remote_type
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback

    def details(self) -> dict[str, Any]:
        fields = {
            "type": self.remote_type,
            "message": self.remote_message,
            "traceback": self.remote_traceback,
        }
        return {name: value for name, value in fields.items() if value}

    @classmethod
    def _from_wire(cls, message: str, details: Mapping[str, Any]) -> RequestError:
        return cls(
            message,
            remote_type=str(details.get("type", "")),
            remote_message=str(details.get("message", "")),
            remote_traceback=str(details.get("traceback", "")),
        )


_BY_CODE: dict[str, type[RequestError]] = {
    kind.code: kind
    for kind in (
        RequestTimeout,
        CancellationException,
        ProjectNotFound,
        HandlerNotFound,
        ClientNotFound,
        PermissionDenied,
        GatewayUnreachable,
        ConnectionLost,
        Overloaded,
        DeadlockError,
        PayloadError,
        HandlerKilled,
        HandlerError,
    )
}


def _rebuild(
    code: str, message: str, details: dict[str, Any], started: bool | None, request_id: str
) -> RequestError:
    if code == RequestError.code:
        return RequestError(message, started=started, request_id=request_id)
    return RequestError.from_wire(code, message, details, started=started, request_id=request_id)


class ProtocolError(HeadgateError):
    """The channel's rules were broken."""


class LocalProtocolError(ProtocolError):
    """This program broke the channel's rules: a bug here."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the channel's rules: the connection is closed."""


class ConfigurationError(HeadgateError):
    """
    A file, a setting or an argument is wrong.

    Args:
        problem: What is wrong.
        cure: What to write or do instead.
        file: The file's path; empty if it is an argument.
        line: The line in the file, from 1; None if the error has no line.
        others: Further mistakes that were found together with this one.
    """

    def __init__(
        self,
        problem: str,
        *,
        cure: str = "",
        file: str = "",
        line: int | None = None,
        others: Iterable[ConfigurationError] = (),
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.cure = cure
        self.file = str(file)
        self.line = line
        self.others = tuple(others)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        text = f"{place}: {self.problem}" if place else self.problem
        text = f"{text}. {self.cure}" if self.cure else text
        return "\n".join([text, *map(str, self.others)])

    def all(self) -> tuple[ConfigurationError, ...]:
        """Return every mistake that was found, each as an error of its own."""
        alone = ConfigurationError(self.problem, cure=self.cure, file=self.file, line=self.line)
        return (alone, *self.others)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.problem, self.cure, self.file, self.line, self.others)
        return _rebuild_configuration, fields


def _rebuild_configuration(
    problem: str,
    cure: str,
    file: str,
    line: int | None,
    others: tuple[ConfigurationError, ...],
) -> ConfigurationError:
    return ConfigurationError(problem, cure=cure, file=file, line=line, others=others)
