"""
What becomes of a request that is stopped, in every runtime and at every moment.

Each cell of the table is one gateway with one handler, asked by one client over a connection. What
the handler did stands in a journal: a file, so that it may run in another process.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import headgate
from headgate.errors import (
    CancellationException,
    ConnectionLost,
    HandlerNotFound,
    RequestError,
    RequestTimeout,
)

if TYPE_CHECKING:
    from conftest import Rig

HAS_WORKERS = all(
    importlib.util.find_spec(name) for name in ("headgate.worker", "headgate.runtimes.process")
)
"""Whether there is a runtime of processes, so that its rows count."""

HAS_CANCEL = importlib.util.find_spec("headgate.cli.cancel") is not None
"""Whether there is ``headgate cancel``."""

LARGE = 24 * 1024 * 1024
"""Bytes of a result that fills every buffer between a gateway and a client that does not read."""

JOURNAL = """
    import os, time

    def note(payload, what):
        with open(payload["journal"], "a") as journal:
            journal.write(f"{what} {payload['name']}\\n")
    """

PLAIN = """
    import os, time
    from journal import note

    def handleMessage(payload):
        note(payload, "begun")
        while not os.path.exists(payload["go"]):
            time.sleep(0.001)
        note(payload, "ended")
        return bytes(payload["size"])
    """

TASK = """
    import asyncio, os
    from journal import note

    async def handleMessage(payload):
        note(payload, "begun")
        try:
            while not os.path.exists(payload["go"]):
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            note(payload, "stopped")
            raise
        note(payload, "ended")
        return bytes(payload["size"])
    """

CHANGED = """
    from journal import note

    def handleMessage(payload):
        note(payload, "begun as changed")
        return b"changed"
    """

RUNTIMES = {
    "thread": (PLAIN, 'runtime = "thread"'),
    "async": (TASK, 'runtime = "thread"'),
    "process": (PLAIN, 'runtime = "process"'),
}
"""The script of the handler and the setting, by runtime."""

STOPS = "stopped, if its runtime can"
"""A thread cannot be stopped: it is still running, and has finished when it returns."""


class End(NamedTuple):
    """How a request ends."""

    error: type[RequestError] | None
    """None for a result."""
    started: bool | None
    fate: str


TABLE = {
    ("cancel", "queued"): End(CancellationException, None, "not started"),
    ("cancel", "running"): End(CancellationException, True, STOPS),
    ("cancel", "sending"): End(CancellationException, True, "finished"),
    ("deadline", "queued"): End(RequestTimeout, False, "not started"),
    ("deadline", "running"): End(RequestTimeout, True, STOPS),
    ("deadline", "sending"): End(RequestTimeout, True, "finished"),
    ("client gone", "queued"): End(ConnectionLost, None, "unknown"),
    ("client gone", "running"): End(ConnectionLost, True, "unknown"),
    ("client gone", "sending"): End(ConnectionLost, True, "unknown"),
    ("gateway stop", "queued"): End(ConnectionLost, False, "not started"),
    ("gateway stop", "running"): End(ConnectionLost, True, STOPS),
    ("gateway stop", "sending"): End(ConnectionLost, True, "unknown"),
    ("handler removed", "queued"): End(HandlerNotFound, False, "not started"),
    ("handler removed", "running"): End(None, True, "finished"),
    ("handler removed", "sending"): End(None, True, "finished"),
    ("handler changed", "queued"): End(None, True, "finished"),
    ("handler changed", "running"): End(None, True, "finished"),
    ("handler changed", "sending"): End(None, True, "finished"),
    ("headgate cancel", "queued"): End(CancellationException, False, "not started"),
    ("headgate cancel", "running"): End(CancellationException, True, STOPS),
    ("headgate cancel", "sending"): End(None, True, "finished"),
}

NOBODY_KNOWS = {
    ("client gone", "queued"),
    ("client gone", "running"),
    ("client gone", "sending"),
    ("gateway stop", "sending"),
}
"""Where ``started`` may be None or the fate unknown: the connection was lost after sending."""

AHEAD_OF_THE_WORD = {("cancel", "queued")}
"""Where ``started`` is None, as `cancel` ends a request before it can ask; the fate says it."""

BRIEF = {"queued": 0.3, "running": 1.0, "sending": 1.5}
"""Seconds until the deadline that is to end a request, which must get so far before it."""


class Cell:
    """One request, and what is needed to stop it at some moment."""

    def __init__(self, rig: Rig, runtime: str, how: str, when: str) -> None:
        self.rig, self.runtime, self.how, self.when = rig, runtime, how, when
        self.journal = rig.folder / "journal"
        self.journal.touch()
        script, setting = RUNTIMES[runtime]
        self.hub = rig.gateway(
            {
                "ACME/test": script,
                "ACME/library/journal/__init__.py": JOURNAL,
                "ACME/project.toml": f"[defaults]\nconcurrency = 1\n{setting}\n",
            }
        )
        self.client = rig.client(self.hub)
        self.first: headgate.Request | None = None
        if when == "queued":
            self.first = self.hub.scope("").request("ACME", "test", self.payload("first"))
            self.until_noted("begun first")
        size = LARGE if when == "sending" else 0
        limit = BRIEF[when] if how == "deadline" else 60.0
        self.handle = self.client.request("ACME", "test", self.payload("it", size), timeout=limit)

    def payload(self, name: str, size: int = 0) -> dict[str, Any]:
        go = self.rig.folder / f"go {name}"
        return {"name": name, "journal": str(self.journal), "go": str(go), "size": size}

    def go(self, name: str) -> None:
        (self.rig.folder / f"go {name}").touch()

    @property
    def notes(self) -> list[str]:
        return self.journal.read_text().splitlines()

    def until_noted(self, note: str) -> None:
        self.rig.until(lambda: note in self.notes)

    # --- when ------------------------------------------------------------------------------------

    def queued(self) -> None:
        self.rig.until(lambda: self.hub.stats()["handlers_queued"] == 1)

    def running(self) -> None:
        self.until_noted("begun it")
        # The client has the gateway's word for it.
        self.rig.until(lambda: self.handle.started)

    def sending(self) -> None:
        self.running()
        self.reads("pause_reading")
        self.go("it")
        # Nothing moves any more, so what is left to send does not become less.
        self.rig.until(lambda: self.hub.stats().get("session_departing"))

    def reads(self, change: str) -> None:
        """Let the client read no more, or again."""
        channel, loop = self.client._channel, self.client._loop
        assert channel is not None
        assert loop is not None
        done = threading.Event()
        transport: Any = channel.transport
        loop.call_soon_threadsafe(lambda: (getattr(transport, change)(), done.set()))
        assert done.wait(20)

    # --- how -------------------------------------------------------------------------------------

    def stop(self) -> None:
        stops: dict[str, Callable[[], object]] = {
            "cancel": self.handle.cancel,
            "deadline": self.handle.block,
            "client gone": self.client.close,
            "gateway stop": lambda: self.hub.stop(0.0),
            "handler removed": self.remove,
            "handler changed": self.change,
            "headgate cancel": self.cancel,
        }
        stops[self.how]()

    @property
    def script(self) -> Path:
        return self.rig.folder / "hub/projects/ACME/messages/test.py"

    def remove(self) -> None:
        self.script.unlink()
        self.hub.reload()

    def change(self) -> None:
        self.rig.projects({"ACME/test": CHANGED.replace("def", self.definition)})
        assert not self.hub.reload().problems

    @property
    def definition(self) -> str:
        return "async def" if self.runtime == "async" else "def"

    def cancel(self) -> None:
        """Cancel it as ``headgate cancel`` does; there is nothing to cancel of what has ended."""
        asked = self.hub.scope("").request("@gateway", "cancel", {"id": self.handle.request_id})
        assert asked.block() is (self.when != "sending")

    # --- what came of it -------------------------------------------------------------------------

    def check(self) -> None:
        expected = TABLE[self.how, self.when]
        if self.when == "sending" and self.how != "client gone":
            self.reads("resume_reading")
        if expected.error is None:
            self.go("first")
            self.go("it")
        self.rig.until(lambda: self.handle.done)
        error = self.handle.error()
        assert type(error) is (expected.error or type(None))
        assert self.handle.started is expected.started
        assert self.fate() == (self.stopped() if expected.fate == STOPS else expected.fate)
        self.check_rest()

    def fate(self) -> str:
        """The fate, when it does not change any more for as long as the handler is not let go."""
        expected = TABLE[self.how, self.when].fate
        wanted = self.stopped() if expected == STOPS else expected
        end = time.monotonic() + 20
        while self.handle.fate != wanted and time.monotonic() < end:
            time.sleep(0.002)
        return self.handle.fate

    def stopped(self) -> str:
        return "still running" if self.runtime == "thread" else "stopped"

    def check_rest(self) -> None:
        """Nothing is left running that its runtime can stop, and nothing began that was not to."""
        ended = [note for note in self.notes if note.endswith(" it")]
        if TABLE[self.how, self.when].error is not None and self.when == "running":
            self.until_stopped()
        elif self.when == "queued" and TABLE[self.how, self.when].error is not None:
            self.go("first")
            self.finish()
            assert not [note for note in self.notes if note.endswith(" it")]
        elif self.how == "handler changed" and self.when == "queued":
            assert ended == ["begun as changed it"]
            assert self.handle.result() == b"changed"
        else:
            assert ended == ["begun it", "ended it"]

    def until_stopped(self) -> None:
        """Until nothing runs, where that can be; a thread runs until its handler returns."""
        left = {"thread": ["begun it"], "async": ["begun it", "stopped it"]}
        wanted = left.get(self.runtime, ["begun it"])
        self.rig.until(lambda: self.notes == wanted)
        if self.runtime != "thread" and self.how != "gateway stop":
            self.rig.until(lambda: not self.hub.running()["running"])
        self.go("it")
        if self.runtime == "thread":
            self.until_noted("ended it")
            if self.how in ("cancel", "deadline", "headgate cancel"):
                assert self.handle.wait_fate(20) == "finished"
        else:
            self.finish()
            assert [note for note in self.notes if note.endswith(" it")] == wanted

    def finish(self) -> None:
        """Let one more run of the handler begin and end, if there is a gateway for that."""
        if self.first is not None:
            self.first.block()
        if self.how not in ("gateway stop", "handler removed"):
            self.go("last")
            self.hub.scope("").request("ACME", "test", self.payload("last")).get()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("how", "when"), TABLE)
def test_fate(rig: Rig, runtime: str, how: str, when: str) -> None:
    """One final state each, the right `started` and fate, and nothing left running."""
    if runtime == "process" and not HAS_WORKERS:
        pytest.skip("there are no worker processes yet")
    if how == "headgate cancel" and not HAS_CANCEL:
        pytest.skip("there is no `headgate cancel` yet")
    cell = Cell(rig, runtime, how, when)
    try:
        getattr(cell, when)()
        cell.stop()
        cell.check()
    finally:
        for name in ("first", "it", "last"):
            cell.go(name)


def test_only_a_lost_connection_leaves_anything_unknown() -> None:
    """In all other cells of the table it is known whether it began, and what became of it."""
    unknown = {cell for cell, end in TABLE.items() if None in end[1:] or "unknown" in end}
    assert unknown == NOBODY_KNOWS | AHEAD_OF_THE_WORD
    assert all(TABLE[cell].fate != "unknown" for cell in AHEAD_OF_THE_WORD)
