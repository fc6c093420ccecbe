"""Worker processes that run the handlers of a project, each one at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Protocol

from headgate.errors import (
    CancellationException,
    HandlerError,
    HandlerKilled,
    RequestError,
)
from headgate.handler import PoolSettings
from headgate.invocation import UNLIMITED, Caller, Invocation
from headgate.outcome import Encoded, Failure, Outcome
from headgate.runtimes.fair import FairQueue
from headgate.runtimes.forkserver import ForkServer, WorkerProcess, ended_by, log
from headgate.runtimes.gate import Finished, Gate
from headgate.runtimes.link import (
    FromWorker,
    Logged,
    NestedCall,
    NestedCancel,
    NestedGrant,
    Reported,
    Returned,
    Voided,
    Waits,
    WorkerCode,
    Yielded,
    decode_from_worker,
)
from headgate.runtimes.running import HandlerThread, Run, WorkerRow, cpu_seconds_of, memory_of
from headgate.runtimes.supply import Supply
from headgate.runtimes.workers import LEAST_PIECE, MOST_PIECE, Given, Worker, WorkerRun
from headgate.threads import Mailbox

__all__ = ["INTERRUPT_SECONDS", "Host", "ProcessLane"]

logger = logging.getLogger("headgate.runtimes")

MOST_WAITING = 4
"""Workers there are at most, with those that wait, for each that `PoolSettings` names."""

STAGED = 64
"""Runs that a worker is given at once, at most, while handlers are quick."""

STAGED_SECONDS = 0.005
"""Seconds of work that a worker is given at once, and for which a run may keep others behind it."""

WEIGHT = 0.3
"""What the latest runs weigh in how long a run of a handler takes."""

MEMORY_SECONDS = 0.05
"""Seconds between two looks at the memory of runs with a limit."""

MEBIBYTE = 1024 * 1024

INTERRUPT_SECONDS = 1.0
"""Seconds that an interrupted handler has to end before its worker is killed."""

CLOSING_SECONDS = 0.2
"""Seconds that a generator has to be closed before its worker is killed."""

RELEASE_SECONDS = 2.0
"""Seconds that a worker has to end by itself."""

CALLS_SECONDS = 60.0
"""Seconds for which a worker that is to end waits for the answers to its open requests."""

LOOK_SECONDS = 0.1
"""Seconds between two looks at them."""

STUCK_SECONDS = 3.0
"""Seconds in which a worker begins what it was given; one that does not is of no use any more."""

HEARD = 64
"""Pieces of what a worker has said that are looked at for the end of a run before it is killed."""

SPARE_SECONDS = 5.0
"""Seconds for which workers are kept that stood in for those that waited."""

LOGGED = 16
"""Log records in one piece that a worker sent, from which on it says too much."""

REST = 4.0
"""How often the time that its log records took such a worker is not listened to."""

LAST_LOGGED = 256
"""Log records of a dead worker that are looked at."""

CLOSE_SECONDS = 2.0
"""Seconds that closing may wait for the event loop."""


class Host(Protocol):
    """What workers need of the gateway for the requests of their handlers."""

    origin: str
    caller: Caller

    def ask(self, invocation: Invocation) -> None:
        """Have an invocation of this process answered."""

    def tell(self, invocation: Invocation, scope: str, filters: dict[str, str]) -> None:
        """Have a message of this process delivered."""

    def cancel(self, invocation: Invocation) -> None:
        """Stop an invocation of this process."""

    def next_sequence(self) -> int:
        """Return the next number of a request of the gateway's own scripts."""


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


