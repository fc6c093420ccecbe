"""
What a client and a gateway have in common for whoever calls: requests and messages.

The manual's functions in `headgate.system` and Python's names here lead to the same place, so a
call is checked and encoded in one way.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from asyncio import Future, get_running_loop
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Literal

import msgspec

from headgate.errors import ClientNotFound, GatewayUnreachable, HandlerNotFound, RequestError
from headgate.handler import OnDisconnect
from headgate.invocation import HIGH, LOW, NORMAL, Invocation, current_invocation
from headgate.outcome import Failure
from headgate.request import Callback, Request, refuse_on_event_loop
from headgate.retries import MOST_RETRIES, Again, Retried
from headgate.wire.codec import decode, encode
from headgate.wire.frames import FINISHES
from headgate.wire.session import MAX_NAME

__all__ = [
    "DEFAULT_TIMEOUT",
    "GATEWAY_PROJECT",
    "MAX_TIMEOUT",
    "Delivery",
    "Priority",
    "Route",
    "Scope",
    "current_scope",
    "entered",
    "left",
    "seconds",
]

DEFAULT_TIMEOUT = 60.0
"""Seconds until a request times out, unless it says otherwise."""

MAX_TIMEOUT = 86_400.0
"""The longest timeout, in seconds: a day."""

GATEWAY_PROJECT = "@gateway"
"""The gateway's own handlers stand under this name, which no project can have."""

MAX_FILTERS = 16
"""Filters that one message has at most."""

SCOPES = "CGS"
"""Kinds of receivers: clients, the gateway, web sessions."""


Priority = Literal["low", "normal", "high"]

PRIORITIES: dict[str, int] = {"low": LOW, "normal": NORMAL, "high": HIGH}


class Route(msgspec.Struct, frozen=True):
    """Where a request goes and how, beside project and handler."""

    remote_server: str = ""
    """Name of another gateway of the Gateway Network; empty for the connected one."""

    host_name: str = ""
    """The client on this host is meant, not the gateway; empty for the gateway."""

    ancestors: tuple[str, ...] = ()
    """Ids of the requests whose handlers led to this one."""

    priority: int = NORMAL
    """Whether it begins before others that wait: `LOW`, `NORMAL` or `HIGH`."""

    flags: int = 0
    """Those of a `Call`."""


class Delivery(msgspec.Struct, frozen=True):
    """Whom a message is for."""

    scope: str
    filters: dict[str, str] = {}
    ancestors: tuple[str, ...] = ()


NEARBY = Route()


def seconds(timeout: float | str | None, default: float, longest: float) -> float:
    """
    Return a timeout in seconds.

    Args:
        timeout: A number, a numeric string (the manual types it as String), or None.
        default: What None means.
        longest: The longest one allowed.

    Raises:
        ValueError: It is no number, not finite, not more than 0, or too long.
    """
    if timeout is None:
        return default
    try:
        if isinstance(timeout, bool | bytes | bytearray):
            raise TypeError
        value = float(timeout)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"timeoutSec is a number of seconds, not {timeout!r}") from None
    if not 0 < value < math.inf:
        raise ValueError(f"timeoutSec must be finite and more than 0, not {timeout!r}")
    if value > longest:
        raise ValueError(f"timeoutSec is at most {longest:g} seconds here, not {timeout!r}")
    return value


def required(value: Any, name: str) -> str:
    """Return a name as `text` does; raises ValueError if it is missing."""
    if value is None or value == "":
        raise ValueError(f"Missing required argument {name}")
    return text(value, name)


