"""What can be put under load: a server, a way to connect to it, an event loop for its client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

from benchmarks.load import Call, Load, Measurement
from benchmarks.processes import Contender, Measure, Served, child, server_core

__all__ = ["Candidate", "Company", "loaded", "nobody", "serving"]

Company = Callable[[Served, Load], AbstractContextManager[None]]
"""Others who use the server while it is measured."""


@dataclass(frozen=True)
class Candidate:
    """A server and its client."""

    serve: Callable[[], AbstractContextManager[Served]]
    connect: Callable[[str], AbstractAsyncContextManager[Call]]
    """Opens a connection to an address."""

    run: Callable[[Coroutine[Any, Any, float]], float] = uvloop.run
    """`asyncio.run`, or the same on another event loop."""


@contextlib.contextmanager
def serving(target: Callable[..., None]) -> Iterator[Served]:
    """Run a server, which announces its address, in a process of its own."""
    with contextlib.ExitStack() as stack:
        with server_core():
            address, pid = stack.enter_context(child(target))
        yield Served(address, pid)


@contextlib.contextmanager
def nobody(served: Served, load: Load) -> Iterator[None]:
    """No company."""
    yield


def loaded(
    candidate: Candidate, measurement: Measurement, *, company: Company = nobody
) -> Contender:
    """Return the contender that puts one kind of load on a candidate."""
    return partial(_loaded, candidate, measurement, company)


@contextlib.contextmanager
def _loaded(
    candidate: Candidate, measurement: Measurement, company: Company, load: Load
) -> Iterator[Measure]:
    with candidate.serve() as served:

        async def measured() -> float:
            return await measurement(partial(candidate.connect, served.address), load)

        def measure() -> float:
            with company(served, load):
                return candidate.run(measured())

        yield measure
