"""What scripts log and print in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.runtimes.link import Logged, Returned
from headgate.wire.codec import decode

if TYPE_CHECKING:
    from worker_ends import Nursery, WorkerEnd

SCRIPTS = {
    "log": """
        def handleMessage(payload):
            log = system.util.getLogger("line 4")
            log.debug("unheard")
            try:
                1 / 0
            except ZeroDivisionError as error:
                log.warn("divided", error)
            print("printed", end=" ")
            print("in one line")
        """,
    "flood": """
        import logging, resource
        def handleMessage(payload):
            log = logging.getLogger("flood")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for n in range(payload):
                log.warning("line %d", n)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        """,
    "endless": """
        def handleMessage(payload):
            for n in range(payload):
                print("x" * 100, end="")
        """,
    "strange": """
        import logging
        def handleMessage(payload):
            logging.getLogger("x").warning("half \\ud800 and long %s", "x" * 100_000)
        """,
}


def test_records_and_prints_come_to_the_gateway(nursery: Nursery) -> None:
    """With logger, level, run and traceback; below the gateway's level nothing is sent."""
    worker = nursery.loaded(SCRIPTS)
    run = worker.begin("log")
    worker.take(Returned)
    divided, printed = [frame for frame in worker.heard if isinstance(frame, Logged)]
    assert (divided.logger, divided.level, divided.number) == ("line 4", 30, run.number)
    assert divided.message == "divided"
    assert divided.traceback.endswith("ZeroDivisionError: division by zero")
    assert (printed.logger, printed.message) == ("headgate.print", "printed in one line")


def test_a_flood_is_cut_and_counted(nursery: Nursery) -> None:
    """Many lines neither block nor fill memory, and one line says how many were left out."""
    worker = nursery.loaded(SCRIPTS)
    count = 100_000
    worker.begin("flood", count)
    assert decode(worker.take(Returned).payload) < 20_000
    left_out = 0
    while (kept := flood_lines(worker)) and kept + left_out < count:
        told = worker.take(Logged, lambda frame: frame.logger == "headgate.worker")
        left_out += int(told.message.split()[0])
    assert kept + left_out == count
    assert kept < count / 10


def flood_lines(worker: WorkerEnd) -> int:
    """How many lines of the flood have come."""
    return sum(isinstance(f, Logged) and f.logger == "flood" for f in worker.heard)


def test_a_record_is_cut_and_made_sendable(nursery: Nursery) -> None:
    """Whatever a script logs."""
    worker = nursery.loaded(SCRIPTS)
    worker.call("strange")
    logged = worker.take(Logged)
    assert logged.message.startswith("half \\ud800 and long x")
    assert len(logged.message) < 20_000


def test_a_line_without_an_end_is_cut(nursery: Nursery) -> None:
    """It is printed in pieces, and neither kept nor copied for ever."""
    worker = nursery.loaded(SCRIPTS)
    worker.call("endless", 1_000)
    pieces = [frame.message for frame in worker.heard if isinstance(frame, Logged)]
    assert {len(piece) < 20_000 for piece in pieces} == {True}
    assert 90_000 < len("".join(pieces)) <= 100_000
