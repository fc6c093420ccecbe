"""Which worker process gets which run, and how runs are taken back."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from headgate.invocation import Invocation
from headgate.outcome import Outcome
from headgate.runtimes.fair import FairQueue
from headgate.runtimes.gate import Finished, Gate
from headgate.runtimes.roster import Roster
from headgate.runtimes.workers import Given, Worker
from headgate.threads import Mailbox

__all__ = ["STAGED_SECONDS", "Staging"]

STAGED = 64
"""Runs that a worker is given at once, at most, while handlers are quick."""

STAGED_SECONDS = 0.005
"""Seconds of work that a worker is given at once, and for which a run may keep others behind it."""

WEIGHT = 0.3
"""What the latest runs weigh in how long a run of a handler takes."""


class _Line:
    """The queue of a Dedicated handler: all in the order of their arrival."""

    def __init__(self) -> None:
        self._queue: OrderedDict[Invocation, Gate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, invocation: Invocation, gate: Gate) -> None:
        self._queue[invocation] = gate

    def put_back(self, invocation: Invocation, gate: Gate) -> None:
        self._queue[invocation] = gate
        self._queue.move_to_end(invocation, last=False)

    def pop(self) -> tuple[Invocation, Gate]:
        return self._queue.popitem(last=False)

    def remove(self, invocation: Invocation) -> bool:
        return self._queue.pop(invocation, None) is not None


class Staging:
    """
    The runs that wait for a worker, and those that workers have been given.

    While handlers are quick a worker is given some runs ahead, so that neither side waits for the
    other. A handler runs in as many workers at once as its concurrency says. It belongs to the
    gateway's event loop.

    Args:
        roster: The workers.
        ends: Takes ends to the gateway's event loop.
        loop: The gateway's event loop.
        gave: Told that workers were given runs, and the gates of those that idle ones got first.
        left: Told that something was left waiting.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        gave: Callable[[list[Gate]], None],
        left: Callable[[], None],
    ) -> None:
        self.at: dict[Invocation, tuple[Worker, int]] = {}
        """Which worker has been given a run, and the number that it has there."""
        self.lines: OrderedDict[Gate, FairQueue | _Line] = OrderedDict()
        """What waits, by gate; no line is empty."""
        self._roster = roster
        self._ends = ends
        self._loop = loop
        self._gave = gave
        self._left = left
        self._spread: dict[Gate, int] = {}
        self._pace: dict[str, float] = {}
        self._serving = False

    # --- what waits ------------------------------------------------------------------------------

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Queue an invocation."""
        self._line(gate).put(invocation, gate)
        self.serve_soon()

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation back; False if it has begun."""
        place = self.at.get(invocation)
        if place is None:
            return self._leave_line(invocation)
        worker, _ = place
        back = self.revoke(worker, but=invocation)
        if invocation in back:
            return True
        if not invocation.started_at:
            invocation.started_at = worker.since
        return False

    def take_all(self) -> list[tuple[Invocation, Gate]]:
        """Take whatever waits, each with its gate."""
        taken = [line.pop() for line in self.lines.values() for _ in range(len(line))]
        self.lines.clear()
        return taken

    def _line(self, gate: Gate) -> FairQueue | _Line:
        line = self.lines.get(gate)
        if line is None:
            # Design: "one thread of its own, strictly in order".
            dedicated = gate.handler.settings.threading == "Dedicated"
            line = self.lines[gate] = _Line() if dedicated else FairQueue()
        return line

    def _leave_line(self, invocation: Invocation) -> bool:
        gate = invocation.place
        if not isinstance(gate, Gate) or gate not in self.lines:
            return False
        line = self.lines[gate]
        is_out = line.remove(invocation)
        if not line:
            del self.lines[gate]
        return is_out

    # --- giving ----------------------------------------------------------------------------------

    def serve_soon(self) -> None:
        """Give what waits to the workers, in this turn of the event loop or the next."""
        if not self._serving and self.lines:
            self._serving = True
            self._loop.call_soon(self._serve_if_due)

    def _serve_if_due(self) -> None:
        # It may have been done meanwhile, for a worker that has ended runs.
        if self._serving:
            self.serve()

    def serve(self) -> None:
        """Give what waits to the workers; handlers take turns, and in each its sessions."""
        self._serving = False
        if self._roster.closed:
            return
        batches: dict[Worker, list[Given]] = {}
        gates = list(self.lines)
        while gates:
            gates = [gate for gate in gates if self._serve_one(gate, batches)]
        if batches:
            self._give(batches)
        if self.lines:
            self._left()

    def _serve_one(self, gate: Gate, batches: dict[Worker, list[Given]]) -> bool:
        """Choose a worker for the next run of a handler; False if none of it can be given now."""
        line = self.lines[gate]
        worker = self._choose(gate, batches)
        if worker is None:
            return False
        invocation, _ = line.pop()
        if gate not in worker.gates:
            self._spread[gate] = self._spread.get(gate, 0) + 1
            worker.gates[gate] = 0
        worker.gates[gate] += 1
        batches.setdefault(worker, []).append(Given(invocation, gate))
        if line:
            self.lines.move_to_end(gate)
            return True
        del self.lines[gate]
        return False

    def _give(self, batches: dict[Worker, list[Given]]) -> None:
        begun: list[Gate] = []
        for worker, batch in batches.items():
            if not worker.given:
                begun.append(batch[0].gate)
            worker.give(batch)
            numbers = list(worker.given)[-len(batch) :]
            for number, given in zip(numbers, batch, strict=True):
                self.at[given.invocation] = (worker, number)
        self._gave(begun)

    # --- choosing --------------------------------------------------------------------------------

    def _choose(self, gate: Gate, batches: dict[Worker, list[Given]]) -> Worker | None:
        may_spread, roster = self.may_spread(gate), self._roster
        busy, best, least = 0, None, 1 << 30
        for worker in roster.workers:
            load = len(worker.given) + len(batches.get(worker, ()))
            busy += load > 0
            if load >= least or not worker.is_ready:
                continue
            if not (may_spread or gate in worker.gates):
                continue
            if worker.doubted and load:
                continue
            if worker.worn and (load or len(roster.workers) > roster.pools.workers):
                continue
            if load == 0 or load < self._room(worker, gate):
                best, least = worker, load
        if least == 0 and busy - roster.standing >= roster.pools.workers:
            # It stands in for one that waits, and there is none that waits now.
            return None
        return best

    def concurrency(self, gate: Gate) -> int:
        """Return in how many workers a handler may run at once."""
        return gate.handler.settings.concurrency or max(1, self._roster.pools.workers - 1)

    def may_spread(self, gate: Gate) -> bool:
        """Whether a handler may run in one more worker."""
        return self._spread.get(gate, 0) < self.concurrency(gate)

    def _depth(self, gate: Gate) -> int:
        """How many runs of a handler may stand before a worker."""
        pace = self._pace.get(gate.handler.name, STAGED_SECONDS)
        return min(STAGED, int(STAGED_SECONDS / pace)) if pace > 0 else STAGED

    def _room(self, worker: Worker, gate: Gate) -> int:
        """How many runs may stand before a worker, if one more is of this handler."""
        depth = self._depth(gate)
        for other in worker.gates:
            if other is not gate:
                depth = min(depth, self._depth(other))
        return depth

    def learn_pace(self, gate: Gate, seconds: float) -> None:
        """Take note of how long a run of a handler took."""
        name = gate.handler.name
        before = self._pace.get(name, seconds)
        self._pace[name] = before + (seconds - before) * WEIGHT

    # --- what was given --------------------------------------------------------------------------

    def revoke(self, worker: Worker, but: Invocation | None = None) -> list[Invocation]:
        """Take back what a worker has not begun, and queue it again in front, but for one."""
        if not worker.given:
            return []
        back = worker.revoke()
        for given in reversed(back):
            self._forget(worker, given)
            if given.invocation is not but:
                self._line(given.gate).put_back(given.invocation, given.gate)
        if back:
            self.serve_soon()
        return [given.invocation for given in back]

    def end(self, worker: Worker, given: Given, outcome: Outcome) -> None:
        """Let a run end like this; it stands no more in what its worker was given."""
        self._forget(worker, given)
        given.invocation.waits_for = None
        self._ends.put((given.invocation, given.gate, outcome))

    def _forget(self, worker: Worker, given: Given) -> None:
        """Take note that a worker has a run no more."""
        self.at.pop(given.invocation, None)
        gate = given.gate
        worker.gates[gate] -= 1
        if not worker.gates[gate]:
            del worker.gates[gate]
            self._spread[gate] -= 1
            if not self._spread[gate]:
                del self._spread[gate]
