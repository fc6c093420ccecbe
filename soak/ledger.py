"""What the callers saw: each request of a process, from its call until it is booked."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from headgate import Request
from headgate.errors import HandlerError, RequestError
from soak.payloads import differs
from soak.plan import KINDS, Order, Setup
from soak.rows import CODES, FATES, ROW, STARTED

__all__ = ["GRACE", "MOST_PROBLEMS", "Entry", "Ledger"]

SWEEP = 0.1
"""Seconds between two looks at what is open."""

GRACE = 10.0
"""Seconds after its deadline until which a request must be over; the machine may be busy."""

FATE_WAIT = 1.5
"""Seconds for which a final fate is waited for before a request is booked."""

MOST_PROBLEMS = 100

CUT = ("the connection broke", "the peer closed the connection", "the gateway closed it")
"""Why a connection may end in a soak; what a session complains of is none of these."""

OF_A_STOP = frozenset(
    {"ConnectionLost", "GatewayUnreachable", "RequestTimeout", "CancellationException"}
)
"""What a nested request may end with when its gateway stops."""


class Entry:
    """A request that is not booked yet, and what its callbacks saw."""

    __slots__ = (
        "cancelled",
        "ended",
        "expects",
        "handle",
        "ledger",
        "made",
        "number",
        "order",
        "progressed",
        "seen",
    )

    def __init__(self, ledger: Ledger, number: int, order: Order) -> None:
        self.ledger = ledger
        self.number = number
        self.order = order
        self.handle: Request | None = None
        self.made = time.monotonic()
        self.ended = 0.0
        self.cancelled = False
        self.expects = order.callbacks != "none"
        """Whether a callback is or will be set."""
        self.seen: list[Any] = []
        """What the end's callbacks got."""
        self.progressed = -1

    def complain(self, text: str) -> None:
        """Report something that must not be."""
        self.ledger.complain(f"request {self.number} ({self.order.kind.name}): {text}")

    def succeeded(self, value: Any) -> None:
        """The callback of a success."""
        self._called(value)
        if isinstance(value, RequestError):
            self.complain(f"the success callback got {value!r}")

    def failed(self, error: Any) -> None:
        """The callback of an error."""
        self._called(error)
        if not isinstance(error, RequestError):
            self.complain(f"the error callback got {error!r:.80}")

    def reported(self, value: Any) -> None:
        """The callback of progress."""
        if list(value["id"]) != self.order.payload["id"] or value["step"] <= self.progressed:
            self.complain(f"after progress {self.progressed} came {value!r}")
        self.progressed = value["step"]

    def set_callbacks(self) -> None:
        """Set the callbacks now, whether or not the request is over."""
        assert self.handle is not None
        self.handle.onSuccess(self.succeeded)
        self.handle.onError(self.failed)

    def cancel(self) -> None:
        """Cancel the request."""
        assert self.handle is not None
        over = self.handle.done
        self.cancelled = True
        if self.handle.cancel() and over:
            self.complain("cancel() says that it ended a request that was over")

    def _called(self, argument: Any) -> None:
        self.seen.append(argument)
        if len(self.seen) > 1:
            self.complain(f"its callbacks ran {len(self.seen)} times")
        if self.handle is not None and not self.handle.done:
            self.complain("its callback ran before it was over")
        if self.order.dawdle:
            time.sleep(self.order.dawdle)


