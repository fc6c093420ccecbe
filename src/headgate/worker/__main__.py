"""
The fork server of a gateway: ``python -m headgate.worker CONTROL EXITS``.

A gateway has threads, sockets and secrets, so it never forks. It starts this program, which has
none of them, and tells it on CONTROL to make workers; EXITS tells of their ends. Both are numbers
of sockets that keep the bounds of messages.

One message on CONTROL makes one worker: a MessagePack map with ``environment``, the variables that
it gets beside the fork server's own, and three file descriptors: its end of the link, the eventfd
of its permits, and the end of a pipe for the stacks of its threads. The answer is a process id,
with a pidfd that means that process alone; or, negative, the number of an error.

A worker's end is told on EXITS, once, by its process id and its exit code, or the negative number
of a signal; all that the worker has started in its process group is killed before that. When the
gateway's end of CONTROL closes, everything is killed and the program ends.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from typing import Any, NoReturn

import msgspec

from headgate.worker.serving import serve

__all__ = ["Birth", "Nursery", "main"]

MESSAGE = 1024 * 1024
"""Bytes of a message of the gateway, at most."""

NICENESS = 5
"""
How far workers stand back where the processors are busy.

Handlers that compute may take all of them, and the gateway must still answer everybody else: of a
processor that both want, a gateway keeps three quarters beside one worker of this niceness.
"""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

PID = struct.Struct("!i")
EXIT = struct.Struct("!ii")

_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


class Birth(msgspec.Struct, frozen=True):
    """What a worker is given."""

    sock: int
    """Its end of the link."""
    permits: int
    """The eventfd of the permits to begin a run."""
    dump: int
    """Where the stacks of its threads go."""
    environment: dict[str, str]
    """The variables that it gets."""


class Order(msgspec.Struct, frozen=True):
    """The gateway's word that a worker is to be made."""

    environment: dict[str, str] = {}


class Nursery:
    """
    Makes workers, and sees to their ends.

    It has one thread, so that what it forks is whole.

    Args:
        control: Where the gateway orders workers.
        exits: Where it is told of their ends.
    """

    def __init__(self, control: socket.socket, exits: socket.socket) -> None:
        self._control = control
        self._exits = exits
        self._workers: set[int] = set()
        self._wakeups, self._wake = socket.socketpair()
        for end in (self._wakeups, self._wake):
            end.setblocking(False)

    def run(self) -> Birth | None:
        """
        Make workers until the gateway's end of the control socket closes.

        Returns:
            In a worker what it was given, in the fork server None: there are no workers any more.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        control = self._control.fileno()
        poll = select.poll()
        poll.register(control, select.POLLIN)
        poll.register(self._wakeups, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._wakeups.fileno() in ready:
                with suppress(BlockingIOError):
                    self._wakeups.recv(4096)
                self._reap()
            if control in ready:
                data, fds, *_ = socket.recv_fds(self._control, MESSAGE, 3)
                if not data:
                    self._end()
                    return None
                order = msgspec.msgpack.decode(data, type=Order)
                sock, permits, dump = fds
                birth = self._fork(Birth(sock, permits, dump, order.environment))
                if birth is not None:
                    return birth

    def _fork(self, birth: Birth) -> Birth | None:
        """Make a worker and answer; in the worker, return what it is given."""
        parent = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                return self._become_worker(birth, parent)
            self._workers.add(pid)
            self._introduce(pid)
        except OSError as error:
            self._answer(-(error.errno or errno.EIO), [])
        for fd in (birth.sock, birth.permits, birth.dump):
            os.close(fd)
        return None

    def _introduce(self, pid: int) -> None:
        """Tell the gateway of a worker; kill it if that cannot be done."""
        with suppress(OSError):  # it has done so itself, or is dead
            os.setpgid(pid, pid)
        try:
            # Nobody else gets this number before the worker is reaped, which is done here.
            pidfd = os.pidfd_open(pid)
        except OSError:
            _kill_group(pid)
            raise
        self._answer(pid, [pidfd])
        os.close(pidfd)

    def _answer(self, number: int, fds: list[int]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the gateway is gone
            socket.send_fds(self._control, [PID.pack(number)], fds)

    def _become_worker(self, birth: Birth, parent: int) -> Birth:
        """Leave all behind that is the fork server's."""
        try:
            self._leave(birth, parent)
        except BaseException:
            # A worker that is none must not go on as a second fork server.
            traceback.print_exc()
            os._exit(1)
        return birth

    def _leave(self, birth: Birth, parent: int) -> None:
        os.setpgid(0, 0)
        _set(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._control, self._exits, self._wakeups, self._wake):
            end.close()
        own = sorted((birth.sock, birth.permits, birth.dump))
        for below, above in zip((2, *own), (*own, os.sysconf("SC_OPEN_MAX")), strict=True):
            os.closerange(below + 1, above)
        for fd in own:
            os.set_inheritable(fd, False)
        os.environ.update(birth.environment)
        os.nice(NICENESS)
        # Where memory runs out, a worker goes first, and the gateway stays.
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")

    def _reap(self) -> None:
        """Take note of who is dead; a worker's group is killed as long as it has its number."""
        with suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                pid = dead.si_pid
                if pid in self._workers:
                    _kill_group(pid)
                _, status = os.waitpid(pid, 0)
                # Others are orphans of workers, which come here to be reaped.
                if pid in self._workers:
                    self._workers.discard(pid)
                    with suppress(OSError):  # the gateway is gone
                        self._exits.send(EXIT.pack(pid, os.waitstatus_to_exitcode(status)))

    def _end(self) -> None:
        for pid in self._workers:
            _kill_group(pid)
        for pid in self._workers:
            os.waitpid(pid, 0)


def main() -> NoReturn:
    """Be a fork server, and in its children a worker."""
    control, exits = (socket.socket(fileno=int(each)) for each in sys.argv[1:])
    if not sys.flags.safe_path:
        # The working folder: the gateway's own path is in PYTHONPATH.
        del sys.path[0]
    _stand_back()
    # Orphans of workers come to this process, because who else there is may not reap them.
    _set(PR_SET_CHILD_SUBREAPER, 1)
    # What was made so far is shared with all workers, and no collection of theirs touches it.
    gc.collect()
    gc.freeze()
    birth = Nursery(control, exits).run()
    if birth is None:
        sys.exit(0)
    serve(socket.socket(fileno=birth.sock), birth.permits, birth.dump)


def _stand_back() -> None:
    """
    Let this session stand back as its workers do, if it is one of its own.

    Where the kernel shares processors between sessions, the niceness of a process counts only
    beside others of its session, and the gateway is in another one.
    """
    if os.getsid(0) == os.getpid():
        with suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(NICENESS))


def _set(option: int, value: Any) -> None:
    if _prctl is not None:
        _prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _kill_group(pid: int) -> None:
    # By itself, too: a handler may have taken its worker into another group.
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
