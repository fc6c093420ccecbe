"""A worker process at work: what it was given to run, and what its handlers ask for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from select import POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol

from headgate.invocation import FIRST_GRANT, Invocation
from headgate.outcome import Failure, Outcome, Success
from headgate.runtimes.forkserver import WorkerProcess
from headgate.runtimes.link import (
    FromWorker,
    Granted,
    NestedAnswer,
    NestedEvent,
    Run,
    Stop,
    ToWorker,
    Void,
    WorkerCode,
    framed,
)
from headgate.runtimes.running import cpu_seconds_of, memory_of, stack_in_dump, state_of
from headgate.wire.codec import encode

if TYPE_CHECKING:
    from headgate.runtimes.gate import Gate

__all__ = ["Given", "Worker", "WorkerRun"]

LEAST_PIECE = 4 * 1024
"""Bytes that are read at once from a worker that logs much."""

MOST_PIECE = 256 * 1024
"""Bytes that are read at once from a worker that sends much else."""

MEBIBYTE = 1024 * 1024

STACK_SECONDS = 1.0
"""Seconds that a worker has to tell its stacks."""

STACK_PAUSE = 0.02
"""Seconds between two looks at whether it has."""


class Given(NamedTuple):
    """What a worker has been given to run."""

    invocation: Invocation
    gate: Gate


class Listener(Protocol):
    """Takes what workers send."""

    def take(self, worker: Worker, data: bytes) -> None:
        """Take a piece of it."""

    def take_frame(self, worker: Worker, frame: FromWorker) -> None:
        """Take a frame that came before the worker was listened to."""

    def at_end(self, worker: Worker) -> None:
        """Take note that there will be nothing more of it."""

    def settle(self) -> None:
        """Do what follows, at the end of a turn of the event loop."""


class Worker:
    """
    A worker process and what it has been given; it belongs to the gateway's event loop.

    Args:
        process: The process, loaded.
        code: What it has loaded.
        loop: The event loop.
        listener: Takes what it sends.
    """

    def __init__(
        self,
        process: WorkerProcess,
        code: WorkerCode,
        *,
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
    ) -> None:
        self.process = process
        """The process."""
        self.code = code
        """What it has loaded."""
        self.given: dict[int, Given] = {}
        """What it has been given and not ended, by number; the first one runs, or soon will."""
        self.gates: dict[Gate, int] = {}
        """The number of runs in `given` by gate."""
        self.calls: dict[int, Invocation] = {}
        """Open requests of its handlers, by the numbers that it gave them."""
        self.since = monotonic()
        """When the first one in `given` began, as far as is known."""
        self.voiding = False
        """Whether runs were taken back which it has not yet said to have forgotten."""
        self.waits = False
        """Whether its handler blocks for a request of its own."""
        self.leaving = False
        """Whether it takes nothing new."""
        self.killed: Outcome | None = None
        """What the run is to end with that it was killed for; None if it was not."""
        self.interrupted: Invocation | None = None
        """The run in which KeyboardInterrupt was raised."""
        self.doubted = False
        """Whether it was slow to begin anything at all, so that nothing is to wait behind that."""
        self.worn = False
        """Whether another worker is to take its place, because of its age or its memory."""
        self.useful = False
        """Whether it has run anything to its end."""
        self.last_words = 0
        """Log records that it left behind when it died, as far as they were read."""
        self.piece = 4 * LEAST_PIECE
        """Bytes that are read at once."""
        self.cpu_before = 0.0
        """Seconds of processor time that it had used when what it runs was first looked at."""
        self._loop = loop
        self._listener = listener
        self._number = 0
        self._unsent = bytearray()
        self._fd = process.sock.fileno()
        self._reads = False
        self._deaf = False
        self._closed = False

    @property
    def head(self) -> Given | None:
        """What it runs, or soon will; from any thread."""
        return next(iter(tuple(self.given.values())), None)

    @property
    def is_ready(self) -> bool:
        """Whether it may be given something to run."""
        return not (self.leaving or self.voiding or self.waits)

    def exceeds(self, mebibytes: int) -> bool:
        """Whether it holds more memory than this."""
        held = memory_of(self.process.pid)
        return held is not None and held > mebibytes * MEBIBYTE

    # --- to the worker ---------------------------------------------------------------------------

    def give(self, batch: Sequence[Given]) -> None:
        """Let it run these one after the other, after what it has."""
        data = bytearray()
        if not self.given:
            self.since = monotonic()
        for given in batch:
            self._number += 1
            self.given[self._number] = given
            data += framed(_run(self._number, given.invocation))
        # Before the frames: then the worker need not wait twice.
        os.eventfd_write(self.process.permits, len(batch))
        self._write(data)

    def open_flow(self, number: int) -> None:
        """Let whoever reads the values of a run tell the worker how many it takes."""
        invocation = self.given[number].invocation
        flow = invocation.flow = _WorkerFlow(self, number, self._loop)
        # After that whoever grants tells the flow.
        if invocation.granted > FIRST_GRANT:
            flow.grant(invocation.granted)

    def revoke(self) -> list[Given]:
        """Take back what it has not begun, in order; it never will."""
        count = 0
        with suppress(BlockingIOError):
            while True:
                os.eventfd_read(self.process.permits)
                count += 1
        if not count:
            return []
        numbers = list(self.given)[-count:]
        back = [self.given.pop(number) for number in numbers]
        for given in back:
            given.invocation.flow = None
        self.voiding = True
        self.send(Void(numbers))
        return back

    def has_begun_all(self) -> bool:
        """Whether it has begun whatever it was given: there is no permit left."""
        look = poll()
        look.register(self.process.permits, POLLIN)
        return not look.poll(0)

    def stop(self, number: int) -> None:
        """Tell it that nobody waits for a run any more."""
        self.send(Stop(number))

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in what it runs."""
        self.process.signal(signal.SIGINT)

    def send(self, frame: ToWorker) -> None:
        """Write a frame."""
        self._write(framed(frame))

    def _write(self, data: bytes | bytearray) -> None:
        if self._closed:
            return
        if not self._unsent:
            sent = self._write_some(data)
            if sent == len(data):
                return
            self._loop.add_writer(self._fd, self._writable)
            data = data[sent:]
        self._unsent += data

    def _writable(self) -> None:
        del self._unsent[: self._write_some(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._fd)

    def _write_some(self, data: bytes | bytearray) -> int:
        try:
            return self.process.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            # It is dead or about to be: nobody misses what it does not get.
            return len(data)

    # --- from the worker -------------------------------------------------------------------------

    def listen(self) -> None:
        """Read what it sends."""
        if not (self._reads or self._deaf or self._closed):
            self._reads = True
            self._loop.add_reader(self._fd, self._readable)

    def rest(self, seconds: float) -> None:
        """Read nothing for some time, for it says too much."""
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._fd)
            self._loop.call_later(seconds, self.listen)

    def read(self) -> bool:
        """Take what it has sent, up to `piece`; False if there is nothing now."""
        if self._deaf:
            return False
        try:
            data = self.process.sock.recv(self.piece)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._listener.take(self, data)
            return True
        self.hush()
        self._listener.at_end(self)
        return False

    def _readable(self) -> None:
        self.read()
        self._listener.settle()

    def hush(self) -> None:
        """Read nothing any more."""
        if self._reads:
            self._reads = False
            with suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._fd)

    def deafen(self) -> None:
        """Read nothing ever again: what it sends means nothing."""
        self._deaf = True
        self.hush()

    # --- its life --------------------------------------------------------------------------------

    def release(self) -> None:
        """Let it end by itself: there is nothing left for it to do."""
        with suppress(OSError):
            self.process.sock.shutdown(1)

    def kill(self) -> None:
        """Kill it."""
        self.leaving = True
        self.process.kill()

    def close(self) -> None:
        """Let go of it."""
        self.hush()
        if self._unsent:
            self._unsent.clear()
            with suppress(RuntimeError):
                self._loop.remove_writer(self._fd)
        self._closed = True
        self.process.close()

    # --- as an asker: for the requests of its handlers -------------------------------------------

    def ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """Answer a request."""
        number: int = invocation.tag
        self.calls.pop(number, None)
        if isinstance(outcome, Failure):
            error = outcome.error
            answer = NestedAnswer(
                number,
                b"",
                error.code,
                error.message,
                error.started,
                error.details(),
                invocation.request_id,
            )
        else:
            data = encode(outcome.value) if isinstance(outcome, Success) else outcome.data
            answer = NestedAnswer(number, data, request_id=invocation.request_id)
        self.send(answer)

    def started(self, invocation: Invocation) -> None:
        """Tell that its handler runs."""
        self.send(NestedEvent(invocation.tag, started=True))

    def progressed(self, invocation: Invocation, data: bytes) -> None:
        """Hand a progress value on."""
        self.send(NestedEvent(invocation.tag, progress=data))

    def yielded(self, invocation: Invocation, parts: list[bytes]) -> None:
        """Hand the next values of a stream on."""
        self.send(NestedEvent(invocation.tag, parts=parts))

    def learned(self, invocation: Invocation, fate: str) -> None:
        """Tell what became of its handler."""
        self.send(NestedEvent(invocation.tag, fate=fate))


