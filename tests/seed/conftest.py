"""The plant of the manual's examples, and a record of what callbacks get."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.scope import Scope

if TYPE_CHECKING:
    from conftest import Rig

ASYNC_HOLD = """
    import asyncio
    async def handleMessage(payload):
        shared = system.util.globals
        shared["running"].put(payload)
        try:
            await asyncio.Event().wait()
        finally:
            shared["stopped"] = payload
    """

NEST = """
    def handleMessage(payload):
        shared = system.util.globals
        handle = shared["inner"] = system.util.sendRequestAsync("ACME", **payload["inner"])
        if payload.get("raises"):
            shared["raise"].wait(20)
            raise KeyError("valve")
        return handle.get() if payload.get("waits") else None
    """

CHAIN = """
    def handleMessage(payload):
        left = payload["left"] - 1
        return 1 + (system.util.sendRequest("ACME", "chain", {"left": left}) if left else 0)
    """

CALLER = """
    def handleMessage(payload, context):
        system.util.globals["go"].wait(20)
        return [context.caller.session, context.remaining()]
    """

HANDLERS = {
    "ACME/test": "def handleMessage(payload):\n    return {'double': payload['number'] * 2}",
    "ACME/fail": "def handleMessage(payload):\n    raise KeyError('valve')",
    "ACME/async_hold": ASYNC_HOLD,
    "ACME/remaining": "def handleMessage(payload, context):\n    return context.remaining()",
    "ACME/where": "def handleMessage(payload, context):\n    return list(context.caller.gateway)",
    "ACME/nest": NEST,
    "ACME/chain": CHAIN,
    "ACME/caller": CALLER,
    "queued/project.toml": '[defaults]\nthreading = "Dedicated"\n',
}


class Ends:
    """
    What callbacks got, in order.

    ``success`` and ``error`` are callbacks, `named` makes more of them.
    """

    def __init__(self) -> None:
        self._got: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def success(self, *arguments: Any) -> None:
        self._note("success", arguments)

    def error(self, *arguments: Any) -> None:
        self._note("error", arguments)

    def named(self, name: str) -> Callable[..., None]:
        """Return a callback that notes what it gets under this name."""
        return lambda *arguments: self._note(name, arguments)

    def next(self) -> tuple[str, Any]:
        """Wait for what the next callback gets, with the callback's name."""
        return self._got.get(timeout=20)

    def rest(self, scope: Scope | headgate.Gateway) -> list[tuple[str, Any]]:
        """Wait until every callback that is due has run, and return what was not taken yet."""
        ran = threading.Event()
        scope.invoke(ran.set)
        assert ran.wait(20)
        return [self._got.get() for _ in range(self._got.qsize())]

    def _note(self, name: str, arguments: tuple[Any, ...]) -> None:
        # A callback "should take one argument": what gets none or two is noted as a tuple.
        self._got.put((name, arguments[0] if len(arguments) == 1 else arguments))


@pytest.fixture
def ends() -> Ends:
    """A record of what callbacks get."""
    return Ends()


@pytest.fixture
def hub(rig: Rig) -> headgate.Gateway:
    """A gateway with the manual's handler and some that fail, wait, or echo."""
    scripts = {f"{project}/hold": rig.HOLD for project in ("ACME", "queued")}
    echoes = {f"{project}/echo": rig.ECHO for project in ("ACME", "queued")}
    gateway = rig.gateway({**HANDLERS, **echoes, **scripts})
    gateway.globals["raise"] = threading.Event()
    return gateway


@pytest.fixture
def client(rig: Rig, hub: headgate.Gateway) -> headgate.Client:
    """A client of that gateway: the scope that the manual calls Vision Client."""
    return rig.client(hub, project="panels")


@pytest.fixture(params=["client", "in process"])
def caller(request: pytest.FixtureRequest, rig: Rig, hub: headgate.Gateway) -> Scope:
    """Callers of both kinds: through a connection, and in the gateway's own process."""
    return rig.client(hub) if request.param == "client" else hub.scope("")


@pytest.fixture
def pair(rig: Rig) -> tuple[headgate.Gateway, headgate.Gateway]:
    """Two gateways, hub and mill, that reach each other."""
    network = headgate.MemoryNetwork()
    scripts = {**HANDLERS, "ACME/echo": rig.ECHO, "ACME/hold": rig.HOLD}
    return (
        rig.gateway(scripts, "hub", network=network),
        rig.gateway(scripts, "mill", network=network),
    )


@pytest.fixture
def begun() -> Callable[[headgate.Gateway], Any]:
    """Give a function that waits until a holding handler has begun, and returns its payload."""
    return lambda gateway: gateway.globals["running"].get(timeout=20)
