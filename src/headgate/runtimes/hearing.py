"""What worker processes say: ends of runs, values, log records, and requests of handlers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from headgate.errors import RequestError
from headgate.invocation import Caller, Invocation
from headgate.outcome import Encoded, Failure, Outcome
from headgate.runtimes.forkserver import log
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
    Yielded,
    decode_from_worker,
)
from headgate.runtimes.staging import Staging
from headgate.runtimes.workers import LEAST_PIECE, MOST_PIECE, Worker
from headgate.threads import Mailbox

__all__ = ["Hearing", "Host"]

logger = logging.getLogger("headgate.runtimes")

LOGGED = 16
"""Log records in one piece that a worker sent, from which on it says too much."""

REST = 4.0
"""How often the time that its log records took such a worker is not listened to."""

LAST_LOGGED = 256
"""Log records of a dead worker that are looked at."""


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


class Hearing:
    """
    The `Listener` of a project's workers; it belongs to the gateway's event loop.

    Args:
        project: Name of the project.
        staging: What workers have been given.
        ends: Takes ends and progress to the gateway's event loop.
        host: Answers the requests of handlers.
        ran: Told which worker has ended runs, once for all that it said at once.
        waits: Told which request of its own a handler now waits for.
    """

    def __init__(
        self,
        project: str,
        staging: Staging,
        *,
        ends: Mailbox[Finished],
        host: Host,
        ran: Callable[[Worker], None],
        waits: Callable[[Invocation], None],
    ) -> None:
        self._project = project
        self._staging = staging
        self._ends = ends
        self._host = host
        self._ran = ran
        self._waits = waits

    # --- pieces ----------------------------------------------------------------------------------

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
                    self.take_frame(worker, frame)
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

    def settle(self) -> None:
        """Do at the end of a turn what follows from what workers sent in it."""
        if len(self._ends):
            self._ends.drain()
        if self._staging.lines:
            self._staging.serve()

    def at_end(self, worker: Worker) -> None:
        """Kill a worker that sends nothing any more: it is dead, or of no more use."""
        worker.process.kill()

    def _after_runs(self, worker: Worker, returned: Sequence[Gate]) -> None:
        """See what is next after a worker has ended runs."""
        now = monotonic()
        seconds = (now - worker.since) / len(returned)
        for gate in returned:
            self._staging.learn_pace(gate, seconds)
        worker.since, worker.useful = now, True
        worker.waits = worker.doubted = False
        self._ran(worker)
        self._staging.serve_soon()

    # --- frames ----------------------------------------------------------------------------------

    def take_frame(self, worker: Worker, frame: FromWorker) -> None:
        """Take what is neither the end of a run nor a log record."""
        if isinstance(frame, Reported):
            self._reported(worker, frame)
        elif isinstance(frame, Yielded):
            self._yielded(worker, frame)
        elif isinstance(frame, NestedCall):
            self._asked(worker, frame)
        elif isinstance(frame, Waits):
            self._waiting(worker, frame)
        elif isinstance(frame, Voided):
            worker.voiding = False
            self._staging.serve_soon()
        elif isinstance(frame, NestedCancel):
            if frame.number in worker.calls:
                self._host.cancel(worker.calls[frame.number])
        elif isinstance(frame, NestedGrant):
            nested = worker.calls.get(frame.number)
            if nested is not None:
                nested.grant(frame.total)

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
        self._staging.end(worker, given, _outcome(frame))
        returned.append(given.gate)

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

    def _asked(self, worker: Worker, call: NestedCall) -> None:
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

    def _waiting(self, worker: Worker, frame: Waits) -> None:
        """Give the place of a run to others while it waits for a request of its own."""
        given = worker.given.get(frame.number)
        if given is None:
            return
        given.invocation.started_at = given.invocation.started_at or worker.since
        nested = worker.calls.get(frame.nested) if frame.nested else None
        given.invocation.waits_for = nested
        worker.waits = nested is not None
        if nested is not None:
            self._staging.revoke(worker)
            self._waits(nested)
        self._staging.serve_soon()


def _outcome(frame: Returned) -> Outcome:
    if not frame.code:
        return Encoded(frame.payload)
    return Failure(
        RequestError.from_wire(frame.code, frame.message, frame.details, started=frame.started)
    )
