"""The manual's `system.util`: requests and messages, logs, JSON, threads."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from headgate.dataset import Dataset, as_document
from headgate.invocation import current_invocation
from headgate.request import Callback, Request, refuse_on_event_loop
from headgate.system.logger import Logger
from headgate.system.namespace import Namespace

__all__ = [
    "Logger",
    "Util",
    "getGlobals",
    "getLogger",
    "getProjectName",
    "invokeAsynchronous",
    "jsonDecode",
    "jsonEncode",
    "sendMessage",
    "sendRequest",
    "sendRequestAsync",
]

logger = logging.getLogger("headgate.system")


class Util(Namespace):
    """Requests and messages, logs, JSON, threads."""

    _module = "util"

    # --- requests and messages -------------------------------------------------------------------

    def sendRequestAsync(
        self,
        project: str = "",
        messageHandler: str = "",
        payload: dict[str, Any] | None = None,
        remoteServer: str | None = None,
        timeoutSec: float | str | None = None,
        onSuccess: Callback | None = None,
        onError: Callback | None = None,
        *,
        hostName: str | None = None,
        scope: str | None = None,
    ) -> Request:
        """
        Send a request to a message handler and return its handle at once.

        Whatever can fail later fails through the handle.

        Args:
            project: Name of the project with the message handler.
            messageHandler: Name of the message handler.
            payload: What the handler gets, a copy of its own. Default: an empty dictionary.
            remoteServer: Name of the gateway of the Gateway Network that is to answer.
            timeoutSec: Seconds until the request fails, a number or a numeric string. Default: 60.
            onSuccess: Gets the result, on the GUI thread or the callback thread.
            onError: Gets the error, on the GUI thread or the callback thread.
            hostName: The client on this host is to answer, not the gateway.
            scope: Accepted, because callers pass it; it selects nothing.

        Raises:
            ValueError: A name is missing, or the timeout is wrong.
            TypeError: The payload is no dictionary, a name no string, or a callback no function.
            PayloadError: The payload cannot be sent; the text names the place.
        """
        # Manual: "will send the request and then immediately return a handle for it".
        return self._scope.request(
            project,
            messageHandler,
            _dictionary(payload),
            timeout=timeoutSec,
            remote_server=remoteServer,
            host_name=hostName,
            on_success=onSuccess,
            on_error=onError,
        )

    def sendRequest(
        self,
        project: str = "",
        messageHandler: str = "",
        payload: dict[str, Any] | None = None,
        remoteServer: str | None = None,
        timeoutSec: float | str | None = None,
        *,
        hostName: str | None = None,
        scope: str | None = None,
    ) -> Any:
        """
        Send a request to a message handler and wait for its result.

        Args:
            project: Name of the project with the message handler.
            messageHandler: Name of the message handler.
            payload: What the handler gets, a copy of its own. Default: an empty dictionary.
            remoteServer: Name of the gateway of the Gateway Network that is to answer.
            timeoutSec: Seconds until the request fails, a number or a numeric string. Default: 60.
            hostName: The client on this host is to answer, not the gateway.
            scope: Accepted, because callers pass it; it selects nothing.

        Returns:
            What the message handler returned.

        Raises:
            RequestError: The request failed or timed out; see `headgate.errors`.
            ValueError: A name is missing, or the timeout is wrong.
            TypeError: The payload is no dictionary, or a name no string.
            RuntimeError: An event loop runs on this thread; nothing was sent.
        """
        refuse_on_event_loop("sendRequest()", "await system.util.sendRequestAsync(...)")
        return self.sendRequestAsync(
            project, messageHandler, payload, remoteServer, timeoutSec, hostName=hostName
        ).get()

    def sendMessage(
        self,
        project: str = "",
        messageHandler: str = "",
        payload: dict[str, Any] | None = None,
        scope: str | None = None,
        clientSessionId: str | None = None,
        user: str | None = None,
        hasRole: str | None = None,
        hostName: str | None = None,
        remoteServers: Sequence[str] | None = None,
    ) -> list[str]:
        """
        Send a message to message handlers and wait for the report of its delivery.

        Args:
            project: Name of the project with the message handlers.
            messageHandler: Name of the message handlers.
            payload: What each handler gets, a copy of its own. Default: an empty dictionary.
            scope: Kinds of receivers, letters of ``C`` (clients), ``G`` (the gateway) and ``S``
                (web sessions). Default: ``CGS``, or ``CS`` where sessions are selected below.
            clientSessionId: Only this session.
            user: Only sessions of this user.
            hasRole: Only sessions of users with this role.
            hostName: Only sessions on this host.
            remoteServers: Not available in this release.

        Returns:
            One str for each receiver, ``key=value`` pairs joined by commas; `sendStatus` is
            ``SENT`` (queued for a handler that exists), ``NO_HANDLER``, ``DENIED``,
            ``UNREACHABLE`` or ``OVERLOADED``.

        Raises:
            RequestError: The gateway could not be asked.
            ValueError: A name is missing.
            TypeError: The payload is no dictionary, or a name no string.
            RuntimeError: An event loop runs on this thread; nothing was sent.
            NotImplementedError: `remoteServers` is given.
        """
        refuse_on_event_loop("sendMessage()", "await asyncio.to_thread(system.util.sendMessage, …)")
        if remoteServers:
            _refuse_remote_servers()
        sessions = {
            "clientSessionId": clientSessionId or "",
            "user": user or "",
            "hasRole": hasRole or "",
            "hostName": hostName or "",
        }
        sent = self._scope.message(
            project, messageHandler, _dictionary(payload), scope=scope, filters=sessions
        )
        report: list[str] = sent.get()
        return report

    # --- what a script belongs to ----------------------------------------------------------------

    def getProjectName(self) -> str:
        """Return the name of the project that the caller belongs to; empty if it has none."""
        return self._scope.project

    def getGlobals(self) -> dict[str, Any]:
        """
        Return the dictionary that all scripts of a gateway share, as long as the gateway runs.

        All clients of a process share one, too.
        """
        return self._scope.globals

    @property
    def globals(self) -> dict[str, Any]:
        """What `getGlobals` returns."""
        return self.getGlobals()

    # --- help for scripts ------------------------------------------------------------------------

    def getLogger(self, name: str) -> Logger:
        """Return the logger of this name, which writes to Python's logging."""
        return Logger(name)

    def invokeAsynchronous(
        self,
        function: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        description: str | None = None,
    ) -> threading.Thread:
        """
        Run a function on a thread of its own; what it raises is logged.

        Requests that it makes in a handler have the handler's caller, but not its deadline, and
        go on when the handler fails or is cancelled.

        Args:
            function: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            description: The thread's name. Default: the function's.

        Returns:
            The thread, started; the program does not wait for it to end.

        Raises:
            TypeError: The function cannot be called.
        """
        if not callable(function):
            raise TypeError(f"invokeAsynchronous takes a function, not {function!r}")
        thread = threading.Thread(
            target=_detached_context().run,
            args=(_run, function, tuple(args or ()), dict(kwargs or {})),
            name=description or getattr(function, "__name__", repr(function)),
            daemon=True,
        )
        thread.start()
        return thread

    def jsonEncode(self, pyObj: Any, indentFactor: int = 0) -> str:
        """
        Encode a value as JSON.

        Args:
            pyObj: Dictionaries, lists, tuples, str, numbers, booleans and None; also dates and
                times (as ISO 8601), UUID, Decimal (as a number), bytes (as Base64), sets,
                dataclasses, arrays, and tables (``{"columns": […], "rows": […]}``).
            indentFactor: Spaces for each level of indentation; 0 writes everything on one line.

        Raises:
            TypeError: Something in it has no form in JSON.
            ValueError: A number is not finite, or something contains itself.
        """
        return json.dumps(
            pyObj,
            ensure_ascii=False,
            allow_nan=False,
            indent=indentFactor or None,
            separators=None if indentFactor else (",", ":"),
            default=_plain,
        )

    def jsonDecode(self, jsonString: str) -> Any:
        """
        Decode JSON.

        Raises:
            ValueError: It is no JSON; the text names the place.
        """
        try:
            return json.loads(jsonString, parse_constant=_refuse_constant)
        except RecursionError:
            raise ValueError("The JSON is nested too deeply") from None


