"""What a worker says to the gateway: whole frames, from any thread."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from types import FrameType
from typing import Any

from headgate.errors import HandlerError, RequestError
from headgate.invocation import Invocation
from headgate.outcome import Encoded, Failure, Outcome
from headgate.runtimes.emitter import Emitter
from headgate.runtimes.link import FromWorker, Reported, Returned, Yielded, framed
from headgate.wire.codec import encode

__all__ = ["Link", "Reports"]

REST = 0.001
"""Seconds in which progress and values that come after others are gathered."""


class Link:
    """
    The worker's end of the socket, for sending.

    What is sent leaves at once; a sender waits as long as the gateway does not take it.

    Args:
        sock: The socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.is_dead = False
        """Whether this is a child of the worker, which must not speak for it."""
        self._sock = sock
        # Reentrant: a collection of garbage may come in the middle, and a finalizer may log.
        self._lock = threading.RLock()
        self._interrupted = False

    def send(self, frame: FromWorker) -> None:
        """Send a frame."""
        self._send(lambda: (frame,))

    def send_waiting(self, invocation: Invocation) -> None:
        """Send the progress and the values of a run that wait; nothing is sent after its end."""
        self._send(lambda: _waiting(invocation) if invocation.outcome is None else ())

    def send_end(self, invocation: Invocation, outcome: Outcome) -> None:
        """Send the end of a run, after what else it has said."""

        def make() -> Iterable[FromWorker]:
            # At once with the frame: from here on a request is no child of this run.
            invocation.outcome = outcome
            return (*_waiting(invocation), _returned(invocation.tag, outcome))

        self._send(make)

    def send_within(self, invocation: Invocation | None, make: Callable[[int], FromWorker]) -> None:
        """
        Send a frame that names the run it is said in.

        Args:
            invocation: The run; None on a thread that runs no handler.
            make: Gets the run's number, 0 if its end was sent, and makes the frame.
        """

        def made() -> Iterable[FromWorker]:
            open_run = invocation is not None and invocation.outcome is None
            return (make(invocation.tag if invocation is not None and open_run else 0),)

        self._send(made)

    def put_off(self, frame: FrameType | None) -> bool:
        """
        Put an interrupt off that came in the middle of sending, so that a frame stays whole.

        Args:
            frame: Where the signal came.

        Returns:
            Whether it was put off: the signal will come again.
        """
        while frame is not None:
            if frame.f_code is Link._write.__code__:
                self._interrupted = True
                return True
            frame = frame.f_back
        return False

    def leave(self) -> None:
        """In a child of the worker: close the copy of the socket, and say nothing any more."""
        self.is_dead = True
        self._lock = threading.RLock()
        self._sock.close()

    def _send(self, make: Callable[[], Iterable[FromWorker]]) -> None:
        self._write(make)
        if self._interrupted and threading.current_thread() is threading.main_thread():
            self._interrupted = False
            signal.raise_signal(signal.SIGINT)

    def _write(self, make: Callable[[], Iterable[FromWorker]]) -> None:
        with self._lock:
            if self.is_dead:
                return
            data = b"".join([framed(frame) for frame in make()])
            try:
                self._sock.sendall(data)
            except OSError:
                # The gateway is gone, and with it whoever waited for this.
                os._exit(0)


class Reports:
    """
    Takes progress and yielded values of the run to the link.

    What comes first leaves at once. What follows within `REST` is gathered: of progress the latest
    value counts, yielded values leave together. A thread sends those, so that they leave also while
    the handler waits or computes.

    Args:
        link: Where it goes.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._told: SimpleQueue[Invocation] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._sent = 0.0

    def report(self, invocation: Invocation, value: Any) -> None:
        """Take a progress value."""
        data = encode(value, root="progress")
        waiting, invocation.reported = invocation.reported, data
        if waiting is None:
            self._tell(invocation)

    def open_stream(self, invocation: Invocation) -> Emitter:
        """Return what takes the values that a handler yields."""
        return Emitter(invocation, self._tell)

    def _tell(self, invocation: Invocation) -> None:
        now = time.monotonic()
        if now - self._sent >= REST:
            self._sent = now
            self._link.send_waiting(invocation)
            return
        self._told.put(invocation)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="headgate-reports", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            invocation = self._told.get()
            time.sleep(max(0.0, self._sent + REST - time.monotonic()))
            self._sent = time.monotonic()
            self._link.send_waiting(invocation)


def _waiting(invocation: Invocation) -> list[FromWorker]:
    frames: list[FromWorker] = []
    if invocation.reported is not None:
        data, invocation.reported = invocation.reported, None
        frames.append(Reported(invocation.tag, data))
    if invocation.yielded and (parts := invocation.take_yielded()):
        frames.append(Yielded(invocation.tag, parts))
    return frames


def _returned(number: int, outcome: Outcome) -> Returned:
    if type(outcome) is Encoded:
        return Returned(number, outcome.data)
    assert isinstance(outcome, Failure)
    error = outcome.error
    try:
        return _failed(number, error)
    except UnicodeEncodeError:
        return _failed(number, HandlerError(f"{type(error).__name__} with a text that is no text"))


def _failed(number: int, error: RequestError) -> Returned:
    message = error.message
    message.encode()
    return Returned(number, b"", error.code, message, error.started, error.details())
