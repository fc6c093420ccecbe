"""A gateway's end of the link to worker processes, frame by frame."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

import msgspec

import headgate
from headgate.invocation import Caller
from headgate.runtimes.link import (
    FromWorker,
    Load,
    Loaded,
    Loading,
    Reader,
    Returned,
    Run,
    ToWorker,
    decode_from_worker,
    framed,
)
from headgate.wire.codec import decode, encode

Kind = TypeVar("Kind")

CALLER = Caller("operator", frozenset({"line"}), host="panel-1")

ENVIRONMENT = {"PLANT": "north"}

SECONDS = 20.0
"""What is waited for at most: a test that needs so long has failed."""


class WorkerEnd:
    """A worker, as the gateway holds it."""

    def __init__(self, folder: Path, order: Callable[[list[int], dict[str, str]], tuple[int, int]]):
        self.folder = folder
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(SECONDS)
        self.permits = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.dump, their_dump = os.pipe()
        self.pid, self.pidfd = order(
            [theirs.fileno(), self.permits, their_dump], {"PLANT": "north"}
        )
        theirs.close()
        os.close(their_dump)
        self._reader = Reader()
        self.heard: list[FromWorker] = []
        """Frames that nobody has asked for."""
        self.loading: list[str] = []
        """What it has loaded, file by file, as it told."""
        self._number = 0

    def send(self, *frames: ToWorker) -> None:
        """Send frames in one piece."""
        self.sock.sendall(b"".join(map(framed, frames)))

    def load(self, scripts: dict[str, str], **fields: Any) -> Loaded:
        """Write scripts, by handler or by path below the project with ending, and load them."""
        handlers = {}
        for name, text in scripts.items():
            file = self.folder / (name if name.endswith(".py") else f"messages/{name}.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text), encoding="utf-8")
            if not name.endswith(".py"):
                handlers[name] = str(file)
        order = {"library": [str(self.folder / "library")], "log_level": 20, **fields}
        self.send(Load("hub", "ACME", scripts=handlers, **order))
        loaded = self.take(Loaded)
        self.loading = [frame.file for frame in self.heard if isinstance(frame, Loading)]
        self.heard = [frame for frame in self.heard if not isinstance(frame, Loading)]
        return loaded

    def run(
        self, handler: str, payload: Any = None, *, seconds: float = 60.0, **fields: Any
    ) -> Run:
        """Return a run to send."""
        self._number += 1
        deadline = time.monotonic() + seconds
        data = encode({} if payload is None else payload)
        return Run(self._number, handler, data, deadline, CALLER, "0" * 20, self._number, **fields)

    def begin(self, handler: str, payload: Any = None, **fields: Any) -> Run:
        """Send a run with its permit."""
        run = self.run(handler, payload, **fields)
        self.permit()
        self.send(run)
        return run

    def call(self, handler: str, payload: Any = None, **fields: Any) -> Any:
        """Run a handler to its end, and return its result."""
        self.begin(handler, payload, **fields)
        end = self.take(Returned)
        assert not end.code, (end.code, end.message, end.details)
        return decode(end.payload)

    def permit(self, count: int = 1) -> None:
        """Let so many runs begin."""
        os.eventfd_write(self.permits, count)

    def take_permits_back(self) -> int:
        """Take back what permits are left."""
        count = 0
        while True:
            try:
                count += os.eventfd_read(self.permits)
            except BlockingIOError:
                return count

    def take(self, kind: type[Kind], fits: Callable[[Kind], object] = lambda frame: True) -> Kind:
        """Wait for the next frame of a kind; others are kept in `heard`."""
        for place, frame in enumerate(self.heard):
            if isinstance(frame, kind) and fits(frame):
                del self.heard[place]
                return frame
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            data = self.sock.recv(1 << 20)
            assert data, f"The worker closed the link; before that: {self.heard}"
            frames = [decode_from_worker(each) for each in self._reader.feed(data)]
            found = [f for f in frames if isinstance(f, kind) and fits(f)]
            self.heard += [frame for frame in frames if not (found and frame is found[0])]
            if found:
                return found[0]
        raise AssertionError(f"No {kind.__name__} came, but {self.heard}")

    def signal(self, number: int) -> None:
        """Send the worker a signal."""
        signal.pidfd_send_signal(self.pidfd, number)

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def close(self) -> None:
        """Let go of it."""
        self.sock.close()
        for fd in (self.permits, self.dump, self.pidfd):
            os.close(fd)


class Nursery:
    """The fork server, as the gateway holds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.exits, exits = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (self.control, self.exits):
            sock.settimeout(SECONDS)
        fds = (control.fileno(), exits.fileno())
        # No file that the fork server may have been left with gets into a worker.
        stray = os.open("/dev/zero", os.O_RDONLY)
        source = str(Path(headgate.__file__).parent.parent)
        path = [each for each in sys.path if each.endswith("site-packages")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headgate.worker", *map(str, fds)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([source, *path])},
            pass_fds=(*fds, stray),
            stdin=subprocess.DEVNULL,
            stdout=2,
            cwd=folder,
        )
        os.close(stray)
        control.close()
        exits.close()
        self.workers: list[WorkerEnd] = []
        self._exited: dict[int, int] = {}

    def spawn(self) -> WorkerEnd:
        """Make a worker."""
        worker = WorkerEnd(self.folder / "ACME", self._order)
        self.workers.append(worker)
        return worker

    def loaded(self, scripts: dict[str, str], **fields: Any) -> WorkerEnd:
        """Make a worker that has loaded scripts, all of them."""
        worker = self.spawn()
        loaded = worker.load(scripts, **fields)
        assert loaded.problems == []
        return worker

    def exit_of(self, worker: WorkerEnd) -> int:
        """Wait for the death of a worker: its exit code or the negative signal."""
        while worker.pid not in self._exited:
            pid, status = struct.unpack("!ii", self.exits.recv(8))
            self._exited[pid] = status
        return self._exited[worker.pid]

    def clear(self) -> None:
        """Kill the workers, and wait until they are gone."""
        for worker in self.workers:
            if worker.pid not in self._exited:
                worker.signal(signal.SIGKILL)
                self.exit_of(worker)
            worker.close()
        self.workers, self._exited = [], {}

    def close(self) -> None:
        """End it."""
        self.control.close()
        try:
            assert self.process.wait(SECONDS) in (0, -signal.SIGKILL)
        finally:
            self.exits.close()
            for worker in self.workers:
                worker.close()

    def _order(self, fds: list[int], environment: dict[str, str]) -> tuple[int, int]:
        message = msgspec.msgpack.encode({"environment": environment})
        socket.send_fds(self.control, [message], fds)
        received = array("i")
        data, ancillary, *_ = self.control.recvmsg(4, socket.CMSG_SPACE(4))
        for _, _, content in ancillary:
            received.frombytes(content)
        (pid,) = struct.unpack("!i", data)
        assert pid > 0, os.strerror(-pid)
        return pid, received[0]