def _dictionary(payload: dict[str, Any] | None) -> dict[str, Any] | None:
    # Manual: "A dictionary which will get passed to the message handler."
    if payload is None or isinstance(payload, dict):
        return payload
    raise TypeError(
        f"payload is a dictionary, not {type(payload).__name__}: write payload={{'value': …}}; "
        "client.request takes any value"
    )


def _refuse_remote_servers() -> NoReturn:
    raise NotImplementedError(
        "system.util.sendMessage(remoteServers=...) is not available in this release; "
        "system.util.sendRequest(remoteServer=...) reaches other gateways"
    )


def _detached_context() -> Context:
    context = copy_context()
    running = current_invocation.get()
    if running is not None:
        context.run(current_invocation.set, running.detached())
    return context


def _run(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        function(*args, **kwargs)
    except Exception:
        logger.exception("%s failed", threading.current_thread().name)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Dataset):
        return as_document(value)
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return value.tolist()
    return msgspec.to_builtins(value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_here = Util()
getGlobals = _here.getGlobals
getLogger = _here.getLogger
getProjectName = _here.getProjectName
invokeAsynchronous = _here.invokeAsynchronous
jsonDecode = _here.jsonDecode
jsonEncode = _here.jsonEncode
sendMessage = _here.sendMessage
sendRequest = _here.sendRequest
sendRequestAsync = _here.sendRequestAsync

if TYPE_CHECKING:
    globals: dict[str, Any]
else:

    def __getattr__(name: str) -> Any:
        return getattr(_here, name)
