"""
A worker: it loads what it is told, and runs handlers, one run at a time.

Theory of operation: the main thread runs the handlers, because signals come there. Another thread
reads the link, so that a handler learns that nobody waits for it, and gets the answers to its own
requests, while it runs. A run begins when the main thread has a permit for it; what has been
written ahead waits in a table until then, and a `Void` takes it out again.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any, NoReturn

from headgate.errors import CancellationException, HandlerNotFound
from headgate.invocation import NOBODY, Invocation
from headgate.outcome import Failure, Outcome
from headgate.projects.project import Handler
from headgate.runtimes.execute import execute, execute_async, interrupted
from headgate.runtimes.gate import begin
from headgate.runtimes.link import (
    Granted,
    Load,
    Loading,
    NestedAnswer,
    NestedEvent,
    Reader,
    Run,
    Stop,
    ToWorker,
    Void,
    Voided,
    Waits,
    decode_to_worker,
)
from headgate.worker.loading import load
from headgate.worker.logs import log_to
from headgate.worker.scope import Home
from headgate.worker.speaking import Link, Reports

__all__ = ["Worker", "serve"]

logger = logging.getLogger("headgate.worker")

PIECE = 256 * 1024
"""Bytes that are read at once, at most."""

LOOK_SECONDS = 1.0
"""Seconds after which the reader looks at what is overdue, also when nothing arrives."""

STEP_SECONDS = 0.05
"""Seconds between two looks at whether what is to be interrupted still goes on."""

WATCHED_STEPS = 40
"""How often that is looked at: the signal may come some time after the word."""

SWITCH_SECONDS = 0.001
"""Seconds for which a computing handler keeps the other threads of its worker from their turn."""


def serve(sock: socket.socket, permits: int, dump: int) -> NoReturn:
    """
    Be a worker until the gateway closes the link; on the main thread.

    Args:
        sock: The worker's end of the link.
        permits: The eventfd of the permits to begin a run; reading it does not block.
        dump: Where the stacks of its threads go when SIGUSR2 comes, or when it crashes.
    """
    # A gateway that does not read must not hold up what is looked at.
    os.set_blocking(dump, False)
    # At once the signal is harmless. One thread's stack: there may be more than would be written.
    faulthandler.register(signal.SIGUSR2, file=dump, all_threads=False)
    faulthandler.enable(file=dump, all_threads=False)
    Worker(sock, permits, dump).work()


class Worker:
    """
    Runs the handlers of one project for a gateway.

    It is also the `Slot` of what it runs: a handler that waits for a request of its own says so.

    Args:
        sock: The worker's end of the link.
        permits: The eventfd of the permits.
        dump: Where stacks go.
    """

    def __init__(self, sock: socket.socket, permits: int, dump: int) -> None:
        self._sock = sock
        self._permits = permits
        self._dump = dump
        self._poll = select.poll()
        self._poll.register(permits, select.POLLIN)
        self._link = Link(sock)
        self._log = log_to(self._link)
        self._reports = Reports(self._link)
        self._home = Home(self._link)
        self._orders: SimpleQueue[Load] = SimpleQueue()
        self._project = ""
        self._handlers: Mapping[str, Handler] = {}
        self._numbers: SimpleQueue[int] = SimpleQueue()
        """The runs in the table, and those that were taken out of it, in order."""
        self._waiting: dict[int, Run] = {}
        self._stopped: set[int] = set()
        self._grants: dict[int, int] = {}
        self._running: Invocation | None = None
        self._last = 0
        self._signalled = False
        self._handled = False
        self._arrivals, self._arrival = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Outcome] | None = None
        self._cancelled: asyncio.Task[Outcome] | None = None
        self._blocking: asyncio.Task[Outcome] | None = None

    def work(self) -> NoReturn:
        """Load, then run what there are permits for."""
        sys.setswitchinterval(SWITCH_SECONDS)
        signal.set_wakeup_fd(self._arrival, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._take_signal)
        os.register_at_fork(after_in_child=self._leave)
        threading.Thread(target=self._read, name="headgate-link", daemon=True).start()
        self._load(self._orders.get())
        while True:
            self._perform(self._next())

    # --- on the main thread ----------------------------------------------------------------------

    def _load(self, order: Load) -> None:
        self._home.name, self._home.origin = order.gateway, order.origin
        self._project = order.project
        logging.root.setLevel(order.log_level)
        self._handlers, loaded = load(
            order,
            self._home.scope(order.project).system,
            on_load=lambda file: self._link.send(Loading(file)),
        )
        self._link.send(loaded)

    def _next(self) -> Run:
        """Wait for a run and a permit; return the first run that was not taken back."""
        if self._loop is None:
            number = self._numbers.get()
            self._take_permit()
        else:
            self._take_permit()
            number = self._numbers.get()
        while (run := self._waiting.pop(number, None)) is None:
            number = self._numbers.get()
        return run

    def _take_permit(self) -> None:
        while True:
            try:
                os.eventfd_read(self._permits)
                return
            except BlockingIOError:
                if self._loop is None:
                    self._poll.poll()
                else:
                    # Tasks that a handler has left behind go on meanwhile.
                    self._complete(self._loop, self._loop.create_task(self._permitted(self._loop)))

    async def _permitted(self, loop: asyncio.AbstractEventLoop) -> None:
        readable = asyncio.Event()
        loop.add_reader(self._permits, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._permits)

    def _perform(self, run: Run) -> None:
        number = run.number
        invocation = Invocation(
            run.caller,
            self._project,
            run.handler,
            run.payload,
            run.deadline,
            NOBODY,
            run.origin,
            run.sequence,
            run.ancestors,
            tag=number,
            wants_result=run.wants_result,
            slot=self,
            home=self._home,
            streams=run.streams,
            priority=run.priority,
        )
        self._signalled = self._handled = False
        # Before the looks: what comes after them finds it here.
        self._running = invocation
        if number in self._stopped:
            self._stopped.discard(number)
            invocation.cancelled = True
        if number in self._grants:
            invocation.grant(self._grants.pop(number))
        try:
            outcome = self._outcome(invocation)
        except KeyboardInterrupt:
            outcome = interrupted()
        if self._link.is_dead:
            # A child that the handler has made came back from it.
            os._exit(0)
        self._running, self._last = None, number
        self._link.send_end(invocation, outcome)

    def _outcome(self, invocation: Invocation) -> Outcome:
        handler = self._handlers.get(invocation.handler)
        if handler is None:
            text = f"The worker has not loaded the message handler {invocation.target}"
            return Failure(HandlerNotFound(text, started=False))
        if invocation.cancelled:
            return Failure(
                CancellationException(f"{invocation.target} has not begun", started=False)
            )
        late = begin(invocation)
        if late is not None:
            return late
        if handler.signature.is_async:
            return self._run_task(invocation, handler)
        return execute(invocation, handler, self._reports)

    def _run_task(self, invocation: Invocation, handler: Handler) -> Outcome:
        # asyncio's own: it is begun and left for each run, which takes uvloop three times as long.
        loop = self._loop = self._loop or asyncio.new_event_loop()
        invocation.awaits = self._awaits
        task = loop.create_task(execute_async(invocation, handler, self._reports))
        self._task = task
        self._complete(loop, task)
        self._task = None
        # A task that is cancelled before its first step has nobody to say how it ended.
        return interrupted() if task.cancelled() else task.result()

    @staticmethod
    def _complete(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """Run the loop until a task is over, whatever others on it do."""
        while not task.done():
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                pass
            except (SystemExit, KeyboardInterrupt, RuntimeError):
                # A task that wants to end the program, or the loop, ends itself.
                logger.exception("A task of a handler wanted to exit")

    def leave(self, nested: Invocation | None) -> bool:
        """Say that the handler waits for a request of its own."""
        running = self._running
        if nested is None or running is None or threading.current_thread() is not _MAIN:
            return False
        self._link.send(Waits(running.tag, nested.tag))
        return True

    def enter(self) -> None:
        """Say that the handler goes on."""
        if self._running is not None:
            self._link.send(Waits(self._running.tag, 0))

    def _awaits(self, invocation: Invocation, nested: Invocation | None) -> None:
        # Other tasks of the handler may await while it goes on itself, so only its own one counts.
        if asyncio.current_task() is self._task:
            self._link.send(Waits(invocation.tag, nested.tag if nested is not None else 0))

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        """
        Interrupt the handler, if the gateway has said that it is to be stopped.

        The signal may come before that word, or when the run that it was for is over. So it counts
        together with a `Stop` alone, whichever of the two comes first.
        """
        running, task = self._running, self._task
        self._has_arrived()
        self._signalled = True
        if running is None or not running.cancelled:
            return
        self._handled = True
        self._signalled = False
        if self._link.put_off(frame):
            return
        if task is None or self._loop is None:
            # Nothing but the run is ever interrupted; before it has begun it sees the word itself.
            if _is_within(frame, Worker._outcome.__code__):
                raise KeyboardInterrupt
        elif self._blocking is not task:
            self._cancelled = task
            self._loop.call_soon_threadsafe(task.cancel)
        elif asyncio.current_task(self._loop) is task:
            raise KeyboardInterrupt

    def _leave(self) -> None:
        """In a child of the worker: it is no worker, and must not speak or be taken for one."""
        self._link.leave()
        self._home.leave()
        faulthandler.disable()
        faulthandler.unregister(signal.SIGUSR2)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = sys.__stdout__
        for fd in (self._permits, self._dump, self._arrivals, self._arrival):
            os.close(fd)

    # --- on the thread that reads the link -------------------------------------------------------

    def _read(self) -> NoReturn:
        """Take frames until the gateway closes the link, which ends the worker."""
        try:
            self._take_all()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)

    def _take_all(self) -> None:
        # So that the reader looks at what is overdue. It does not touch how sending waits.
        seconds = struct.pack("ll", int(LOOK_SECONDS), int(LOOK_SECONDS % 1 * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        reader, following = Reader(), time.monotonic() + LOOK_SECONDS
        while True:
            try:
                data = self._sock.recv(PIECE)
            except BlockingIOError:
                pass
            except ConnectionError:
                return
            else:
                if not data:
                    return
                for each in reader.feed(data):
                    self._take(decode_to_worker(each))
            now = time.monotonic()
            if now >= following:
                following = now + LOOK_SECONDS
                self._home.look(now)
                self._log.look()

    def _take(self, frame: ToWorker) -> None:
        match frame:
            case Run():
                self._waiting[frame.number] = frame
                self._numbers.put(frame.number)
            case NestedAnswer():
                self._home.answered(frame)
            case NestedEvent():
                self._home.heard(frame)
            case Granted():
                self._grant(frame)
            case Stop():
                self._stop(frame.number)
            case Void():
                for number in frame.numbers:
                    self._waiting.pop(number, None)
                    self._grants.pop(number, None)
                    self._stopped.discard(number)
                self._link.send(Voided())
            case Load():
                self._orders.put(frame)

    def _grant(self, frame: Granted) -> None:
        if frame.number > self._last:
            # Before the look: a run that begins meanwhile looks at it after that.
            self._grants[frame.number] = frame.total
        running = self._running
        if running is not None and running.tag == frame.number:
            self._grants.pop(frame.number, None)
            running.grant(frame.total)

    def _stop(self, number: int) -> None:
        if number > self._last:
            # Before the look, too.
            self._stopped.add(number)
        running = self._running
        if running is None or running.tag != number:
            # A signal that is here already was not for what runs now.
            self._signalled = False
            return
        self._stopped.discard(number)
        running.cancelled = True
        if running.flow is not None:
            running.flow.close()
        threading.Thread(target=self._watch, args=(running, self._task), daemon=True).start()
        if self._signalled:
            self._signalled = False
            signal.pthread_kill(_MAIN.ident or 0, signal.SIGINT)

    def _watch(self, run: Invocation, task: asyncio.Task[Outcome] | None) -> None:
        """
        See that a signal is not lost on a run that is to stop.

        Python acts on a signal between two of its own steps, and when one interrupts a call that
        blocks. One that comes right before such a call would wait for its end, so it is repeated. A
        task is first cancelled; one that does not let its loop do that is interrupted.
        """
        arrived = False
        for _ in range(WATCHED_STEPS):
            time.sleep(STEP_SECONDS)
            if self._running is not run:
                return
            arrived = self._has_arrived() or arrived
            if self._holds_loop(task):
                self._blocking, self._handled, arrived = task, False, True
            if arrived and not self._handled:
                signal.pthread_kill(_MAIN.ident or 0, signal.SIGINT)

    def _holds_loop(self, task: asyncio.Task[Outcome] | None) -> bool:
        """Whether a task goes on although it was cancelled, and was not interrupted yet."""
        if task is None or self._cancelled is not task or self._blocking is task:
            return False
        return asyncio.current_task(self._loop) is task

    def _has_arrived(self) -> bool:
        """Whether the signal has come since the last look, handled or not."""
        try:
            return signal.SIGINT in os.read(self._arrivals, 4096)
        except BlockingIOError:
            return False


_MAIN = threading.main_thread()


def _is_within(frame: FrameType | None, code: CodeType) -> bool:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
