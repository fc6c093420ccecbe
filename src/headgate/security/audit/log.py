"""The audit log as the gateway uses it: a queue that never blocks, and the thread behind it."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from math import inf
from pathlib import Path
from time import monotonic, time_ns
from types import TracebackType
from typing import Self

from headgate.errors import ConfigurationError, Overloaded
from headgate.security.audit.chain import moment
from headgate.security.audit.journal import Journal
from headgate.security.audit.keys import fingerprint
from headgate.security.audit.record import AuditSettings, Record

__all__ = ["AuditLog"]

logger = logging.getLogger("headgate.audit")

MAX_WAITING = 20_000
"""Records that may wait to be written; further ones are lost, and counted."""

BATCH_SECONDS = 0.05
"""Seconds for which records are gathered before they are written, if nobody waits for them."""

HEAD_SECONDS = 1.0
"""Seconds after which the head knows a new row, at most."""

CHECKPOINT_SECONDS = 60.0
"""Seconds after which a new row is followed by a checkpoint, at most."""

CHECKPOINT_ROWS = 1_000
"""Rows after which there is a checkpoint."""

RETRY_SECONDS = 1.0
"""Seconds between two tries to write while that fails."""

COMPLAIN_SECONDS = 60.0
"""Seconds between two lines in the log while writing fails."""

RETENTION_SECONDS = 3_600.0
"""Seconds between two looks for segments that are too old."""

Done = Callable[[bool], object]
"""Told whether a record is on the disk; on the thread that writes."""


class AuditLog:
    """
    The audit log in a gateway's data folder: a `Recorder`.

    ``with`` opens and closes it. Any thread may record; the order of the rows is that of the calls.

    Args:
        data: The gateway's data folder, which this process holds the lock of.
        settings: What is written, for how long, and what happens when nothing can be.

    Raises:
        ConfigurationError: The key is missing, damaged or open to others, or the folder cannot be
            used.
    """

    def __init__(self, data: str | os.PathLike[str], settings: AuditSettings | None = None) -> None:
        self.settings = settings or AuditSettings()
        """The settings of now."""
        self.guards = self.settings.strict
        """Whether a request must be held before its handler begins, or refused."""
        self.failing = False
        """Whether nothing can be written at this moment."""
        self.lost = 0
        """Records that were lost since rows could be written last."""
        self._data = Path(data)
        self._queue: deque[tuple[int, Record, Done | None]] = deque()
        self._pending: list[tuple[int, Record, Done | None]] = []
        self._backlog = 0
        self._lock = threading.Lock()
        self._lost_since = 0
        self._awake = False
        self._closing = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._head_due = self._checkpoint_due = self._retry_due = inf
        self._retention_due = self._complain_at = 0.0
        self._begun = False
        self._thread: threading.Thread | None = None

    def open(self) -> Self:
        """Find the end of the log, repair what a crash left, and take records from now on."""
        try:
            self._journal = Journal(self._data)
        except OSError as error:
            raise ConfigurationError(
                f"The audit log cannot be opened: {error.strerror}",
                cure="Let this user write the data folder, or make room on its disk",
                file=str(error.filename or self._data),
            ) from error
        self._closing = self._begun = False
        self._thread = threading.Thread(target=self._run, name="headgate-audit", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Write what waits, sign the end and stop; again is fine."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._closing = True
            self._hurry.set()
            self._wake.set()
            thread.join()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the public key that the log is signed with."""
        return fingerprint(self._journal.public)

    @property
    def waiting(self) -> int:
        """Records that wait to be written."""
        return len(self._queue) + len(self._pending)

    def configure(self, settings: AuditSettings) -> None:
        """Follow other settings from now on."""
        self.settings = settings
        self._judge()

    # --- from any thread -------------------------------------------------------------------------

    def record(self, record: Record) -> None:
        """Keep a record; it is on the disk a moment later."""
        queue = self._queue
        if len(queue) + self._backlog >= MAX_WAITING:
            self._lose(1)
            return
        queue.append((time_ns(), record, None))
        if not self._awake:
            self._awake = True
            self._wake.set()

    def commit(self, record: Record, done: Done) -> None:
        """
        Keep a record, and tell when it is on the disk.

        Args:
            record: What happens.
            done: Called once on the writing thread: True when it is there, False if that fails.
        """
        if self.failing or len(self._queue) >= MAX_WAITING:
            self.record(record)
            done(False)
            return
        self._queue.append((time_ns(), record, done))
        self._hurry.set()
        self._awake = True
        self._wake.set()

    def refusal(self) -> Overloaded | None:
        """Return why no request is taken at this moment, None if requests are taken."""
        if not self.failing or self.settings.on_full != "refuse":
            return None
        return Overloaded(
            "The gateway takes no requests, because it cannot write its audit log; whoever runs it "
            "finds the reason in its log",
            retry_after=RETRY_SECONDS,
            started=False,
        )

    def _lose(self, number: int) -> None:
        with self._lock:
            self.lost += number
            self._lost_since = self._lost_since or time_ns()
        if not self.failing:
            self._fails(f"{MAX_WAITING:,} records wait to be written")

    def _judge(self) -> None:
        settings = self.settings
        self.guards = settings.strict or (self.failing and settings.on_full == "refuse")

    def _fails(self, why: object) -> None:
        with self._lock:
            self.failing = True
            self._judge()
            now = monotonic()
            if now < self._complain_at:
                return
            self._complain_at = now + COMPLAIN_SECONDS
        policy = "are refused" if self.settings.on_full == "refuse" else "go on unrecorded"
        logger.error(
            "The audit log cannot be written: %s. %d records wait, %d are lost, requests %s",
            *(why, self.waiting, self.lost, policy),
        )

    # --- the thread that writes ------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._wait()
            self._turn()
        self._turn()
        self._end()

    def _wait(self) -> None:
        """Wait until there is something to do, and for what can be done with it."""
        due = min(self._head_due, self._checkpoint_due, self._retry_due, self._retention_due)
        pause = None if due == inf else max(0.0, due - monotonic())
        if self._wake.wait(pause) and not self._closing:
            self._hurry.wait(BATCH_SECONDS)
        self._wake.clear()
        self._hurry.clear()
        # What is recorded from here on wakes this thread again; what was before is taken now.
        self._awake = False

    def _turn(self) -> None:
        self._take()
        if monotonic() < self._retry_due < inf and not self._closing:
            self._tell(written=False)
            return
        try:
            self._write()
            self._maintain()
        except Exception as error:
            if not isinstance(error, OSError):
                logger.exception("The audit log failed")
            self._retry_due = monotonic() + RETRY_SECONDS
            self._backlog = len(self._pending)
            self._fails(error)
            self._tell(written=False)
        else:
            self._works()

    def _take(self) -> None:
        queue = self._queue
        self._pending += [queue.popleft() for _ in range(len(queue))]
        if self.failing:
            self._backlog = len(self._pending)

    def _write(self) -> None:
        journal = self._journal
        if not self._begun:
            journal.begin()
            self._begun = True
        if self._pending:
            journal.write([each[:2] for each in self._pending], self.settings.redact)
            self._tell(written=True)
            self._pending.clear()
            self._backlog = 0
            now = monotonic()
            self._head_due = min(self._head_due, now + HEAD_SECONDS)
            self._checkpoint_due = min(self._checkpoint_due, now + CHECKPOINT_SECONDS)
        if self.lost:
            self._tell_of_losses()

    def _tell_of_losses(self) -> None:
        with self._lock:
            lost, since = self.lost, self._lost_since
        self._journal.tell(
            "lost", f"{lost} records from {moment(since)} on could not be written", lost=lost
        )
        self._head_due = 0.0
        with self._lock:
            self.lost -= lost
            self._lost_since = time_ns() if self.lost else 0

    def _maintain(self) -> None:
        """Do what is due: close the segment, checkpoint, head, removal of what is too old."""
        journal, now = self._journal, monotonic()
        if now >= self._checkpoint_due or journal.rows_since_checkpoint >= CHECKPOINT_ROWS:
            journal.checkpoint()
            self._checkpoint_due = self._head_due = inf
        elif now >= self._head_due:
            journal.seal()
            self._head_due = inf
        if journal.rotate(self.settings) or now >= self._retention_due:
            journal.remove_old(self.settings)
            self._retention_due = now + RETENTION_SECONDS

    def _works(self) -> None:
        self._retry_due = inf
        if self.failing and not self.lost:
            with self._lock:
                self.failing = False
                self._complain_at = 0.0
                self._judge()
            logger.warning("The audit log can be written again")

    def _tell(self, *, written: bool) -> None:
        """Tell those who wait for their records; each is told once."""
        for place, (at, record, done) in enumerate(self._pending):
            if done is not None:
                self._pending[place] = (at, record, None)
                try:
                    done(written)
                except Exception:
                    logger.exception("Whoever waited for a record failed")

    def _end(self) -> None:
        try:
            if self._begun and not self._pending:
                self._journal.close()
        except OSError as error:
            logger.error("The audit log could not be closed: %s", error)
        if self.waiting:
            logger.error("The audit log is closed with %d records unwritten", self.waiting)
        self._journal.let_go()
