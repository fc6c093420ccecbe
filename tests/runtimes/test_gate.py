"""The gate of a handler: what counts as abandoned."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from headgate.errors import Overloaded
from headgate.handler import HandlerSettings, Signature
from headgate.invocation import Caller, Invocation
from headgate.runtimes.gate import MOST_ABANDONED, Gate
from headgate.runtimes.project import ProjectRuntime
from headgate.threads import LoopThread, Mailbox
from headgate.wire.codec import encode


class Handler(NamedTuple):
    """A function as a runtime wants it."""

    function: Any
    name: str = "test"
    project: str = "P"
    settings: HandlerSettings = HandlerSettings()
    signature: Signature = Signature()


class Yard:
    """A runtime on a loop that never gets to hear of the end of a run."""

    def __init__(self) -> None:
        self.loop = LoopThread("gateway")
        self.loop.start()
        ends: Any = Mailbox(self.loop.loop, lambda end: None)
        self.runtime = ProjectRuntime(
            "P", ends=ends, loop=self.loop.loop, on_wait=lambda invocation: None
        )

    def on_loop(self, function: Any, *arguments: Any) -> Any:
        """Call a function on the loop."""

        async def call() -> Any:
            return function(*arguments)

        return self.loop.run(call())

    def start(self, gate: Gate) -> Invocation:
        """Give the gate an invocation."""
        asker: Any = None
        invocation = Invocation(
            Caller("operator"), "P", "test", encode({}), time.monotonic() + 60, asker
        )
        self.on_loop(gate, invocation)
        return invocation


@pytest.fixture
def yard() -> Iterator[Yard]:
    """A runtime on a loop."""
    yard = Yard()
    yield yard
    yard.runtime.close()
    yard.loop.stop()


@pytest.mark.parametrize("returned", [True, False])
def test_a_run_that_has_returned_does_not_hang(yard: Yard, returned: bool) -> None:
    """Cancelled runs count against the project while they hold threads, not until it is told."""
    go, begun = threading.Event(), threading.Semaphore(0)

    def handle(payload: Any) -> None:
        begun.release()
        go.wait(20)

    handler = Handler(handle)
    yard.on_loop(yard.runtime.exchange, {handler.name: handler})
    gate = yard.runtime.endpoints[handler.name]
    invocations = [yard.start(gate) for _ in range(MOST_ABANDONED)]
    for _ in invocations:
        assert begun.acquire(timeout=20)
    if returned:
        go.set()
        end = time.monotonic() + 20
        while yard.runtime.runs:
            assert time.monotonic() < end
            time.sleep(0.001)
    for invocation in invocations:
        yard.on_loop(gate.withdraw, invocation)
    if returned:
        yard.start(gate)
    else:
        with pytest.raises(Overloaded, match=f"{MOST_ABANDONED} threads of P hang"):
            yard.start(gate)
        go.set()
