"""The open requests of a gateway: their deadlines, their ends, and what their handlers asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic

from headgate.deadlines import Deadlines
from headgate.errors import CancellationException, RequestError, RequestTimeout
from headgate.gateway.excess import Excess
from headgate.gateway.rows import Rows
from headgate.invocation import Caller, Fate, Invocation, Withdrawable
from headgate.outcome import Failure, Outcome
from headgate.runtimes.gate import Gate
from headgate.security.audit import AuditSettings, Record, Recorder

__all__ = ["Requests"]

logger = logging.getLogger("headgate.gateway")

ANNOUNCE_AFTER = 0.02
"""Seconds without a result after which the caller is told that the handler runs."""

TICK_SECONDS = 0.02
"""Seconds between two looks at what runs, while anything is open."""


class Requests:
    """
    Every invocation that has not been answered; it belongs to the gateway's event loop.

    An invocation ends here, exactly once, whatever ends it. The asker is told, and then those
    requests that its handler made: after a success they go on by themselves, after anything else
    they are cancelled.

    Args:
        recorder: Is told how requests ended, as far as the settings say.
        audit: Those settings.
        excess: Adds up what users have refused, and what fails, beyond what has a row each.
        later: Runs a function on the event loop after a number of seconds.
        on_work: Called every now and then while anything is open.
    """

    def __init__(
        self,
        *,
        recorder: Recorder,
        audit: AuditSettings,
        excess: Excess,
        later: Callable[[float, Callable[[], None]], object],
        on_work: Callable[[], None],
    ) -> None:
        self._open: dict[Invocation, Invocation] = {}
        self._deadlines = Deadlines()
        self._recorder = recorder
        self._failures = Rows("failures", excess)
        self._later = later
        self._on_work = on_work
        self._ticking = False
        self.follow(audit)

    def follow(self, audit: AuditSettings) -> None:
        """Record as other settings say, from now on."""
        self._audit = audit
        self._records_answers = audit.requests == "all"
        self._sums_failures = audit.requests != "all" and not audit.strict

    def __len__(self) -> int:
        return len(self._open)

    async def all(self) -> list[Invocation]:
        """Return the open invocations of the gateway."""
        return list(self._open.values())

    async def find(self, request_id: str) -> Invocation | None:
        """Return the open invocation with this id, None if there is none."""
        return next((i for i in self._open.values() if i.request_id == request_id), None)

    def on_this_node(self) -> Iterable[Invocation]:
        """Return the open invocations of this node."""
        return list(self._open.values())

    def add(self, invocation: Invocation) -> None:
        """Keep an invocation until it ends."""
        self._open[invocation] = invocation
        if not invocation.arrived:
            invocation.arrived = monotonic()
        deadlines = self._deadlines
        if invocation.deadline < deadlines.next:
            deadlines.next = invocation.deadline
        if not self._ticking:
            self._ticking = True
            self._on_work()
            self._later(TICK_SECONDS, self._tick)

    def shorten(self, invocation: Invocation, deadline: float) -> None:
        """Give an open invocation an earlier deadline, if this one is earlier."""
        if deadline < invocation.deadline:
            invocation.deadline = deadline
            self._deadlines.add(deadline)
        # The one that counts when its parent has returned, which may be later than the parent's.
        if deadline < invocation.own_deadline:
            invocation.own_deadline = deadline

    def end(self, invocation: Invocation, outcome: Outcome) -> None:
        """Answer an invocation, if it is open."""
        if invocation.outcome is not None:
            return
        invocation.outcome = outcome
        del self._open[invocation]
        parent = invocation.parent
        if parent is not None and parent.children is not None:
            parent.children.pop(id(invocation), None)
        invocation.asker.ended(invocation, outcome)
        if invocation.children:
            self._leave_children(invocation, outcome)
        if type(outcome) is Failure:
            self._record_failure(invocation, outcome.error)
        elif self._records_answers:
            self._record_answer(invocation)

    def stop(self, invocation: Invocation, error: RequestError) -> None:
        """End an invocation with an error, and its handler as far as that goes."""
        if invocation.outcome is not None:
            return
        invocation.cancelled = True
        if invocation.flow is not None:
            invocation.flow.close()
        place = invocation.place
        fate = Fate.NOT_STARTED if place is None else _withdrawn(place, invocation)
        if fate == Fate.NOT_STARTED:
            error.started = False
        elif fate != Fate.UNKNOWN or invocation.started_at:
            error.started = True
        self.end(invocation, Failure(error))
        if fate != Fate.UNKNOWN:
            invocation.asker.learned(invocation, fate)

    def cancel(self, invocation: Invocation, why: str) -> None:
        """Cancel an invocation."""
        self.stop(invocation, CancellationException(f"{invocation.target} was cancelled: {why}"))

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables."""
        return {"open": len(self._open)}

    def _tick(self) -> None:
        now = monotonic()
        try:
            self._end_overdue(now)
            self._announce(now)
        finally:
            self._ticking = bool(self._open)
            if self._ticking:
                self._on_work()
                pause = min(TICK_SECONDS, max(0.001, self._deadlines.next - now))
                self._later(pause, self._tick)

    def _end_overdue(self, now: float) -> None:
        for key in self._deadlines.overdue(self._open, now):
            invocation = self._open.get(key)
            if invocation is not None:
                self.stop(invocation, _timeout(invocation))

    def _announce(self, now: float) -> None:
        """Tell the callers of handlers that have run for some time."""
        latest = now - ANNOUNCE_AFTER
        for invocation in self._open.values():
            if 0 < invocation.started_at <= latest and not invocation.announced:
                if _may_be_refused(invocation):
                    continue
                invocation.announced = True
                invocation.asker.started(invocation)

    def _record_failure(self, invocation: Invocation, error: RequestError) -> None:
        audit = self._audit
        record = Record.failed(invocation, error, payload=audit.payloads)
        if audit.requests == "none" and record.event == "failed":
            return
        in_full = record.event == "administered" or not self._sums_failures
        if in_full or self._failures.take(user=_answerable(invocation.caller)):
            self._record(record)

    def _record_answer(self, invocation: Invocation) -> None:
        # What was administered is recorded with what was changed.
        if invocation.action != "administer":
            payload = self._audit.payloads
            self._record(Record.of("answered", invocation, outcome="ok", payload=payload))

    def _record(self, record: Record) -> None:
        try:
            self._recorder.record(record)
        except Exception:
            # Requests end whether or not their ends can be written down.
            logger.exception("A record was lost: %s of %s", record.event, record.target)

    def _leave_children(self, invocation: Invocation, outcome: Outcome) -> None:
        children, invocation.children = invocation.children or {}, None
        for child in children.values():
            child.parent = None
            if type(outcome) is not Failure:
                child.deadline = child.own_deadline
            else:
                self.cancel(child, f"{invocation.target}, which asked for it, has ended")


def _answerable(caller: Caller) -> str:
    """Return whose rows a caller's are: users of another gateway are only its word."""
    return f"*@{caller.gateway[-1]}" if caller.gateway else caller.user


def _may_be_refused(invocation: Invocation) -> bool:
    """Whether a thread here still compares the payload with what its handler takes."""
    gate = invocation.place
    if invocation.fits or not isinstance(gate, Gate) or gate.handler.signature.check is None:
        return False
    return gate.handler.settings.runtime != "process"


def _withdrawn(place: Withdrawable, invocation: Invocation) -> str:
    try:
        return place.withdraw(invocation)
    except Exception:
        # The request ends all the same.
        logger.exception("%s could not be withdrawn", invocation.target)
        return Fate.UNKNOWN


def _timeout(invocation: Invocation) -> RequestTimeout:
    return RequestTimeout(
        f"{invocation.target} gave no result before the request's deadline"
        + ("" if invocation.started_at else "; it had not begun")
    )
