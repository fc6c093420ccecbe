"""
Headgate: a gateway for request/response messaging, with the scripting interface of Ignition.

From the call to the handler and back, in the order in which a request meets them::

    system/       the manual's functions: system.util.sendRequestAsync and its neighbours
    client        a program's connection to a gateway
    scope         what a client and a gateway have in common for whoever calls
    request       the handle: get, cancel, block, getError, onSuccess, onError, await
    exchange      a client's open requests on its session
    deadlines     what is to be done at a time
    wire/         frames, codec, handshake and session, without sockets or clocks
    channel/      the shells around them, at both ends of one WebSocket connection
    threads       event loops, hops onto them, and the callback thread
    gateway/      projects, routing, sessions, open requests
    invocation    a request on its way to whoever answers it
    runtimes/     where handlers run
    handler       a handler's settings
    dataset       a table, as scripts know it
    scalars       the single values that payloads and tables hold
    outcome       how a request ended: a value or an error
    errors        every error, as one tree
    security/     who calls, what they may do, what is recorded
    network/      other gateways
    store/        the gateway's database
    cli           the command line
"""

from __future__ import annotations

__version__ = "0.1.0"

import importlib
from typing import TYPE_CHECKING, Any

from headgate.handler import handler

if TYPE_CHECKING:
    from headgate import system
    from headgate.client import Client, connect
    from headgate.dataset import Dataset
    from headgate.errors import (
        CancellationException,
        ClientNotFound,
        ConfigurationError,
        ConnectionLost,
        DeadlockError,
        GatewayUnreachable,
        HandlerError,
        HandlerKilled,
        HandlerNotFound,
        HeadgateError,
        LocalProtocolError,
        Overloaded,
        PayloadError,
        PermissionDenied,
        ProjectNotFound,
        ProtocolError,
        RemoteProtocolError,
        RequestError,
        RequestTimeout,
    )
    from headgate.gateway import Gateway
    from headgate.invocation import Caller, Context
    from headgate.network import MemoryNetwork
    from headgate.request import Request
    from headgate.stream import Stream

__all__ = [
    "Caller",
    "CancellationException",
    "Client",
    "ClientNotFound",
    "ConfigurationError",
    "ConnectionLost",
    "Context",
    "Dataset",
    "DeadlockError",
    "Gateway",
    "GatewayUnreachable",
    "HandlerError",
    "HandlerKilled",
    "HandlerNotFound",
    "HeadgateError",
    "LocalProtocolError",
    "MemoryNetwork",
    "Overloaded",
    "PayloadError",
    "PermissionDenied",
    "ProjectNotFound",
    "ProtocolError",
    "RemoteProtocolError",
    "Request",
    "RequestError",
    "RequestTimeout",
    "Stream",
    "connect",
    "handler",
    "system",
]

_PLACES = {
    "Caller": "invocation",
    "Client": "client",
    "Context": "invocation",
    "Dataset": "dataset",
    "Gateway": "gateway",
    "MemoryNetwork": "network",
    "Request": "request",
    "Stream": "stream",
    "connect": "client",
}


def __getattr__(name: str) -> Any:
    # What is not used is not imported: `import headgate` stays quick, and a client needs no server.
    if name not in __all__:
        raise AttributeError(f"module 'headgate' has no attribute {name!r}")
    if name == "system":
        return importlib.import_module("headgate.system")
    try:
        module = importlib.import_module(f"headgate.{_PLACES.get(name, 'errors')}")
    except ModuleNotFoundError as error:
        if name != "Gateway" or (error.name or "").startswith("headgate"):
            raise
        raise ModuleNotFoundError(
            f"headgate.Gateway needs the gateway's packages, and {error.name} is not installed. "
            "Install Headgate with its extra `gateway`, in a checkout: pip install '.[gateway]'",
            name=error.name,
        ) from None
    globals()[name] = value = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
