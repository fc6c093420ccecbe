"""
The fork server of a gateway, and the worker processes that it makes.

The gateway itself has threads, sockets and secrets, so it never forks. It starts one small process,
``python -m headgate.worker``, which has nothing of the kind, and that one forks a worker when it is
told to. Linux only: elsewhere `why_unsupported` says so.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from time import monotonic

import msgspec

from headgate.errors import ConfigurationError, GatewayUnreachable
from headgate.runtimes.link import (
    FromWorker,
    Loaded,
    Loading,
    Logged,
    NestedAnswer,
    NestedCall,
    Reader,
    ToWorker,
    WorkerCode,
    decode_from_worker,
    framed,
)

__all__ = ["ForkServer", "WorkerProcess", "why_unsupported"]

logger = logging.getLogger("headgate.runtimes")

PASSED_ON = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR")
"""Names of environment variables that every worker sees, beside all those of ``LC_``."""

START_SECONDS = 30.0
"""Seconds that the fork server has to begin, and to answer."""

STOP_SECONDS = 5.0
"""Seconds that the fork server has to end."""

PIECE = 256 * 1024
"""Bytes that are read from a worker at once, at most."""

ORPHANED = -signal.SIGKILL
"""The status of a worker whose fork server has died: the kernel kills it."""

WHOLE_GROUP = 1 << 2
"""PIDFD_SIGNAL_PROCESS_GROUP: also when the process itself is dead. Linux 6.9 and later."""

MOST_LOGGERS = 10_000
"""Loggers in the gateway, from which on records of workers make no others."""

PID = struct.Struct("!i")
EXIT = struct.Struct("!ii")


def why_unsupported() -> str:
    """Return why this system cannot run handlers in worker processes; empty if it can."""
    needed = hasattr(os, "eventfd") and hasattr(os, "pidfd_open") and hasattr(socket, "SCM_RIGHTS")
    if needed:
        return ""
    return f"Worker processes need Linux with Python 3.10 or later; this is {sys.platform}"


class WorkerProcess:
    """
    A worker process, as the gateway holds it; `close` must follow.

    Args:
        pid: Its process id, and that of its process group.
        pidfd: Means this process alone, also when its id is used again.
        sock: This end of the stream that the frames go through.
        permits: The eventfd of the permits to begin a run.
        dump: The end of a pipe from which the stacks of its threads are read.
        origin: The session that numbers the requests of its scripts.
    """

    def __init__(
        self,
        pid: int,
        *,
        pidfd: int,
        sock: socket.socket,
        permits: int,
        dump: int,
        origin: str = "",
    ) -> None:
        self.pid = pid
        """Its process id, and that of its process group."""
        self.sock = sock
        """This end of the stream that the frames go through."""
        self.permits = permits
        """The eventfd of the permits to begin a run; reading it never blocks."""
        self.dump = dump
        """The end of a pipe from which the stacks of its threads are read; it never blocks."""
        self.reader = Reader()
        """Holds what has arrived of a frame that is not complete."""
        self.early: list[FromWorker] = []
        """Frames that came right after `Loaded`, which nobody has looked at."""
        self.origin = origin
        """The session that numbers the requests of its scripts; empty if the gateway does."""
        self.born = monotonic()
        """When it was made, on the monotonic clock."""
        self.loading = ""
        """The script or library module that it loads; empty if it is not known."""
        self.status: int | None = None
        """Exit code, or the number of the signal that ended it, negative; None while it lives."""
        self._pidfd = pidfd
        self._lock = threading.Lock()
        self._tell: Callable[[int], None] | None = None
        self._closed = False

    def load(self, code: WorkerCode, deadline: float) -> Loaded:
        """
        Let it load what a generation of a project needs; blocks, on any thread.

        Args:
            code: What it is to load.
            deadline: When it must be done, on the monotonic clock.

        Raises:
            ConfigurationError: It did not come to an end with that in time, or died.
        """
        self.sock.settimeout(max(0.001, deadline - monotonic()))
        try:
            self._send(msgspec.structs.replace(code.frame(), origin=self.origin))
            for frame in self._frames(deadline):
                if isinstance(frame, Loaded):
                    self.sock.setblocking(False)
                    return frame
                self._take_early(frame)
        except TimeoutError:
            raise ConfigurationError(
                "Its worker process did not come to an end with loading it in time",
                cure="Scripts must not wait or compute when they are loaded: let a handler do it",
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise self._died_loading(str(error)) from None
        raise self._died_loading("")

    def _frames(self, deadline: float) -> Iterator[FromWorker]:
        while data := self.sock.recv(PIECE):
            frames = [decode_from_worker(each) for each in self.reader.feed(data)]
            for number, frame in enumerate(frames):
                if isinstance(frame, Loaded):
                    self.early = frames[number + 1 :]
                yield frame
            if monotonic() >= deadline:
                # One that never stops to log is never late with the next piece.
                raise TimeoutError
            self.sock.settimeout(max(0.001, deadline - monotonic()))

    def _take_early(self, frame: FromWorker) -> None:
        """Take what a worker says while it loads."""
        if isinstance(frame, Loading):
            self.loading = frame.file
        elif isinstance(frame, Logged):
            log(frame)
        elif isinstance(frame, NestedCall):
            text = "A script in a worker process can call only when it is loaded: call in a handler"
            error = GatewayUnreachable(text)
            self._send(NestedAnswer(frame.number, b"", error.code, text, started=False))

    def _send(self, frame: ToWorker) -> None:
        self.sock.sendall(framed(frame))

    def _died_loading(self, why: str) -> ConfigurationError:
        end = monotonic() + 1.0
        while self.status is None and monotonic() < end:
            threading.Event().wait(0.005)
        how = ended_by(self.status) if self.status is not None else why or "it closed its socket"
        return ConfigurationError(
            f"Its worker process died of loading it ({how})",
            cure="Look at what it does at its top level, and at what it imports",
        )

    def when_dead(self, tell: Callable[[int], None]) -> None:
        """Have its `status` told when it is dead, on another thread; at once if it is already."""
        with self._lock:
            self._tell = tell
            status = self.status
        if status is not None:
            tell(status)

    def died(self, status: int) -> None:
        """Take note of its death; for its fork server."""
        with self._lock:
            if self.status is not None:
                return
            self.status = status
            tell = self._tell
        if tell is not None:
            tell(status)

    def kill(self) -> None:
        """Kill it, and with it what it has started; its death comes later."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it is dead."""
        with self._lock:
            if not self._closed and self.status is None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, number)

    def read_dump(self) -> bytes | None:
        """
        Return what it has told of its stacks and nobody has read, 256 KiB at most; None after
        `close`.
        """
        with self._lock:
            if self._closed:
                # The number of its pipe may be that of another file by now.
                return None
            with suppress(BlockingIOError):
                return os.read(self.dump, PIECE)
        return b""

    def kill_group(self) -> None:
        """Kill it and what it has started, when there is no fork server to do that."""
        with self._lock:
            if self._closed or self.status is not None:
                return
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL, None, WHOLE_GROUP)
            except OSError:
                # An older kernel. As long as there is the process, nobody else has its number.
                with suppress(OSError):
                    signal.pidfd_send_signal(self._pidfd, 0)
                    os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it if it lives, and let go of everything."""
        self.kill()
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.sock.close()
        for fd in (self.permits, self.dump, self._pidfd):
            os.close(fd)


class ForkServer:
    """
    The process from which a gateway's workers are forked; `spawn` starts it.

    When it dies, all its workers die with it.

    Args:
        name: Name of the gateway.
        origins: Gives each worker a session of its own, in which it numbers its requests. Default:
            whoever answers them numbers them.
    """

    def __init__(self, name: str, *, origins: Callable[[], str] = str) -> None:
        self._name = name
        self._origins = origins
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._workers: dict[int, WorkerProcess] = {}
        self._early: dict[int, int] = {}
        self._waiter: threading.Thread | None = None
        self._workers_lock = threading.Lock()
        self._closed = False

    @property
    def is_dead(self) -> bool:
        """Whether it can make no workers any more; another one must take its place."""
        return self._closed

    @property
    def pid(self) -> int | None:
        """Its process id; None before the first worker, and when it is dead."""
        return None if self._process is None or self._closed else self._process.pid

    def spawn(self, environment: Collection[str] = ()) -> WorkerProcess:
        """
        Make a worker process; blocks for some milliseconds, on any thread.

        Args:
            environment: Names of the gateway's environment variables that it may see.

        Raises:
            ConfigurationError: The system cannot have worker processes, or gives none now.
        """
        if problem := why_unsupported():
            raise ConfigurationError(problem, cure="Write runtime='thread'")
        with self._lock:
            try:
                return self._spawn({n: os.environ[n] for n in environment if n in os.environ})
            except (OSError, struct.error) as error:
                raise ConfigurationError(f"No worker process could be made: {error}") from None

    def close(self) -> None:
        """End it, and all its workers with it; blocks until they are gone."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
            control, self._control = self._control, None
        if control is not None:
            control.close()
        if process is not None:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._waiter is not None and self._waiter is not threading.current_thread():
            self._waiter.join(STOP_SECONDS)

    def _spawn(self, environment: Mapping[str, str]) -> WorkerProcess:
        if self._closed:
            raise OSError("the fork server has ended")
        control = self._control or self._start()
        assert self._process is not None
        with _Parcel() as parcel:
            message = msgspec.msgpack.encode({"environment": environment})
            try:
                socket.send_fds(control, [message], parcel.theirs)
                pid, pidfd = _answer(control)
            except TimeoutError:
                # What it answers later would be taken for the answer to something else.
                self._process.kill()
                raise
            worker = parcel.opened(pid, pidfd, self._origins())
        with self._workers_lock:
            self._workers[pid] = worker
            status = self._early.pop(pid, None)
            status = ORPHANED if self._closed else status
        if status is not None:
            self._bury(pid, status)
        return worker

    def _start(self) -> socket.socket:
        control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        exits, their_exits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = (their_control.fileno(), their_exits.fileno())
        with their_control, their_exits:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "headgate.worker", *map(str, fds)],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    env=_clean_environment(),
                    pass_fds=fds,
                    start_new_session=True,
                )
            except OSError:
                control.close()
                exits.close()
                raise
        control.settimeout(START_SECONDS)
        self._control = control
        name = f"headgate-{self._name}-forkserver"
        self._waiter = threading.Thread(target=self._wait, args=(exits,), name=name, daemon=True)
        self._waiter.start()
        return control

    # --- on its own thread -----------------------------------------------------------------------

    def _wait(self, exits: socket.socket) -> None:
        """Tell of deaths until the fork server itself is dead."""
        with exits:
            try:
                while data := exits.recv(EXIT.size):
                    self._bury(*EXIT.unpack(data))
            except OSError:
                logger.exception("The exits of worker processes cannot be read")
        was_closed, self._closed = self._closed, True
        if not was_closed:
            logger.error("The process that makes the workers of %s has died", self._name)
            self.close()
        with self._workers_lock:
            workers = list(self._workers.values())
        for worker in workers:
            # What the worker has started would be left otherwise: its fork server kills no more.
            worker.kill_group()
            self._bury(worker.pid, ORPHANED)

    def _bury(self, pid: int, status: int) -> None:
        with self._workers_lock:
            worker = self._workers.pop(pid, None)
            if worker is None:
                # It died before its `spawn` had come to an end.
                self._early[pid] = status
        if worker is not None:
            worker.died(status)


