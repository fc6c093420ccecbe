"""
What becomes of a request that is stopped, in every runtime and at every moment.

For each line of the table one client asks one gateway, which has a handler of each runtime. What a
handler did stands in a journal: a file, so that it may run in another process.
"""

from __future__ import annotations

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
from headgate.runtimes.forkserver import why_unsupported

if TYPE_CHECKING:
    from conftest import Rig

LARGE = 16 * 1024 * 1024
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

BRIEF = {"queued": 0.2, "running": 0.3, "sending": 0.6}
"""
Seconds until the deadline that is to end a request, which must get so far before it.

Where the machine has other things to do and it does not, it is tried again with more of them.
"""


class TooLateError(Exception):
    """The deadline came before the moment at which it was to come."""


class Cell:
    """One request to the handler of one runtime, and what is needed to stop it at some moment."""

    def __init__(self, site: Site, runtime: str) -> None:
        self.site, self.runtime = site, runtime
        self.journal = site.folder / f"journal of {runtime}"
        self.journal.touch()
        self.first: headgate.Request | None = None
        if site.when == "queued":
            self.first = site.hub.scope("").request("ACME", runtime, self.payload("first"))
            self.until_noted("begun first")

    def ask(self) -> None:
        """Send the request."""
        size = LARGE if self.site.when == "sending" else 0
        payload = self.payload("it", size)
        limit = self.site.limit
        self.handle = self.site.client.request("ACME", self.runtime, payload, timeout=limit)

    def payload(self, name: str, size: int = 0) -> dict[str, Any]:
        return {
            "name": name,
            "journal": str(self.journal),
            "go": str(self.sign(name)),
            "size": size,
        }

    def sign(self, name: str) -> Path:
        """What a run waits for: that this file exists."""
        return self.site.folder / f"go {self.runtime} {name}"

    def go(self, *names: str) -> None:
        for name in names:
            self.sign(name).touch()

    @property
    def notes(self) -> list[str]:
        """What the handler did for the request."""
        return [note for note in self.journal.read_text().splitlines() if note.endswith(" it")]

    def until_noted(self, note: str) -> None:
        self.site.rig.until(lambda: note in self.journal.read_text())

    def until_running(self) -> None:
        """Until it runs and the client has the gateway's word for it."""
        self.site.until(lambda: "begun it" in self.notes)
        self.site.until(lambda: self.handle.started)

    def cancel_by_id(self) -> None:
        """Cancel it as ``headgate cancel`` does; there is nothing to cancel of what has ended."""
        payload = {"id": self.handle.request_id}
        asked = self.site.hub.scope("").request("@gateway", "cancel", payload)
        assert asked.block() is (self.site.when != "sending")

    def check(self) -> None:
        """See what came of it."""
        expected = self.site.expected
        if expected.error is None:
            self.go("first", "it")
        self.site.rig.until(lambda: self.handle.done)
        assert type(self.handle.error()) is (expected.error or type(None))
        assert self.handle.started is expected.started
        self.check_fate(self.stopped() if expected.fate == STOPS else expected.fate)
        if expected.error is not None and self.site.when == "running":
            self.check_stopped()
        elif expected.error is not None and self.site.when == "queued":
            self.go("first")
            self.let_others_run()
            assert self.notes == []
        elif (self.site.how, self.site.when) == ("handler changed", "queued"):
            assert self.notes == ["begun as changed it"]
            assert self.handle.result() == b"changed"
        else:
            assert self.notes == ["begun it", "ended it"]

    def check_fate(self, fate: str) -> None:
        """It may have been "still running" before, and is final as long as nothing is let go."""
        end = time.monotonic() + 20
        while self.handle.fate != fate and time.monotonic() < end:
            time.sleep(0.002)
        assert self.handle.fate == fate

    def stopped(self) -> str:
        return "still running" if self.runtime == "thread" else "stopped"

    def check_stopped(self) -> None:
        """Nothing is left running, where that can be; a thread runs until its handler returns."""
        stopped = ["begun it", "stopped it"] if self.runtime == "async" else ["begun it"]
        self.site.rig.until(lambda: self.notes == stopped)
        if self.runtime == "thread":
            self.go("it")
            self.until_noted("ended it")
            if self.site.how in ("cancel", "deadline", "headgate cancel"):
                assert self.handle.wait_fate(20) == "finished"
            return
        self.site.rig.until(lambda: self.runtime not in self.site.running)
        self.go("it")
        self.let_others_run()
        assert self.notes == stopped

    def let_others_run(self) -> None:
        """Let one more run of the handler begin and end, if it is still there."""
        if self.first is not None:
            self.first.block()
        if self.site.how not in ("gateway stop", "handler removed"):
            self.go("last")
            payload = self.payload("last")
            self.site.hub.scope("").request("ACME", self.runtime, payload).get()


