"""Holds what the callers saw against what the handlers saw: each request once, and truthfully."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from soak import journal
from soak.gateway import Life
from soak.journal import Event
from soak.rows import Row, read

__all__ = ["Account", "lost_while_running"]

NEVER_SENT = "0" * 32

ANSWER_SLACK = 5.0
"""Seconds for which a caller may wait for the answer of a handler that has ended."""

START_SLACK = 3.0
"""Seconds after the deadline at which a handler's begin is too late on a busy machine as well."""

SHOWN = 5
"""Problems of one sort that are told in full."""


def lost_while_running(folder: Path) -> int:
    """
    Count the lost requests so far whose handler had begun, as the journal alone knows.

    Who was told of the begin before the connection was lost is left out: they are not in doubt.
    """
    lost = {
        (row.process, row.number)
        for row in read(folder)
        if row.code == "connection_lost" and row.started is not True
    }
    begun = (e for e in journal.read(folder) if e.event == journal.BEGUN)
    return sum((event.process, event.number) in lost for event in begun)


class Run:
    """What the journals say of one request."""

    __slots__ = ("begun", "begun_at", "end", "ended_at", "ends", "inner", "request_id")

    def __init__(self) -> None:
        self.begun = 0
        self.begun_at = 0.0
        self.ends = 0
        self.end = 0
        self.ended_at = 0.0
        self.inner: Counter[int] | None = None
        self.request_id = ""

    def take(self, event: Event) -> None:
        """Take one record."""
        if event.event == journal.BEGUN:
            self.begun += 1
            self.begun_at = event.time
            self.request_id = event.request_id
        elif event.event in journal.ENDS:
            self.ends += 1
            self.end, self.ended_at = event.event, event.time
        else:
            self.inner = self.inner or Counter()
            self.inner[event.event] += 1