class _WorkerFlow:
    """Holds a generator in a worker up; called from any thread."""

    def __init__(self, worker: Worker, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._number = number
        self._loop = loop

    def grant(self, total: int) -> None:
        """Let the handler yield up to this many bytes in all."""
        self._send(Granted(self._number, total))

    def close(self) -> None:
        """Let the handler yield nothing any more."""
        self._send(Stop(self._number))

    def _send(self, frame: ToWorker) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._worker.send, frame)


class WorkerRun(NamedTuple):
    """What a worker process runs at this moment."""

    invocation: Invocation
    worker: Worker
    is_async: bool
    """Whether it is an ``async def`` handler."""

    @property
    def place(self) -> str:
        """The worker: ``worker 4711``."""
        return f"worker {self.pid}"

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self.worker.process.pid

    @property
    def state(self) -> str:
        """As `state_of` tells; what is killed or interrupted is ``stopping``."""
        stops = self.worker.killed is not None or self.worker.interrupted is self.invocation
        return state_of(self.invocation, stops=stops)

    def memory(self) -> int | None:
        """Return the bytes of memory that the worker holds."""
        return memory_of(self.pid)

    def cpu_seconds(self) -> float | None:
        """Return the seconds of processor time that the worker has used since the run began."""
        used = cpu_seconds_of(self.pid)
        return None if used is None else max(0.0, used - self.worker.cpu_before)

    async def stack(self) -> list[str]:
        """Have the worker tell its stacks, and return that of the handler."""
        process = self.worker.process
        process.read_dump()
        process.signal(signal.SIGUSR2)
        text, end = b"", monotonic() + STACK_SECONDS
        while monotonic() < end:
            await asyncio.sleep(STACK_PAUSE)
            more = process.read_dump()
            if more is None or (text and not more):
                break
            text += more
        # A signal ends some calls in C, and with them the run: if none came after it, it was this.
        head = self.worker.head
        if head is not None and head.invocation is not self.invocation:
            return []
        return stack_in_dump(text.decode("utf-8", "backslashreplace"))


def _run(number: int, invocation: Invocation) -> Run:
    return Run(
        number,
        invocation.handler,
        invocation.payload,
        invocation.deadline,
        invocation.caller,
        invocation.origin,
        invocation.sequence,
        invocation.ancestors,
        invocation.wants_result,
        invocation.streams,
        invocation.priority,
    )