class ProcessLane:
    """
    The lane of a project's process handlers.

    A worker runs one handler at a time. While handlers are quick it is given some runs ahead, so
    that neither side waits for the other; what then stands behind one that is not quick is taken
    back. A handler runs in as many workers at once as its concurrency says.

    Everything happens on the gateway's event loop, but `close`. Workers are made and loaded on
    threads, ahead of need: the place of one that dies is taken at once.

    Args:
        project: Name of the project.
        ends: Takes ends and progress to the gateway's event loop.
        loop: The gateway's event loop.
        on_wait: Told which request of its own a handler now waits for.
        forkserver: Gives the gateway's fork server; another one when that has died.
        host: Answers the requests of handlers.
    """

    has_threads = False
    has_backlog = False

    def __init__(
        self,
        project: str,
        *,
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        on_wait: Callable[[Invocation], None],
        forkserver: Callable[[], ForkServer],
        host: Host,
    ) -> None:
        self._project = project
        self._ends = ends
        self._loop = loop
        self._on_wait = on_wait
        self._host = host
        self._supply = Supply(
            project, loop=loop, forkserver=forkserver, take=self._join, after=self._supplied
        )
        self._pools = PoolSettings()
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []
        self._at: dict[Invocation, tuple[Worker, int]] = {}
        self._lines: OrderedDict[Gate, FairQueue | _Line] = OrderedDict()
        self._spread: dict[Gate, int] = {}
        self._pace: dict[str, float] = {}
        self._lent = 0
        self._serving = False
        self._patrolling = False
        self._looking = False
        self._trimming = False
        self._ageing: asyncio.TimerHandle | None = None
        self._closed = False

    # --- the lane --------------------------------------------------------------------------------

    def put(self, invocation: Invocation, gate: Gate) -> None:
        """Queue an invocation."""
        self._line(gate).put(invocation, gate)
        self._serve_soon()

    def refill(self) -> None:
        """Nothing waits behind the queues."""

    def remove(self, invocation: Invocation) -> bool:
        """Take an invocation back; False if it has begun."""
        place = self._at.get(invocation)
        if place is None:
            gate = invocation.place
            line = self._lines.get(gate) if isinstance(gate, Gate) else None
            if line is None or not line.remove(invocation):
                return False
            if not line:
                del self._lines[gate]  # type: ignore[arg-type]
            return True
        back = self._revoke(place[0], but=invocation)
        if invocation in back:
            return True
        if not invocation.started_at:
            invocation.started_at = place[0].since
        return False

    def interrupt(self, invocation: Invocation) -> bool:
        """Stop what runs an invocation, as its handler's settings say."""
        place = self._at.get(invocation)
        if place is not None:
            # It may have ended a moment ago, and nobody is to be killed for that.
            self._hear(place[0], invocation)
            place = self._at.get(invocation)
        if place is None:
            return True
        worker, number = place
        gate = worker.given[number].gate
        mode = gate.handler.settings.on_timeout or "kill"
        if mode == "kill" and not gate.handler.signature.streams:
            self._kill(worker, invocation, _stopped(invocation))
            return True
        worker.stop(number)
        if mode == "kill":
            # To leave a stream early is nothing unusual, and most stand in their `yield` then.
            self._loop.call_later(CLOSING_SECONDS, self._kill_late, worker, invocation)
            return True
        if mode == "interrupt":
            worker.interrupted = invocation
            worker.interrupt()
            self._loop.call_later(INTERRUPT_SECONDS, self._kill_late, worker, invocation)
        return mode == "interrupt"

    def holders(self, invocation: Invocation) -> list[Invocation]:
        """Return who holds the places that an invocation waits for; empty if one is free."""
        place = self._at.get(invocation)
        if place is not None:
            head = place[0].head
            return [head.invocation] if head and head.invocation is not invocation else []
        gate = invocation.place
        if isinstance(gate, Gate) and not self._may_spread(gate):
            return [head.invocation for worker, head in self._heads() if gate in worker.gates]
        waiting = [worker for worker in self._workers if worker.waits]
        is_stuck = len(self._workers) >= self._most and len(waiting) == len(self._workers)
        return self.running if is_stuck else []

    @property
    def running(self) -> list[Invocation]:
        """What runs at this moment, waiting handlers included."""
        return [head.invocation for _, head in self._heads()]

    @property
    def threads(self) -> list[HandlerThread]:
        """None: nothing runs in this process."""
        return []

    @property
    def runs(self) -> list[Run]:
        """What runs at this moment and where."""
        return [
            WorkerRun(head.invocation, worker, head.gate.handler.signature.is_async)
            for worker, head in self._heads()
        ]

    @property
    def workers(self) -> list[WorkerRow]:
        """The worker processes, idle ones included."""
        now, rows = monotonic(), []
        for worker in (*self._workers, *self._leaving):
            state = "stopping" if worker.leaving else "busy" if worker.given else "idle"
            process = worker.process
            rows.append(WorkerRow(process.pid, state, now - process.born, memory_of(process.pid)))
        return rows

    @property
    def queued(self) -> list[Gate]:
        """The gates of what waits for a worker, or behind what one runs."""
        waiting = [gate for gate, line in list(self._lines.items()) for _ in range(len(line))]
        return waiting + [given.gate for given in self._behind()]

    def lend(self) -> None:
        """Let another worker run in place of one whose run is given up."""
        self._lent += 1
        self._refill()
        self._serve_soon()

    def take_back(self) -> None:
        """End a `lend`."""
        self._lent -= 1

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables; from any thread."""
        lines = list(self._lines.values())
        return {
            "queued": sum(len(line) for line in lines) + len(list(self._behind())),
            "running": len(self.running),
            "workers_leaving": len(self._leaving),
            "nested": sum(len(each.calls) for each in (*self._workers, *self._leaving)),
        }

    def concurrency(self, gate: Gate) -> int:
        """Return in how many workers a handler may run at once."""
        return gate.handler.settings.concurrency or max(1, self._pools.workers - 1)

    # --- its workers -----------------------------------------------------------------------------

    def exchange(
        self,
        code: WorkerCode | None,
        first: WorkerProcess | None = None,
        pools: PoolSettings | None = None,
    ) -> None:
        """
        Run the handlers of a newer generation from now on; what runs ends on its old worker.

        Args:
            code: What workers load; None if there are no process handlers any more.
            first: A worker that has loaded it already.
            pools: How many there are, and for how long. Default: as it was.
        """
        self._pools = pools or self._pools
        if code != self._supply.code or first is not None:
            self._supply.exchange(code)
            for worker in list(self._workers):
                self._retire(worker)
        if first is not None and code is not None:
            self._add(first, code)
        self._refill()
        self._serve_soon()
        self._watch_age()

    def close(self) -> None:
        """Kill all workers, from any thread; what they run ends as stopped."""
        done = threading.Event()

        def run() -> None:
            self._close()
            done.set()

        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        try:
            if running is not self._loop:
                self._loop.call_soon_threadsafe(run)
                done.wait(CLOSE_SECONDS)
                return
        except RuntimeError:
            pass  # the loop is closed, so nothing of this is touched by anyone else
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._supply.close()
        if self._ageing is not None:
            self._ageing.cancel()
        for worker in (*self._workers, *self._leaving):
            self._revoke(worker)
            worker.kill()
            for given in worker.given.values():
                self._end(worker, given, worker.killed or _stopped(given.invocation))
            worker.given.clear()
            worker.close()
        self._workers, self._leaving = [], []
        self._lines.clear()
        self._ends.wake()

    @property
    def _most(self) -> int:
        return self._pools.workers * MOST_WAITING

    @property
    def _standing(self) -> int:
        """How many places are held by what does not run on: it waits, or was given up."""
        return self._lent + sum(worker.waits for worker in self._workers)

    def _refill(self) -> None:
        """Have as many workers made as are missing."""
        wanted = self._pools.workers
        if any(self._may_spread(gate) for gate in self._lines):
            wanted = min(self._most, wanted + self._standing)
        wanted += any(worker.worn for worker in self._workers)
        self._supply.order(wanted - len(self._workers) - self._supply.making)

    def _supplied(self) -> None:
        """Go on after a worker was made, or could not be made."""
        if self._closed:
            return
        self._give_up()
        self._refill()
        self._serve_soon()

    def _give_up(self) -> None:
        """End what waits if there is nobody to run it, and nobody likely to come."""
        if self._workers or not self._supply.fails:
            return
        for line in self._lines.values():
            while line:
                invocation, gate = line.pop()
                text = f"{invocation.target} has no worker process to run in: {self._supply.why}"
                self._ends.put((invocation, gate, Failure(HandlerKilled(text, started=False))))
        self._lines.clear()
        self._ends.wake()

    def _join(self, process: WorkerProcess, code: WorkerCode) -> None:
        """Let a new worker take the place that it was made for."""
        self._add(process, code)
        self._trim(worn=True)
        self._watch_age()

    def _add(self, process: WorkerProcess, code: WorkerCode) -> None:
        worker = Worker(process, code, loop=self._loop, listener=self)
        self._workers.append(worker)
        early, process.early = process.early, []
        for frame in early:
            self._take_frame(worker, frame)
        worker.listen()
        process.when_dead(partial(self._post_death, worker))

    def _retire(self, worker: Worker) -> None:
        """Let a worker end what it runs, and then itself."""
        worker.leaving = True
        self._workers.remove(worker)
        self._leaving.append(worker)
        self._revoke(worker)
        if not worker.given:
            self._release_soon(worker)

    def _release_soon(self, worker: Worker) -> None:
        """Let a worker end by itself as soon as its open requests are answered."""
        if worker.killed is None:
            self._release(worker, monotonic() + CALLS_SECONDS)

    def _release(self, worker: Worker, latest: float) -> None:
        if worker.calls and monotonic() < latest and not self._closed:
            self._loop.call_later(LOOK_SECONDS, self._release, worker, latest)
        elif worker in self._leaving:
            worker.release()
            self._loop.call_later(RELEASE_SECONDS, worker.process.kill)

    def _kill(self, worker: Worker, invocation: Invocation, outcome: Failure) -> None:
        """Kill a worker for a run, which ends like this, and let another take its place."""
        # First what it has not begun. After that it begins nothing else, and what it has begun
        # meanwhile shows by the end of this run, which came before.
        self._revoke(worker)
        self._hear(worker, invocation)
        if invocation not in self._at:
            return
        if worker.killed is None:
            worker.killed = outcome
        if not worker.leaving:
            self._workers.remove(worker)
            self._leaving.append(worker)
        worker.kill()
        self._refill()

    def _hear(self, worker: Worker, invocation: Invocation) -> None:
        """Take what a worker has said already, up to the end of a run."""
        for _ in range(HEARD):
            if invocation not in self._at or not worker.read():
                break
        self._ends.wake()

    def _kill_late(self, worker: Worker, invocation: Invocation) -> None:
        head = worker.head
        if head is not None and head.invocation is invocation:
            self._kill(worker, invocation, _stopped(invocation))

    def at_end(self, worker: Worker) -> None:
        """Kill a worker that sends nothing any more: it is dead, or of no more use."""
        worker.process.kill()

    def _post_death(self, worker: Worker, status: int) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._died, worker, status)

    def _died(self, worker: Worker, status: int) -> None:
        """Take note of a worker's death, after all that it has said."""
        everyone = self._leaving if worker in self._leaving else self._workers
        if worker not in everyone:
            return
        worker.hush()
        while worker.read():
            pass
        expected, ran = worker.leaving, bool(worker.given)
        everyone.remove(worker)
        worker.leaving = True
        self._revoke(worker)
        for number, given in list(worker.given.items()):
            self._end(worker, given, worker.killed or _killed(given, worker.process.pid, status))
            del worker.given[number]
        for nested in worker.calls.values():
            # What its handlers had left behind goes on, and nobody reads what it yields.
            nested.grant(UNLIMITED)
        worker.close()
        if not expected:
            how = ended_by(status)
            logger.warning(
                "project %r: the worker %d has died: %s", self._project, worker.process.pid, how
            )
            if not worker.useful and not ran and self._supply.code is worker.code:
                self._supply.fail(f"The worker process {worker.process.pid} died at once ({how})")
        self._ends.drain()
        self._refill()
        self._serve_soon()

    # --- giving ----------------------------------------------------------------------------------

    def _line(self, gate: Gate) -> FairQueue | _Line:
        line = self._lines.get(gate)
        if line is None:
            # Design: "one thread of its own, strictly in order".
            dedicated = gate.handler.settings.threading == "Dedicated"
            line = self._lines[gate] = _Line() if dedicated else FairQueue()
        return line

    def _serve_soon(self) -> None:
        if not self._serving and self._lines:
            self._serving = True
            self._loop.call_soon(self._serve_if_due)

    def _serve_if_due(self) -> None:
        # It may have been done meanwhile, for a worker that has ended runs.
        if self._serving:
            self._serve()

    def _serve(self) -> None:
        """Give what waits to the workers; handlers take turns, and in each its sessions."""
        self._serving = False
        if self._closed:
            return
        batches: dict[Worker, list[Given]] = {}
        gates = list(self._lines)
        while gates:
            gates = [gate for gate in gates if self._serve_one(gate, batches)]
        for worker, batch in batches.items():
            first = not worker.given
            worker.give(batch)
            numbers = list(worker.given)[-len(batch) :]
            for number, given in zip(numbers, batch, strict=True):
                self._at[given.invocation] = (worker, number)
            if first:
                self._look_at_memory(batch[0].gate)
        if batches:
            self._patrol_soon()
        if self._lines:
            self._refill()
            self._give_up()

    def _serve_one(self, gate: Gate, batches: dict[Worker, list[Given]]) -> bool:
        """Choose a worker for the next run of a handler; False if none of it can be given now."""
        line = self._lines[gate]
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
            self._lines.move_to_end(gate)
            return True
        del self._lines[gate]
        return False

    def _choose(self, gate: Gate, batches: dict[Worker, list[Given]]) -> Worker | None:
        may_spread = self._may_spread(gate)
        busy, best, least = 0, None, 1 << 30
        for worker in self._workers:
            load = len(worker.given) + len(batches.get(worker, ()))
            busy += load > 0
            if load >= least or not worker.is_ready:
                continue
            if not (may_spread or gate in worker.gates):
                continue
            if worker.doubted and load:
                continue
            if worker.worn and (load or len(self._workers) > self._pools.workers):
                continue
            if load == 0 or load < self._room(worker, gate):
                best, least = worker, load
        if least == 0 and busy - self._standing >= self._pools.workers:
            # It stands in for one that waits, and there is none that waits now.
            return None
        return best

    def _may_spread(self, gate: Gate) -> bool:
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

    def _revoke(self, worker: Worker, but: Invocation | None = None) -> list[Invocation]:
        """Take back what a worker has not begun, and queue it again in front, but for one."""
        if not worker.given:
            return []
        back = worker.revoke()
        for given in reversed(back):
            self._forget(worker, given)
            if given.invocation is not but:
                self._line(given.gate).put_back(given.invocation, given.gate)
        if back:
            self._serve_soon()
        return [given.invocation for given in back]

    def _forget(self, worker: Worker, given: Given) -> None:
        """Take note that a worker has a run no more."""
        self._at.pop(given.invocation, None)
        gate = given.gate
        worker.gates[gate] -= 1
        if not worker.gates[gate]:
            del worker.gates[gate]
            self._spread[gate] -= 1
            if not self._spread[gate]:
                del self._spread[gate]

    def _heads(self) -> Iterator[tuple[Worker, Given]]:
        for worker in (*self._workers, *self._leaving):
            head = worker.head
            if head is not None:
                yield worker, head

    def _behind(self) -> Iterator[Given]:
        for worker in (*self._workers, *self._leaving):
            yield from list(worker.given.values())[1:]

    # --- looking after them ----------------------------------------------------------------------

    def _patrol_soon(self) -> None:
        if not self._patrolling:
            self._patrolling = True
            self._loop.call_later(STAGED_SECONDS, self._patrol)

    def _patrol(self) -> None:
        """Take back what stands behind a run that takes long, and note which runs have begun."""
        self._patrolling, now, again = False, monotonic(), False
        for worker, head in list(self._heads()):
            if now - worker.since < STAGED_SECONDS:
                again = True
                continue
            if len(worker.given) > 1:
                self._revoke(worker)
                worker.doubted = worker.head is not head
                if not worker.doubted:
                    self._learn_pace(head.gate, now - worker.since)
            if worker.head is head and not head.invocation.started_at:
                if worker.has_begun_all():
                    head.invocation.started_at = worker.since
                    worker.cpu_before = cpu_seconds_of(worker.process.pid) or 0.0
                elif now - worker.since < STUCK_SECONDS:
                    again = True
                else:
                    self._part_with(worker)
        if again and not self._closed:
            self._patrol_soon()

    def _part_with(self, worker: Worker) -> None:
        """Kill a worker that does not begin what it was given; another one is to run that."""
        self._revoke(worker)
        if worker.given:
            # It has begun in the last moment.
            return
        text = "project %r: the worker %d is killed, for it began nothing for %g s"
        logger.error(text, self._project, worker.process.pid, STUCK_SECONDS)
        if not worker.leaving:
            self._workers.remove(worker)
            self._leaving.append(worker)
        worker.kill()
        self._refill()

    def _learn_pace(self, gate: Gate, seconds: float) -> None:
        name = gate.handler.name
        before = self._pace.get(name, seconds)
        self._pace[name] = before + (seconds - before) * WEIGHT

    def _look_at_memory(self, gate: Gate) -> None:
        if gate.handler.settings.memory is not None and not self._looking:
            self._looking = True
            self._loop.call_later(MEMORY_SECONDS, self._measure_memory)

    def _measure_memory(self) -> None:
        """Kill what holds more memory than its handler may."""
        self._looking = False
        for worker, head in list(self._heads()):
            limit = head.gate.handler.settings.memory
            if limit is None or worker.killed is not None:
                continue
            held = memory_of(worker.process.pid)
            if held is not None and held > limit * MEBIBYTE:
                text = _too_large(head, worker.process.pid, limit)
                self._kill(worker, head.invocation, text)
            else:
                self._look_at_memory(head.gate)

    def _watch_age(self) -> None:
        """See that workers are replaced when they are old."""
        age = self._pools.worker_age
        if self._ageing is not None:
            self._ageing.cancel()
            self._ageing = None
        born = [worker.process.born for worker in self._workers if not worker.worn]
        if age is not None and born and not self._closed:
            due = max(0.001, min(born) + age - monotonic())
            self._ageing = self._loop.call_later(due, self._age)

    def _age(self) -> None:
        self._ageing = None
        age = self._pools.worker_age or 0.0
        for worker in self._workers:
            worker.worn |= monotonic() - worker.process.born >= age
        self._refill()
        self._watch_age()

    def _wear(self, worker: Worker) -> None:
        """See after a run whether a worker holds too much."""
        limit = self._pools.worker_memory
        if limit is not None and not worker.worn and not worker.leaving:
            held = memory_of(worker.process.pid)
            if held is not None and held > limit * MEBIBYTE:
                worker.worn = True
                self._refill()

    def _trim(self, *, worn: bool = False) -> None:
        """Let workers end that nobody needs, worn ones first."""
        spare = len(self._workers) - self._pools.workers - self._standing
        idle = [worker for worker in self._workers if not worker.given]
        idle.sort(key=lambda worker: not worker.worn)
        for worker in idle[: max(0, spare)]:
            if worker.worn or not worn:
                self._retire(worker)
        self._refill()

    def _trim_late(self) -> None:
        self._trimming = False
        self._trim()

    # --- what workers say ------------------------------------------------------------------------

    def settle(self) -> None:
        """Do at the end of a turn what follows from what workers sent in it."""
        if len(self._ends):
            self._ends.drain()
        if self._lines:
            self._serve()

    def take(self, worker: Worker, data: bytes) -> None:
        """Take a piece of what a worker sent."""
        began, logged = monotonic(), 0
        returned: list[Gate] = []
        try:
            for each in worker.process.reader.feed(data):
                frame = decode_from_worker(each)
                if type(frame) is Returned:
                    self._returned(worker, frame, returned)
                elif type(frame) is Logged:
                    logged += 1
                    self._logged(worker, frame)
                else:
                    self._take_frame(worker, frame)
        except Exception as error:
            # A handler has written into what is not its own: whatever comes after that is nothing.
            text = "project %r: the worker %d is killed, for it sent nonsense: %s"
            logger.error(text, self._project, worker.process.pid, error or type(error).__name__)
            worker.deafen()
            worker.process.kill()
        if returned:
            self._after_runs(worker, returned)
        if logged > LOGGED:
            worker.piece = LEAST_PIECE
            worker.rest((monotonic() - began) * REST)
        elif len(data) == worker.piece:
            worker.piece = min(MOST_PIECE, worker.piece * 2)

    def _logged(self, worker: Worker, frame: Logged) -> None:
        worker.last_words += worker.process.status is not None
        if worker.last_words <= LAST_LOGGED:
            log(frame)

    def _returned(self, worker: Worker, frame: Returned, returned: list[Gate]) -> None:
        given = worker.given.pop(frame.number, None)
        if given is None:
            return
        invocation = given.invocation
        if not invocation.started_at and frame.started is not False:
            invocation.started_at = worker.since
        self._end(worker, given, _outcome(worker, given, frame))
        returned.append(given.gate)

    def _end(self, worker: Worker, given: Given, outcome: Outcome) -> None:
        self._forget(worker, given)
        given.invocation.waits_for = None
        self._ends.put((given.invocation, given.gate, outcome))

    def _after_runs(self, worker: Worker, returned: Sequence[Gate]) -> None:
        """See what is next after a worker has ended runs."""
        now = monotonic()
        seconds = (now - worker.since) / len(returned)
        for gate in returned:
            self._learn_pace(gate, seconds)
        worker.since, worker.useful = now, True
        worker.waits = worker.doubted = False
        self._supply.prove()
        self._wear(worker)
        head = worker.head
        if head is not None:
            self._look_at_memory(head.gate)
        elif worker.leaving:
            self._release_soon(worker)
        elif worker.worn or len(self._workers) > self._pools.workers:
            self._trim(worn=True)
            if not self._trimming:
                self._trimming = True
                self._loop.call_later(SPARE_SECONDS, self._trim_late)
        self._serve_soon()

    def _take_frame(self, worker: Worker, frame: FromWorker) -> None:
        if isinstance(frame, Reported):
            self._reported(worker, frame)
        elif isinstance(frame, Yielded):
            self._yielded(worker, frame)
        elif isinstance(frame, NestedCall):
            self._ask(worker, frame)
        elif isinstance(frame, Waits):
            self._waits(worker, frame)
        elif isinstance(frame, Voided):
            worker.voiding = False
            self._serve_soon()
        elif isinstance(frame, NestedCancel):
            if frame.number in worker.calls:
                self._host.cancel(worker.calls[frame.number])
        elif isinstance(frame, NestedGrant):
            nested = worker.calls.get(frame.number)
            if nested is not None:
                nested.grant(frame.total)

    def _reported(self, worker: Worker, frame: Reported) -> None:
        given = worker.given.get(frame.number)
        if given is None:
            return
        invocation = given.invocation
        invocation.started_at = invocation.started_at or worker.since
        waiting, invocation.reported = invocation.reported, frame.payload
        if waiting is None:
            self._ends.put((invocation, given.gate, None))

    def _yielded(self, worker: Worker, frame: Yielded) -> None:
        given = worker.given.get(frame.number)
        if given is None or given.invocation.outcome is not None:
            return
        invocation = given.invocation
        invocation.started_at = invocation.started_at or worker.since
        if invocation.streams and invocation.flow is None:
            # Until now it had `FIRST_GRANT`.
            worker.open_flow(frame.number)
        invocation.asker.yielded(invocation, frame.parts)

    def _ask(self, worker: Worker, call: NestedCall) -> None:
        """Have a request of a handler answered, in the name of its run."""
        parent = worker.given.get(call.parent)
        host = self._host
        caller, ancestors = call.caller or host.caller, call.ancestors
        if parent is not None:
            caller = parent.invocation.caller
            ancestors = (*parent.invocation.ancestors, parent.invocation.request_id)
        invocation = Invocation(
            caller,
            call.project,
            call.handler,
            call.payload,
            call.deadline,
            worker,
            worker.process.origin or host.origin,
            call.number if worker.process.origin else host.next_sequence(),
            ancestors,
            parent.invocation if parent is not None else None,
            tag=call.number,
            remote_server=call.remote_server,
            host_name=call.host_name,
            priority=call.priority,
            streams=call.streams,
            finishes=call.finishes,
        )
        if call.number in worker.calls:
            raise ValueError(f"The number {call.number} of an open request was used again")
        worker.calls[call.number] = invocation
        if call.scope:
            host.tell(invocation, call.scope, call.filters)
        else:
            host.ask(invocation)

    def _waits(self, worker: Worker, frame: Waits) -> None:
        """Give the place of a run to others while it waits for a request of its own."""
        given = worker.given.get(frame.number)
        if given is None:
            return
        given.invocation.started_at = given.invocation.started_at or worker.since
        nested = worker.calls.get(frame.nested) if frame.nested else None
        given.invocation.waits_for = nested
        worker.waits = nested is not None
        if nested is not None:
            self._revoke(worker)
            self._refill()
            self._on_wait(nested)
        self._serve_soon()


def _outcome(worker: Worker, given: Given, frame: Returned) -> Outcome:
    if not frame.code:
        return Encoded(frame.payload)
    error = RequestError.from_wire(frame.code, frame.message, frame.details, started=frame.started)
    was_interrupted = worker.interrupted is given.invocation and isinstance(error, HandlerError)
    if was_interrupted and error.details().get("type") == KeyboardInterrupt.__name__:
        error = CancellationException("The handler was interrupted", started=True)
    return Failure(error)


def _stopped(invocation: Invocation) -> Failure:
    text = f"The worker process of {invocation.target} was stopped"
    return Failure(CancellationException(text, started=True))


def _killed(given: Given, pid: int, status: int) -> Failure:
    text = f"The worker process {pid} died while it ran {given.invocation.target}: "
    return Failure(HandlerKilled(text + ended_by(status), started=True))


def _too_large(given: Given, pid: int, limit: int) -> Failure:
    text = f"The worker process {pid} was killed while it ran {given.invocation.target}: it used "
    return Failure(HandlerKilled(f"{text}more than memory={limit} MiB", started=True))