def text(value: Any, name: str) -> str:
    """
    Return a string as a plain str that can be sent; None is an empty one.

    Raises:
        TypeError: It is no string.
        ValueError: It cannot be encoded: it holds half of a surrogate pair.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a string, not {value!r}")
    try:
        return value.encode().decode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} {value!r} cannot be sent: {error.reason}") from None


class Scope(ABC):
    """Where calls are made from: a connected client, or the gateway itself."""

    default_timeout = DEFAULT_TIMEOUT
    """Seconds until a request of this scope times out, unless it says otherwise."""

    max_timeout = MAX_TIMEOUT
    """The longest timeout of a request of this scope, in seconds."""

    project = ""
    """The project that this scope belongs to; empty if it has none."""

    @property
    def globals(self) -> dict[str, Any]:
        """What `system.util.getGlobals` gives: one dictionary for all clients of this process."""
        return _globals

    def request(
        self,
        project: str,
        handler: str,
        payload: Any = None,
        *,
        timeout: float | str | None = None,
        remote_server: str | None = None,
        host_name: str | None = None,
        on_success: Callback | None = None,
        on_error: Callback | None = None,
        on_progress: Callback | None = None,
        priority: Priority | None = None,
        retries: int = 0,
        on_disconnect: OnDisconnect = "cancel",
    ) -> Request:
        """
        Send a request to a message handler and return its handle at once.

        Whatever can fail later fails through the handle.

        Args:
            project: Name of the project with the handler.
            handler: Name of the message handler.
            payload: What the handler gets, a copy of its own; None means an empty dictionary. It
                is encoded before this returns.
            timeout: Seconds until the request fails with `RequestTimeout`; queueing, the network
                and the handler share them. Default: `default_timeout`.
            remote_server: Name of another gateway of the Gateway Network.
            host_name: Means the client on this host that hosts the handler, not the gateway.
            on_success: Gets the result, on the callback thread.
            on_error: Gets the error, on the callback thread.
            on_progress: Gets the values that the handler reports with `context.progress`, on the
                callback thread; of values that come faster than it takes them the latest counts.
            priority: ``low``, ``normal`` or ``high``: of requests that wait, which begin first.
                Default: as the request whose handler asks for this one, else ``normal``.
            retries: How often it is sent again, up to 100 times and within the timeout, after a
                failure that may pass and with which it certainly did not begin: `Overloaded`,
                `GatewayUnreachable`, and `ConnectionLost` before it was sent.
            on_disconnect: What the end of this program's connection does to the handler:
                ``cancel`` it, or let it ``finish`` with nobody to take its result. A handler whose
                own setting is ``finish`` goes on in any case.

        Raises:
            ValueError: A name is missing, or an argument has a value that it cannot have.
            TypeError: A name is no string, or a callback cannot be called.
            PayloadError: The payload cannot be sent; the text names the place.
        """
        names = project + handler if type(project) is type(handler) is str else ""
        if not names or not names.isascii() or not project or not handler:
            project, handler = required(project, "project"), required(handler, "messageHandler")
            names = project + handler
        if on_success is not None or on_error is not None or on_progress is not None:
            _require_callable(on_success, on_error, on_progress)
        limit = self.default_timeout
        if timeout is not None:
            limit = seconds(timeout, limit, self.max_timeout)
        data = encode({} if payload is None else payload)
        deadline = monotonic() + limit
        running = current_invocation.get()
        if (
            running is None
            and remote_server is None
            and host_name is None
            and priority is None
            and not retries
            and on_disconnect == "cancel"
        ):
            route = NEARBY
            request = Request(self, project, handler, deadline, on_success, on_error, on_progress)
        else:
            rank = NORMAL if running is None else running.priority
            route = Route(
                text(remote_server, "remoteServer"),
                text(host_name, "hostName"),
                _ancestors(running),
                rank if priority is None else _priority(priority),
                0 if on_disconnect == "cancel" else _flags(on_disconnect),
            )
            kind = Retried if retries and _times(retries) else Request
            request = kind(self, project, handler, deadline, on_success, on_error, on_progress)
            request.made_in = running
        if route is not NEARBY or len(names) > MAX_NAME:
            refusal = _too_long(project, handler, route)
            if refusal is not None:
                request.end(Failure(refusal))
                return request
            if isinstance(request, Retried):
                request.retry(retries, self._again(data, route))
        self._submit(request, data, route)
        return request

    def message(
        self,
        project: str,
        handler: str,
        payload: Any = None,
        *,
        scope: str | None = None,
        filters: Mapping[str, str] | None = None,
    ) -> Request:
        """
        Send a message to handlers; nothing comes back but the report of its delivery.

        Args:
            project: Name of the project with the handlers.
            handler: Name of the message handlers.
            payload: What each handler gets, a copy of its own; None means an empty dictionary.
            scope: Kinds of receivers, letters of ``C`` (clients), ``G`` (the gateway) and ``S``
                (web sessions). Default: ``CGS``, or ``CS`` with filters.
            filters: Limits by session: ``clientSessionId``, ``user``, ``hasRole``, ``hostName``.

        Returns:
            A handle whose result is a list of str, one for each receiver: ``key=value`` pairs
            joined by commas, always with ``sendStatus``: ``SENT`` (queued for a handler that
            exists), ``NO_HANDLER``, ``DENIED``, ``UNREACHABLE`` or ``OVERLOADED``.

        Raises:
            ValueError: A name is missing, or there are too many filters or too long ones.
            TypeError: A name is no string.
            PayloadError: The payload cannot be sent.
        """
        project, handler = required(project, "project"), required(handler, "messageHandler")
        chosen = _chosen(filters or {})
        letters = (text(scope, "scope") or ("CS" if chosen else SCOPES)).upper()
        if len(letters) > MAX_NAME:
            raise ValueError(f"scope has {len(letters)} characters: it is letters of {SCOPES}")
        data = encode({} if payload is None else payload)
        request = Request(self, project, handler, monotonic() + self.default_timeout)
        request.streams = False
        ancestors = _ancestors(current_invocation.get())
        refusal = _too_long(project, handler, NEARBY)
        if refusal is not None:
            request.end(Failure(refusal))
        else:
            self._deliver(request, data, Delivery(letters, chosen, ancestors))
        return request

    def remote_servers(self) -> list[str]:
        """
        Return the names of the other gateways of the Gateway Network; asks the gateway.

        Raises:
            RequestError: It could not be asked.
            RuntimeError: An event loop runs on this thread.
        """
        refuse_on_event_loop("remote_servers()", "await asyncio.to_thread(client.remote_servers)")
        names: list[str] = self.request(GATEWAY_PROJECT, "remote_servers").get()
        return names

    decode = staticmethod(decode)
    """Turn an encoded result into a value; raises PayloadError."""

    def future(self) -> Future[None]:
        """Return a new future of the event loop that runs on this thread."""
        return get_running_loop().create_future()

    @abstractmethod
    def invoke(self, function: Callable[[], None]) -> None:
        """Run a function on the callback thread, soon and in order."""

    @abstractmethod
    def withdraw(self, request: Request) -> None:
        """Tell the executing side that a request is cancelled."""

    @abstractmethod
    def grant(self, request: Request, total: int) -> None:
        """Tell the executing side how many bytes of yielded values are taken in all."""

    @abstractmethod
    def _submit(self, request: Request, payload: bytes, route: Route) -> None:
        """Send a request on its way; it fails through its handle."""

    def _again(self, payload: bytes, route: Route) -> Again:
        # Not within `request`, whose variables would be cells then, for requests without retries.
        return lambda request, pause: self._resubmit(request, payload, route, pause)

    def _resubmit(self, request: Request, payload: bytes, route: Route, pause: float) -> bool:
        """
        Send a request on its way again, after a pause in seconds; it may be cancelled until then.

        Returns:
            False if that is not possible here, or not any more: then it ends.
        """
        return False

    @abstractmethod
    def _deliver(self, request: Request, payload: bytes, delivery: Delivery) -> None:
        """Send a message on its way; it fails through its handle."""


_globals: dict[str, Any] = {}

_open: list[Scope] = []


def entered(scope: Scope) -> None:
    """Note that a connection is open: `headgate.system` uses the only one."""
    if scope not in _open:
        _open.append(scope)


def left(scope: Scope) -> None:
    """Note that a connection is closed."""
    if scope in _open:
        _open.remove(scope)


def current_scope() -> Scope:
    """
    Return the scope of whoever calls this.

    In a handler it is the handler's project on its gateway, else the only open client of the
    process.

    Raises:
        RuntimeError: There is no such scope, or no telling which one is meant.
    """
    running = current_invocation.get()
    if running is not None:
        scope: Scope = running.home.scope(running.project)
        return scope
    match list(_open):
        case [only]:
            return only
        case []:
            raise RuntimeError("Not connected: call headgate.connect(), or use gateway.system")
        case several:
            raise RuntimeError(
                f"{len(several)} clients are open in this process: use client.system of the one "
                "that is meant"
            )


def _ancestors(running: Invocation | None) -> tuple[str, ...]:
    return () if running is None else (*running.ancestors, running.request_id)


def _priority(name: str) -> int:
    if name not in PRIORITIES:
        raise ValueError(f"priority is one of {', '.join(PRIORITIES)}, not {name!r}")
    return PRIORITIES[name]


def _flags(on_disconnect: str) -> int:
    if on_disconnect != "finish":
        raise ValueError(f"on_disconnect is 'cancel' or 'finish', not {on_disconnect!r}")
    return FINISHES


def _times(retries: int) -> int:
    if type(retries) is not int or not 0 <= retries <= MOST_RETRIES:
        raise ValueError(f"retries is a whole number from 0 to {MOST_RETRIES}, not {retries!r}")
    return retries


def _chosen(filters: Mapping[str, str]) -> dict[str, str]:
    """Return filters as they are sent."""
    chosen = {
        text(name, "a filter's name"): text(str(value), name)
        for name, value in filters.items()
        if value
    }
    if len(chosen) > MAX_FILTERS:
        raise ValueError(f"{len(chosen)} filters are given; {MAX_FILTERS} are allowed")
    for name, value in chosen.items():
        if len(name) > MAX_NAME or len(value) > MAX_NAME:
            raise ValueError(f"A filter's name or value has more than {MAX_NAME} characters")
    return chosen


def _too_long(project: str, handler: str, route: Route) -> RequestError | None:
    """Return how a request ends that names what nothing can be called, None if it may be sent."""
    if len(project) > MAX_NAME or len(handler) > MAX_NAME:
        kind: type[RequestError] = HandlerNotFound
    elif len(route.remote_server) > MAX_NAME:
        kind = GatewayUnreachable
    elif len(route.host_name) > MAX_NAME:
        kind = ClientNotFound
    else:
        return None
    return kind(f"Not sent: no name has more than {MAX_NAME} characters", started=False)


def _require_callable(*callbacks: Callback | None) -> None:
    for callback in callbacks:
        if callback is not None and not callable(callback):
            raise TypeError(f"A callback is a function of one argument, not {callback!r}")