class Account:
    """
    The books of a soak that is over.

    Args:
        folder: Where the ledgers and journals are.
        lives: The lives of the gateway.
        made: Requests that each process says it made; of slow peers too, who keep no ledger.
    """

    def __init__(self, folder: Path, *, lives: list[Life], made: Mapping[int, int]) -> None:
        self.booked = 0
        """Requests in the ledgers."""
        self.runs = 0
        """Runs of handlers in the journals."""
        self.fates: Counter[str] = Counter()
        """Fates of what was cancelled or timed out."""
        self.started: Counter[str] = Counter()
        """What the failed requests say about their start."""
        self._folder = folder
        self._made = made
        self._ends = {life.boot: life.end for life in lives}
        self._found: Counter[str] = Counter()
        self._told: list[str] = []

    def problems(self) -> list[str]:
        """Check everything; return what is wrong, in words."""
        rows_by_process: dict[int, list[Row]] = {process: [] for process in self._made}
        for row in read(self._folder):
            rows_by_process[row.process].append(row)
        for process, rows in rows_by_process.items():
            runs = self._runs_of(process)
            self.runs += sum(run.begun for run in runs.values())
            self._check_numbers(process, rows, runs)
            for number, run in runs.items():
                if run.begun > 1 or run.ends > 1:
                    self._tell("a handler ran twice", f"request {process}/{number}")
            for row in rows:
                for sort in self._wrongs(row, runs.get(row.number) or Run()):
                    self._tell(sort, f"{row.name}, id {row.request_id}, fate {row.fate}")
        more = {sort: count for sort, count in self._found.items() if count > SHOWN}
        return self._told + [f"{sort}: {count} times in all" for sort, count in more.items()]

    def _runs_of(self, process: int) -> dict[int, Run]:
        runs: dict[int, Run] = {}
        for event in journal.read(self._folder):
            if event.process == process:
                runs.setdefault(event.number, Run()).take(event)
        return runs

    def _check_numbers(self, process: int, rows: list[Row], runs: dict[int, Run]) -> None:
        """Every number from 1 to the last is in the ledger once, and no other ran."""
        known = range(1, self._made[process] + 1)
        strange = [number for number in runs if number not in known]
        if strange:
            self._tell("a handler ran for a request that nobody made", f"{process}/{strange[:5]}")
        if not rows:
            return  # slow peers have no ledger
        counts = Counter(row.number for row in rows)
        self.booked += len(rows)
        wrong = [number for number in known if counts[number] != 1]
        if wrong or len(counts) != len(known):
            self._tell("requests that are not booked exactly once", f"{process}/{wrong[:5]}")

    def _wrongs(self, row: Row, run: Run) -> Iterator[str]:
        survived = not self._ends.get(row.request_id[8:14])
        killed = self._ends.get(row.request_id[8:14]) == "killed"
        if row.code != "ok":
            self.started[str(row.started)] += 1
        if row.code in ("timeout", "cancelled"):
            self.fates[row.fate] += 1
        yield from self._wrong_starts(row, run, killed=killed)
        yield from self._wrong_ends(row, run)
        yield from self._wrong_fates(row, run, killed=killed)
        if run.begun and run.begun_at > row.deadline + START_SLACK:
            yield "a handler began after the deadline"
        if run.inner is not None and survived:
            yield from self._wrong_inner(run.inner)

    def _wrong_starts(self, row: Row, run: Run, *, killed: bool) -> Iterator[str]:
        if run.begun and row.started is False:
            yield ".started is False, and the handler ran"
        is_message = "message" in row.kind.options
        if not run.begun and row.started and not killed and not is_message:
            yield ".started is True, and the handler did not run"
        if run.begun and row.request_id == NEVER_SENT:
            yield "a request ran that has no id"
        # A message's handlers run in copies, whose ids are the message's own.
        if run.begun and row.request_id != run.request_id:
            yield "the handler's request id is another one than the caller's"

    def _wrong_ends(self, row: Row, run: Run) -> Iterator[str]:
        survived = not self._ends.get(row.request_id[8:14])
        if "message" in row.kind.options:
            if row.code == "ok" and survived and run.end != journal.RETURNED:
                yield "a message was SENT, and its handler did not run"
            return
        if row.code in ("ok", "payload") and run.end != journal.RETURNED:
            yield "there is a result, and the handler did not return"
        if row.code == "handler_error" and run.end != journal.RAISED:
            yield "there is a handler's error, and the handler did not raise"
        # Connections are cut every few seconds: what waits for a lost answer mostly ends so.
        waited = row.code in ("timeout", "connection_lost")
        answered = run.end in (journal.RETURNED, journal.RAISED)
        if waited and answered and run.ended_at < row.ended - ANSWER_SLACK:
            yield "an answer was lost"

    def _wrong_fates(self, row: Row, run: Run, *, killed: bool) -> Iterator[str]:
        if row.code not in ("timeout", "cancelled"):
            return
        if row.fate == "not started" and run.begun:
            yield "the fate is 'not started', and the handler ran"
        if row.fate == "finished" and run.end not in (journal.RETURNED, journal.RAISED):
            yield "the fate is 'finished', and the handler did not finish"
        if row.fate == "stopped" and run.begun and run.end != journal.INTERRUPTED:
            yield "the fate is 'stopped', and the handler was not interrupted"
        if row.fate == "still running" and not run.begun and not killed:
            yield "the fate is 'still running', and the handler did not run"

    @staticmethod
    def _wrong_inner(inner: Counter[int]) -> Iterator[str]:
        ends = inner[journal.INNER_SUCCEEDED] + inner[journal.INNER_FAILED]
        if ends != inner[journal.INNER_MADE]:
            yield f"a nested request had {ends} ends"
        if inner[journal.INNER_BEGUN] > 1:
            yield "a nested handler ran twice"

    def _tell(self, sort: str, what: str) -> None:
        self._found[sort] += 1
        if self._found[sort] <= SHOWN:
            self._told.append(f"{sort}: {what}")