class _Parcel:
    """What a worker is made of: this side's ends, and those that are sent to it."""

    def __init__(self) -> None:
        self._sock, self._their_sock = socket.socketpair()
        self.dump, self._their_dump = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._permits = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_open = False

    @property
    def theirs(self) -> list[int]:
        """The worker's file descriptors, in the order that it expects."""
        return [self._their_sock.fileno(), self._permits, self._their_dump]

    def opened(self, pid: int, pidfd: int, origin: str) -> WorkerProcess:
        """Return the worker that was made of it."""
        self._is_open = True
        return WorkerProcess(
            pid,
            pidfd=pidfd,
            sock=self._sock,
            permits=self._permits,
            dump=self.dump,
            origin=origin,
        )

    def __enter__(self) -> _Parcel:
        return self

    def __exit__(self, *_: object) -> None:
        self._their_sock.close()
        os.close(self._their_dump)
        if not self._is_open:
            self._sock.close()
            os.close(self.dump)
            os.close(self._permits)


def _answer(control: socket.socket) -> tuple[int, int]:
    """Return the worker's pid and a pidfd of it."""
    fds = array("i")
    data, ancillary, _, _ = control.recvmsg(PID.size, socket.CMSG_SPACE(fds.itemsize))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    (pid,) = PID.unpack(data)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    os.set_inheritable(fds[0], False)
    return pid, fds[0]


def _clean_environment() -> dict[str, str]:
    """Return what the fork server sees: nothing of the gateway's but what finds its modules."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith("LC_")
    }
    # The gateway may have been started with a path of its own: its workers import the same.
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path if os.pathsep not in place)
    return {**passed, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def log(frame: Logged) -> None:
    """Put what a worker logged into the gateway's log."""
    name, text, known = frame.logger, frame.message, logging.root.manager.loggerDict
    if name not in known and len(known) >= MOST_LOGGERS:
        # They last as long as the gateway, and a handler may give each order one of its own.
        name, text = "headgate.worker", f"{name}: {text}"
    target = logging.getLogger(name)
    if target.isEnabledFor(frame.level):
        target.log(frame.level, "%s", f"{text}\n{frame.traceback}" if frame.traceback else text)


def ended_by(status: int) -> str:
    """Return how a process ended, such as ``exit code 3`` or ``signal SIGSEGV``."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
