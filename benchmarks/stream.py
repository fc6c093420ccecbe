"""Values of a stream, from a handler on a thread to a reader in another process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import headgate
from benchmarks.company import resident_bytes
from benchmarks.gateway import serve
from benchmarks.load import Load
from benchmarks.processes import Measure, Served

__all__ = ["bytes_for_a_slow_reader", "values_a_second"]

SLOW_READS = 5
"""Values that the slow reader takes."""


@contextlib.contextmanager
def values_a_second(load: Load) -> Iterator[Measure]:
    """How many values reach a ``for`` in a second."""
    with serve() as served, _connected(served) as client:

        def measure() -> float:
            begin = time.perf_counter()
            count = sum(1 for _ in _stream(client, load))
            if count != load.values:
                raise RuntimeError(f"{count} of {load.values} values came")
            return count / (time.perf_counter() - begin)

        yield measure


@contextlib.contextmanager
def bytes_for_a_slow_reader(load: Load) -> Iterator[Measure]:
    """What the gateway's memory grows by while its reader takes a value a second."""
    with serve() as served, _connected(served) as client:
        for _ in _stream(client, load):
            pass

        def measure() -> float:
            before = resident_bytes(served.pid)
            with _stream(client, load) as stream:
                most = 0
                for _ in range(SLOW_READS):
                    next(stream)
                    time.sleep(load.pause)
                    most = max(most, resident_bytes(served.pid) - before)
                return most

        yield measure


@contextlib.contextmanager
def _connected(served: Served) -> Iterator[headgate.Client]:
    with headgate.connect(served.address) as client:
        yield client


def _stream(client: headgate.Client, load: Load) -> headgate.Stream:
    return client.request("ACME", "values", {"count": load.values}, timeout=600).stream()
