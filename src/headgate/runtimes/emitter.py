"""What a generator yields to: it holds the handler up until the reader has taken enough."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from headgate.errors import PayloadError
from headgate.invocation import VALUE_COST, Invocation
from headgate.outcome import ENDED, Encoded
from headgate.wire.codec import DEFAULT, joined

__all__ = ["Emitter", "Gathering"]

TURN_VALUES = 64
"""Values that an asynchronous generator yields before other tasks have their turn."""

ENDING_SECONDS = 1.0
"""Seconds that a generator has to come to its end before its thread counts as one that hangs."""


class Emitter:
    """
    Takes the values of one generator to its reader, no faster than that reads.

    The generator's side is `put` or `give`, and `end`. The values stand in `Invocation.yielded`
    until whoever was told takes them. As a `Flow` it may be called from any thread.

    Theory of operation: whoever grants sets the grant and then wakes; the generator sets how it is
    woken and then looks at the grant. So it sees the grant, or is woken.

    Args:
        invocation: The invocation; its `flow` becomes this.
        tell: Called on the generator's thread when values begin to wait: `take_yielded` must
            follow, and before the run's end is told.
    """

    __slots__ = ("_ending_since", "_granted", "_invocation", "_spent", "_tell", "_values", "_wake")

    def __init__(self, invocation: Invocation, tell: Callable[[Invocation], None]) -> None:
        self._invocation = invocation
        self._tell = tell
        self._values: list[bytes] = []
        self._spent = 0
        self._granted = 0
        self._ending_since = 0.0
        self._wake: Callable[[], None] | None = None
        invocation.yielded = self._values
        invocation.flow = self
        # Not before: what is granted from now on comes to `grant`.
        self._granted = max(self._granted, invocation.granted)

    # --- the generator's side --------------------------------------------------------------------

    def put(self, data: bytes) -> bool:
        """
        Give an encoded value away, and wait until there may be another one.

        A handler that waits here gives its place in the runtime back meanwhile.

        Returns:
            False if nobody wants another one.
        """
        self._add(data)
        if self._spent >= self._granted:
            self._wait()
        return not self._invocation.cancelled

    async def give(self, data: bytes) -> bool:
        """Do as `put` does in a task; others have their turn now and then."""
        self._add(data)
        if self._spent >= self._granted:
            await self._wait_in_task()
        elif len(self._values) % TURN_VALUES == 0:
            await asyncio.sleep(0)
        return not self._invocation.cancelled

    def end(self) -> Encoded:
        """Return the outcome of a generator that came to its end."""
        return ENDED

    def _add(self, data: bytes) -> None:
        values = self._values
        values.append(data)
        self._spent += len(data) + VALUE_COST
        if len(values) == 1:
            self._tell(self._invocation)

    def _is_held_up(self) -> bool:
        return self._spent >= self._granted and not self._invocation.cancelled

    def _wait(self) -> None:
        event = threading.Event()
        self._wake = event.set
        slot = self._invocation.slot
        left = slot is not None and self._is_held_up() and slot.leave(None)
        try:
            while self._is_held_up():
                event.wait()
                event.clear()
        finally:
            self._wake = None
            if slot is not None and left:
                slot.enter()

    async def _wait_in_task(self) -> None:
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and its tasks are over
                loop.call_soon_threadsafe(event.set)

        self._wake = wake
        try:
            while self._is_held_up():
                await event.wait()
                event.clear()
        finally:
            self._wake = None

    # --- the reader's side -----------------------------------------------------------------------

    def grant(self, total: int) -> None:
        """Let the generator yield up to `total` bytes."""
        if total > self._granted:
            self._granted = total
            self._wake_up()

    def close(self) -> None:
        """Have the generator closed at its next value, or now if it is held up."""
        self._invocation.cancelled = True
        self._ending_since = monotonic()
        self._wake_up()

    @property
    def is_ending(self) -> bool:
        """Whether the generator was closed just now, so that its thread need not hang."""
        return monotonic() - self._ending_since < ENDING_SECONDS

    def _wake_up(self) -> None:
        wake = self._wake
        if wake is not None:
            wake()


class Gathering:
    """
    Makes one list of the values of a generator, for who does not take them one by one.

    Those of a message's handler are dropped.
    """

    __slots__ = ("_invocation", "_parts", "_size")

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._parts: list[bytes] = []
        self._size = 0

    def put(self, data: bytes) -> bool:
        """
        Add an encoded value.

        Returns:
            False if nobody wants another one.

        Raises:
            PayloadError: They have become too large for one result.
        """
        if self._invocation.wants_result:
            self._parts.append(data)
            self._size += len(data)
            if self._size > DEFAULT.max_bytes:
                raise PayloadError(
                    f"The values of {self._invocation.target} have more than "
                    f"{DEFAULT.max_bytes:,} bytes together, too many for one result. Read them "
                    "one by one, with request.stream()",
                    place="result",
                    started=True,
                )
        return not self._invocation.cancelled

    async def give(self, data: bytes) -> bool:
        """Do as `put` does in a task; others have their turn now and then."""
        if len(self._parts) % TURN_VALUES == 0:
            await asyncio.sleep(0)
        return self.put(data)

    def end(self) -> Encoded:
        """Return the outcome: a list of all values."""
        return Encoded(joined(self._parts))
