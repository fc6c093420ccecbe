"""
A client process: some drivers, a ledger, and a cutter of connections.

It is told what to do in lines on stdin (``load``, ``rest``, ``sample``, ``end``) and answers each
with one line of JSON on stdout. When stdin ends, it ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from soak import faults, sample
from soak.cutter import Cutter
from soak.driver import AsyncDriver, Driver, ThreadDriver
from soak.ledger import GRACE, Ledger
from soak.payloads import Payloads
from soak.plan import Plan, Setup

__all__ = ["ClientProcess", "main"]

EXPECTED = ("The connection to",)
"""Beginnings of log records that are no surprise here."""


class ClientProcess:
    """The drivers of this process and what belongs to them."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.ledger = Ledger(setup)
        port = int(setup.url.rpartition(":")[2])
        self.cutter = Cutter(port, rate=setup.cuts, seed=f"{setup.seed}/{setup.process}/cuts")
        payloads = Payloads(f"{setup.seed}/{setup.process}")
        form = ThreadDriver if setup.form == "with" else AsyncDriver
        self.drivers: list[Driver] = [
            form(setup, Plan(setup, number, payloads), self.ledger)
            for number in range(setup.clients)
        ]
        self._threads = [threading.Thread(target=target) for target in self._targets()]

    def start(self) -> None:
        """Start everything; nothing is sent before `load`."""
        self.ledger.start()
        self.cutter.start()
        for thread in self._threads:
            thread.start()

    def load(self) -> dict[str, Any]:
        """Let the drivers work and connections break."""
        for driver in self.drivers:
            driver.active.set()
        self.cutter.active.set()
        return {}

    def rest(self) -> dict[str, Any]:
        """Let everything come to rest; tell what does not."""
        self.cutter.active.clear()
        for driver in self.drivers:
            driver.active.clear()
        limit = self.setup.patience + 2 * GRACE
        end = time.monotonic() + limit
        while self._is_busy() and time.monotonic() < end:
            time.sleep(0.02)
        if self._is_busy():
            self.ledger.complain(f"after {limit:.0f} s of rest there is left: {self._left()}")
        return {"tables": self._tables()}

    def sample(self) -> dict[str, Any]:
        """Return the figures of this moment."""
        return {
            **sample.of_this_process(),
            "tables": self._tables(),
            "made": self.ledger.made,
            "cuts": self.cutter.cuts,
        }

    def end(self) -> dict[str, Any]:
        """Close the clients, book what is left and return the sums."""
        self.cutter.stop()
        for driver in self.drivers:
            driver.ended.set()
        for thread in self._threads:
            thread.join(GRACE)
            if thread.is_alive():
                self.ledger.complain(f"{thread.name} did not end")
        self.ledger.close()
        return {
            "made": self.ledger.made,
            "cuts": self.cutter.cuts,
            "problems": self.ledger.problems,
            "counts": [[*key, count] for key, count in self.ledger.counts.items()],
            "generations": list(self.ledger.generations),
            "reasons": self.ledger.reasons,
        }

    def _targets(self) -> list[Callable[[], None]]:
        if self.setup.form == "with":
            return [driver.run for driver in self.drivers if isinstance(driver, ThreadDriver)]
        return [lambda: asyncio.run(self._run_tasks())]

    async def _run_tasks(self) -> None:
        await asyncio.gather(*(d.run() for d in self.drivers if isinstance(d, AsyncDriver)))

    def _is_busy(self) -> bool:
        return bool(len(self.ledger)) or not all(driver.is_quiet for driver in self.drivers)

    def _left(self) -> dict[str, int]:
        unconnected = sum(d.client is None or not d.client.connected for d in self.drivers)
        return {"requests": len(self.ledger), "unconnected": unconnected, **self._tables()}

    def _tables(self) -> dict[str, int]:
        sizes: Counter[str] = Counter()
        for driver in self.drivers:
            if driver.client is not None:
                sizes.update(driver.client.stats())
        return {name: size for name, size in sizes.items() if size}


class _Surprises(logging.Handler):
    """Reports what is logged as an error: nothing in a soak should be."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.ERROR)
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        """Complain of a record."""
        text = record.getMessage()
        if not text.startswith(EXPECTED):
            kind = record.exc_info[0] if record.exc_info else None
            self._ledger.complain(f"{record.name} logged: {text} {kind or ''}")


def main() -> None:
    """Run a client process; its set-up is the argument."""
    setup = msgspec.json.decode(sys.argv[1], type=Setup)
    faults.plant(setup.plant)
    process = ClientProcess(setup)
    logging.getLogger().addHandler(_Surprises(process.ledger))
    threading.excepthook = lambda args: process.ledger.complain(f"a thread ended: {args}")
    sys.unraisablehook = lambda args: process.ledger.complain(f"unraisable: {args}")
    process.start()
    commands: dict[str, Callable[[], dict[str, Any]]] = {
        "load": process.load,
        "rest": process.rest,
        "sample": process.sample,
        "end": process.end,
    }
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), flush=True)
        if line.strip() == "end":
            break
    for driver in process.drivers:
        driver.ended.set()
    process.cutter.stop()


if __name__ == "__main__":
    main()