class Site:
    """A gateway with a handler of each runtime, and a client that asks each of them once."""

    def __init__(self, rig: Rig, how: str, when: str, attempt: int = 0) -> None:
        self.rig, self.how, self.when = rig, how, when
        self.limit = BRIEF[when] * 4**attempt if how == "deadline" else 60.0
        self.expected = TABLE[how, when]
        name = f"hub{attempt}"
        self.folder = rig.folder / name
        runtimes = [name for name in RUNTIMES if name != "process" or not why_unsupported()]
        settings = [f"[handlers.{name}]\n{RUNTIMES[name][1]}\n" for name in runtimes]
        self.hub = rig.gateway(
            {
                **{f"ACME/{name}": RUNTIMES[name][0] for name in runtimes},
                "ACME/library/journal/__init__.py": JOURNAL,
                "ACME/project.toml": "\n".join(["[defaults]\nconcurrency = 1\n", *settings]),
            },
            name,
        )
        self.client = rig.client(self.hub)
        self.cells = [Cell(self, runtime) for runtime in runtimes]
        self.due = time.monotonic() + self.limit
        for cell in self.cells:
            cell.ask()

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds, which must be before the deadline."""
        self.rig.until(lambda: condition() or time.monotonic() > self.due)
        if not condition():
            raise TooLateError

    def get_there(self) -> None:
        """Wait until the requests are where they are to be stopped."""
        if self.when == "queued":
            self.until(lambda: self.hub.stats()["handlers_queued"] == len(self.cells))
            return
        for cell in self.cells:
            cell.until_running()
        if self.when == "sending":
            self.reads("pause_reading")
            for cell in self.cells:
                cell.go("it")
            # Nothing moves any more, so what is left to send does not become less.
            sending = len(self.cells)
            self.until(lambda: self.hub.stats().get("session_departing") == sending)

    def reads(self, change: str) -> None:
        """Let the client read no more, or again."""
        channel, loop = self.client._channel, self.client._loop
        assert channel is not None
        assert loop is not None
        done = threading.Event()
        transport: Any = channel.transport
        loop.call_soon_threadsafe(lambda: (getattr(transport, change)(), done.set()))
        assert done.wait(20)

    def stop(self) -> None:
        """Stop them all."""
        ways: dict[str, Callable[[], object]] = {
            "cancel": lambda: [cell.handle.cancel() for cell in self.cells],
            "deadline": lambda: [cell.handle.block() for cell in self.cells],
            "client gone": self.client.close,
            "gateway stop": lambda: self.hub.stop(0.0),
            "handler removed": self.remove,
            "handler changed": self.change,
            "headgate cancel": lambda: [cell.cancel_by_id() for cell in self.cells],
        }
        ways[self.how]()
        if self.when == "sending" and self.how != "client gone":
            self.reads("resume_reading")

    def remove(self) -> None:
        for cell in self.cells:
            (self.folder / f"projects/ACME/messages/{cell.runtime}.py").unlink()
        (self.folder / "projects/ACME/project.toml").unlink()
        self.hub.reload()

    def change(self) -> None:
        task = CHANGED.replace("def", "async def")
        scripts = {f"ACME/{cell.runtime}": CHANGED for cell in self.cells}
        self.rig.projects({**scripts, "ACME/async": task}, self.hub.name)
        assert not self.hub.reload().problems

    @property
    def running(self) -> list[str]:
        """The handlers that run, abandoned or not."""
        return [run["handler"] for run in self.hub.running()["running"]]

    def end(self) -> None:
        for cell in self.cells:
            cell.go("first", "it", "last")


def there(rig: Rig, how: str, when: str) -> Site:
    """Return a site whose requests are where they are to be stopped."""
    for attempt in range(3):
        site = Site(rig, how, when, attempt)
        try:
            site.get_there()
            return site
        except TooLateError:
            site.end()
            site.client.close()
        except BaseException:
            site.end()
            raise
    raise AssertionError("It did not come to pass before any deadline")


@pytest.mark.parametrize(("how", "when"), TABLE)
def test_fate(rig: Rig, how: str, when: str) -> None:
    """One final state each, the right `started` and fate, and nothing left running."""
    site = there(rig, how, when)
    try:
        site.stop()
        for cell in site.cells:
            cell.check()
    finally:
        site.end()


def test_only_a_lost_connection_leaves_anything_unknown() -> None:
    """In all other cells of the table it is known whether it began, and what became of it."""
    unknown = {cell for cell, end in TABLE.items() if None in end[1:] or "unknown" in end}
    assert unknown == NOBODY_KNOWS | AHEAD_OF_THE_WORD
    assert all(TABLE[cell].fate != "unknown" for cell in AHEAD_OF_THE_WORD)


NESTED = {
    "thread": """
    import time
    from journal import note

    def handleMessage(payload, context):
        deeper = payload["deeper"]
        note(payload, f"begun {deeper}")
        if deeper:
            system.util.sendRequest("ACME", "test", {**payload, "deeper": deeper - 1})
        while not context.cancelled:
            time.sleep(0.001)
        note(payload, f"stopped {deeper}")
    """,
    "async": """
    import asyncio
    from journal import note

    async def handleMessage(payload):
        deeper = payload["deeper"]
        note(payload, f"begun {deeper}")
        try:
            if deeper:
                nested = {**payload, "deeper": deeper - 1}
                await system.util.sendRequestAsync("ACME", "test", nested)
            await asyncio.Event().wait()
        finally:
            note(payload, f"stopped {deeper}")
    """,
    "process": """
    import time
    from journal import note

    def handleMessage(payload):
        deeper = payload["deeper"]
        note(payload, f"begun {deeper}")
        if deeper:
            system.util.sendRequest("ACME", "test", {**payload, "deeper": deeper - 1})
        while True:
            time.sleep(0.001)
    """,
}

LEVELS = 3


@pytest.mark.parametrize("runtime", ["async", "process"])
def test_a_chain_that_is_cancelled_at_the_top_stops_in_all_its_levels(
    rig: Rig, runtime: str
) -> None:
    """Three handlers that wait for each other are all stopped, within 100 ms."""
    if runtime == "process" and why_unsupported():
        pytest.skip(why_unsupported())
    journal = rig.folder / "journal"
    hub = rig.gateway(
        {
            "ACME/test": NESTED[runtime],
            "ACME/library/journal/__init__.py": JOURNAL,
            "ACME/project.toml": f"[pool]\nworkers = {LEVELS + 1}\n[defaults]\n"
            f"{RUNTIMES[runtime][1]}\n",
        }
    )
    client = rig.client(hub)
    payload = {"deeper": LEVELS - 1, "journal": str(journal), "name": "it"}
    times = []
    for _ in range(5):
        journal.write_text("")
        handle = client.request("ACME", "test", payload)
        rig.until(lambda: journal.read_text().count("begun") == LEVELS)
        begin = time.monotonic()
        handle.cancel()
        while hub.running()["running"]:
            assert time.monotonic() < begin + 20
            time.sleep(0.001)
        times.append(time.monotonic() - begin)
        assert handle.wait_fate(20) == "stopped"
        if runtime == "async":
            assert journal.read_text().count("stopped") == LEVELS
    # The best one: in the others this machine may have had something else to do.
    assert min(times) < 0.1


def test_threads_of_a_chain_see_that_they_are_cancelled(rig: Rig) -> None:
    """A thread cannot be stopped, but is told; all three levels return."""
    journal = rig.folder / "journal"
    scripts = {"ACME/test": NESTED["thread"], "ACME/library/journal/__init__.py": JOURNAL}
    hub = rig.gateway(scripts)
    payload = {"deeper": LEVELS - 1, "journal": str(journal), "name": "it"}
    handle = rig.client(hub).request("ACME", "test", payload)
    rig.until(lambda: journal.exists() and journal.read_text().count("begun") == LEVELS)
    handle.cancel()
    assert handle.wait_fate(20) == "finished"
    rig.until(lambda: "stopped 0 it" in journal.read_text())
    assert [*journal.read_text().splitlines()[:LEVELS]] == [f"begun {n} it" for n in (2, 1, 0)]
