"""Drivers: each keeps one client at work, in a thread or in a task."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import headgate
from headgate.errors import HeadgateError, RequestError
from soak.ledger import Entry, Ledger
from soak.plan import Order, Plan, Setup

__all__ = ["AsyncDriver", "Driver", "ThreadDriver"]

LOOK = 0.02
"""Seconds between two looks while a driver is paused."""


class Driver:
    """
    What both forms have in common.

    Args:
        setup: Of its process.
        plan: What it asks.
        ledger: Where it is accounted.
    """

    def __init__(self, setup: Setup, plan: Plan, ledger: Ledger) -> None:
        self.client: headgate.Client | None = None
        """The client, while there is one."""
        self.active = threading.Event()
        """Set while it may send."""
        self.ended = threading.Event()
        """Set when it is to end."""
        self.resting = False
        """Whether it has seen that it may not send, and waits."""
        self._setup = setup
        self._plan = plan
        self._ledger = ledger
        self._until = 0.0

    @property
    def is_quiet(self) -> bool:
        """Whether it waits, connected, with every table of its client empty."""
        client = self.client
        return (
            self.resting
            and client is not None
            and client.connected
            and not any(client.stats().values())
        )

    def _connect(self) -> headgate.Client:
        return headgate.connect(self._setup.url, connect_wait=self._plan.connect_wait())

    def _is_old(self) -> bool:
        return time.monotonic() > self._until

    def _begin_life(self, client: headgate.Client) -> None:
        self._until = time.monotonic() + self._plan.life()
        self.client = client

    def _send(self, client: headgate.Client, order: Order) -> Entry:
        entry = self._ledger.open_entry(order)
        project, _, handler = order.kind.target.partition("/")
        if "message" in order.kind.options:
            handle = client.message(project, handler, order.payload)
            handle.onSuccess(entry.succeeded)
            handle.onError(entry.failed)
            entry.expects = True
        else:
            first = order.callbacks == "first"
            handle = client.request(
                project,
                handler,
                order.payload,
                timeout=order.timeout,
                on_success=entry.succeeded if first else None,
                on_error=entry.failed if first else None,
                on_progress=entry.reported if "steps" in order.kind.options else None,
            )
        self._ledger.take(entry, handle)
        return entry

    def _burst(self, client: headgate.Client) -> list[Entry]:
        return [self._send(client, order) for order in self._plan.burst()]

    @staticmethod
    def _sets_later(entry: Entry) -> bool:
        return entry.order.callbacks == "later" and "message" not in entry.order.kind.options


class ThreadDriver(Driver):
    """A client under ``with``, driven by a thread of its own."""

    def run(self) -> None:
        """Drive until it is to end."""
        while not self.ended.is_set():
            with contextlib.suppress(HeadgateError), self._connect() as client:
                self._begin_life(client)
                while not self.ended.is_set() and (self.resting or not self._is_old()):
                    self._step(client)
            self.client = None
            self.ended.wait(LOOK)

    def _step(self, client: headgate.Client) -> None:
        self.resting = not self.active.is_set()
        if self.resting:
            self.ended.wait(LOOK)
            return
        entries = self._burst(client)
        for entry in entries:
            self._follow(entry)
        self.ended.wait(self._plan.pause(len(entries)))

    def _follow(self, entry: Entry) -> None:
        handle = entry.handle
        assert handle is not None
        if entry.order.wait and not entry.order.kind.slow:
            if self._plan.dice.random() < 0.5:
                if handle.block() is not (handle.error() is None):
                    entry.complain("block() says something else than error()")
            else:
                with contextlib.suppress(RequestError):
                    handle.get()
        if self._sets_later(entry):
            entry.set_callbacks()


class AsyncDriver(Driver):
    """A client under ``async with``, driven by a task."""

    async def run(self) -> None:
        """Drive until it is to end."""
        while not self.ended.is_set():
            with contextlib.suppress(HeadgateError):
                async with self._connect() as client:
                    self._begin_life(client)
                    while not self.ended.is_set() and (self.resting or not self._is_old()):
                        await self._step(client)
            self.client = None
            await asyncio.sleep(LOOK)

    async def _step(self, client: headgate.Client) -> None:
        self.resting = not self.active.is_set()
        if self.resting:
            await asyncio.sleep(LOOK)
            return
        entries = self._burst(client)
        for entry in entries:
            await self._follow(entry)
        await asyncio.sleep(self._plan.pause(len(entries)))

    async def _follow(self, entry: Entry) -> None:
        handle = entry.handle
        assert handle is not None
        if entry.order.wait and not entry.order.kind.slow:
            if self._plan.dice.random() < 0.5:
                with contextlib.suppress(RequestError):
                    await handle
            else:
                await self._give_up_waiting(entry, handle)
        if self._sets_later(entry):
            entry.set_callbacks()

    async def _give_up_waiting(self, entry: Entry, handle: Any) -> None:
        """Await it for a short time: the end of the waiting task cancels the request."""
        entry.cancelled = True
        try:
            async with asyncio.timeout(self._plan.dice.uniform(0.0, 0.2)):
                await handle
        except TimeoutError:
            # Its own or the request's: in both cases the request is over now.
            if not handle.done:
                entry.complain("the task that awaited it was cancelled, and it goes on")
        except RequestError:
            pass
