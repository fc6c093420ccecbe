"""The gate of a handler whose calls are kept in order: all of them, or by a key of the payload."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial

from headgate.errors import RequestError
from headgate.invocation import Invocation
from headgate.outcome import Failure
from headgate.runtimes.execute import Runnable
from headgate.runtimes.gate import Finished, Gate, Lane
from headgate.threads import Mailbox
from headgate.wire.keys import LATER, KeyReader, Later

__all__ = ["ALL", "OrderedGate"]

ALL = ""
"""In place of a key: all calls of the handler are kept in one order."""


class Lines:
    """Invocations in a line for each key; who is the first of a line holds the key."""

    def __init__(self) -> None:
        self._keys: dict[Invocation, Hashable] = {}
        self._first: dict[Hashable, Invocation] = {}
        self._behind: dict[Hashable, OrderedDict[Invocation, None]] = {}

    @property
    def waiting(self) -> int:
        """How many wait behind the first ones."""
        return len(self._keys) - len(self._first)

    def put(self, invocation: Invocation, key: Hashable) -> bool:
        """Put an invocation at the end of its key's line; True if it is the first one there."""
        self._keys[invocation] = key
        if self._first.setdefault(key, invocation) is invocation:
            return True
        self._behind.setdefault(key, OrderedDict())[invocation] = None
        return False

    def remove(self, invocation: Invocation) -> Invocation | None:
        """Take an invocation out; return who is now the first in its place, if it was that."""
        if invocation not in self._keys:
            return None
        key = self._keys.pop(invocation)
        behind = self._behind.get(key)
        following = None
        if self._first[key] is not invocation:
            assert behind is not None
            del behind[invocation]
        elif behind:
            following, _ = behind.popitem(last=False)
            self._first[key] = following
        else:
            del self._first[key]
        if behind is not None and not behind:
            del self._behind[key]
        return following

    def first(self, invocation: Invocation) -> Invocation | None:
        """Return who holds the key of an invocation; None if that is in no line. On any thread."""
        try:
            return self._first[self._keys[invocation]]
        except KeyError:
            return None


class OrderedGate(Gate):
    """
    A gate that lets one invocation of each key run at a time, in the order of their arrival.

    Only who is the first of its key's line is let to what an ordinary gate has: the handler's own
    limit, then the lane. It keeps its key until its run is over, so one that is given up and cannot
    be stopped keeps those behind it waiting.

    A key that may take long to read is read beside the event loop; what arrives meanwhile stands
    behind it until it is known.

    Args:
        key: The key of the payload, or `ALL`.
        ends: Brings the ends of those whose key cannot be read to the gateway's event loop.
        on_wait: Told, on the event loop, who now waits for its key.
    """

    __slots__ = ("_arriving", "_ends", "_lines", "_on_wait", "_reader")

    def __init__(
        self,
        handler: Runnable,
        lane: Lane,
        *,
        concurrency: int | None,
        places: int,
        hung: set[Invocation],
        key: str,
        ends: Mailbox[Finished],
        on_wait: Callable[[Invocation], None],
    ) -> None:
        super().__init__(handler, lane, concurrency=concurrency, places=places, hung=hung)
        self._reader = KeyReader(key) if key != ALL else None
        self._ends = ends
        self._on_wait = on_wait
        self._arriving: dict[Invocation, Hashable | Later] = {}
        """What waits until the keys of those before it are known, with its own if that is known."""
        self._lines = Lines()

    def __call__(self, invocation: Invocation) -> None:
        """
        Run the handler when its turn comes.

        Raises:
            Overloaded: Too many wait.
            PayloadError: The payload has no such key.
        """
        if self.under_way >= self._limit or self._hung:
            self._refuse_if_full(invocation)
        self._arrive(invocation)

    def adopt(self, invocation: Invocation) -> None:
        """
        Run what another gate had taken and has given up, however many wait already.

        Raises:
            PayloadError: The payload has no such key.
        """
        self._arrive(invocation)

    def finished(self, invocation: Invocation) -> None:
        """Take note that a run is over, and let the next ones in."""
        super().finished(invocation)
        self._leave(invocation)

    def take(self, invocation: Invocation) -> bool:
        """Take an invocation back; False if it has begun."""
        if invocation in self._arriving:
            del self._arriving[invocation]
            self.under_way -= 1
            self._line_up()
            return True
        if self._lines.first(invocation) not in (None, invocation):
            self._lines.remove(invocation)
            self.under_way -= 1
            return True
        if super().take(invocation):
            self._leave(invocation)
            return True
        return False

    def close(self) -> None:
        """Let nothing begin any more that has not gone to the lane."""
        self._concurrency = 0

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return who holds what an invocation waits for: its key, or the places."""
        first = self._lines.first(invocation)
        if first is None or first is invocation:
            return super().holders(invocation)
        return [first]

    @property
    def waiting(self) -> int:
        """How many invocations wait for their keys, or for the handler's own concurrency."""
        return super().waiting + self._lines.waiting + len(self._arriving)

    def _arrive(self, invocation: Invocation) -> None:
        key = None if self._reader is None else self._reader.read(invocation.payload)
        self.under_way += 1
        invocation.place = self
        if key is LATER:
            self._read_later(invocation)
        if key is LATER or self._arriving:
            self._arriving[invocation] = key
        else:
            self._stand(invocation, key)

    def _read_later(self, invocation: Invocation) -> None:
        assert self._reader is not None
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(None, self._reader.read_all, invocation.payload)
        reading.add_done_callback(partial(self._learn, invocation))

    def _learn(self, invocation: Invocation, reading: asyncio.Future[Hashable]) -> None:
        """Take the key of one that has arrived, or the error that there is instead of it."""
        error = None if reading.cancelled() else reading.exception()
        if invocation not in self._arriving or reading.cancelled():
            return
        if error is None:
            self._arriving[invocation] = reading.result()
        else:
            del self._arriving[invocation]
            refusal = error if isinstance(error, RequestError) else RequestError(repr(error))
            self._ends.put((invocation, self, Failure(refusal)))
            # In this turn: nobody may find it waiting nowhere.
            self._ends.drain()
        self._line_up()

    def _line_up(self) -> None:
        """Let those stand in their lines before whom all keys are known."""
        arriving = self._arriving
        while arriving:
            invocation = next(iter(arriving))
            key = arriving[invocation]
            if isinstance(key, Later):
                return
            del arriving[invocation]
            self._stand(invocation, key)
            if invocation.ancestors:
                # When it arrived nobody could tell whom it would wait for.
                self._on_wait(invocation)

    def _stand(self, invocation: Invocation, key: Hashable) -> None:
        if self._lines.put(invocation, key):
            self._let_in(invocation)

    def _leave(self, invocation: Invocation) -> None:
        """Let the next one have the key of one that is gone."""
        following = self._lines.remove(invocation)
        if following is not None:
            self._let_in(following)
