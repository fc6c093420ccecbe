"""Where calls of a handler wait until those that run in its former way are over."""

from __future__ import annotations

from collections.abc import Sequence

from headgate.invocation import Invocation
from headgate.runtimes.gate import Gate, Lane
from headgate.runtimes.running import HandlerThread, Run

__all__ = ["Handover"]


class Handover:
    """
    The lane of a gate whose handler was run in another way before.

    A handler that runs strictly in order, or only so many times at once, keeps that promise when it
    gets another lane: nothing begins there before the runs in the former one are over.

    Args:
        lane: Where the handler runs after that.
        before: The gates that it had before.
    """

    has_backlog = False

    def __init__(self, lane: Lane, before: Sequence[Gate]) -> None:
        self.has_threads = lane.has_threads
        self.lane = lane
        """Where the handler runs after that."""
        self._before = before
        self._queue: dict[Invocation, Gate] = {}

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Queue an invocation."""
        self._queue[invocation] = gate

    def refill(self) -> None:
        """Nothing waits behind the queue."""

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation back: nothing begins here."""
        return self._queue.pop(invocation, None) is not None

    def interrupt(self, invocation: Invocation) -> bool:
        """Return False: nothing runs here."""
        return False

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return `running`: all that waits here waits for that."""
        return self.running

    @property
    def running(self) -> list[Invocation]:
        """What still runs in the former lanes."""
        lanes = {id(gate.lane): gate.lane for gate in self._before}
        found = [invocation for lane in lanes.values() for invocation in lane.running]
        return [invocation for invocation in found if invocation.place in self._before]

    @property
    def threads(self) -> list[HandlerThread]:
        """None: nothing runs here."""
        return []

    @property
    def runs(self) -> list[Run]:
        """None: nothing runs here."""
        return []

    @property
    def queued(self) -> list[Gate]:
        """The gates of what waits here, one for each invocation."""
        return list(self._queue.values())

    def lend(self) -> None:
        """Nothing to lend: nothing runs here."""

    def take_back(self) -> None:
        """Nothing to take back."""

    @property
    def waiting(self) -> int:
        """How many invocations wait here."""
        return len(self._queue)

    def release(self, gate: Gate) -> bool:
        """Give the gate its own lane, with all that waits here, if the former runs are over."""
        if any(former.under_way for former in self._before):
            return False
        gate.lane = self.lane
        for invocation in self._queue:
            self.lane.put(invocation, gate)
        self._queue = {}
        return True