class Ledger(threading.Thread):
    """
    The requests of one process.

    Its thread cancels what is to be cancelled, looks that what is open comes to an end, and writes
    what is over into a file.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(name="soak-ledger", daemon=True)
        self.problems: list[str] = []
        """What was not as it must be, the first ones."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """Booked requests by kind and end."""
        self.generations: Counter[int] = Counter()
        """Answers by the generation of the handler's file."""
        self.reasons: Counter[str] = Counter()
        """Why connections ended, by what the requests in flight were told."""
        self._setup = setup
        self._numbers = itertools.count(1)
        self._entries: dict[int, Entry] = {}
        self._cancels: list[tuple[float, int, Entry]] = []
        self._lock = threading.Lock()
        self._file = open(Path(setup.folder, f"ledger-{setup.process}"), "wb")  # noqa: SIM115
        self._ending = threading.Event()
        self.made = 0
        """Requests that were made so far."""

    def __len__(self) -> int:
        return len(self._entries)

    def open_entry(self, order: Order) -> Entry:
        """Begin to account for a request that is about to be made."""
        with self._lock:
            self.made = number = next(self._numbers)
        order.payload["id"] = [self._setup.process, number]
        return Entry(self, number, order)

    def take(self, entry: Entry, handle: Request) -> None:
        """Take the handle of a request that was made."""
        entry.handle = handle
        after = entry.order.cancel_after
        with self._lock:
            self._entries[entry.number] = entry
            if after is not None:
                heapq.heappush(self._cancels, (entry.made + after, entry.number, entry))

    def complain(self, text: str) -> None:
        """Keep a problem."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"process {self._setup.process}: {text}")

    def close(self) -> None:
        """Book what is left, and end."""
        self._ending.set()
        self.join()
        self._file.close()

    def run(self) -> None:
        """Cancel and book until `close`."""
        next_sweep = 0.0
        while not self._ending.wait(0.003):
            self._cancel_due()
            if time.monotonic() >= next_sweep:
                self._sweep()
                next_sweep = time.monotonic() + SWEEP
        for entry in list(self._entries.values()):
            self._book(entry, time.monotonic())

    def _cancel_due(self) -> None:
        now = time.monotonic()
        while self._cancels and self._cancels[0][0] <= now:
            with self._lock:
                *_, entry = heapq.heappop(self._cancels)
            entry.cancel()

    def _sweep(self) -> None:
        now = time.monotonic()
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            if self._is_complete(entry, now):
                self._book(entry, now)
        self._file.flush()

    def _is_complete(self, entry: Entry, now: float) -> bool:
        handle = entry.handle
        assert handle is not None
        if not handle.done:
            if now > max(handle.deadline, entry.made) + GRACE:
                entry.complain(f"it is not over {GRACE:.0f} s after its deadline")
                return True
            return False
        entry.ended = entry.ended or now
        waited = now - entry.ended
        if entry.expects and not entry.seen:
            if waited > GRACE:
                entry.complain(f"no callback ran within {GRACE:.0f} s")
            return waited > GRACE
        error = handle.error()
        if error is not None and error.code in ("timeout", "cancelled"):
            return waited > FATE_WAIT or handle.fate in ("not started", "stopped", "finished")
        return True

    def _book(self, entry: Entry, now: float) -> None:
        with self._lock:
            if self._entries.pop(entry.number, None) is None:
                return
        handle = entry.handle
        assert handle is not None
        code = "never"
        if handle.done:
            error = handle.error()
            code = "ok" if error is None else error.code
            self._check_end(entry, error)
        self.counts[entry.order.kind.name, code] += 1
        self._file.write(
            ROW.pack(
                entry.number,
                KINDS.index(entry.order.kind),
                CODES.index(code),
                STARTED.index(handle.started),
                FATES.index(handle.fate),
                bytes.fromhex(handle.request_id or "00" * 16),
                entry.made,
                entry.ended or now,
                handle.deadline,
            )
        )

    # --- is it a proper end? ---------------------------------------------------------------------

    def _check_end(self, entry: Entry, error: RequestError | None) -> None:
        handle = entry.handle
        assert handle is not None
        if entry.seen and entry.seen[0] is not (handle.result() if error is None else error):
            entry.complain(f"its callback got {entry.seen[0]!r:.80}, the handle has another end")
        problem = self._value(entry) if error is None else self._error(entry, error)
        if problem:
            entry.complain(problem)

    def _value(self, entry: Entry) -> str:
        kind, payload = entry.order.kind, entry.order.payload
        if not kind.succeeds:
            return "it succeeded"
        assert entry.handle is not None
        value = entry.handle.result()
        if "message" in kind.options:
            sent = len(value) == 1 and "sendStatus=SENT" in value[0]
            return "" if sent else f"its report is {value!r}"
        if value.get("id") != payload["id"]:
            return f"it got the answer of request {value.get('id')}"
        if "generation" in value:
            self.generations[value["generation"]] += 1
        return differs(payload["body"], value["body"])

    def _error(self, entry: Entry, error: RequestError) -> str:
        kind, text = entry.order.kind, str(error)
        match error.code:
            case "timeout":
                patient = entry.order.timeout >= self._setup.patience
                fine = kind.slow or not patient
            case "cancelled":
                fine = entry.cancelled
            case "unreachable":
                fine = error.started is False
            case "connection_lost":
                return self._loss(text)
            case "handler_error":
                assert isinstance(error, HandlerError)
                fine = self._is_proper(error, entry)
            case code:
                fine = code in kind.errors
        return "" if fine else f"it ended with {type(error).__name__}: {text[:300]}"

    def _is_proper(self, error: HandlerError, entry: Entry) -> bool:
        kind = entry.order.kind
        if "handler_error" not in kind.errors:
            return False
        if kind.name == "raise":
            return error.remote_message == str(entry.order.payload["id"])
        return error.remote_type in OF_A_STOP

    def _loss(self, text: str) -> str:
        reason = text.partition("before the answer came: ")[2] or text
        self.reasons[reason] += 1
        proper = reason.startswith(CUT) or "the client closed" in reason or "stopped" in reason
        return "" if proper else f"a connection ended by itself: {text}"
