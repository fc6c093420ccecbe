"""Cuts TCP connections of its own process, without the program's knowledge."""

from __future__ import annotations

import ctypes
import os
import random
import socket
import threading

__all__ = ["Cutter"]


class Cutter(threading.Thread):
    """
    Cuts one of this process's connections to a port every now and then.

    Half of them are shut down, so that both ends see the end of the stream; the other half are
    reset, so that both ends see an error and bytes on their way are lost. The login is bound to
    the gateway's address, so a proxy could not stand between; this is the same for both ends.

    Args:
        port: The gateway's port.
        rate: Cuts a second.
        seed: Of the moments and the choice.
    """

    def __init__(self, port: int, *, rate: float, seed: str) -> None:
        super().__init__(name="soak-cutter", daemon=True)
        self.cuts = 0
        """Connections that were cut so far."""
        self.active = threading.Event()
        """Set while it may cut."""
        self._port = port
        self._rate = rate
        self._dice = random.Random(seed)
        self._ended = threading.Event()

    def run(self) -> None:
        """Cut until `stop`."""
        while not self._ended.wait(self._dice.expovariate(self._rate)):
            if self.active.is_set():
                self.cuts += self._cut_one()

    def stop(self) -> None:
        """End the thread soon."""
        self._ended.set()

    def _cut_one(self) -> bool:
        descriptors = os.listdir("/proc/self/fd")
        self._dice.shuffle(descriptors)
        return any(self._cut(int(number)) for number in descriptors)

    def _cut(self, number: int) -> bool:
        """Cut the connection behind a descriptor, if it is one to the port."""
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                return False
            # A descriptor of our own: the program may close its own at any moment.
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.family != socket.AF_INET or connection.getpeername()[1] != self._port:
                    return False
                if self._dice.random() < 0.5:
                    connection.shutdown(socket.SHUT_RDWR)
                else:
                    _reset(connection)
                return True
        except OSError:
            return False


_libc = ctypes.CDLL(None, use_errno=True)
_UNSPECIFIED = b"\0" * 16


def _reset(connection: socket.socket) -> None:
    """Drop a connection at once: `connect` to no address sends the peer a reset."""
    if _libc.connect(connection.fileno(), _UNSPECIFIED, len(_UNSPECIFIED)):
        raise OSError(ctypes.get_errno(), "connect")
