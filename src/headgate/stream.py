"""The values that a handler yields, read one by one as they come."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from headgate.invocation import FIRST_GRANT, VALUE_COST
from headgate.outcome import LARGE

if TYPE_CHECKING:
    from headgate.request import Request, Requester, Waiter

__all__ = ["MAX_GATHERED", "Stream", "Values"]

MAX_GATHERED = 64 * 1024 * 1024
"""Bytes of values that a handle gathers for a result at most."""


# One for all, and reentrant, for the reasons of the one in `headgate.request`.
_lock = threading.RLock()


class Values:
    """What a handler has yielded and nobody has read yet; it is part of the request's handle."""

    __slots__ = (
        "arrived",
        "due_at",
        "gathered",
        "is_given",
        "is_over",
        "is_read",
        "parts",
        "read",
        "readers",
        "waiters",
    )

    def __init__(self) -> None:
        self.parts: deque[bytes] = deque()
        """Encoded values, the next first."""
        self.arrived = 0
        """What all of them that came have counted."""
        self.gathered = 0
        """Their bytes."""
        self.read = 0
        """What those that were read have counted."""
        self.due_at = FIRST_GRANT // 2
        """What must have been read when more is to be granted."""
        self.is_read = False
        """Whether they are read one by one; else they become a list."""
        self.is_over = False
        """Whether the handler has come to its end, and has yielded all of them."""
        self.is_given = False
        """Whether the result of a handler that does not yield has been given as the only value."""
        self.readers = 0
        """How many streams read them."""
        self.waiters: list[Waiter] = []
        """Whom to wake when values come."""

    def add(self, parts: list[bytes]) -> None:
        """Take the next ones."""
        size = sum(map(len, parts))
        self.gathered += size
        self.arrived += size + VALUE_COST * len(parts)
        self.parts += parts

    def next_grant(self, read: int) -> int:
        """Return what is taken in all, now that so much has been read."""
        self.due_at = read + FIRST_GRANT // 2
        return read + FIRST_GRANT

    def as_list(self, requester: Requester) -> list[Any]:
        """Decode all of them."""
        return [requester.decode(part) for part in self.parts]

    def take_waiters(self) -> list[Waiter]:
        """Return whom to wake now."""
        if not self.waiters:
            return []
        waiters, self.waiters = self.waiters, []
        return waiters


class Stream:
    """
    The values that a handler yields, for ``for`` and ``async for``; `Request.stream` makes it.

    Any thread and any event loop may read it; of several readers each gets other values. To leave
    it early, by ``close``, at the end of a ``with``, or by leaving the loop that has the only
    reference to it, cancels the request.
    """

    def __init__(self, request: Request, values: Values, requester: Requester) -> None:
        self._request = request
        self._values = values
        self._requester = requester
        self._decode = requester.decode
        values.readers += 1

    def close(self) -> None:
        """Read no more: the request is cancelled, if it is not over, and its generator closed."""
        self._request.cancel()
        self._values.parts.clear()
        self._values.is_given = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        values = self._values
        while (part := self._take()) is None:
            # In this order: what comes before the end is there when the end is.
            if self._request.done and not values.parts:
                result = self._request.get()
                if not self._has_result():
                    raise StopIteration
                return result
            self._wait()
        return self._decode(part)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        values = self._values
        while (part := self._take()) is None:
            if self._request.done and not values.parts:
                result = await self._request
                if not self._has_result():
                    raise StopAsyncIteration
                return result
            future = self._requester.future()
            with self._request.woken_by(values, future) as is_open:
                if is_open:
                    await self._request.awaited(future)
        if len(part) >= LARGE:
            return await asyncio.to_thread(self._decode, part)
        return self._decode(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        values = self._values
        values.readers -= 1
        if values.readers or self._request.done:
            return
        loop = asyncio._get_running_loop()
        if loop is None:
            self._request.cancel()
        else:
            # Garbage is collected in the middle of anything, and so of what the client does here.
            loop.call_soon(self._request.cancel)

    def __repr__(self) -> str:
        return f"<Stream of {self._request!r}>"

    def _take(self) -> bytes | None:
        values = self._values
        with _lock:
            if not values.parts:
                return None
            part = values.parts.popleft()
            values.read += len(part) + VALUE_COST
            if values.read < values.due_at:
                return part
            total = values.next_grant(values.read)
        self._requester.grant(self._request, total)
        return part

    def _has_result(self) -> bool:
        """Whether the handler returned a value, in place of yielding some; only once."""
        values = self._values
        has_result = not values.is_over and not values.is_given
        values.is_given = True
        return has_result

    def _wait(self) -> None:
        event = threading.Event()
        with self._request.woken_by(self._values, event.set) as is_open:
            if is_open:
                self._request.wait_for_value(event)
